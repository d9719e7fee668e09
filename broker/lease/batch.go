package lease

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	// maxBatch bounds the scripts in one pipeline. At 20 µs each they block
	// Redis for about a millisecond.
	maxBatch = 64

	// maxWaiting bounds the scripts that wait for a pipeline: two seconds' worth
	// for a Redis that takes no more than 500 a second is no Redis to wait for.
	maxWaiting = 1024

	// callTimeout bounds one script, with the time it waits.
	callTimeout = 5 * time.Second
)

var errQueue = errors.New("too many scripts wait for it")

// A batcher sends scripts that are run at the same time in one pipeline: alone a
// script costs Redis and the broker a round trip, of which most is system
// calls. Nothing waits for company: what comes while a pipeline is under way
// makes up the next one. Measured with 64 clients: a third less CPU in Redis
// and a tenth more exchanges.
//
// It has no goroutine of its own. Whoever finds nobody at work sends all that
// waits, and then passes the work on to one of those who came meanwhile.
type batcher struct {
	runner *runner

	mu      sync.Mutex
	busy    bool // someone is sending
	waiting []*call
}

// A call is one script on its way.
type call struct {
	script  *redis.Script
	keys    []string // all in one slot of a Redis Cluster
	args    []any
	durable bool // counts only when replicas have it: see [Store.WaitReplicas]
	unknown bool // the node does not know the script: send its text
	cmd     *redis.Cmd
	wake    chan bool // true: your turn to send; false: cmd is answered
}

// run runs a script. Whoever waits leaves when ctx or callTimeout ends; whoever
// sends, for itself and others, takes callTimeout more at most. After an error
// the script may have run, as after any error of a network.
func (b *batcher) run(ctx context.Context, script *redis.Script, keys []string, args ...any) *redis.Cmd {
	return b.do(ctx, &call{script: script, keys: keys, args: args})
}

// runDurably is run for a change on which a promise rests.
func (b *batcher) runDurably(ctx context.Context, script *redis.Script, keys []string, args ...any) *redis.Cmd {
	return b.do(ctx, &call{script: script, keys: keys, args: args, durable: true})
}

// do runs c. What a node refused to begin is queued again: it must not hold up
// the others of its pipeline.
func (b *batcher) do(ctx context.Context, c *call) *redis.Cmd {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	c.wake = make(chan bool, 1)
	for wait := time.Duration(0); ; wait = longer(wait) {
		if err := b.attempt(ctx, c); err != nil {
			return failed(ctx, err)
		}
		if !b.runner.again(ctx, c) || !pause(ctx, wait) {
			return c.cmd
		}
	}
}

// attempt returns when c is answered, or with an error when it was not sent or
// waited for.
func (b *batcher) attempt(ctx context.Context, c *call) error {
	lead, err := b.join(ctx, c)
	if err == nil && !lead {
		select {
		case lead = <-c.wake:
		case <-ctx.Done():
			err = b.leave(ctx, c)
		}
	}
	if err == nil && lead {
		b.send(ctx, c)
	}
	return err
}

func failed(ctx context.Context, err error) *redis.Cmd {
	cmd := redis.NewCmd(ctx)
	cmd.SetErr(err)
	return cmd
}

// join queues c and reports whether it is to send.
func (b *batcher) join(ctx context.Context, c *call) (lead bool, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case ctx.Err() != nil:
		return false, ctx.Err()
	case len(b.waiting) >= maxWaiting:
		return false, errQueue
	}
	b.waiting = append(b.waiting, c)
	lead, b.busy = !b.busy, true
	return lead, nil
}

// leave takes c out of the queue, if it is still there, and passes on the turn
// if it was just given one.
func (b *batcher) leave(ctx context.Context, c *call) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if i := slices.Index(b.waiting, c); i >= 0 {
		b.waiting = slices.Delete(b.waiting, i, i+1)
	}
	select {
	case lead := <-c.wake:
		if lead {
			b.passLocked()
		}
	default:
	}
	return ctx.Err()
}

// passLocked gives the turn to the next who waits, if anyone does.
func (b *batcher) passLocked() {
	if b.busy = len(b.waiting) > 0; b.busy {
		b.waiting[0].wake <- true
	}
}

// send sends what waits, in which own is first, and passes the work on.
func (b *batcher) send(ctx context.Context, own *call) {
	runtime.Gosched() // let those who are about to ask do so
	b.mu.Lock()
	n := min(len(b.waiting), maxBatch)
	batch := slices.Clone(b.waiting[:n])
	b.waiting = slices.Delete(b.waiting, 0, n)
	b.mu.Unlock()

	defer func() {
		b.mu.Lock()
		b.passLocked()
		b.mu.Unlock()
		for _, c := range batch {
			if c != own {
				c.wake <- false
			}
		}
	}()
	// The others' scripts must not fail because own's client has gone.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
	defer cancel()
	b.runner.once(ctx, batch)
}
