package keys

import (
	"context"
	"crypto"
	"crypto/ecdh"
	"crypto/x509"

	"github.com/brevet-dev/brevet/broker/keys/trust"
)

// A Root is the pair of keys that everything of one broker hangs on, and that
// never leaves what keeps it. [Software] is one for development; packages tpm
// and pkcs11 have those for production. All methods may be called at any time,
// by any goroutine.
type Root interface {
	// Kind says what keeps the keys: "software", "tpm", "pkcs11". It is shown
	// wherever the root is shown.
	Kind() string

	// Certificate returns the root's own: see package trust for its profile. It
	// is the same at every call.
	Certificate() *x509.Certificate

	// Signer signs with the key of Certificate. Sign must return, with an error
	// if need be, within seconds.
	Signer() crypto.Signer

	// Agreement returns the certificate of the ECDH key, signed by the root key.
	// It is the same at every call.
	Agreement() *x509.Certificate

	// KeyExchanger does ECDH on P-256 with the key of Agreement. ECDH must
	// return, with an error if need be, within seconds.
	KeyExchanger() ecdh.KeyExchanger

	// Check reports whether the keys could be used now.
	Check(ctx context.Context) error

	// Close lets go of what keeps the keys.
	Close() error
}

// An Attester is a [Root] that can prove where its keys live.
type Attester interface {
	// Attest returns what the chip says about both keys of the root. nonce, at
	// most 64 bytes and nil for none, is signed with it: see [trust.Qualifier].
	Attest(ctx context.Context, nonce []byte) (*trust.Attestation, error)
}

// An Activator is an [Attester] that can prove that its attestation key and its
// endorsement key are in one chip.
type Activator interface {
	// Activate returns the secret of a challenge that was made for the two keys.
	Activate(ctx context.Context, c *trust.Challenge) ([]byte, error)
}

// A Counter is a [Root] with a counter that nobody can turn back, not by
// restoring a disk and not by making the counter anew.
type Counter interface {
	// Count returns the counter's value.
	Count(ctx context.Context) (uint64, error)

	// Increment adds one, and returns the new value.
	Increment(ctx context.Context) (uint64, error)
}
