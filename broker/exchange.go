package broker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/issuers"
	"github.com/brevet-dev/brevet/issuers/presets"
	"github.com/brevet-dev/brevet/policies"
)

// A Request is a decoded exchange.
type Request struct {
	RequestID    string
	SubjectToken api.Secret
	Credentials  []string      // at least one, each once
	TTL          time.Duration // asks for less than the grant's; 0: the grant's
	Proof        *Proof        // nil without a DPoP header
	RetryKey     string        // see api.HeaderRetryKey; may be ""
	Context      api.Context   // of data keys; nil: none was given
	DataKey      KeyWish       // whether data keys are to be made
}

// An Issued is the result of an exchange.
type Issued struct {
	Session *Session
	Token   api.Secret // the session token
	Leases  []api.Lease
}

// mintTimeout bounds an exchange until the end of step 6: nothing is minted for a
// lease that is older. It stays pending for longer than that (see package lease),
// so a sweeper never ends what is still being minted.
const mintTimeout = 30 * time.Second

// Exchange implements the token exchange of RFC 8693, section 2.
//
// When it returns an error the caller has no credential, and what was minted
// has been revoked or ends no later than its lease. [Refuse] says what to tell
// the caller. ev is filled in as the steps pass; recording it is the caller's
// last step, see [Broker.Conclude].
//
// The session token is signed before its session is reserved: what is stored
// says which key signed it, and where no key can sign nothing is used up. It
// leaves with the answer, and is worth nothing before.
func (b *Broker) Exchange(ctx context.Context, req *Request, ev *Event) (*Issued, error) {
	id, err := b.Issuers.Verify(ctx, req.SubjectToken.Reveal())
	if err != nil {
		return nil, err
	}
	who, err := whoIs(id)
	if err != nil {
		return nil, err
	}
	ev.Who, ev.Undeclared = &who, id.Undeclared
	session, err := b.decide(id, req, ev)
	if err != nil {
		return nil, err
	}
	if session, err = b.enter(ctx, id, req, ev, session); err != nil {
		return nil, err
	}
	defer b.admission.leave()
	token, err := b.signSession(ctx, session)
	if err != nil {
		return nil, fmt.Errorf("signing the session token: %w", err)
	}
	if err := b.Leases.Reserve(ctx, session, tokenUse(id, req)); err != nil {
		return nil, fmt.Errorf("reserving %d leases: %w", len(session.Leases), err)
	}
	ev.hold(session)
	if err := b.Audit.Record(ctx, intent(ev)); err != nil {
		return nil, b.abandon(ctx, session, false, fmt.Errorf("recording the intent to mint: %w", unavailable(err)))
	}
	b.admission.leave()
	minted, err := b.mint(ctx, session)
	b.admission.comeBack()
	if err != nil {
		return nil, b.abandon(ctx, session, true, err)
	}
	if err := b.Leases.Commit(ctx, session); err != nil {
		return nil, b.abandon(ctx, session, true, fmt.Errorf("committing session %s: %w", session.ID, err))
	}
	ev.hold(session)
	return issue(session, token, minted), nil
}

// enter waits for the turn of an exchange that was granted. One that had to wait
// is decided anew: its leases begin now, under the policies of now. After an
// error there is nothing to leave.
func (b *Broker) enter(ctx context.Context, id *issuers.Identity, req *Request, ev *Event, s *Session) (*Session, error) {
	ctx, cancel := context.WithDeadline(ctx, id.Expires)
	defer cancel()
	waited, err := b.admission.enter(ctx, s.Who.line())
	if err != nil || !waited {
		return s, err
	}
	ev.Shadow, ev.Unsafe, ev.Drift = nil, nil, nil
	if s, err = b.decide(id, req, ev); err != nil {
		b.admission.leave()
	}
	return s, err
}

// Conclude records the outcome of a request: the last thing before the answer
// leaves. It returns err, or why the outcome could not be recorded: then there
// is no answer. After either, what was issued is ended at once.
func (b *Broker) Conclude(ctx context.Context, ev *Event, issued *Issued, err error) error {
	if err != nil && issued != nil {
		err = b.abandon(ctx, issued.Session, true, err)
		issued = nil
	}
	ev.Time, ev.Outcome = time.Now(), Granted
	if errors.Is(err, ErrBlocked) {
		b.blocked.Add(1)
	}
	if err != nil {
		r := Refuse(err)
		ev.Outcome, ev.Code, ev.Cause = r.Outcome(), r.Public.Code, err.Error()
		if suppressed, ok := b.admit(ev); ok {
			ev.Suppressed = suppressed
		} else {
			return err
		}
	}
	if auditErr := b.Audit.Record(ctx, ev); auditErr != nil {
		err = errors.Join(fmt.Errorf("recording the outcome: %w", unavailable(auditErr)), err)
		if issued != nil {
			err = b.abandon(ctx, issued.Session, true, err)
		}
	}
	return err
}

