package lease

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/brevet-dev/brevet/broker"
)

// A sealed is the handle of one lease, as it is stored.
type sealed struct{ key, name, handle string }

// SealedBy returns how many handles are stored under each key of the sealer, by
// the key's id; those that are not readable count under "".
func (s *Store) SealedBy(ctx context.Context) (map[string]int, error) {
	out := map[string]int{}
	err := s.eachSealed(ctx, func(_ int, h sealed) error {
		id, _, err := s.sealer.KeyOf(h.handle)
		if err != nil {
			id = ""
		}
		out[id]++
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// Reseal moves every stored handle to the newest key of the sealer. It may run
// beside everything else, several times at once, and again after it was
// interrupted: what is under the newest key stays as it is. progress is called
// after each shard with how many shards were done and handles moved so far.
//
// What it could not move is left, and told at the end.
func (s *Store) Reseal(ctx context.Context, progress func(shards, moved int)) (moved int, err error) {
	var failed []error
	last := 0
	err = s.eachSealed(ctx, func(shard int, h sealed) error {
		if shard != last {
			progress(shard, moved)
			last = shard
		}
		did, err := s.resealOne(ctx, h)
		if errors.Is(err, broker.ErrUnavailable) {
			return err
		}
		if err != nil {
			failed = append(failed, err)
		}
		if did {
			moved++
		}
		return nil
	})
	progress(broker.Shards, moved)
	return moved, errors.Join(append(failed, err)...)
}

func (s *Store) resealOne(ctx context.Context, h sealed) (bool, error) {
	_, newest, err := s.sealer.KeyOf(h.handle)
	if err != nil {
		return false, fmt.Errorf("finding the key of the handle of lease %s: %w", h.name, err)
	}
	if newest {
		return false, nil
	}
	handle, err := s.sealer.Open(ctx, h.handle, h.name)
	if err != nil {
		return false, fmt.Errorf("opening the handle of lease %s: %w", h.name, err)
	}
	again, err := s.sealer.Seal(ctx, handle, h.name)
	if err != nil {
		return false, fmt.Errorf("sealing the handle of lease %s: %w", h.name, err)
	}
	n, err := s.batch.run(ctx, s.scripts.reseal, []string{h.key}, h.handle, again).Int()
	return n == 1, unavailable(err)
}

// resealBatch is how many records are read in one round trip.
const resealBatch = 500

// eachSealed calls each with every handle that is stored.
func (s *Store) eachSealed(ctx context.Context, each func(shard int, h sealed) error) error {
	if s.sealer == nil {
		return errors.New("there are no keys to tell which one a handle is sealed under")
	}
	for shard := range broker.Shards {
		k := keysOf(shard)
		ids, err := s.living(ctx, k)
		if err != nil {
			return err
		}
		quarantined, err := s.redis.SMembers(ctx, k.quarantine()).Result()
		if err != nil {
			return unavailable(err)
		}
		for part := range slices.Chunk(append(ids, quarantined...), resealBatch) {
			handles, err := s.handles(ctx, k, part)
			if err != nil {
				return err
			}
			for _, h := range handles {
				if err := each(shard, h); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// handles returns those that leases of one shard have.
func (s *Store) handles(ctx context.Context, k shardKeys, ids []string) ([]sealed, error) {
	records, err := s.read(ctx, k, ids)
	var out []sealed
	for i, r := range records {
		if r["handle"] != "" {
			name := sealName(&broker.Lease{ID: ids[i], Credential: r["credential"]})
			out = append(out, sealed{k.lease(ids[i]), name, r["handle"]})
		}
	}
	return out, err
}
