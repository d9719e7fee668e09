package lease_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/brevet-dev/brevet/broker"
	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/broker/lease"
	"github.com/brevet-dev/brevet/issuers/presets"
	"github.com/brevet-dev/brevet/test/servers"
)

// generations seals under keys g1, g2 …, of which the last is the newest.
type generations struct {
	newest atomic.Int32
	seals  atomic.Int32 // how many more succeed
	before func()       // called before each sealing; may be nil
}

func newGenerations() *generations {
	g := &generations{}
	g.newest.Store(1)
	g.seals.Store(1 << 20)
	return g
}

func (g *generations) Seal(_ context.Context, handle, name string) (string, error) {
	if g.before != nil {
		g.before()
	}
	if g.seals.Add(-1) < 0 {
		return "", fmt.Errorf("%w: no key", broker.ErrUnavailable)
	}
	return fmt.Sprintf("g%d:%s:%s", g.newest.Load(), name, handle), nil
}

func (g *generations) Open(_ context.Context, sealed, name string) (string, error) {
	_, rest, _ := strings.Cut(sealed, ":")
	handle, ok := strings.CutPrefix(rest, name+":")
	if !ok {
		return "", fmt.Errorf("%w: sealed for another", broker.ErrWrapped)
	}
	return handle, nil
}

func (g *generations) KeyOf(sealed string) (string, bool, error) {
	id, _, ok := strings.Cut(sealed, ":")
	if !ok || !strings.HasPrefix(id, "g") {
		return "", false, broker.ErrWrapped
	}
	return id, id == fmt.Sprint("g", g.newest.Load()), nil
}

// committed makes an active lease with a handle, alone in its session.
func committed(t *testing.T, s *lease.Store, token string) *broker.Session {
	t.Helper()
	u := use(presets.Once, token)
	x := session(u, "", 1)
	mustReserve(t, s, x, u)
	x.Leases[0].Handle = api.NewSecret("handle of " + token)
	mustCommit(t, s, x)
	return x
}

func leaseKey(t *testing.T, x *broker.Session) string {
	t.Helper()
	shard, err := broker.ShardOf('l', x.Leases[0].ID)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("brevet:{%d}:l:%s", shard, x.Leases[0].ID)
}

func mustEnd(t *testing.T, s *lease.Store, x *broker.Session, final broker.State) {
	t.Helper()
	if _, err := s.End(t.Context(), x.ID, nil, "revoked"); err != nil {
		t.Fatal(err)
	}
	if final == broker.Revoking {
		return
	}
	if err := s.Finish(t.Context(), x.Leases[0], final); err != nil {
		t.Fatal(err)
	}
}

func wantSealedBy(t *testing.T, s *lease.Store, want map[string]int) {
	t.Helper()
	if got, err := s.SealedBy(t.Context()); err != nil || !maps.Equal(got, want) {
		t.Errorf("SealedBy = %v, %v; want %v", got, err, want)
	}
}

func quiet(int, int) {}

