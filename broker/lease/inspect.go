package lease

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/redis/go-redis/v9"

	"github.com/brevet-dev/brevet/broker"
)

// ErrUnfit means that Redis is set up so that it may lose leases, or cannot run
// the scripts.
var ErrUnfit = errors.New("redis is not fit to keep leases")

// oldest is the oldest Redis that the scripts are tested for, and run on.
const oldest = "6.2"

// Inspect asks every node of Redis how it is set up. It returns [ErrUnfit], with
// what to do, or [broker.ErrUnavailable], and warnings about the rest. As long
// as the last answer was ErrUnfit nothing is reserved or extended: what is
// there already can still be ended.
func (s *Store) Inspect(ctx context.Context) (warnings []string, err error) {
	nodes, err := s.nodes(ctx)
	if err != nil {
		return nil, unavailable(err)
	}
	var errs []error
	for _, n := range nodes {
		warnings = append(warnings, s.warnings(n)...)
		errs = append(errs, s.unfitness(n))
	}
	slices.Sort(warnings)
	if err = errors.Join(errs...); err != nil {
		err = fmt.Errorf("%w: %w", ErrUnfit, err)
		s.unfit.Store(&err)
		return warnings, err
	}
	s.unfit.Store(nil)
	return slices.Compact(warnings), nil
}

// Fit returns what Inspect found wrong when it last asked.
func (s *Store) Fit() error {
	if err := s.unfit.Load(); err != nil {
		return fmt.Errorf("%w: %w", broker.ErrUnavailable, *err)
	}
	return nil
}

// Check reports whether Redis answers, a Redis Cluster for every slot, and is
// fit.
func (s *Store) Check(ctx context.Context) error {
	if err := s.Fit(); err != nil {
		return err
	}
	if s.batch.runner.cluster == nil {
		return unavailable(s.redis.Ping(ctx).Err())
	}
	info, err := s.redis.ClusterInfo(ctx).Result()
	if err == nil && !strings.Contains(info, "cluster_state:ok") {
		err = errors.New("the cluster has slots that no node serves")
	}
	return unavailable(err)
}

// A node is what INFO says of one; empty if it may not be asked.
type node struct {
	addr string
	info map[string]string
	err  error
}

// nodes asks all nodes. One of several may be away.
func (s *Store) nodes(ctx context.Context) ([]node, error) {
	switch client := s.redis.(type) {
	case *redis.Client:
		n := askNode(ctx, client)
		return []node{n}, n.err
	case *redis.ClusterClient:
		return clusterNodes(ctx, client)
	}
	return nil, fmt.Errorf("a %T is no kind of Redis that is known here", s.redis)
}

func clusterNodes(ctx context.Context, client *redis.ClusterClient) ([]node, error) {
	var (
		mu   sync.Mutex // guards the rest
		out  []node
		errs []error
	)
	err := client.ForEachShard(ctx, func(ctx context.Context, one *redis.Client) error {
		n := askNode(ctx, one)
		mu.Lock()
		defer mu.Unlock()
		out, errs = append(out, n), append(errs, n.err)
		return nil
	})
	if err == nil && !slices.Contains(errs, nil) {
		err = errors.Join(errs...)
	}
	return out, err
}

func askNode(ctx context.Context, client *redis.Client) node {
	n := node{addr: client.Options().Addr, info: map[string]string{}}
	if n.addr == "FailoverClient" { // the client's name for whom Sentinels name
		n.addr = "primary"
	}
	text, err := client.Info(ctx).Result()
	if !redis.HasErrorPrefix(err, "NOPERM") {
		n.err = err
	}
	for lines := bufio.NewScanner(strings.NewReader(text)); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), ":")
		n.info[name] = value
	}
	return n
}

// warnings are about what weakens a promise that the operator may do without.
func (s *Store) warnings(n node) []string {
	var out []string
	warn := func(format string, args ...any) {
		out = append(out, "redis "+n.addr+": "+fmt.Sprintf(format, args...))
	}
	if n.err != nil {
		warn("does not answer: %v", n.err)
		return out
	}
	if n.info["maxmemory_policy"] == "" {
		warn("INFO may not be asked, so nobody knows whether maxmemory-policy is noeviction and an append-only file is kept; type: ACL SETUSER <the broker's> +info")
		return out
	}
	if n.info["aof_enabled"] == "0" {
		warn("keeps no append-only file: after a restart leases are lost, and tokens can be used again; type: CONFIG SET appendonly yes")
	}
	primary := n.info["role"] == "master"
	if replicas, err := strconv.Atoi(n.info["connected_slaves"]); primary && err == nil && replicas < s.batch.runner.replicas {
		warn("has %d replicas, and wait_replicas is %d: nothing is exchanged until it has more", replicas, s.batch.runner.replicas)
	}
	if !primary && s.batch.runner.cluster == nil {
		warn("is a replica, which cannot be written to; name the primary, or its Sentinels")
	}
	return out
}

// unfitness is why a node must not be used.
func (s *Store) unfitness(n node) error {
	version, policy, mode := n.info["redis_version"], n.info["maxmemory_policy"], n.info["redis_mode"]
	switch {
	case version != "" && older(version, oldest):
		return fmt.Errorf("%s is Redis %s; the broker needs %s or newer", n.addr, version, oldest)
	case mode == "sentinel":
		return fmt.Errorf("%s is a Sentinel; write redis: {sentinel: {master: …, addrs: [%s, …]}}", n.addr, n.addr)
	case mode == "cluster" && s.batch.runner.cluster == nil:
		return fmt.Errorf("%s is a node of a Redis Cluster; write redis: {cluster: {addrs: [%s, …]}}", n.addr, n.addr)
	case policy != "" && policy != "noeviction":
		return fmt.Errorf("%s has maxmemory-policy %s, which drops leases and replay marks when memory is short; type: redis-cli CONFIG SET maxmemory-policy noeviction, and write it into redis.conf", n.addr, policy)
	}
	return nil
}

// older compares the first two numbers of versions.
func older(a, b string) bool {
	x, y := firstTwo(a), firstTwo(b)
	return slices.Compare(x[:], y[:]) < 0
}

func firstTwo(version string) (out [2]int) {
	for i, part := range strings.SplitN(version, ".", 3) {
		if n, err := strconv.Atoi(part); err == nil && i < len(out) {
			out[i] = n
		}
	}
	return out
}
