package broker_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/brevet-dev/brevet/broker"
	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/broker/lease"
	"github.com/brevet-dev/brevet/test/servers"
)

func (h *harness) store() *lease.Store { return h.Leases.(*faultyStore).Store }

// order ends leases in bulk and returns the order.
func (h *harness) order(t *testing.T, sel broker.Selector, block time.Duration) *broker.Order {
	t.Helper()
	o := broker.NewOrder(broker.OrderRevoke, "alice@laptop", sel)
	if block > 0 {
		o.Until = o.Time.Add(block)
	}
	if err := h.store().Revoke(t.Context(), &o, func([]string) {}); err != nil {
		t.Fatalf("Revoke = %v", err)
	}
	return &o
}

func by(a broker.Attribute, value string) broker.Selector {
	return broker.Selector{Match: map[broker.Attribute]string{a: value}}
}

// What an operator ends is revoked at its target, recorded with its order, and
// neither renewed nor issued again.
func TestOrder(t *testing.T) {
	h := newHarness(t)
	issued := h.mustExchange(t, h.request(t, "deploy", "registry"))
	o := h.order(t, by(broker.ByCredential, "deploy"), time.Hour)
	if _, err := h.renew(t, issued, issued.Leases[0].LeaseID); !errors.Is(err, broker.ErrEnded) {
		t.Errorf("Renew of what was ended = %v, want ErrEnded", err)
	}
	h.sweepNow(t)
	if got := h.target.leases(); len(got) != 1 || got[0] != issued.Leases[1].LeaseID {
		t.Errorf("live: %v; want only registry's", got)
	}
	events := h.audit.named(broker.EventRevoke)
	if len(events) != 1 || events[0].Leases[0].Why != broker.WhyOrdered || events[0].Leases[0].Order != o.ID {
		t.Errorf("audit log: %+v; want one lease ended by %s", events, o.ID)
	}
	_, err := h.exchange(t, h.request(t, "deploy"))
	if r := broker.Refuse(err); !errors.Is(err, broker.ErrBlocked) || r.Status != 400 || r.Public.Code != api.CodeInvalidTarget {
		t.Errorf("Exchange of what is blocked = %v", err)
	}
	if h.Blocked() != 1 {
		t.Errorf("Blocked = %d, want 1", h.Blocked())
	}
	h.mustExchange(t, h.request(t, "registry"))
}

// sweepNow ends what is due now.
func (h *harness) sweepNow(t *testing.T) {
	t.Helper()
	if err := h.SweepOnce(t.Context(), time.Now()); err != nil {
		t.Fatalf("SweepOnce = %v", err)
	}
}

// The store knows which key signed a session's token.
func TestSelectByEpoch(t *testing.T) {
	h := newHarness(t)
	h.mustExchange(t, h.request(t, "deploy"))
	n := 0
	sel := by(broker.ByEpoch, h.epochs.Status().KeyID)
	if err := h.store().Select(t.Context(), &sel, func(lease.Found) error { n++; return nil }); n != 1 || err != nil {
		t.Errorf("Select(%s) found %d, %v; want the lease", sel, n, err)
	}
}

// A revocation that comes while the lease is renewed, so that the minter brings
// the credential back after it was revoked: it is revoked once more, though the
// renewing broker fails to, or is dead by then.
func TestRenewalCrossedByARevocation(t *testing.T) {
	for name, after := range map[string]func(f *faults){
		"its own revocation fails": func(f *faults) { f.at = "revoke deploy" },
		"the broker dies":          func(f *faults) { f.at, f.late, f.kill = "mint deploy", true, true },
	} {
		t.Run(name, func(t *testing.T) {
			h := newHarness(t)
			issued := h.mustExchange(t, h.request(t, "deploy"))
			target := h.Targets["deploy"]
			target.Minter = &hooked{target.Minter, func() {
				if err := h.RevokeSession(t.Context(), issued.Token, "R9"); err != nil {
					t.Error(err)
				}
				after(h.faults)
			}}
			h.Targets["deploy"] = target
			if _, err := h.renew(t, issued, issued.Leases[0].LeaseID); err == nil {
				t.Error("Renew succeeded after the lease was revoked")
			}
			h.sweep(t)
			h.assertGone(t, false)
			if events := h.audit.named(broker.EventRevoke); len(events) != 1 || events[0].Outcome != broker.Granted {
				t.Errorf("audit log: %+v; want one end", events)
			}
		})
	}
}

// A renewal that is over leaves no mark: what is revoked after it has ended at
// once.
func TestRevocationAfterARenewal(t *testing.T) {
	h := newHarness(t)
	issued := h.mustExchange(t, h.request(t, "deploy"))
	for range 2 {
		if _, err := h.renew(t, issued, issued.Leases[0].LeaseID); err != nil {
			t.Fatal(err)
		}
	}
	if err := h.RevokeSession(t.Context(), issued.Token, "R9"); err != nil {
		t.Fatal(err)
	}
	if got := h.live(t); len(got) != 0 {
		t.Errorf("leases %v live after their revocation", got)
	}
}

