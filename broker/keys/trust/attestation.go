package trust

import (
	"crypto/sha256"
	"crypto/x509"
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

// A Challenge is a secret that only the TPM with a certain endorsement key and
// attestation key can read (TPM 2.0 credential activation: part 1, section 24):
// the proof that both are in one chip, which no document alone can give.
type Challenge struct {
	Credential []byte `json:"credential"` // TPM2B_ID_OBJECT, without its size
	Secret     []byte `json:"secret"`     // TPM2B_ENCRYPTED_SECRET, without its size
}
