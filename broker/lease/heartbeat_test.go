package lease_test

import (
	"errors"
	"strconv"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/brevet-dev/brevet/broker"
	"github.com/brevet-dev/brevet/broker/lease"
	"github.com/brevet-dev/brevet/issuers/presets"
	"github.com/brevet-dev/brevet/policies"
	"github.com/brevet-dev/brevet/test/servers"
)

// watched reserves a session whose first lease needs a heartbeat every
// silence. It has n leases.
func watched(t *testing.T, s *lease.Store, token string, n int, silence time.Duration) *broker.Session {
	t.Helper()
	u := use(presets.Bind, token)
	x := session(u, "key", n)
	x.Leases[0].DeadMan = silence
	if err := x.EncodeRecord(); err != nil {
		t.Fatal(err)
	}
	mustReserve(t, s, x, u)
	return x
}

// sweepAt claims what is due at a time, and returns why each was ended, by id.
func sweepAt(t *testing.T, s *lease.Store, at time.Time) map[string]string {
	t.Helper()
	due, err := s.ClaimDue(t.Context(), at)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, l := range due {
		out[l.ID] = l.Why
	}
	return out
}

func TestSilenceEndsALease(t *testing.T) {
	onBoth(t, func(t *testing.T, s *lease.Store, _ *redis.Client) {
		x := watched(t, s, "t", 2, 30*time.Second)
		mustCommit(t, s, x)
		if got := sweepAt(t, s, time.Now().Add(29*time.Second)); len(got) != 0 {
			t.Errorf("ended before its time: %v", got)
		}
		got := sweepAt(t, s, time.Now().Add(31*time.Second))
		if len(got) != 1 || got[x.Leases[0].ID] != broker.WhySilent {
			t.Errorf("after the interval = %v, want the first lease, silent", got)
		}
		if err := s.Heartbeat(t.Context(), x.ID, ""); !errors.Is(err, broker.ErrEnded) {
			t.Errorf("Heartbeat of what was silent = %v, want ErrEnded", err)
		}
		if got := states(mustSession(t, s, x.ID)); got != "revoking active" {
			t.Errorf("leases are %s", got)
		}
		got = sweepAt(t, s, x.Leases[1].Expires)
		if got[x.Leases[1].ID] != broker.WhyExpired {
			t.Errorf("the lease without an interval = %v, want expired", got)
		}
	})
}

// A lease with an interval longer than its time ends by its time.
func TestTimeComesBeforeSilence(t *testing.T) {
	onBoth(t, func(t *testing.T, s *lease.Store, _ *redis.Client) {
		x := watched(t, s, "t", 1, 10*time.Minute)
		mustCommit(t, s, x)
		if got := sweepAt(t, s, x.Leases[0].Expires); got[x.Leases[0].ID] != broker.WhyExpired {
			t.Errorf("at its end = %v, want expired", got)
		}
	})
}

// The deadline is moved back in Redis, as if time had passed.
func TestHeartbeatsKeepALease(t *testing.T) {
	onBoth(t, func(t *testing.T, s *lease.Store, r *redis.Client) {
		x := watched(t, s, "t", 1, 30*time.Second)
		mustCommit(t, s, x)
		tag := "brevet:{" + shardOf(x.ID) + "}:"
		id, soon := x.Leases[0].ID, time.Now().Add(time.Second).UnixMilli()
		r.HSet(t.Context(), tag+"l:"+id, "beat", soon)
		r.ZAdd(t.Context(), tag+"due", redis.Z{Score: float64(soon), Member: id})
		for range 2 { // the second is the first, repeated after a lost answer, or another job's
			if err := s.Heartbeat(t.Context(), x.ID, ""); err != nil {
				t.Fatal(err)
			}
		}
		if got := sweepAt(t, s, time.Now().Add(29*time.Second)); len(got) != 0 {
			t.Errorf("ended within the interval: %v", got)
		}
		beat := mustSession(t, s, x.ID).Leases[0].Beat
		if left := time.Until(beat); left < 29*time.Second || left > 30*time.Second {
			t.Errorf("the next heartbeat is due in %s", left)
		}
		if score := r.ZScore(t.Context(), tag+"due", id).Val(); int64(score) != beat.UnixMilli() {
			t.Errorf("due at %.0f, want %d", score, beat.UnixMilli())
		}
	})
}

func shardOf(id string) string {
	shard, err := broker.ShardOf('s', id)
	if err != nil {
		panic(err) // the test made it
	}
	return strconv.Itoa(shard)
}

// A renewal is a heartbeat, and what renews a lease beyond its next heartbeat
// does not make it live that long in silence.
func TestRenewalIsAHeartbeat(t *testing.T) {
	onBoth(t, func(t *testing.T, s *lease.Store, _ *redis.Client) {
		x := watched(t, s, "t", 1, 30*time.Second)
		mustCommit(t, s, x)
		l := x.Leases[0]
		until := l.Expires.Add(10 * time.Minute)
		if err := s.Extend(t.Context(), l, until); err != nil {
			t.Fatal(err)
		}
		l.Expires = until
		if err := s.Confirm(t.Context(), l); err != nil {
			t.Fatal(err)
		}
		if got := sweepAt(t, s, time.Now().Add(31*time.Second)); got[l.ID] != broker.WhySilent {
			t.Errorf("after the interval = %v, want silent", got)
		}
	})
}

