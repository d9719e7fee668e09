package broker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"
)

// orphanAge is how old a credential without a lease must be before it is
// revoked: beyond mintSettled, with room for clocks that differ, so that nothing
// is hit that is being minted right now.
const orphanAge = mintSettled + time.Minute

// A Report is what reconciling the leases with their targets found.
type Report struct {
	Time        time.Time `json:"time"`
	Repair      bool      `json:"repair"`      // whether it was to be mended
	Checked     []string  `json:"checked"`     // names of credentials whose target was listed
	Credentials int       `json:"credentials"` // at these targets
	Orphans     []Finding `json:"orphans"`     // credentials without a live lease
	Missing     []Finding `json:"missing"`     // active leases without a credential
	Young       int       `json:"young"`       // credentials without a lease that may be just being minted
	Problems    []string  `json:"problems"`    // what could not be judged, and was left alone
}

// Clean reports whether there is nothing left to look at.
func (r *Report) Clean() bool {
	open := func(f Finding) bool { return !f.Repaired }
	return len(r.Problems) == 0 && !slices.ContainsFunc(r.Orphans, open) && !slices.ContainsFunc(r.Missing, open)
}

func (r *Report) problem(format string, args ...any) {
	r.Problems = append(r.Problems, fmt.Sprintf(format, args...))
}

// A Finding is a credential without a lease, or the other way round.
type Finding struct {
	Credential string    `json:"credential"` // its name in the configuration
	Lease      string    `json:"lease"`
	Name       string    `json:"name,omitempty"` // at the target
	State      State     `json:"state"`          // of the lease; unknown: there is no record of it
	Expires    time.Time `json:"expires_at,omitzero"`
	Repaired   bool      `json:"repaired"`
	Problem    string    `json:"problem,omitempty"` // why it could not be repaired
}

// A ReconcileTask is one reconciliation that is to be done.
type ReconcileTask struct {
	ID     string `json:"id"` // who asked finds the report under it; "" if nobody did
	Repair bool   `json:"repair"`
}

// A Reconciler is what reconciling needs of the store.
type Reconciler interface {
	// Living calls each with every living lease of the credentials. Beside an
	// error that is not [ErrUnavailable] it called each with all it could read.
	Living(ctx context.Context, credentials []string, each func(*Lease) error) error

	// TakeReconcile returns what an operator asked for, or, once in every for
	// the whole fleet, a repair; else nil. Nobody else gets the same.
	TakeReconcile(ctx context.Context, every time.Duration) (*ReconcileTask, error)

	// KeepReport keeps a report for a while, for who asked for it.
	KeepReport(ctx context.Context, id string, r *Report) error
}

// Reconcile compares what exists at the targets that can be listed with the
// leases. With repair it revokes credentials without a lease and ends leases
// without a credential, each with a line in the audit log.
//
// The order of reading keeps it from errors: leases are reserved before their
// credential exists, and end after it is gone. So a credential is an orphan if it
// was listed, then had no live lease, and then was listed again; and a lease is
// without one if it was active, then its credential was not listed, and then it
// still was active.
func (b *Broker) Reconcile(ctx context.Context, now time.Time, repair bool) (*Report, error) {
	r := &Report{Time: now.UTC(), Repair: repair, Checked: []string{}, Orphans: []Finding{}, Missing: []Finding{}, Problems: []string{}}
	listers := b.listers()
	names := slices.Sorted(maps.Keys(listers))
	active, err := b.activeLeases(ctx, names, r)
	if err != nil {
		return r, err
	}
	judged := map[string]bool{} // two credentials may have the same target
	for _, name := range names {
		listed, err := list(ctx, listers[name])
		if err != nil {
			r.problem("listing %s: %v", name, err)
			continue
		}
		r.Checked = append(r.Checked, name)
		var suspects []Finding
		for _, c := range listed {
			delete(active[name], c.LeaseID)
			if !judged[c.LeaseID] {
				judged[c.LeaseID] = true
				suspects = append(suspects, b.judge(ctx, now, r, name, c)...)
			}
		}
		confirm(ctx, r, name, listers[name], suspects)
		b.findMissing(ctx, r, active[name])
	}
	if !repair {
		return r, nil
	}
	return r, b.repair(ctx, now, r, listers)
}

