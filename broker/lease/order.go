package lease

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/brevet-dev/brevet/broker"
)

const (
	// orderStep is how many leases one script ends: a millisecond or two.
	orderStep = 200

	// ordersKey is where orders are written down, in the order of their writing.
	ordersKey = "brevet:orders"

	// maxOrders are kept. A broker that was down while more were given has lines
	// of the last ones only.
	maxOrders = 10_000

	// maxBlocks in force at once: each is compared in every exchange.
	maxBlocks = 100
)

// Revoke carries out an order: it sets its block, if it has one, and then makes
// every living lease that it selects revoking and due now. Sweepers do the rest.
// ended is called with the ids of each part that is done. The order is written
// down before.
//
// It may be repeated after an error: what is done stays done.
func (s *Store) Revoke(ctx context.Context, o *broker.Order, ended func(ids []string)) error {
	r := &ordering{batch: s.batch}
	if err := s.write(ctx, r, o); err != nil {
		return err
	}
	if !o.Until.IsZero() {
		if err := s.setBlock(ctx, r, o.Block()); err != nil {
			return err
		}
	}
	sessions := "0"
	if o.Selector.WholeSessions() {
		sessions = "1"
	}
	return s.each(ctx, r, o, s.scripts.order, func(k shardKeys) ([]string, []any) {
		return []string{k.due()}, []any{k.lease(""), k.session(""), ms(time.Now()), broker.WhyOrdered, o.ID, sessions}
	}, ended)
}

// Retry makes the stuck leases that an order selects due now, with all attempts
// before them. The order is written down before.
func (s *Store) Retry(ctx context.Context, o *broker.Order, retried func(ids []string)) error {
	r := &ordering{batch: s.batch}
	if err := s.write(ctx, r, o); err != nil {
		return err
	}
	return s.each(ctx, r, o, s.scripts.retry, func(k shardKeys) ([]string, []any) {
		return []string{k.due(), k.stuck()}, []any{k.lease(""), ms(time.Now())}
	}, retried)
}

