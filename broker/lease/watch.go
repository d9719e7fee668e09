package lease

import (
	"context"
	"slices"

	"github.com/redis/go-redis/v9"

	"github.com/brevet-dev/brevet/broker"
)

// watchBatch bounds the sessions in one pipeline, so that their reading never
// blocks Redis for longer than about a millisecond.
const watchBatch = 200

// SessionStates implements [broker.LeaseStore].
func (s *Store) SessionStates(ctx context.Context, watched []broker.Watched) ([]broker.SessionState, error) {
	out := make([]broker.SessionState, 0, len(watched))
	for batch := range slices.Chunk(watched, watchBatch) {
		states, err := s.sessionStates(ctx, batch)
		if err != nil {
			return nil, err
		}
		out = append(out, states...)
	}
	return out, nil
}

// sessionStates reads of each session whether it is there and has ended, and then of
// each of its leases the state and why.
func (s *Store) sessionStates(ctx context.Context, batch []broker.Watched) ([]broker.SessionState, error) {
	var cmds []*redis.SliceCmd
	_, err := s.redis.Pipelined(ctx, func(p redis.Pipeliner) error {
		for _, w := range batch {
			k, err := keysOfSession(w.SessionID)
			if err != nil {
				return err
			}
			cmds = append(cmds, p.HMGet(ctx, k.session(w.SessionID), "leases", "ended"))
			for _, id := range w.LeaseIDs {
				cmds = append(cmds, p.HMGet(ctx, k.lease(id), "state", "why"))
			}
		}
		return nil
	})
	if err != nil && !redis.HasErrorPrefix(err, "WRONGTYPE") {
		return nil, unavailable(err)
	}
	return decodeStates(batch, cmds)
}

func decodeStates(batch []broker.Watched, cmds []*redis.SliceCmd) ([]broker.SessionState, error) {
	out := make([]broker.SessionState, len(batch))
	next := func() (first, second string, err error) {
		cmd := cmds[0]
		cmds = cmds[1:]
		if err := cmd.Err(); err != nil && !redis.HasErrorPrefix(err, "WRONGTYPE") {
			return "", "", unavailable(err)
		}
		fields := append(cmd.Val(), nil, nil) // none of what is garbage
		first, _ = fields[0].(string)
		second, _ = fields[1].(string)
		return first, second, nil
	}
	for i, w := range batch {
		leases, ended, err := next()
		if err != nil {
			return nil, err
		}
		out[i].Ended = leases == "" || ended != ""
		for range w.LeaseIDs {
			state, why, err := next()
			if err != nil {
				return nil, err
			}
			if state == "" {
				state = string(broker.Unknown)
			}
			out[i].Leases = append(out[i].Leases, broker.LeaseState{State: broker.State(state), Why: why})
		}
	}
	return out, nil
}
