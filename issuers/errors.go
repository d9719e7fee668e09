package issuers

import (
	"errors"
	"fmt"
)

// ErrInvalidToken means that the subject token is bad: whoever shows it again
// gets the same answer. The error that carries it is a [*TokenError].
var ErrInvalidToken = errors.New("invalid subject token")

// ErrUnavailable means that the issuer's keys cannot be had, so that nothing
// can be said about the token. It is not the caller's fault and may pass: HTTP
// 503, not 400.
var ErrUnavailable = errors.New("issuer keys unavailable")

// The reasons for which a token is refused: a closed list, stable, fit for
// metric labels and audit records. None of them holds text of the token.
const (
	ReasonTooLarge      = "too_large"      // longer than 16 KiB
	ReasonMalformed     = "malformed"      // not a JWS in compact form with two unambiguous JSON objects
	ReasonUnknownIssuer = "unknown_issuer" // iss is no configured issuer's; nothing was fetched
	ReasonHeader        = "header"         // a header parameter is missing or not allowed
	ReasonAlgorithm     = "algorithm"      // alg is not the issuer's, or not the key's
	ReasonUnknownKey    = "unknown_key"    // the issuer publishes no usable key with this kid
	ReasonSignature     = "signature"      // the signature is not the key's
	ReasonAudience      = "audience"       // aud or azp is not exactly the broker
	ReasonExpired       = "expired"        // exp has passed
	ReasonNotYetValid   = "not_yet_valid"  // nbf or iat lies in the future
	ReasonTooOld        = "too_old"        // iat is longer ago than the preset's MaxAge
	ReasonLifetime      = "lifetime"       // exp - iat is above the preset's MaxLifetime, or not positive
	ReasonClaimMissing  = "claim_missing"  // a required claim is absent
	ReasonClaimType     = "claim_type"     // a claim has another JSON type than declared
	ReasonClaimValue    = "claim_value"    // a claim is empty, too long, unprintable or out of range
	ReasonClaimConflict = "claim_conflict" // two claims contradict each other
)

// Reasons returns every value that [TokenError.Reason] can have.
func Reasons() []string {
	return []string{
		ReasonTooLarge, ReasonMalformed, ReasonUnknownIssuer, ReasonHeader, ReasonAlgorithm,
		ReasonUnknownKey, ReasonSignature, ReasonAudience, ReasonExpired, ReasonNotYetValid,
		ReasonTooOld, ReasonLifetime, ReasonClaimMissing, ReasonClaimType, ReasonClaimValue,
		ReasonClaimConflict,
	}
}

// A TokenError says why a subject token was refused. It is for the operator:
// what the stranger is told is made elsewhere, from Reason.
type TokenError struct {
	Issuer string // the configured issuer's name, "" while it is not known
	Reason string // one of the Reason constants
	Detail string // what was wrong, without any text of the token
}

// Error implements error.
func (e *TokenError) Error() string {
	if e.Issuer == "" {
		return fmt.Sprintf("%v: %s: %s", ErrInvalidToken, e.Reason, e.Detail)
	}
	return fmt.Sprintf("%v of issuer %s: %s: %s", ErrInvalidToken, e.Issuer, e.Reason, e.Detail)
}

// Is makes every TokenError match [ErrInvalidToken].
func (e *TokenError) Is(target error) bool { return target == ErrInvalidToken }

// refuse makes a TokenError. The arguments are names and limits of ours, never
// values out of the token.
func refuse(reason, format string, args ...any) error {
	return &TokenError{Reason: reason, Detail: fmt.Sprintf(format, args...)}
}
