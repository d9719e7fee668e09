package keys

import (
	"context"
	"crypto/ecdh"
	"errors"
	"fmt"
	"time"

	"github.com/brevet-dev/brevet/broker"
	"github.com/brevet-dev/brevet/broker/keys/trust"
)

// found makes the first edition, of this broker alone.
func (r *Ring) found(ctx context.Context) error {
	now := time.Now()
	me, err := r.self(ctx)
	if err != nil {
		return err
	}
	d := (*edition)(nil).next(r.o.URL, "founded", now)
	d.Members = []ringMember{{Broker: *me, Joined: now.Unix(), By: r.name}}
	if err := r.addKEK(d, now); err != nil {
		return err
	}
	e, err := d.sign(r.o.Root, now)
	if err != nil {
		return err
	}
	switch ok, err := r.store.swap(ctx, "", e); {
	case err != nil:
		return err
	case !ok:
		return fmt.Errorf("%w: another broker founded it at this moment", ErrNotMember)
	}
	return r.take(ctx, e, nil)
}

// resume goes on where found was interrupted: this broker knows no fleet yet,
// but has founded one. Any other ring in Redis is not believed.
func (r *Ring) resume(ctx context.Context) error {
	e, err := r.fetch(ctx)
	if errors.Is(err, broker.ErrUnavailable) {
		return err
	}
	if err != nil || e == nil || e.Version != 1 || e.by != r.name {
		return fmt.Errorf("%w, which Redis has", ErrNotMember)
	}
	return r.take(ctx, e, nil)
}

// self is what this broker says of itself.
func (r *Ring) self(ctx context.Context) (*trust.Broker, error) {
	root := r.o.Root
	b := &trust.Broker{Kind: root.Kind(), Root: root.Certificate().Raw, Agreement: root.Agreement().Raw}
	if a, ok := root.(Attester); ok {
		var err error
		if b.Attestation, err = a.Attest(ctx, nil); err != nil {
			return nil, fmt.Errorf("attesting the %s root: %w", root.Kind(), err)
		}
	}
	return b, nil
}

// addKEK adds a new KEK to d, wrapped for all its members.
func (r *Ring) addKEK(d *ringDocument, now time.Time) error {
	k, err := newKEK(d.Version)
	if err != nil {
		return err
	}
	defer k.key.wipe()
	wrapped := make(map[string][]byte, len(d.Members))
	for _, m := range d.Members {
		name, to, err := m.keys(now)
		if err != nil {
			return err
		}
		if wrapped[name], err = k.wrapFor(to, r.o.URL, name); err != nil {
			return err
		}
	}
	d.KEKs = append(d.KEKs, ringKEK{ID: k.id, Made: now.Unix(), Wrapped: wrapped})
	return nil
}

// keys returns the fingerprint and the agreement key of m.
func (m *ringMember) keys(now time.Time) (string, *ecdh.PublicKey, error) {
	root, err := trust.ParseRoot(m.Root)
	if err != nil {
		return "", nil, err
	}
	_, agree, err := trust.ParseAgreement(m.Agreement, root, now)
	return trust.Fingerprint(root), agree, err
}
