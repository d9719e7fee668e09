package broker

import (
	"errors"
	"fmt"
	"time"

	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/issuers"
	"github.com/brevet-dev/brevet/policies"
)

// What can go wrong in a step. The server answers each with an OAuth error;
// see [Refuse].
var (
	ErrReplayed      = errors.New("subject token already used")
	ErrOverused      = errors.New("subject token used too often")
	ErrProofRequired = errors.New("this issuer's tokens need a DPoP proof")
	ErrProofReplayed = errors.New("DPoP proof already used")
	ErrProof         = errors.New("DPoP proof not accepted")
	ErrSession       = errors.New("session token not accepted")
	ErrNotFound      = errors.New("no such lease or session")
	ErrEnded         = errors.New("the lease has ended")
	ErrLimit         = errors.New("asked for more than may be asked for")
	ErrNotApplicable = errors.New("the credential cannot be made for this workload")
	ErrNoRun         = errors.New("the session's token tells of no run")
	ErrContext       = errors.New("a context or data_key, and no data key asked for")
	ErrWrapped       = errors.New("wrapped data key not accepted")
	ErrUsedUp        = errors.New("used as often as it may be")
	ErrBlocked       = errors.New("blocked by an operator")
	ErrUnavailable   = errors.New("temporarily unavailable")
	ErrBusy          = errors.New("too many exchanges at once")
	ErrListeners     = errors.New("too many listen")
	ErrTarget        = errors.New("the credential's target refused")
)

// ErrNothingMinted beside another error says that a minter knows: the target
// made nothing.
var ErrNothingMinted = errors.New("nothing was made")

// A Refusal is an error with what may be told of it. Public may leave the
// process; Error and Cause are for the operator.
type Refusal struct {
	Public     api.Error     // Code and Description: RFC 6749, section 5.2
	Status     int           // HTTP status
	RetryAfter time.Duration // 0: no use in trying again
	Cause      error
}

func (r *Refusal) Error() string { return fmt.Sprintf("%s: %v", r.Public.Code, r.Cause) }
func (r *Refusal) Unwrap() error { return r.Cause }

// Outcome says whether r is the caller's to fix.
func (r *Refusal) Outcome() Outcome {
	if r.Status >= 500 {
		return Failed
	}
	return Refused
}

// retryAfter is what a client waits before it asks an overloaded or half-dead
// broker again: long enough for a Redis failover to begin, short against a
// job's patience.
const retryAfter = 2 * time.Second

// A client that met a limit asks again when there must be room, but within
// these: a lease may end long before it must, and brevet gives up after half a
// minute.
const (
	minQuotaRetry = time.Second
	maxQuotaRetry = 10 * time.Second
)

// A rule maps a cause to what a stranger may know of it. The description says
// what to do, and holds no token text, claim value or policy text.
type rule struct {
	is          error
	status      int
	code        string
	description string
}

// rules is the one place where causes become OAuth errors. The first that
// matches applies. RFC 8693, section 2.2.2: a subject token that is invalid or
// unacceptable by policy is invalid_request, a target that will not be served
// invalid_target.
var rules = [...]rule{
	{issuers.ErrUnavailable, 503, api.CodeTemporarily, "the keys of the token's issuer cannot be had right now; try again"},
	{issuers.ErrInvalidToken, 400, api.CodeInvalidRequest, "subject token not accepted"},
	{policies.ErrUnknownCredential, 400, api.CodeInvalidTarget, "no such credential, or no policy grants it to this workload"},
	{policies.ErrNoGrant, 400, api.CodeInvalidTarget, "no such credential, or no policy grants it to this workload"},
	{ErrBlocked, 400, api.CodeInvalidTarget, "an operator has blocked this credential or workload for now; ask one"},
	{ErrQuota, 429, api.CodeSlowDown, "as many leases live, or were asked for within a minute, as the policy allows at once; wait"},
	{ErrReplayed, 400, api.CodeInvalidRequest, "subject token already used; fetch a new one, or show the key it was first used with"},
	{ErrOverused, 400, api.CodeInvalidRequest, "subject token used too often; keep the session of an exchange instead of exchanging again"},
	{ErrProofRequired, 400, api.CodeInvalidDPoPProof, "tokens of this issuer are accepted with a DPoP proof only"},
	{ErrProofReplayed, 400, api.CodeInvalidDPoPProof, "DPoP proof already used; make a new one for each request"},
	{ErrProof, 400, api.CodeInvalidDPoPProof, "DPoP proof not accepted; check its htm, htu, iat and key"},
	{ErrSession, 401, api.CodeInvalidToken, "session token not accepted; it may have expired, or it needs the DPoP key it is bound to"},
	{ErrNotFound, 404, api.CodeNotFound, "this session has no such lease"},
	{ErrEnded, 400, api.CodeInvalidRequest, "the lease has ended; exchange a new subject token"},
	{ErrLimit, 400, api.CodeInvalidRequest, "ttl is beyond what the grant allows, or below what the credential's target can give"},
	{ErrNotApplicable, 400, api.CodeInvalidTarget, "the credential cannot be made for this workload"},
	{ErrNoRun, 400, api.CodeInvalidRequest, "the token of this session tells of no run and project, so nothing is of scope run with it"},
	{ErrContext, 400, api.CodeInvalidRequest, "context and data_key are for credentials of kind data-key, and none was asked for"},
	{ErrWrapped, 400, api.CodeInvalidRequest, "wrapped data key not accepted: it was changed, its time or its lease is over, its KEK was destroyed, or its context is another"},
	{policies.ErrOperation, 403, api.CodeInsufficientScope, "no policy allows this session to do that with this data key"},
	{ErrUsedUp, 403, api.CodeInsufficientScope, "this data key was unwrapped as often as the policy allows"},
	{ErrBusy, 503, api.CodeTemporarily, "too many exchanges at once; try again"},
	{ErrListeners, 503, api.CodeTemporarily, "as many listen to events as may; ask for the state of the lease instead, or try again"},
	{ErrUnavailable, 503, api.CodeTemporarily, "try again"},
	{ErrTarget, 500, api.CodeServerError, "the credential's target refused; an operator finds the reason under the request id"},
}

// Refuse turns any error into a [*Refusal]. One that no rule knows is the
// broker's own: the caller sees server_error and a request id.
func Refuse(err error) *Refusal {
	if r, ok := errors.AsType[*Refusal](err); ok {
		return r
	}
	for _, r := range rules {
		if errors.Is(err, r.is) {
			out := &Refusal{Public: api.Error{Code: r.code, Description: r.description}, Status: r.status, Cause: err}
			if r.status == 503 {
				out.RetryAfter = retryAfter
			}
			if r.is == ErrBusy || r.is == ErrListeners {
				out.RetryAfter = busyRetry()
			}
			if quota, ok := errors.AsType[*QuotaError](err); ok {
				out.RetryAfter = min(max(quota.After, minQuotaRetry), maxQuotaRetry).Round(time.Second)
			}
			return out
		}
	}
	return &Refusal{
		Public: api.Error{Code: api.CodeServerError, Description: "an operator finds the reason under the request id"},
		Status: 500, Cause: err,
	}
}
