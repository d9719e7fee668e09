package tpm

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"github.com/brevet-dev/brevet/broker/keys/trust"
)

// maxNonce is how long the nonce of an attestation may be, in bytes.
const maxNonce = 64

// Attest implements [keys.Attester]. It needs no PCR: a root whose keys cannot be
// used can still say where they are.
func (r *Root) Attest(ctx context.Context, nonce []byte) (*trust.Attestation, error) {
	if len(nonce) > maxNonce {
		return nil, fmt.Errorf("attesting the root: a nonce of %d bytes, want at most %d", len(nonce), maxNonce)
	}
	id, qualifier := r.id, trust.Qualifier(r.id.rootCert, nonce)
	a, err := do(ctx, r, func(c *chip) (*trust.Attestation, error) {
		root, err := c.certify(id.root, id.ak, qualifier)
		if err != nil {
			return nil, err
		}
		agreement, err := c.certify(id.agreement, id.ak, qualifier)
		if err != nil {
			return nil, err
		}
		return &trust.Attestation{
			Nonce: nonce, AK: tpm2.Marshal(id.ak.public), Root: *root, Agreement: *agreement,
			EK: tpm2.Marshal(id.ek.public), EKChain: id.ekChain,
		}, nil
	})
	if err != nil {
		return nil, fmt.Errorf("attesting the root: %w", err)
	}
	return a, nil
}

func (c *chip) certify(k, ak *key, qualifier []byte) (*trust.Certified, error) {
	signs, err := c.load(ak)
	if err != nil {
		return nil, err
	}
	of, err := c.load(k)
	if err != nil {
		return nil, err
	}
	rsp, err := tpm2.Certify{
		// The role is ADMIN, for which the auth value does even where the policy
		// is needed to use the key (part 1, section 19.2).
		ObjectHandle:   of.with(c.session(c.auth.reveal())),
		SignHandle:     signs.with(c.session(c.auth.reveal())),
		QualifyingData: tpm2.TPM2BData{Buffer: qualifier},
	}.Execute(c.wire)
	if err != nil {
		return nil, err
	}
	return &trust.Certified{
		Public: tpm2.Marshal(k.public), Attest: rsp.CertifyInfo.Bytes(), Signature: tpm2.Marshal(rsp.Signature),
	}, nil
}

// Activate implements [keys.Activator]. A challenge for other keys gives
// [ErrChallenge].
func (r *Root) Activate(ctx context.Context, challenge *trust.Challenge) ([]byte, error) {
	if challenge == nil {
		return nil, errors.New("answering a challenge: there is none")
	}
	out, err := do(ctx, r, func(c *chip) ([]byte, error) { return c.activate(r.id.ak, r.id.ek, challenge) })
	if err != nil {
		return nil, fmt.Errorf("answering a challenge: %w", err)
	}
	return out, nil
}

func (c *chip) activate(ak, ek *key, challenge *trust.Challenge) ([]byte, error) {
	endorsement, found, err := c.loadEK(kindOf(ek))
	if err != nil {
		return nil, err
	}
	if string(found.name.Buffer) != string(ek.name.Buffer) {
		return nil, errors.Join(fmt.Errorf("%w (its endorsement key differs)", ErrOtherTPM), c.unloadEK(endorsement))
	}
	out, err := c.activateWith(endorsement, ak, challenge)
	if lost(err) {
		return nil, err
	}
	return out, errors.Join(err, c.unloadEK(endorsement))
}

func (c *chip) activateWith(ek loaded, ak *key, challenge *trust.Challenge) ([]byte, error) {
	c.unloadAllBut(ak) // with the endorsement key there is room for one
	l, err := c.load(ak)
	if err != nil {
		return nil, err
	}
	rsp, err := tpm2.ActivateCredential{
		ActivateHandle: l.with(c.session(c.auth.reveal(), encryptBoth())),
		KeyHandle:      ek.with(tpm2.Policy(tpm2.TPMAlgSHA256, nonceSize, satisfyEK, c.salted(nil, nil)...)),
		CredentialBlob: tpm2.TPM2BIDObject{Buffer: challenge.Credential},
		Secret:         tpm2.TPM2BEncryptedSecret{Buffer: challenge.Secret},
	}.Execute(c.wire)
	if about := new(tpm2.TPMFmt1Error); errors.As(err, about) {
		if parameter, _ := about.Parameter(); parameter {
			err = fmt.Errorf("%w (%v)", ErrChallenge, err)
		}
	}
	if err != nil {
		return nil, err
	}
	return rsp.CertInfo.Buffer, nil
}

const (
	minSecret = 16
	maxSecret = 32 // bytes: the size of the endorsement key's name algorithm
)

// NewChallenge makes a challenge that only the TPM with both keys of a, its
// endorsement key and its attestation key, can answer with secret, 16 to 32
// random bytes. It needs no TPM. Whether the endorsement key is a real TPM's is
// for the caller to check by its certificate, and what the attestation key says
// by [trust]: neither is done here.
func NewChallenge(a *trust.Attestation, secret []byte) (*trust.Challenge, error) {
	c, err := newChallenge(a, secret)
	if err != nil {
		return nil, fmt.Errorf("making a challenge: %w", err)
	}
	return c, nil
}

func newChallenge(a *trust.Attestation, secret []byte) (*trust.Challenge, error) {
	if a == nil || len(secret) < minSecret || len(secret) > maxSecret {
		return nil, fmt.Errorf("want an attestation, and a secret of %d to %d bytes", minSecret, maxSecret)
	}
	ek, err := parseEK(a.EK)
	if err != nil {
		return nil, err
	}
	ak, err := parseKey(a.AK, attestTemplate())
	if err != nil {
		return nil, fmt.Errorf("the attestation key: %w", err)
	}
	to, err := tpm2.ImportEncapsulationKey(&ek.public)
	if err != nil {
		return nil, err
	}
	credential, encrypted, err := tpm2.CreateCredential(rand.Reader, to, ak.name.Buffer, secret)
	if err != nil {
		return nil, err
	}
	return &trust.Challenge{Credential: credential, Secret: encrypted}, nil
}
