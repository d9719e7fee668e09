package trust

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
)

// An Attestation is what a TPM says about the keys of a root: that they were
// made in it and cannot leave it. All of it is public. The byte strings are TPM
// 2.0 structures as the TPM marshals them (TPM 2.0 Library, part 2).
type Attestation struct {
	Nonce     []byte    `json:"nonce,omitempty"`    // what the asker gave, for freshness; see Qualifier
	AK        []byte    `json:"ak"`                 // TPMT_PUBLIC of the attestation key: restricted, ECDSA P-256
	Root      Certified `json:"root"`               // the key of the root certificate
	Agreement Certified `json:"agreement"`          // the key of the agreement certificate
	EK        []byte    `json:"ek,omitempty"`       // TPMT_PUBLIC of the endorsement key
	EKChain   [][]byte  `json:"ek_chain,omitempty"` // its certificate, DER, then the TPM maker's intermediates, if the TPM has them
}

// A Certified is a key and the statement of the attestation key about it:
// TPM2_Certify (part 3, section 18.2).
type Certified struct {
	Public    []byte `json:"public"`    // TPMT_PUBLIC
	Attest    []byte `json:"attest"`    // TPMS_ATTEST of type TPM_ST_ATTEST_CERTIFY, its extraData the Qualifier
	Signature []byte `json:"signature"` // TPMT_SIGNATURE over it, ECDSA with SHA-256, by AK
}

// Qualifier is the qualifyingData that an attestation of root must carry: it
// belongs to this root certificate and answers this nonce, which may be empty.
func Qualifier(root *x509.Certificate, nonce []byte) []byte {
	h := sha256.New()
	h.Write([]byte("brevet attestation v1\n"))
	sum := sha256.Sum256(root.Raw)
	h.Write(sum[:])
	h.Write(nonce)
	return h.Sum(nil)
}

// MaxNonce bounds the nonce of an attestation, in bytes.
const MaxNonce = 64

// Check checks what the attestation says about the keys of a root certificate
// and an agreement certificate, in answer to a nonce, which may be empty.
//
// If AK is the key of a TPM, both keys were made in that TPM (attribute
// sensitiveDataOrigin), and their private halves cannot leave it (fixedTPM), nor
// be moved below another parent in it (fixedParent): a TPM certifies no key of
// which it has only the public half (TPM 2.0 Library, part 3, section 18.2), and
// loads no private half from outside with these attributes set (part 3,
// TPM2_LoadExternal and TPM2_Import). Whether AK is the key of a TPM, nothing in an
// attestation can say: software that makes a key of its own and calls it AK
// passes this check, and so does a key of a TPM that signs whatever it is given
// and only says that it is restricted. A broker that enrols another has proof, by
// credential activation ([Challenge]), which is bound to the Name of AK with all
// its attributes, and endorses it only then.
func (a *Attestation) Check(root, agreement *x509.Certificate, nonce []byte) error {
	if len(nonce) > MaxNonce || !bytes.Equal(a.Nonce, nonce) {
		return errors.New("checking an attestation: it answers another nonce")
	}
	ak, err := a.checkAK()
	if err != nil {
		return fmt.Errorf("checking the attestation key: %w", err)
	}
	extra := Qualifier(root, nonce)
	first, err := a.Root.check(ak, root, extra, rootKey())
	if err != nil {
		return fmt.Errorf("checking the attestation of the root key: %w", err)
	}
	second, err := a.Agreement.check(ak, agreement, extra, agreementKey())
	if err != nil {
		return fmt.Errorf("checking the attestation of the agreement key: %w", err)
	}
	if !bytes.Equal(first.signer, second.signer) {
		return errors.New("checking an attestation: its statements are signed by keys in two places")
	}
	if _, err := a.endorsementKey(); err != nil {
		return fmt.Errorf("checking the endorsement key: %w", err)
	}
	return nil
}

// HasPolicy reports whether the TPM uses both keys only after a policy was
// satisfied, as one about the PCRs, that is about what was booted: what a public
// area has of it is a digest. An attestation that [Attestation.Check] refuses
// has none.
func (a *Attestation) HasPolicy() bool {
	for _, c := range []Certified{a.Root, a.Agreement} {
		p, err := parsePublic(c.Public)
		if err != nil || !p.needsPolicy() {
			return false
		}
	}
	return true
}

// needsPolicy: an auth value opens a key with userWithAuth whatever its policy
// (TPM 2.0 Library, part 1, section 19.7).
func (p *public) needsPolicy() bool { return len(p.policy) > 0 && p.attributes&userWithAuth == 0 }

// stuck is what every key of a root must have: made in the TPM, never to leave
// it. With encryptedDuplication it would contradict itself.
const stuck = fixedTPM | fixedParent | sensitiveDataOrigin