// Between the end of the interval and the sweep nothing brings a lease back.
func TestTooLateIsTooLate(t *testing.T) {
	onBoth(t, func(t *testing.T, s *lease.Store, r *redis.Client) {
		x := watched(t, s, "t", 1, 30*time.Second)
		mustCommit(t, s, x)
		l := x.Leases[0]
		past := time.Now().Add(-time.Millisecond).UnixMilli()
		r.HSet(t.Context(), "brevet:{"+shardOf(x.ID)+"}:l:"+l.ID, "beat", past)
		if err := s.Heartbeat(t.Context(), x.ID, ""); !errors.Is(err, broker.ErrEnded) {
			t.Errorf("Heartbeat = %v, want ErrEnded", err)
		}
		if err := s.Extend(t.Context(), l, l.Expires.Add(time.Minute)); !errors.Is(err, broker.ErrEnded) {
			t.Errorf("Extend = %v, want ErrEnded", err)
		}
	})
}

// A heartbeat and a revocation: whichever comes first, the lease is ended, and
// stays due for whoever ends it.
func TestHeartbeatRacesRevocation(t *testing.T) {
	onBoth(t, func(t *testing.T, s *lease.Store, r *redis.Client) {
		for range 20 {
			x := watched(t, s, "t"+time.Now().String(), 1, 30*time.Second)
			mustCommit(t, s, x)
			beat := make(chan error, 1)
			go func() { beat <- s.Heartbeat(t.Context(), x.ID, "") }()
			ended, err := s.End(t.Context(), x.ID, nil, "revoked")
			if err != nil || len(ended) != 1 {
				t.Fatalf("End = %d leases, %v", len(ended), err)
			}
			if err := <-beat; err != nil && !errors.Is(err, broker.ErrEnded) {
				t.Errorf("Heartbeat = %v", err)
			}
			if err := s.Heartbeat(t.Context(), x.ID, ""); !errors.Is(err, broker.ErrEnded) {
				t.Errorf("Heartbeat after the revocation = %v, want ErrEnded", err)
			}
			got := mustSession(t, s, x.ID).Leases[0]
			if got.State != broker.Revoking || got.Why != "revoked" {
				t.Errorf("lease is %s, %s", got.State, got.Why)
			}
			if at := r.ZScore(t.Context(), "brevet:{"+shardOf(x.ID)+"}:due", got.ID).Val(); at < float64(time.Now().UnixMilli()) {
				t.Errorf("due at %.0f: nobody gave it time to be ended", at)
			}
		}
	})
}

// The broker died before it committed: the lease lapses as others do. One that
// took long to mint has its whole interval from the commit on, and a commit that
// is repeated changes nothing.
func TestCommitOfAWatchedLease(t *testing.T) {
	onBoth(t, func(t *testing.T, s *lease.Store, _ *redis.Client) {
		dead := watched(t, s, "dead", 1, 30*time.Second)
		if err := s.Heartbeat(t.Context(), dead.ID, ""); !errors.Is(err, broker.ErrEnded) {
			t.Errorf("Heartbeat of a pending lease = %v, want ErrEnded: nobody has its answer", err)
		}
		if got := sweepAt(t, s, time.Now().Add(61*time.Second)); got[dead.Leases[0].ID] != broker.WhyLapsed {
			t.Errorf("pending for too long = %v, want lapsed", got)
		}
		slow := watched(t, s, "slow", 1, time.Millisecond) // it is over when the commit comes
		for time.Now().Before(slow.IssuedAt.Add(3 * time.Millisecond)) {
		}
		slow.Leases[0].DeadMan = time.Millisecond
		for range 2 {
			mustCommit(t, s, slow)
		}
		if got := mustSession(t, s, slow.ID).Leases[0]; got.State != broker.Active || !got.Beat.After(slow.IssuedAt.Add(2*time.Millisecond)) {
			t.Errorf("lease is %s until %s", got.State, got.Beat)
		}
	})
}

func TestHeartbeatProofs(t *testing.T) {
	onBoth(t, func(t *testing.T, s *lease.Store, _ *redis.Client) {
		x := watched(t, s, "t", 1, 30*time.Second)
		mustCommit(t, s, x)
		if err := s.Heartbeat(t.Context(), x.ID, "p1"); err != nil {
			t.Error(err)
		}
		if err := s.Heartbeat(t.Context(), x.ID, "p1"); !errors.Is(err, broker.ErrProofReplayed) {
			t.Errorf("Heartbeat with a used proof = %v", err)
		}
		if err := s.UseProof(t.Context(), x.ID, "p1"); !errors.Is(err, broker.ErrProofReplayed) {
			t.Errorf("UseProof after it = %v", err)
		}
		if err := s.Heartbeat(t.Context(), id("s", 3), "p1"); !errors.Is(err, broker.ErrNotFound) {
			t.Errorf("Heartbeat of no session = %v, want ErrNotFound", err)
		}
		u := use(presets.Bind, "other")
		without := session(u, "key", 1)
		mustReserve(t, s, without, u)
		mustCommit(t, s, without)
		if err := s.Heartbeat(t.Context(), without.ID, ""); err != nil {
			t.Errorf("Heartbeat of a session without such leases = %v", err)
		}
	})
}

