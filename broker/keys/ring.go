package keys

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
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
