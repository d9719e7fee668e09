package keys

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/brevet-dev/brevet/broker"
	"github.com/brevet-dev/brevet/broker/keys/trust"
)

// look compares Redis with what is known, and takes over what follows. The
// caller has the turn.
func (r *Ring) look(ctx context.Context) error {
	r.looked = time.Now()
	waits, stop := context.WithTimeout(ctx, lookWithin)
	defer stop()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lookWithin)
	defer cancel()
	stored, err := r.store.head(ctx)
	if err != nil {
		return err
	}
	if s := r.state.Load(); s != nil && stored == s.head() {
		r.state.Store(&ringState{s.edition, s.keks, s.newest, r.looked})
		return s.member()
	}
	release, err := r.local.lock(waits)
	if err != nil {
		return err
	}
	defer release()
	return r.meet(ctx, stored)
}

// meet is look where Redis has something else than what is in use here. The
// caller holds the lock of r.local.
func (r *Ring) meet(ctx context.Context, stored string) error {
	known, err := r.known(ctx)
	switch {
	case err != nil:
		return err
	case known == nil && stored == "":
		return r.found(ctx)
	case known == nil:
		return r.resume(ctx)
	}
	got, err := r.fetch(ctx)
	switch {
	case errors.Is(err, broker.ErrUnavailable):
		return err
	case err != nil, got == nil, got.Version < known.Version, got.digest == known.digest && stored != known.head():
		return r.putBack(ctx, stored, known)
	}
	if err := got.follows(known, time.Now()); err != nil {
		return err // two fleets on one Redis would overwrite each other for ever
	}
	return r.take(ctx, got, known)
}

// known returns the last edition that this broker believed, or nil.
func (r *Ring) known(ctx context.Context) (*edition, error) {
	token, err := r.local.load(ctx)
	if err != nil || token == "" {
		return nil, err
	}
	e, err := parseEdition(token, r.o.URL, time.Now())
	if err != nil {
		return nil, fmt.Errorf("reading the ring in %s: %w", r.local.path, err)
	}
	return e, nil
}

// fetch returns the edition in Redis, or nil if there is none.
func (r *Ring) fetch(ctx context.Context) (*edition, error) {
	token, err := r.store.get(ctx)
	if err != nil || token == "" {
		return nil, err
	}
	return parseEdition(token, r.o.URL, time.Now())
}

// putBack writes the edition that is known over an older one, or none, or
// garbage: Redis was restored from a copy, or lost its data, or somebody wrote
// to it.
func (r *Ring) putBack(ctx context.Context, stored string, known *edition) error {
	r.mu.Lock()
	r.rollbacks++
	r.mu.Unlock()
	r.o.Log.Warn("redis had no ring of keys, or an older one; putting back the newest known", "version", known.Version, "digest", known.digest)
	switch ok, err := r.store.swap(ctx, stored, known); {
	case err != nil:
		return err
	case !ok:
		return fmt.Errorf("%w: the ring in redis changes while it is put back", broker.ErrUnavailable)
	}
	if err := r.promises.keep(ctx); err != nil {
		return err
	}
	return r.take(ctx, known, known)
}

// take makes e the edition in use. known is what r.local has.
func (r *Ring) take(ctx context.Context, e, known *edition) error {
	s := &ringState{edition: e, seen: r.looked}
	if !e.has(r.name) {
		r.replace(s)
		return s.member()
	}
	if err := r.takeWhole(ctx, s, known); err != nil {
		r.wipeUnused(s)
		r.distrust(e.Removed)
		return err
	}
	r.replace(s)
	return nil
}

// wipeUnused wipes the KEKs of a state that did not come into use.
func (r *Ring) wipeUnused(s *ringState) {
	old := r.state.Load()
	for id, k := range s.keks {
		if old == nil || old.keks[id] != k {
			k.key.wipe()
		}
	}
}

// distrust takes brokers that were removed out of the edition in use, when a
// newer one cannot be used yet: the chip may be away, or the disk full.
func (r *Ring) distrust(removed []string) {
	s := r.state.Load()
	if s == nil || !slices.ContainsFunc(s.roots, func(c *x509.Certificate) bool { return slices.Contains(removed, trust.Fingerprint(c)) }) {
		return
	}
	left := &edition{ringDocument: s.ringDocument, token: s.token, digest: s.digest, by: s.by}
	left.Members = nil
	for i, root := range s.roots {
		if !slices.Contains(removed, trust.Fingerprint(root)) {
			left.Members, left.roots, left.agree = append(left.Members, s.Members[i]), append(left.roots, root), append(left.agree, s.agree[i])
		}
	}
	r.state.Store(&ringState{left, s.keks, s.newest, s.seen})
}

// takeWhole does all for an edition but use it.
func (r *Ring) takeWhole(ctx context.Context, s *ringState, known *edition) error {
	e := s.edition
	var err error
	if s.keks, err = r.unwrap(e); err != nil { // what it has so far is in s.keks
		return err
	}
	s.newest = s.keks[e.KEKs[len(e.KEKs)-1].ID]
	if r.recorded != e.digest { // once, also if what follows fails for hours
		if err := r.o.Record(ctx, s.change()); err != nil {
			return fmt.Errorf("recording version %d of the ring: %w", e.Version, err)
		}
		r.recorded = e.digest
	}
	if known == nil || known.digest != e.digest {
		return r.local.save(ctx, e.token)
	}
	return nil
}

// member reports whether the broker is in its fleet.
func (s *ringState) member() error {
	if s.newest == nil {
		return fmt.Errorf("%w: version %d is without it", ErrRemoved, s.Version)
	}
	return nil
}

// replace swaps the state, and wipes the KEKs that are not in it any more.
func (r *Ring) replace(s *ringState) {
	old := r.state.Swap(s)
	if old == nil {
		return
	}
	for id, k := range old.keks {
		if s.keks[id] == nil {
			k.key.wipe()
		}
	}
}

// unwrap returns all KEKs of e, with an error those until then: one operation of
// the chip for each that is new.
func (r *Ring) unwrap(e *edition) (map[string]*kek, error) {
	out := make(map[string]*kek, len(e.KEKs))
	old := r.state.Load()
	for _, k := range e.KEKs {
		if old != nil && old.keks[k.ID] != nil {
			out[k.ID] = old.keks[k.ID]
			continue
		}
		made, err := unwrapKEK(k.ID, k.Wrapped[r.name], r.o.Root.KeyExchanger(), r.o.URL, r.name)
		if err != nil {
			return out, err
		}
		out[k.ID] = made
	}
	return out, nil
}
