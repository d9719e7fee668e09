package broker_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/brevet-dev/brevet/broker"
	"github.com/brevet-dev/brevet/issuers/presets"
	"github.com/brevet-dev/brevet/test/servers"
)

// flood reserves leases of one token, which live in one shard, and are due at
// once.
func (h *harness) flood(t testing.TB, u broker.TokenUse, sessions, leases int) {
	t.Helper()
	past := time.Now().Add(-time.Hour)
	for range sessions {
		s := &broker.Session{ID: broker.NewID('s', u.Shard()), IssuedAt: past, Expires: time.Now().Add(time.Minute)}
		for range leases {
			s.Leases = append(s.Leases, &broker.Lease{
				ID: broker.NewID('l', u.Shard()), SessionID: s.ID, Credential: "registry", Kind: "test", State: broker.Pending,
				IssuedAt: past, Expires: past, MaxExpires: past,
			})
		}
		if err := s.EncodeRecord(); err != nil {
			t.Fatal(err)
		}
		if err := h.Leases.Reserve(t.Context(), s, u); err != nil {
			t.Fatal(err)
		}
		if err := h.Leases.Commit(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
}

// Who has thousands of leases end at once, all in one shard, does not hold up
// those of others in it: a second is until the next look, and not the time for a
// hundred leases.
func TestSweepOfOneShard(t *testing.T) {
	h := newHarness(t)
	u := broker.TokenUse{Issuer: "lab", ReplayID: "jti:shared", Mode: presets.Reuse, Expires: time.Now().Add(time.Hour)}
	h.flood(t, u, 20, 50)
	h.flood(t, u, 1, 1) // the last one that is due
	ctx, cancel := context.WithCancel(t.Context())
	start := time.Now()
	var sweeping sync.WaitGroup
	sweeping.Go(func() { h.Sweep(ctx, func(err error) { t.Errorf("Sweep = %v", err) }) })
	servers.Eventually(t, "all leases have ended", func() error {
		if n := len(h.live(t)); n > 0 {
			return fmt.Errorf("%d live", n)
		}
		return nil
	})
	cancel()
	sweeping.Wait()
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("1001 leases of one shard ended after %s, want well below the 10 s of a hundred a second", took)
	}
}

// A log that cannot be written ends no lease, and does not make the broker spin.
func TestSweepThatFails(t *testing.T) {
	h := newHarness(t)
	u := broker.TokenUse{Issuer: "lab", ReplayID: "jti:shared", Mode: presets.Reuse, Expires: time.Now().Add(time.Hour)}
	h.flood(t, u, 20, 50)
	h.faults.at = "record expire"
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	rounds := 0
	h.Sweep(ctx, func(error) { rounds++ })
	if n := len(h.live(t)); rounds > 1 || n != 1000 {
		t.Errorf("%d rounds within half a second, and %d leases live", rounds, n)
	}
}
