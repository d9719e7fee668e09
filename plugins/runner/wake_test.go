package runner_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// TestWake renews when it is asked for, and then again in time.
func TestWake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &renewer{}
		s := b.session(t, "session", 0)
		ctx, cancel := context.WithCancel(t.Context())
		wake := make(chan struct{}, 1)
		var h heard
		r := h.renewals(false)
		r.Wake = wake
		done := make(chan struct{})
		go func() { defer close(done); s.Keep(ctx, r) }()
		time.Sleep(5 * time.Second)
		wake <- struct{}{}
		synctest.Wait()
		if at := b.times(); len(at) != 1 || time.Since(at[0]) > 0 {
			t.Errorf("renewed at %v, want now", at)
		}
		time.Sleep(ttl * 2 / 3)
		synctest.Wait()
		if at := b.times(); len(at) != 2 {
			t.Errorf("renewed at %v, want once more", at)
		}
		cancel()
		<-done
	})
}
