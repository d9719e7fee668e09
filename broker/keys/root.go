package keys

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"time"
)

// A Root certifies epoch keys. [Software] is one for development; TPMs and
// HSMs are others.
type Root interface {
	// Kind says what keeps the key: "software", "tpm", "pkcs11". It is shown
	// wherever the root is shown.
	Kind() string

	// Certificate returns the root's own, of the profile that
	// [NewRootCertificate] makes. It is the same at every call.
	Certificate() *x509.Certificate

	// Signer signs with the key of Certificate. Sign must return, with an error
	// if need be, within seconds.
	Signer() crypto.Signer

	// Check reports whether Signer could sign now.
	Check(ctx context.Context) error
}

const (
	rootName = "brevet root"

	// rootLife is long because a root that never leaves its chip is replaced
	// with the machine, not by the calendar.
	rootLife = 10 // years

	// maxCertificate bounds what is parsed, in bytes of DER. An epoch's takes
	// about 450, with a URL of 2 000 characters well under this.
	maxCertificate = 4 << 10
)

// NewRootCertificate makes the self-signed certificate of a root key, which
// must be ECDSA P-256. The profile is in the package comment.
func NewRootCertificate(s crypto.Signer, now time.Time) (*x509.Certificate, error) {
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: rootName},
		NotBefore:             now.Add(-skew),
		NotAfter:              now.AddDate(rootLife, 0, 0),
		KeyUsage:              x509.KeyUsageCertSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLen:            1,
		SignatureAlgorithm:    x509.ECDSAWithSHA256,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, s.Public(), s)
	if err != nil {
		return nil, fmt.Errorf("signing the root certificate: %w", err)
	}
	return parseRoot(der)
}

// ParseRoot reads a root certificate from PEM: one block "CERTIFICATE", and
// nothing else. The certificate must have the profile of
// [NewRootCertificate]. Whether it is the right root is the caller's to know.
func ParseRoot(data []byte) (*x509.Certificate, error) {
	block, rest := pem.Decode(data)
	if block == nil || block.Type != certificateBlock || len(bytes.TrimSpace(rest)) > 0 {
		return nil, errors.New("reading a root certificate: want one PEM block CERTIFICATE")
	}
	return parseRoot(block.Bytes)
}

func parseRoot(der []byte) (*x509.Certificate, error) {
	cert, err := parseP256(der)
	if err != nil {
		return nil, fmt.Errorf("reading the root certificate: %w", err)
	}
	switch {
	case cert.Subject.CommonName != rootName:
		err = errors.New("its subject is another")
	case !cert.BasicConstraintsValid, !cert.IsCA, cert.MaxPathLen != 1:
		err = errors.New("not a CA with path length 1")
	case cert.KeyUsage != x509.KeyUsageCertSign, len(cert.UnhandledCriticalExtensions) > 0:
		err = errors.New("it may do other things than certify")
	default:
		err = cert.CheckSignatureFrom(cert)
	}
	if err != nil {
		return nil, fmt.Errorf("checking the root certificate: %w", err)
	}
	return cert, nil
}

// parseP256 parses a certificate and refuses one whose key or signature is not
// ECDSA P-256.
func parseP256(der []byte) (*x509.Certificate, error) {
	if len(der) > maxCertificate {
		return nil, fmt.Errorf("%d bytes, more than %d", len(der), maxCertificate)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	pub, ok := cert.PublicKey.(*ecdsa.PublicKey)
	if !ok || pub.Curve != elliptic.P256() || cert.SignatureAlgorithm != x509.ECDSAWithSHA256 {
		return nil, errors.New("not ECDSA P-256 with SHA-256")
	}
	return cert, nil
}
