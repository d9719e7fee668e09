package servers

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
)

// slots of a Redis Cluster.
const slots = 16384

// A RedisCluster is a Redis Cluster.
type RedisCluster struct {
	Nodes []*RedisServer // first the masters, until a failover

	t   testing.TB
	ids []string
}

// Cluster starts a cluster of masters, and one replica of each if wanted. A
// master that is away for a second is replaced.
func Cluster(t testing.TB, masters int, replicas bool) *RedisCluster {
	t.Helper()
	c := &RedisCluster{t: t}
	count := masters
	if replicas {
		count *= 2
	}
	for i := range count {
		c.add(i)
	}
	c.meet()
	for i, node := range c.Nodes[:masters] {
		c.do(node.Client.Do(t.Context(), "CLUSTER", "ADDSLOTSRANGE", i*slots/masters, (i+1)*slots/masters-1))
	}
	for i, node := range c.Nodes[masters:] {
		c.do(node.Client.ClusterReplicate(t.Context(), c.ids[i]))
	}
	Eventually(t, "the cluster is complete", c.Complete)
	return c
}

func (c *RedisCluster) add(i int) {
	c.t.Helper()
	node := StartRedis(c.t, "cluster-enabled", "yes", "cluster-node-timeout", "1000", "cluster-port", port(c.t, FreeAddr(c.t)),
		"cluster-replica-validity-factor", "0")
	c.do(node.Client.Do(c.t.Context(), "CLUSTER", "SET-CONFIG-EPOCH", i+1))
	id, err := node.Client.Do(c.t.Context(), "CLUSTER", "MYID").Text()
	if err != nil {
		c.t.Fatal(err)
	}
	c.Nodes, c.ids = append(c.Nodes, node), append(c.ids, id)
}

// meet makes every node know all others.
func (c *RedisCluster) meet() {
	c.t.Helper()
	first := c.Nodes[0].Client
	for _, node := range c.Nodes[1:] {
		bus, err := node.Client.ConfigGet(c.t.Context(), "cluster-port").Result()
		if err != nil {
			c.t.Fatal(err)
		}
		c.do(first.Do(c.t.Context(), "CLUSTER", "MEET", "127.0.0.1", port(c.t, node.Addr), bus["cluster-port"]))
	}
	Eventually(c.t, "every node knows all others", func() error {
		for _, node := range c.Nodes {
			info, err := node.Client.ClusterInfo(c.t.Context()).Result()
			if want := fmt.Sprintf("cluster_known_nodes:%d", len(c.Nodes)); err != nil || !hasLine(info, want) {
				return fmt.Errorf("%s: not %s: %v", node.Addr, want, err)
			}
		}
		return nil
	})
}

// Complete reports whether a client finds all slots, and replicas are in step.
func (c *RedisCluster) Complete() error {
	for _, node := range c.Nodes {
		info, err := node.Client.ClusterInfo(c.t.Context()).Result()
		if err != nil || !hasLine(info, "cluster_state:ok") {
			return fmt.Errorf("%s is not ok: %v", node.Addr, err)
		}
		replication, err := node.Client.Info(c.t.Context(), "replication").Result()
		if err != nil || hasLine(replication, "master_link_status:down") {
			return fmt.Errorf("%s is not in step: %v", node.Addr, err)
		}
	}
	return nil
}

// Addrs returns the nodes' addresses.
func (c *RedisCluster) Addrs() []string {
	var out []string
	for _, node := range c.Nodes {
		out = append(out, node.Addr)
	}
	return out
}

// Owner returns the index of the node that has a slot. It waits until all nodes
// that answer agree, on that and on the epoch: a slot that moves before then may
// end up as nobody's.
func (c *RedisCluster) Owner(slot int) (owner int) {
	c.t.Helper()
	Eventually(c.t, "the nodes agree about a slot", func() (err error) {
		owner, err = c.owner(c.t.Context(), slot)
		return err
	})
	return owner
}

func (c *RedisCluster) owner(ctx context.Context, slot int) (int, error) {
	owner, epoch := -1, ""
	for _, node := range c.Nodes {
		shards, err := node.Client.ClusterShards(ctx).Result()
		if err != nil {
			continue
		}
		now, its := c.ownerOf(shards, int64(slot)), currentEpoch(ctx, node)
		if owner >= 0 && (now != owner || its != epoch) {
			return -1, fmt.Errorf("%s says node %d, epoch %s; another says node %d, epoch %s", node.Addr, now, its, owner, epoch)
		}
		owner, epoch = now, its
	}
	if owner < 0 {
		return -1, errors.New("nobody has it")
	}
	return owner, nil
}

func (c *RedisCluster) ownerOf(shards []redis.ClusterShard, slot int64) int {
	for _, shard := range shards {
		if !slices.ContainsFunc(shard.Slots, func(r redis.SlotRange) bool { return r.Start <= slot && slot <= r.End }) {
			continue
		}
		for _, node := range shard.Nodes {
			if node.Role == "master" {
				return slices.Index(c.ids, node.ID)
			}
		}
	}
	return -1
}

func currentEpoch(ctx context.Context, node *RedisServer) string {
	_, rest, _ := strings.Cut(node.Client.ClusterInfo(ctx).Val(), "cluster_current_epoch:")
	epoch, _, _ := strings.Cut(rest, "\r\n")
	return epoch
}

// BeginMove makes a slot one that moves: its keys are still where they were.
func (c *RedisCluster) BeginMove(ctx context.Context, slot, from, to int) error {
	if err := c.Nodes[to].Client.Do(ctx, "CLUSTER", "SETSLOT", slot, "IMPORTING", c.ids[from]).Err(); err != nil {
		return err
	}
	return c.Nodes[from].Client.Do(ctx, "CLUSTER", "SETSLOT", slot, "MIGRATING", c.ids[to]).Err()
}

// MoveKey moves one key of a slot that moves.
func (c *RedisCluster) MoveKey(ctx context.Context, key string, from, to int) error {
	return c.Nodes[from].Client.Do(ctx, "MIGRATE", "127.0.0.1", port(c.t, c.Nodes[to].Addr), key, 0, 5000).Err()
}

// FinishMove moves the rest of the keys, and tells everyone, as redis-cli
// --cluster reshard does.
func (c *RedisCluster) FinishMove(ctx context.Context, slot, from, to int) error {
	for {
		keys, err := c.Nodes[from].Client.ClusterGetKeysInSlot(ctx, slot, 10).Result()
		if err != nil {
			return err
		}
		if len(keys) == 0 {
			break
		}
		for _, key := range keys {
			if err := c.MoveKey(ctx, key, from, to); err != nil {
				return err
			}
		}
	}
	if err := c.Nodes[to].Client.Do(ctx, "CLUSTER", "SETSLOT", slot, "NODE", c.ids[to]).Err(); err != nil {
		return err
	}
	var errs []error
	for i, node := range c.Nodes {
		if i != to {
			errs = append(errs, node.Client.Do(ctx, "CLUSTER", "SETSLOT", slot, "NODE", c.ids[to]).Err())
		}
	}
	return errors.Join(errs...)
}

func (c *RedisCluster) do(cmd interface{ Err() error }) {
	c.t.Helper()
	if err := cmd.Err(); err != nil {
		c.t.Fatal(err)
	}
}

func hasLine(text, line string) bool {
	return slices.Contains(strings.Split(strings.ReplaceAll(text, "\r\n", "\n"), "\n"), line)
}
