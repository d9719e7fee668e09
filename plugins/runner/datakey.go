package runner

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"maps"
	"net/url"
	"strings"
	"time"

	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/plugins/exchange"
)

// A KeyWish says what an exchange wants of the data keys among its credentials.
type KeyWish string

// The wishes.
const (
	KeyIfAllowed KeyWish = ""         // a new data key, if the grant allows to make one
	KeyWanted    KeyWish = "generate" // a new data key, or no answer
	NoKeyWanted  KeyWish = "none"     // to unwrap others; with it credentials of any other kind are refused
)

// Unwrap returns the plaintext of a data key to the session of token, whose
// grant must allow it, for the context that the key was made with.
//
// Like an exchange it is tried until ctx ends. A try whose answer got lost may
// count as one of the uses that a policy allows. Its errors are Failures.
func (c *Client) Unwrap(ctx context.Context, token api.Secret, wrapped string, keyContext api.Context) (*api.DataKey, error) {
	seal, err := api.NewSealKey()
	if err != nil {
		return nil, failf(Unavailable, "", "%w", err)
	}
	form := keyForm(wrapped, keyContext)
	form.Set("seal_key", seal.Public())
	reply, err := c.Do(ctx, exchange.Call{Path: api.PathUnwrap, Session: token, Form: form})
	if err != nil {
		return nil, err
	}
	key, err := api.DecodeSealedDataKey(reply.Body, seal, reply.Seal)
	if err != nil {
		return nil, failf(Protocol, "", "%w", err)
	}
	if raw, err := keyBytes(key.Plaintext); err != nil {
		return nil, failf(Protocol, "", "the broker's answer: %w", err)
	} else {
		clear(raw)
	}
	return key, nil
}

// Rewrap returns a data key under the broker's newest KEK, in Wrapped, and does
// not show its plaintext. All else of the key stays as it is. It is tried until
// ctx ends, and done twice it gives another form of the same. Its errors are
// Failures.
func (c *Client) Rewrap(ctx context.Context, token api.Secret, wrapped string, keyContext api.Context) (*api.DataKey, error) {
	reply, err := c.Do(ctx, exchange.Call{Path: api.PathRewrap, Session: token, Form: keyForm(wrapped, keyContext)})
	if err != nil {
		return nil, err
	}
	key, err := api.DecodeDataKey(reply.Body)
	if err != nil {
		return nil, failf(Protocol, "", "%w", err)
	}
	if !isWrapped(key.Wrapped) || !key.Plaintext.IsZero() {
		return nil, failf(Protocol, "", "the broker's answer has no data key that was wrapped anew, or one in clear")
	}
	return key, nil
}

func keyForm(wrapped string, c api.Context) url.Values {
	return url.Values{"wrapped": {wrapped}, "context": {c.Canonical()}}
}

// keyBytes returns a data key's bytes, for the caller to wipe.
func keyBytes(plaintext api.Secret) ([]byte, error) {
	raw, err := base64.StdEncoding.Strict().DecodeString(plaintext.Reveal())
	if err != nil || len(raw) != api.DataKeySize {
		clear(raw)
		return nil, errors.New("the data key is not 32 bytes in base64")
	}
	return raw, nil
}

// A FreshKey is a data key that came with an exchange.
type FreshKey struct {
	ID    string
	Lease string // under which it was made

	// Shred says that the key ends with its lease: it must not be revoked
	// while what the key encrypts is needed.
	Shred bool

	// Ends is when the key cannot be unwrapped any more, unless a renewal of
	// the lease moves the end of one that is shredded.
	Ends time.Time

	ref       KeyRef
	wrapped   string
	plaintext api.Secret
}

// FreshKey returns the data key that the exchange gave for ref. Its errors are
// Failures: the answer is not as it must be.
func (s *Session) FreshKey(ref KeyRef) (*FreshKey, error) {
	for _, l := range s.Answer.Leases {
		if l.Credential == ref.Credential {
			return freshKey(l, ref)
		}
	}
	return nil, failf(Protocol, "", "the broker's answer has no lease of %s", ref.Credential)
}

// statement is what is read of the JWT that comes with a data key. Its signature
// is for those who find it years later; here it came with the answer.
type statement struct {
	KeyID      string      `json:"sub"`
	Credential string      `json:"credential"`
	Context    api.Context `json:"context"`
	Expires    int64       `json:"exp"`
	Shred      bool        `json:"shred"`
}

func freshKey(l api.Lease, ref KeyRef) (*FreshKey, error) {
	if l.Kind != api.KindDataKey {
		return nil, failf(Misconfigured, "name a credential of kind data-key", "credential %s is of kind %s and cannot encrypt", ref.Credential, Printable(l.Kind))
	}
	k := &FreshKey{
		ID: l.Values[api.ValueKeyID].Reveal(), Lease: l.LeaseID, ref: ref,
		wrapped: l.Values[api.ValueWrapped].Reveal(), plaintext: l.Values[api.ValuePlaintext],
	}
	said, err := readStatement(l.Values[api.ValueStatement].Reveal())
	switch {
	case err != nil:
	case said.KeyID != k.ID || said.Credential != ref.Credential || !maps.Equal(said.Context, ref.Context):
		err = errors.New("the data key was made for something else")
	case !isWrapped(k.wrapped):
		err = errors.New("the data key is not wrapped")
	}
	if err != nil {
		return nil, failf(Protocol, "", "the broker's answer: %w", err)
	}
	// A data key has nothing at a target that could be revoked but its share.
	k.Shred, k.Ends = said.Shred || l.Revocable, time.Unix(said.Expires, 0).UTC()
	if k.Shred {
		k.Ends = l.ExpiresAt.UTC()
	}
	return k, nil
}

func readStatement(token string) (*statement, error) {
	bad := errors.New("the statement of the data key is not a JWT")
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return nil, bad
	}
	payload, err := base64.RawURLEncoding.Strict().DecodeString(parts[1])
	if err != nil {
		return nil, bad
	}
	var out statement
	if json.Unmarshal(payload, &out) != nil || out.Expires <= 0 {
		return nil, bad
	}
	return &out, nil
}

// Seal encrypts the key of an age file, for [Session.OpenStanza].
func (k *FreshKey) Seal(fileKey []byte) (*Stanza, error) {
	key, err := keyBytes(k.plaintext)
	if err != nil {
		return nil, failf(Protocol, "", "the broker's answer: %w", err)
	}
	defer clear(key)
	return sealFileKey(k.ref, k.wrapped, key, newSalt(), fileKey)
}

// OpenStanza has the broker unwrap the data key of st, and decrypts the key of
// the age file with it, for the caller to wipe. Its errors are Failures.
func (s *Session) OpenStanza(ctx context.Context, st *Stanza) ([]byte, error) {
	answer, err := s.client.Unwrap(ctx, s.Answer.AccessToken, st.Wrapped, st.Context)
	if err != nil {
		return nil, err
	}
	if answer.Credential != st.Credential {
		return nil, failf(Altered, "", "the file names another credential than its data key was made for")
	}
	key, err := keyBytes(answer.Plaintext)
	if err != nil {
		return nil, failf(Protocol, "", "the broker's answer: %w", err)
	}
	defer clear(key)
	return st.open(key)
}
