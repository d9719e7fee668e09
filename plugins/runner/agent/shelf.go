package agent

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/plugins/runner"
)

const (
	// firstPause follows a credential that could not be got, and doubles with each
	// up to maxPause, less up to a quarter at random: the pods of one deployment
	// shall not come back together.
	firstPause = 2 * time.Second
	maxPause   = time.Minute

	// wakeTime is how often the clock is looked at: a timer stands still while a
	// machine sleeps.
	wakeTime = 30 * time.Second
)

// A shelf has the values of all credentials in files, for programs that ask
// nobody. It is one of the agent's tools: it asks again whenever a holder has
// something else, and waits for none, so that no credential waits for another.
type shelf struct {
	agent *Agent
	slots []*slot
	shown time.Time // what the ready file says; zero: there is none
}

// A slot is one credential's place.
type slot struct {
	holder *holder
	lease  *api.Lease // what the files have; nil: nothing yet
	ends   time.Time  // of the values of lease
	failed error      // the last time it was asked for; nil: it is there
	pause  time.Duration
	again  time.Time // when it may be asked for after a failure
}

func newShelf(a *Agent) *shelf {
	s := &shelf{agent: a}
	for _, name := range a.o.Credentials {
		s.slots = append(s.slots, &slot{holder: a.holders[name]})
	}
	return s
}

// run fills the shelf and keeps it filled until ctx ends. The error is why it
// cannot be filled a first time; a broker that does not answer is none.
func (s *shelf) run(ctx context.Context) error {
	defer s.show(time.Time{})
	for {
		if err := s.look(ctx, time.Now()); err != nil {
			return err
		}
		timer := time.NewTimer(s.nap(time.Now()))
		select {
		case <-s.agent.changed:
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil
		}
		timer.Stop()
	}
}

// look asks all holders, and puts what they have onto the shelf.
func (s *shelf) look(ctx context.Context, now time.Time) error {
	var leases []api.Lease
	for _, one := range s.slots {
		lease, err := one.ask(ctx, now)
		if err != nil && one.lease == nil && !runner.IsKind(err, runner.Unavailable) {
			return err
		}
		if err != nil {
			s.agent.tell(fmt.Errorf("no other %s for the files: %w", one.holder.name, err))
		}
		if lease != nil {
			leases = append(leases, *lease)
		}
	}
	if len(leases) == len(s.slots) {
		if err := s.put(leases); err != nil {
			return err
		}
	}
	s.show(s.until(now))
	return nil
}

// ask returns the lease for the files: the one that the holder hands out, or the
// one that is there already. err tells what is new of getting another.
func (s *slot) ask(ctx context.Context, now time.Time) (*api.Lease, error) {
	if s.lease != nil {
		s.ends = earlier(s.ends, s.holder.lostAt(*s.lease))
	}
	if s.failed != nil && now.Before(s.again) {
		return s.lease, nil
	}
	lease, flight, err := s.holder.join(ctx, now)
	switch {
	case err != nil && ctx.Err() == nil:
		told := s.failed != nil && s.failed.Error() == err.Error()
		s.failed, s.pause = err, min(max(firstPause, 2*s.pause), maxPause)
		s.again = now.Add(s.pause - rand.N(s.pause/4))
		if told {
			err = nil
		}
		return s.lease, err
	case lease == nil || flight != nil:
		return s.lease, nil // it is on its way
	}
	s.failed, s.pause = nil, 0
	return lease, nil
}

// put writes the files, if they are of other leases. Once they are there, trouble
// is told, and the old ones stay.
func (s *shelf) put(leases []api.Lease) error {
	same := true
	for i, one := range s.slots {
		same = same && one.lease != nil && one.lease.LeaseID == leases[i].LeaseID && one.lease.ExpiresAt.Equal(leases[i].ExpiresAt)
	}
	if same {
		return nil
	}
	if err := s.agent.o.Files.Put(leases); err != nil && s.slots[0].lease == nil {
		return err
	} else if err != nil {
		s.agent.tell(err)
		return nil
	}
	for i, one := range s.slots {
		one.lease, one.ends = &leases[i], leases[i].ExpiresAt
	}
	return nil
}

// until returns the time at which the first of the values in the files ends; zero
// if one has ended, or is not there yet.
func (s *shelf) until(now time.Time) (first time.Time) {
	for _, one := range s.slots {
		if one.lease == nil || !now.Before(one.ends) {
			return time.Time{}
		}
		if first.IsZero() || one.ends.Before(first) {
			first = one.ends
		}
	}
	return first
}

// show makes the ready file say until when all is there; zero removes it.
func (s *shelf) show(until time.Time) {
	if until.Equal(s.shown) || s.agent.o.Ready == "" {
		return
	}
	if err := WriteReady(s.agent.o.Ready, until); err != nil {
		s.agent.tell(err)
		return
	}
	s.shown = until
}

// nap is how long nothing is to be done, unless a holder has something else.
func (s *shelf) nap(now time.Time) time.Duration {
	nap := wakeTime
	for _, one := range s.slots {
		if one.failed != nil {
			nap = min(nap, one.again.Sub(now))
		}
		if one.lease != nil && now.Before(one.ends) {
			nap = min(nap, one.ends.Sub(now))
		}
	}
	return max(nap, leastNap)
}

// leastNap keeps a shelf from spinning where a clock is odd.
const leastNap = 10 * time.Millisecond

func earlier(a, b time.Time) time.Time {
	if !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