// Whatever state a lease is in, its handle is moved, once.
func TestReseal(t *testing.T) {
	onBoth(t, func(t *testing.T, _ *lease.Store, r *redis.Client) {
		g := newGenerations()
		s := lease.New(r, g)
		active, revoking, stuck := committed(t, s, "active"), committed(t, s, "revoking"), committed(t, s, "stuck")
		mustEnd(t, s, revoking, broker.Revoking)
		mustEnd(t, s, stuck, broker.Stuck)
		mustEnd(t, s, committed(t, s, "ended"), broker.Revoked)
		garbage := committed(t, s, "garbage")
		r.HSet(t.Context(), leaseKey(t, garbage), "ttl", "x")
		mustReserve(t, s, session(use(presets.Once, "pending"), "", 1), use(presets.Once, "pending"))
		if _, err := s.End(t.Context(), garbage.ID, nil, "revoked"); err == nil { // which quarantines it
			t.Fatal("End of garbage succeeds")
		}
		wantSealedBy(t, s, map[string]int{"g1": 4})
		g.newest.Store(2)
		wantSealedBy(t, s, map[string]int{"g1": 4})

		var shards, told []int
		moved, err := s.Reseal(t.Context(), func(shard, moved int) { shards, told = append(shards, shard), append(told, moved) })
		if err != nil || moved != 4 {
			t.Fatalf("Reseal = %d, %v; want 4", moved, err)
		}
		if last := len(shards) - 1; shards[last] != broker.Shards || told[last] != 4 {
			t.Errorf("progress at the end: %d shards, %d moved", shards[last], told[last])
		}
		for i := 1; i < len(shards); i++ {
			if shards[i] <= shards[i-1] || told[i] < told[i-1] {
				t.Errorf("progress goes back: shards %v, moved %v", shards, told)
			}
		}
		wantSealedBy(t, s, map[string]int{"g2": 4})
		if again, err := s.Reseal(t.Context(), quiet); again != 0 || err != nil {
			t.Errorf("Reseal again = %d, %v; want nothing to do", again, err)
		}
		for name, x := range map[string]*broker.Session{"active": active, "revoking": revoking, "stuck": stuck} {
			if l, err := s.Lease(t.Context(), x.Leases[0].ID); err != nil || l.Handle.Reveal() != "handle of "+name || string(l.State) != name {
				t.Errorf("Lease of the %s one = %+v, %v", name, l, err)
			}
		}
	})
}

// What was moved before an interruption is not moved again.
func TestResealIsInterrupted(t *testing.T) {
	onBoth(t, func(t *testing.T, _ *lease.Store, r *redis.Client) {
		g := newGenerations()
		s := lease.New(r, g)
		for i := range 10 {
			committed(t, s, fmt.Sprint(i))
		}
		g.newest.Store(2)
		g.seals.Store(4)
		if moved, err := s.Reseal(t.Context(), quiet); moved != 4 || !errors.Is(err, broker.ErrUnavailable) {
			t.Errorf("Reseal that is interrupted = %d, %v", moved, err)
		}
		wantSealedBy(t, s, map[string]int{"g1": 6, "g2": 4})
		g.seals.Store(100)
		g.newest.Store(3) // there may be a newer one meanwhile
		if moved, err := s.Reseal(t.Context(), quiet); moved != 10 || err != nil {
			t.Errorf("Reseal after it = %d, %v", moved, err)
		}
		wantSealedBy(t, s, map[string]int{"g3": 10})
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := s.Reseal(ctx, quiet); !errors.Is(err, broker.ErrUnavailable) {
			t.Errorf("Reseal that was given up = %v", err)
		}
	})
}

// What cannot be opened is told of and left, and keeps its key from being
// destroyed; the others are moved.
func TestResealLeavesWhatItCannotOpen(t *testing.T) {
	onBoth(t, func(t *testing.T, _ *lease.Store, r *redis.Client) {
		g := newGenerations()
		s := lease.New(r, g)
		a, b := committed(t, s, "a"), committed(t, s, "b")
		committed(t, s, "c")
		r.HSet(t.Context(), leaseKey(t, a), "handle", "g1:of another:canary")
		r.HSet(t.Context(), leaseKey(t, b), "handle", "canary")
		g.newest.Store(2)
		moved, err := s.Reseal(t.Context(), quiet)
		if moved != 1 || !errors.Is(err, broker.ErrWrapped) {
			t.Fatalf("Reseal = %d, %v; want 1 and an error", moved, err)
		}
		for _, x := range []*broker.Session{a, b} {
			if !strings.Contains(err.Error(), x.Leases[0].ID) {
				t.Errorf("the error does not name lease %s: %v", x.Leases[0].ID, err)
			}
		}
		if strings.Contains(err.Error(), "canary") {
			t.Errorf("the error shows a handle: %v", err)
		}
		wantSealedBy(t, s, map[string]int{"": 1, "g1": 1, "g2": 1})
	})
}

