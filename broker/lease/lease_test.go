package lease_test

import (
	"context"
	"crypto/rand"
	"encoding/base32"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/redis/go-redis/v9"

	"github.com/brevet-dev/brevet/broker"
	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/broker/lease"
	"github.com/brevet-dev/brevet/issuers/presets"
	"github.com/brevet-dev/brevet/test/servers"
)

var _ broker.LeaseStore = (*lease.Store)(nil)

// onBoth runs a test against the embedded Redis of "brevetd dev" and against a
// real redis-server: the one must behave as the other.
func onBoth(t *testing.T, test func(t *testing.T, s *lease.Store, r *redis.Client)) {
	addrs := map[string]func(*testing.T) string{
		"miniredis":    func(t *testing.T) string { return miniredis.RunT(t).Addr() },
		"redis-server": func(t *testing.T) string { return servers.Redis(t) },
	}
	for name, addr := range addrs {
		t.Run(name, func(t *testing.T) {
			client := redis.NewClient(&redis.Options{Addr: addr(t)})
			t.Cleanup(func() { client.Close() })
			test(t, lease.New(client, plainSealer{}), client)
		})
	}
}

// plainSealer shows that what is stored went through the sealer, and that the
// lease's id is part of it.
type plainSealer struct{}

func (plainSealer) Seal(_ context.Context, handle, name string) (string, error) {
	return "sealed for " + name + ":" + handle, nil
}
func (plainSealer) Open(_ context.Context, sealed, name string) (string, error) {
	handle, ok := strings.CutPrefix(sealed, "sealed for "+name+":")
	if !ok {
		return "", errors.New("sealed for another lease")
	}
	return handle, nil
}

func (plainSealer) KeyOf(string) (string, bool, error) { return "plain", true, nil }

func id(kind string, shard int) string {
	b := make([]byte, 20)
	rand.Read(b)
	return fmt.Sprintf("%s%d-%s", kind, shard, strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(b)))
}

func use(mode presets.Replay, token string) broker.TokenUse {
	return broker.TokenUse{Issuer: "lab", ReplayID: "jti:" + token, Mode: mode, Expires: time.Now().Add(5 * time.Minute)}
}

// session returns a new session of n leases, to be reserved with u.
func session(u broker.TokenUse, jkt string, n int) *broker.Session {
	now := time.Now().Truncate(time.Millisecond)
	s := &broker.Session{
		ID: id("s", u.Shard()), RequestID: "R", KeyThumbprint: jkt, IssuedAt: now, Expires: now.Add(time.Hour),
		Who: broker.Who{Issuer: "lab", URL: "https://lab", Subject: "sub", Claims: map[string]any{"ref": "main"}},
	}
	for i := range n {
		s.Leases = append(s.Leases, &broker.Lease{
			ID: id("l", u.Shard()), SessionID: s.ID, Credential: fmt.Sprint("c", i), Kind: "jwt",
			Policy: "p", PolicyDigest: "sha256:0", State: broker.Pending, TTL: time.Minute,
			IssuedAt: now, Expires: now.Add(time.Minute).Truncate(time.Second), MaxExpires: now.Add(time.Hour).Truncate(time.Second),
		})
	}
	if err := s.EncodeRecord(); err != nil {
		panic(err) // strings and numbers
	}
	return s
}

func mustReserve(t *testing.T, s *lease.Store, session *broker.Session, u broker.TokenUse) {
	t.Helper()
	if err := s.Reserve(t.Context(), session, u); err != nil {
		t.Fatalf("Reserve = %v", err)
	}
}

func mustCommit(t *testing.T, s *lease.Store, session *broker.Session) {
	t.Helper()
	if err := s.Commit(t.Context(), session); err != nil {
		t.Fatalf("Commit = %v", err)
	}
}

func mustSession(t *testing.T, s *lease.Store, id string) *broker.Session {
	t.Helper()
	out, err := s.Session(t.Context(), id)
	if err != nil {
		t.Fatalf("Session(%s) = %v", id, err)
	}
	return out
}

