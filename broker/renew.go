package broker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/policies"
)

// Renew extends a lease of an authenticated session. The policies decide anew,
// with the claims recorded at the exchange; a grant that was withdrawn ends the
// lease. Then the exchange's line again: extend (for reserve), record the
// intent, mint, confirm (for commit).
//
// The longer end is written down before the credential that needs it is made.
func (b *Broker) Renew(ctx context.Context, s *Session, leaseID string, ev *Event) (*api.Lease, error) {
	ev.Who, ev.Session, ev.Bound = &s.Who, s.ID, s.KeyThumbprint
	l := s.lease(leaseID)
	if l == nil {
		return nil, ErrNotFound
	}
	ev.Leases = []EventLease{eventLease(l)}
	if s.Ended || !l.active(time.Now()) {
		return nil, ErrEnded
	}
	until, err := b.decideRenewal(ctx, s, l, ev)
	if err != nil {
		return nil, err
	}
	if err := b.Leases.Extend(ctx, l, until); err != nil {
		return nil, fmt.Errorf("extending lease %s: %w", l.ID, err)
	}
	l.Expires = until
	ev.Leases = []EventLease{eventLease(l)}
	if err := b.Audit.Record(ctx, intent(ev)); err != nil {
		return nil, fmt.Errorf("recording the intent to renew: %w", unavailable(err))
	}
	return b.remint(ctx, s, l)
}

func (b *Broker) remint(ctx context.Context, s *Session, l *Lease) (*api.Lease, error) {
	old := l.Handle
	ctx, cancel := context.WithTimeout(ctx, mintTimeout)
	defer cancel()
	cred, err := b.mintOne(ctx, s, l)
	if err != nil {
		return nil, err
	}
	if old.Reveal() != cred.Handle.Reveal() {
		err := fmt.Errorf("renewing lease %s: its minter made another credential instead of extending the first", l.ID)
		return nil, errors.Join(err, b.revokeHandle(ctx, l.Credential, cred.Handle))
	}
	// It may have been revoked, or extended by another renewal, meanwhile.
	// If that cannot be known, the lease stays as Extend left it, and ends the
	// credential in its time.
	if err := b.Leases.Confirm(ctx, l); err != nil {
		wrapped := fmt.Errorf("confirming lease %s: %w", l.ID, err)
		if errors.Is(err, ErrEnded) {
			wrapped = errors.Join(wrapped, b.revokeHandle(ctx, l.Credential, cred.Handle))
		}
		return nil, wrapped
	}
	out := wireLease(l, cred)
	return &out, nil
}

// decideRenewal returns the new end of l. It ends l if no policy grants it any
// more.
func (b *Broker) decideRenewal(ctx context.Context, s *Session, l *Lease, ev *Event) (time.Time, error) {
	grant, err := b.decideAgain(ctx, s, l, ev)
	if err != nil {
		return time.Time{}, err
	}
	return b.newEnd(l, grant)
}

// decideAgain asks the policies in force about a lease that was granted before,
// with the claims of then. It ends l if none grants it any more.
func (b *Broker) decideAgain(ctx context.Context, s *Session, l *Lease, ev *Event) (policies.Grant, error) {
	set := b.Policies.Current()
	ev.Policies, ev.Asked = set.Digest(), []string{l.Credential}
	id, err := b.Issuers.Recall(s.Who.Issuer, s.Who.URL, s.Who.Subject, s.Who.Claims)
	if err == nil {
		var d *policies.Decision
		d, err = set.Decide(id, l.Credential)
		ev.note(d)
		if err == nil {
			return d.Grant, nil
		}
	}
	withdrawn := fmt.Errorf("deciding anew on %s: %w", l.Credential, err)
	return policies.Grant{}, errors.Join(withdrawn, b.end(ctx, s.ID, []string{l.ID}, whyWithdrawn, ev.RequestID))
}

func (b *Broker) newEnd(l *Lease, g policies.Grant) (time.Time, error) {
	t, ok := b.Targets[l.Credential]
	if !ok {
		return time.Time{}, policies.ErrUnknownCredential
	}
	now := time.Now()
	until := earlier(now.Add(min(l.TTL, g.TTL)+t.Slack), earlier(l.MaxExpires, l.IssuedAt.Add(g.MaxTTL+t.Slack)))
	until = until.Truncate(time.Second)
	if !l.Renewable() || until.Before(l.Expires) || until.Sub(now) < t.MinTTL+t.Slack {
		return time.Time{}, fmt.Errorf("%w: lease %s has reached its max_ttl", ErrLimit, l.ID)
	}
	return until, nil
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}
