package broker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// sweepInterval is how late the end of a lease may be noticed. The credential
// itself ends by its own time, so this delays only clean-up at targets that do
// not expire what they hold.
const sweepInterval = time.Second

const (
	// laneWorkers is how many leases of one target a broker ends at the same
	// time. A database has some hundred connections, for its users first; and
	// they share the syncs of the audit log, so more would not be faster.
	laneWorkers = 16

	// ClaimBatch is how many leases of a shard one claim brings at most, so that no
	// script blocks Redis for longer than about a millisecond.
	ClaimBatch = 100

	// laneLength bounds what waits for one target: what one claim can bring.
	laneLength = Shards * ClaimBatch

	// claimHeld is how long a lease may wait for its turn: well within the time
	// for which the store lets a broker keep what it claimed. What was not begun
	// by then is claimed again, by any broker.
	claimHeld = 10 * time.Second
)

// Sweep ends leases whose time has come, and tries failed revocations again,
// until ctx ends. Every broker sweeps; a lease is claimed by one at a time.
// report is called with the errors of a round, which the next round mends.
//
// A round does not wait for the one before: what hangs at one target holds up
// nobody else's leases. Where more may be due than one claim brings, the next
// follows as soon as that is done, unless nothing of it could be: who has thousands
// of leases end in one shard does not keep those of others there from being ended.
func (b *Broker) Sweep(ctx context.Context, report func(error)) {
	tick := time.NewTicker(sweepInterval)
	defer tick.Stop()
	var rounds sync.WaitGroup
	defer rounds.Wait()
	for {
		r, done := &round{}, make(chan struct{}, 1)
		claimed := b.claim(ctx, time.Now(), r)
		rounds.Go(func() {
			if err := r.wait(); err != nil && ctx.Err() == nil {
				report(err)
			}
			if claimed >= ClaimBatch && r.failed < claimed {
				done <- struct{}{}
			}
		})
		select {
		case <-ctx.Done():
			return
		case <-done:
		case <-tick.C:
		}
	}
}

// SweepOnce ends the leases that are due at now, and waits until that is done.
func (b *Broker) SweepOnce(ctx context.Context, now time.Time) error {
	r := &round{}
	b.claim(ctx, now, r)
	return r.wait()
}

// A round is one sweep: the leases that it claimed, in work.
type round struct {
	leases sync.WaitGroup
	mu     sync.Mutex
	err    error
	failed int
}

// maxReported bounds the errors that a round reports, of thousands alike.
const maxReported = 5

func (r *round) note(err error) {
	if err == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.failed++; r.failed <= maxReported {
		r.err = errors.Join(r.err, err)
	}
}

func (r *round) wait() error {
	r.leases.Wait()
	if r.failed > maxReported {
		return fmt.Errorf("%w\nand %d more", r.err, r.failed-maxReported)
	}
	return r.err
}

// claim gives each lease that is due at now into the lane of its target, and
// returns how many these are.
func (b *Broker) claim(ctx context.Context, now time.Time, r *round) int {
	due, err := b.Leases.ClaimDue(ctx, now)
	r.note(err)
	ctx, until := context.WithoutCancel(ctx), time.Now().Add(claimHeld)
	for _, l := range due {
		end := func() {
			if time.Now().Before(until) {
				r.note(b.sweepOne(ctx, now, l))
			}
		}
		r.leases.Add(1)
		if !b.lane(l.Credential).add(func() { defer r.leases.Done(); end() }) {
			r.leases.Done() // it is due again later
		}
	}
	return len(due)
}

// sweepOne ends a lease that was claimed, unless its target is down: then it is
// due again when the claim has passed, and no attempt is counted.
func (b *Broker) sweepOne(ctx context.Context, now time.Time, l *Lease) error {
	done, ok := b.lane(l.Credential).breaker.allow(now)
	if !ok {
		return nil
	}
	defer done()
	return b.finish(ctx, now, l, l.sweptAs(), "")
}

// sweptAs is the event that the end of l by a sweeper makes.
func (l *Lease) sweptAs() EventName {
	if l.Why == WhyExpired || l.Why == WhyLapsed {
		return EventExpire
	}
	return EventRevoke // another broker began it, or an operator
}

// A lane is the way of leases to one target.
type lane struct {
	breaker breaker

	mu      sync.Mutex
	waiting []func()
	workers int
}

// add has do done when its turn comes, or returns false if too many wait.
func (n *lane) add(do func()) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.waiting) >= laneLength {
		return false
	}
	n.waiting = append(n.waiting, do)
	if n.workers < laneWorkers {
		n.workers++
		go n.work()
	}
	return true
}

// work does what waits, and ends when nothing does. Whoever added it waits for
// it.
func (n *lane) work() {
	for {
		n.mu.Lock()
		if len(n.waiting) == 0 {
			n.workers--
			n.mu.Unlock()
			return
		}
		do := n.waiting[0]
		n.waiting = n.waiting[1:]
		n.mu.Unlock()
		do()
	}
}

// lanes has one for each credential. Those that are not configured any more
// share one.
func newLanes(targets map[string]Target) map[string]*lane {
	out := map[string]*lane{"": {}}
	for name := range targets {
		out[name] = &lane{}
	}
	return out
}

func (b *Broker) lane(credential string) *lane {
	if n, ok := b.lanes[credential]; ok {
		return n
	}
	return b.lanes[""]
}

// TargetUp reports whether the target of a credential is believed to answer: of
// its last revocations not all failed.
func (b *Broker) TargetUp(credential string) bool { return b.lane(credential).breaker.up() }
