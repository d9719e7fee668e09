package lease_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/brevet-dev/brevet/broker"
	"github.com/brevet-dev/brevet/broker/lease"
	"github.com/brevet-dev/brevet/issuers/presets"
)

// limited returns a session of n leases that counts against one quota.
func limited(u broker.TokenUse, jkt, name string, live, perMinute, n int) *broker.Session {
	s := session(u, jkt, n)
	s.Quotas = []*broker.Quota{{Name: name, Of: name, MostLive: live, PerMinute: perMinute, Leases: s.Leases}}
	return s
}

// later lets the leases of a limit be looked at again, as if some time had
// passed.
func later(t *testing.T, r *redis.Client) {
	t.Helper()
	for _, key := range r.Keys(t.Context(), "brevet:*:looked").Val() {
		r.Del(t.Context(), key)
	}
}

func mustEndAll(t *testing.T, s *lease.Store, x *broker.Session, final broker.State) {
	t.Helper()
	ended, err := s.End(t.Context(), x.ID, nil, "revoked")
	if err != nil || len(ended) != len(x.Leases) {
		t.Fatalf("End = %d leases, %v", len(ended), err)
	}
	for _, l := range ended {
		if err := s.Finish(t.Context(), l, final); err != nil {
			t.Fatal(err)
		}
	}
}

