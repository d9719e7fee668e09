package chaos

import (
	"errors"
	mathrand "math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/brevet-dev/brevet/broker"
	"github.com/brevet-dev/brevet/test/servers"
)

// The clients are set up as those of cmd/brevetd.

func dialServer(addr string) func() redis.UniversalClient {
	return func() redis.UniversalClient {
		return redis.NewClient(&redis.Options{Addr: addr, ContextTimeoutEnabled: true, MaxRetries: 1, DialerRetries: 2})
	}
}

func dialCluster(c *servers.RedisCluster) func() redis.UniversalClient {
	return func() redis.UniversalClient {
		return redis.NewClusterClient(&redis.ClusterOptions{Addrs: c.Addrs(), ContextTimeoutEnabled: true, MaxRetries: 1, DialerRetries: 2})
	}
}

func dialSentinel(s *servers.RedisSentinel) func() redis.UniversalClient {
	return func() redis.UniversalClient {
		return redis.NewFailoverClient(&redis.FailoverOptions{
			MasterName: s.Master, SentinelAddrs: s.Sentinels, ContextTimeoutEnabled: true, MaxRetries: 1, DialerRetries: 2,
		})
	}
}

// during runs a fault, again and again, for as long as faults last.
func during(t *testing.T, fault func()) {
	t.Helper()
	for end := time.Now().Add(chaosTime(t)); time.Now().Before(end); {
		fault()
	}
}

// Slots go from node to node and back while their leases are used.
func TestResharding(t *testing.T) {
	t.Parallel()
	c := servers.Cluster(t, 3, false)
	w := newWorld(t, options{dial: dialCluster(c)})
	w.run()
	w.await(20)
	moved := 0
	during(t, func() {
		slot := slotOf(t, c, mathrand.IntN(broker.Shards))
		from := c.Owner(slot)
		moveSlowly(t, c, slot, from, (from+1+mathrand.IntN(2))%3)
		moved++
	})
	t.Logf("%d slots were moved", moved)
	w.await(20)
	w.close(false)
}

// moveSlowly moves what a script is given, and leaves the leases that it finds
// by itself for a while: a script on half a slot would take them for gone.
func moveSlowly(t *testing.T, c *servers.RedisCluster, slot, from, to int) {
	t.Helper()
	err := c.BeginMove(t.Context(), slot, from, to)
	keys, listErr := c.Nodes[from].Client.ClusterGetKeysInSlot(t.Context(), slot, 1000).Result()
	if err = errors.Join(err, listErr); err != nil {
		t.Fatal(err)
	}
	for _, key := range keys {
		if strings.Contains(key, ":l:") {
			continue
		}
		if err := c.MoveKey(t.Context(), key, from, to); err != nil {
			t.Fatal(err)
		}
	}
	pause(t.Context(), time.Duration(mathrand.IntN(200))*time.Millisecond)
	if err := c.FinishMove(t.Context(), slot, from, to); err != nil {
		t.Fatalf("moving slot %d: %v", slot, err)
	}
}

func slotOf(t *testing.T, c *servers.RedisCluster, shard int) int {
	t.Helper()
	slot, err := c.Nodes[0].Client.ClusterKeySlot(t.Context(), "{"+strconv.Itoa(shard)+"}").Result()
	if err != nil {
		t.Fatal(err)
	}
	return int(slot)
}

// A master of a cluster is killed; its replica takes its place, and it comes
// back as the replica.
func TestClusterFailover(t *testing.T) {
	t.Parallel()
	c := servers.Cluster(t, 3, true)
	w := newWorld(t, options{dial: dialCluster(c), replicas: 1})
	w.run()
	w.await(20)
	during(t, func() {
		slot := slotOf(t, c, mathrand.IntN(broker.Shards))
		old := c.Owner(slot)
		c.Nodes[old].Kill()
		servers.Eventually(t, "a replica is promoted", func() error {
			if c.Owner(slot) == old {
				return errors.New("not yet")
			}
			return nil
		})
		c.Nodes[old].Start()
		servers.Eventually(t, "the cluster is complete", c.Complete)
		w.await(20)
	})
	w.close(false)
}

