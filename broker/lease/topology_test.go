package lease_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/brevet-dev/brevet/broker"
	"github.com/brevet-dev/brevet/broker/lease"
	"github.com/brevet-dev/brevet/issuers/presets"
	"github.com/brevet-dev/brevet/test/servers"
)

func clusterStore(t *testing.T, c *servers.RedisCluster) (*lease.Store, *redis.ClusterClient) {
	t.Helper()
	client := redis.NewClusterClient(&redis.ClusterOptions{Addrs: c.Addrs(), ContextTimeoutEnabled: true, MaxRetries: 1, DialerRetries: 1})
	t.Cleanup(func() { client.Close() })
	return lease.New(client, plainSealer{}), client
}

// Everything that reads or writes several shards does so on several nodes, also
// when a node has forgotten the scripts.
func TestOnACluster(t *testing.T) {
	t.Parallel()
	c := servers.Cluster(t, 3, false)
	s, client := clusterStore(t, c)
	if _, err := s.Inspect(t.Context()); err != nil {
		t.Fatal(err)
	}
	sessions := make([]*broker.Session, 100)
	var all sync.WaitGroup
	for i := range sessions {
		all.Go(func() {
			u := use(presets.Once, fmt.Sprint(i))
			sessions[i] = session(u, "key", 2)
			if err := errors.Join(s.Reserve(t.Context(), sessions[i], u), s.Commit(t.Context(), sessions[i])); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if err := c.Nodes[1].Client.ScriptFlush(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	if n := live(t, s); n != 200 {
		t.Errorf("All tells of %d leases, want 200", n)
	}
	if by, err := s.SealedBy(t.Context()); err != nil || len(by) != 0 {
		t.Errorf("SealedBy = %v, %v", by, err)
	}
	if err := s.UseProof(t.Context(), sessions[0].ID, "p"); err != nil {
		t.Errorf("UseProof = %v", err)
	}
	if ended, err := s.End(t.Context(), sessions[0].ID, nil, "revoked"); err != nil || len(ended) != 2 {
		t.Errorf("End = %v, %v", ended, err)
	}
	var watched []broker.Watched
	for _, x := range sessions {
		watched = append(watched, broker.Watched{SessionID: x.ID, LeaseIDs: []string{x.Leases[0].ID}})
	}
	if seen, err := s.SessionStates(t.Context(), watched); err != nil || !seen[0].Ended || seen[1].Ended || seen[99].Leases[0].State != broker.Active {
		t.Errorf("SessionStates = %+v, %v; want the first ended, and no other", seen, err)
	}
	due, err := s.ClaimDue(t.Context(), time.Now().Add(2*time.Minute))
	if err != nil || len(due) != 200 {
		t.Errorf("ClaimDue = %d, %v; want 200", len(due), err)
	}
	for _, l := range due {
		if err := s.Finish(t.Context(), l, broker.Stuck); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := s.Stuck(t.Context()); n != 200 || err != nil {
		t.Errorf("Stuck = %d, %v; want 200", n, err)
	}
	if keys := client.DBSize(t.Context()).Val(); keys == 0 {
		t.Error("the cluster is empty")
	}
}

func live(t *testing.T, s *lease.Store) (n int) {
	t.Helper()
	if err := s.All(t.Context(), func(*broker.Lease) error { n++; return nil }); err != nil {
		t.Fatal(err)
	}
	return n
}

// While a slot is on the move its keys are on two nodes. A script that ran on
// one of them would take the leases on the other for gone.
func TestLeasesOfASlotOnTheMove(t *testing.T) {
	t.Parallel()
	c := servers.Cluster(t, 2, false)
	s, client := clusterStore(t, c)
	u := use(presets.Bind, "t")
	u.RetryKey = "retry"
	x := session(u, "key", 3)
	mustReserve(t, s, x, u)
	mustCommit(t, s, x)

	prefix := fmt.Sprintf("brevet:{%d}:", u.Shard())
	slot := int(client.ClusterKeySlot(t.Context(), prefix).Val())
	from := c.Owner(slot)
	to := 1 - from
	if err := c.BeginMove(t.Context(), slot, from, to); err != nil {
		t.Fatal(err)
	}
	for _, moved := range []struct {
		what string
		key  string
	}{{"a lease", "l:" + x.Leases[1].ID}, {"the session", "s:" + x.ID}, {"the due times", "due"}} {
		if err := c.MoveKey(t.Context(), prefix+moved.key, from, to); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		if _, err := s.End(ctx, x.ID, nil, "revoked"); !errors.Is(err, broker.ErrUnavailable) {
			t.Errorf("after %s has moved: End = %v, want ErrUnavailable", moved.what, err)
		}
		again := session(u, "key", 1)
		if err := s.Reserve(ctx, again, u); !errors.Is(err, broker.ErrUnavailable) {
			t.Errorf("after %s has moved: Reserve = %v, want ErrUnavailable", moved.what, err)
		}
		if due, _ := s.ClaimDue(ctx, time.Now().Add(2*time.Minute)); len(due) != 0 {
			t.Errorf("after %s has moved: ClaimDue = %v", moved.what, due)
		}
		cancel()
		if got, err := s.Session(t.Context(), x.ID); err != nil || len(got.Leases) != 3 { // reading goes on
			t.Errorf("after %s has moved: Session = %v, %v", moved.what, got, err)
		}
	}

	renewed := make(chan error)
	go func() { renewed <- s.Reserve(t.Context(), session(u, "key", 1), u) }()
	if err := c.FinishMove(t.Context(), slot, from, to); err != nil {
		t.Fatal(err)
	}
	if err := <-renewed; err != nil {
		t.Errorf("Reserve that waited for the slot = %v", err)
	}
	if got := states(mustSession(t, s, x.ID)); got != "revoking revoking revoking" {
		t.Errorf("the leases are %s, want them revoking", got)
	}
	if due, err := s.ClaimDue(t.Context(), time.Now().Add(5*time.Minute)); err != nil || len(due) != 4 {
		t.Errorf("ClaimDue = %d, %v; want all 4 leases", len(due), err)
	}
	if n := client.SCard(t.Context(), prefix+"quarantine").Val(); n != 0 {
		t.Errorf("%d leases are in quarantine", n)
	}
}

// twice repeats everything, as a client does that lost the answer.
type twice struct{}

func (twice) DialHook(next redis.DialHook) redis.DialHook { return next }

func (twice) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if cmd.Name() == "set" {
			next(ctx, cmd)
		}
		return next(ctx, cmd)
	}
}

func (twice) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		next(ctx, cmds)
		return next(ctx, cmds)
	}
}

// Every script may run twice where it was meant to run once.
func TestEveryScriptMayBeRepeated(t *testing.T) {
	onBoth(t, func(t *testing.T, s *lease.Store, r *redis.Client) {
		r.AddHook(twice{})
		ctx, u := t.Context(), use(presets.Bind, "t")
		u.ProofID, u.RetryKey = "proof", "retry"
		first := session(u, "key", 2)
		mustReserve(t, s, first, u) // not ErrProofReplayed, and it does not replace itself
		mustCommit(t, s, first)
		l := first.Leases[0]
		later := l.Expires.Add(10 * time.Minute)
		if err := errors.Join(s.Extend(ctx, l, later), s.UseProof(ctx, first.ID, "another")); err != nil {
			t.Fatal(err)
		}
		if err := s.UseProof(ctx, first.ID, "another"); !errors.Is(err, broker.ErrProofReplayed) {
			t.Errorf("UseProof of a used proof = %v, want ErrProofReplayed", err)
		}
		if got := mustSession(t, s, first.ID); states(got) != "active active" || !got.Leases[0].Expires.Equal(later) {
			t.Errorf("the session is %s until %s", states(got), got.Leases[0].Expires)
		}
		// One use counts as two: the limit may come early, never late.
		if err := s.CountUse(ctx, l.ID, "dek", 2, later); err != nil {
			t.Errorf("CountUse = %v", err)
		}
		if err := s.CountUse(ctx, l.ID, "dek", 2, later); !errors.Is(err, broker.ErrUsedUp) {
			t.Errorf("CountUse beyond = %v, want ErrUsedUp", err)
		}
		// What nobody was told of is due again as soon as another may take over.
		if _, err := s.End(ctx, first.ID, nil, "revoked"); err != nil {
			t.Fatal(err)
		}
		if states(mustSession(t, s, first.ID)) != "revoking revoking" {
			t.Error("End left a lease as it was")
		}
		if due := claimOnce(t, s, r, 31*time.Second); len(due) != 2 {
			t.Errorf("%d leases are due after 31 s, want 2", len(due))
		}
		if err := errors.Join(s.Postpone(ctx, l, time.Now().Add(time.Hour)), s.Finish(ctx, first.Leases[1], broker.Revoked)); err != nil {
			t.Fatal(err)
		}
		got := mustSession(t, s, first.ID)
		if states(got) != "revoking revoked" || got.Leases[0].Attempts != 2 {
			t.Errorf("the leases are %s, %d attempts", states(got), got.Leases[0].Attempts)
		}
	})
}

// claimOnce claims with a client that repeats nothing.
func claimOnce(t *testing.T, _ *lease.Store, r *redis.Client, after time.Duration) []*broker.Lease {
	t.Helper()
	client := redis.NewClient(&redis.Options{Addr: r.Options().Addr})
	defer client.Close()
	due, err := lease.New(client, plainSealer{}).ClaimDue(t.Context(), time.Now().Add(after))
	if err != nil {
		t.Fatal(err)
	}
	return due
}

func TestWaitReplicas(t *testing.T) {
	t.Parallel()
	primary := servers.StartRedis(t)
	s := lease.New(primary.Client, plainSealer{}).WaitReplicas(1)
	u := use(presets.Once, "t")
	x := session(u, "key", 1)
	if err := s.Reserve(t.Context(), x, u); !errors.Is(err, broker.ErrUnavailable) || !strings.Contains(err.Error(), "0 replicas have it, want 1") {
		t.Fatalf("Reserve without a replica = %v", err)
	}
	if task, err := s.TakeReconcile(t.Context(), time.Millisecond); task != nil || !errors.Is(err, broker.ErrUnavailable) {
		t.Errorf("TakeReconcile without a replica = %v, %v; want nothing to do", task, err)
	}
	warnings, err := s.Inspect(t.Context())
	if err != nil || !strings.Contains(fmt.Sprint(warnings), "has 0 replicas, and wait_replicas is 1") {
		t.Errorf("Inspect = %v, %v", warnings, err)
	}

	host, port, _ := strings.Cut(primary.Addr, ":")
	replica := servers.StartRedis(t, "replicaof", host+" "+port)
	servers.Eventually(t, "the replica is in step", func() error { return s.Reserve(t.Context(), x, u) })
	mustCommit(t, s, x)
	if state := replica.Client.HGet(t.Context(), fmt.Sprintf("brevet:{%d}:l:%s", u.Shard(), x.Leases[0].ID), "state").Val(); state != "active" {
		t.Errorf("when Commit returns the replica's lease is %q", state)
	}
	if err := s.Confirm(t.Context(), x.Leases[0]); err != nil {
		t.Errorf("Confirm = %v", err)
	}
	replica.Kill()
	_, err = s.End(t.Context(), x.ID, nil, "revoked")
	if err == nil {
		err = s.Extend(t.Context(), x.Leases[0], time.Now().Add(time.Hour))
	}
	if !errors.Is(err, broker.ErrUnavailable) {
		t.Errorf("End without a replica = %v, want ErrUnavailable", err)
	}
}

// A call whose first run was not waited for is waited for when it is repeated:
// else a retry would promise what a failover loses.
func TestRepeatedCallWaitsForReplicas(t *testing.T) {
	t.Parallel()
	primary := servers.StartRedis(t)
	u := use(presets.Once, "t")
	x := session(u, "key", 1)
	alone := lease.New(primary.Client, plainSealer{})
	mustReserve(t, alone, x, u)
	mustCommit(t, alone, x)
	if err := alone.Extend(t.Context(), x.Leases[0], x.Leases[0].Expires.Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	s := lease.New(primary.Client, plainSealer{}).WaitReplicas(1)
	for name, err := range map[string]error{
		"Reserve": s.Reserve(t.Context(), x, u), "Commit": s.Commit(t.Context(), x),
		"Extend": s.Extend(t.Context(), x.Leases[0], x.Leases[0].Expires),
	} {
		if !errors.Is(err, broker.ErrUnavailable) {
			t.Errorf("%s again = %v, want ErrUnavailable", name, err)
		}
	}
}

// In a full Redis nothing begins, and everything can be ended.
func TestRedisIsFull(t *testing.T) {
	t.Parallel()
	server := servers.StartRedis(t)
	s := lease.New(server.Client, plainSealer{})
	u := use(presets.Bind, "t")
	var all []*broker.Session
	for range 3 {
		x := session(u, "key", 1)
		mustReserve(t, s, x, u)
		mustCommit(t, s, x)
		all = append(all, x)
	}
	if err := server.Client.ConfigSet(t.Context(), "maxmemory", "1mb").Err(); err != nil {
		t.Fatal(err)
	}
	if err := s.Reserve(t.Context(), session(u, "key", 1), u); !errors.Is(err, broker.ErrUnavailable) || !redis.IsOOMError(err) {
		t.Errorf("Reserve = %v, want ErrUnavailable and OOM", err)
	}
	if err := s.Extend(t.Context(), all[0].Leases[0], time.Now().Add(time.Hour)); !errors.Is(err, broker.ErrUnavailable) {
		t.Errorf("Extend = %v, want ErrUnavailable", err)
	}
	ended, err := s.End(t.Context(), all[0].ID, nil, "revoked")
	if err != nil || len(ended) != 1 {
		t.Fatalf("End = %v, %v", ended, err)
	}
	if err := errors.Join(s.Postpone(t.Context(), ended[0], time.Now()), s.Finish(t.Context(), ended[0], broker.Revoked)); err != nil {
		t.Error(err)
	}
	due, err := s.ClaimDue(t.Context(), time.Now().Add(2*time.Minute))
	if err != nil || len(due) != 2 {
		t.Fatalf("ClaimDue = %v, %v; want 2", due, err)
	}
	if err := errors.Join(s.Finish(t.Context(), due[0], broker.Expired), s.Finish(t.Context(), due[1], broker.Stuck)); err != nil {
		t.Error(err)
	}
}

func TestInspect(t *testing.T) {
	t.Parallel()
	server := servers.StartRedis(t)
	client := server.Client
	s := lease.New(client, plainSealer{})
	if warnings, err := s.Inspect(t.Context()); err != nil || len(warnings) != 0 {
		t.Fatalf("Inspect = %v, %v; want neither", warnings, err)
	}
	set := func(name, value string) {
		t.Helper()
		if err := client.ConfigSet(t.Context(), name, value).Err(); err != nil {
			t.Fatal(err)
		}
	}
	set("appendonly", "no")
	if warnings, err := s.Inspect(t.Context()); err != nil || len(warnings) != 1 || !strings.Contains(warnings[0], "appendonly yes") {
		t.Errorf("without an append-only file: Inspect = %v, %v", warnings, err)
	}
	set("maxmemory-policy", "volatile-lru")
	_, err := s.Inspect(t.Context())
	if !errors.Is(err, lease.ErrUnfit) || !strings.Contains(err.Error(), "CONFIG SET maxmemory-policy noeviction") {
		t.Errorf("Inspect of an evicting Redis = %v", err)
	}
	u := use(presets.Once, "t")
	x := session(u, "", 1)
	for name, err := range map[string]error{
		"Reserve": s.Reserve(t.Context(), x, u), "Extend": s.Extend(t.Context(), x.Leases[0], time.Now()), "Check": s.Check(t.Context()),
	} {
		if !errors.Is(err, broker.ErrUnavailable) || !errors.Is(err, lease.ErrUnfit) {
			t.Errorf("%s with an evicting Redis = %v", name, err)
		}
	}
	if _, err := s.End(t.Context(), x.ID, nil, "revoked"); err != nil {
		t.Errorf("End with an evicting Redis = %v", err)
	}
	set("maxmemory-policy", "noeviction")
	if _, err := s.Inspect(t.Context()); err != nil {
		t.Fatal(err)
	}
	mustReserve(t, s, x, u)
}

func TestInspectOtherKinds(t *testing.T) {
	t.Parallel()
	sentinel, cluster := servers.Sentinel(t), servers.Cluster(t, 1, false)
	for addr, want := range map[string]string{
		sentinel.Sentinels[0]: "redis: {sentinel:", cluster.Nodes[0].Addr: "redis: {cluster:",
	} {
		client := redis.NewClient(&redis.Options{Addr: addr})
		if _, err := lease.New(client, nil).Inspect(t.Context()); !errors.Is(err, lease.ErrUnfit) || !strings.Contains(err.Error(), want) {
			t.Errorf("Inspect = %v, want ErrUnfit and %s", err, want)
		}
		client.Close()
	}
	client := redis.NewClient(&redis.Options{Addr: sentinel.Servers[1].Addr})
	defer client.Close()
	if warnings, err := lease.New(client, nil).Inspect(t.Context()); err != nil || !strings.Contains(fmt.Sprint(warnings), "is a replica") {
		t.Errorf("Inspect of a replica = %v, %v", warnings, err)
	}
	if err := sentinel.Servers[0].Client.Do(t.Context(), "ACL", "SETUSER", "brevet", "on", "nopass", "~brevet:*", "+@all", "-@dangerous").Err(); err != nil {
		t.Fatal(err)
	}
	managed := redis.NewClient(&redis.Options{Addr: sentinel.Servers[0].Addr, Username: "brevet", Password: "x"})
	defer managed.Close()
	if warnings, err := lease.New(managed, nil).Inspect(t.Context()); err != nil || !strings.Contains(fmt.Sprint(warnings), "+info") {
		t.Errorf("Inspect by a user without INFO = %v, %v", warnings, err)
	}
}
