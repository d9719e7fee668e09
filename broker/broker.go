// Package broker is the sequence that everything else serves: it turns the
// subject token of a job into leased credentials, renews them, and ends them.
//
// One exchange is a straight line of eight steps, always in this order:
//
//	decode   the form                             broker/server
//	verify   the subject token                    issuers
//	decide   which grants apply; default no       policies
//	reserve  pending leases, and burn the token   broker/lease
//	record   the intent to mint, durably          broker/audit
//	mint     the credentials                      broker/mint
//	commit   the leases                           broker/lease
//	answer                                        broker/server
//
// Between decide and reserve an exchange waits for its turn, if there are many:
// see admission.
//
// The order carries the promise: what may exist is written down, in Redis and
// in the audit log, before it is made. After a crash between any two steps
// there is no live credential without a lease record and an audit line, and
// the sweeper ends every lease that nobody else ends.
package broker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/issuers"
	"github.com/brevet-dev/brevet/policies"
)

// A Broker exchanges, renews and revokes. All fields but Keys are required;
// [New] checks them.
type Broker struct {
	URL      string // issuer identifier of the broker and audience of its session tokens
	Issuers  *issuers.Set
	Policies *policies.Live
	Leases   LeaseStore
	Audit    AuditLog
	Sessions TokenSigner
	DataKeys KeyWrapper
	Targets  map[string]Target // by name of the credential

	// Keys returns the keys in use, whose change is told to who listens: see
	// [Broker.Listen]. nil: it is not told.
	Keys func() Keys

	runs      sync.Mutex // held while the leases of a run are looked for
	floods    floods
	admission *admission
	watch     watch
	lanes     map[string]*lane
	blocked   atomic.Uint64
}

// Blocked returns how many exchanges and renewals an operator's block refused.
func (b *Broker) Blocked() uint64 { return b.blocked.Load() }

// New returns b if it is complete.
func New(b *Broker) (*Broker, error) {
	switch {
	case b.URL == "":
		return nil, errors.New("a broker needs its url")
	case b.Issuers == nil, b.Policies == nil, b.Leases == nil, b.Audit == nil, b.Sessions == nil, b.DataKeys == nil:
		return nil, errors.New("a broker needs issuers, policies, leases, an audit log, a token signer and a key wrapper")
	}
	for name, t := range b.Targets {
		if t.Minter == nil || t.Kind == "" {
			return nil, fmt.Errorf("credential %s has no minter", name)
		}
	}
	b.lanes, b.admission = newLanes(b.Targets), newAdmission()
	return b, nil
}

// A Target is a credential of the configuration: what can be asked for.
type Target struct {
	Kind   string // "jwt", "aws-role", …
	Minter Minter

	// MinTTL is the shortest lifetime the target can give; 0 means any. AWS
	// STS refuses sessions under 15 minutes.
	MinTTL time.Duration

	// Slack is added to the end of a lease whose target counts the lifetime
	// from the moment it mints, so that the credential still ends within its
	// lease. 0 where the target takes an end as a time.
	Slack time.Duration
}

// A Minter makes one configured credential.
type Minter interface {
	// Mint makes the credential of lease l for the workload of s. It must end
	// by l.Expires, and is named l.ID at its target where the target has
	// names. When Mint returns an error there is no credential, or it is
	// listed at the target under the lease's id, or it ends by l.Expires; with
	// [ErrNothingMinted] there is none for certain.
	//
	// A renewal calls Mint again for the same lease with a later end. Where
	// the target has names this extends what is there, under the same handle;
	// elsewhere it makes another credential, and the old one ends by its time.
	Mint(ctx context.Context, s *Session, l *Lease) (*Credential, error)

	// Revoke ends the credential that handle names. A credential that is
	// already gone is a success. It is never called without a handle.
	Revoke(ctx context.Context, handle api.Secret) error
}

// A Namer is a [Minter] whose target names each credential after its lease, so
// that what may have been made can be revoked by whoever knows the lease.
type Namer interface {
	Minter

	// HandleOf returns the handle of the lease's credential, whether or not it
	// was made.
	HandleOf(leaseID string) api.Secret
}

// A Lister is a [Namer] that can tell what exists at its target.
type Lister interface {
	Namer

	// List returns the credentials at the target that carry this fleet's mark,
	// and no others.
	List(ctx context.Context) ([]Listed, error)
}

// A Listed is a credential as its target tells of it.
type Listed struct {
	LeaseID string
	Name    string    // at the target
	Issued  time.Time // zero: the target does not know
	Expires time.Time // zero: the target does not know
}

// A Credential is what a [Minter] made.
type Credential struct {
	Values    map[string]api.Secret
	Env       map[string]string // environment variable → value name
	Sensitive []string          // value names, sorted
	Expires   time.Time         // at most the lease's

	// Handle is what the minter needs to revoke the credential at its target.
	// It is empty where the target cannot revoke: such a lease is not
	// revocable, and says so.
	Handle api.Secret

	// DataKey is the id of the data key that the credential is; else "".
	DataKey string
}