// A lease that ends while its handle is moved does not get the handle back.
func TestResealMeetsARevocation(t *testing.T) {
	onBoth(t, func(t *testing.T, _ *lease.Store, r *redis.Client) {
		g := newGenerations()
		s := lease.New(r, g)
		x := committed(t, s, "x")
		g.newest.Store(2)
		g.before = func() { mustEnd(t, s, x, broker.Revoked) }
		if moved, err := s.Reseal(t.Context(), quiet); moved != 0 || err != nil {
			t.Errorf("Reseal = %d, %v", moved, err)
		}
		if r.HExists(t.Context(), leaseKey(t, x), "handle").Val() {
			t.Error("the ended lease has its handle again")
		}
		g.before = nil
		y := committed(t, s, "y")
		g.newest.Store(3)
		g.before = func() { r.Del(t.Context(), leaseKey(t, y)) }
		if moved, err := s.Reseal(t.Context(), quiet); moved != 0 || err != nil || r.Exists(t.Context(), leaseKey(t, y)).Val() != 0 {
			t.Errorf("Reseal of a lease that is gone = %d, %v", moved, err)
		}
	})
}

// Several at once, beside renewals, revocations and new leases.
func TestResealBesideEverything(t *testing.T) {
	onBoth(t, func(t *testing.T, _ *lease.Store, r *redis.Client) {
		const n = 60
		g := newGenerations()
		s := lease.New(r, g)
		var all []*broker.Session
		for i := range n {
			all = append(all, committed(t, s, fmt.Sprint(i)))
		}
		g.newest.Store(2)
		var moved atomic.Int32
		var work sync.WaitGroup
		for range 3 {
			work.Go(func() {
				m, err := s.Reseal(t.Context(), quiet)
				moved.Add(int32(m))
				if err != nil {
					t.Error(err)
				}
			})
		}
		work.Go(func() {
			for i, x := range all {
				if i%3 == 0 {
					mustEnd(t, s, x, broker.Revoked)
					continue
				}
				if err := s.Extend(t.Context(), x.Leases[0], time.Now().Add(time.Hour)); err != nil {
					t.Error(err)
				}
			}
		})
		work.Go(func() {
			for i := range 10 {
				committed(t, s, fmt.Sprint("new ", i))
			}
		})
		work.Wait()
		if got := moved.Load(); got < n*2/3 || got > n {
			t.Errorf("%d moved, of %d of which a third ended meanwhile", got, n)
		}
		wantSealedBy(t, s, map[string]int{"g2": n*2/3 + 10})
		for i, x := range all {
			l, err := s.Lease(t.Context(), x.Leases[0].ID)
			if ended := i%3 == 0; err != nil || ended != l.Handle.IsZero() || !ended && (l.Handle.Reveal() != fmt.Sprint("handle of ", i) || time.Until(l.Expires) < 59*time.Minute) {
				t.Errorf("lease %d: %+v, %v", i, l, err)
			}
		}
	})
}

