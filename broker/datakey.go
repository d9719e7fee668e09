package broker

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"time"

	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/policies"
)

// A DataKey is an ephemeral key (DEK) that a job encrypts with. The broker does
// not keep it: it leaves in clear, once, and wrapped, to be kept beside what it
// encrypts.
type DataKey struct {
	ID         string // "dk-mfrgg…"; the same after it was rewrapped
	Credential string // its name in the configuration
	Lease      string // under which it was made
	Bound      string // SHA-256 of its context: see ContextHash
	Issued     time.Time
	Expires    time.Time  // it cannot be unwrapped after that; whole seconds
	Shred      bool       // Key is one half; the other is the handle of Lease
	KEK        string     // it is, or was, wrapped under
	Key        api.Secret // api.DataKeySize bytes
}

// ContextHash returns what binds a data key to a context: the SHA-256 of its
// canonical form, in base64url.
func ContextHash(c api.Context) string {
	sum := sha256.Sum256([]byte(c.Canonical()))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// NewDataKey makes a key for lease l, bound to the context of s, that can be
// unwrapped for maxAge.
func NewDataKey(s *Session, l *Lease, maxAge time.Duration) *DataKey {
	id, key := make([]byte, 16), make([]byte, api.DataKeySize)
	defer clear(key)
	rand.Read(id) // never fails: crypto/rand.Read, Go 1.24
	rand.Read(key)
	issued := time.Now().Truncate(time.Second)
	return &DataKey{
		ID: "dk-" + idEncoding.EncodeToString(id), Credential: l.Credential, Lease: l.ID, Bound: ContextHash(s.Context),
		Issued: issued, Expires: issued.Add(maxAge), Key: api.NewSecret(string(key)),
	}
}

// Split makes a key whose wrapped form is useless without share, for l.Handle:
// both halves are random, and neither says anything of the key (a one-time pad).
func (k *DataKey) Split() (half *DataKey, share api.Secret) {
	pad := make([]byte, api.DataKeySize)
	defer clear(pad)
	rand.Read(pad)
	other := *k
	other.Shred, other.Key = true, xor(k.Key, pad)
	return &other, api.NewSecret(base64.StdEncoding.EncodeToString(pad))
}

// join undoes Split.
func (k *DataKey) join(share api.Secret) error {
	pad, err := base64.StdEncoding.DecodeString(share.Reveal())
	if err != nil || len(pad) != api.DataKeySize {
		return fmt.Errorf("%w: the share of lease %s is not one", ErrWrapped, k.Lease)
	}
	defer clear(pad)
	k.Key = xor(k.Key, pad)
	return nil
}

func xor(key api.Secret, pad []byte) api.Secret {
	out := make([]byte, len(pad))
	defer clear(out)
	subtle.XORBytes(out, []byte(key.Reveal()), pad)
	return api.NewSecret(string(out))
}

// Unwrap returns the plaintext of a wrapped data key to a session with a lease
// of that key whose grant allows it. The policies decide anew, with the claims
// recorded at the exchange; a grant that was withdrawn ends the lease.
func (b *Broker) Unwrap(ctx context.Context, s *Session, wrapped string, c api.Context, ev *Event) (*api.DataKey, error) {
	k, err := b.openKey(ctx, s, policies.Unwrap, wrapped, c, ev)
	if err != nil {
		return nil, err
	}
	if k.Shred {
		if err := b.fetchShare(ctx, k.DataKey); err != nil {
			return nil, err
		}
	}
	if k.maxUses > 0 {
		if err := b.Leases.CountUse(ctx, k.Lease, k.ID+":"+k.policy, k.maxUses, k.Expires); err != nil {
			return nil, fmt.Errorf("counting a use of data key %s: %w", k.ID, err)
		}
	}
	plaintext := base64.StdEncoding.EncodeToString([]byte(k.Key.Reveal()))
	return &api.DataKey{KeyID: k.ID, Credential: k.Credential, Plaintext: api.NewSecret(plaintext), ExpiresAt: k.Expires.UTC()}, nil
}

// Rewrap returns a wrapped data key under the newest KEK, without its
// plaintext. All else stays as it is: its id, its context, its end.
func (b *Broker) Rewrap(ctx context.Context, s *Session, wrapped string, c api.Context, ev *Event) (*api.DataKey, error) {
	k, err := b.openKey(ctx, s, policies.Rewrap, wrapped, c, ev)
	if err != nil {
		return nil, err
	}
	again, err := b.DataKeys.WrapKey(ctx, k.DataKey)
	if err != nil {
		return nil, fmt.Errorf("rewrapping data key %s: %w", k.ID, err)
	}
	ev.DataKey.NewKEK = k.KEK
	return &api.DataKey{KeyID: k.ID, Credential: k.Credential, Wrapped: again, ExpiresAt: k.Expires.UTC()}, nil
}

// An openedKey is one that a session may use as it asked to.
type openedKey struct {
	*DataKey
	policy  string // that allows it now
	maxUses int    // how often the key may be unwrapped under that policy; 0: any number
}

// openKey is what unwrapping and rewrapping have in common: the key is genuine,
// in time and of this context, and the session may do op with it.
func (b *Broker) openKey(ctx context.Context, s *Session, op policies.Operation, wrapped string, c api.Context, ev *Event) (*openedKey, error) {
	ev.Who, ev.Session, ev.Bound, ev.Context = &s.Who, s.ID, s.KeyThumbprint, c
	k, err := b.DataKeys.UnwrapKey(ctx, wrapped)
	if err != nil {
		return nil, fmt.Errorf("opening a wrapped data key: %w", err)
	}
	ev.DataKey = &EventDataKey{ID: k.ID, Lease: k.Lease, KEK: k.KEK, Issued: k.Issued, Expires: k.Expires}
	now := time.Now()
	switch {
	case k.Bound != ContextHash(c):
		return nil, fmt.Errorf("%w: data key %s was made for another context", ErrWrapped, k.ID)
	case !now.Before(k.Expires):
		return nil, fmt.Errorf("%w: data key %s has reached its max_age", ErrWrapped, k.ID)
	}
	l := s.leaseOf(k.Credential)
	if l == nil {
		return nil, fmt.Errorf("%w: the session has no lease of %s", policies.ErrOperation, k.Credential)
	}
	ev.Leases = []EventLease{eventLease(l)}
	if s.Ended || !l.active(now) {
		return nil, ErrEnded
	}
	grant, err := b.decideAgain(ctx, s, l, ev)
	if err != nil {
		return nil, err
	}
	if err := permitted(l, &grant, op, now.Sub(k.Issued), c); err != nil {
		return nil, err
	}
	return &openedKey{k, grant.Policy, strictest(l.KeyUse, grant.KeyUse)}, nil
}

// permitted reports what keeps op from being done: both the policies of the
// exchange, as the session has them, and those in force must allow it.
func permitted(l *Lease, g *policies.Grant, op policies.Operation, age time.Duration, c api.Context) error {
	if g.KeyUse == nil {
		return fmt.Errorf("%w: %s is no data key any more", policies.ErrOperation, l.Credential)
	}
	return errors.Join(l.KeyUse.Permits(op, age, c), g.KeyUse.Permits(op, age, c))
}

// strictest returns the lowest max_uses of grants; 0: none has one.
func strictest(grants ...*policies.KeyUse) (most int) {
	for _, u := range grants {
		if u != nil && u.MaxUses > 0 && (most == 0 || u.MaxUses < most) {
			most = u.MaxUses
		}
	}
	return most
}

// fetchShare makes k whole with the half that the store keeps for as long as
// the lease lives under which k was made.
func (b *Broker) fetchShare(ctx context.Context, k *DataKey) error {
	l, err := b.Leases.Lease(ctx, k.Lease)
	switch {
	case errors.Is(err, ErrNotFound):
		return fmt.Errorf("%w: lease %s of data key %s is over, and the key with it", ErrWrapped, k.Lease, k.ID)
	case err != nil:
		return fmt.Errorf("reading the share of data key %s: %w", k.ID, err)
	case !l.active(time.Now()) || l.Credential != k.Credential:
		return fmt.Errorf("%w: lease %s of data key %s is over, and the key with it", ErrWrapped, k.Lease, k.ID)
	}
	return k.join(l.Handle)
}

// leaseOf returns the session's lease of a credential: there is one at most.
func (s *Session) leaseOf(credential string) *Lease {
	for _, l := range s.Leases {
		if l.Credential == credential {
			return l
		}
	}
	return nil
}
