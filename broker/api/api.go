// Package api is what crosses the wire between a job and the broker: the
// answer of an exchange, the errors, and the names that RFC 8693 (token
// exchange), RFC 7009 (revocation), RFC 7662 (introspection) and RFC 9449
// (DPoP) give them. It imports the standard library only, because it is linked
// into the runner plugin, which runs inside other people's jobs.
package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// Paths of the broker's HTTP surface, relative to its url.
const (
	PathToken      = "/v1/token"
	PathRevoke     = "/v1/revoke"
	PathIntrospect = "/v1/introspect"
	PathHeartbeat  = "/v1/heartbeat"
	PathLeases     = "/v1/leases/" // + lease id, + "/renew"
	PathJWKS       = "/.well-known/jwks.json"
)

// Identifiers of RFC 8693, sections 2.1 and 3.
const (
	GrantTypeTokenExchange = "urn:ietf:params:oauth:grant-type:token-exchange"
	TokenTypeJWT           = "urn:ietf:params:oauth:token-type:jwt"
	TokenTypeIDToken       = "urn:ietf:params:oauth:token-type:id_token"
	TokenTypeAccessToken   = "urn:ietf:params:oauth:token-type:access_token"
)

// HeaderRetryKey names one logical exchange. A client that lost an answer
// repeats the exchange with the same value, at most 64 characters of
// [A-Za-z0-9_-]; the broker then replaces what the lost answer carried.
const HeaderRetryKey = "Idempotency-Key"

// Limits on what a stranger may send, in bytes.
const (
	MaxSubjectToken = 16 << 10 // GitHub's are about 2 KiB, GitLab's about 3 KiB
	MaxBody         = 64 << 10 // a token, its form encoding and 100 audiences fit
	MaxCredentials  = 32       // credentials in one exchange
)

// The parameter scope of a revocation, and of a lease.
const (
	ScopeJob = "job" // what ends with the job; of a lease, where it is the default, ""
	ScopeRun = "run" // what ends with the run
)

// maxHeartbeat in seconds bounds what a broker may ask for: far more than any
// policy says, far less than overflows.
const maxHeartbeat = 24 * 60 * 60

// A TokenResponse is the answer to an exchange: RFC 8693, section 2.2.1, with
// the member "leases".
type TokenResponse struct {
	AccessToken     Secret  // the session token: a JWT signed by the epoch key
	IssuedTokenType string  // TokenTypeJWT
	TokenType       string  // "DPoP" when bound to a key, else "Bearer"
	ExpiresIn       int64   // seconds until the session token expires
	Leases          []Lease // one a credential, in the order asked for
}

// A Lease is one credential with its end.
type Lease struct {
	LeaseID    string
	Credential string            // its name in the broker's configuration
	Kind       string            // "jwt", "aws-role", …
	ExpiresAt  time.Time         // when the credential stops working, to the second
	Renewable  bool              // POST /v1/leases/{id}/renew may extend it
	Revocable  bool              // revoking ends the credential at its target, too
	Scope      string            // ScopeRun, or "" for the job: with what the lease ends
	Heartbeat  time.Duration     // the lease ends when it hears no heartbeat for that long, whole seconds; 0: it needs none
	OnLeak     string            // OnLeakRevoke or OnLeakReport: what is done when the job prints one of its values
	Values     map[string]Secret // value name → value
	Env        map[string]string // environment variable → value name
	Sensitive  []string          // names of the values to mask in logs, sorted
}

// The wire forms. They exist so that encoding one is a deliberate act: a
// Secret inside a TokenResponse marshals to "[secret]".
type tokenResponseJSON struct {
	AccessToken     string      `json:"access_token"`
	IssuedTokenType string      `json:"issued_token_type"`
	TokenType       string      `json:"token_type"`
	ExpiresIn       int64       `json:"expires_in"`
	Leases          []leaseJSON `json:"leases,omitempty"`
	Sealed          string      `json:"sealed_leases,omitempty"` // instead of leases: see SealKey
}

