package function

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/plugins/exchange"
)

const (
	// flightTime ends an exchange that others wait for; they may try another.
	flightTime = 30 * time.Second

	// wakeTime is how often the clocks are looked at: a timer stands still while
	// a sandbox is frozen.
	wakeTime = 30 * time.Second

	// firstPause follows a failed exchange, and doubles with each up to maxPause,
	// less up to a half at random. Meanwhile who needs one has the error at once.
	firstPause = 500 * time.Millisecond
	maxPause   = 30 * time.Second
)

// A flight is one request to the broker that many wait for.
type flight struct {
	began  instant
	cancel context.CancelFunc
	done   chan struct{}
	err    error // valid when done is closed

	abandoned atomic.Bool // another took its place
}

// trouble is what went wrong last with exchanges; zero if the last one went well.
type trouble struct {
	err   error
	times int
	since instant
	pause time.Duration // no other exchange so long from since
}

// get returns a credential when that takes more than a look. Each round either
// ends, or follows an exchange that went well, or found that another had.
func (s *Set) get(ctx context.Context, name string) (*Credential, error) {
	for range 5 {
		now, st := s.now(), s.state.Load()
		if st != nil && st.usable(name, now) != nil && s.stale(st, now) {
			f := s.fly(ctx, &s.confirming, st, s.confirm)
			err := s.waitBriefly(ctx, f)
			if err != nil && ctx.Err() != nil {
				return nil, err
			}
			if f.abandoned.Load() || err == nil && !f.began.within(max(s.options.MaxStale, 2*confirmTime), s.now()) {
				continue // the process stood still meanwhile
			}
			now, st = s.now(), s.state.Load()
		}
		if st != nil {
			if c := st.usable(name, now); c != nil {
				s.refreshLater(ctx, st, now)
				return c, nil
			}
		}
		if err := s.recent(ctx, now); err != nil {
			return nil, err
		}
		f := s.fly(ctx, &s.refreshing, st, s.exchange)
		if err := s.wait(ctx, f); err != nil && !f.abandoned.Load() && !wantsRequest(ctx, err) {
			return nil, err
		}
	}
	return nil, fmt.Errorf("%w: what the broker grants is over before it can be used", errShort)
}

var errShort = errors.New("the lives are too short")

// Refresh does what is due: an exchange, or a question after revocations, that a
// [Set.Get] of this moment would begin or wait for. It waits for that until ctx
// ends, and what is under way then goes on. Nothing is due after a failure until
// its pause is over.
//
// It is for platforms that say before they freeze the process: what is done by
// then is not frozen half-way.
func (s *Set) Refresh(ctx context.Context) error {
	now, st := s.now(), s.state.Load()
	if st != nil && !st.due(now) {
		if !s.stale(st, now) {
			return nil
		}
		return explain(s.wait(ctx, s.fly(ctx, &s.confirming, st, s.confirm)))
	}
	if err := s.recent(ctx, now); err != nil {
		return explain(err)
	}
	return explain(s.wait(ctx, s.fly(ctx, &s.refreshing, st, s.exchange)))
}

// refreshLater starts a refresh that is due, and does not wait for it.
func (s *Set) refreshLater(ctx context.Context, st *state, now instant) {
	if st.due(now) && s.recent(ctx, now) == nil {
		s.fly(ctx, &s.refreshing, st, s.exchange)
	}
}

// recent returns why the last exchange failed if that is too short a time ago for
// another. What failed for want of a request is tried with each that comes.
func (s *Set) recent(ctx context.Context, now instant) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return ErrClosed
	}
	if s.trouble.err != nil && !wantsRequest(ctx, s.trouble.err) && s.trouble.since.within(s.trouble.pause, now) {
		return s.trouble.err
	}
	return nil
}

// fly starts do, or returns the flight that is under way: of a thousand callers
// one asks. It goes on when the one who began it has no time left, and has what
// that one's context carries. A flight from before a freeze waits on connections
// that are dead; another takes its place. Who comes so late that seen is not what is
// handed out any more looks again.
func (s *Set) fly(ctx context.Context, slot **flight, seen *state, do func(context.Context) error) *flight {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	if f := *slot; f != nil && !f.began.frozen(now) {
		return f
	} else if f != nil {
		f.abandoned.Store(true)
		f.cancel()
	}
	f := &flight{began: now, done: make(chan struct{})}
	if s.closed {
		f.err = ErrClosed
	}
	if s.closed || s.state.Load() != seen {
		close(f.done)
		return f
	}
	flying, cancel := context.WithTimeout(context.WithoutCancel(ctx), flightTime)
	f.cancel = cancel
	release := context.AfterFunc(s.life, cancel)
	*slot = f
	s.running.Go(func() {
		defer close(f.done)
		defer release()
		defer cancel()
		f.err = do(flying)
		s.land(slot, f)
	})
	return f
}

// doubt gives up the connections if err says that nothing came through. What came in
// the broker's own words did.
func (s *Set) doubt(err error) {
	if _, answered := errors.AsType[*api.Error](err); !answered && exchange.IsKind(err, exchange.Unavailable) {
		s.http.CloseIdleConnections()
	}
}

