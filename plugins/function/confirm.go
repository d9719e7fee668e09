package function

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/brevet-dev/brevet/plugins/exchange"
)

const (
	// confirmTime bounds a question that a caller waits for.
	confirmTime = 2 * time.Second

	// askPause is how long after a question that was not answered nobody waits for
	// another.
	askPause = 5 * time.Second

	// outageTime is for how long a broker that did not answer is expected not to:
	// then one caller waits for the next question, else all.
	outageTime = 30 * time.Second
)

// errUnconfirmed says that it is not known whether something was revoked.
var errUnconfirmed = errors.New("asking the broker what was revoked")

// stale reports whether the broker must be asked before st is used. While it is being
// asked everybody who comes waits for its answer, but in an outage that is known.
func (s *Set) stale(st *state, now instant) bool {
	if s.options.MaxStale < 0 || st.confirmed.Load().within(s.options.MaxStale, now) {
		return false
	}
	silent := st.silent.Load()
	if silent == nil || !silent.within(outageTime, now) {
		return true
	}
	// Of many who come at once the one who takes the next turn is to wait for it.
	return !silent.within(min(askPause, s.options.MaxStale), now) && st.silent.CompareAndSwap(silent, &now)
}

// askEvery is how often the broker is asked in the background; 0: never. It is
// often enough for callers not to have to wait, and for each heartbeat to come
// three times.
func (s *Set) askEvery(st *state) time.Duration {
	every := shorter(max(0, s.options.MaxStale)/2, st.beat/3)
	if every == 0 {
		return 0
	}
	return max(leastNap, every)
}

// askNow reports whether to ask in the background: only if somebody uses what is
// asked about, or it dies unless somebody does.
func (s *Set) askNow(st *state, now instant) bool {
	every := s.askEvery(st)
	if every == 0 || st.asked.Load().within(every, now) {
		return false
	}
	return st.beat > 0 || s.used.Swap(false)
}

// confirm asks the broker which leases live, and drops those that do not.
// Credentials that need heartbeats are given one.
func (s *Set) confirm(ctx context.Context) error {
	st := s.state.Load()
	if st == nil {
		return nil
	}
	now, _ := s.thaw()
	st.asked.Store(&now)
	ctx, cancel := context.WithTimeout(ctx, confirmTime)
	defer cancel()
	var late error
	if st.beat > 0 {
		late = s.client.Heartbeat(ctx, st.session)
	}
	in, err := s.client.Introspect(ctx, st.session)
	if err != nil {
		st.silent.Store(&now)
		return fmt.Errorf("%w: %w", errUnconfirmed, err)
	}
	dead := func(c *Credential) bool { return !in.Active || !slices.Contains(in.Leases, c.LeaseID) }
	if exchange.IsKind(late, exchange.Denied) {
		late = nil // what needed it is not among the living
	}
	if late != nil {
		st.silent.Store(&now)
		s.drop(st, dead, nil)
		return fmt.Errorf("%w: sending a heartbeat: %w", errUnconfirmed, late)
	}
	st.silent.Store(nil)
	if st.hasAny(dead) {
		s.drop(st, dead, &now)
	} else {
		st.confirm(now, s.options.MaxStale)
	}
	return nil
}

// drop takes what has ended out of the session of st, so that it is not handed out
// again, and has all refreshed. The rest is known to be in force at the time at;
// nil: that is not known.
func (s *Set) drop(st *state, dead func(*Credential) bool, at *instant) {
	for {
		current := s.state.Load()
		if current == nil || current.got != st.got || !current.hasAny(dead) {
			return // replaced meanwhile, or all is well
		}
		rest := current.without(dead)
		if at != nil {
			rest.confirmed.Store(at)
		}
		if s.state.CompareAndSwap(current, rest) {
			return
		}
	}
}

func (st *state) hasAny(dead func(*Credential) bool) bool {
	for _, c := range st.credentials {
		if dead(c) {
			return true
		}
	}
	return false
}
