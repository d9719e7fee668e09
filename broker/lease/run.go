package lease

import (
	"context"
	"slices"
	"time"

	"github.com/brevet-dev/brevet/broker"
)

// EndRun implements [broker.LeaseEnder]. A lease whose session cannot be read
// is left to its time: whose it is, nobody knows for certain.
func (s *Store) EndRun(ctx context.Context, sel *broker.Selector) (int, error) {
	n := 0
	err := s.walk(ctx, sel, func(k shardKeys, ids []string) error {
		for part := range slices.Chunk(ids, orderStep) {
			meant, err := s.ofRun(ctx, k, sel, part)
			if err != nil {
				return err
			}
			args := append([]any{k.lease(""), k.session(""), ms(time.Now()), broker.WhyRun, "", "0"}, meant...)
			ended, err := s.batch.runDurably(ctx, s.scripts.order, []string{k.due()}, args...).StringSlice()
			if err != nil {
				return unavailable(err)
			}
			n += len(ended)
		}
		return nil
	})
	return n, err
}

// ofRun returns those of ids that sel selects and that are of scope run, by
// their sessions' records.
func (s *Store) ofRun(ctx context.Context, k shardKeys, sel *broker.Selector, ids []string) ([]any, error) {
	refs, err := s.decide(ctx, k, sel, ids)
	var out []any
	for _, r := range refs {
		if r.of == nil {
			continue
		}
		i := slices.IndexFunc(r.of.Leases, func(l *broker.Lease) bool { return l.ID == r.lease })
		if r.of.Leases[i].OfRun() {
			out = append(out, r.lease)
		}
	}
	return out, err
}