// Garbage under our keys is quarantined by the sweep, and neither stops it nor
// heartbeats of other leases.
func TestGarbageInHeartbeats(t *testing.T) {
	onBoth(t, func(t *testing.T, s *lease.Store, r *redis.Client) {
		x := watched(t, s, "t", 3, 30*time.Second)
		mustCommit(t, s, x)
		tag := "brevet:{" + shardOf(x.ID) + "}:"
		r.HSet(t.Context(), tag+"l:"+x.Leases[1].ID, "beat", "x", "deadman", "y")
		r.Set(t.Context(), tag+"l:"+x.Leases[2].ID, "z", 0)
		if err := s.Heartbeat(t.Context(), x.ID, ""); err != nil {
			t.Errorf("Heartbeat = %v", err)
		}
		due, err := s.ClaimDue(t.Context(), x.Leases[0].Expires)
		if len(due) != 1 || due[0].ID != x.Leases[0].ID || err == nil {
			t.Errorf("ClaimDue = %d leases, %v", len(due), err)
		}
		if ids, err := s.Quarantined(t.Context()); len(ids) != 2 || err != nil {
			t.Errorf("Quarantined = %v, %v", ids, err)
		}
	})
}

// In a Redis that is full nobody is ended for silence who was not silent.
func TestHeartbeatInAFullRedis(t *testing.T) {
	client := redis.NewClient(&redis.Options{Addr: servers.Redis(t)})
	defer client.Close()
	s := lease.New(client, plainSealer{})
	x := watched(t, s, "t", 1, 30*time.Second)
	mustCommit(t, s, x)
	if err := client.ConfigSet(t.Context(), "maxmemory", "1").Err(); err != nil {
		t.Fatal(err)
	}
	if err := s.Heartbeat(t.Context(), x.ID, "p1"); err != nil {
		t.Errorf("Heartbeat = %v", err)
	}
	if err := s.Heartbeat(t.Context(), x.ID, "p1"); !errors.Is(err, broker.ErrProofReplayed) {
		t.Errorf("the same again = %v, want ErrProofReplayed", err)
	}
	if got := sweepAt(t, s, time.Now().Add(31*time.Second)); got[x.Leases[0].ID] != broker.WhySilent {
		t.Errorf("after the interval = %v, want silent", got)
	}
}

// What ends with a run is of the same issuer, project and run, and of scope run.
func TestEndRun(t *testing.T) {
	onBoth(t, func(t *testing.T, s *lease.Store, r *redis.Client) {
		open := func(token, issuer, project, run string, scope policies.Scope) *broker.Session {
			u := use(presets.Bind, token)
			x := session(u, "key", 2)
			x.Who.Issuer, x.Who.Workload.ProjectID, x.Who.Workload.Run = issuer, project, run
			x.Leases[1].Scope = scope
			if err := x.EncodeRecord(); err != nil {
				t.Fatal(err)
			}
			mustReserve(t, s, x, u)
			mustCommit(t, s, x)
			return x
		}
		mine := open("1", "lab", "456", "7", policies.ScopeRun)
		second := open("2", "lab", "456", "7", policies.ScopeRun)
		others := []*broker.Session{
			open("3", "lab", "456", "7", policies.ScopeJob), open("4", "lab", "456", "8", policies.ScopeRun),
			open("5", "lab", "457", "7", policies.ScopeRun), open("6", "other", "456", "7", policies.ScopeRun),
		}
		lost := open("7", "lab", "456", "7", policies.ScopeRun)
		r.HDel(t.Context(), "brevet:{"+shardOf(lost.ID)+"}:s:"+lost.ID, "record")
		sel := &broker.Selector{Match: map[broker.Attribute]string{broker.ByIssuer: "lab", broker.ByRepository: "456", broker.ByRun: "7"}}
		for _, want := range []int{2, 0} {
			if n, err := s.EndRun(t.Context(), sel); n != want || err != nil {
				t.Errorf("EndRun = %d, %v; want %d", n, err, want)
			}
		}
		for _, x := range []*broker.Session{mine, second} {
			if got := states(mustSession(t, s, x.ID)); got != "active revoking" {
				t.Errorf("leases of the run are %s", got)
			}
		}
		for i, x := range others {
			if got := states(mustSession(t, s, x.ID)); got != "active active" {
				t.Errorf("other session %d: leases are %s", i, got)
			}
		}
		got := sweepAt(t, s, time.Now())
		if len(got) != 2 || got[mine.Leases[1].ID] != broker.WhyRun || got[second.Leases[1].ID] != broker.WhyRun {
			t.Errorf("due now: %v", got)
		}
	})
}
