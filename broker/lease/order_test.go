package lease_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"

	"github.com/brevet-dev/brevet/broker"
	"github.com/brevet-dev/brevet/broker/lease"
	"github.com/brevet-dev/brevet/issuers"
	"github.com/brevet-dev/brevet/issuers/presets"
	"github.com/brevet-dev/brevet/test/servers"
)

// of returns a session of a workload with leases of credentials c0, c1, …
func of(u broker.TokenUse, w issuers.Workload, leases int) *broker.Session {
	s := session(u, "", leases)
	s.Who.Workload, s.Epoch = w, "epoch-"+w.Run
	if err := s.EncodeRecord(); err != nil {
		panic(err) // strings and numbers
	}
	return s
}

// fill reserves and commits sessions of 3 repositories with 4 runs each, of 2
// leases each.
func fill(t *testing.T, s *lease.Store) []*broker.Session {
	t.Helper()
	var out []*broker.Session
	for repository := range 3 {
		for run := range 4 {
			u := use(presets.Once, fmt.Sprint(repository, run))
			x := of(u, issuers.Workload{
				ProjectID: fmt.Sprint(repository), OwnerID: "9", Run: fmt.Sprint(repository, "/", run), Environment: "production",
			}, 2)
			mustReserve(t, s, x, u)
			mustCommit(t, s, x)
			out = append(out, x)
		}
	}
	return out
}

func by(pairs ...string) broker.Selector {
	sel := broker.Selector{Match: map[broker.Attribute]string{}}
	for i := 0; i < len(pairs); i += 2 {
		sel.Match[broker.Attribute(pairs[i])] = pairs[i+1]
	}
	return sel
}

func selected(t *testing.T, s *lease.Store, sel broker.Selector) map[string]broker.State {
	t.Helper()
	out := map[string]broker.State{}
	if err := s.Select(t.Context(), &sel, func(f lease.Found) error { out[f.Lease.ID] = f.Lease.State; return nil }); err != nil {
		t.Fatalf("Select(%s) = %v", sel, err)
	}
	return out
}

func order(kind broker.OrderKind, sel broker.Selector) *broker.Order {
	o := broker.NewOrder(kind, "alice@laptop", sel)
	return &o
}

func mustRevoke(t *testing.T, s *lease.Store, o *broker.Order) []string {
	t.Helper()
	var out []string
	if err := s.Revoke(t.Context(), o, func(ids []string) { out = append(out, ids...) }); err != nil {
		t.Fatalf("Revoke(%s) = %v", o.Selector, err)
	}
	return out
}

func TestSelect(t *testing.T) {
	onBoth(t, func(t *testing.T, s *lease.Store, _ *redis.Client) {
		all := fill(t, s)
		x := all[5]
		for _, tt := range []struct {
			sel  broker.Selector
			want int
		}{
			{broker.Selector{All: true}, 24},
			{by("issuer", "lab"), 24}, {by("issuer", "Lab"), 0}, {by("owner-id", "9"), 24}, {by("owner-id", ""), 0},
			{by("repository-id", "1"), 8}, {by("repository-id", "3"), 0}, {by("run", "1/1"), 2}, {by("environment", "production"), 24},
			{by("credential", "c1"), 12}, {by("credential", "c1", "repository-id", "1"), 4}, {by("policy", "p"), 24}, {by("policy-digest", "sha256:0"), 24},
			{by("epoch", "epoch-1/1"), 2}, {by("session", x.ID), 2}, {by("lease", x.Leases[1].ID), 1}, {by("lease", x.Leases[1].ID, "credential", "c0"), 0},
			{by("lease", id("l", 5)), 0}, {by("session", id("s", 5)), 0},
			{broker.Selector{Since: x.IssuedAt.Add(-time.Hour)}, 24}, {broker.Selector{Since: time.Now().Add(time.Hour)}, 0},
		} {
			if got := selected(t, s, tt.sel); len(got) != tt.want {
				t.Errorf("%s selects %d leases, want %d", tt.sel, len(got), tt.want)
			}
		}
	})
}