// A LeaseStore keeps sessions and their leases. Each method is one atomic
// change: after a crash it has happened wholly or not at all.
type LeaseStore interface {
	// Reserve writes s and its leases as pending and marks the subject token
	// as used, before anything is minted. It returns [ErrReplayed] if the
	// token's replay mode forbids another use, [ErrProofReplayed] if the DPoP
	// proof was seen before, [ErrBlocked] if an operator forbids it, and
	// [ErrQuota] if a limit of s.Quotas is reached; then nothing was written.
	Reserve(ctx context.Context, s *Session, use TokenUse) error

	// Commit makes the leases of s active, with their ends and handles. It
	// returns [ErrEnded], and changes nothing, if one of them is no longer
	// pending.
	Commit(ctx context.Context, s *Session) error

	// Session returns a session with its leases, or [ErrNotFound].
	Session(ctx context.Context, id string) (*Session, error)

	// Extend moves the end of an active lease to until, or leaves it where it is
	// if that is later, before a longer-lived credential is minted. It returns
	// [ErrEnded] if l is not active, or its session has ended, and [ErrBlocked]
	// if an operator forbids it. It leaves a mark that a renewal is under way:
	// whoever ends the lease meanwhile finds it in Renewing.
	Extend(ctx context.Context, l *Lease, until time.Time) error

	// Confirm reports, after the minting for a renewal, whether the lease is
	// still active and ends no earlier than l.Expires; [ErrEnded] if not. Then
	// the renewal is over, and its mark goes.
	Confirm(ctx context.Context, l *Lease) error

	// Heartbeat makes those active leases of a session that need heartbeats live
	// on, each as long as its grant says from now. proofID is recorded as by
	// UseProof; "" is none. It returns [ErrEnded] if the session has ended, or all
	// of its leases that need heartbeats, and [ErrNotFound] if it is not known.
	Heartbeat(ctx context.Context, sessionID, proofID string) error

	// Lease returns one lease as it is stored, or [ErrNotFound]. Its terms are
	// not those that a session token vouches for.
	Lease(ctx context.Context, id string) (*Lease, error)

	// CountUse counts one use of what was made under a lease, under a name, or
	// returns [ErrUsedUp] if there were most already. The count is kept until a
	// time.
	CountUse(ctx context.Context, leaseID, name string, most int, until time.Time) error

	// UseProof records a DPoP proof for the session, or returns
	// [ErrProofReplayed].
	UseProof(ctx context.Context, sessionID, proofID string) error

	// SessionStates returns the state of each of sessions, in this order. What is not
	// known of one is no error, but [Unknown].
	SessionStates(ctx context.Context, sessions []Watched) ([]SessionState, error)

	LeaseEnder
	Reconciler
}

// A LeaseEnder ends leases. A lease that was begun to end is due again after a
// visibility timeout, so that another broker finishes what one left behind.
type LeaseEnder interface {
	// End moves those of the leases that are pending or active to revoking,
	// notes why, and returns them. With nil for leaseIDs it ends all leases
	// and the session itself: nothing can renew it any more.
	End(ctx context.Context, sessionID string, leaseIDs []string, why string) ([]*Lease, error)

	// ClaimDue does the same to leases whose time has come, and returns leases
	// whose revocation is to be tried again: of each shard up to [ClaimBatch], the
	// longest due first.
	ClaimDue(ctx context.Context, now time.Time) ([]*Lease, error)

	// EndRun makes the living leases of scope run that sel finds revoking, and due
	// now, for sweepers to end. It returns how many it ended: those that are
	// issued meanwhile may be missed. It may be repeated after an error.
	EndRun(ctx context.Context, sel *Selector) (int, error)

	// Finish records the final state of a lease: revoked, expired or stuck.
	Finish(ctx context.Context, l *Lease, final State) error

	// Postpone makes a lease whose revocation failed due again at next, and
	// counts the attempt.
	Postpone(ctx context.Context, l *Lease, next time.Time) error

	// Defer makes a lease that cannot be finished yet due again at next. It
	// counts no attempt.
	Defer(ctx context.Context, l *Lease, next time.Time) error
}

// An AuditLog records what the broker decided and did.
type AuditLog interface {
	// Record returns once e is durable. If it returns an error, e may be lost
	// and what e announces must not happen.
	Record(ctx context.Context, e *Event) error
}

// A TokenSigner signs and checks the broker's own session tokens with the
// epoch key.
type TokenSigner interface {
	// Sign returns claims as a JWT with header typ.
	Sign(ctx context.Context, typ string, claims any) (string, error)

	// Verify checks the signature of a token and its typ, and decodes its
	// payload into claims. Times and audience are the caller's to check.
	Verify(ctx context.Context, typ, token string, claims any) error
}

// A KeyWrapper encrypts data keys under a KEK that no one else has, and that
// changes over time.
type KeyWrapper interface {
	// WrapKey returns k encrypted, and sets k.KEK. All of k but Key is readable
	// in it, and none of it can be changed. It has been noted that the KEK is
	// needed until k.Expires.
	WrapKey(ctx context.Context, k *DataKey) (wrapped string, err error)

	// UnwrapKey returns what was wrapped, or [ErrWrapped].
	UnwrapKey(ctx context.Context, wrapped string) (*DataKey, error)
}
