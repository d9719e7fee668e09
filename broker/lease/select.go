package lease

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/brevet-dev/brevet/broker"
)

const (
	// walkStep is how many leases one script looks at: about a millisecond.
	walkStep = 500

	// readStep is how many records are read in one round trip.
	readStep = 500
)

// A Found is a lease that a selector found.
type Found struct {
	Lease     *broker.Lease
	Revocable bool // it has a handle, which is not read

	// Session is nil if its record is gone or garbage.
	Session *broker.Session
}

// Select calls each with every living lease (pending, active, being revoked or
// stuck) that sel selects, shard by shard. Leases that come and go meanwhile may
// be missed or told of twice. What cannot be read is left out, and told at the
// end.
func (s *Store) Select(ctx context.Context, sel *broker.Selector, each func(Found) error) error {
	var unreadable []error
	err := s.walk(ctx, sel, func(k shardKeys, ids []string) error {
		for part := range slices.Chunk(ids, readStep) {
			refs, err := s.decide(ctx, k, sel, part)
			if err != nil {
				return err
			}
			found, bad, err := s.look(ctx, k, refs)
			if err != nil {
				return err
			}
			unreadable = append(unreadable, bad...)
			for _, f := range found {
				if !f.Lease.State.Live() {
					continue
				}
				if err := each(f); err != nil {
					return err
				}
			}
		}
		return nil
	})
	return errors.Join(append(unreadable, err)...)
}

// Show returns a lease, or the leases of a session, by id; also those that have
// ended and are still on record. It is empty if there are none.
func (s *Store) Show(ctx context.Context, id string) ([]Found, error) {
	a := broker.ByLease
	if strings.HasPrefix(id, "s") {
		a = broker.BySession
	}
	sel := broker.Selector{Match: map[broker.Attribute]string{a: id}}
	if err := sel.Validate(); err != nil {
		return nil, err
	}
	var out []Found
	err := s.walk(ctx, &sel, func(k shardKeys, ids []string) error {
		refs, err := s.decide(ctx, k, &sel, ids)
		if err != nil {
			return err
		}
		found, bad, err := s.look(ctx, k, refs)
		out = found
		return errors.Join(append(bad, err)...)
	})
	return out, err
}

// look reads the leases themselves. bad are those that are not readable.
func (s *Store) look(ctx context.Context, k shardKeys, refs []ref) (found []Found, bad []error, err error) {
	ids := make([]string, len(refs))
	for i, r := range refs {
		ids[i] = r.lease
	}
	records, err := s.read(ctx, k, ids)
	if err != nil {
		return nil, nil, err
	}
	for i, r := range refs {
		if len(records[i]) == 0 {
			bad = append(bad, s.forget(ctx, k, r.lease))
			continue
		}
		l, err := decodeFacts(r.lease, records[i])
		if err != nil {
			bad = append(bad, err)
			continue
		}
		found = append(found, Found{Lease: l, Revocable: records[i]["handle"] != "", Session: r.of})
	}
	return found, bad, nil
}

// forget drops the marks of a lease whose record is gone, which no script leaves
// behind: someone deleted it. What a sweeper still finds of it is quarantined.
func (s *Store) forget(ctx context.Context, k shardKeys, id string) error {
	gone := fmt.Errorf("lease %q: its record is gone", id)
	if err := s.redis.HDel(ctx, k.marks(), id).Err(); err != nil {
		return errors.Join(gone, unavailable(err))
	}
	return gone
}

// A ref is a lease that a walk came by.
type ref struct {
	lease, session string
	of             *broker.Session // nil if its record is gone or garbage
}

// walk calls each with those living leases of each shard, in parts, that sel
// may select.
func (s *Store) walk(ctx context.Context, sel *broker.Selector, each func(k shardKeys, ids []string) error) error {
	if id, ok := sel.Match[broker.ByLease]; ok {
		return s.walkOne(ctx, id, each)
	}
	if id, ok := sel.Match[broker.BySession]; ok {
		return s.walkSession(ctx, id, each)
	}
	for shard := range broker.Shards {
		k, walk := keysOf(shard), s.walkMarks
		if sel.All {
			walk = s.walkAll
		}
		if err := walk(ctx, k, sel, func(ids []string) error { return each(k, ids) }); err != nil {
			return err
		}
	}
	return nil
}