// What one order ends is what its selector says, and no more; and it cannot be
// renewed any more.
func TestRevoke(t *testing.T) {
	onBoth(t, func(t *testing.T, s *lease.Store, _ *redis.Client) {
		all := fill(t, s)
		pending := of(use(presets.Once, "pending"), issuers.Workload{ProjectID: "1"}, 1)
		mustReserve(t, s, pending, use(presets.Once, "pending"))
		o := order(broker.OrderRevoke, by("repository-id", "1"))
		ended := mustRevoke(t, s, o)
		if len(ended) != 9 {
			t.Fatalf("%d leases ended, want 9", len(ended))
		}
		if again := mustRevoke(t, s, o); len(again) != 0 {
			t.Errorf("the second time ended %v", again)
		}
		for _, x := range append(all, pending) {
			x = mustSession(t, s, x.ID)
			want := x.Who.Workload.ProjectID == "1"
			if x.Ended != want {
				t.Errorf("session of repository %s is ended: %v", x.Who.Workload.ProjectID, x.Ended)
			}
			for _, l := range x.Leases {
				if got := l.State == broker.Revoking && l.Why == broker.WhyOrdered && l.Order == o.ID; got != want {
					t.Errorf("a lease of repository %s is %s, why %q, order %q", x.Who.Workload.ProjectID, l.State, l.Why, l.Order)
				}
				if err := s.Extend(t.Context(), l, l.MaxExpires); errors.Is(err, broker.ErrEnded) != want {
					t.Errorf("Extend of a lease of repository %s = %v", x.Who.Workload.ProjectID, err)
				}
			}
		}
		if err := s.Commit(t.Context(), pending); !errors.Is(err, broker.ErrEnded) {
			t.Errorf("Commit of what was revoked while it was minted = %v, want ErrEnded", err)
		}
		due, err := s.ClaimDue(t.Context(), time.Now())
		if err != nil || len(due) != 9 {
			t.Errorf("ClaimDue = %d leases, %v; want the 9", len(due), err)
		}
	})
}

// An order about one credential leaves the rest of its sessions alone.
func TestRevokeOneCredential(t *testing.T) {
	onBoth(t, func(t *testing.T, s *lease.Store, _ *redis.Client) {
		all := fill(t, s)
		if ended := mustRevoke(t, s, order(broker.OrderRevoke, by("credential", "c0"))); len(ended) != 12 {
			t.Fatalf("%d leases ended, want 12", len(ended))
		}
		x := mustSession(t, s, all[0].ID)
		if got := states(x); x.Ended || got != "revoking active" {
			t.Errorf("the session is ended: %v, its leases %s; want revoking active", x.Ended, got)
		}
		if err := s.Extend(t.Context(), x.Leases[1], x.Leases[1].MaxExpires); err != nil {
			t.Errorf("Extend of the other lease = %v", err)
		}
	})
}

func TestBlock(t *testing.T) {
	onBoth(t, func(t *testing.T, s *lease.Store, _ *redis.Client) {
		all := fill(t, s)
		block := func(sel broker.Selector, until time.Duration) *broker.Order {
			o := order(broker.OrderRevoke, sel)
			o.Until = o.Time.Add(until)
			mustRevoke(t, s, o)
			return o
		}
		reserve := func(repository string) error {
			u := use(presets.Once, id("t", 0))
			return s.Reserve(t.Context(), of(u, issuers.Workload{ProjectID: repository}, 1), u)
		}
		o := block(by("repository-id", "1", "credential", "c0"), time.Hour)
		if err := reserve("1"); !errors.Is(err, broker.ErrBlocked) || !strings.Contains(err.Error(), o.ID) {
			t.Errorf("Reserve of what is blocked = %v, want ErrBlocked by %s", err, o.ID)
		}
		if err := reserve("2"); err != nil {
			t.Errorf("Reserve of another repository = %v", err)
		}
		blocks, err := s.Blocks(t.Context())
		want := []lease.SetBlock{{Block: o.Block(), Shards: broker.Shards}}
		if diff := cmp.Diff(want, blocks); err != nil || diff != "" {
			t.Errorf("Blocks (-want +got): %v\n%s", err, diff)
		}
		lift := order(broker.OrderUnblock, o.Selector)
		lift.Lifts = o.ID
		for i, want := range []bool{true, false} {
			if got, err := s.Unblock(t.Context(), lift); got != want || err != nil {
				t.Errorf("Unblock, time %d = %v, %v", i, got, err)
			}
		}
		if err := reserve("1"); err != nil {
			t.Errorf("Reserve after the block was lifted = %v", err)
		}

		// A block that has ended blocks nothing. One of what was issued since counts
		// for what is issued now, and for no older lease that is renewed.
		block(by("repository-id", "1"), -time.Minute)
		if err := reserve("1"); err != nil {
			t.Errorf("Reserve after the block's end = %v", err)
		}
		since := by("repository-id", "0")
		since.Since = time.Now().Add(time.Minute)
		block(since, time.Hour)
		l := all[0].Leases[0]
		if err := s.Extend(t.Context(), l, l.MaxExpires); err != nil {
			t.Errorf("Extend of a lease from before = %v", err)
		}
		block(broker.Selector{All: true}, time.Hour)
		if err := reserve("7"); !errors.Is(err, broker.ErrBlocked) {
			t.Errorf("Reserve while all is blocked = %v", err)
		}
	})
}

