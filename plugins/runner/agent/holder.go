package agent

import (
	"context"
	"sync"
	"time"

	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/plugins/runner"
)

const (
	// leastLeft is the time for which a lease that is handed out lives at
	// least, or a quarter of its whole time if that is less. Leases are renewed
	// when at least a third is left, so tools wait only if that went wrong, or
	// the machine slept.
	leastLeft = time.Minute

	// quietTime is how long a failed exchange is not tried again: a tool in a
	// loop shall not become one at the broker.
	quietTime = 2 * time.Second
)

// A held lease is one that can be handed out.
type held struct {
	lease api.Lease
	spare time.Duration // it is not handed out with less left

	// ends is the lease's end by the clock that nobody sets. That one stands
	// still while the machine sleeps, and ExpiresAt is off when somebody sets
	// the other.
	ends time.Time
}

func hold(l api.Lease, now time.Time) (*held, error) {
	ttl := l.ExpiresAt.Sub(now)
	if ttl <= 0 {
		return nil, failf(runner.Unavailable, "set this machine's clock right", "by this machine's clock the new lease of %s has ended already", l.Credential)
	}
	return &held{l, min(leastLeft, ttl/4), now.Add(ttl)}, nil
}

// fresh reports whether h can be handed out.
func (h *held) fresh(now time.Time) bool {
	return h != nil && min(h.ends.Sub(now), h.lease.ExpiresAt.Sub(now)) >= h.spare
}

// A holder keeps one credential.
type holder struct {
	agent *Agent
	name  string

	mu     sync.Mutex
	held   *held         // nil: none
	flight *flight       // what callers wait for; nil: nothing
	wake   chan struct{} // renews held at once; nil: nobody looks after it
	over   error         // why there will be no lease any more
	lost   api.Lease     // the latest that cannot be renewed, with the end of its values
	failed error         // the latest exchange, and
	again  time.Time     // when the next may be
}

// A flight is an exchange or a renewal on its way.
type flight struct {
	done  chan struct{} // closed when lease or err is there
	lease *api.Lease
	err   error
}

// get returns the lease. If there is none with time left, all callers wait for
// the same exchange or renewal, which goes on when they have gone. ctx is the
// agent's.
func (h *holder) get(ctx context.Context, wait time.Duration) (*api.Lease, error) {
	lease, f, err := h.join(ctx, time.Now())
	if f == nil {
		return lease, err
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-f.done:
		return f.lease, f.err
	case <-timer.C:
		return nil, failf(runner.Unavailable, "", "no credential %s within %s; the agent tries on", h.name, wait)
	case <-ctx.Done():
		return nil, errEnding()
	}
}

// join returns the lease, or what to wait for.
func (h *holder) join(ctx context.Context, now time.Time) (*api.Lease, *flight, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.over != nil:
		return nil, nil, h.over
	case h.held.fresh(now):
		return &h.held.lease, nil, nil
	case h.flight != nil:
	case h.wake != nil:
		h.flight = &flight{done: make(chan struct{})}
		select {
		case h.wake <- struct{}{}:
		default: // it was asked for already
		}
	case h.failed != nil && now.Before(h.again):
		return nil, nil, h.failed
	case !h.agent.begin(func() { h.exchange(ctx) }):
		return nil, nil, errEnding()
	default:
		h.flight = &flight{done: make(chan struct{})} // h.mu is held: exchange cannot be done with it
	}
	return nil, h.flight, nil
}

func errEnding() error { return failf(runner.Unavailable, "", "the agent is ending") }

// exchange gets a lease and looks after it until it is lost, or ctx ends.
func (h *holder) exchange(ctx context.Context) {
	lease, session, err := h.agent.o.Open(ctx, h.name)
	if session != nil {
		h.agent.adopt(session)
	}
	if err == nil && ctx.Err() != nil {
		err = errEnding()
	}
	if err == nil {
		err = h.agent.o.Learn(*lease)
	}
	if err != nil {
		h.land(nil, err)
		return
	}
	wake := make(chan struct{}, 1)
	h.mu.Lock()
	h.wake = wake
	h.mu.Unlock()
	h.land(lease, nil)
	h.agent.running.Go(func() { session.KeepAlive(ctx, h.agent.tell) })
	session.Keep(ctx, runner.Renewals{
		Again:   func(string) bool { return true },
		Changed: h.changed,
		Failed:  h.trouble,
		Wake:    wake,
	})
	h.abandon(wake)
}

// changed gets the lease that a renewal gave.
func (h *holder) changed(l api.Lease) error {
	if err := h.agent.o.Learn(l); err != nil {
		return err
	}
	h.land(&l, nil)
	return nil
}

// land gives those who wait a lease, or the error of getting one.
func (h *holder) land(l *api.Lease, err error) {
	defer h.agent.notice()
	h.mu.Lock()
	defer h.mu.Unlock()
	if l != nil {
		h.held, err = hold(*l, time.Now())
	}
	if h.failed = err; err != nil {
		l, h.again = nil, time.Now().Add(quietTime)
	}
	select {
	case <-h.wake: // a renewal was asked for, and has come
	default:
	}
	if h.flight != nil {
		h.flight.lease, h.flight.err = l, err
		close(h.flight.done)
		h.flight = nil
	}
}

// trouble hears that a renewal went wrong. What the broker refused to renew, or
// ended, is not exchanged for again: that would be against the will of who said
// so. What was lost because nobody answered is, when it is asked for.
func (h *holder) trouble(l api.Lease, err error, lost bool) {
	h.agent.tell(err)
	if !lost {
		return
	}
	h.mu.Lock()
	h.wake, h.lost = nil, l
	if runner.IsKind(err, runner.Denied) {
		h.held, h.over = nil, err
	}
	h.mu.Unlock()
	h.land(nil, err)
}

// withdraw ends what is handed out, for good.
func (h *holder) withdraw(err error) {
	h.mu.Lock()
	h.held, h.over = nil, err
	h.mu.Unlock()
	h.land(nil, err)
}

// lostAt returns when the values of l end, if that cannot be renewed any more; else
// zero.
func (h *holder) lostAt(l api.Lease) time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.lost.LeaseID != l.LeaseID {
		return time.Time{}
	}
	return h.lost.ExpiresAt
}

// abandon notes that nobody looks after the lease any more that wake was for.
func (h *holder) abandon(wake chan struct{}) {
	h.mu.Lock()
	current := h.wake == wake
	if current {
		h.wake = nil
	}
	waiting := current && h.flight != nil
	h.mu.Unlock()
	if waiting {
		h.land(nil, failf(runner.Unavailable, "", "renewing %s: it cannot be, or the agent is ending", h.name))
	}
}
