package function

import (
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/plugins/exchange"
)

const (
	// firstListenPause is how long after the end of a stream another is asked for; it
	// doubles up to maxListenPause while streams end at once, less up to a half at
	// random.
	firstListenPause = 2 * time.Second
	maxListenPause   = time.Minute

	// signEvery is how often a broker that has nothing to tell gives a sign of life,
	// at the most: docs/http.md.
	signEvery = 15 * time.Second

	// mostBehind is how far a stream may lag behind before it is given up for another:
	// what comes between two signs of life counts for nothing. One that runs ahead by
	// more than mostAhead has signs that are no broker's.
	mostBehind = 2 * signEvery
	mostAhead  = signEvery
)

// A hearing is one stream of events.
type hearing struct {
	st     *state
	opened instant // before it was asked for
	begun  bool    // its first line has come, which vouches for nothing
	signs  int     // of life, since then
	odd    bool    // it is given up
}

// told returns until when at least the broker had told all it knew, when it sent
// the last sign of life. When that was nobody can tell from when it came: what
// carries the stream may have kept it, and this process may have stood still. But
// there is no more than one in signEvery.
func (h *hearing) told() instant { return h.opened.add(time.Duration(h.signs) * signEvery) }

// listen hears what the broker tells of each session in turn, until Close.
func (s *Set) listen() {
	for times := 0; s.life.Err() == nil; {
		s.heard() // of the session that is taken now
		st := s.state.Load()
		if st == nil {
			s.rest(wakeTime)
			continue
		}
		began := s.now()
		err := s.hear(st)
		if errors.Is(err, exchange.ErrNoEvents) {
			s.tell(err)
			s.rest(maxLife) // the next session may be with another broker
			continue
		}
		if times++; !began.within(maxListenPause, s.now()) {
			times = 0
		}
		pause := min(maxListenPause, firstListenPause<<min(times, 10))
		if f, ok := errors.AsType[*exchange.Failure](err); ok {
			pause += f.RetryAfter
		}
		s.rest(pause - rand.N(pause/2))
	}
}

// heard takes the news that there is another session, if there is any.
func (s *Set) heard() {
	select {
	case <-s.news:
	default:
	}
}

// rest waits for d, or for another session, or Close.
func (s *Set) rest(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-s.news:
	case <-s.life.Done():
	}
}

// hear listens for the session of st until it is replaced. The end of the stream may
// be the end of the session.
func (s *Set) hear(st *state) error {
	ctx, cancel := context.WithCancel(s.life)
	s.running.Go(func() {
		defer cancel()
		select {
		case <-s.news:
		case <-ctx.Done():
		}
	})
	h := &hearing{st: st, opened: s.now()}
	err := s.client.Listen(ctx, st.session, func(e *api.Event) {
		if s.heed(h, e); h.odd {
			cancel()
		}
	})
	replaced := ctx.Err() != nil && !h.odd
	cancel()
	if !replaced && s.life.Err() == nil {
		s.ask()
	}
	return err
}

// heed acts on one event. A sign of life vouches for what is in force, as answers
// do: had something been revoked, that would have come first.
//
// That keys of the broker were rotated takes nothing away from what was made with
// others: docs/http.md.
func (s *Set) heed(h *hearing, e *api.Event) {
	var revoked api.Revocation
	switch {
	case e.Name == api.EventRevoked && json.Unmarshal(e.Data, &revoked) == nil:
		s.drop(h.st, func(c *Credential) bool { return revoked.Session || revoked.LeaseID == c.LeaseID }, nil)
	case e.Name == api.EventRevoked:
		s.ask()
	case e.Name == "" && h.begun:
		h.signs++
		now, told := s.now(), h.told()
		h.odd = !told.within(mostBehind, now) || told.steady > now.steady+mostAhead
		if told.steady <= now.steady && !h.odd {
			s.vouch(h.st, told)
		}
	}
	h.begun = true
}

// ask asks what was revoked, now. Its failure is told by land.
func (s *Set) ask() { s.wait(s.life, s.fly(s.life, &s.confirming, s.state.Load(), s.confirm)) }

// vouch notes that all of st was in force at a time. Leases that need heartbeats need
// more than that.
func (s *Set) vouch(st *state, at instant) {
	if s.state.Load() != st || st.beat > 0 || st.confirmed.Load().steady >= at.steady {
		return
	}
	st.asked.Store(&at)
	st.confirm(at, s.options.MaxStale)
}

// tell gives OnError an error.
func (s *Set) tell(err error) {
	if s.options.OnError != nil {
		s.options.OnError(explain(err))
	}
}