// A gate is a target that counts who revokes, and lets them wait, or fail.
type gate struct {
	broker.Minter
	open    chan struct{} // nil: nobody waits
	failing atomic.Bool
	says    error // when it is failing; nil: that it is down
	calls   atomic.Int64
	mu      sync.Mutex
	inside  int
	most    int
}

func (g *gate) Revoke(ctx context.Context, handle api.Secret) error {
	g.calls.Add(1)
	g.mu.Lock()
	g.inside++
	g.most = max(g.most, g.inside)
	g.mu.Unlock()
	defer func() {
		g.mu.Lock()
		g.inside--
		g.mu.Unlock()
	}()
	if g.open != nil {
		<-g.open
	}
	if g.failing.Load() {
		return cmp.Or(g.says, errors.New("the database is down"))
	}
	return g.Minter.Revoke(ctx, handle)
}

func (h *harness) gate(credential string) *gate {
	target := h.Targets[credential]
	g := &gate{Minter: target.Minter}
	target.Minter = g
	h.Targets[credential] = target
	return g
}

// A target that hangs holds up no other, and few places.
func TestHangingTarget(t *testing.T) {
	h := newHarness(t)
	g := h.gate("deploy")
	g.open = make(chan struct{})
	for range 40 {
		h.mustExchange(t, h.request(t, "deploy"))
	}
	h.order(t, broker.Selector{All: true}, 0)
	ctx, cancel := context.WithCancel(t.Context())
	var sweeping sync.WaitGroup
	sweeping.Go(func() { h.Sweep(ctx, func(error) {}) })
	servers.Eventually(t, "the target's places are full", func() error {
		if g.calls.Load() < 16 {
			return errors.New("not yet")
		}
		return nil
	})
	other := h.mustExchange(t, h.request(t, "registry"))
	h.order(t, by(broker.ByLease, other.Leases[0].LeaseID), 0)
	servers.Eventually(t, "another target's lease has ended", func() error {
		if slices.Contains(h.target.leases(), other.Leases[0].LeaseID) {
			return errors.New("not yet")
		}
		return nil
	})
	if n := g.calls.Load(); n != 16 {
		t.Errorf("%d revocations at a target that hangs, want 16", n)
	}
	close(g.open)
	cancel()
	sweeping.Wait()
	if g.most > 16 {
		t.Errorf("%d revocations at once, want 16", g.most)
	}
}

// A target that is down is asked by one lease every few seconds, and no attempt
// is counted for the others. When it is back all end.
func TestTargetDown(t *testing.T) {
	h := newHarness(t)
	g := h.gate("deploy")
	for range 60 {
		h.mustExchange(t, h.request(t, "deploy"))
	}
	g.failing.Store(true)
	h.order(t, broker.Selector{All: true}, 0)
	now := time.Now()
	if err := h.SweepOnce(t.Context(), now); err == nil || h.TargetUp("deploy") || !h.TargetUp("registry") {
		t.Fatalf("SweepOnce = %v; deploy is up: %v, registry is up: %v", err, h.TargetUp("deploy"), h.TargetUp("registry"))
	}
	if n := g.calls.Swap(0); n > 5+16 {
		t.Errorf("%d leases asked a target that is down, want about 5", n)
	}
	for range 10 { // later than claims and backoff
		now = now.Add(time.Hour)
		h.SweepOnce(t.Context(), now)
	}
	if n := g.calls.Swap(0); n != 10 {
		t.Errorf("%d leases asked in ten sweeps, want 10", n)
	}
	if err := h.RevokeSession(t.Context(), h.mustExchange(t, h.request(t, "deploy")).Token, "R"); !errors.Is(err, broker.ErrUnavailable) || g.calls.Load() != 0 {
		t.Errorf("RevokeSession = %v, want ErrUnavailable without asking the target", err)
	}
	g.failing.Store(false)
	for range 2 { // the first asks whether it is back
		now = now.Add(time.Hour)
		if err := h.SweepOnce(t.Context(), now); err != nil {
			t.Fatalf("SweepOnce = %v", err)
		}
	}
	h.assertGone(t, false)
	if !h.TargetUp("deploy") {
		t.Error("the target is back, and not up")
	}
	for _, e := range h.audit.named(broker.EventRevoke) {
		if e.Outcome != broker.Granted {
			t.Errorf("a lease did not end: %+v", e)
		}
	}
}

// Credentials that their target does not let go hold up nobody else's: it
// answers.
func TestTargetThatRefusesSome(t *testing.T) {
	h := newHarness(t)
	g := h.gate("deploy")
	for range 10 {
		h.mustExchange(t, h.request(t, "deploy"))
	}
	g.says = fmt.Errorf("%w (%w): others depend on it", broker.ErrUnavailable, broker.ErrTarget)
	g.failing.Store(true)
	h.order(t, broker.Selector{All: true}, 0)
	if err := h.SweepOnce(t.Context(), time.Now()); err == nil || !h.TargetUp("deploy") || g.calls.Load() != 10 {
		t.Errorf("SweepOnce = %v after %d calls; deploy is up: %v", err, g.calls.Load(), h.TargetUp("deploy"))
	}
	g.failing.Store(false)
	if err := h.RevokeSession(t.Context(), h.mustExchange(t, h.request(t, "deploy")).Token, "R"); err != nil {
		t.Errorf("RevokeSession of another = %v", err)
	}
}
