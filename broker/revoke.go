package broker

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/brevet-dev/brevet/broker/api"
)

// cleanupTimeout bounds what is done for a request after its client has gone,
// and one revocation at a target.
const cleanupTimeout = 15 * time.Second

// A revocation that fails is tried again after 2 s, 4 s, … up to maxBackoff,
// each with jitter; after maxAttempts, about an hour, the lease is stuck.
const (
	maxBackoff  = 10 * time.Minute
	maxAttempts = 14
)

// RevokeSession ends the session of a token, with all its leases (RFC 7009).
// Holding the token is enough: whoever found it may end it, and no more. A
// token that is not a session's, or no longer, is no error.
func (b *Broker) RevokeSession(ctx context.Context, token api.Secret, requestID string) error {
	claims, err := b.verifySession(ctx, token)
	if errors.Is(err, ErrSession) {
		return nil
	}
	if err != nil {
		return err
	}
	// The id that we signed is enough: whatever happened to the session's record
	// in the store, it does not keep it from being ended.
	return b.end(ctx, claims.ID, nil, whyRevoked, requestID)
}

// RevokeLease ends one lease of the session of token. An id that is not a
// lease of that session is no error (RFC 7009, section 2.2), and nothing is
// done.
func (b *Broker) RevokeLease(ctx context.Context, token api.Secret, leaseID, requestID string) error {
	s, err := b.session(ctx, token)
	if err != nil {
		return err
	}
	if s.lease(leaseID) == nil {
		return nil
	}
	return b.end(ctx, s.ID, []string{leaseID}, whyRevoked, requestID)
}

// end moves leases to revoking and finishes them. When it returns an error,
// what it could not finish is due again later.
func (b *Broker) end(ctx context.Context, sessionID string, leaseIDs []string, why, requestID string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
	defer cancel()
	ended, err := b.Leases.End(ctx, sessionID, leaseIDs, why)
	if err != nil {
		err = fmt.Errorf("ending leases of session %s: %w", sessionID, err)
	}
	for _, l := range ended {
		err = errors.Join(err, b.endOne(ctx, l, requestID))
	}
	return err
}

// endOne finishes a lease unless its target is down. Then a sweeper does when
// it is back.
func (b *Broker) endOne(ctx context.Context, l *Lease, requestID string) error {
	now := time.Now()
	done, ok := b.lane(l.Credential).breaker.allow(now)
	if !ok {
		return fmt.Errorf("%w: the target of %s does not answer; lease %s is ended when it does", ErrUnavailable, l.Credential, l.ID)
	}
	defer done()
	return b.finish(ctx, now, l, EventRevoke, requestID)
}

// finish ends one lease that is revoking: at its target, in the audit log, in
// the store, in this order. A crash before the last repeats the first two,
// which do no harm twice.
//
// A credential that may exist, and whose handle nobody knows, is revoked by its
// name, where the target has names; see [Broker.settled]. Elsewhere it ends by its
// own time; its lease stays as long, for as long as it lives it is on record.
//
// A renewal that had begun before the lease was ended may bring the credential
// back after it was revoked. The broker that renews notices, and revokes again;
// but it may fail, or die. So the lease is ended once more when that renewal
// must be over, and on record until then.
func (b *Broker) finish(ctx context.Context, now time.Time, l *Lease, name EventName, requestID string) error {
	again := b.settled(l)
	start := time.Now()
	err := b.revokeHandle(ctx, l.Credential, l.Handle)
	if _, configured := b.Targets[l.Credential]; configured && !l.Handle.IsZero() {
		b.lane(l.Credential).breaker.note(now.Add(time.Since(start)), silence(err))
	}
	if err != nil {
		return errors.Join(err, b.postpone(ctx, l, name, requestID, err))
	}
	if !l.Handle.IsZero() {
		again = later(again, l.Renewing)
	}
	if now.Before(again) {
		return b.keep(ctx, l, again)
	}
	final := Revoked
	if l.Why == WhyExpired {
		final = Expired
	}
	return b.close(ctx, l, final, name, requestID, nil)
}

// silence returns err unless its target answered. What refuses one credential
// is not down: else a job whose credential cannot be ended would hold up the
// end of everybody's.
func silence(err error) error {
	if errors.Is(err, ErrTarget) {
		return nil
	}
	return err
}

// keep keeps a lease on record, and due again at next.
func (b *Broker) keep(ctx context.Context, l *Lease, next time.Time) error {
	if err := b.Leases.Defer(ctx, l, next); err != nil {
		return fmt.Errorf("keeping lease %s until %s: %w", l.ID, next.UTC().Format(time.RFC3339), err)
	}
	return nil
}

// mintSettled is how long after a lease was reserved its credential may still
// come to exist: mintTimeout, and a while for what is on its way to the target or
// at work there when the broker has given up, or died.
const mintSettled = 2 * mintTimeout

// settled gives an unsure lease the handle that follows from its name, if its
// target has names. It returns until when the lease must be kept, to be ended
// again: its credential may come to exist after what is done for it now. Zero
// for a lease that is not unsure.
func (b *Broker) settled(l *Lease) time.Time {
	if !l.Unsure || !l.Handle.IsZero() {
		return time.Time{}
	}
	if n, ok := b.Targets[l.Credential].Minter.(Namer); ok {
		l.Handle = n.HandleOf(l.ID)
		return l.IssuedAt.Add(mintSettled)
	}
	return l.Expires
}

func (b *Broker) close(ctx context.Context, l *Lease, final State, name EventName, requestID string, cause error) error {
	l.State = final
	ev := &Event{
		Time: time.Now(), Name: name, RequestID: requestID, Outcome: Granted,
		Session: l.SessionID, Leases: []EventLease{eventLease(l)},
	}
	if cause != nil {
		ev.Outcome, ev.Cause = Failed, cause.Error()
	}
	if err := b.Audit.Record(ctx, ev); err != nil {
		return fmt.Errorf("recording the end of lease %s: %w", l.ID, unavailable(err))
	}
	if err := b.Leases.Finish(ctx, l, final); err != nil {
		return fmt.Errorf("finishing lease %s: %w", l.ID, err)
	}
	return nil
}

func (b *Broker) revokeHandle(ctx context.Context, credential string, handle api.Secret) (err error) {
	if handle.IsZero() {
		return nil // nothing that the target could end: it ends by its own time
	}
	t, ok := b.Targets[credential]
	if !ok {
		return fmt.Errorf("credential %s is not configured any more: its leases cannot be revoked", credential)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
	defer cancel()
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("revoking %s: panic: %v", credential, v)
		}
	}()
	if err := t.Minter.Revoke(ctx, handle); err != nil {
		return fmt.Errorf("revoking %s: %w", credential, err)
	}
	return nil
}

// postpone plans the next attempt, or parks the lease as stuck.
func (b *Broker) postpone(ctx context.Context, l *Lease, name EventName, requestID string, cause error) error {
	if l.Attempts+1 >= maxAttempts {
		return b.close(ctx, l, Stuck, name, requestID, cause)
	}
	wait := min(maxBackoff, time.Second<<(l.Attempts+1))
	wait = wait/2 + rand.N(wait)
	if err := b.Leases.Postpone(ctx, l, time.Now().Add(wait)); err != nil {
		return fmt.Errorf("planning another revocation of lease %s: %w", l.ID, err)
	}
	return nil
}
