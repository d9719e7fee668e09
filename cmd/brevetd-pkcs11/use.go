package main

import (
	"crypto/ecdh"
	"crypto/sha256"
	"slices"
	"unsafe"

	"github.com/brevet-dev/brevet/broker/keys/pkcs11/wire"
)

const (
	signatureSize = 64 // r and s of P-256 (Current Mechanisms v2.40, section 2.3.1)
	sharedSize    = 32 // an x-coordinate
)

// sign signs a SHA-256 digest with the root key.
func (s *session) sign(digest []byte) (*wire.Response, error) {
	if len(digest) != sha256.Size {
		return nil, requestError("a digest of %d bytes, not 32", len(digest))
	}
	if s.root == 0 {
		return nil, requestError("the token has not exactly one private key %q", wire.RootLabel)
	}
	if err := s.call(cSignInit, uintptr(s.handle), s.mechanism(ckmECDSA, 0, 0), uintptr(s.root)); err != nil {
		return nil, err
	}
	signature, n := s.memory.bytes(2*signatureSize), alloc[ulong](s.memory, 1)
	n[0] = ulong(len(signature))
	err := s.call(cSign, uintptr(s.handle), s.memory.copy(digest), uintptr(len(digest)), address(signature), address(n))
	if err != nil {
		return nil, err
	}
	if n[0] != signatureSize {
		return nil, moduleError("C_Sign gave a signature of %d bytes, not %d", n[0], signatureSize)
	}
	return &wire.Response{Signature: slices.Clone(signature[:signatureSize])}, nil
}

// agree does ECDH with the agreement key. The token may not check that the
// peer's point is on the curve, so it is checked here.
func (s *session) agree(peer []byte) (*wire.Response, error) {
	if _, err := ecdh.P256().NewPublicKey(peer); err != nil {
		return nil, requestError("the peer's key is not a point on P-256")
	}
	if s.agreement == 0 {
		return nil, requestError("the token has not exactly one private key %q", wire.AgreementLabel)
	}
	derived, err := s.derive(peer)
	if err != nil {
		return nil, err
	}
	shared, err := s.attribute(derived, ckaValue)
	if gone := s.call(cDestroyObject, uintptr(s.handle), uintptr(derived)); err == nil {
		err = gone
	}
	if err == nil && shared == nil {
		err = moduleError("the token does not give out the shared secret (CKA_VALUE): its policy forbids to derive a key that is extractable")
	}
	if err == nil && len(shared) != sharedSize {
		err = moduleError("C_GetAttributeValue gave a shared secret of %d bytes, not %d", len(shared), sharedSize)
	}
	if err != nil {
		clear(shared)
		return nil, err
	}
	return &wire.Response{Secret: wire.NewSecret(shared)}, nil
}

// derive returns the handle of the shared secret, which lives in the session.
func (s *session) derive(peer []byte) (ulong, error) {
	parameters := alloc[ckECDH1DeriveParams](s.memory, 1)
	parameters[0] = ckECDH1DeriveParams{kdf: ckdNull, publicDataLen: ulong(len(peer)), publicData: s.memory.copy(peer)}
	mechanism := s.mechanism(ckmECDH1Derive, address(parameters), unsafe.Sizeof(parameters[0]))
	first, count := s.attributes([]attribute{
		number(ckaClass, ckoSecretKey), number(ckaKeyType, ckkGenericSecret), number(ckaValueLen, sharedSize),
		flag(ckaToken, false), flag(ckaSensitive, false), flag(ckaExtractable, true),
	})
	handle := alloc[ulong](s.memory, 1)
	err := s.call(cDeriveKey, uintptr(s.handle), mechanism, uintptr(s.agreement), first, count, address(handle))
	return handle[0], err
}
