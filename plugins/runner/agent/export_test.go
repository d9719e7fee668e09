package agent

import (
	"context"
	"slices"

	"github.com/brevet-dev/brevet/broker/api"
)

// Lease returns the lease of a credential, as a tool gets it.
func (a *Agent) Lease(ctx context.Context, credential string) (*api.Lease, error) {
	return a.lease(ctx, credential)
}

// GiveBack ends what the agent has, as Serve does at its end.
func (a *Agent) GiveBack(ctx context.Context) error { return a.giveBack(ctx) }

// MaxSilent is that constant.
const MaxSilent = maxSilent

// Reply is the answer to one line of a tool's that does not end the agent.
func (a *Agent) Reply(ctx context.Context, line []byte) reply {
	close(a.ended)
	defer a.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer a.running.Wait()
	defer cancel()
	return a.reply(ctx, line)
}

// KeepShelf fills the shelf and keeps it filled, as Serve does.
func (a *Agent) KeepShelf(ctx context.Context) error { return newShelf(a).run(ctx) }

// Told returns the latest of what was told.
func (a *Agent) Told() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.told)
}
