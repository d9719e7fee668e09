package keys

import (
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
)

// A clock that jumps over the border of an epoch, back or ahead, leaves no time
// without a key that signs, and none in which two brokers disagree.
func TestClockJumps(t *testing.T) {
	client := redis.NewClient(&redis.Options{Addr: miniredis.RunT(t).Addr()})
	defer client.Close()
	root, err := NewSoftware(time.Now().Add(-48 * time.Hour))
	must(t, err)
	for _, jump := range []time.Duration{-Signs - time.Hour, -24 * time.Hour, 2*Signs + time.Hour, 48 * time.Hour} {
		e := NewEpochs(root, NewRedisBoard(client), EpochOptions{URL: ringURL})
		must(t, e.Start(t.Context()))
		now := time.Now().UTC().Truncate(time.Second)
		before, err := e.current(now)
		must(t, err)
		e.step(t.Context(), now.Add(jump))
		ep, err := e.current(now.Add(jump))
		if err != nil {
			t.Errorf("after a jump of %s: %v", jump, err)
			continue
		}
		if !ep.cert.valid(now.Add(jump)) {
			t.Errorf("after a jump of %s the epoch that signs is not valid", jump)
		}
		e.step(t.Context(), now) // and the clock is put right
		again, err := e.current(now)
		must(t, err)
		if jump < 0 && again.cert.kid != before.cert.kid {
			t.Errorf("after a jump of %s and back another epoch signs", jump)
		}
	}
}
