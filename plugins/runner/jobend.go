package runner

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/plugins/exchange"
)

// OfRun returns the names of the credentials whose leases end with the run, and
// not with the job.
func (s *Session) OfRun() []string {
	return s.namesOf(func(l api.Lease) bool { return l.Scope == api.ScopeRun })
}

// Watched returns the names of the credentials whose leases end when the broker
// hears no heartbeat, and after how long the first does; 0 if there are none.
func (s *Session) Watched() (names []string, after time.Duration) {
	for _, l := range s.Answer.Leases {
		if l.Heartbeat > 0 && (after == 0 || l.Heartbeat < after) {
			after = l.Heartbeat
		}
	}
	return s.namesOf(func(l api.Lease) bool { return l.Heartbeat > 0 }), after
}

func (s *Session) namesOf(is func(api.Lease) bool) []string {
	var out []string
	for _, l := range s.Answer.Leases {
		if is(l) {
			out = append(out, Printable(l.Credential))
		}
	}
	return out
}

// End gives back what ends with the job: all leases but those of [Session.OfRun].
// Otherwise it is as Revoke.
func (s *Session) End(ctx context.Context) error {
	return s.endAll(ctx, func(one *Session) string {
		if len(one.OfRun()) == 0 {
			return ""
		}
		return api.ScopeJob
	})
}

// RevokeRun ends the leases of scope run of the run that the session's job is
// part of: its own, and those of the run's other jobs.
func (s *Session) RevokeRun(ctx context.Context) error {
	form := url.Values{"scope": {api.ScopeRun}}
	_, err := s.client.Do(ctx, exchange.Call{Path: api.PathRevoke, Session: s.Answer.AccessToken, Form: form})
	return err
}

// KeepAlive sends heartbeats for the leases that need them until ctx ends, three
// within the time that the broker allows between two. It returns earlier if
// there are no such leases, or none any more. A heartbeat that fails is tried
// again. tell hears of the first that does, and of the end.
func (s *Session) KeepAlive(ctx context.Context, tell func(error)) {
	names, after := s.Watched()
	if after == 0 {
		return
	}
	step, told := after/3, false
	for wait := spread(step); exchange.Pause(ctx, wait); {
		err := s.beat(ctx, step/2)
		wait = spread(step)
		switch {
		case err == nil:
		case ctx.Err() != nil:
			return
		case isOver(err) && !slices.ContainsFunc(s.Answer.Leases, func(l api.Lease) bool { return l.Heartbeat > 0 && s.has(l) }):
			return // another session has them all
		case isOver(err):
			tell(failf(Denied, "", "heartbeats are of no use any more: the leases of %s have ended: %w", strings.Join(names, ", "), err))
			return
		default:
			wait = step / 4
			if !told {
				tell(failf(Unavailable, "", "a heartbeat failed, and is tried again; if none comes through for %s, the leases of %s end: %w",
					after, strings.Join(names, ", "), err))
				told = true
			}
		}
	}
}

// spread returns up to a quarter less than d, so that the jobs of one pipeline
// do not send their heartbeats together.
func spread(d time.Duration) time.Duration { return d - rand.N(d/4+1) }

// beat sends one heartbeat, with as many tries as there is time for.
func (s *Session) beat(ctx context.Context, within time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	return s.client.Heartbeat(ctx, s.Answer.AccessToken)
}

// isOver reports whether the broker refused because there is no such session any
// more, or none of its leases. Another refusal may pass, as that of a proof does
// when a clock is set right.
func isOver(err error) bool {
	oauth, ok := errors.AsType[*api.Error](err)
	return ok && IsKind(err, Denied) && (oauth.Code == api.CodeInvalidRequest || oauth.Code == api.CodeInvalidToken)
}