// each runs a script on all leases that an order selects, in parts.
func (s *Store) each(ctx context.Context, r *ordering, o *broker.Order, script *redis.Script, args func(shardKeys) ([]string, []any), done func([]string)) error {
	n := 0
	err := s.walk(ctx, &o.Selector, func(k shardKeys, ids []string) error {
		for part := range slices.Chunk(ids, orderStep) {
			keys, argv := args(k)
			meant, err := s.meant(ctx, k, o, part)
			if err != nil {
				return err
			}
			reply, err := r.run(ctx, script, keys, append(argv, meant...)...).StringSlice()
			if err != nil {
				return unavailable(err)
			}
			n += len(reply)
			done(reply)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("order %s, after %d leases: %w", o.ID, n, err)
	}
	return r.told(o)
}

// An ordering runs the scripts of one order. Replicas that are away do not keep
// an operator from ending leases: the rest is done without them, and that is
// told at the end.
type ordering struct {
	batch *batcher
	few   error // too few replicas had a change
}

func (r *ordering) run(ctx context.Context, script *redis.Script, keys []string, args ...any) *redis.Cmd {
	if r.few != nil {
		return r.batch.run(ctx, script, keys, args...)
	}
	cmd := r.batch.runDurably(ctx, script, keys, args...)
	if errors.Is(cmd.Err(), errFewReplicas) {
		r.few = cmd.Err()
		cmd.SetErr(nil)
	}
	return cmd
}

func (r *ordering) told(o *broker.Order) error {
	if r.few == nil {
		return nil
	}
	return fmt.Errorf("order %s is carried out, and a failover may lose it: %w", o.ID, unavailable(r.few))
}

// meant returns those of ids that an order means. All are all: a kill switch
// does not read a million records first.
func (s *Store) meant(ctx context.Context, k shardKeys, o *broker.Order, ids []string) ([]any, error) {
	var out []any
	if o.Selector.All {
		for _, id := range ids {
			out = append(out, id)
		}
		return out, nil
	}
	refs, err := s.decide(ctx, k, &o.Selector, ids)
	for _, r := range refs {
		out = append(out, r.lease)
	}
	return out, err
}

// Unblock lifts the block o.Lifts, and reports whether there was one. The order
// is written down before.
func (s *Store) Unblock(ctx context.Context, o *broker.Order) (bool, error) {
	r := &ordering{batch: s.batch}
	if err := s.write(ctx, r, o); err != nil {
		return false, err
	}
	var n int64
	cmds := make([]*redis.IntCmd, broker.Shards)
	_, err := s.redis.Pipelined(ctx, func(p redis.Pipeliner) error {
		for shard := range cmds {
			cmds[shard] = p.HDel(ctx, keysOf(shard).blocks(), o.Lifts)
		}
		return nil
	})
	for _, cmd := range cmds {
		n += cmd.Val()
	}
	if err != nil {
		return n > 0, unavailable(err)
	}
	return n > 0, r.told(o)
}

// setBlock writes a block into every shard. If it fails some may have it, which
// refuses more than nothing would.
func (s *Store) setBlock(ctx context.Context, r *ordering, b broker.Block) error {
	blocks, err := s.Blocks(ctx)
	if err != nil {
		return err
	}
	if len(blocks) >= maxBlocks {
		return fmt.Errorf("%d blocks are in force, and each is compared in every exchange; lift some first", len(blocks))
	}
	encoded, err := json.Marshal(b)
	if err != nil {
		return fmt.Errorf("encoding a block: %w", err)
	}
	value := ms(b.Until) + " " + selectionOf(&b.Selector) + "\n" + string(encoded)
	for shard := range broker.Shards {
		if err := r.run(ctx, s.scripts.block, []string{keysOf(shard).blocks()}, b.ID, value).Err(); err != nil {
			return fmt.Errorf("setting block %s, which %d of %d shards have now: %w", b.ID, shard, broker.Shards, unavailable(err))
		}
	}
	return nil
}

// A SetBlock is a block as it is in Redis.
type SetBlock struct {
	broker.Block
	Shards int // that have it: less than [broker.Shards] if setting or lifting it failed

	// Garbage says that it cannot be read; then it refuses everything, and of the
	// block there is only its ID.
	Garbage bool
}

// Blocks returns the blocks in force, by their end.
func (s *Store) Blocks(ctx context.Context) ([]SetBlock, error) {
	cmds := make([]*redis.MapStringStringCmd, broker.Shards)
	_, err := s.redis.Pipelined(ctx, func(p redis.Pipeliner) error {
		for shard := range cmds {
			cmds[shard] = p.HGetAll(ctx, keysOf(shard).blocks())
		}
		return nil
	})
	if err != nil {
		return nil, unavailable(err)
	}
	byID := map[string]*SetBlock{}
	for _, cmd := range cmds {
		for id, value := range cmd.Val() {
			b := decodeBlock(id, value)
			if !b.Garbage && !b.Until.After(time.Now()) {
				continue
			}
			if byID[id] == nil {
				byID[id] = &b
			}
			byID[id].Shards++
			byID[id].Garbage = byID[id].Garbage || b.Garbage
		}
	}
	out := make([]SetBlock, 0, len(byID))
	for _, b := range byID {
		out = append(out, *b)
	}
	slices.SortFunc(out, func(a, b SetBlock) int {
		if c := a.Until.Compare(b.Until); c != 0 {
			return c
		}
		return strings.Compare(a.ID, b.ID)
	})
	return out, nil
}

// decodeBlock reads a block that someone else may have written. What scripts go
// by must be what people are shown.
func decodeBlock(id, value string) SetBlock {
	var b broker.Block
	compared, encoded, _ := strings.Cut(value, "\n")
	err := json.Unmarshal([]byte(encoded), &b)
	if err != nil || b.ID != id || compared != ms(b.Until)+" "+selectionOf(&b.Selector) {
		return SetBlock{Block: broker.Block{ID: id}, Garbage: true}
	}
	return SetBlock{Block: b}
}

// write writes an order down, for every broker to record.
func (s *Store) write(ctx context.Context, r *ordering, o *broker.Order) error {
	if err := o.Validate(); err != nil {
		return err
	}
	encoded, err := json.Marshal(o)
	if err != nil {
		return fmt.Errorf("encoding an order: %w", err)
	}
	if err := r.run(ctx, s.scripts.write, []string{ordersKey}, maxOrders, string(encoded)).Err(); err != nil {
		return fmt.Errorf("writing order %s down: %w", o.ID, unavailable(err))
	}
	return nil
}

// seenKey holds how far a broker has read the orders.
func seenKey(reader string) string { return ordersKey + ":seen:" + reader }

const (
	// ordersStep is how many orders are read at once.
	ordersStep = 100

	// firstOrders is how far back a broker reads that has read none yet.
	firstOrders = 24 * time.Hour
)

// ReadOrders calls record with each order that the reader, a broker by a name
// that it keeps, has not read yet. One that record returned no error for is not
// read again; after a crash one may be. What is no order is passed over, and
// told at the end.
func (s *Store) ReadOrders(ctx context.Context, reader string, record func(*broker.Order) error) error {
	last, err := s.redis.Get(ctx, seenKey(reader)).Result()
	if err != nil && !errors.Is(err, redis.Nil) {
		return unavailable(err)
	}
	if last == "" {
		last = ms(time.Now().Add(-firstOrders))
	}
	entries, err := s.redis.XRangeN(ctx, ordersKey, "("+last, "+", ordersStep).Result()
	if err != nil {
		return unavailable(err)
	}
	var bad []error
	for _, e := range entries {
		o, err := decodeOrder(e.Values)
		if err != nil {
			bad = append(bad, fmt.Errorf("order %s in redis: %w", e.ID, err))
		} else if err := record(o); err != nil {
			return err
		}
		if err := s.redis.Set(ctx, seenKey(reader), e.ID, 0).Err(); err != nil {
			return unavailable(err)
		}
	}
	return errors.Join(bad...)
}

func decodeOrder(values map[string]any) (*broker.Order, error) {
	text, _ := values["order"].(string)
	var o broker.Order
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		return nil, fmt.Errorf("not readable: %w", err)
	}
	if err := o.Validate(); err != nil {
		return nil, err
	}
	return &o, nil
}
