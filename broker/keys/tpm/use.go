package tpm

import (
	"context"
	"crypto"
	"crypto/ecdh"
	"crypto/sha256"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"math/big"

	"github.com/google/go-tpm/tpm2"
)

// useWithin bounds a use of a key that comes without a context: one hung
// command, and one that waited behind it.
const useWithin = 2 * answerWithin

// A signer is the root key.
type signer struct{ root *Root }

// Public returns the public key, or nil if it cannot be read, which Create and
// Open saw to.
func (s signer) Public() crypto.PublicKey {
	pub, err := s.root.id.root.ecdsa()
	if err != nil {
		return nil
	}
	return pub
}

// Sign signs a SHA-256 digest, and returns the ASN.1 of the signature. The TPM
// has its own randomness.
func (s signer) Sign(_ io.Reader, digest []byte, o crypto.SignerOpts) ([]byte, error) {
	if o == nil || o.HashFunc() != crypto.SHA256 || len(digest) != sha256.Size {
		return nil, errors.New("signing with the TPM's root key: it signs SHA-256 digests only")
	}
	ctx, cancel := context.WithTimeoutCause(context.Background(), useWithin, ErrHung)
	defer cancel()
	return s.root.sign(ctx, digest)
}

func (r *Root) sign(ctx context.Context, digest []byte) ([]byte, error) {
	signature, err := do(ctx, r, func(c *chip) (tpm2.TPMTSignature, error) { return c.sign(r.id.root, digest) })
	if err != nil {
		return nil, fmt.Errorf("signing with the TPM's root key: %w", err)
	}
	ecc, err := signature.Signature.ECDSA()
	if err != nil {
		return nil, fmt.Errorf("signing with the TPM's root key: %w", err)
	}
	return asn1.Marshal(struct{ R, S *big.Int }{
		new(big.Int).SetBytes(ecc.SignatureR.Buffer), new(big.Int).SetBytes(ecc.SignatureS.Buffer),
	})
}

// sign may be done twice: a digest then has two signatures.
func (c *chip) sign(k *key, digest []byte) (tpm2.TPMTSignature, error) {
	l, err := c.load(k)
	if err != nil {
		return tpm2.TPMTSignature{}, err
	}
	rsp, err := tpm2.Sign{
		KeyHandle:  l.with(c.use(encryptIn())),
		Digest:     tpm2.TPM2BDigest{Buffer: digest},
		Validation: tpm2.TPMTTKHashCheck{Tag: tpm2.TPMSTHashCheck}, // none: the key is not restricted
	}.Execute(c.wire)
	if err != nil {
		return tpm2.TPMTSignature{}, err
	}
	return rsp.Signature, nil
}

// An exchanger is the agreement key.
type exchanger struct{ root *Root }

// PublicKey returns the public key, or nil if it cannot be read, which Create
// and Open saw to.
func (e exchanger) PublicKey() *ecdh.PublicKey {
	pub, err := e.root.id.agreement.ecdh()
	if err != nil {
		return nil
	}
	return pub
}

// Curve returns P-256.
func (exchanger) Curve() ecdh.Curve { return ecdh.P256() }

// ECDH returns the x coordinate of the shared point, 32 bytes, as crypto/ecdh
// does.
func (e exchanger) ECDH(remote *ecdh.PublicKey) ([]byte, error) {
	ctx, cancel := context.WithTimeoutCause(context.Background(), useWithin, ErrHung)
	defer cancel()
	return e.root.agree(ctx, remote)
}

func (r *Root) agree(ctx context.Context, remote *ecdh.PublicKey) ([]byte, error) {
	point, err := pointOf(remote)
	if err == nil {
		point, err = do(ctx, r, func(c *chip) (*tpm2.TPMSECCPoint, error) { return c.agree(r.id.agreement, point) })
	}
	if err != nil {
		return nil, fmt.Errorf("agreeing on a key with the TPM's: %w", err)
	}
	return new(big.Int).SetBytes(point.X.Buffer).FillBytes(make([]byte, coordinate)), nil
}

// coordinate is the size of one on P-256, in bytes.
const coordinate = 32

func pointOf(pub *ecdh.PublicKey) (*tpm2.TPMSECCPoint, error) {
	if pub == nil || pub.Curve() != ecdh.P256() {
		return nil, errors.New("not a key on P-256")
	}
	raw := pub.Bytes()[1:] // after the byte that says "uncompressed"
	return &tpm2.TPMSECCPoint{
		X: tpm2.TPM2BECCParameter{Buffer: raw[:coordinate]},
		Y: tpm2.TPM2BECCParameter{Buffer: raw[coordinate:]},
	}, nil
}

func (c *chip) agree(k *key, point *tpm2.TPMSECCPoint) (*tpm2.TPMSECCPoint, error) {
	l, err := c.load(k)
	if err != nil {
		return nil, err
	}
	rsp, err := tpm2.ECDHZGen{
		KeyHandle: l.with(c.use(encryptBoth())),
		InPoint:   tpm2.New2B(*point),
	}.Execute(c.wire)
	if err != nil {
		return nil, err
	}
	shared, err := rsp.OutPoint.Contents()
	if err == nil && len(shared.X.Buffer) > coordinate {
		err = errors.New("the TPM answered with a longer coordinate than P-256 has")
	}
	return shared, err
}