func (b *Broker) listers() map[string]Lister {
	out := map[string]Lister{}
	for name, t := range b.Targets {
		if l, ok := t.Minter.(Lister); ok {
			out[name] = l
		}
	}
	return out
}

// activeLeases returns the active leases by credential and id.
func (b *Broker) activeLeases(ctx context.Context, names []string, r *Report) (map[string]map[string]*Lease, error) {
	out := map[string]map[string]*Lease{}
	for _, name := range names {
		out[name] = map[string]*Lease{}
	}
	err := b.Leases.Living(ctx, names, func(l *Lease) error {
		of, ours := out[l.Credential]
		if !ours { // its session's record says another one: somebody wrote to the store
			r.problem("lease %.80q says that it is of %.80q, which is not what it was found by", l.ID, l.Credential)
		} else if l.State == Active {
			of[l.ID] = l
		}
		return nil
	})
	if errors.Is(err, ErrUnavailable) {
		return nil, fmt.Errorf("reading the leases: %w", err)
	}
	if err != nil {
		r.problem("reading the leases: %v", err)
	}
	return out, nil
}

func list(ctx context.Context, l Lister) (listed []Listed, err error) {
	ctx, cancel := context.WithTimeout(ctx, mintTimeout)
	defer cancel()
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("panic: %v", v)
		}
	}()
	return l.List(ctx)
}

// judge returns a listed credential if it is an orphan, unless it was revoked
// meanwhile. What cannot be known is a problem, until the credential has
// outlived its own end.
func (b *Broker) judge(ctx context.Context, now time.Time, r *Report, name string, c Listed) []Finding {
	r.Credentials++
	f := Finding{Credential: name, Lease: c.LeaseID, Name: c.Name, State: Unknown, Expires: c.Expires}
	over := !c.Expires.IsZero() && now.Sub(c.Expires) > orphanAge
	l, err := b.Leases.Lease(ctx, c.LeaseID)
	switch {
	case err == nil && l.State.Live():
		return nil
	case err == nil:
		f.State = l.State
	case !errors.Is(err, ErrNotFound) && !over, errors.Is(err, ErrUnavailable):
		r.problem("%s at %s: its lease cannot be read: %v", c.Name, name, err)
		return nil
	}
	if !over && !c.Issued.IsZero() && now.Sub(c.Issued) < orphanAge {
		r.Young++
		return nil
	}
	return []Finding{f}
}

// confirm keeps the suspects that are still at the target.
func confirm(ctx context.Context, r *Report, name string, l Lister, suspects []Finding) {
	if len(suspects) == 0 {
		return
	}
	listed, err := list(ctx, l)
	if err != nil {
		r.problem("listing %s again: %v", name, err)
		return
	}
	there := map[string]bool{}
	for _, c := range listed {
		there[c.LeaseID] = true
	}
	for _, f := range suspects {
		if there[f.Lease] {
			r.Orphans = append(r.Orphans, f)
		}
	}
}

// findMissing looks again at leases whose credential was not listed.
func (b *Broker) findMissing(ctx context.Context, r *Report, active map[string]*Lease) {
	for _, id := range slices.Sorted(maps.Keys(active)) {
		l, err := b.Leases.Lease(ctx, id)
		if err != nil && !errors.Is(err, ErrNotFound) {
			r.problem("lease %s: %v", id, err)
		}
		if err == nil && l.State == Active {
			r.Missing = append(r.Missing, Finding{Credential: l.Credential, Lease: id, State: Active, Expires: l.Expires.UTC()})
		}
	}
}

// repair mends what was found. It stops where the audit log cannot tell of it.
func (b *Broker) repair(ctx context.Context, now time.Time, r *Report, listers map[string]Lister) error {
	for i := range r.Orphans {
		f := &r.Orphans[i]
		if err := b.revokeOrphan(ctx, f, listers[f.Credential]); err != nil {
			return err
		}
	}
	for i := range r.Missing {
		f := &r.Missing[i]
		if err := b.endMissing(ctx, now, f); err != nil {
			f.Problem = err.Error()
		}
		f.Repaired = f.Problem == ""
	}
	return nil
}