// admit reports whether an error is recorded: always once leases were reserved,
// else at a bounded rate.
func (b *Broker) admit(ev *Event) (suppressed int, ok bool) {
	if ev.Name == EventExchange && ev.Session != "" {
		return 0, true
	}
	return b.floods.admit(ev)
}

// A KeyWish says what an exchange wants of the data keys it names.
type KeyWish string

// The wishes.
const (
	KeyIfAllowed KeyWish = ""         // a new data key, if the grant allows to make one
	KeyWanted    KeyWish = "generate" // a new data key, or no answer
	NoKeyWanted  KeyWish = "none"     // to unwrap others
)

// decide is step 3: every credential asked for is granted, or none is.
func (b *Broker) decide(id *issuers.Identity, req *Request, ev *Event) (*Session, error) {
	if id.Preset.Replay == presets.Reuse && req.Proof == nil {
		return nil, ErrProofRequired
	}
	set := b.Policies.Current()
	ev.Policies, ev.Asked = set.Digest(), req.Credentials
	now, shard := time.Now(), tokenUse(id, req).Shard()
	s := &Session{ID: newID('s', shard), RequestID: req.RequestID, Who: *ev.Who, IssuedAt: now, Policies: ev.Policies}
	if req.Proof != nil {
		s.KeyThumbprint = req.Proof.KeyThumbprint
	}
	for _, name := range req.Credentials {
		d, err := set.Decide(id, name)
		ev.note(d)
		if err != nil {
			return nil, fmt.Errorf("deciding credential %.64q: %w", name, err)
		}
		l, err := b.newLease(now, d.Grant, req.TTL)
		if err == nil && l.OfRun() {
			_, err = s.run()
		}
		if err != nil {
			return nil, fmt.Errorf("credential %s: %w", name, err)
		}
		l.ID, l.SessionID = newID('l', shard), s.ID
		if err := decideKey(l, req); err != nil {
			return nil, fmt.Errorf("credential %s: %w", name, err)
		}
		s.Leases = append(s.Leases, l)
		s.count(l, d.Grant)
		s.Expires = later(s.Expires, l.MaxExpires)
	}
	if err := s.hold(req, ev); err != nil {
		return nil, err
	}
	return s, s.EncodeRecord()
}

// decideKey decides whether a lease of a data key comes with a new one.
func decideKey(l *Lease, req *Request) error {
	if l.Kind != api.KindDataKey {
		return nil
	}
	if req.DataKey == NoKeyWanted || req.DataKey == KeyIfAllowed && !l.KeyUse.Allows(policies.Generate) {
		l.NoKey = true
		return nil
	}
	if err := l.KeyUse.Permits(policies.Generate, 0, req.Context); err != nil {
		return fmt.Errorf("%w: %w", policies.ErrNoGrant, err)
	}
	return nil
}

// hold keeps what was said about data keys, which is an error where none is
// asked for: it was meant to bind something.
func (s *Session) hold(req *Request, ev *Event) error {
	if req.Context == nil && req.DataKey == KeyIfAllowed {
		return nil
	}
	if !slices.ContainsFunc(s.Leases, func(l *Lease) bool { return l.Kind == api.KindDataKey }) {
		return ErrContext
	}
	s.Context, ev.Context = req.Context, req.Context
	return nil
}

// newLease computes, once, when a lease ends: everything that has to do with
// its end (Redis, the credential, the answer) derives from these times.
func (b *Broker) newLease(now time.Time, g policies.Grant, asked time.Duration) (*Lease, error) {
	t, ok := b.Targets[g.Credential]
	if !ok {
		return nil, policies.ErrUnknownCredential
	}
	ttl := g.TTL
	if asked != 0 {
		if asked > g.TTL || asked < t.MinTTL {
			return nil, fmt.Errorf("%w: ttl %s is not within %s and %s", ErrLimit, asked, t.MinTTL, g.TTL)
		}
		ttl = asked
	}
	return &Lease{
		Credential: g.Credential, Kind: t.Kind, Policy: g.Policy, PolicyDigest: g.PolicyDigest,
		State: Pending, TTL: ttl, IssuedAt: now, KeyUse: g.KeyUse, Scope: g.Scope, DeadMan: g.DeadMan, OnLeak: g.OnLeak,
		Expires:    now.Add(ttl + t.Slack).Truncate(time.Second),
		MaxExpires: now.Add(g.MaxTTL + t.Slack).Truncate(time.Second),
	}, nil
}

