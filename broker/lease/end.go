package lease

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/brevet-dev/brevet/broker"
)

// End implements [broker.LeaseEnder].
func (s *Store) End(ctx context.Context, sessionID string, leaseIDs []string, why string) ([]*broker.Lease, error) {
	k, err := keysOfSession(sessionID)
	if err != nil {
		return nil, err
	}
	args := []any{k.lease(""), why, ms(time.Now().Add(claimFor))}
	for _, id := range leaseIDs {
		args = append(args, id)
	}
	reply, err := s.batch.runDurably(ctx, s.scripts.end, []string{k.session(sessionID), k.due()}, args...).Slice()
	if err != nil {
		return nil, unavailable(err)
	}
	return s.decodeReply(ctx, k, reply)
}

// ClaimDue implements [broker.LeaseEnder]. Beside an error it returns what it
// could claim.
func (s *Store) ClaimDue(ctx context.Context, now time.Time) ([]*broker.Lease, error) {
	batch := make([]*call, broker.Shards)
	for shard := range batch {
		k := keysOf(shard)
		batch[shard] = &call{
			script: s.scripts.claim, keys: []string{k.due()},
			args: []any{k.lease(""), ms(now), ms(now.Add(claimFor)), broker.ClaimBatch},
		}
	}
	s.claim(ctx, batch)
	var claimed []*broker.Lease
	var errs []error
	for shard, c := range batch {
		reply, err := c.cmd.Slice()
		if err != nil {
			errs = []error{unavailable(err)} // one of up to 64 alike
			continue
		}
		leases, err := s.decodeReply(ctx, keysOf(shard), reply)
		claimed = append(claimed, leases...)
		if err != nil {
			errs = append(errs, err)
		}
	}
	return claimed, errors.Join(errs...)
}

// claim runs the scripts of a sweep. A shard that cannot answer at once, as its
// slot of a Redis Cluster is on the move, does not hold up the others.
func (s *Store) claim(ctx context.Context, batch []*call) {
	ctx, cancel := context.WithTimeout(ctx, claimTimeout)
	defer cancel()
	s.batch.runner.run(ctx, batch)
}

// decodeReply reads the {id, {field, value, …}} pairs that scripts return. What
// it cannot read is quarantined. Beside an error it returns the leases that
// could be read.
func (s *Store) decodeReply(ctx context.Context, k shardKeys, reply []any) ([]*broker.Lease, error) {
	var out []*broker.Lease
	var errs []error
	for _, item := range reply {
		pair, ok := item.([]any)
		if !ok || len(pair) != 2 {
			return out, errors.New("a lease script gave an answer of the wrong form")
		}
		id, _ := pair[0].(string)
		flat, _ := pair[1].([]any)
		l, err := s.decodeLease(ctx, id, unflatten(flat))
		if errors.Is(err, broker.ErrUnavailable) {
			errs = append(errs, err) // due again: its handle may be readable then
			continue
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("quarantined: %w", err), s.quarantine(ctx, k, id))
			continue
		}
		out = append(out, l)
	}
	return out, errors.Join(errs...)
}

func (s *Store) quarantine(ctx context.Context, k shardKeys, id string) error {
	return unavailable(s.batch.run(ctx, s.scripts.quarantine, []string{k.due(), k.quarantine()}, id).Err())
}

func unflatten(flat []any) map[string]string {
	fields := make(map[string]string, len(flat)/2)
	for i := 0; i+1 < len(flat); i += 2 {
		name, _ := flat[i].(string)
		fields[name], _ = flat[i+1].(string)
	}
	return fields
}

// Finish implements [broker.LeaseEnder].
func (s *Store) Finish(ctx context.Context, l *broker.Lease, final broker.State) error {
	k, err := keysOfLease(l.ID)
	if err != nil {
		return err
	}
	keys := []string{k.lease(l.ID), k.due(), k.stuck(), k.marks()}
	return unavailable(s.batch.run(ctx, s.scripts.finish, keys, l.ID, string(final), keepEnded.Milliseconds()).Err())
}

// Postpone implements [broker.LeaseEnder].
func (s *Store) Postpone(ctx context.Context, l *broker.Lease, next time.Time) error {
	return s.postpone(ctx, l, next, 1)
}

// Defer implements [broker.LeaseEnder].
func (s *Store) Defer(ctx context.Context, l *broker.Lease, next time.Time) error {
	return s.postpone(ctx, l, next, 0)
}

func (s *Store) postpone(ctx context.Context, l *broker.Lease, next time.Time, attempts int) error {
	k, err := keysOfLease(l.ID)
	if err != nil {
		return err
	}
	return unavailable(s.batch.run(ctx, s.scripts.postpone, []string{k.lease(l.ID), k.due()}, l.ID, ms(next), attempts).Err())
}

// Stuck returns how many leases could not be ended.
func (s *Store) Stuck(ctx context.Context) (int64, error) {
	cmds := make([]*redis.IntCmd, broker.Shards)
	_, err := s.redis.Pipelined(ctx, func(p redis.Pipeliner) error {
		for shard := range cmds {
			cmds[shard] = p.SCard(ctx, keysOf(shard).stuck())
		}
		return nil
	})
	var n int64
	for _, cmd := range cmds {
		n += cmd.Val()
	}
	return n, unavailable(err)
}

// All calls each with every lease that lives: pending, active, being revoked or
// stuck, without their handles. It reads shard by shard; leases that come and go meanwhile may be
// missed or told of twice. What cannot be read is left out, and told at the end.
func (s *Store) All(ctx context.Context, each func(*broker.Lease) error) error {
	var unreadable []error
	for shard := range broker.Shards {
		k := keysOf(shard)
		ids, err := s.living(ctx, k)
		if err != nil {
			return err
		}
		records, err := s.read(ctx, k, ids)
		if err != nil {
			return err
		}
		for i, id := range ids {
			l, err := decodeFacts(id, records[i])
			if err != nil {
				unreadable = append(unreadable, err)
				continue
			}
			if err := each(l); err != nil {
				return err
			}
		}
	}
	return errors.Join(unreadable...)
}

// living returns the ids of a shard's leases that live.
func (s *Store) living(ctx context.Context, k shardKeys) ([]string, error) {
	due, err := s.redis.ZRange(ctx, k.due(), 0, -1).Result()
	if err != nil {
		return nil, unavailable(err)
	}
	stuck, err := s.redis.SMembers(ctx, k.stuck()).Result()
	return append(due, stuck...), unavailable(err)
}