// revokeOrphan has two lines in the audit log: what is about to be done, since
// there is no lease whose record would have it done again, and how it ended.
func (b *Broker) revokeOrphan(ctx context.Context, f *Finding, n Namer) error {
	ev := &Event{Time: time.Now(), Name: EventReconcile, Leases: []EventLease{{
		ID: f.Lease, Credential: f.Credential, Kind: b.Targets[f.Credential].Kind, State: f.State, Expires: f.Expires, Why: whyOrphan,
	}}}
	if err := b.Audit.Record(ctx, ev); err != nil {
		return fmt.Errorf("recording the intent to revoke an orphan: %w", unavailable(err))
	}
	err := b.revokeHandle(ctx, f.Credential, n.HandleOf(f.Lease))
	ev.Time, ev.Outcome, f.Repaired = time.Now(), Granted, err == nil
	if err != nil {
		ev.Outcome, ev.Cause, f.Problem = Failed, err.Error(), err.Error()
	}
	if err := b.Audit.Record(ctx, ev); err != nil {
		return fmt.Errorf("recording the end of an orphan: %w", unavailable(err))
	}
	return nil
}

// endMissing ends a lease whose credential is gone, as any other: that it is
// gone makes revoking it a success.
func (b *Broker) endMissing(ctx context.Context, now time.Time, f *Finding) error {
	l, err := b.Leases.Lease(ctx, f.Lease)
	if err != nil {
		return fmt.Errorf("reading lease %s: %w", f.Lease, err)
	}
	ended, err := b.Leases.End(ctx, l.SessionID, []string{l.ID}, whyMissing)
	if err != nil {
		return fmt.Errorf("ending lease %s: %w", l.ID, err)
	}
	if len(ended) == 0 {
		return b.notActive(ctx, l.ID)
	}
	for _, l := range ended {
		err = errors.Join(err, b.finish(ctx, now, l, EventReconcile, ""))
	}
	return err
}

// notActive returns an error if a lease that was to be ended is active still:
// the store ends leases by their session's record.
func (b *Broker) notActive(ctx context.Context, id string) error {
	l, err := b.Leases.Lease(ctx, id)
	switch {
	case err != nil && !errors.Is(err, ErrNotFound):
		return fmt.Errorf("reading lease %s: %w", id, err)
	case err == nil && l.State == Active:
		return fmt.Errorf("lease %s is not ended: the record of its session is gone; it ends at %s", id, l.Expires.UTC().Format(time.RFC3339))
	}
	return nil
}

const (
	// ReconcileEvery is how often the fleet reconciles by itself, with jitter.
	ReconcileEvery = 5 * time.Minute

	// reconcilePoll is how long an operator waits who asks for it.
	reconcilePoll = time.Second
)

// KeepReconciled reconciles, and repairs, until ctx ends: at once, then every
// few minutes, one broker of the fleet at a time; and whenever an operator asks.
// It returns at once if no target can be listed. done is called after each.
func (b *Broker) KeepReconciled(ctx context.Context, done func(*Report, error)) {
	if len(b.listers()) == 0 {
		return
	}
	tick := time.NewTicker(reconcilePoll)
	defer tick.Stop()
	for {
		r, err := b.reconcileNext(ctx)
		if ctx.Err() == nil && (r != nil || err != nil) {
			done(r, err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// reconcileNext returns nil if there is nothing to be done now.
func (b *Broker) reconcileNext(ctx context.Context) (*Report, error) {
	task, err := b.Leases.TakeReconcile(ctx, ReconcileEvery)
	if err != nil || task == nil {
		return nil, err
	}
	r, err := b.Reconcile(ctx, time.Now(), task.Repair)
	if err != nil {
		r.problem("%v", err)
	}
	if task.ID != "" {
		err = errors.Join(err, b.Leases.KeepReport(ctx, task.ID, r))
	}
	return r, err
}
