package trust

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"time"
)

// An endorsement key (EK) is made with the TPM, and its maker certifies it: TCG
// EK Credential Profile for TPM Family 2.0, version 2.4.
const (
	// maxEKChain bounds a chain: the key's certificate and eight of its maker's.
	// Makers have one to three.
	maxEKChain = 9

	// maxEKCertificate bounds a certificate in the chain, in bytes of DER.
	maxEKCertificate = 8 << 10
)

// maxEKRoots bounds a file of CAs, of which all makers together have some dozens.
const maxEKRoots = 256

// ParseEKRootsPEM reads CAs of TPM makers from PEM: one to 256 blocks
// "CERTIFICATE", with text between them or not. Which to trust is for whoever
// wrote the file to know.
func ParseEKRootsPEM(data []byte) ([]*x509.Certificate, error) {
	var roots []*x509.Certificate
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != certificateBlock || len(roots) == maxEKRoots {
			return nil, errors.New("reading CAs of TPM makers: want PEM blocks CERTIFICATE, one to 256, and no other")
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("reading CAs of TPM makers: %w", err)
		}
		if !cert.IsCA {
			return nil, fmt.Errorf("reading CAs of TPM makers: %q is no CA", cert.Subject)
		}
		roots = append(roots, cert)
	}
	if len(roots) == 0 {
		return nil, errors.New("reading CAs of TPM makers: there is no PEM block CERTIFICATE")
	}
	return roots, nil
}

func oidSubjectAltName() asn1.ObjectIdentifier { return asn1.ObjectIdentifier{2, 5, 29, 17} }     // RFC 5280, section 4.2.1.6
func oidTPM() asn1.ObjectIdentifier            { return asn1.ObjectIdentifier{2, 23, 133, 2} }    // below it: 1 manufacturer, 2 model, 3 version
func oidEKCertificate() asn1.ObjectIdentifier  { return asn1.ObjectIdentifier{2, 23, 133, 8, 1} } // tcg-kp-EKCertificate, profile section 3.2.16

// oidOAEP is what some makers write as the algorithm of an RSA endorsement key:
// RFC 4055, section 4.1.
func oidOAEP() asn1.ObjectIdentifier { return asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 7} }

// CheckEK checks that the endorsement key has a certificate, valid at now, that
// leads to one of roots, CAs of TPM makers, and returns that root. Any of them may
// be an intermediate, as few TPMs have those to show.
//
// This proves that EK is in a TPM by that maker, and no more: certificates of
// endorsement keys are no secret, so an attestation may carry that of any TPM.
// That AK is in the same one is proved by credential activation only.
func (a *Attestation) CheckEK(roots []*x509.Certificate, now time.Time) (*x509.Certificate, error) {
	leaf, err := a.endorsementKey()
	if err == nil && leaf == nil {
		err = errors.New("it has no certificate")
	}
	if err == nil {
		err = checkEKUse(leaf)
	}
	var root *x509.Certificate
	if err == nil {
		root, err = a.ekRoot(leaf, roots, now)
	}
	if err != nil {
		return nil, fmt.Errorf("checking the endorsement key: %w", err)
	}
	return root, nil
}

// endorsementKey checks that EK is one, if there is one, and returns its
// certificate, if it has one. Who signed that is not checked.
func (a *Attestation) endorsementKey() (*x509.Certificate, error) {
	switch {
	case len(a.EK) == 0 && len(a.EKChain) == 0:
		return nil, nil
	case len(a.EK) == 0:
		return nil, errors.New("there is a certificate, and no key")
	}
	p, err := parsePublic(a.EK)
	if err == nil {
		err = p.checkEK()
	}
	if err != nil || len(a.EKChain) == 0 {
		return nil, err
	}
	leaf, err := parseEK(a.EKChain[0])
	if err != nil {
		return nil, err
	}
	key, err := ekKey(leaf)
	switch {
	case err != nil:
		return nil, err
	case !sameKey(p.key, key):
		return nil, errors.New("its certificate is of another key")
	}
	return leaf, nil
}

// checkEK refuses what is not a storage key that is stuck in its TPM. RSA has at
// least 2048 bits, and curves are P-256 or P-384: parsePublic reads no other.
func (p *public) checkEK() error {
	const must = stuck | restricted | decrypt
	if p.attributes&(must|sign|encryptedDup) != must || p.aes == 0 || p.scheme.algorithm != algNull {
		return errors.New("it is no storage key that cannot leave its TPM")
	}
	return nil
}

func sameKey(a, b crypto.PublicKey) bool {
	switch a := a.(type) {
	case *ecdsa.PublicKey:
		return a.Equal(b)
	case *rsa.PublicKey:
		return a.Equal(b)
	}
	return false
}