// A use is what a key may do: attributes that it must have, besides those of
// stuck, and must not, and its schemes.
type use struct {
	must, mustNot uint32
	schemes       []uint16
}

func attestationKey() use { return use{restricted | sign, decrypt, []uint16{algECDSA}} }
func rootKey() use        { return use{sign, decrypt | restricted, []uint16{algECDSA, algNull}} }
func agreementKey() use   { return use{decrypt, sign | restricted, []uint16{algECDH, algNull}} }

// check refuses a key that is not stuck in its TPM, or of another use, type or
// name algorithm.
func (p *public) check(u use) error {
	key, ok := p.key.(*ecdsa.PublicKey)
	switch {
	case !ok || key.Curve != elliptic.P256():
		return errors.New("it is not on P-256")
	case p.nameAlg != algSHA256:
		return errors.New("its name algorithm is not SHA-256")
	case p.aes != 0:
		return errors.New("it is a storage key")
	case p.attributes&fixedTPM == 0:
		return errors.New("it may leave its TPM: fixedTPM is not set")
	case p.attributes&fixedParent == 0:
		return errors.New("it may be moved below another key: fixedParent is not set")
	case p.attributes&sensitiveDataOrigin == 0:
		return errors.New("it was not made by its TPM: sensitiveDataOrigin is not set")
	case p.attributes&encryptedDup != 0:
		return errors.New("it is one to be moved: encryptedDuplication is set")
	}
	return p.checkUse(u)
}

func (p *public) checkUse(u use) error {
	for _, a := range []struct {
		bit  uint32
		name string
	}{{restricted, "restricted"}, {sign, "sign"}, {decrypt, "decrypt"}} {
		switch set := p.attributes&a.bit != 0; {
		case u.must&a.bit != 0 && !set:
			return fmt.Errorf("it is not what it should be: %s is not set", a.name)
		case u.mustNot&a.bit != 0 && set:
			return fmt.Errorf("it may do other things than it should: %s is set", a.name)
		}
	}
	switch {
	case !slices.Contains(u.schemes, p.scheme.algorithm):
		return fmt.Errorf("it has the scheme %#x, which is of another use", p.scheme.algorithm)
	case p.scheme.algorithm != algNull && p.scheme.hash != algSHA256:
		return errors.New("the hash of its scheme is not SHA-256")
	}
	return nil
}

func (a *Attestation) checkAK() (*ecdsa.PublicKey, error) {
	p, err := parsePublic(a.AK)
	if err == nil {
		err = p.check(attestationKey())
	}
	if err != nil {
		return nil, err
	}
	return p.key.(*ecdsa.PublicKey), nil // check saw to the type
}

// check checks that c is about the key of cert, which must have a use, and was
// signed by the attestation key ak with extra in it.
func (c *Certified) check(ak *ecdsa.PublicKey, cert *x509.Certificate, extra []byte, u use) (*statement, error) {
	p, err := parsePublic(c.Public)
	if err == nil {
		err = p.check(u)
	}
	if err != nil {
		return nil, fmt.Errorf("its public area: %w", err)
	}
	if !p.key.(*ecdsa.PublicKey).Equal(cert.PublicKey) {
		return nil, errors.New("it is of another key than the certificate's")
	}
	s, err := parseStatement(c.Attest)
	if err != nil {
		return nil, fmt.Errorf("its statement: %w", err)
	}
	if err := c.checkSignature(ak); err != nil {
		return nil, fmt.Errorf("its signature: %w", err)
	}
	name, err := p.name(c.Public)
	switch {
	case err != nil:
		return nil, err
	case !bytes.Equal(s.extra, extra):
		return nil, errors.New("its statement is about another root certificate, or answers another nonce")
	case !bytes.Equal(s.name, name):
		return nil, errors.New("its statement is about another key")
	}
	return s, nil
}

func (c *Certified) checkSignature(ak *ecdsa.PublicKey) error {
	sig, err := parseSignature(c.Signature)
	if err != nil {
		return err
	}
	digest := sha256.Sum256(c.Attest)
	if !ecdsa.Verify(ak, digest[:], sig.r, sig.s) {
		return errors.New("the attestation key did not make it")
	}
	return nil
}

// A Challenge is a secret that only the TPM with a certain endorsement key and
// attestation key can read (TPM 2.0 credential activation: part 1, section 24):
// the proof that both are in one chip, which no document alone can give.
type Challenge struct {
	Credential []byte `json:"credential"` // TPM2B_ID_OBJECT, without its size
	Secret     []byte `json:"secret"`     // TPM2B_ENCRYPTED_SECRET, without its size
}
