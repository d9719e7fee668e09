package keys

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// A Software root is a key in a file or in memory. Who can read the file, or
// the memory of the broker, is the root from then on: it is for development.
type Software struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

// NewSoftware makes a root in memory, which ends with the process.
func NewSoftware(now time.Time) (*Software, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making the root key: %w", err)
	}
	cert, err := NewRootCertificate(key, now)
	if err != nil {
		return nil, err
	}
	return &Software{key, cert}, nil
}

const (
	keyBlock         = "PRIVATE KEY" // RFC 5958, as RFC 7468, section 10 encodes it
	certificateBlock = "CERTIFICATE"

	// maxRootFile bounds what is read; a root file takes about 800 bytes.
	maxRootFile = 16 << 10
)

// CreateSoftware makes a root and writes it to a new file of mode 0600: key
// and certificate as PEM. An existing file is an error ([fs.ErrExist]): a root
// is never overwritten.
func CreateSoftware(path string, now time.Time) (*Software, error) {
	s, err := NewSoftware(now)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(s.key)
	if err != nil {
		return nil, fmt.Errorf("encoding the root key: %w", err)
	}
	var out bytes.Buffer
	out.Write(pem.EncodeToMemory(&pem.Block{Type: keyBlock, Bytes: der}))
	out.Write(pem.EncodeToMemory(&pem.Block{Type: certificateBlock, Bytes: s.cert.Raw}))
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
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close()) // the entry of the file, too
}

// OpenSoftware reads a root that [CreateSoftware] wrote. It refuses a file
// that anyone but its owner may read or write.
func OpenSoftware(path string) (*Software, error) {
	data, err := readPrivate(path)
	if err != nil {
		return nil, fmt.Errorf("reading the root key: %w", err)
	}
	s, err := parseSoftware(data)
	if err != nil {
		return nil, fmt.Errorf("reading the root key in %s: %w", path, err)
	}
	return s, nil
}

func readPrivate(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat() // of the open file, so that it cannot be exchanged in between
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a file", path)
	}
	if open := info.Mode().Perm() & (fs.ModePerm &^ 0o700); open != 0 {
		return nil, fmt.Errorf("%s may be used by others than its owner (mode %#o); run: chmod 600 %s", path, info.Mode().Perm(), path)
	}
	return io.ReadAll(io.LimitReader(f, maxRootFile))
}

func parseSoftware(data []byte) (*Software, error) {
	keyPEM, rest := pem.Decode(data)
	if keyPEM == nil || keyPEM.Type != keyBlock {
		return nil, errors.New("want a PEM block PRIVATE KEY first")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(keyPEM.Bytes)
	if err != nil {
		return nil, fmt.Errorf("parsing the key: %w", err)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok {
		return nil, errors.New("not an ECDSA key")
	}
	cert, err := ParseRoot(rest)
	if err != nil {
		return nil, err
	}
	if !key.PublicKey.Equal(cert.PublicKey) {
		return nil, errors.New("the certificate is of another key")
	}
	return &Software{key, cert}, nil
}

// Kind returns "software".
func (*Software) Kind() string { return "software" }

// Certificate returns the self-signed certificate.
func (s *Software) Certificate() *x509.Certificate { return s.cert }

// Signer returns the key.
func (s *Software) Signer() crypto.Signer { return s.key }

// Check returns nil: a key in memory can always sign.
func (*Software) Check(context.Context) error { return nil }
