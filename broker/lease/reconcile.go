package lease

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/brevet-dev/brevet/broker"
)

// The keys of reconciling. They carry one hash tag, for a Redis Cluster.
const (
	askedKey     = "brevet:{reconcile}:asked" // a list: what operators asked for
	turnKey      = "brevet:{reconcile}:turn"  // is there as long as it is nobody's turn
	reportPrefix = "brevet:{reconcile}:report:"
)

// reportFor is how long a report, and a question that nobody took up, is kept.
const reportFor = 10 * time.Minute

// Living implements [broker.Reconciler]. It opens no handles.
func (s *Store) Living(ctx context.Context, credentials []string, each func(*broker.Lease) error) error {
	var errs []error
	for _, name := range credentials {
		sel := &broker.Selector{Match: map[broker.Attribute]string{broker.ByCredential: name}}
		errs = append(errs, s.Select(ctx, sel, func(f Found) error { return each(f.Lease) }))
	}
	return errors.Join(errs...)
}

// TakeReconcile implements [broker.Reconciler]. Replicas must have it, where
// replicas are waited for: a primary that was cut off from them does not know
// of the leases that its successor keeps, and would take theirs for orphans.
func (s *Store) TakeReconcile(ctx context.Context, every time.Duration) (*broker.ReconcileTask, error) {
	pause := every/2 + mathrand.N(every)
	asked, err := s.batch.runDurably(ctx, s.scripts.take, []string{askedKey, turnKey}, pause.Milliseconds()).Text()
	switch {
	case errors.Is(err, redis.Nil):
		return nil, nil
	case err != nil:
		return nil, unavailable(err)
	case asked == "":
		return &broker.ReconcileTask{Repair: true}, nil
	}
	task := &broker.ReconcileTask{}
	if err := json.Unmarshal([]byte(asked), task); err != nil {
		return nil, errors.New("what was asked of reconciling is not readable: someone else wrote to Redis")
	}
	return task, nil
}

// AskReconcile asks the brokers to reconcile, and returns the id of the report
// to come.
func (s *Store) AskReconcile(ctx context.Context, repair bool) (id string, err error) {
	task := broker.ReconcileTask{ID: rand.Text(), Repair: repair}
	encoded, err := json.Marshal(task)
	if err != nil {
		return "", fmt.Errorf("encoding what is asked for: %w", err)
	}
	_, err = s.redis.Pipelined(ctx, func(p redis.Pipeliner) error {
		p.RPush(ctx, askedKey, encoded)
		p.PExpire(ctx, askedKey, reportFor)
		return nil
	})
	return task.ID, unavailable(err)
}

// KeepReport implements [broker.Reconciler].
func (s *Store) KeepReport(ctx context.Context, id string, r *broker.Report) error {
	encoded, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encoding a report: %w", err)
	}
	return unavailable(s.redis.Set(ctx, reportPrefix+id, encoded, reportFor).Err())
}

// ReadReport returns the report that was asked for, or [broker.ErrNotFound] as
// long as there is none.
func (s *Store) ReadReport(ctx context.Context, id string) (*broker.Report, error) {
	encoded, err := s.redis.Get(ctx, reportPrefix+id).Bytes()
	if errors.Is(err, redis.Nil) {
		return nil, broker.ErrNotFound
	}
	if err != nil {
		return nil, unavailable(err)
	}
	r := &broker.Report{}
	if err := json.Unmarshal(encoded, r); err != nil {
		return nil, fmt.Errorf("reading a report: %w", err)
	}
	return r, nil
}
