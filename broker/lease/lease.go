// Package lease keeps sessions and leases in Redis, where any broker finds
// them: a broker holds no state that another could not take over.
//
// A lease is one hash. A sorted set a shard orders the leases that live by the
// time when something is to be done about them: a pending lease when its broker
// must have died, an active one at its end, one that is being revoked when the
// next attempt is due. Sweepers take from its head. Every key of a session
// carries the same hash tag, {shard}, and each change is one script, so it
// happens wholly or not at all, on a Redis Cluster too.
//
// What an attacker finds here is who leased what until when. Credentials are
// not stored; what is needed to revoke one is stored sealed.
package lease

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/brevet-dev/brevet/broker"
)

const (
	// pendingFor is how long a lease may stay pending, and a renewal may take:
	// longer than a broker takes to mint (30 s) and to clean up (15 s), so that a
	// sweeper ends only what a dead broker left behind.
	pendingFor = time.Minute

	// claimFor is how long one broker has to end a lease it has claimed, before
	// another may try. Targets get 15 s.
	claimFor = 30 * time.Second

	// claimTimeout bounds one sweep over the shards.
	claimTimeout = 2 * time.Second

	// keepEnded is how long an ended lease can still be looked at. The audit log
	// is the permanent record.
	keepEnded = time.Hour

	// clockSkew between brokers and issuers that replay marks allow for.
	clockSkew = time.Minute

	// maxUses of one subject token that may be shown again. A job that runs
	// brevet exec in a loop stays below; each use leaves a session behind.
	maxUses = 1000

	// maxShared is the same of a token that a whole fleet shows, within an hour:
	// 2 000 functions that start, and refresh every two minutes. What a use leaves
	// behind, some 2 KiB and 1 KiB for each lease, is gone an hour after its
	// session ended; so one whose session may live for hours counts for each of
	// them, and one of many leases for each sharedLeases. This bounds what a
	// stolen token can fill Redis with, by half a GB where there is one lease.
	maxShared    = 100_000
	sharedLeases = 8
)

// A Sealer encrypts revocation handles at rest. name, of the lease and its
// credential, is authenticated with them, so that a handle cannot be moved to
// another lease, nor be given to another minter.
type Sealer interface {
	Seal(ctx context.Context, handle, name string) (string, error)

	// Open returns [broker.ErrUnavailable] if it may succeed another time.
	Open(ctx context.Context, sealed, name string) (string, error)

	// KeyOf returns the id of the key that sealed needs, and whether it is the
	// one that Seal uses now.
	KeyOf(sealed string) (id string, newest bool, err error)
}

// A Store implements [broker.LeaseStore] on Redis.
type Store struct {
	redis   redis.UniversalClient
	batch   *batcher
	sealer  Sealer
	scripts scripts
	unfit   atomic.Pointer[error] // what Inspect found; nil: nothing
}

// New returns a store on client. sealer may be nil: then a lease with a
// revocation handle is refused, as it could be kept in clear only.
func New(client redis.UniversalClient, sealer Sealer) *Store {
	return &Store{redis: client, batch: &batcher{runner: newRunner(client)}, sealer: sealer, scripts: newScripts()}
}

// WaitReplicas makes Reserve, Commit, Extend and End return only after n
// replicas have what was changed, or with [broker.ErrUnavailable] if fewer have
// it after a second: then the primary has it, and may lose it in a failover.
// It is called before anything else, and returns s.
//
// With n replicas and no more, a failover loses nothing that was promised. With
// more, one that did not have it may be promoted.
func (s *Store) WaitReplicas(n int) *Store {
	s.batch.runner.replicas = n
	return s
}

// unavailable marks every failure of Redis as one to try again: none is the
// caller's fault.
func unavailable(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w: redis: %w", broker.ErrUnavailable, err)
}

// Reserve implements [broker.LeaseStore].
func (s *Store) Reserve(ctx context.Context, session *broker.Session, use broker.TokenUse) error {
	if err := s.Fit(); err != nil {
		return err
	}
	if err := s.countQuotas(ctx, session, use); err != nil {
		return fmt.Errorf("counting quotas: %w", err)
	}
	err := s.reserve(ctx, session, use)
	if err != nil && !errors.Is(err, broker.ErrUnavailable) { // else it may be reserved
		return errors.Join(err, s.releaseQuotas(ctx, session.ID, session.Quotas))
	}
	return err
}