type leaseJSON struct {
	LeaseID    string            `json:"lease_id"`
	Credential string            `json:"credential"`
	Kind       string            `json:"kind"`
	ExpiresAt  time.Time         `json:"expires_at"`
	Renewable  bool              `json:"renewable"`
	Revocable  bool              `json:"revocable"`
	Scope      string            `json:"scope,omitempty"`
	Heartbeat  int64             `json:"heartbeat,omitempty"` // seconds
	OnLeak     string            `json:"on_leak,omitempty"`
	Values     map[string]string `json:"values"`
	Env        map[string]string `json:"env"`
	Sensitive  []string          `json:"sensitive"`
}

// Encode returns t as JSON with its secrets in clear. It is called where an
// answer leaves the broker and nowhere else.
func (t *TokenResponse) Encode() ([]byte, error) { return json.Marshal(t.clear()) }

func (t *TokenResponse) clear() tokenResponseJSON {
	out := tokenResponseJSON{
		AccessToken: t.AccessToken.Reveal(), IssuedTokenType: t.IssuedTokenType,
		TokenType: t.TokenType, ExpiresIn: t.ExpiresIn, Leases: make([]leaseJSON, len(t.Leases)),
	}
	for i := range t.Leases {
		out.Leases[i] = t.Leases[i].clear()
	}
	return out
}

// Encode returns l as JSON with its secrets in clear: the answer to a renewal.
func (l *Lease) Encode() ([]byte, error) { return json.Marshal(l.clear()) }

func (l *Lease) clear() leaseJSON {
	out := leaseJSON{
		LeaseID: l.LeaseID, Credential: l.Credential, Kind: l.Kind, ExpiresAt: l.ExpiresAt,
		Renewable: l.Renewable, Revocable: l.Revocable, Scope: l.Scope, Heartbeat: int64(l.Heartbeat / time.Second),
		OnLeak: l.OnLeak, Values: make(map[string]string, len(l.Values)),
		Env: l.Env, Sensitive: l.Sensitive,
	}
	for name, v := range l.Values {
		out.Values[name] = v.Reveal()
	}
	if out.Env == nil {
		out.Env = map[string]string{}
	}
	if out.Sensitive == nil {
		out.Sensitive = []string{}
	}
	return out
}

// DecodeTokenResponse reads what [TokenResponse.Encode] wrote. Members it does
// not know are ignored, so that an older plugin can talk to a newer broker. It
// refuses an answer without a session token or with a lease without an id. Its
// errors never quote the input.
//
// With an error about the leases it returns the rest of the answer, for its
// session token: what cannot be used can be ended.
func DecodeTokenResponse(data []byte) (*TokenResponse, error) {
	in, err := decodeToken(data)
	if err != nil {
		return nil, err
	}
	return in.response()
}

func decodeToken(data []byte) (*tokenResponseJSON, error) {
	var in tokenResponseJSON
	if err := json.Unmarshal(data, &in); err != nil {
		return nil, errors.New("the broker's answer is not the JSON object of RFC 8693")
	}
	if in.AccessToken == "" {
		return nil, errors.New("the broker's answer has no access_token")
	}
	return &in, nil
}

func (in *tokenResponseJSON) withoutLeases() *TokenResponse {
	return &TokenResponse{
		AccessToken: NewSecret(in.AccessToken), IssuedTokenType: in.IssuedTokenType,
		TokenType: in.TokenType, ExpiresIn: in.ExpiresIn,
	}
}

func (in *tokenResponseJSON) response() (*TokenResponse, error) {
	out := in.withoutLeases()
	leases := make([]Lease, len(in.Leases))
	for i, l := range in.Leases {
		lease, err := l.lease()
		if err != nil {
			return out, fmt.Errorf("lease %d of the broker's answer: %w", i+1, err)
		}
		leases[i] = *lease
	}
	out.Leases = leases
	return out, nil
}

// DecodeLease reads what [Lease.Encode] wrote, with the rules of
// [DecodeTokenResponse].
func DecodeLease(data []byte) (*Lease, error) {
	var in leaseJSON
	if err := json.Unmarshal(data, &in); err != nil {
		return nil, errors.New("the broker's answer is not a lease in JSON")
	}
	return in.lease()
}