func TestLiveQuota(t *testing.T) {
	onBoth(t, func(t *testing.T, s *lease.Store, r *redis.Client) {
		n := 0
		reserve := func(name string, leases int) (*broker.Session, error) {
			later(t, r)
			n++
			u := use(presets.Once, fmt.Sprint(n))
			x := limited(u, "", name, 3, 0, leases)
			return x, s.Reserve(t.Context(), x, u)
		}
		first, err := reserve("a", 2)
		if err != nil {
			t.Fatal(err)
		}
		mustCommit(t, s, first)
		_, err = reserve("a", 2)
		full, ok := errors.AsType[*broker.QuotaError](err)
		if !ok || !errors.Is(err, broker.ErrQuota) || !full.Live || full.After < 50*time.Minute || full.After > time.Hour {
			t.Fatalf("Reserve of a fourth lease = %v, %+v; want a limit that may hold for the lease's hour", err, full)
		}
		if _, err := reserve("b", 2); err != nil {
			t.Errorf("Reserve of another workload = %v", err)
		}
		if _, err := reserve("a", 1); err != nil {
			t.Errorf("Reserve of a third lease = %v", err)
		}
		mustEndAll(t, s, first, broker.Stuck)
		if _, err := reserve("a", 1); !errors.Is(err, broker.ErrQuota) {
			t.Errorf("Reserve = %v; a stuck lease may have a credential, and counts", err)
		}
		stuck := order(broker.OrderRetry, by("session", first.ID))
		if err := s.Retry(t.Context(), stuck, func([]string) {}); err != nil {
			t.Fatal(err)
		}
		for _, l := range first.Leases {
			if err := s.Finish(t.Context(), l, broker.Revoked); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := reserve("a", 2); err != nil {
			t.Errorf("Reserve after two leases ended = %v", err)
		}
	})
}

func TestRateQuota(t *testing.T) {
	onBoth(t, func(t *testing.T, s *lease.Store, r *redis.Client) {
		u := use(presets.Once, "first")
		x := limited(u, "", "a", 0, 2, 3)
		mustReserve(t, s, x, u)
		for range 3 { // a replayed token takes nothing of the quota
			if err := s.Reserve(t.Context(), limited(u, "", "a", 0, 2, 1), u); !errors.Is(err, broker.ErrReplayed) {
				t.Fatalf("Reserve with a used token = %v", err)
			}
		}
		mustReserve(t, s, x, u) // the same call again, after its answer got lost
		u = use(presets.Once, "second")
		mustReserve(t, s, limited(u, "", "a", 0, 2, 1), u)
		u = use(presets.Once, "third")
		err := s.Reserve(t.Context(), limited(u, "", "a", 0, 2, 1), u)
		full, ok := errors.AsType[*broker.QuotaError](err)
		if !ok || full.Live || full.After > time.Minute || full.After < 50*time.Second {
			t.Errorf("a third exchange in a minute = %v, %+v; want one to wait for a minute", err, full)
		}
		for _, key := range r.Keys(t.Context(), "brevet:*:q:*").Val() { // a minute later
			for _, z := range r.ZRangeWithScores(t.Context(), key, 0, -1).Val() {
				r.ZAdd(t.Context(), key, redis.Z{Score: z.Score - 61_000, Member: z.Member})
			}
			if ttl := r.PTTL(t.Context(), key).Val(); ttl <= 0 || ttl > 2*time.Minute {
				t.Errorf("%s is kept for %s", key, ttl)
			}
		}
		mustReserve(t, s, limited(u, "", "a", 0, 2, 1), u) // the refused token is not used up
	})
}

// An exchange whose answer got lost may be repeated at the limit: what it
// replaces ends, and counts until it has.
func TestQuotaOfARepetition(t *testing.T) {
	onBoth(t, func(t *testing.T, s *lease.Store, r *redis.Client) {
		for _, tt := range []struct {
			mode  presets.Replay
			retry string
		}{{presets.Once, ""}, {presets.Bind, "retry"}, {presets.Reuse, "retry"}} {
			u := use(tt.mode, string(tt.mode))
			if tt.mode == presets.Reuse { // others show it, too
				mustReserve(t, s, session(u, "another", 1), u)
			}
			u.RetryKey = tt.retry
			for i := range 3 {
				later(t, r)
				x := limited(u, "key", string(tt.mode), 1, 0, 1)
				if err := s.Reserve(t.Context(), x, u); err != nil {
					t.Fatalf("%s, time %d: Reserve = %v", tt.mode, i, err)
				}
				mustCommit(t, s, x)
				replaced, err := s.ClaimDue(t.Context(), time.Now())
				if err != nil || len(replaced) != min(i, 1) {
					t.Fatalf("%s, time %d: ClaimDue = %d leases, %v", tt.mode, i, len(replaced), err)
				}
				for _, l := range replaced {
					if err := s.Finish(t.Context(), l, broker.Revoked); err != nil {
						t.Fatal(err)
					}
				}
			}
			other := use(presets.Once, "other "+string(tt.mode))
			if err := s.Reserve(t.Context(), limited(other, "key", string(tt.mode), 1, 0, 1), other); !errors.Is(err, broker.ErrQuota) {
				t.Errorf("%s: Reserve with another token = %v, want ErrQuota", tt.mode, err)
			}
		}
	})
}

// A broker that died between counting and reserving left a name behind. It
// counts while it may still be reserved, and no longer.
func TestQuotaMendsItself(t *testing.T) {
	onBoth(t, func(t *testing.T, s *lease.Store, r *redis.Client) {
		u := use(presets.Once, "1")
		x := limited(u, "", "a", 1, 0, 1)
		mustReserve(t, s, x, u)
		key := r.Keys(t.Context(), "brevet:*:q:*:live").Val()[0]
		left := func(at time.Time) {
			later(t, r)
			r.Del(t.Context(), key)
			r.ZAdd(t.Context(), key, redis.Z{Score: float64(time.Now().Add(time.Hour).UnixMilli()), Member: fmt.Sprint(id("l", 3), " ", at.UnixMilli())})
		}
		left(time.Now().Add(-time.Minute))
		u = use(presets.Once, "2")
		if err := s.Reserve(t.Context(), limited(u, "", "a", 1, 0, 1), u); !errors.Is(err, broker.ErrQuota) {
			t.Errorf("Reserve = %v; what was counted a minute ago may still be reserved", err)
		}
		left(time.Now().Add(-3 * time.Minute))
		mustReserve(t, s, limited(u, "", "a", 1, 0, 1), u)
		r.ZAdd(t.Context(), key, redis.Z{Score: 1e15, Member: "garbage"})
		mustEndAll(t, s, mustSession(t, s, x.ID), broker.Revoked)
		later(t, r)
		u = use(presets.Once, "3")
		if err := s.Reserve(t.Context(), limited(u, "", "a", 2, 0, 1), u); err != nil {
			t.Errorf("Reserve with garbage in the count = %v", err)
		}
	})
}

// Those who hammer at a limit do not have its leases looked at each time.
func TestQuotaIsLookedAtSeldom(t *testing.T) {
	onBoth(t, func(t *testing.T, s *lease.Store, _ *redis.Client) {
		ask := func(token string) error {
			u := use(presets.Once, token)
			return s.Reserve(t.Context(), limited(u, "", "a", 1, 0, 1), u)
		}
		if err := ask("1"); err != nil {
			t.Fatal(err)
		}
		for i := range 2 {
			full, ok := errors.AsType[*broker.QuotaError](ask(fmt.Sprint("again ", i)))
			if !ok || (full.After < time.Second) != (i == 1) {
				t.Errorf("time %d: %+v; want to be told to come back soon only when nobody looked", i, full)
			}
		}
	})
}

// However many ask at the same time, no more get through than the limit says.
func TestQuotaRace(t *testing.T) {
	onBoth(t, func(t *testing.T, s *lease.Store, _ *redis.Client) {
		var granted atomic.Int64
		var asking sync.WaitGroup
		for i := range 50 {
			asking.Go(func() {
				u := use(presets.Once, fmt.Sprint(i))
				switch err := s.Reserve(t.Context(), limited(u, "", "a", 10, 0, 1), u); {
				case err == nil:
					granted.Add(1)
				case !errors.Is(err, broker.ErrQuota):
					t.Errorf("Reserve = %v", err)
				}
			})
		}
		asking.Wait()
		if n := granted.Load(); n != 10 {
			t.Errorf("%d exchanges were granted, want 10", n)
		}
	})
}

// One of several quotas that is reached takes nothing of the others.
func TestSeveralQuotas(t *testing.T) {
	onBoth(t, func(t *testing.T, s *lease.Store, r *redis.Client) {
		for i := range 4 {
			u := use(presets.Once, fmt.Sprint(i))
			x := limited(u, "", "policy", 100, 100, 1)
			x.Quotas = append(x.Quotas, &broker.Quota{Name: "workload", Of: "workload", MostLive: 2, Leases: x.Leases})
			if err := s.Reserve(t.Context(), x, u); (err == nil) != (i < 2) {
				t.Errorf("exchange %d: %v", i, err)
			}
		}
		for _, key := range r.Keys(t.Context(), "brevet:*:q:*").Val() {
			if strings.HasSuffix(key, ":looked") {
				continue
			}
			if n := r.ZCard(t.Context(), key).Val(); n != 2 {
				t.Errorf("%s counts %d, want 2", key[strings.LastIndex(key, ":"):], n)
			}
		}
	})
}