// Renewal is refused also for leases that an order has not come to yet.
func TestBlockedRenewal(t *testing.T) {
	onBoth(t, func(t *testing.T, s *lease.Store, _ *redis.Client) {
		all := fill(t, s)
		ctx, cancel := context.WithCancel(t.Context())
		o := order(broker.OrderRevoke, by("owner-id", "9"))
		o.Until = o.Time.Add(time.Hour)
		err := s.Revoke(ctx, o, func([]string) { cancel() }) // dies after the first part
		if err == nil {
			t.Fatal("Revoke went on after its context ended")
		}
		blocked := 0
		for _, x := range all {
			err := s.Extend(t.Context(), x.Leases[0], x.Leases[0].MaxExpires)
			if errors.Is(err, broker.ErrBlocked) {
				blocked++
			} else if !errors.Is(err, broker.ErrEnded) {
				t.Errorf("Extend = %v, want ErrBlocked or ErrEnded", err)
			}
		}
		if blocked == 0 {
			t.Error("the order came to every lease before it died; the test shows nothing")
		}
	})
}

// Unsure means no: a block that cannot be read blocks everything, and is shown.
func TestGarbageBlock(t *testing.T) {
	onBoth(t, func(t *testing.T, s *lease.Store, r *redis.Client) {
		u := use(presets.Once, "t")
		key := fmt.Sprintf("brevet:{%d}:blocks", u.Shard())
		future := fmt.Sprint(time.Now().Add(time.Hour).UnixMilli())
		for name, value := range map[string]string{"empty": "", "no end": "soon 0\n{}", "no selection": future + " x\n{}"} {
			r.HSet(t.Context(), key, "o-x", value)
			if err := s.Reserve(t.Context(), session(u, "", 1), u); !errors.Is(err, broker.ErrBlocked) {
				t.Errorf("%s: Reserve = %v, want ErrBlocked", name, err)
			}
			if blocks, err := s.Blocks(t.Context()); err != nil || len(blocks) != 1 || !blocks[0].Garbage || blocks[0].ID != "o-x" {
				t.Errorf("%s: Blocks = %v, %v", name, blocks, err)
			}
		}
		lift := order(broker.OrderUnblock, broker.Selector{All: true})
		lift.Lifts = "o-x"
		if ok, err := s.Unblock(t.Context(), lift); !ok || err != nil {
			t.Errorf("Unblock = %v, %v", ok, err)
		}
		mustReserve(t, s, session(u, "", 1), u)
	})
}

// Marks that decide too little leave it to the record. A lease without any is
// found by its id, its session's, and all.
func TestSelectWithoutMarks(t *testing.T) {
	onBoth(t, func(t *testing.T, s *lease.Store, r *redis.Client) {
		all := fill(t, s)
		for i, x := range all {
			shard, err := broker.ShardOf('s', x.ID)
			if err != nil {
				t.Fatal(err)
			}
			for _, l := range x.Leases {
				marks := fmt.Sprintf("brevet:{%d}:marks", shard)
				if i%2 == 0 { // as a version with fewer attributes wrote them
					r.HSet(t.Context(), marks, l.ID, r.HGet(t.Context(), marks, l.ID).Val()[:13])
				} else {
					r.HDel(t.Context(), marks, l.ID)
				}
			}
		}
		for _, tt := range []struct {
			sel  broker.Selector
			want int
		}{{by("repository-id", "1"), 4}, {by("run", "2/2"), 2}, {by("run", "2/3"), 0}, {by("session", all[1].ID), 2}, {broker.Selector{All: true}, 24}} {
			if got := selected(t, s, tt.sel); len(got) != tt.want {
				t.Errorf("%s selects %d leases, want %d", tt.sel, len(got), tt.want)
			}
		}
	})
}

