package lease

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	// waitFor is how long replicas have to take over a change: many times what
	// they need when they are well.
	waitFor = time.Second

	// firstPause and maxPause lie between the attempts to run a script that a
	// node of Redis refused to begin.
	firstPause = 10 * time.Millisecond
	maxPause   = 200 * time.Millisecond
)

// A cluster is what is used of a [redis.ClusterClient] beside its commands.
type cluster interface {
	MasterForKey(ctx context.Context, key string) (*redis.Client, error)
	ReloadState(ctx context.Context)
}

// A runner runs scripts in pipelines: one to each node of a Redis Cluster, one
// to any other Redis.
//
// It does not use the pipelines of the cluster's client, for two reasons. WAIT
// is about what was written on its own connection, so it must be sent to the
// node with the scripts. And a slot that moves from one node to another is in
// two halves for a while, in which the client follows the cluster's ASK: there
// a script finds the keys that it was given, but not the leases whose keys it
// makes up from their ids, and would take them for gone. So a script waits
// until its slot has moved.
type runner struct {
	redis    redis.UniversalClient
	cluster  cluster // nil: it is none
	replicas int     // that must have a durable change
}

func newRunner(client redis.UniversalClient) *runner {
	r := &runner{redis: client}
	if c, ok := client.(cluster); ok {
		r.cluster = c
	}
	return r
}

// run runs the scripts of a batch. Those that Redis refused to begin are sent
// again, until ctx ends.
func (r *runner) run(ctx context.Context, batch []*call) {
	for wait := time.Duration(0); ; wait = longer(wait) {
		r.once(ctx, batch)
		batch = slices.DeleteFunc(slices.Clone(batch), func(c *call) bool { return !r.again(ctx, c) })
		if len(batch) == 0 || !pause(ctx, wait) {
			return
		}
	}
}

// longer is the next pause: none before the second attempt, as a script that
// was not known is run then.
func longer(wait time.Duration) time.Duration { return min(2*wait+firstPause, maxPause) }

func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return ctx.Err() == nil
	}
}

// notBegun are the errors of a node that cannot run a script, now or at all,
// and has not begun to.
var notBegun = [...]string{"MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN", "LOADING", "READONLY", "MASTERDOWN"}

// notHere is in the error of a script on the old node of a slot that moves, when
// one of its leases has gone to the new one. What it has changed until then it
// finds changed when it runs again.
const notHere = "cript attempted to access a non local key" // 6.2: "Lua script", 7: "Script"

// again reports whether c is to be sent again.
func (r *runner) again(ctx context.Context, c *call) bool {
	err := c.cmd.Err()
	if err == nil {
		return false
	}
	if redis.HasErrorPrefix(err, "NOSCRIPT") { // after a restart or a flush, or at a new node
		c.unknown = true
		return true
	}
	refused := strings.Contains(err.Error(), notHere) ||
		slices.ContainsFunc(notBegun[:], func(prefix string) bool { return redis.HasErrorPrefix(err, prefix) })
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" && r.cluster != nil {
		refused = true // a replica takes the node's place
	}
	if refused {
		r.reload(ctx)
	}
	return refused
}

func (r *runner) reload(ctx context.Context) {
	if r.cluster != nil {
		r.cluster.ReloadState(ctx)
	}
}

// once sends each script to its node.
func (r *runner) once(ctx context.Context, batch []*call) {
	if r.cluster == nil {
		r.send(ctx, r.redis, batch)
		return
	}
	nodes := map[*redis.Client][]*call{}
	for _, c := range batch {
		node, err := r.cluster.MasterForKey(ctx, c.keys[0])
		if err != nil {
			c.cmd = failed(ctx, err)
			continue
		}
		nodes[node] = append(nodes[node], c)
	}
	var sending sync.WaitGroup
	for node, calls := range nodes {
		sending.Go(func() { r.send(ctx, node, calls) })
	}
	sending.Wait()
}

// send sends scripts to one node, and waits for its replicas if one of them is
// durable.
func (r *runner) send(ctx context.Context, node redis.Cmdable, calls []*call) {
	p, durable := node.Pipeline(), false
	for _, c := range calls {
		durable = durable || c.durable
		if c.unknown {
			c.cmd = c.script.Eval(ctx, p, c.keys, c.args...)
		} else {
			c.cmd = c.script.EvalSha(ctx, p, c.keys, c.args...)
		}
	}
	if !durable || r.replicas == 0 {
		p.Exec(ctx) // whose error is that of a call
		return
	}
	acknowledged := p.Do(ctx, "WAIT", r.replicas, waitFor.Milliseconds())
	p.Exec(ctx)
	if n, err := acknowledged.Int64(); err != nil || n < int64(r.replicas) {
		r.disown(calls, n, err)
	}
}

// errFewReplicas marks a change that the primary has made.
var errFewReplicas = errors.New("too few replicas")

// disown makes errors of the durable changes that too few replicas have.
func (r *runner) disown(calls []*call, n int64, err error) {
	for _, c := range calls {
		if c.durable && c.cmd.Err() == nil {
			c.cmd.SetErr(errors.Join(fmt.Errorf("%w: %d replicas have it, want %d", errFewReplicas, n, r.replicas), err))
		}
	}
}