func (s *Store) reserve(ctx context.Context, session *broker.Session, use broker.TokenUse) error {
	k, now := keysOf(use.Shard()), time.Now()
	keys := []string{k.replay(use), k.proof(use.ProofID), k.session(session.ID), k.due(), k.blocks(), k.marks(), k.retry(use, session.KeyThumbprint)}
	args := []any{
		string(use.Mode), session.KeyThumbprint, use.RetryKey, use.ProofID, broker.ProofMemory.Milliseconds(),
		use.Expires.Add(clockSkew).Sub(now).Milliseconds(), session.ID, session.Expires.Add(keepEnded).Sub(now).Milliseconds(),
		ms(now.Add(pendingFor)), ms(now), mostUses(string(use.Mode)), k.session(""), k.lease(""), session.Record, leaseIDs(session), session.Epoch,
		weight(session, string(use.Mode), now),
	}
	for _, l := range session.Leases {
		keys = append(keys, k.lease(l.ID))
		fields := encodeLease(l)
		args = append(append(args, marksOf(session, l), len(fields)), fields...)
	}
	switch answer, err := s.batch.runDurably(ctx, s.scripts.reserve, keys, args...).Text(); {
	case err != nil:
		return unavailable(err)
	case answer == "ok":
		return nil
	case answer == "proof":
		return broker.ErrProofReplayed
	case answer == "replayed":
		return broker.ErrReplayed
	case answer == "overused":
		return broker.ErrOverused
	default:
		return blockedOr(answer, fmt.Errorf("reserve script answered %q", answer))
	}
}

// weight is as how many uses of a token one counts.
func weight(session *broker.Session, mode string, now time.Time) int {
	if mode != "reuse" {
		return 1
	}
	hours := (session.Expires.Sub(now) + time.Hour - 1) / time.Hour
	return max(1, int(hours)) * ((len(session.Leases) + sharedLeases - 1) / sharedLeases)
}

// mostUses is how often a token may be used: in all, or within an hour if it is
// of reuse.
func mostUses(mode string) int {
	if mode == "reuse" {
		return maxShared
	}
	return maxUses
}

// blockedOr returns which block refuses, if that is the answer, or other.
func blockedOr(answer string, other error) error {
	if id, ok := strings.CutPrefix(answer, "blocked "); ok {
		return fmt.Errorf("%w: by block %s", broker.ErrBlocked, id)
	}
	return other
}

// Commit implements [broker.LeaseStore].
func (s *Store) Commit(ctx context.Context, session *broker.Session) error {
	k, err := keysOfSession(session.ID)
	if err != nil {
		return err
	}
	now := time.Now()
	keys, args := []string{k.due()}, []any{ms(now)}
	for _, l := range session.Leases {
		sealed, err := s.seal(ctx, l)
		if err != nil {
			return err
		}
		keys = append(keys, k.lease(l.ID))
		args = append(args, l.ID, ms(l.Expires), sealed)
	}
	if err := endedOr(s.batch.runDurably(ctx, s.scripts.commit, keys, args...)); err != nil {
		return err
	}
	for _, l := range session.Leases {
		l.State = broker.Active
		if l.DeadMan > 0 {
			l.Beat = now.Add(l.DeadMan).Truncate(time.Millisecond)
		}
	}
	return nil
}

// Extend implements [broker.LeaseStore].
func (s *Store) Extend(ctx context.Context, l *broker.Lease, until time.Time) error {
	k, err := keysOfLease(l.ID)
	if err != nil {
		return err
	}
	if err := s.Fit(); err != nil {
		return err
	}
	keys, now := []string{k.lease(l.ID), k.due(), k.session(l.SessionID), k.blocks(), k.marks()}, time.Now()
	return endedOr(s.batch.runDurably(ctx, s.scripts.extend, keys, l.ID, ms(until), ms(now), ms(now.Add(pendingFor))))
}

// Confirm implements [broker.LeaseStore].
func (s *Store) Confirm(ctx context.Context, l *broker.Lease) error {
	k, err := keysOfLease(l.ID)
	if err != nil {
		return err
	}
	return endedOr(s.batch.run(ctx, s.scripts.confirm, []string{k.lease(l.ID), k.session(l.SessionID)}, ms(l.Expires)))
}

// Heartbeat implements [broker.LeaseStore].
func (s *Store) Heartbeat(ctx context.Context, sessionID, proofID string) error {
	k, err := keysOfSession(sessionID)
	if err != nil {
		return err
	}
	keys := []string{k.session(sessionID), k.due(), k.proof(proofID)}
	cmd := s.batch.run(ctx, s.scripts.heartbeat, keys, k.lease(""), ms(time.Now()), proofID, broker.ProofMemory.Milliseconds(), rand.Text())
	switch answer, err := cmd.Text(); {
	case err == nil && answer == "proof":
		return broker.ErrProofReplayed
	case err == nil && answer == "unknown":
		return broker.ErrNotFound
	default:
		return endedOr(cmd)
	}
}

func endedOr(cmd *redis.Cmd) error {
	switch answer, err := cmd.Text(); {
	case err != nil:
		return unavailable(err)
	case answer == "ok":
		return nil
	default:
		return blockedOr(answer, broker.ErrEnded)
	}
}

