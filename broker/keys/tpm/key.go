package tpm

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ecdsa"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
)

// A key is one that a TPM made, as it is kept outside of it.
type key struct {
	public  tpm2.TPMTPublic
	private []byte // TPM2B_PRIVATE without its size: encrypted by the TPM; nil for a primary key
	name    tpm2.TPM2BName
}

// parseKey reads a TPMT_PUBLIC, and refuses one that differs from its template
// in anything but the key itself.
func parseKey(public []byte, template tpm2.TPMTPublic) (*key, error) {
	p, err := tpm2.Unmarshal[tpm2.TPMTPublic](public)
	if err != nil {
		return nil, fmt.Errorf("reading the public part of a key: %w", err)
	}
	template.Unique = p.Unique
	if p.Type != template.Type || !bytes.Equal(tpm2.Marshal(template), public) {
		return nil, errors.New("the key has other attributes than it was to be made with")
	}
	name, err := tpm2.ObjectName(p)
	if err != nil {
		return nil, fmt.Errorf("naming a key: %w", err)
	}
	return &key{public: *p, name: *name}, nil
}

// ecdsa returns the public key, which is on P-256.
func (k *key) ecdsa() (*ecdsa.PublicKey, error) {
	pub, err := tpm2.Pub(k.public)
	if err != nil {
		return nil, fmt.Errorf("reading a public key: %w", err)
	}
	onCurve, ok := pub.(*ecdsa.PublicKey)
	if !ok {
		return nil, errors.New("reading a public key: not one on a curve")
	}
	if _, err := onCurve.ECDH(); err != nil { // checks the point
		return nil, fmt.Errorf("reading a public key: %w", err)
	}
	return onCurve, nil
}

func (k *key) ecdh() (*ecdh.PublicKey, error) {
	pub, err := k.ecdsa()
	if err != nil {
		return nil, err
	}
	return pub.ECDH()
}

// storageTemplate is that of the storage root key: TCG TPM v2.0 Provisioning
// Guidance, section 7.5.1, on P-256.
func storageTemplate() tpm2.TPMTPublic { return tpm2.ECCSRKTemplate }

// signTemplate is that of the root key. It signs any digest with ECDSA P-256
// and SHA-256, and nothing else.
func signTemplate(policy []byte) tpm2.TPMTPublic {
	t := template(tpm2.TPMTECCScheme{Scheme: tpm2.TPMAlgECDSA, Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: tpm2.TPMAlgSHA256})}, policy)
	t.ObjectAttributes.SignEncrypt = true
	return t
}

// agreeTemplate is that of the agreement key: ECDH on P-256, and nothing else.
func agreeTemplate(policy []byte) tpm2.TPMTPublic {
	t := template(tpm2.TPMTECCScheme{Scheme: tpm2.TPMAlgECDH, Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDH, &tpm2.TPMSKeySchemeECDH{HashAlg: tpm2.TPMAlgSHA256})}, policy)
	t.ObjectAttributes.Decrypt = true
	return t
}

// attestTemplate is that of the attestation key. It is restricted: it signs only
// what the TPM itself says. Its use needs no PCR, so that a root can prove where
// it lives even when its keys cannot be used.
func attestTemplate() tpm2.TPMTPublic {
	t := signTemplate(nil)
	t.ObjectAttributes.Restricted = true
	return t
}

// template is what our keys have in common: made in the TPM, and never to leave
// it. They are protected from guessing of their auth value (no noDA), since it
// may be one that people chose.
func template(scheme tpm2.TPMTECCScheme, policy []byte) tpm2.TPMTPublic {
	return tpm2.TPMTPublic{
		Type:    tpm2.TPMAlgECC,
		NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{
			FixedTPM:            true,
			FixedParent:         true,
			SensitiveDataOrigin: true,
			UserWithAuth:        len(policy) == 0, // else the auth value alone does not do
		},
		AuthPolicy: tpm2.TPM2BDigest{Buffer: policy},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{Scheme: scheme, CurveID: tpm2.TPMECCNistP256}),
		Unique:     tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{}),
	}
}

// create makes a key under the storage root key.
func (c *chip) create(template tpm2.TPMTPublic) (*key, error) {
	rsp, err := tpm2.Create{
		ParentHandle: c.storage.with(c.session(nil, encryptBoth())), // its auth value is empty, and it has ours to hide
		InSensitive:  tpm2.TPM2BSensitiveCreate{Sensitive: &tpm2.TPMSSensitiveCreate{UserAuth: tpm2.TPM2BAuth{Buffer: c.auth.reveal()}}},
		InPublic:     tpm2.New2B(template),
	}.Execute(c.wire)
	if err != nil {
		return nil, fmt.Errorf("making a key: %w", err)
	}
	k, err := parseKey(rsp.OutPublic.Bytes(), template)
	if err != nil {
		return nil, err
	}
	k.private = rsp.OutPrivate.Buffer
	return k, nil
}