func TestSelectGarbage(t *testing.T) {
	onBoth(t, func(t *testing.T, s *lease.Store, r *redis.Client) {
		fill(t, s)
		ctx := t.Context()
		gone, list := id("l", 7), id("l", 8)
		r.ZAdd(ctx, "brevet:{7}:due", redis.Z{Score: 1e15, Member: gone})
		r.ZAdd(ctx, "brevet:{8}:due", redis.Z{Score: 1e15, Member: list})
		r.LPush(ctx, "brevet:{8}:l:"+list, "x")
		n := 0
		err := s.Select(ctx, &broker.Selector{All: true}, func(lease.Found) error { n++; return nil })
		if n != 24 || err == nil || !strings.Contains(err.Error(), gone) || !strings.Contains(err.Error(), list) {
			t.Errorf("Select found %d, %v; want 24, and both that cannot be read", n, err)
		}
		if ended := mustRevoke(t, s, order(broker.OrderRevoke, broker.Selector{All: true})); len(ended) != 24 {
			t.Errorf("%d leases ended, want 24", len(ended))
		}
	})
}

// Marks of a lease that someone deleted are told of once, and dropped.
func TestMarksWithoutALease(t *testing.T) {
	onBoth(t, func(t *testing.T, s *lease.Store, r *redis.Client) {
		x := fill(t, s)[5] // of repository 1
		shard, err := broker.ShardOf('s', x.ID)
		if err != nil {
			t.Fatal(err)
		}
		r.Del(t.Context(), fmt.Sprintf("brevet:{%d}:l:%s", shard, x.Leases[0].ID))
		sel, n := by("repository-id", "1"), 0
		count := func(lease.Found) error { n++; return nil }
		if err := s.Select(t.Context(), &sel, count); n != 7 || err == nil || !strings.Contains(err.Error(), "its record is gone") {
			t.Errorf("Select found %d, %v; want 7, and the one that is gone", n, err)
		}
		if err := s.Select(t.Context(), &sel, count); n != 14 || err != nil {
			t.Errorf("Select found %d in two, %v; want 14", n, err)
		}
	})
}

func TestRetryStuck(t *testing.T) {
	onBoth(t, func(t *testing.T, s *lease.Store, _ *redis.Client) {
		fill(t, s)
		mustRevoke(t, s, order(broker.OrderRevoke, by("repository-id", "1")))
		due, err := s.ClaimDue(t.Context(), time.Now())
		if err != nil || len(due) != 8 {
			t.Fatalf("ClaimDue = %d, %v", len(due), err)
		}
		for _, l := range due {
			l.Attempts = 13
			if err := s.Finish(t.Context(), l, broker.Stuck); err != nil {
				t.Fatal(err)
			}
		}
		if got := slices.Collect(maps.Values(selected(t, s, by("repository-id", "1")))); len(got) != 8 || got[0] != broker.Stuck {
			t.Errorf("stuck leases are not found: %v", got)
		}
		var retried []string
		err = s.Retry(t.Context(), order(broker.OrderRetry, by("run", "1/2")), func(ids []string) { retried = append(retried, ids...) })
		if err != nil || len(retried) != 2 {
			t.Fatalf("Retry = %v, %v; want 2 leases", retried, err)
		}
		due, err = s.ClaimDue(t.Context(), time.Now())
		if err != nil || len(due) != 2 || due[0].Attempts != 0 || due[0].State != broker.Revoking {
			t.Errorf("ClaimDue after Retry = %v, %v", due, err)
		}
		if n, err := s.Stuck(t.Context()); n != 6 || err != nil {
			t.Errorf("Stuck = %d, %v; want 6", n, err)
		}
	})
}