// onOneNode walks over a shard, again if the shard was at another node in the
// end: see walkMarks.
func (s *Store) onOneNode(ctx context.Context, k shardKeys, walk func() error) error {
	at, err := s.node(ctx, k)
	for err == nil {
		begun := at
		if err = walk(); err != nil {
			break
		}
		if at, err = s.node(ctx, k); at == begun {
			break
		}
	}
	return err
}

func (s *Store) node(ctx context.Context, k shardKeys) (string, error) {
	at, err := s.batch.run(ctx, s.scripts.node, []string{k.due()}).Text()
	return at, unavailable(err)
}

func (s *Store) walkOne(ctx context.Context, id string, each func(k shardKeys, ids []string) error) error {
	k, err := keysOfLease(id)
	if err != nil {
		return err
	}
	if n, err := s.redis.Exists(ctx, k.lease(id)).Result(); n == 0 || err != nil {
		return unavailable(err)
	}
	return each(k, []string{id})
}

func (s *Store) walkSession(ctx context.Context, id string, each func(k shardKeys, ids []string) error) error {
	k, err := keysOfSession(id)
	if err != nil {
		return err
	}
	leases, err := s.redis.HGet(ctx, k.session(id), "leases").Result()
	if err != nil && !errors.Is(err, redis.Nil) {
		return unavailable(err)
	}
	return each(k, strings.Fields(leases))
}

// walkMarks begins again when the shard went to another node, by a failover or
// as its slot has moved: there a cursor means something else, and leases would
// be missed.
func (s *Store) walkMarks(ctx context.Context, k shardKeys, sel *broker.Selector, each func(ids []string) error) error {
	at := ""
	for cursor := "0"; ; {
		reply, err := s.batch.run(ctx, s.scripts.sel, []string{k.marks()}, cursor, walkStep, selectionOf(sel)).Slice()
		if err != nil {
			return unavailable(err)
		}
		next, node, ids, err := decodeWalk(reply)
		if err != nil {
			return err
		}
		if cursor != "0" && node != at {
			cursor = "0"
			continue
		}
		at = node
		if err := each(ids); err != nil {
			return err
		}
		if cursor = next; cursor == "0" {
			return nil
		}
	}
}

func decodeWalk(reply []any) (cursor, node string, ids []string, err error) {
	wrong := errors.New("the select script gave an answer of the wrong form")
	if len(reply) != 3 {
		return "", "", nil, wrong
	}
	cursor, ok := reply[0].(string)
	items, isList := reply[1].([]any)
	node, named := reply[2].(string)
	if !ok || !isList || !named {
		return "", "", nil, wrong
	}
	for _, item := range items {
		id, ok := item.(string)
		if !ok {
			return "", "", nil, wrong
		}
		ids = append(ids, id)
	}
	return cursor, node, ids, nil
}

// walkAll goes by what sweepers go by: a lease without marks is one, too.
func (s *Store) walkAll(ctx context.Context, k shardKeys, _ *broker.Selector, each func(ids []string) error) error {
	return s.onOneNode(ctx, k, func() error { return s.walkDue(ctx, k, each) })
}

func (s *Store) walkDue(ctx context.Context, k shardKeys, each func(ids []string) error) error {
	for cursor := uint64(0); ; {
		page, next, err := s.redis.ZScan(ctx, k.due(), cursor, "", walkStep).Result()
		if err != nil {
			return unavailable(err)
		}
		var ids []string
		for i := 0; i+1 < len(page); i += 2 { // each with its score
			ids = append(ids, page[i])
		}
		if err := each(ids); err != nil {
			return err
		}
		if cursor = next; cursor == 0 {
			break
		}
	}
	stuck, err := s.redis.SMembers(ctx, k.stuck()).Result()
	if err != nil {
		return unavailable(err)
	}
	return each(stuck)
}