func TestCountUse(t *testing.T) {
	onBoth(t, func(t *testing.T, s *lease.Store, r *redis.Client) {
		id := session(use(presets.Once, "t"), "", 1).Leases[0].ID
		until := time.Now().Add(time.Hour)
		for i, want := range []error{nil, nil, broker.ErrUsedUp, broker.ErrUsedUp} {
			if err := s.CountUse(t.Context(), id, "dk-x:p", 2, until); !errors.Is(err, want) {
				t.Errorf("use %d of 2: %v, want %v", i+1, err, want)
			}
		}
		if err := s.CountUse(t.Context(), id, "dk-x:q", 2, until); err != nil {
			t.Errorf("under another name: %v", err)
		}
		if err := s.CountUse(t.Context(), id, "dk-x:p", 3, until); err != nil {
			t.Errorf("with a higher limit: %v; refused uses were counted", err)
		}
		if err := s.CountUse(t.Context(), "l1-x", "dk-x:p", 3, until); !errors.Is(err, broker.ErrNotFound) {
			t.Errorf("of what is no lease: %v", err)
		}
		keys := r.Keys(t.Context(), "brevet:*:u:dk-x:p").Val()
		if len(keys) != 1 {
			t.Fatalf("counters: %v", keys)
		}
		if ttl := r.PTTL(t.Context(), keys[0]).Val(); ttl < time.Hour || ttl > time.Hour+time.Minute {
			t.Errorf("the counter is kept for %s, want until the key ends, and skew", ttl)
		}
		var granted atomic.Int32
		var all sync.WaitGroup
		for range 50 {
			all.Go(func() {
				switch err := s.CountUse(t.Context(), id, "at once", 10, until); {
				case err == nil:
					granted.Add(1)
				case !errors.Is(err, broker.ErrUsedUp):
					t.Error(err)
				}
			})
		}
		all.Wait()
		if granted.Load() != 10 {
			t.Errorf("of 50 at once %d were counted, want 10", granted.Load())
		}
		r.Set(t.Context(), keys[0], "garbage", 0)
		if err := s.CountUse(t.Context(), id, "dk-x:p", 9, until); err == nil || errors.Is(err, broker.ErrUsedUp) {
			t.Errorf("over garbage: %v; want an error that tells of it", err)
		}
	})
}

func TestLease(t *testing.T) {
	onBoth(t, func(t *testing.T, s *lease.Store, r *redis.Client) {
		x := committed(t, s, "x")
		l, err := s.Lease(t.Context(), x.Leases[0].ID)
		if err != nil || l.SessionID != x.ID || l.State != broker.Active || l.Handle.Reveal() != "handle of x" || !l.Expires.Equal(x.Leases[0].Expires) {
			t.Errorf("Lease = %+v, %v", l, err)
		}
		for _, id := range []string{"", "l1-x", x.ID, id("l", 3)} {
			if l, err := s.Lease(t.Context(), id); l != nil || !errors.Is(err, broker.ErrNotFound) {
				t.Errorf("Lease(%q) = %v, %v; want ErrNotFound", id, l, err)
			}
		}
		mustEnd(t, s, x, broker.Revoked)
		if l, err := s.Lease(t.Context(), x.Leases[0].ID); err != nil || l.State != broker.Revoked || !l.Handle.IsZero() {
			t.Errorf("Lease of one that ended = %+v, %v", l, err)
		}
		for field, value := range map[string]string{"handle": "sealed for another", "state": "dreaming", "expires": "x", "credential": ""} {
			y := committed(t, s, field)
			r.HSet(t.Context(), leaseKey(t, y), field, value)
			if l, err := s.Lease(t.Context(), y.Leases[0].ID); l != nil || err == nil || errors.Is(err, broker.ErrNotFound) {
				t.Errorf("Lease with the %s %q = %v, %v", field, value, l, err)
			}
		}
	})
}

func TestDataKeysWithoutRedis(t *testing.T) {
	client := redis.NewClient(&redis.Options{Addr: servers.FreeAddr(t), MaxRetries: -1, DialerRetries: 1})
	defer client.Close()
	s := lease.New(client, plainSealer{})
	id := session(use(presets.Once, "t"), "", 1).Leases[0].ID
	_, leaseErr := s.Lease(t.Context(), id)
	_, sealedErr := s.SealedBy(t.Context())
	_, resealErr := s.Reseal(t.Context(), quiet)
	for name, err := range map[string]error{
		"Lease": leaseErr, "SealedBy": sealedErr, "Reseal": resealErr,
		"CountUse": s.CountUse(t.Context(), id, "x", 1, time.Now().Add(time.Hour)),
	} {
		if !errors.Is(err, broker.ErrUnavailable) {
			t.Errorf("%s = %v, want ErrUnavailable", name, err)
		}
	}
	if got, err := lease.New(client, nil).SealedBy(t.Context()); got != nil || err == nil {
		t.Errorf("SealedBy without keys = %v, %v", got, err)
	}
}
