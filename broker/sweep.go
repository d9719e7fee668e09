package broker

import (
	"context"
	"errors"
	"sync"
	"time"
)

// sweepInterval is how late the end of a lease may be noticed. The credential
// itself ends by its own time, so this delays only clean-up at targets that do
// not expire what they hold.
const sweepInterval = time.Second

// Sweep ends leases whose time has come, and tries failed revocations again,
// until ctx ends. Every broker sweeps; a lease is claimed by one at a time.
// report is called with the errors of a round, which the next round mends.
func (b *Broker) Sweep(ctx context.Context, report func(error)) {
	tick := time.NewTicker(sweepInterval)
	defer tick.Stop()
	for {
		if err := b.SweepOnce(ctx, time.Now()); err != nil && ctx.Err() == nil {
			report(err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// sweepers is how many leases a broker ends at the same time. They share the
// syncs of the audit log; a target has its own limits.
const sweepers = 64

// sweepRound bounds one round: well within the time for which the store lets a
// broker keep what it claimed. What was not begun by then is claimed again.
const sweepRound = 10 * time.Second

// maxReported bounds the errors that a round reports, of thousands alike.
const maxReported = 5

// SweepOnce ends the leases that are due at now.
func (b *Broker) SweepOnce(ctx context.Context, now time.Time) error {
	due, err := b.Leases.ClaimDue(ctx, now)
	until := time.Now().Add(sweepRound)
	var (
		mu      sync.Mutex // guards err and failed
		failed  int
		workers sync.WaitGroup
		places  = make(chan struct{}, sweepers)
	)
	for _, l := range due {
		places <- struct{}{}
		if time.Now().After(until) {
			break
		}
		workers.Go(func() {
			defer func() { <-places }()
			ended := b.finish(context.WithoutCancel(ctx), now, l, l.sweptAs(), "")
			if ended == nil {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			if failed++; failed <= maxReported {
				err = errors.Join(err, ended)
			}
		})
	}
	workers.Wait()
	return err
}

// sweptAs is the event that the end of l by a sweeper makes.
func (l *Lease) sweptAs() EventName {
	if l.Why == WhyExpired || l.Why == WhyLapsed {
		return EventExpire
	}
	return EventRevoke // another broker began it
}