// decide returns those of ids that sel selects, with their sessions.
func (s *Store) decide(ctx context.Context, k shardKeys, sel *broker.Selector, ids []string) ([]ref, error) {
	refs, err := s.sessionsOf(ctx, k, ids)
	if err != nil {
		return nil, err
	}
	sessions, err := s.sessions(ctx, k, refs)
	if err != nil {
		return nil, err
	}
	var out []ref
	for _, r := range refs {
		r.of = sessions[r.session]
		if r.selected(sel) {
			out = append(out, r)
		}
	}
	return out, nil
}

// selected decides by the session's record. Where there is none that can be
// read, what led to the lease has decided: its marks, or its id.
func (r *ref) selected(sel *broker.Selector) bool {
	if r.of != nil {
		i := slices.IndexFunc(r.of.Leases, func(l *broker.Lease) bool { return l.ID == r.lease })
		if i >= 0 {
			return sel.Matches(r.of, r.of.Leases[i])
		}
		r.of = nil // it is not of the session that it names
	}
	return true
}

// sessionsOf reads of which session each lease is, by its own record; "" if
// that is gone or garbage.
func (s *Store) sessionsOf(ctx context.Context, k shardKeys, ids []string) ([]ref, error) {
	cmds := make([]*redis.StringCmd, len(ids))
	_, err := s.redis.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, id := range ids {
			cmds[i] = p.HGet(ctx, k.lease(id), "session")
		}
		return nil
	})
	if isFailure(err) {
		return nil, unavailable(err)
	}
	out := make([]ref, len(ids))
	for i, id := range ids {
		out[i] = ref{lease: id, session: cmds[i].Val()}
	}
	return out, nil
}

// isFailure reports whether a pipeline of reads failed: not for what it came
// upon, which is the reader's to judge.
func isFailure(err error) bool {
	return err != nil && !errors.Is(err, redis.Nil) && !redis.HasErrorPrefix(err, "WRONGTYPE")
}

// sessions returns those of refs that can be read, by id. Their leases have no
// state.
func (s *Store) sessions(ctx context.Context, k shardKeys, refs []ref) (map[string]*broker.Session, error) {
	cmds := map[string]*redis.SliceCmd{}
	_, err := s.redis.Pipelined(ctx, func(p redis.Pipeliner) error {
		for _, r := range refs {
			if cmds[r.session] == nil {
				cmds[r.session] = p.HMGet(ctx, k.session(r.session), "record", "epoch", "ended")
			}
		}
		return nil
	})
	if isFailure(err) {
		return nil, unavailable(err)
	}
	out := map[string]*broker.Session{}
	for id, cmd := range cmds {
		if session, ok := decodeWalked(id, cmd.Val()); ok {
			out[id] = session
		}
	}
	return out, nil
}

func decodeWalked(id string, fields []any) (*broker.Session, bool) {
	if len(fields) != 3 {
		return nil, false
	}
	record, _ := fields[0].(string)
	session, err := broker.DecodeSession(id, []byte(record))
	if err != nil {
		return nil, false
	}
	session.Epoch, _ = fields[1].(string)
	session.Ended = fields[2] != nil
	return session, true
}

// Quarantined returns the ids of leases whose record cannot be read. Nobody
// ends them until an operator has looked.
func (s *Store) Quarantined(ctx context.Context) ([]string, error) {
	var out []string
	for shard := range broker.Shards {
		ids, err := s.redis.SMembers(ctx, keysOf(shard).quarantine()).Result()
		if err != nil {
			return nil, unavailable(err)
		}
		out = append(out, ids...)
	}
	slices.Sort(out)
	return out, nil
}

// States tells of leases what became of them. Those that have gone have ended.
func (s *Store) States(ctx context.Context, ids []string) (map[string]broker.State, error) {
	out := make(map[string]broker.State, len(ids))
	for part := range slices.Chunk(ids, readStep) {
		cmds := make([]*redis.StringCmd, len(part))
		_, err := s.redis.Pipelined(ctx, func(p redis.Pipeliner) error {
			for i, id := range part {
				k, err := keysOfLease(id)
				if err != nil {
					return err
				}
				cmds[i] = p.HGet(ctx, k.lease(id), "state")
			}
			return nil
		})
		if isFailure(err) {
			return nil, unavailable(err)
		}
		for i, id := range part {
			out[id] = broker.State(cmds[i].Val())
		}
	}
	return out, nil
}
