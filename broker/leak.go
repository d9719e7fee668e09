package broker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/policies"
)

// maxReports bounds the reports of a session that are recorded: brevet sends one
// or two, and each costs a line of the audit log for each lease.
const maxReports = 50

// leakUses is the name under which the reports of a session are counted. No data
// key has it: their names begin otherwise.
const leakUses = "leaks"

// Leaked takes a report, of the job itself, that values of its leases were in its
// output. It records them, an event for each lease of s that r names; what else r
// names is not s's, and is left out. If one of the leases was granted so (on_leak:
// revoke) the session is ended, whether or not the rest succeeds.
//
// A job can say what it likes. By a report it may lose its own leases, and
// nothing else.
//
// ev says whose request it is. It returns the events that were recorded.
func (b *Broker) Leaked(ctx context.Context, s *Session, r *api.LeakReport, ev *Event) (recorded []*Event, revoked bool, err error) {
	if s.Ended {
		return nil, false, fmt.Errorf("%w: session %s has ended", ErrSession, s.ID)
	}
	events := leakEvents(s, r, ev)
	if len(events) == 0 {
		return nil, false, nil
	}
	recorded, err = b.recordLeaks(ctx, s, events)
	if !revokes(s, events) {
		return recorded, false, err
	}
	ended := b.end(ctx, s.ID, nil, WhyLeaked, ev.RequestID)
	return recorded, ended == nil, errors.Join(err, ended)
}

// leakEvents returns an event for each lease of s that r tells of.
func leakEvents(s *Session, r *api.LeakReport, ev *Event) []*Event {
	var events []*Event
	for _, l := range s.Leases {
		var found []EventFound
		for _, leak := range r.Leaks {
			if leak.LeaseID == l.ID {
				found = append(found, EventFound{leak.Value, leak.Output, leak.Encoding, leak.Count, leak.Lines})
			}
		}
		if len(found) == 0 {
			continue
		}
		one := *ev
		one.Name, one.Outcome, one.Leases, one.Found = EventLeak, Granted, []EventLease{eventLease(l)}, found
		events = append(events, &one)
	}
	return events
}

// revokes reports whether one of the leases that events are about was granted so
// that a leak ends its session.
func revokes(s *Session, events []*Event) bool {
	for _, ev := range events {
		if l := s.lease(ev.Leases[0].ID); l != nil && l.OnLeak == policies.RevokeOnLeak {
			return true
		}
	}
	return false
}

// recordLeaks writes events to the audit log, and returns those that are there.
func (b *Broker) recordLeaks(ctx context.Context, s *Session, events []*Event) ([]*Event, error) {
	err := b.Leases.CountUse(ctx, s.Leases[0].ID, leakUses, maxReports, s.Expires)
	if errors.Is(err, ErrUsedUp) {
		return nil, fmt.Errorf("%w: more than %d reports of session %s", ErrReports, maxReports, s.ID)
	}
	if err != nil {
		return nil, fmt.Errorf("counting a report of leaks: %w", err)
	}
	for i, ev := range events {
		ev.Time = time.Now()
		if err := b.Audit.Record(ctx, ev); err != nil {
			return events[:i], fmt.Errorf("recording a leak: %w", unavailable(err))
		}
	}
	return events, nil
}