func states(s *broker.Session) string {
	var out []string
	for _, l := range s.Leases {
		out = append(out, string(l.State))
	}
	return strings.Join(out, " ")
}

func TestSessionIsReadBackAsItWasWritten(t *testing.T) {
	onBoth(t, func(t *testing.T, s *lease.Store, _ *redis.Client) {
		u := use(presets.Once, "t")
		want := session(u, "key", 2)
		mustReserve(t, s, want, u)
		compare := cmp.Options{
			cmp.Comparer(func(a, b api.Secret) bool { return a.Reveal() == b.Reveal() }),
			cmpopts.IgnoreUnexported(broker.Who{}),
		}
		if diff := cmp.Diff(want, mustSession(t, s, want.ID), compare); diff != "" {
			t.Errorf("reserved session (-want +got):\n%s", diff)
		}
		want.Leases[0].Handle = api.NewSecret("user-1")
		mustCommit(t, s, want)
		if diff := cmp.Diff(want, mustSession(t, s, want.ID), compare); diff != "" {
			t.Errorf("committed session (-want +got):\n%s", diff)
		}
	})
}

func TestReplay(t *testing.T) {
	type step struct {
		key, retry, proof string
		want              error
		replaces          bool // the first step's session is ended
	}
	tests := []struct {
		name  string
		mode  presets.Replay
		steps []step
	}{
		{"once: a bearer token is spent", presets.Once, []step{{}, {want: broker.ErrReplayed}}},
		{"once: another key", presets.Once, []step{{key: "a"}, {key: "b", want: broker.ErrReplayed}}},
		{"once: no key after a key", presets.Once, []step{{key: "a"}, {want: broker.ErrReplayed}}},
		{"once: a key after no key", presets.Once, []step{{}, {key: "a", want: broker.ErrReplayed}}},
		{"once: the same key repeats a lost answer", presets.Once, []step{{key: "a"}, {key: "a", replaces: true}}},
		{"bind: the same key goes on", presets.Bind, []step{{key: "a"}, {key: "a"}, {key: "a"}}},
		{"bind: another key", presets.Bind, []step{{key: "a"}, {key: "b", want: broker.ErrReplayed}}},
		{"bind: no key", presets.Bind, []step{{key: "a"}, {want: broker.ErrReplayed}}},
		{"bind: used without a key is spent", presets.Bind, []step{{}, {key: "a", want: broker.ErrReplayed}}},
		{"bind: the same retry key repeats", presets.Bind, []step{{key: "a", retry: "r"}, {key: "a", retry: "r", replaces: true}}},
		{"bind: another retry key goes on", presets.Bind, []step{{key: "a", retry: "r"}, {key: "a", retry: "q"}}},
		{"reuse: any key", presets.Reuse, []step{{key: "a"}, {key: "b"}}},
		{"reuse: the same retry key repeats", presets.Reuse, []step{{key: "a", retry: "r"}, {key: "a", retry: "r", replaces: true}}},
		{"reuse: a retry key is its key's own", presets.Reuse, []step{{key: "a", retry: "r"}, {key: "b", retry: "r"}}},
		{"a proof is used once", presets.Bind, []step{{key: "a", proof: "p"}, {key: "a", proof: "p", want: broker.ErrProofReplayed}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, s *lease.Store, _ *redis.Client) {
				var first *broker.Session
				for i, st := range tt.steps {
					u := use(tt.mode, "token")
					u.RetryKey, u.ProofID = st.retry, st.proof
					session := session(u, st.key, 2)
					if err := s.Reserve(t.Context(), session, u); !errors.Is(err, st.want) {
						t.Fatalf("step %d: Reserve = %v, want %v", i, err, st.want)
					}
					if first == nil {
						first = session
						mustCommit(t, s, session)
						continue
					}
					if _, err := s.Session(t.Context(), session.ID); st.want != nil && !errors.Is(err, broker.ErrNotFound) {
						t.Errorf("step %d: a refused session was written", i)
					}
					got, want := states(mustSession(t, s, first.ID)), "active active"
					if st.replaces {
						want = "revoking revoking"
					}
					if got != want {
						t.Errorf("step %d: the first session's leases are %s, want %s", i, got, want)
					}
				}
			})
		})
	}
}

