package agent

import (
	"testing"
	"time"

	"github.com/brevet-dev/brevet/plugins/runner/runnertest"
)

// TestFresh has each of the clocks go wrong: while a machine sleeps the one that
// nobody sets stands still, and the other can be set.
func TestFresh(t *testing.T) {
	now := time.Now()
	l := runnertest.Lease("deploy", "TOKEN", runnertest.Canary)
	for _, tt := range []struct {
		name        string
		ttl         time.Duration
		wall, alive time.Duration // since the lease came, by the one clock and the other
		want        bool
	}{
		{"new", time.Hour, 0, 0, true},
		{"a minute left", time.Hour, 59 * time.Minute, 59 * time.Minute, true},
		{"less", time.Hour, 59*time.Minute + time.Second, 59*time.Minute + time.Second, false},
		{"a quarter left", time.Minute, 45 * time.Second, 45 * time.Second, true},
		{"less of a short one", time.Minute, 46 * time.Second, 46 * time.Second, false},
		{"it slept", time.Hour, 2 * time.Hour, time.Minute, false},
		{"set back", time.Hour, -5 * time.Hour, 2 * time.Hour, false},
		{"set ahead", time.Hour, 5 * time.Hour, time.Minute, false},
		{"set back a little", time.Hour, -time.Minute, time.Minute, true},
	} {
		// Of the two clocks only one is in now: the lease is moved for the other.
		l.ExpiresAt = now.Add(tt.ttl).Round(0)
		h, err := hold(l, now)
		if err != nil {
			t.Fatal(err)
		}
		later := now.Add(tt.alive)
		h.lease.ExpiresAt = h.lease.ExpiresAt.Add(tt.alive - tt.wall)
		if got := h.fresh(later); got != tt.want {
			t.Errorf("%s: fresh = %v, want %v", tt.name, got, tt.want)
		}
	}
}