// Each broker reads each order once, whatever is between them.
func TestReadOrders(t *testing.T) {
	onBoth(t, func(t *testing.T, s *lease.Store, r *redis.Client) {
		var want []string
		for range 3 {
			o := order(broker.OrderRevoke, by("run", "7"))
			mustRevoke(t, s, o)
			want = append(want, o.ID)
		}
		for _, garbage := range []string{"{", `{"id":"o-1","kind":"dance","by":"x","selector":"all"}`, `{"id":"o-1","kind":"retry","by":"` + strings.Repeat("x", 70_000) + `","selector":"all"}`} {
			if err := r.XAdd(t.Context(), &redis.XAddArgs{Stream: "brevet:orders", Values: []string{"order", garbage}}).Err(); err != nil {
				t.Fatal(err)
			}
		}
		read := func(reader string, fail error) (ids []string, err error) {
			err = s.ReadOrders(t.Context(), reader, func(o *broker.Order) error {
				if fail == nil {
					ids = append(ids, o.ID)
				}
				return fail
			})
			return ids, err
		}
		full := errors.New("disk full")
		if _, err := read("a", full); !errors.Is(err, full) {
			t.Errorf("ReadOrders = %v, want what record returned", err)
		}
		for _, reader := range []string{"a", "b"} {
			got, err := read(reader, nil)
			if !slices.Equal(got, want) || err == nil || !strings.Contains(err.Error(), "not readable") {
				t.Errorf("%s read %v, %v; want %v and the one that is garbage", reader, got, err, want)
			}
			if got, err := read(reader, nil); len(got) != 0 || err != nil {
				t.Errorf("%s read %v again, %v", reader, got, err)
			}
		}
	})
}

func TestRevokeRefusesNothing(t *testing.T) {
	onBoth(t, func(t *testing.T, s *lease.Store, _ *redis.Client) {
		fill(t, s)
		o := order(broker.OrderRevoke, broker.Selector{})
		if err := s.Revoke(t.Context(), o, func([]string) {}); err == nil {
			t.Error("an order that selects nothing was carried out")
		}
		if got := selected(t, s, broker.Selector{All: true}); len(got) != 24 {
			t.Errorf("%d leases live, want all 24", len(got))
		}
	})
}

// BenchmarkRevoke10000 is the aim of one second: 10 000 leases of one repository
// are marked, so that none is renewed, among as many of others. "blocked" is
// when the block counts, which refuses renewals of all of them.
func BenchmarkRevoke10000(b *testing.B) {
	client := redis.NewClient(&redis.Options{Addr: servers.Redis(b)})
	defer client.Close()
	s := lease.New(client, plainSealer{})
	for b.Loop() {
		b.StopTimer()
		client.FlushAll(b.Context())
		for i := range 20_000 {
			u := use(presets.Once, fmt.Sprint(i))
			x := of(u, issuers.Workload{ProjectID: fmt.Sprint(i % 2), Run: fmt.Sprint(i), OwnerID: "9", Actor: "alice"}, 1)
			if err := errors.Join(s.Reserve(b.Context(), x, u), s.Commit(b.Context(), x)); err != nil {
				b.Fatal(err)
			}
		}
		o := order(broker.OrderRevoke, by("repository-id", "1"))
		o.Until = time.Now().Add(time.Hour)
		n := 0
		b.StartTimer()
		if err := s.Revoke(b.Context(), o, func(ids []string) { n += len(ids) }); err != nil || n != 10_000 {
			b.Fatalf("Revoke ended %d, %v", n, err)
		}
	}
}

// The kill switch works in a Redis that is full.
func TestRevokeInAFullRedis(t *testing.T) {
	client := redis.NewClient(&redis.Options{Addr: servers.Redis(t)})
	defer client.Close()
	s := lease.New(client, plainSealer{})
	fill(t, s)
	if err := client.ConfigSet(t.Context(), "maxmemory", "1").Err(); err != nil {
		t.Fatal(err)
	}
	u := use(presets.Once, "t")
	if err := s.Reserve(t.Context(), session(u, "", 1), u); err == nil {
		t.Fatal("Redis is not full")
	}
	o := order(broker.OrderRevoke, broker.Selector{All: true})
	o.Until = o.Time.Add(time.Hour)
	if ended := mustRevoke(t, s, o); len(ended) != 24 {
		t.Errorf("%d leases ended, want 24", len(ended))
	}
	if blocks, err := s.Blocks(t.Context()); len(blocks) != 1 || blocks[0].Shards != broker.Shards || err != nil {
		t.Errorf("Blocks = %v, %v", blocks, err)
	}
}