func TestSpentSessionIsNotRepeated(t *testing.T) {
	onBoth(t, func(t *testing.T, s *lease.Store, _ *redis.Client) {
		u := use(presets.Once, "t")
		first := session(u, "key", 1)
		mustReserve(t, s, first, u)
		mustCommit(t, s, first)
		if _, err := s.End(t.Context(), first.ID, nil, "revoked"); err != nil {
			t.Fatal(err)
		}
		if err := s.Reserve(t.Context(), session(u, "key", 1), u); !errors.Is(err, broker.ErrReplayed) {
			t.Errorf("Reserve after the session was revoked = %v, want ErrReplayed", err)
		}
	})
}

// A retry by the Redis client after a lost reply repeats the script.
func TestReserveAndCommitTwiceIsOnce(t *testing.T) {
	onBoth(t, func(t *testing.T, s *lease.Store, _ *redis.Client) {
		u := use(presets.Once, "t")
		u.ProofID = "p"
		x := session(u, "key", 1)
		for range 2 {
			mustReserve(t, s, x, u)
		}
		for range 2 {
			mustCommit(t, s, x)
		}
		if got := states(mustSession(t, s, x.ID)); got != "active" {
			t.Errorf("lease is %s, want active", got)
		}
	})
}

func TestPendingLeaseLapses(t *testing.T) {
	onBoth(t, func(t *testing.T, s *lease.Store, _ *redis.Client) {
		u := use(presets.Once, "t")
		x := session(u, "", 1)
		mustReserve(t, s, x, u)
		for _, tt := range []struct {
			after time.Duration
			want  int
		}{{50 * time.Second, 0}, {61 * time.Second, 1}, {62 * time.Second, 0}, {95 * time.Second, 1}} {
			due, err := s.ClaimDue(t.Context(), time.Now().Add(tt.after))
			if err != nil || len(due) != tt.want {
				t.Fatalf("after %s: ClaimDue = %d leases, %v; want %d", tt.after, len(due), err, tt.want)
			}
			if tt.want == 1 && (due[0].Why != broker.WhyLapsed || due[0].State != broker.Revoking) {
				t.Errorf("claimed lease is %s, why %q", due[0].State, due[0].Why)
			}
		}
		if err := s.Commit(t.Context(), x); !errors.Is(err, broker.ErrEnded) {
			t.Errorf("Commit of a lapsed lease = %v, want ErrEnded", err)
		}
	})
}

func TestEnd(t *testing.T) {
	onBoth(t, func(t *testing.T, s *lease.Store, r *redis.Client) {
		u := use(presets.Once, "t")
		x := session(u, "", 3)
		mustReserve(t, s, x, u)
		x.Leases[1].Handle = api.NewSecret("user-1")
		mustCommit(t, s, x)
		other := session(use(presets.Once, "another token"), "", 1)

		ended, err := s.End(t.Context(), x.ID, []string{x.Leases[1].ID, other.Leases[0].ID, "l1-x"}, "revoked")
		if err != nil || len(ended) != 1 || ended[0].Handle.Reveal() != "user-1" || ended[0].Why != "revoked" {
			t.Fatalf("End of one lease = %v, %v", ended, err)
		}
		if mustSession(t, s, x.ID).Ended {
			t.Error("the session ended with one of its leases")
		}
		if again, err := s.End(t.Context(), x.ID, nil, "revoked"); err != nil || len(again) != 2 {
			t.Fatalf("End of the rest = %d leases, %v; want 2", len(again), err)
		}
		if err := s.Extend(t.Context(), x.Leases[0], time.Now().Add(time.Hour)); !errors.Is(err, broker.ErrEnded) {
			t.Errorf("Extend after End = %v, want ErrEnded", err)
		}
		for _, l := range x.Leases {
			if err := s.Finish(t.Context(), l, broker.Revoked); err != nil {
				t.Fatal(err)
			}
		}
		if got := states(mustSession(t, s, x.ID)); got != "revoked revoked revoked" {
			t.Errorf("leases are %s", got)
		}
		key := fmt.Sprintf("brevet:{%d}:l:%s", u.Shard(), x.Leases[1].ID)
		if ttl := r.PTTL(t.Context(), key).Val(); ttl <= 0 || ttl > time.Hour {
			t.Errorf("an ended lease is kept for %s, want up to an hour", ttl)
		}
		if r.HExists(t.Context(), key, "handle").Val() {
			t.Error("an ended lease keeps its handle")
		}
	})
}

