package keys

import (
	"context"
	"crypto/ecdh"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/brevet-dev/brevet/broker"
	"github.com/brevet-dev/brevet/broker/keys/trust"
)

const (
	// ringEvery is how often a broker looks for a newer ring: how long a
	// rotation takes to reach all.
	ringEvery = 2 * time.Second

	// ringFresh is how old the last look may be for the newest KEK to be used:
	// a broker that cannot tell what the newest is wraps nothing.
	ringFresh = 30 * time.Second

	// settle is how long after a KEK was superseded it may not be destroyed: by
	// then no broker wraps with it, by a wide margin over ringFresh for clocks
	// that differ.
	settle = 10 * time.Minute

	// lookWithin bounds one look with all that follows from it: a chip that is
	// slow takes 0.1 s for each of a hundred KEKs.
	lookWithin = time.Minute
)

var (
	// ErrNotMember says that a fleet exists, and this broker is not in it.
	ErrNotMember = errors.New("this broker is not in the fleet's ring of keys")

	// ErrRemoved is the [ErrNotMember] of a broker that was taken out of its
	// fleet.
	ErrRemoved = fmt.Errorf("%w any more", ErrNotMember)

	errStale = errors.New("the ring in redis could not be read lately")
)

// RingOptions are the options of [OpenRing].
type RingOptions struct {
	// URL is the brokers': see [EpochOptions].
	URL string

	// Root opens what is encrypted to this broker, and signs what it changes.
	Root Root

	// State is the file that [InitRing] made.
	State string

	// Record is called with each edition of the ring before it is used. If it
	// fails, the edition is not used yet. nil: none is recorded.
	Record func(context.Context, RingChange) error

	// Challenge makes a challenge for the chip that an attestation speaks of: see
	// [trust.Challenge]. nil: chips are not challenged.
	Challenge func(a *trust.Attestation, secret []byte) (*trust.Challenge, error)

	// Log gets a line when the ring cannot be read, or was rolled back. nil: none.
	Log *slog.Logger
}

// A RingChange is an edition of the ring that was taken over.
type RingChange struct {
	Version uint64
	Digest  string
	By      string   // fingerprint of the root that signed it
	Change  string   // what it changed, in words
	Members []string // fingerprints
	KEK     string   // that wraps from now on
}

// A Ring is the KEKs that all brokers of a fleet share, unwrapped in memory,
// and who these brokers are. Redis has it, each KEK encrypted to the agreement
// key of every broker, signed by the root of one of them; a new edition takes the place
// of the old only if it follows from it: see [edition.follows]. All methods may
// be called at any time, by any goroutine.
type Ring struct {
	o     RingOptions
	name  string // fingerprint of the own root
	store ringStore
	local *local
	state atomic.Pointer[ringState] // replaced, never changed

	// turn is held, by a value in it, while Redis and the state are compared:
	// a look may take as long as the chip does, and who waits may give up.
	turn     chan struct{}
	looked   time.Time // when the last look began; of who has the turn
	recorded string    // digest of the edition that was recorded last; of who has the turn

	mu        sync.Mutex
	err       error // of the last look
	rollbacks int

	promises promises
}

// A ringState is an edition and what this broker could unwrap of it.
type ringState struct {
	*edition
	keks   map[string]*kek // all of the edition, by id
	newest *kek
	seen   time.Time // when Redis last had it
}

// OpenRing reads the ring and unwraps its KEKs. If this broker knows no fleet,
// and Redis has none, it founds one. It returns [ErrNotMember] if there is a
// fleet without it, [ErrRing] for a ring that is not that of its fleet, and [ErrNoState] or
// [ErrRolledBack] if it cannot tell.
func OpenRing(ctx context.Context, client redis.UniversalClient, o RingOptions) (*Ring, error) {
	r := newRing(client, o)
	if err := r.look(ctx); err != nil {
		return nil, fmt.Errorf("opening the ring of keys: %w", err)
	}
	return r, nil
}