// While a slot is on the move an order waits: a lease that is on the new node
// already is not passed over.
func TestOrderOnASlotOnTheMove(t *testing.T) {
	t.Parallel()
	c := servers.Cluster(t, 2, false)
	s, client := clusterStore(t, c)
	u := use(presets.Once, "t")
	x := session(u, "key", 3)
	mustReserve(t, s, x, u)
	mustCommit(t, s, x)
	prefix := fmt.Sprintf("brevet:{%d}:", u.Shard())
	slot := int(client.ClusterKeySlot(t.Context(), prefix).Val())
	from := c.Owner(slot)
	if err := c.BeginMove(t.Context(), slot, from, 1-from); err != nil {
		t.Fatal(err)
	}
	if err := c.MoveKey(t.Context(), prefix+"l:"+x.Leases[1].ID, from, 1-from); err != nil {
		t.Fatal(err)
	}
	o := order(broker.OrderRevoke, broker.Selector{All: true})
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := s.Revoke(ctx, o, func([]string) {}); !errors.Is(err, broker.ErrUnavailable) {
		t.Errorf("Revoke = %v, want ErrUnavailable", err)
	}
	if err := c.FinishMove(t.Context(), slot, from, 1-from); err != nil {
		t.Fatal(err)
	}
	mustRevoke(t, s, o)
	if got := states(mustSession(t, s, x.ID)); got != "revoking revoking revoking" {
		t.Errorf("the leases are %s, want them revoking", got)
	}
}

// A session that somebody replaced by something else keeps no lease from being
// ended.
func TestOrderBesideGarbage(t *testing.T) {
	onBoth(t, func(t *testing.T, s *lease.Store, r *redis.Client) {
		x := fill(t, s)[0]
		shard, err := broker.ShardOf('s', x.ID)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Set(t.Context(), fmt.Sprintf("brevet:{%d}:s:%s", shard, x.ID), "garbage", 0).Err(); err != nil {
			t.Fatal(err)
		}
		if ended := mustRevoke(t, s, order(broker.OrderRevoke, broker.Selector{All: true})); len(ended) != 24 {
			t.Errorf("%d leases ended, want 24", len(ended))
		}
	})
}

// Replicas that are away do not keep leases from being ended; and it is told.
func TestOrderWithoutReplicas(t *testing.T) {
	t.Parallel()
	primary := servers.StartRedis(t)
	alone := lease.New(primary.Client, plainSealer{})
	fill(t, alone)
	s := lease.New(primary.Client, plainSealer{}).WaitReplicas(1)
	o := order(broker.OrderRevoke, broker.Selector{All: true})
	o.Until = time.Now().Add(time.Hour)
	var ended []string
	err := s.Revoke(t.Context(), o, func(ids []string) { ended = append(ended, ids...) })
	if !errors.Is(err, broker.ErrUnavailable) || !strings.Contains(err.Error(), "is carried out, and a failover may lose it") {
		t.Errorf("Revoke = %v", err)
	}
	if len(ended) != 24 {
		t.Errorf("%d leases ended, want 24", len(ended))
	}
	if blocks, err := alone.Blocks(t.Context()); err != nil || len(blocks) != 1 || blocks[0].Shards != broker.Shards {
		t.Errorf("Blocks = %+v, %v", blocks, err)
	}
}

// A walk that goes on at another node, where a cursor means something else,
// misses no lease.
func TestOrderWhileASlotMoves(t *testing.T) {
	for _, sel := range []broker.Selector{{All: true}, by("issuer", "lab")} {
		t.Run(sel.String(), func(t *testing.T) {
			t.Parallel()
			testOrderWhileASlotMoves(t, sel)
		})
	}
}

func testOrderWhileASlotMoves(t *testing.T, sel broker.Selector) {
	c := servers.Cluster(t, 2, false)
	s, client := clusterStore(t, c)
	shard, all := use(presets.Once, "0").Shard(), 0
	for n := 0; all < 3000; n++ {
		u := use(presets.Once, fmt.Sprint(n))
		if u.Shard() != shard {
			continue
		}
		x := session(u, "key", 100)
		mustReserve(t, s, x, u)
		all += 100
	}
	slot := int(client.ClusterKeySlot(t.Context(), fmt.Sprintf("brevet:{%d}:", shard)).Val())
	from, moved, ended := c.Owner(slot), false, map[string]bool{}
	move := func() error {
		moved = true
		if err := c.BeginMove(t.Context(), slot, from, 1-from); err != nil {
			return err
		}
		return c.FinishMove(t.Context(), slot, from, 1-from)
	}
	o := order(broker.OrderRevoke, sel)
	err := s.Revoke(t.Context(), o, func(ids []string) {
		for _, id := range ids {
			ended[id] = true
		}
		if !moved && len(ids) > 0 {
			if err := move(); err != nil {
				t.Error(err)
			}
		}
	})
	if err != nil || len(ended) != all || !moved {
		t.Errorf("Revoke ended %d of %d leases, %v", len(ended), all, err)
	}
}
