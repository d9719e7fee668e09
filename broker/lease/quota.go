package lease

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/brevet-dev/brevet/broker"
)

// Quotas count what many tokens of one workload, or of one policy, are
// exchanged for, and each token has its own shard; so they cannot be counted in
// the script that reserves. They are counted before, each in a script on the
// shard of its own name, and taken back if nothing is reserved then: counted
// too late they would let through what two brokers reserve at the same time,
// and a token that meets a limit is not used up this way.
//
// What is counted are names, not numbers, so that a crash in between mends
// itself: an exchange is forgotten after a minute, a lease when it must have
// ended by itself. That a lease ended before is found out when the limit is
// reached: then every lease that is counted is looked at, and those that have
// ended go. So a count may be too high for a moment, and is never too low.

// A counted is one quota of one exchange.
type counted struct {
	live, rate, looked string // keys
	quota              *broker.Quota
	names              []string // of its leases
}

// lookEvery is how often the leases of a limit that is reached are looked at:
// jobs that hammer at it cost a round trip each, and not a thousand reads.
const lookEvery = 200 * time.Millisecond

// countedName is what stands for a lease: it says, too, when it was counted, as
// until a while after that it may not be reserved yet.
func countedName(l *broker.Lease) string { return l.ID + " " + ms(l.IssuedAt) }

func newCounted(q *broker.Quota) *counted {
	sum := sha256.Sum256([]byte(q.Name))
	k, hash := keysOf(int(sum[0])%broker.Shards), base64.RawURLEncoding.EncodeToString(sum[:16])
	c := &counted{live: k.quota(hash) + ":live", rate: k.quota(hash) + ":minute", looked: k.quota(hash) + ":looked", quota: q}
	for _, l := range q.Leases {
		c.names = append(c.names, countedName(l))
	}
	return c
}

// countQuotas counts session against all its quotas, or against none.
func (s *Store) countQuotas(ctx context.Context, session *broker.Session, use broker.TokenUse) error {
	for i, q := range session.Quotas {
		if err := s.countQuota(ctx, newCounted(q), session, use); err != nil {
			return errors.Join(err, s.releaseQuotas(ctx, session.ID, session.Quotas[:i]))
		}
	}
	return nil
}

// countQuota counts one, a second time after those that ended have gone.
func (s *Store) countQuota(ctx context.Context, c *counted, session *broker.Session, use broker.TokenUse) error {
	err := s.tryQuota(ctx, c, session.ID, nil)
	full, ok := errors.AsType[*broker.QuotaError](err)
	if !ok || !full.Live {
		return err
	}
	switch first, err := s.redis.SetNX(ctx, c.looked, "1", lookEvery).Result(); {
	case err != nil:
		return unavailable(err)
	case !first:
		full.After = lookEvery
		return full
	}
	if err := s.dropEnded(ctx, c); err != nil {
		return err
	}
	replaced, err := s.replacedBy(ctx, session, use)
	if err != nil {
		return err
	}
	return s.tryQuota(ctx, c, session.ID, replaced)
}

func (s *Store) tryQuota(ctx context.Context, c *counted, sessionID string, others []string) error {
	args := []any{ms(time.Now()), c.quota.MostLive, c.quota.PerMinute, sessionID, len(c.names), len(others)}
	for i, name := range c.names {
		args = append(args, ms(c.quota.Leases[i].MaxExpires), name)
	}
	for _, name := range others {
		args = append(args, name)
	}
	reply, err := s.batch.runDurably(ctx, s.scripts.quota, []string{c.live, c.rate}, args...).Slice()
	if err != nil {
		return unavailable(err)
	}
	if len(reply) != 2 {
		return errors.New("the quota script gave an answer of the wrong form")
	}
	wait, _ := reply[1].(int64)
	switch after := time.Duration(wait) * time.Millisecond; reply[0] {
	case "ok":
		return nil
	case "live":
		return &broker.QuotaError{Quota: c.quota, Live: true, After: after}
	case "rate":
		return &broker.QuotaError{Quota: c.quota, After: after}
	}
	return fmt.Errorf("quota script answered %v", reply[0])
}

// dropEnded takes out of the count what has ended, or was never reserved. A
// lease that is being revoked, or is stuck, counts: it may have a credential.
func (s *Store) dropEnded(ctx context.Context, c *counted) error {
	names, err := s.redis.ZRange(ctx, c.live, 0, -1).Result()
	if err != nil {
		return unavailable(err)
	}
	ids := make([]string, len(names))
	for i, name := range names {
		ids[i], _, _ = strings.Cut(name, " ")
	}
	states, err := s.States(ctx, slices.DeleteFunc(slices.Clone(ids), notALease))
	if err != nil {
		return err
	}
	var ended []any
	for i, name := range names {
		state := states[ids[i]]
		if state == broker.Revoked || state == broker.Expired || state == "" && staleName(name, time.Now()) {
			ended = append(ended, name)
		}
	}
	if len(ended) == 0 {
		return nil
	}
	return unavailable(s.redis.ZRem(ctx, c.live, ended...).Err())
}

func notALease(id string) bool {
	_, err := broker.ShardOf('l', id)
	return err != nil
}

// staleName reports whether a lease that is not on record was counted so long
// ago that it would be.
func staleName(name string, now time.Time) bool {
	_, at, _ := strings.Cut(name, " ")
	counted, err := strconv.ParseInt(at, 10, 64)
	return err != nil || now.Sub(time.UnixMilli(counted)) > pendingFor+clockSkew
}

// replacedBy returns the names of the leases that this exchange replaces, as it
// repeats one whose answer got lost: they end when it is reserved.
func (s *Store) replacedBy(ctx context.Context, session *broker.Session, use broker.TokenUse) ([]string, error) {
	last, err := s.repeated(ctx, session, use)
	if err != nil || last == "" {
		return nil, err
	}
	before, err := s.Session(ctx, last)
	if errors.Is(err, broker.ErrUnavailable) {
		return nil, err
	}
	if err != nil {
		return nil, nil // gone, or garbage: nothing of it is left to replace
	}
	var out []string
	for _, l := range before.Leases {
		out = append(out, countedName(l))
	}
	return out, nil
}

// repeated returns the id of the session whose lost answer this exchange repeats,
// as reserve.lua finds it; "" if it is no repetition.
func (s *Store) repeated(ctx context.Context, session *broker.Session, use broker.TokenUse) (string, error) {
	k := keysOf(use.Shard())
	if session.KeyThumbprint == "" {
		return "", nil // reserving decides what it is
	}
	if use.Mode != "once" {
		if use.RetryKey == "" {
			return "", nil
		}
		last, err := s.redis.Get(ctx, k.retry(use, session.KeyThumbprint)).Result()
		if errors.Is(err, redis.Nil) {
			return "", nil
		}
		return last, unavailable(err)
	}
	fields, err := s.redis.HMGet(ctx, k.replay(use), "jkt", "session").Result()
	if err != nil || fields[0] != session.KeyThumbprint {
		return "", unavailable(err)
	}
	last, _ := fields[1].(string)
	return last, nil
}

// releaseQuotas takes back what was counted for a session that is not reserved.
func (s *Store) releaseQuotas(ctx context.Context, sessionID string, quotas []*broker.Quota) error {
	if len(quotas) == 0 {
		return nil
	}
	_, err := s.redis.Pipelined(ctx, func(p redis.Pipeliner) error {
		for _, q := range quotas {
			c := newCounted(q)
			p.ZRem(ctx, c.rate, sessionID)
			p.ZRem(ctx, c.live, c.names)
		}
		return nil
	})
	return unavailable(err)
}