func newRing(client redis.UniversalClient, o RingOptions) *Ring {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Record == nil {
		o.Record = func(context.Context, RingChange) error { return nil }
	}
	store := newRingStore(client)
	return &Ring{
		turn: make(chan struct{}, 1),
		o:    o, name: trust.Fingerprint(o.Root.Certificate()), store: store,
		local: newLocal(o.State, o.Root), promises: promises{store: store, until: map[string]time.Time{}},
	}
}

// Run follows the ring until ctx ends. What fails is tried again and told by
// [Ring.Status].
func (r *Ring) Run(ctx context.Context) {
	tick := time.NewTicker(ringEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			r.follow(ctx)
			if r.promises.due() {
				r.keep(ctx)
			}
		}
	}
}

// follow looks, and reports what is news.
func (r *Ring) follow(ctx context.Context) error {
	if err := r.begin(ctx); err != nil {
		return err
	}
	defer r.end()
	return r.report(r.look(ctx))
}

func (r *Ring) keep(ctx context.Context) {
	if err := r.promises.keep(ctx); err != nil {
		r.o.Log.Warn("until when KEKs are needed could not be written", "error", err)
	}
}

// ask is follow for those who have a KEK unwrapped that is not known, anyone
// with a session: what was refused just now is not looked at again, as that may
// take the chip.
func (r *Ring) ask(ctx context.Context) error {
	if err := r.begin(ctx); err != nil {
		return err
	}
	defer r.end()
	if err := r.lastErr(); err != nil && time.Since(r.looked) < lookAgain {
		return err
	}
	return r.report(r.look(ctx))
}

func (r *Ring) lastErr() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}

// begin waits for the turn; end gives it back.
func (r *Ring) begin(ctx context.Context) error {
	select {
	case r.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (r *Ring) end() { <-r.turn }

// report keeps how a look ended, and logs it if that is news.
func (r *Ring) report(err error) error {
	r.mu.Lock()
	before := r.err
	r.err = err
	r.mu.Unlock()
	switch {
	case err != nil && (before == nil || before.Error() != err.Error()):
		r.o.Log.Error("reading the ring of keys failed", "error", err)
	case err == nil && before != nil:
		r.o.Log.Info("reading the ring of keys works again", "version", r.state.Load().Version)
	}
	return err
}

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

// newest returns the KEK that wraps now. It refuses if that cannot be told.
func (r *Ring) newest() (*kek, error) {
	s := r.state.Load()
	switch {
	case s.newest == nil:
		return nil, fmt.Errorf("%w: %w", broker.ErrUnavailable, ErrNotMember)
	case time.Since(s.seen) > ringFresh:
		return nil, fmt.Errorf("%w: %w", broker.ErrUnavailable, errStale)
	}
	return s.newest, nil
}

// find returns the KEK with an id. One that is not known may be in an edition
// that was not seen yet; to ask costs one read of Redis, and only those who have
// a session get here.
func (r *Ring) find(ctx context.Context, id string) (*kek, error) {
	if k := r.state.Load().keks[id]; k != nil {
		return k, nil
	}
	err := r.ask(ctx)
	if k := r.state.Load().keks[id]; k != nil {
		return k, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", broker.ErrUnavailable, err)
	}
	return nil, fmt.Errorf("%w: KEK %s was destroyed, or is of another fleet", broker.ErrWrapped, printableID(id))
}

// printableID is an id that a stranger wrote, for an error.
func printableID(id string) string { return fmt.Sprintf("%.32q", id) }

// Roots returns the root certificates of the fleet's brokers. The caller must
// not change it.
func (r *Ring) Roots() []*x509.Certificate { return r.state.Load().roots }

// head is how Redis names the edition: see [ringStore].
func (e *edition) head() string { return fmt.Sprintf("%d %s", e.Version, e.digest) }

func (s *ringState) change() RingChange {
	c := RingChange{Version: s.Version, Digest: s.digest, By: s.by, Change: s.Change, KEK: s.newest.id}
	for _, root := range s.roots {
		c.Members = append(c.Members, trust.Fingerprint(root))
	}
	return c
}