// A live lease has no Redis TTL: a broker that was down for days still finds it.
func TestLiveLeaseDoesNotVanish(t *testing.T) {
	onBoth(t, func(t *testing.T, s *lease.Store, r *redis.Client) {
		u := use(presets.Once, "t")
		x := session(u, "", 1)
		mustReserve(t, s, x, u)
		mustCommit(t, s, x)
		if ttl := r.PTTL(t.Context(), fmt.Sprintf("brevet:{%d}:l:%s", u.Shard(), x.Leases[0].ID)).Val(); ttl != -1 {
			t.Errorf("a live lease has a TTL of %s", ttl)
		}
	})
}

func TestExpiredLeaseIsClaimedByOne(t *testing.T) {
	onBoth(t, func(t *testing.T, s *lease.Store, _ *redis.Client) {
		for i := range 20 {
			u := use(presets.Once, fmt.Sprint(i))
			x := session(u, "", 1)
			mustReserve(t, s, x, u)
			mustCommit(t, s, x)
		}
		counts := make(chan int)
		for range 2 {
			go func() {
				due, err := s.ClaimDue(t.Context(), time.Now().Add(2*time.Minute))
				if err != nil {
					t.Error(err)
				}
				counts <- len(due)
			}()
		}
		if n := <-counts + <-counts; n != 20 {
			t.Errorf("two sweepers claimed %d leases, want 20", n)
		}
	})
}