// Session implements [broker.LeaseStore].
func (s *Store) Session(ctx context.Context, id string) (*broker.Session, error) {
	k, err := keysOfSession(id)
	if err != nil {
		return nil, err
	}
	fields, err := s.redis.HGetAll(ctx, k.session(id)).Result()
	if err != nil {
		return nil, unavailable(err)
	}
	if len(fields) == 0 {
		return nil, broker.ErrNotFound
	}
	session, err := broker.DecodeSession(id, []byte(fields["record"]))
	if err != nil {
		return nil, err
	}
	session.Ended, session.Epoch = fields["ended"] != "", fields["epoch"]
	return session, s.addState(ctx, k, session.Leases)
}

// addState reads what changes of a session's leases. One whose record is gone
// or garbage has an unknown state: that must not keep the others from being
// ended.
func (s *Store) addState(ctx context.Context, k shardKeys, leases []*broker.Lease) error {
	ids := make([]string, len(leases))
	for i, l := range leases {
		ids[i] = l.ID
	}
	records, err := s.read(ctx, k, ids)
	if err != nil {
		return err
	}
	for i, l := range leases {
		stored, err := s.decodeLease(ctx, l.ID, records[i])
		if errors.Is(err, broker.ErrUnavailable) {
			return err
		}
		if l.State = broker.Unknown; err != nil {
			continue
		}
		l.State, l.Expires, l.Handle = stored.State, stored.Expires, stored.Handle
		l.Attempts, l.Why, l.Unsure = stored.Attempts, stored.Why, stored.Unsure
		l.Order, l.Renewing, l.Beat = stored.Order, stored.Renewing, stored.Beat
	}
	return nil
}

// read returns the records of leases of one shard; one that is not there is
// empty.
func (s *Store) read(ctx context.Context, k shardKeys, ids []string) ([]map[string]string, error) {
	cmds := make([]*redis.MapStringStringCmd, len(ids))
	_, err := s.redis.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, id := range ids {
			cmds[i] = p.HGetAll(ctx, k.lease(id))
		}
		return nil
	})
	if err != nil && !redis.HasErrorPrefix(err, "WRONGTYPE") {
		return nil, unavailable(err)
	}
	out := make([]map[string]string, len(ids))
	for i := range out {
		out[i] = cmds[i].Val()
	}
	return out, nil
}

// Lease implements [broker.LeaseStore].
func (s *Store) Lease(ctx context.Context, id string) (*broker.Lease, error) {
	k, err := keysOfLease(id)
	if err != nil {
		return nil, err
	}
	records, err := s.read(ctx, k, []string{id})
	if err != nil {
		return nil, err
	}
	if len(records[0]) == 0 {
		return nil, broker.ErrNotFound
	}
	return s.decodeLease(ctx, id, records[0])
}

// CountUse implements [broker.LeaseStore].
func (s *Store) CountUse(ctx context.Context, leaseID, name string, most int, until time.Time) error {
	k, err := keysOfLease(leaseID)
	if err != nil {
		return err
	}
	keep := time.Until(until) + clockSkew
	switch answer, err := s.batch.run(ctx, s.scripts.count, []string{k.uses(name)}, most, keep.Milliseconds()).Text(); {
	case err != nil:
		return unavailable(err)
	case answer != "ok":
		return broker.ErrUsedUp
	}
	return nil
}

// UseProof implements [broker.LeaseStore].
func (s *Store) UseProof(ctx context.Context, sessionID, proofID string) error {
	k, err := keysOfSession(sessionID)
	if err != nil {
		return err
	}
	mine := rand.Text() // the client repeats a command whose answer was lost
	err = s.redis.SetArgs(ctx, k.proof(proofID), mine, redis.SetArgs{Mode: "NX", TTL: broker.ProofMemory}).Err()
	if !errors.Is(err, redis.Nil) {
		return unavailable(err)
	}
	switch by, err := s.redis.Get(ctx, k.proof(proofID)).Result(); {
	case err != nil && !errors.Is(err, redis.Nil):
		return unavailable(err)
	case by != mine:
		return broker.ErrProofReplayed
	}
	return nil
}

func sealName(l *broker.Lease) string { return l.ID + " " + l.Credential }

// seal returns what is stored of a lease's handle.
func (s *Store) seal(ctx context.Context, l *broker.Lease) (string, error) {
	if l.Handle.IsZero() {
		return "", nil
	}
	if s.sealer == nil {
		return "", fmt.Errorf("lease %s has a revocation handle, and there is no key to seal it with", l.ID)
	}
	sealed, err := s.sealer.Seal(ctx, l.Handle.Reveal(), sealName(l))
	if err != nil {
		return "", fmt.Errorf("sealing the handle of lease %s: %w", l.ID, err)
	}
	return sealed, nil
}

func ms(t time.Time) string { return strconv.FormatInt(t.UnixMilli(), 10) }
