package keys

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
)

// Recover makes a broker believe the ring in Redis although it does not know
// that it follows the last one: its state was lost, or restored from a copy.
// digest names the edition; an operator read it on another broker of the fleet.
func Recover(ctx context.Context, client redis.UniversalClient, o RingOptions, digest string) error {
	r := newRing(client, o)
	release, err := r.local.lock(ctx)
	if err != nil {
		return err
	}
	defer release()
	e, err := r.fetch(ctx)
	switch {
	case err != nil:
		return err
	case e == nil:
		return fmt.Errorf("%w: redis has none", ErrRing)
	case e.digest != digest:
		return fmt.Errorf("%w: redis has %s, version %d", ErrRing, e.digest, e.Version)
	}
	return r.take(ctx, e, nil)
}

// ReadRing returns how the ring is without opening it: of the chip only its
// counter is read, and nothing is changed. known says whether this broker knows a fleet; if not, and
// Redis has one, the error is [ErrNotMember].
func ReadRing(ctx context.Context, client redis.UniversalClient, o RingOptions) (s RingStatus, known bool, err error) {
	r := newRing(client, o)
	remembered, err := r.local.read()
	if err != nil {
		return RingStatus{}, false, err
	}
	if remembered.Ring == "" {
		head, err := r.store.head(ctx)
		if err == nil && head != "" {
			err = fmt.Errorf("%w, which Redis has", ErrNotMember)
		}
		return RingStatus{}, false, err
	}
	last, err := parseEdition(remembered.Ring, o.URL, time.Now())
	if err != nil {
		return RingStatus{}, false, fmt.Errorf("reading the ring in %s: %w", r.local.path, err)
	}
	got, err := r.fetch(ctx)
	switch {
	case err == nil && got == nil:
		err = fmt.Errorf("%w: redis has none", ErrRing)
	case err == nil:
		err = got.follows(last, time.Now())
	}
	if err == nil {
		last = got
	}
	if err == nil && !last.has(r.name) {
		err = fmt.Errorf("%w: version %d is without it", ErrRemoved, last.Version)
	}
	if err == nil {
		err = r.local.fits(ctx, remembered)
	}
	s.describe(last, r.name)
	s.Err = err
	return s, true, r.needs(ctx, last.KEKs, &s)
}

// KnownRoots returns the root certificates of the brokers that this one knows to
// be in its fleet, its own first. Neither Redis nor the chip is asked.
func KnownRoots(o RingOptions) ([]*x509.Certificate, error) {
	own := o.Root.Certificate()
	roots := []*x509.Certificate{own}
	remembered, err := newLocal(o.State, o.Root).read()
	if errors.Is(err, ErrNoState) || err == nil && remembered.Ring == "" {
		return roots, nil
	}
	if err != nil {
		return nil, err
	}
	e, err := parseEdition(remembered.Ring, o.URL, time.Now())
	if err != nil {
		return nil, fmt.Errorf("reading the ring in %s: %w", o.State, err)
	}
	for _, root := range e.roots {
		if !root.Equal(own) {
			roots = append(roots, root)
		}
	}
	return roots, nil
}

// needs completes until when KEKs are needed with what Redis knows.
func (r *Ring) needs(ctx context.Context, keks []ringKEK, s *RingStatus) error {
	needed, err := r.store.needed(ctx, keks)
	for i := range s.KEKs {
		k := &s.KEKs[i]
		if t := time.Unix(needed[k.ID], 0); t.After(k.Needed) {
			k.Needed = t
		}
	}
	return err
}