func (l leaseJSON) lease() (*Lease, error) {
	if l.LeaseID == "" {
		return nil, errors.New("no lease_id")
	}
	if l.Heartbeat < 0 || l.Heartbeat > maxHeartbeat {
		return nil, errors.New("heartbeat is out of range")
	}
	out := &Lease{
		LeaseID: l.LeaseID, Credential: l.Credential, Kind: l.Kind, ExpiresAt: l.ExpiresAt,
		Renewable: l.Renewable, Revocable: l.Revocable, Scope: l.Scope, Heartbeat: time.Duration(l.Heartbeat) * time.Second,
		OnLeak: l.OnLeak, Values: make(map[string]Secret, len(l.Values)),
		Env: l.Env, Sensitive: l.Sensitive,
	}
	for name, v := range l.Values {
		out.Values[name] = NewSecret(v)
	}
	for env, name := range l.Env {
		if _, ok := l.Values[name]; !ok {
			return nil, fmt.Errorf("env %s names a value that is not there", env)
		}
	}
	return out, nil
}

// LeaseStatus is the answer to GET /v1/leases/{id}: what is known of a lease,
// without its values, which the broker does not keep.
type LeaseStatus struct {
	LeaseID    string    `json:"lease_id"`
	Credential string    `json:"credential"`
	Kind       string    `json:"kind"`
	State      string    `json:"state"` // pending, active, revoking, revoked, expired, stuck
	IssuedAt   time.Time `json:"issued_at"`
	ExpiresAt  time.Time `json:"expires_at"`
	MaxExpires time.Time `json:"max_expires_at"` // no renewal goes beyond it
	Renewable  bool      `json:"renewable"`
	Revocable  bool      `json:"revocable"`
	Policy     string    `json:"policy"`
	Scope      string    `json:"scope,omitempty"`     // as of a Lease
	Heartbeat  int64     `json:"heartbeat,omitempty"` // seconds, as of a Lease
	OnLeak     string    `json:"on_leak,omitempty"`   // as of a Lease
}

// Introspection is the answer of RFC 7662, section 2.2. Of a token that is not
// active nothing but that is told.
type Introspection struct {
	Active    bool     `json:"active"`
	Subject   string   `json:"sub,omitempty"`
	Issuer    string   `json:"iss,omitempty"`
	Audience  string   `json:"aud,omitempty"`
	Expires   int64    `json:"exp,omitempty"` // seconds since 1970
	IssuedAt  int64    `json:"iat,omitempty"` // seconds since 1970
	ID        string   `json:"jti,omitempty"`
	TokenType string   `json:"token_type,omitempty"`
	Leases    []string `json:"leases,omitempty"` // ids of the session's leases that live
}

// An Error is an OAuth error answer: RFC 6749, section 5.2.
type Error struct {
	Code        string `json:"error"`
	Description string `json:"error_description,omitempty"` // for strangers; no '"' and no '\'
	RequestID   string `json:"request_id,omitempty"`        // finds the whole reason in the audit log
}

func (e *Error) Error() string {
	s := e.Code
	if e.Description != "" {
		s += ": " + e.Description
	}
	if e.RequestID != "" {
		s += " (request " + e.RequestID + ")"
	}
	return s
}

// Error codes that the broker answers with. RFC 8693, section 2.2.2: a subject
// token that is invalid, or unacceptable by policy, is invalid_request; a
// target that will not be served is invalid_target.
const (
	CodeInvalidRequest       = "invalid_request"         // RFC 6749, section 5.2
	CodeInvalidTarget        = "invalid_target"          // RFC 8693, section 2.2.2
	CodeUnsupportedGrantType = "unsupported_grant_type"  // RFC 6749, section 5.2
	CodeInvalidToken         = "invalid_token"           // RFC 6750, section 3.1
	CodeInsufficientScope    = "insufficient_scope"      // RFC 6750, section 3.1
	CodeInvalidDPoPProof     = "invalid_dpop_proof"      // RFC 9449, section 5
	CodeSlowDown             = "slow_down"               // 429; RFC 8628, section 3.5
	CodeTemporarily          = "temporarily_unavailable" // 503; RFC 6749, section 4.1.2.1
	CodeServerError          = "server_error"            // RFC 6749, section 4.1.2.1
	CodeNotFound             = "not_found"               // our own: no such path or lease
)
