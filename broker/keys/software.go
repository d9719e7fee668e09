package keys

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/brevet-dev/brevet/broker/keys/trust"
)

// A Software root is a key in a file or in memory. Who can read the file, or
// the memory of the broker, is the root from then on: it is for development.
type Software struct {
	key       *ecdsa.PrivateKey
	cert      *x509.Certificate
	exchange  *ecdh.PrivateKey
	agreement *x509.Certificate
}

// NewSoftware makes a root in memory, which ends with the process.
func NewSoftware(now time.Time) (*Software, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making the root key: %w", err)
	}
	exchange, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making the agreement key: %w", err)
	}
	cert, err := trust.NewRoot(key, now)
	if err != nil {
		return nil, err
	}
	agreement, err := trust.NewAgreement(cert, key, exchange.PublicKey())
	if err != nil {
		return nil, err
	}
	return &Software{key, cert, exchange, agreement}, nil
}

const (
	keyBlock         = "PRIVATE KEY" // RFC 5958, as RFC 7468, section 10 encodes it
	certificateBlock = "CERTIFICATE"

	// maxRootFile bounds what is read; a root file takes about 1 600 bytes.
	maxRootFile = 16 << 10
)

// CreateSoftware makes a root and writes it to a new file of mode 0600: the root
// key, its certificate, the agreement key, its certificate, as PEM. An existing file is an error ([fs.ErrExist]): a root
// is never overwritten.
func CreateSoftware(path string, now time.Time) (*Software, error) {
	s, err := NewSoftware(now)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	for _, pair := range []struct {
		key  any
		cert *x509.Certificate
	}{{s.key, s.cert}, {s.exchange, s.agreement}} {
		der, err := x509.MarshalPKCS8PrivateKey(pair.key)
		if err != nil {
			return nil, fmt.Errorf("encoding the root key: %w", err)
		}
		out.Write(pem.EncodeToMemory(&pem.Block{Type: keyBlock, Bytes: der}))
		out.Write(pem.EncodeToMemory(&pem.Block{Type: certificateBlock, Bytes: pair.cert.Raw}))
	}
	if err := create(path, out.Bytes()); err != nil {
		return nil, fmt.Errorf("writing the root key: %w", err)
	}
	return s, nil
}

// create writes a new file durably; one that it could not write wholly is
// removed again.
func create(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(err, os.Remove(path))
	}
	return SyncDir(filepath.Dir(path))
}

// OpenSoftware reads a root that [CreateSoftware] wrote. It refuses a file
// that anyone but its owner may read or write.
func OpenSoftware(path string) (*Software, error) {
	data, err := ReadPrivate(path, maxRootFile)
	if err != nil {
		return nil, fmt.Errorf("reading the root key: %w", err)
	}
	s, err := parseSoftware(data)
	if err != nil {
		return nil, fmt.Errorf("reading the root key in %s: %w", path, err)
	}
	return s, nil
}

func parseSoftware(data []byte) (*Software, error) {
	var blocks [4]*pem.Block
	for i, want := range [4]string{keyBlock, certificateBlock, keyBlock, certificateBlock} {
		if blocks[i], data = pem.Decode(data); blocks[i] == nil || blocks[i].Type != want {
			return nil, errors.New("want four PEM blocks: PRIVATE KEY and CERTIFICATE of the root, then of its agreement key")
		}
	}
	if len(bytes.TrimSpace(data)) > 0 {
		return nil, errors.New("there is something after the fourth PEM block")
	}
	s := &Software{}
	var err error
	if s.key, err = parsePrivate(blocks[0].Bytes); err != nil {
		return nil, err
	}
	if s.cert, err = trust.ParseRoot(blocks[1].Bytes); err != nil {
		return nil, err
	}
	exchange, err := parsePrivate(blocks[2].Bytes)
	if err != nil {
		return nil, err
	}
	if s.exchange, err = exchange.ECDH(); err != nil {
		return nil, fmt.Errorf("reading the agreement key: %w", err)
	}
	// Not now but when it began: whether the root has ended is for its users.
	var agreed *ecdh.PublicKey
	if s.agreement, agreed, err = trust.ParseAgreement(blocks[3].Bytes, s.cert, s.cert.NotBefore); err != nil {
		return nil, err
	}
	if !s.key.PublicKey.Equal(s.cert.PublicKey) || !s.exchange.PublicKey().Equal(agreed) {
		return nil, errors.New("a certificate is of another key")
	}
	return s, nil
}

func parsePrivate(der []byte) (*ecdsa.PrivateKey, error) {
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, fmt.Errorf("parsing the key: %w", err)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, errors.New("not a key on P-256")
	}
	return key, nil
}

// Kind returns "software".
func (*Software) Kind() string { return "software" }

// Certificate returns the self-signed certificate.
func (s *Software) Certificate() *x509.Certificate { return s.cert }

// Signer returns the key.
func (s *Software) Signer() crypto.Signer { return s.key }

// Agreement returns the certificate of the ECDH key.
func (s *Software) Agreement() *x509.Certificate { return s.agreement }

// KeyExchanger returns the ECDH key.
func (s *Software) KeyExchanger() ecdh.KeyExchanger { return s.exchange }

// Close does nothing.
func (*Software) Close() error { return nil }

// Check returns nil: a key in memory can always sign.
func (*Software) Check(context.Context) error { return nil }
