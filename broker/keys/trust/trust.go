// Package trust is what anybody who holds a root certificate can check, offline
// and without a broker: that a key was certified by the root, and that the root
// cannot leave its chip. Brokers use it to make and to believe certificates, and
// "brevet verify-trust" to check a broker from outside, so it imports the
// standard library only.
//
//	root          ECDSA P-256, in a TPM or HSM
//	 ├─ epoch         signs tokens, in the memory of a broker, for hours
//	 ├─ agreement     P-256 ECDH, in the same TPM or HSM: opens the KEK ring
//	 └─ endorsement   of another broker's root: one fleet, many chips
//
// # Certificates
//
// All are X.509, ECDSA P-256 with SHA-256, without an extended key usage (which
// could make one a TLS certificate). One that differs from its profile in anything
// named here is refused, even when the root signed it.
//
// Root: self-signed; subject CN "brevet root"; CA with path length 1, so that an
// old and a new root can endorse each other; key usage keyCertSign; no names;
// ten years.
//
// Epoch: signed by a root itself; subject CN "brevet epoch"; no CA; key usage
// digitalSignature; the broker's URL as its only subject alternative name; valid
// from five minutes before it is made until its last signature may be verified.
//
// Agreement: signed by a root itself; subject CN "brevet agreement"; no CA; key
// usage keyAgreement; no names; valid as long as the root.
//
// Endorsement: the key of another root, signed by this one; subject CN "brevet
// root"; CA with path length 0; key usage keyCertSign; no names; valid as long as
// the shorter-lived of both.
//
// # Bundles
//
// A [Bundle] has all of them for a fleet, and an [Attestation] for each root in a
// TPM. [Bundle.Verify] starts from roots whose fingerprints are known from
// elsewhere. docs/trust.md has the format for readers in other languages, and what
// is proved by what.
package trust

import (
	"bytes"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"
)

const (
	rootName      = "brevet root"
	agreementName = "brevet agreement"
	epochName     = "brevet epoch"

	certificateBlock = "CERTIFICATE"

	// rootLife is long because a root that never leaves its chip is replaced
	// with the machine, not by the calendar.
	rootLife = 10 // years

	// Skew is how far the clocks of brokers and verifiers may differ.
	Skew = 5 * time.Minute

	// MaxEpoch is the longest that the certificate of an epoch is valid: two
	// epochs of six hours, since the one after next is made one ahead, the twelve
	// for which the longest-lived token is verified after it, and the skew at
	// both ends. Package keys has the picture.
	MaxEpoch = 24*time.Hour + 2*Skew

	// MaxCertificate bounds what is parsed, in bytes of DER. An epoch's takes
	// about 450, with a URL of 2 000 characters well under this.
	MaxCertificate = 4 << 10
)

// Fingerprint returns how people name a root: "sha256:" and the SHA-256 of its
// certificate in hexadecimal.
func Fingerprint(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.Raw)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// IsFingerprint reports whether s has the form that [Fingerprint] writes.
func IsFingerprint(s string) bool {
	digits, ok := strings.CutPrefix(s, "sha256:")
	return ok && len(digits) == hex.EncodedLen(sha256.Size) && strings.Trim(digits, "0123456789abcdef") == ""
}

// NewRoot makes the self-signed certificate of a root key, which must be ECDSA
// P-256.
func NewRoot(s crypto.Signer, now time.Time) (*x509.Certificate, error) {
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: rootName},
		NotBefore:             now.Add(-Skew),
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
	return ParseRoot(der)
}

// ParseRoot reads a root certificate (DER) and checks its profile. Whether it
// is the right root is the caller's to know.
func ParseRoot(der []byte) (*x509.Certificate, error) {
	cert, err := parse(der)
	if err == nil {
		err = checkRoot(cert)
	}
	if err != nil {
		return nil, fmt.Errorf("reading a root certificate: %w", err)
	}
	return cert, nil
}

// maxRoots bounds a file of roots; a fleet has a handful of brokers.
const maxRoots = 64

// ParseRootsPEM reads root certificates from PEM: one to 64 blocks
// "CERTIFICATE", and nothing else.
func ParseRootsPEM(data []byte) ([]*x509.Certificate, error) {
	var roots []*x509.Certificate
	for len(roots) < maxRoots {
		block, rest := pem.Decode(data)
		if block == nil || block.Type != certificateBlock {
			break
		}
		root, err := ParseRoot(block.Bytes)
		if err != nil {
			return nil, err
		}
		roots, data = append(roots, root), rest
	}
	if len(roots) == 0 || len(bytes.TrimSpace(data)) > 0 {
		return nil, errors.New("reading root certificates: want PEM blocks CERTIFICATE, one to 64, and nothing else")
	}
	return roots, nil
}

