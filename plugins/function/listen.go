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
)

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
			return
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
	var last instant // when the broker last showed life; zero: not yet
	err := s.client.Listen(ctx, st.session, func(e *api.Event) {
		last = s.heed(st, e, last)
	})
	replaced := ctx.Err() != nil
	cancel()
	if !replaced && s.life.Err() == nil {
		s.ask()
	}
	return err
}

// heed acts on one event of the session of st, and returns its time. Signs of life
// vouch for what is in force, as answers do: had something been revoked, that would
// have come first. But what is read after a freeze may have been sent before it.
//
// That keys of the broker were rotated takes nothing away from what was made with
// others: docs/http.md.
func (s *Set) heed(st *state, e *api.Event, last instant) instant {
	now := s.now()
	var revoked api.Revocation
	switch {
	case e.Name == api.EventRevoked && json.Unmarshal(e.Data, &revoked) == nil:
		s.drop(st, func(c *Credential) bool { return revoked.Session || revoked.LeaseID == c.LeaseID })
	case e.Name == api.EventRevoked, last != instant{} && last.frozen(now):
		s.ask()
	case e.Name == "" && last != instant{}:
		s.vouch(st, now)
	}
	return now
}

// ask asks what was revoked, now. Its failure is told by land.
func (s *Set) ask() { s.wait(s.life, s.fly(s.life, &s.confirming, s.confirm)) }

// vouch notes that all of st is in force at now. Leases that need heartbeats need
// more than that.
func (s *Set) vouch(st *state, now instant) {
	if s.state.Load() != st || st.beat > 0 {
		return
	}
	st.asked.Store(&now)
	st.confirm(now, s.options.MaxStale)
}

// tell gives OnError an error.
func (s *Set) tell(err error) {
	if s.options.OnError != nil {
		s.options.OnError(explain(err))
	}
}