// land makes room for the next flight, and tells of a failure.
func (s *Set) land(slot **flight, f *flight) {
	if f.err != nil && s.life.Err() == nil && !f.abandoned.Load() {
		s.doubt(f.err)
		s.note(f.err)
		s.tell(f.err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if *slot == f {
		*slot = nil
	}
}

// wait waits for f as long as ctx and Close let it.
func (s *Set) wait(ctx context.Context, f *flight) error {
	select {
	case <-f.done:
		return f.err
	case <-ctx.Done():
		return s.late(ctx.Err())
	case <-s.life.Done():
		return ErrClosed
	}
}

// waitBriefly waits for f no longer than half of the time that ctx leaves: the caller
// has use for what is in force only while it has time.
func (s *Set) waitBriefly(ctx context.Context, f *flight) error {
	if end, ok := ctx.Deadline(); ok {
		short, cancel := context.WithTimeout(ctx, time.Until(end)/2)
		defer cancel()
		ctx = short
	}
	return s.wait(ctx, f)
}

// late says why a caller had to wait for too long, as far as it is known.
func (s *Set) late(err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	why := s.failed
	if why == nil {
		why = s.trouble.err
	}
	if why == nil {
		return fmt.Errorf("waiting for %s: %w", s.other, err)
	}
	return fmt.Errorf("waiting for %s: %w; before that: %w", s.other, err, why)
}

// waitFor notes who is to answer next.
func (s *Set) waitFor(who string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.other, s.failed = who, nil
}

// fail notes why the broker has not answered yet.
func (s *Set) fail(err error) {
	s.doubt(err)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failed = err
}

// exchange gets a token of the platform and exchanges it for all credentials. Where
// there is no connection to the broker it is made meanwhile.
func (s *Set) exchange(ctx context.Context) error {
	if err := s.connect(); err != nil {
		return err
	}
	began, alone := s.thaw()
	if alone {
		end := s.client.Connect(ctx)
		defer end()
	}
	s.waitFor("the platform's token")
	token, err := s.source.Token(ctx, s.options.Audience)
	s.waitFor("the broker")
	if err != nil {
		return err
	}
	answer, err := s.client.Exchange(ctx, exchange.Request{SubjectToken: token, Credentials: s.credentials, TTL: s.options.TTL, Failed: s.fail})
	if err != nil {
		return err
	}
	st, err := newState(answer, s.sent(answer.Sent, began), s.options.MaxStale)
	if err != nil {
		return errors.Join(err, s.client.Revoke(ctx, answer.AccessToken))
	}
	s.replace(st)
	return nil
}

// sent returns when a request was sent: t by time.Now, in a flight that began
// earlier. Where the sandbox was frozen since, the beginning is safer.
func (s *Set) sent(t time.Time, began instant) instant {
	now, ago := s.now(), time.Since(t)
	if began.frozen(now) {
		return began
	}
	return now.add(-ago)
}

// replace makes st what is handed out, unless something newer is, or Close has begun.
// The session of the other one is kept, to be ended when all is given back.
func (s *Set) replace(st *state) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.trouble, s.failed = trouble{}, nil
	if old := s.state.Load(); s.closed || old != nil && old.got.steady > st.got.steady {
		s.retire(st.session)
		return
	}
	if old := s.state.Swap(st); old != nil {
		s.retire(old.session)
	}
	select {
	case s.news <- struct{}{}:
	default: // there is one already
	}
}

// retire keeps a session that is not used any more; s.mu is held. Those that were
// replaced longest ago have ended by their time.
func (s *Set) retire(session api.Secret) {
	s.retired = append(s.retired, session)
	s.retired = s.retired[max(0, len(s.retired)-maxRetired):]
}

// maxRetired is how many replaced sessions may live at the same time: one but for
// freezes and retries.
const maxRetired = 4

// thaw gives up connections that a freeze has made useless, and returns the time.
// alone says that there is none left, or was none before.
func (s *Set) thaw() (now instant, alone bool) {
	now = s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	alone = s.wire == instant{}
	if !alone && s.wire.frozen(now) {
		s.http.CloseIdleConnections()
		alone = true
	}
	s.wire = now
	return now, alone
}

// note keeps what went wrong.
func (s *Set) note(err error) {
	if errors.Is(err, errUnconfirmed) {
		return // not of an exchange
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	pause := min(maxPause, firstPause<<min(s.trouble.times, 10))
	pause -= rand.N(pause / 2)
	if f, ok := errors.AsType[*exchange.Failure](err); ok && f.RetryAfter > 0 {
		pause += f.RetryAfter
	}
	s.trouble = trouble{err, s.trouble.times + 1, s.now(), pause}
}

// tend refreshes and asks in the background until Close.
func (s *Set) tend() {
	for s.sleep() {
		now, st := s.now(), s.state.Load()
		switch {
		case st != nil && st.due(now) && s.recent(s.life, now) == nil:
			s.wait(s.life, s.fly(s.life, &s.refreshing, st, s.exchange)) // land has told of an error
		case st != nil && s.askNow(st, now):
			s.wait(s.life, s.fly(s.life, &s.confirming, st, s.confirm)) // likewise
		}
	}
}

// sleep waits until something may be due. It reports false when all is over.
func (s *Set) sleep() bool {
	timer := time.NewTimer(s.nap())
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-s.life.Done():
		return false
	}
}

// nap is how long nothing is due.
func (s *Set) nap() time.Duration {
	now, st := s.now(), s.state.Load()
	if st == nil {
		return wakeTime // Get exchanges
	}
	elapsed, _ := st.got.elapsed(now)
	next := st.refresh - elapsed
	s.mu.Lock()
	if s.trouble.err != nil {
		since, _ := s.trouble.since.elapsed(now)
		next = max(next, s.trouble.pause-since)
	}
	s.mu.Unlock()
	if every := s.askEvery(st); every > 0 {
		asked, _ := st.asked.Load().elapsed(now)
		next = min(next, every-asked)
	}
	return min(wakeTime, max(next, leastNap))
}

// leastNap keeps tend from spinning when a clock is odd.
const leastNap = 100 * time.Millisecond
