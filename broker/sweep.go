package broker

import (
	"context"
	"errors"
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

// SweepOnce ends the leases that are due at now.
func (b *Broker) SweepOnce(ctx context.Context, now time.Time) error {
	due, err := b.Leases.ClaimDue(ctx, now)
	for _, l := range due {
		name := EventExpire
		if l.Why != WhyExpired && l.Why != WhyLapsed {
			name = EventRevoke // another broker began it
		}
		err = errors.Join(err, b.finish(context.WithoutCancel(ctx), now, l, name, ""))
	}
	return err
}