// mint is step 6, for all leases at once. On an error it returns what is known
// of handles in the leases, for [Broker.abandon].
func (b *Broker) mint(ctx context.Context, s *Session) ([]*Credential, error) {
	ctx, cancel := context.WithDeadline(ctx, s.IssuedAt.Add(mintTimeout))
	defer cancel()
	minted, errs := make([]*Credential, len(s.Leases)), make([]error, len(s.Leases))
	var wg sync.WaitGroup
	for i, l := range s.Leases[1:] {
		wg.Go(func() { minted[i+1], errs[i+1] = b.mintOne(ctx, s, l) })
	}
	minted[0], errs[0] = b.mintOne(ctx, s, s.Leases[0])
	wg.Wait()
	return minted, errors.Join(errs...)
}

func (b *Broker) mintOne(ctx context.Context, s *Session, l *Lease) (cred *Credential, err error) {
	defer func() { // it may run in a goroutine of its own, where a panic ends the broker
		if v := recover(); v != nil {
			cred, err = nil, fmt.Errorf("minting %s for lease %s: panic: %v", l.Credential, l.ID, v)
		}
	}()
	cred, err = b.Targets[l.Credential].Minter.Mint(ctx, s, l)
	if err != nil {
		l.NotMinted = errors.Is(err, ErrNothingMinted)
		return nil, fmt.Errorf("minting %s for lease %s: %w", l.Credential, l.ID, err)
	}
	l.Handle, l.DataKey = cred.Handle, cred.DataKey
	if cred.Expires.After(l.Expires) {
		return nil, fmt.Errorf("minting %s for lease %s: the credential ends after its lease", l.Credential, l.ID)
	}
	return cred, nil
}

// issue makes the answer: the session token and the leases with their values.
func issue(s *Session, token api.Secret, minted []*Credential) *Issued {
	out := &Issued{Session: s, Token: token, Leases: make([]api.Lease, len(minted))}
	for i, cred := range minted {
		out.Leases[i] = wireLease(s.Leases[i], cred)
	}
	return out
}

func wireLease(l *Lease, cred *Credential) api.Lease {
	return api.Lease{
		LeaseID: l.ID, Credential: l.Credential, Kind: l.Kind, ExpiresAt: cred.Expires.UTC().Truncate(time.Second),
		Renewable: l.Renewable(), Revocable: l.Revocable(),
		Scope: string(l.Scope), Heartbeat: l.DeadMan, OnLeak: string(l.OnLeak),
		Values: cred.Values, Env: cred.Env, Sensitive: cred.Sensitive,
	}
}

// abandon ends a session whose exchange failed half-way, and returns why. What
// cannot be ended now stays due, and the sweeper tries it again. minting says
// whether step 6 was begun.
func (b *Broker) abandon(ctx context.Context, s *Session, minting bool, why error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
	defer cancel()
	if _, err := b.Leases.End(ctx, s.ID, nil, whyAbandoned); err != nil {
		why = errors.Join(why, fmt.Errorf("ending session %s: %w", s.ID, err))
	}
	// All of them, and not only what End returned: someone else may have begun
	// to end them, but only we know the handles of what was just minted.
	for _, l := range s.Leases {
		l.Why, l.Unsure = whyAbandoned, minting && !l.NotMinted
		why = errors.Join(why, b.finish(ctx, time.Now(), l, EventRevoke, s.RequestID))
	}
	return why
}

func tokenUse(id *issuers.Identity, req *Request) TokenUse {
	use := TokenUse{Issuer: id.URL, ReplayID: id.ReplayID, Mode: id.Preset.Replay, Expires: id.Expires, RetryKey: req.RetryKey}
	if req.Proof != nil {
		use.ProofID = req.Proof.ID
	}
	return use
}

func intent(ev *Event) *Event {
	out := *ev
	out.Name, out.Time, out.Undeclared = EventIntent, time.Now(), nil // once is enough
	return &out
}

// note adds what a decision says beside its grant.
func (e *Event) note(d *policies.Decision) {
	if d == nil {
		return
	}
	e.Shadow = append(e.Shadow, d.Shadow...)
	if g := &d.Grant; g.Unsafe != "" {
		said := fmt.Sprintf("policy %s: %s", g.Policy, g.Unsafe)
		e.Unsafe = append(slices.DeleteFunc(e.Unsafe, func(other string) bool { return other == said }), said)
	}
	for _, drift := range d.Drift {
		e.Drift = append(e.Drift, fmt.Sprintf("policy %s: %s is no longer %s", drift.Policy, drift.Claim, drift.Want))
	}
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// unavailable marks a failure of our own stores: the caller may try again.
func unavailable(err error) error {
	if errors.Is(err, ErrUnavailable) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}