func checkRoot(cert *x509.Certificate) error {
	switch {
	case cert.Subject.CommonName != rootName:
		return errors.New("its subject is another")
	case !cert.BasicConstraintsValid, !cert.IsCA, cert.MaxPathLen != 1:
		return errors.New("not a CA with path length 1")
	case cert.KeyUsage != x509.KeyUsageCertSign, extended(cert):
		return errors.New("it may do other things than certify")
	case named(cert):
		return errors.New("it has names")
	}
	return cert.CheckSignatureFrom(cert)
}

// extended reports whether cert has an extended key usage.
func extended(cert *x509.Certificate) bool {
	return len(cert.ExtKeyUsage)+len(cert.UnknownExtKeyUsage) > 0
}

// named reports whether cert has a subject alternative name.
func named(cert *x509.Certificate) bool {
	return len(cert.DNSNames)+len(cert.EmailAddresses)+len(cert.IPAddresses)+len(cert.URIs) > 0
}

// NewEpoch certifies an epoch key of the broker at a URL until notAfter.
func NewEpoch(root *x509.Certificate, s crypto.Signer, pub *ecdsa.PublicKey, at *url.URL, now, notAfter time.Time) (*x509.Certificate, error) {
	return certify(root, s, pub, &x509.Certificate{
		Subject:               pkix.Name{CommonName: epochName},
		URIs:                  []*url.URL{at},
		NotBefore:             now.Add(-Skew),
		NotAfter:              notAfter,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		BasicConstraintsValid: true,
	})
}

// ParseEpoch reads the certificate of an epoch of the broker at url, valid at
// now and for at most most, and returns it with the root that signed it: one of
// roots.
func ParseEpoch(der []byte, roots []*x509.Certificate, url string, now time.Time, most time.Duration) (cert, root *x509.Certificate, err error) {
	cert, err = parse(der)
	if err == nil {
		err = checkEpoch(cert, url, most)
	}
	if err == nil {
		root, err = signedBy(cert, roots, now)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("reading an epoch certificate: %w", err)
	}
	return cert, root, nil
}

func checkEpoch(cert *x509.Certificate, url string, most time.Duration) error {
	switch {
	case cert.Subject.CommonName != epochName:
		return errors.New("its subject is another")
	case !cert.BasicConstraintsValid, cert.IsCA, cert.KeyUsage != x509.KeyUsageDigitalSignature:
		return errors.New("it may do other things than sign")
	case extended(cert):
		return errors.New("it has an extended key usage")
	case len(cert.DNSNames)+len(cert.EmailAddresses)+len(cert.IPAddresses) > 0:
		return errors.New("it has other names than a url")
	case len(cert.URIs) != 1, cert.URIs[0].String() != url:
		return errors.New("it is of a broker with another url")
	case cert.NotAfter.Sub(cert.NotBefore) > most:
		return errors.New("it is valid for too long")
	}
	return nil
}

// NewAgreement certifies the key agreement key that lives beside the root key.
func NewAgreement(root *x509.Certificate, s crypto.Signer, pub *ecdh.PublicKey) (*x509.Certificate, error) {
	return certify(root, s, pub, &x509.Certificate{
		Subject:               pkix.Name{CommonName: agreementName},
		NotBefore:             root.NotBefore,
		NotAfter:              root.NotAfter,
		KeyUsage:              x509.KeyUsageKeyAgreement,
		BasicConstraintsValid: true,
	})
}

// ParseAgreement reads the certificate of the key agreement key of root, and
// returns it with the key.
func ParseAgreement(der []byte, root *x509.Certificate, now time.Time) (*x509.Certificate, *ecdh.PublicKey, error) {
	cert, pub, err := parseAgreement(der, root, now)
	if err != nil {
		return nil, nil, fmt.Errorf("reading an agreement certificate: %w", err)
	}
	return cert, pub, nil
}

