package broker

import (
	"context"
	"errors"
	"fmt"

	"github.com/brevet-dev/brevet/broker/api"
)

// Heartbeat tells that the job of a session lives: those of its leases that end
// in silence live on. It needs what a renewal needs, the session token and the
// key that it is bound to. One script in the store is all it takes, for there
// are many: what the token says was signed by us, and nothing else is asked.
//
// It fills in ev for the case that it is refused.
func (b *Broker) Heartbeat(ctx context.Context, token api.Secret, proof *Proof, ev *Event) error {
	claims, err := b.verifySession(ctx, token)
	if err != nil {
		return err
	}
	ev.Session = claims.ID
	proofID := ""
	if claims.Confirm != nil {
		ev.Bound = claims.Confirm.KeyThumbprint
		if err := proof.shows(claims.Confirm.KeyThumbprint, token); err != nil {
			return err
		}
		proofID = proof.ID
	}
	err = b.Leases.Heartbeat(ctx, claims.ID, proofID)
	if errors.Is(err, ErrNotFound) {
		return fmt.Errorf("%w: its session is not known any more", ErrSession)
	}
	if err != nil {
		return fmt.Errorf("noting a heartbeat of session %s: %w", claims.ID, err)
	}
	return nil
}

// RevokeJob ends what of the session of a token ends with its job: all but the
// leases of scope run. Without such leases it is [Broker.RevokeSession].
func (b *Broker) RevokeJob(ctx context.Context, token api.Secret, requestID string) error {
	s, err := b.session(ctx, token)
	if errors.Is(err, ErrSession) {
		return nil
	}
	if err != nil {
		return err
	}
	var ids []string
	for _, l := range s.Leases {
		if !l.OfRun() {
			ids = append(ids, l.ID)
		}
	}
	switch len(ids) {
	case 0:
		return nil
	case len(s.Leases):
		ids = nil
	}
	return b.end(ctx, s.ID, ids, whyRevoked, requestID)
}

// RevokeRun ends the leases of scope run of the run that s, an authenticated
// session, is part of: of its issuer, its project and its run, as its token said
// at the exchange. Sweepers end them; when it returns none can be renewed.
//
// One run is looked for at a time: the way leads over all leases that live.
func (b *Broker) RevokeRun(ctx context.Context, s *Session) error {
	sel, err := s.run()
	if err != nil {
		return err
	}
	if s.Ended {
		return ErrEnded
	}
	if !b.runs.TryLock() {
		return fmt.Errorf("%w: another run is being ended", ErrUnavailable)
	}
	defer b.runs.Unlock()
	if n, err := b.Leases.EndRun(ctx, sel); err != nil {
		return fmt.Errorf("ending the leases of a run, after %d: %w", n, err)
	}
	return nil
}

// run selects the leases of the run that s is part of, or returns [ErrNoRun].
// Ids of runs are unique within an issuer at best: without all three it selects
// nothing.
func (s *Session) run() (*Selector, error) {
	sel := &Selector{Match: map[Attribute]string{}}
	for _, a := range []Attribute{ByIssuer, ByRepository, ByRun} {
		sel.Match[a] = a.Of(s, nil)
		if sel.Match[a] == "" {
			return nil, fmt.Errorf("%w: no %s", ErrNoRun, a)
		}
	}
	if err := sel.Validate(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoRun, err)
	}
	return sel, nil
}