// ekKey returns the key of an EK certificate.
func ekKey(cert *x509.Certificate) (crypto.PublicKey, error) {
	if cert.PublicKey != nil {
		return cert.PublicKey, nil
	}
	var info struct { // RFC 5280, section 4.1
		Algorithm pkix.AlgorithmIdentifier
		Key       asn1.BitString
	}
	rest, err := asn1.Unmarshal(cert.RawSubjectPublicKeyInfo, &info)
	if err != nil || len(rest) > 0 || !info.Algorithm.Algorithm.Equal(oidOAEP()) {
		return nil, errors.New("its certificate is of a key that is neither RSA nor ECDSA")
	}
	key, err := x509.ParsePKCS1PublicKey(info.Key.RightAlign())
	if err != nil {
		return nil, fmt.Errorf("reading the key of its certificate: %w", err)
	}
	return key, nil
}

// parseEK parses a certificate in an EK chain. An EK's names its TPM in a
// critical subject alternative name (profile section 3.2.9), a directory name
// that crypto/x509 does not understand: it is read here.
func parseEK(der []byte) (*x509.Certificate, error) {
	if len(der) > maxEKCertificate {
		return nil, fmt.Errorf("its certificate has %d bytes, more than %d", len(der), maxEKCertificate)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("reading its certificate: %w", err)
	}
	for _, e := range cert.Extensions {
		if !e.Id.Equal(oidSubjectAltName()) || !slices.ContainsFunc(cert.UnhandledCriticalExtensions, e.Id.Equal) {
			continue
		}
		if err := checkTPMName(e.Value); err != nil {
			return nil, fmt.Errorf("reading the name of the TPM in its certificate: %w", err)
		}
		cert.UnhandledCriticalExtensions = slices.DeleteFunc(cert.UnhandledCriticalExtensions, e.Id.Equal)
	}
	return cert, nil
}

// checkTPMName reads GeneralNames (RFC 5280, section 4.2.1.6) of one
// directoryName, all of whose attributes are those of a TPM.
func checkTPMName(value []byte) error {
	var names []asn1.RawValue
	rest, err := asn1.Unmarshal(value, &names)
	if err != nil || len(rest) > 0 || len(names) != 1 {
		return errors.New("not one name")
	}
	if n := names[0]; n.Class != asn1.ClassContextSpecific || n.Tag != 4 || !n.IsCompound {
		return errors.New("not a directory name")
	}
	var name pkix.RDNSequence
	if rest, err = asn1.Unmarshal(names[0].Bytes, &name); err != nil || len(rest) > 0 || len(name) == 0 {
		return errors.New("not a directory name that can be read")
	}
	for _, set := range name {
		for _, attribute := range set {
			if id := attribute.Type; len(id) != len(oidTPM())+1 || !id[:len(oidTPM())].Equal(oidTPM()) {
				return fmt.Errorf("it has the attribute %v, which is not of a TPM", id)
			}
		}
	}
	return nil
}

// checkEKUse refuses the certificate of a CA, and one for another purpose.
func checkEKUse(cert *x509.Certificate) error {
	purposes := len(cert.ExtKeyUsage) + len(cert.UnknownExtKeyUsage)
	switch {
	case cert.IsCA:
		return errors.New("its certificate is of a CA")
	case cert.KeyUsage&(x509.KeyUsageCertSign|x509.KeyUsageCRLSign|x509.KeyUsageDigitalSignature) != 0:
		return errors.New("its certificate is of a key that signs")
	case purposes > 0 && !slices.ContainsFunc(cert.UnknownExtKeyUsage, oidEKCertificate().Equal):
		return errors.New("its certificate has an extended key usage, and not tcg-kp-EKCertificate")
	}
	return nil
}

// ekRoot returns which of roots the chain leads to.
func (a *Attestation) ekRoot(leaf *x509.Certificate, roots []*x509.Certificate, now time.Time) (*x509.Certificate, error) {
	if len(a.EKChain) > maxEKChain {
		return nil, fmt.Errorf("its chain has %d certificates, more than %d", len(a.EKChain), maxEKChain)
	}
	options := x509.VerifyOptions{
		Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), CurrentTime: now,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}, // checkEKUse saw to it
	}
	for _, root := range roots {
		options.Roots.AddCert(root)
	}
	for _, der := range a.EKChain[1:] {
		cert, err := parseEK(der)
		if err != nil {
			return nil, err
		}
		options.Intermediates.AddCert(cert)
	}
	chains, err := leaf.Verify(options)
	if err != nil {
		return nil, fmt.Errorf("its certificate, by %q: %w", leaf.Issuer, err)
	}
	chain := chains[0] // never empty without an error
	return chain[len(chain)-1], nil
}
