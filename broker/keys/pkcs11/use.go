package pkcs11

import (
	"context"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"math/big"
	"slices"

	"github.com/brevet-dev/brevet/broker/keys/pkcs11/wire"
)

// A signer is the root key.
type signer struct {
	owner  *owner
	public *ecdsa.PublicKey
}

// Public returns the *ecdsa.PublicKey.
func (s *signer) Public() crypto.PublicKey { return s.public }

// Sign signs a SHA-256 digest; the token has its own randomness.
func (s *signer) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if opts == nil || opts.HashFunc() != crypto.SHA256 || len(digest) != crypto.SHA256.Size() {
		return nil, errors.New("signing in the HSM: the root signs SHA-256 digests only")
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	signature, err := s.sign(ctx, slices.Clone(digest)) // it may return before the helper has read it
	if err != nil {
		return nil, fmt.Errorf("signing in the HSM: %w", err)
	}
	return signature, nil
}

// sign returns a signature that it has verified, as an ASN.1 SEQUENCE.
func (s *signer) sign(ctx context.Context, digest []byte) ([]byte, error) {
	p, err := s.owner.do(ctx, &wire.Request{Op: wire.Sign, Digest: digest})
	if err != nil {
		return nil, err
	}
	if len(p.Signature) != 64 {
		return nil, fmt.Errorf("%w: it has %d bytes, not 64", ErrSignature, len(p.Signature))
	}
	r, t := new(big.Int).SetBytes(p.Signature[:32]), new(big.Int).SetBytes(p.Signature[32:])
	signature, err := asn1.Marshal(struct{ R, S *big.Int }{r, t})
	if err != nil {
		return nil, err
	}
	if !ecdsa.VerifyASN1(s.public, digest, signature) {
		return nil, ErrSignature
	}
	return signature, nil
}

// An exchanger is the agreement key.
type exchanger struct {
	owner  *owner
	public *ecdh.PublicKey
}

// PublicKey implements [ecdh.KeyExchanger].
func (e *exchanger) PublicKey() *ecdh.PublicKey { return e.public }

// Curve returns P-256.
func (e *exchanger) Curve() ecdh.Curve { return ecdh.P256() }

// ECDH returns the x-coordinate of the shared point. It cannot be verified here:
// what is encrypted with it tells.
func (e *exchanger) ECDH(remote *ecdh.PublicKey) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	shared, err := e.agree(ctx, remote)
	if err != nil {
		return nil, fmt.Errorf("agreeing on a key in the HSM: %w", err)
	}
	return shared, nil
}

func (e *exchanger) agree(ctx context.Context, remote *ecdh.PublicKey) ([]byte, error) {
	if remote == nil || remote.Curve() != ecdh.P256() {
		return nil, errors.New("the peer's key is not on P-256")
	}
	p, err := e.owner.do(ctx, &wire.Request{Op: wire.Agree, Peer: remote.Bytes()})
	if err != nil {
		return nil, err
	}
	shared := p.Secret.Reveal()
	if len(shared) != 32 {
		p.Secret.Wipe()
		return nil, fmt.Errorf("the shared secret has %d bytes, not 32", len(shared))
	}
	return shared, nil
}
