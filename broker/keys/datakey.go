package keys

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/brevet-dev/brevet/broker"
	"github.com/brevet-dev/brevet/broker/api"
)

// Seal encrypts the handle of a lease under the newest KEK, bound to name.
func (r *Ring) Seal(_ context.Context, handle, name string) (string, error) {
	k, err := r.newest()
	if err != nil {
		return "", err
	}
	return k.seal(jweHeader{Type: typeHandle, Bound: boundTo(name)}, []byte(handle))
}

// Open returns what Seal encrypted, bound to name.
func (r *Ring) Open(ctx context.Context, sealed, name string) (string, error) {
	p, handle, err := r.open(ctx, typeHandle, sealed)
	if err != nil {
		return "", err
	}
	if p.header.Bound != boundTo(name) {
		return "", fmt.Errorf("%w: it is sealed for something else", broker.ErrWrapped)
	}
	return string(handle), nil
}

// KeyOf returns the id of the KEK that sealed names, and whether it is the
// newest.
func (r *Ring) KeyOf(sealed string) (id string, newest bool, err error) {
	p, err := parseJWE(typeHandle, sealed)
	if err != nil {
		return "", false, err
	}
	k, err := r.newest()
	if err != nil {
		return "", false, err
	}
	return p.header.KeyID, p.header.KeyID == k.id, nil
}

// KEKNames tells which KEK sealed something, without any key. It implements what
// package lease needs to count.
type KEKNames struct{}

var errNoKEKs = errors.New("there are no KEKs here")

// Seal refuses.
func (KEKNames) Seal(context.Context, string, string) (string, error) { return "", errNoKEKs }

// Open refuses.
func (KEKNames) Open(context.Context, string, string) (string, error) { return "", errNoKEKs }

// KeyOf is [Ring.KeyOf]; which KEK is the newest it does not know.
func (KEKNames) KeyOf(sealed string) (id string, newest bool, err error) {
	p, err := parseJWE(typeHandle, sealed)
	if err != nil {
		return "", false, err
	}
	return p.header.KeyID, false, nil
}

// WrapKey implements [broker.KeyWrapper].
func (r *Ring) WrapKey(ctx context.Context, d *broker.DataKey) (string, error) {
	k, err := r.newest()
	if err != nil {
		return "", err
	}
	if err := r.promises.add(ctx, k.id, d.Expires); err != nil {
		return "", fmt.Errorf("noting until when KEK %s is needed: %w", k.id, err)
	}
	key := []byte(d.Key.Reveal())
	defer clear(key)
	out, err := k.seal(jweHeader{
		Type: typeDataKey, Bound: d.Bound, DataKey: d.ID, Credential: d.Credential, Lease: d.Lease,
		Issued: d.Issued.Unix(), Expires: d.Expires.Unix(), Shred: d.Shred,
	}, key)
	if err == nil {
		d.KEK = k.id
	}
	return out, err
}

// UnwrapKey implements [broker.KeyWrapper].
func (r *Ring) UnwrapKey(ctx context.Context, wrapped string) (*broker.DataKey, error) {
	p, key, err := r.open(ctx, typeDataKey, wrapped)
	if err != nil {
		return nil, err
	}
	defer clear(key)
	if len(key) != api.DataKeySize {
		return nil, fmt.Errorf("%w: what is in it is no data key", broker.ErrWrapped)
	}
	h := p.header
	return &broker.DataKey{
		ID: h.DataKey, Credential: h.Credential, Lease: h.Lease, Bound: h.Bound, Shred: h.Shred, KEK: h.KeyID,
		Issued: time.Unix(h.Issued, 0), Expires: time.Unix(h.Expires, 0), Key: api.NewSecret(string(key)),
	}, nil
}

func (r *Ring) open(ctx context.Context, typ, s string) (*parsedJWE, []byte, error) {
	p, err := parseJWE(typ, s)
	if err != nil {
		return nil, nil, err
	}
	k, err := r.find(ctx, p.header.KeyID)
	if err != nil {
		return nil, nil, err
	}
	out, err := k.open(p)
	return p, out, err
}