func parseAgreement(der []byte, root *x509.Certificate, now time.Time) (*x509.Certificate, *ecdh.PublicKey, error) {
	cert, err := parse(der)
	if err != nil {
		return nil, nil, err
	}
	switch {
	case cert.Subject.CommonName != agreementName:
		return nil, nil, errors.New("its subject is another")
	case !cert.BasicConstraintsValid, cert.IsCA, cert.KeyUsage != x509.KeyUsageKeyAgreement, extended(cert):
		return nil, nil, errors.New("it may do other things than agree on keys")
	case named(cert):
		return nil, nil, errors.New("it has names")
	}
	if _, err := signedBy(cert, []*x509.Certificate{root}, now); err != nil {
		return nil, nil, err
	}
	pub, err := cert.PublicKey.(*ecdsa.PublicKey).ECDH() // parse saw to the type
	return cert, pub, err
}

// NewEndorsement certifies the key of another root: whoever trusts by trusts of,
// too.
func NewEndorsement(by *x509.Certificate, s crypto.Signer, of *x509.Certificate, now time.Time) (*x509.Certificate, error) {
	notAfter := by.NotAfter
	if of.NotAfter.Before(notAfter) {
		notAfter = of.NotAfter
	}
	return certify(by, s, of.PublicKey, &x509.Certificate{
		Subject:               pkix.Name{CommonName: rootName},
		NotBefore:             now.Add(-Skew),
		NotAfter:              notAfter,
		KeyUsage:              x509.KeyUsageCertSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	})
}

// ParseEndorsement reads an endorsement of the root of by one of roots, and
// returns it with the one that gave it.
func ParseEndorsement(der []byte, of *x509.Certificate, roots []*x509.Certificate, now time.Time) (cert, by *x509.Certificate, err error) {
	cert, err = parse(der)
	if err == nil {
		err = checkEndorsement(cert, of)
	}
	if err == nil {
		by, err = signedBy(cert, roots, now)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("reading an endorsement: %w", err)
	}
	return cert, by, nil
}

func checkEndorsement(cert, of *x509.Certificate) error {
	switch {
	case cert.Subject.CommonName != rootName:
		return errors.New("its subject is another")
	case !cert.BasicConstraintsValid, !cert.IsCA, cert.MaxPathLen != 0, !cert.MaxPathLenZero:
		return errors.New("not a CA with path length 0")
	case cert.KeyUsage != x509.KeyUsageCertSign, extended(cert):
		return errors.New("it may do other things than certify")
	case named(cert):
		return errors.New("it has names")
	case !cert.PublicKey.(*ecdsa.PublicKey).Equal(of.PublicKey):
		return errors.New("it is of another root's key")
	}
	return nil
}

func certify(root *x509.Certificate, s crypto.Signer, pub any, template *x509.Certificate) (*x509.Certificate, error) {
	template.SignatureAlgorithm = x509.ECDSAWithSHA256
	der, err := x509.CreateCertificate(rand.Reader, template, root, pub, s)
	if err != nil {
		return nil, fmt.Errorf("signing the certificate of %s: %w", template.Subject.CommonName, err)
	}
	return parse(der)
}

// signedBy returns which of roots signed cert, if both are valid at now.
func signedBy(cert *x509.Certificate, roots []*x509.Certificate, now time.Time) (*x509.Certificate, error) {
	for _, root := range roots {
		// Both key identifiers (RFC 5280, section 4.2.1.1) prove nothing, and save
		// trying what somebody forged with every root.
		if len(cert.AuthorityKeyId) > 0 && len(root.SubjectKeyId) > 0 && !bytes.Equal(cert.AuthorityKeyId, root.SubjectKeyId) {
			continue
		}
		if cert.CheckSignatureFrom(root) != nil {
			continue
		}
		switch {
		case now.Before(cert.NotBefore), now.After(cert.NotAfter):
			return nil, errors.New("it is not valid at this time")
		case now.Before(root.NotBefore), now.After(root.NotAfter), cert.NotAfter.After(root.NotAfter):
			return nil, errors.New("the root's certificate ends before it")
		}
		return root, nil
	}
	return nil, errors.New("none of the roots that are trusted signed it")
}

// parse parses a certificate and refuses one whose key or signature is not
// ECDSA P-256, or that has something critical that is not understood.
func parse(der []byte) (*x509.Certificate, error) {
	if len(der) > MaxCertificate {
		return nil, fmt.Errorf("%d bytes, more than %d", len(der), MaxCertificate)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	pub, ok := cert.PublicKey.(*ecdsa.PublicKey)
	if !ok || pub.Curve != elliptic.P256() || cert.SignatureAlgorithm != x509.ECDSAWithSHA256 {
		return nil, errors.New("not ECDSA P-256 with SHA-256")
	}
	if len(cert.UnhandledCriticalExtensions) > 0 {
		return nil, errors.New("it has a critical extension that is not understood")
	}
	return cert, nil
}