// The primary is killed while exchanges run; Sentinels promote the replica. One
// replica must have what is promised, and there is one: nothing may be lost.
func TestSentinelFailover(t *testing.T) {
	t.Parallel()
	s := servers.Sentinel(t)
	w := newWorld(t, options{dial: dialSentinel(s), replicas: 1})
	w.run()
	w.await(20)
	during(t, func() {
		old := s.Primary(t)
		old.Kill()
		servers.Eventually(t, "the replica is promoted", func() error {
			if s.Primary(t) == old {
				return errors.New("not yet")
			}
			return nil
		})
		old.Start()
		w.await(20)
	})
	w.close(false)
}

// Redis is stopped, or killed, and comes back with what its append-only file
// has.
func TestRedisRestarts(t *testing.T) {
	t.Parallel()
	server := servers.StartRedis(t)
	w := newWorld(t, options{dial: dialServer(server.Addr)})
	w.run()
	end := server.Stop
	during(t, func() {
		w.await(20)
		end()
		if _, err := mustJob(t, w).exchange(t.Context(), w.brokers[0], nil); !errors.Is(err, broker.ErrUnavailable) {
			t.Errorf("an exchange without Redis = %v, want ErrUnavailable", err)
		}
		server.Start()
		end = server.Kill
	})
	w.await(20)
	w.close(false)
}

func mustJob(t *testing.T, w *world) *job {
	t.Helper()
	j, err := w.newJob()
	if err != nil {
		t.Fatal(err)
	}
	return j
}

// Redis is full: nothing is given out, and what was can be given back.
func TestRedisIsFull(t *testing.T) {
	t.Parallel()
	server := servers.StartRedis(t)
	w := newWorld(t, options{dial: dialServer(server.Addr)})
	w.run()
	during(t, func() {
		w.await(20)
		held, err := mustJob(t, w).exchange(t.Context(), w.brokers[0], nil)
		if err != nil {
			t.Fatalf("an exchange before Redis is full = %v", err)
		}
		set(t, server, "maxmemory", "1mb")
		if _, err := mustJob(t, w).exchange(t.Context(), w.brokers[0], nil); !errors.Is(err, broker.ErrUnavailable) || !redis.IsOOMError(err) {
			t.Errorf("an exchange with a full Redis = %v, want ErrUnavailable and OOM", err)
		}
		if err := w.brokers[1].RevokeSession(t.Context(), held.Token, "R"); err != nil {
			t.Errorf("a revocation with a full Redis = %v", err)
		}
		pause(t.Context(), 200*time.Millisecond)
		set(t, server, "maxmemory", "0")
	})
	w.await(20)
	w.close(false)
}

func set(t *testing.T, server *servers.RedisServer, name, value string) {
	t.Helper()
	if err := server.Client.ConfigSet(t.Context(), name, value).Err(); err != nil {
		t.Fatal(err)
	}
}

// Scripts are forgotten, connections cut, and all clients kept waiting.
func TestScriptsAndConnectionsAreLost(t *testing.T) {
	t.Parallel()
	server := servers.StartRedis(t)
	w := newWorld(t, options{dial: dialServer(server.Addr)})
	w.run()
	faults := [][]any{{"SCRIPT", "FLUSH"}, {"CLIENT", "KILL", "TYPE", "normal"}, {"CLIENT", "PAUSE", "300", "ALL"}, {"CLIENT", "PAUSE", "300", "WRITE"}}
	during(t, func() {
		w.await(3)
		for _, fault := range faults {
			if err := server.Client.Do(t.Context(), fault...).Err(); err != nil {
				t.Fatalf("%v: %v", fault, err)
			}
			pause(t.Context(), time.Duration(mathrand.IntN(50))*time.Millisecond)
		}
	})
	w.await(20)
	w.close(false)
}

// The clocks of two brokers differ by a minute: one ends leases half a minute
// early, the other late. Nobody's credential outlives its lease, and what one
// broker is at the other leaves to it.
func TestClocksDiffer(t *testing.T) {
	t.Parallel()
	server := servers.StartRedis(t)
	w := newWorld(t, options{dial: dialServer(server.Addr), ttl: "32s", skew: 30 * time.Second})
	w.run()
	during(t, func() { w.await(20) })
	servers.Eventually(t, "the early one ends leases", func() error {
		if log := readFile(t, w.auditFile(0)); !strings.Contains(log, `"event":"expire"`) {
			return errors.New("not yet")
		}
		return nil
	})
	if log := readFile(t, w.auditFile(1)); strings.Contains(log, `"event":"expire"`) {
		t.Error("the broker whose clock is late ended a lease")
	}
	w.close(true)
}

func readFile(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