func TestPostponeCountsAttempts(t *testing.T) {
	onBoth(t, func(t *testing.T, s *lease.Store, _ *redis.Client) {
		u := use(presets.Once, "t")
		x := session(u, "", 1)
		mustReserve(t, s, x, u)
		mustCommit(t, s, x)
		if _, err := s.End(t.Context(), x.ID, nil, "revoked"); err != nil {
			t.Fatal(err)
		}
		if err := s.Postpone(t.Context(), x.Leases[0], time.Now().Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
		if due, _ := s.ClaimDue(t.Context(), time.Now().Add(59*time.Minute)); len(due) != 0 {
			t.Error("claimed before its time")
		}
		due, err := s.ClaimDue(t.Context(), time.Now().Add(61*time.Minute))
		if err != nil || len(due) != 1 || due[0].Attempts != 1 || due[0].Why != "revoked" {
			t.Fatalf("ClaimDue = %v, %v", due, err)
		}
		if err := s.Finish(t.Context(), due[0], broker.Stuck); err != nil {
			t.Fatal(err)
		}
		var live []string
		if err := s.All(t.Context(), func(l *broker.Lease) error { live = append(live, string(l.State)); return nil }); err != nil {
			t.Fatal(err)
		}
		if len(live) != 1 || live[0] != "stuck" {
			t.Errorf("All = %v, want one stuck lease", live)
		}
		if n, err := s.Stuck(t.Context()); n != 1 || err != nil {
			t.Errorf("Stuck = %d, %v; want 1", n, err)
		}
	})
}

func TestGarbageIsQuarantined(t *testing.T) {
	onBoth(t, func(t *testing.T, s *lease.Store, r *redis.Client) {
		ctx := t.Context()
		r.ZAdd(ctx, "brevet:{7}:due", redis.Z{Score: 1, Member: "l7-gone"})
		r.ZAdd(ctx, "brevet:{8}:due", redis.Z{Score: 1, Member: "l8-list"})
		r.LPush(ctx, "brevet:{8}:l:l8-list", "x")
		r.ZAdd(ctx, "brevet:{9}:due", redis.Z{Score: 1, Member: "l9-future"})
		r.HSet(ctx, "brevet:{9}:l:l9-future", "state", "dreaming")
		due, err := s.ClaimDue(ctx, time.Now())
		if len(due) != 0 || err == nil {
			t.Fatalf("ClaimDue = %v, %v; want an error and no lease", due, err)
		}
		for shard, member := range map[int]string{7: "l7-gone", 8: "l8-list", 9: "l9-future"} {
			if !r.SIsMember(ctx, fmt.Sprintf("brevet:{%d}:quarantine", shard), member).Val() {
				t.Errorf("%s is not in quarantine", member)
			}
			if !strings.Contains(err.Error(), member) {
				t.Errorf("the error does not name %s: %v", member, err)
			}
		}
	})
}

func TestScriptsComeBackAfterAFlush(t *testing.T) {
	onBoth(t, func(t *testing.T, s *lease.Store, r *redis.Client) {
		u := use(presets.Once, "t")
		x := session(u, "", 1)
		mustReserve(t, s, x, u)
		if err := r.ScriptFlush(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
		mustCommit(t, s, x)
		if due, err := s.ClaimDue(t.Context(), time.Now().Add(2*time.Minute)); err != nil || len(due) != 1 {
			t.Errorf("ClaimDue after a flush = %d, %v; want 1 lease", len(due), err)
		}
	})
}

func TestRedisDownIsUnavailable(t *testing.T) {
	t.Parallel()
	client := redis.NewClient(&redis.Options{Addr: servers.FreeAddr(t), MaxRetries: -1})
	defer client.Close()
	s := lease.New(client, nil)
	u := use(presets.Once, "t")
	x := session(u, "", 1)
	_, sessionErr := s.Session(t.Context(), x.ID)
	_, endErr := s.End(t.Context(), x.ID, nil, "revoked")
	_, claimErr := s.ClaimDue(t.Context(), time.Now())
	for name, err := range map[string]error{
		"Reserve": s.Reserve(t.Context(), x, u), "Commit": s.Commit(t.Context(), x), "Check": s.Check(t.Context()),
		"Session": sessionErr, "End": endErr, "ClaimDue": claimErr,
		"UseProof": s.UseProof(t.Context(), x.ID, "p"), "Finish": s.Finish(t.Context(), x.Leases[0], broker.Revoked),
	} {
		if !errors.Is(err, broker.ErrUnavailable) {
			t.Errorf("%s = %v, want ErrUnavailable", name, err)
		}
	}
}

func TestHandleWithoutAKeyIsRefused(t *testing.T) {
	client := redis.NewClient(&redis.Options{Addr: miniredis.RunT(t).Addr()})
	defer client.Close()
	s := lease.New(client, nil)
	u := use(presets.Once, "t")
	x := session(u, "", 1)
	mustReserve(t, s, x, u)
	x.Leases[0].Handle = api.NewSecret("user-1")
	if err := s.Commit(t.Context(), x); err == nil {
		t.Error("Commit kept a handle in clear")
	}
}

// Two brokers get the same token in the same millisecond, from a job and from a
// thief, each with a key of his own: one of them gets something.
func TestTokenAtTwoBrokers(t *testing.T) {
	onBoth(t, func(t *testing.T, s *lease.Store, r *redis.Client) {
		stores := []*lease.Store{s, lease.New(r, plainSealer{})}
		for _, mode := range []presets.Replay{presets.Once, presets.Bind} {
			for round := range 20 {
				u := use(mode, fmt.Sprint(mode, round))
				var granted atomic.Int32
				var all sync.WaitGroup
				start := make(chan struct{})
				for i := range 8 {
					x := session(u, fmt.Sprint("key", i), 1)
					all.Go(func() {
						<-start
						switch err := stores[i%2].Reserve(t.Context(), x, u); {
						case err == nil:
							granted.Add(1)
						case !errors.Is(err, broker.ErrReplayed):
							t.Errorf("Reserve = %v", err)
						}
					})
				}
				close(start)
				all.Wait()
				if granted.Load() != 1 {
					t.Fatalf("%s: %d of eight were granted", mode, granted.Load())
				}
			}
		}
	})
}

// A list of leases needs no key: handles stay sealed.
func TestAllWithoutAKey(t *testing.T) {
	onBoth(t, func(t *testing.T, s *lease.Store, r *redis.Client) {
		u := use(presets.Once, "t")
		x := session(u, "", 1)
		mustReserve(t, s, x, u)
		x.Leases[0].Handle = api.NewSecret("user-1")
		mustCommit(t, s, x)
		var listed []*broker.Lease
		err := lease.New(r, nil).All(t.Context(), func(l *broker.Lease) error { listed = append(listed, l); return nil })
		if err != nil || len(listed) != 1 || listed[0].ID != x.Leases[0].ID || !listed[0].Handle.IsZero() {
			t.Errorf("All = %+v, %v", listed, err)
		}
	})
}

// What Redis forgets, it forgets by durations: its clock may be another.
func TestMemories(t *testing.T) {
	onBoth(t, func(t *testing.T, s *lease.Store, r *redis.Client) {
		u := use(presets.Bind, "t")
		u.ProofID, u.RetryKey = "proof", "retry"
		x := session(u, "key", 1)
		mustReserve(t, s, x, u)
		if err := s.UseProof(t.Context(), x.ID, "another"); err != nil {
			t.Fatal(err)
		}
		keys, err := r.Keys(t.Context(), "brevet:*").Result()
		if err != nil {
			t.Fatal(err)
		}
		want := map[string]time.Duration{"r": 6 * time.Minute, "p": broker.ProofMemory, "s": 2 * time.Hour, "again": 2 * time.Hour, "l": -1, "due": -1, "marks": -1}
		seen := map[string]bool{}
		for _, key := range keys {
			kind := strings.Split(key, ":")[2]
			seen[kind] = true
			ttl := r.PTTL(t.Context(), key).Val()
			if w := want[kind]; w < 0 && ttl != -1 || w > 0 && (ttl > w || ttl < w-10*time.Second) {
				t.Errorf("%s is kept for %s, want %s", key, ttl, w)
			}
		}
		if len(seen) != len(want) {
			t.Errorf("keys of kinds %v, want %d kinds", seen, len(want))
		}
	})
}

func TestTokenIsNotUsedWithoutEnd(t *testing.T) {
	onBoth(t, func(t *testing.T, s *lease.Store, r *redis.Client) {
		u := use(presets.Bind, "t")
		mustReserve(t, s, session(u, "key", 1), u)
		keys, err := r.Keys(t.Context(), "brevet:*:r:*").Result()
		if err != nil || len(keys) != 1 {
			t.Fatalf("%v, %v", keys, err)
		}
		r.HSet(t.Context(), keys[0], "uses", 1000)
		if err := s.Reserve(t.Context(), session(u, "key", 1), u); !errors.Is(err, broker.ErrOverused) {
			t.Errorf("Reserve = %v, want ErrOverused", err)
		}
	})
}

// A token that a whole fleet shows is counted by the hour; a use of it by what it
// leaves behind, and for how long.
func TestSharedTokenIsNotUsedWithoutEnd(t *testing.T) {
	onBoth(t, func(t *testing.T, s *lease.Store, r *redis.Client) {
		u := use(presets.Reuse, "t")
		mustReserve(t, s, session(u, "key", 1), u)
		key := r.Keys(t.Context(), "brevet:*:r:*").Val()[0]
		for _, tt := range []struct {
			uses   int
			ago    time.Duration
			leases int
			life   time.Duration
			want   error
			then   string
		}{
			{1000, time.Minute, 1, time.Hour, nil, "1001"}, {1000, time.Minute, 8, time.Minute, nil, "1001"},
			{100_000, 59 * time.Minute, 1, time.Hour, broker.ErrOverused, "100000"}, {100_000, time.Hour, 1, time.Hour, nil, "1"},
			{1000, time.Minute, 1, 12 * time.Hour, nil, "1012"}, {1000, time.Minute, 9, 12 * time.Hour, nil, "1024"},
			{99_989, time.Minute, 1, 12 * time.Hour, broker.ErrOverused, "99989"}, {99_988, time.Minute, 1, 12 * time.Hour, nil, "100000"},
		} {
			r.HSet(t.Context(), key, "uses", tt.uses, "since", time.Now().Add(-tt.ago).UnixMilli())
			x := session(u, "another", tt.leases)
			x.Expires = x.IssuedAt.Add(tt.life)
			err := s.Reserve(t.Context(), x, u)
			if uses := r.HGet(t.Context(), key, "uses").Val(); !errors.Is(err, tt.want) || uses != tt.then {
				t.Errorf("after %d uses since %v: Reserve = %v and %s uses; want %v, %s", tt.uses, tt.ago, err, uses, tt.want, tt.then)
			}
		}
	})
}

func TestExtendAndConfirm(t *testing.T) {
	onBoth(t, func(t *testing.T, s *lease.Store, _ *redis.Client) {
		u := use(presets.Once, "t")
		x := session(u, "", 2)
		mustReserve(t, s, x, u)
		l := x.Leases[0]
		if err := s.Extend(t.Context(), l, l.MaxExpires); !errors.Is(err, broker.ErrEnded) {
			t.Errorf("Extend of a pending lease = %v, want ErrEnded", err)
		}
		mustCommit(t, s, x)
		for _, until := range []time.Time{l.Expires.Add(10 * time.Minute), l.Expires.Add(5 * time.Minute)} {
			if err := s.Extend(t.Context(), l, until); err != nil {
				t.Fatal(err)
			}
		}
		if got := mustSession(t, s, x.ID).Leases[0].Expires; !got.Equal(l.Expires.Add(10 * time.Minute)) {
			t.Errorf("the lease ends at %s: an earlier end took the place of a later", got)
		}
		if due, err := s.ClaimDue(t.Context(), l.Expires.Add(9*time.Minute)); err != nil || len(due) != 1 {
			t.Errorf("ClaimDue = %d leases, %v; want only the one that was not extended", len(due), err)
		}
		l.Expires = l.Expires.Add(10 * time.Minute)
		if err := s.Confirm(t.Context(), l); err != nil {
			t.Errorf("Confirm = %v", err)
		}
		l.Expires = l.Expires.Add(time.Second)
		if err := s.Confirm(t.Context(), l); !errors.Is(err, broker.ErrEnded) {
			t.Errorf("Confirm beyond the lease's end = %v, want ErrEnded", err)
		}
		// An ended session cannot extend what another still has to end.
		if _, err := s.End(t.Context(), x.ID, []string{x.Leases[1].ID}, "revoked"); err != nil {
			t.Fatal(err)
		}
		l.Expires = l.Expires.Add(-time.Second)
		if err := s.Confirm(t.Context(), l); err != nil {
			t.Errorf("Confirm after another lease was revoked = %v", err)
		}
		if _, err := s.End(t.Context(), x.ID, nil, "revoked"); err != nil {
			t.Fatal(err)
		}
		if err := s.Confirm(t.Context(), l); !errors.Is(err, broker.ErrEnded) {
			t.Errorf("Confirm after the end = %v, want ErrEnded", err)
		}
	})
}

func TestFinishedIsFinal(t *testing.T) {
	onBoth(t, func(t *testing.T, s *lease.Store, _ *redis.Client) {
		u := use(presets.Once, "t")
		x := session(u, "", 1)
		mustReserve(t, s, x, u)
		mustCommit(t, s, x)
		if _, err := s.End(t.Context(), x.ID, nil, "revoked"); err != nil {
			t.Fatal(err)
		}
		for _, final := range []broker.State{broker.Revoked, broker.Expired, broker.Stuck} {
			if err := s.Finish(t.Context(), x.Leases[0], final); err != nil {
				t.Fatal(err)
			}
		}
		if got := states(mustSession(t, s, x.ID)); got != "revoked" {
			t.Errorf("the lease is %s, want revoked", got)
		}
	})
}

func TestUnsure(t *testing.T) {
	onBoth(t, func(t *testing.T, s *lease.Store, _ *redis.Client) {
		for _, tt := range []struct {
			name   string
			commit bool
			end    func(x *broker.Session, u broker.TokenUse)
		}{
			{"ended while pending", false, func(x *broker.Session, _ broker.TokenUse) { s.End(t.Context(), x.ID, nil, "revoked") }},
			{"ended while active", true, func(x *broker.Session, _ broker.TokenUse) { s.End(t.Context(), x.ID, nil, "revoked") }},
			{"replaced while pending", false, func(_ *broker.Session, u broker.TokenUse) { s.Reserve(t.Context(), session(u, "key", 1), u) }},
			{"replaced while active", true, func(_ *broker.Session, u broker.TokenUse) { s.Reserve(t.Context(), session(u, "key", 1), u) }},
			{"lapsed", false, func(*broker.Session, broker.TokenUse) { s.ClaimDue(t.Context(), time.Now().Add(2*time.Minute)) }},
		} {
			u := use(presets.Once, tt.name)
			x := session(u, "key", 1)
			mustReserve(t, s, x, u)
			if tt.commit {
				mustCommit(t, s, x)
			}
			tt.end(x, u)
			if l := mustSession(t, s, x.ID).Leases[0]; l.State != broker.Revoking || l.Unsure == tt.commit {
				t.Errorf("%s: %s, unsure %v; want revoking, %v", tt.name, l.State, l.Unsure, !tt.commit)
			}
		}
	})
}

// A Redis that accepts and says nothing holds nobody up for longer than he
// wants to wait.
func TestRedisHangs(t *testing.T) {
	t.Parallel()
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	client := redis.NewClient(&redis.Options{Addr: silent.Addr().String(), ContextTimeoutEnabled: true, MaxRetries: -1})
	defer client.Close()
	s := lease.New(client, nil)
	u := use(presets.Once, "t")
	x := session(u, "", 1)
	var waiting sync.WaitGroup
	start := time.Now()
	for range 200 {
		waiting.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
			defer cancel()
			if err := s.Extend(ctx, x.Leases[0], time.Now()); !errors.Is(err, broker.ErrUnavailable) {
				t.Errorf("Extend = %v, want ErrUnavailable", err)
			}
		})
	}
	waiting.Wait()
	if took := time.Since(start); took > 20*time.Second { // one of them sends, for 5 s at most; the rest leave
		t.Errorf("it took %s", took)
	}
}

