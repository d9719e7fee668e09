// Package keys holds what the broker signs and wraps with: a root in a chip that
// certifies and opens, and keys in memory that work.
//
//	root: two keys in a TPM or HSM; "software" for development
//	 ├─ root key, ECDSA P-256, certifies, every few hours: an X.509 signature
//	 │   └─ epoch key, ECDSA P-256, in this process's memory only, signs, tens of
//	 │      thousands of times a second: ES256
//	 │       └─ session tokens · jwt credentials · statements · audit checkpoints
//	 └─ agreement key, ECDH P-256, opens, once at each start
//	     └─ KEKs, AES-256, the same for all brokers of a fleet: the ring
//	         └─ data keys, beside what they encrypt · handles of leases, in Redis
//
// A chip needs tens of milliseconds for a signature, so it does not sign
// tokens. It says which key may, and until when. Anyone who holds the root
// certificate checks the rest: the JWKS carries for each key the chain
// [epoch, root] as x5c.
//
// # Time
//
// An epoch key signs for [Signs], is in the JWKS at least [Ahead] before that,
// and for [Verifiable] after it:
//
//	hour        0     3     6     9    12    15    18    21    24    27    30
//	epoch 1     [=signs====]- - - - verifiable - - -]
//	epoch 2     p . . . . . [=signs====]- - - - verifiable - - -]
//	epoch 3                       p . . [=signs====]- - - - verifiable - - -]
//	epoch 4                                   p . . [=signs====]- - - - …
//
// p is when its certificate is made and published: always before its first
// signature, so that a verifier that reloads the JWKS every hour never meets a
// key it does not know. Only the first epoch of a process signs at once, since
// nothing else could: the process before it took its keys with it. What that
// one signed still verifies, as its certificates stay on the [Board].
//
// When the root is away, issued epochs go on until they end, and [Status] says
// so. Then nothing is signed until it is back.
//
// # Many brokers
//
// Each broker has a root of its own. A [Ring] says which roots belong together,
// and has every KEK encrypted to the agreement key of each. It lives in Redis, which nobody
// believes: start reading at [Ring] and edition.follows.
package keys

import (
	"errors"
	"time"

	"github.com/brevet-dev/brevet/broker/keys/trust"
)

const (
	// Signs is how long one epoch key signs. Shorter, and a root that is away
	// for a night stops the broker; longer, and a key read from the memory of a
	// broker is worth more.
	Signs = 6 * time.Hour

	// Ahead is how long before its first signature an epoch key is published.
	// It exceeds the hour for which verifiers commonly keep a JWKS.
	Ahead = Signs / 2

	// Verifiable is how long after its last signature an epoch key is still
	// published: the lifetime of the longest-lived token that may be signed. A
	// session lives for 12 h at most, as does an AWS role session.
	Verifiable = 12 * time.Hour

	skew = trust.Skew

	// jitter spreads the renewals of brokers that were started together, so
	// that they do not queue for one HSM.
	jitter = 10 * time.Minute

	// certified is the longest a certificate of an epoch is valid: the epoch
	// after next is made one epoch ahead at most, at start. It is the sum of
	// skew, Signs, Signs, Verifiable and skew.
	certified = trust.MaxEpoch
)

// ErrToken says that a token is not one this fleet of brokers signed, or not
// one of the type that was asked for, or of an epoch that is over.
var ErrToken = errors.New("not a token of this broker")
