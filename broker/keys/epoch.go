package keys

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"time"
)

const epochName = "brevet epoch"

// An epoch is a key of this process, and the time in which it signs.
type epoch struct {
	key         *ecdsa.PrivateKey
	cert        *certificate
	from, until time.Time
}

// A certificate is that of an epoch, of this broker or another, after every
// check of [authority.accept].
type certificate struct {
	kid   string // RFC 7638 thumbprint of the key
	chain []string
	jwk   []byte // with both of them
	pub   *ecdsa.PublicKey
	x509  *x509.Certificate
}

// valid reports whether the certificate holds at the time now.
func (c *certificate) valid(now time.Time) bool {
	return !now.Before(c.x509.NotBefore) && !now.After(c.x509.NotAfter)
}

// An authority decides which certificates are epochs': those that root signed
// for the broker at url.
type authority struct {
	root *x509.Certificate
	url  string
}

// issue makes an epoch that signs from then on. now is when its certificate
// begins, less the skew.
func (a authority) issue(root Root, now, from time.Time) (*epoch, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making an epoch key: %w", err)
	}
	uri, err := url.Parse(a.url)
	if err != nil {
		return nil, fmt.Errorf("parsing the broker's url: %w", err)
	}
	until := from.Add(Signs)
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: epochName},
		URIs:                  []*url.URL{uri},
		NotBefore:             now.Add(-skew),
		NotAfter:              until.Add(Verifiable + skew),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		BasicConstraintsValid: true,
		SignatureAlgorithm:    x509.ECDSAWithSHA256,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.root, key.Public(), root.Signer())
	if err != nil {
		return nil, fmt.Errorf("certifying an epoch key by the %s root: %w", root.Kind(), err)
	}
	cert, err := a.accept(der, now) // as every other broker will
	if err != nil {
		return nil, err
	}
	return &epoch{key, cert, from, until}, nil
}

// accept parses a certificate that anyone may have written and returns it if it
// is an epoch's at the time now: the profile in the package comment, exactly.
func (a authority) accept(der []byte, now time.Time) (*certificate, error) {
	cert, err := parseP256(der)
	if err != nil {
		return nil, fmt.Errorf("reading an epoch certificate: %w", err)
	}
	if err := a.checkProfile(cert); err != nil {
		return nil, fmt.Errorf("checking an epoch certificate: %w", err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(a.root)
	_, err = cert.Verify(x509.VerifyOptions{
		Roots: pool, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	if err != nil {
		return nil, fmt.Errorf("checking an epoch certificate against the root: %w", err)
	}
	return a.certificate(cert)
}

func (a authority) checkProfile(cert *x509.Certificate) error {
	switch {
	case cert.Subject.CommonName != epochName:
		return errors.New("its subject is another")
	case !cert.BasicConstraintsValid, cert.IsCA, cert.KeyUsage != x509.KeyUsageDigitalSignature:
		return errors.New("it may do other things than sign")
	case len(cert.ExtKeyUsage)+len(cert.UnknownExtKeyUsage) > 0:
		return errors.New("it has an extended key usage")
	case len(cert.DNSNames)+len(cert.EmailAddresses)+len(cert.IPAddresses) > 0:
		return errors.New("it has other names than a url")
	case len(cert.URIs) != 1, cert.URIs[0].String() != a.url:
		return errors.New("it is of a broker with another url")
	case cert.NotAfter.Sub(cert.NotBefore) > certified:
		return errors.New("it is valid for too long")
	case cert.NotAfter.After(a.root.NotAfter):
		return errors.New("the root's certificate ends before it")
	}
	return nil
}

func (a authority) certificate(cert *x509.Certificate) (*certificate, error) {
	pub, ok := cert.PublicKey.(*ecdsa.PublicKey)
	if !ok {
		return nil, errors.New("not an ECDSA key")
	}
	point, err := pub.Bytes() // 0x04, x, y: 32 bytes each
	if err != nil {
		return nil, fmt.Errorf("encoding an epoch key: %w", err)
	}
	chain := []string{ // RFC 7517, section 4.7: base64 with padding, unlike all else
		base64.StdEncoding.EncodeToString(cert.Raw),
		base64.StdEncoding.EncodeToString(a.root.Raw),
	}
	k := newJWK(point[1:33], point[33:], chain)
	encoded, err := json.Marshal(k)
	if err != nil {
		return nil, fmt.Errorf("encoding an epoch key: %w", err)
	}
	return &certificate{k.KeyID, chain, encoded, pub, cert}, nil
}