func TestReconcileTasks(t *testing.T) {
	onBoth(t, func(t *testing.T, s *lease.Store, r *redis.Client) {
		take := func() *broker.ReconcileTask {
			t.Helper()
			task, err := s.TakeReconcile(t.Context(), time.Minute)
			if err != nil {
				t.Fatal(err)
			}
			return task
		}
		if task := take(); task == nil || !task.Repair || task.ID != "" {
			t.Errorf("the first task = %+v, want a repair that nobody asked for", task)
		}
		if task := take(); task != nil {
			t.Errorf("the next task = %+v, want none for now", task)
		}
		if ttl := r.PTTL(t.Context(), "brevet:{reconcile}:turn").Val(); ttl < 29*time.Second || ttl > 91*time.Second {
			t.Errorf("the next turn comes in %s, want half to one and a half minutes", ttl)
		}
		id, err := s.AskReconcile(t.Context(), false)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.ReadReport(t.Context(), id); !errors.Is(err, broker.ErrNotFound) {
			t.Errorf("ReadReport before there is one = %v", err)
		}
		task := take()
		if task == nil || task.Repair || task.ID != id {
			t.Fatalf("the task = %+v, want what was asked for", task)
		}
		want := &broker.Report{Checked: []string{"db"}, Orphans: []broker.Finding{{Lease: "l1", State: broker.Unknown}}}
		if err := s.KeepReport(t.Context(), id, want); err != nil {
			t.Fatal(err)
		}
		if got, err := s.ReadReport(t.Context(), id); err != nil || len(got.Orphans) != 1 || got.Orphans[0].State != broker.Unknown {
			t.Errorf("ReadReport = %+v, %v", got, err)
		}
	})
}
