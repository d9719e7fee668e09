package broker

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/brevet-dev/brevet/broker/api"
)

// sessionTokenType is the header typ of session tokens (RFC 9068, section 2.1).
// No credential has it, so that a minted JWT can never pass for a session.
const sessionTokenType = "at+jwt"

// sessionClaims are the payload of a session token.
type sessionClaims struct {
	Issuer   string        `json:"iss"`
	Subject  string        `json:"sub"`
	Audience string        `json:"aud"`
	ID       string        `json:"jti"` // the session's
	IssuedAt int64         `json:"iat"`
	Expires  int64         `json:"exp"`
	Confirm  *confirmation `json:"cnf,omitempty"` // RFC 7800; nil for a bearer token
	Record   string        `json:"record"`        // hash of the session's record
}

type confirmation struct {
	KeyThumbprint string `json:"jkt"` // RFC 9449, section 6.1
}

// signSession returns the token of s, and notes in s.Epoch which key signed it.
func (b *Broker) signSession(ctx context.Context, s *Session) (api.Secret, error) {
	claims := sessionClaims{
		Issuer: b.URL, Subject: s.Who.Subject, Audience: b.URL, ID: s.ID,
		IssuedAt: s.IssuedAt.Unix(), Expires: s.Expires.Unix(), Record: s.recordHash(),
	}
	if s.KeyThumbprint != "" {
		claims.Confirm = &confirmation{s.KeyThumbprint}
	}
	token, err := b.Sessions.Sign(ctx, sessionTokenType, claims)
	if err == nil {
		s.Epoch, err = keyOf(token)
	}
	return api.NewSecret(token), err
}

// keyOf returns the kid in the header of a token that we have just signed.
func keyOf(token string) (string, error) {
	encoded, _, _ := strings.Cut(token, ".")
	var header struct {
		KeyID string `json:"kid"`
	}
	raw, err := base64.RawURLEncoding.DecodeString(encoded)
	if err == nil {
		err = json.Unmarshal(raw, &header)
	}
	if err != nil || header.KeyID == "" {
		return "", errors.New("the signer names no key in the token's header")
	}
	return header.KeyID, nil
}

// verifySession checks a session token by itself.
func (b *Broker) verifySession(ctx context.Context, token api.Secret) (*sessionClaims, error) {
	var claims sessionClaims
	if err := b.Sessions.Verify(ctx, sessionTokenType, token.Reveal(), &claims); err != nil {
		if errors.Is(err, ErrUnavailable) {
			return nil, err
		}
		return nil, fmt.Errorf("%w: %v", ErrSession, err)
	}
	now := time.Now().Unix()
	if claims.Issuer != b.URL || claims.Audience != b.URL || now >= claims.Expires {
		return nil, fmt.Errorf("%w: expired, or of another broker", ErrSession)
	}
	return &claims, nil
}

// session checks a session token and returns its session. An expired token
// gives [ErrSession], an ended session is returned as such.
func (b *Broker) session(ctx context.Context, token api.Secret) (*Session, error) {
	claims, err := b.verifySession(ctx, token)
	if err != nil {
		return nil, err
	}
	s, err := b.Leases.Session(ctx, claims.ID)
	if errors.Is(err, ErrNotFound) {
		return nil, fmt.Errorf("%w: its session is not known any more", ErrSession)
	}
	if err != nil {
		return nil, err
	}
	if s.recordHash() != claims.Record {
		return nil, fmt.Errorf("%w: the store has another record of session %s than the token: someone changed it", ErrSession, s.ID)
	}
	return s, nil
}

// Authenticate checks a session token and, if the session is bound to a key,
// the proof made with it for this request. If only the proof is wrong, it
// returns the session beside the error: whose token somebody else may have.
func (b *Broker) Authenticate(ctx context.Context, token api.Secret, proof *Proof) (*Session, error) {
	s, err := b.session(ctx, token)
	if err != nil {
		return nil, err
	}
	if s.KeyThumbprint == "" {
		return s, nil
	}
	if err := proof.shows(s.KeyThumbprint, token); err != nil {
		return s, err
	}
	return s, b.Leases.UseProof(ctx, s.ID, proof.ID)
}

// shows reports what keeps p from showing that the holder of token has the key
// that it is bound to. That p was not used before is for the store to say.
func (p *Proof) shows(thumbprint string, token api.Secret) error {
	switch {
	case p == nil:
		return fmt.Errorf("%w: bound to a key, and no DPoP proof given", ErrSession)
	case p.KeyThumbprint != thumbprint:
		return fmt.Errorf("%w: bound to another key", ErrSession)
	case !p.covers(token.Reveal()):
		return fmt.Errorf("%w: its ath is not of this session token", ErrProof)
	}
	return nil
}

// Introspect says of a token or lease id what RFC 7662 tells, if it belongs to
// the session s. Anything else is inactive, and nothing more is said.
func (b *Broker) Introspect(ctx context.Context, s *Session, token api.Secret) (*api.Introspection, error) {
	if l := s.lease(token.Reveal()); l != nil && l.active(time.Now()) {
		return &api.Introspection{Active: true, ID: l.ID, Expires: l.Expires.Unix()}, nil
	} else if l != nil {
		return &api.Introspection{}, nil
	}
	asked, err := b.session(ctx, token)
	switch {
	case errors.Is(err, ErrSession), err == nil && (asked.ID != s.ID || asked.Ended):
		return &api.Introspection{}, nil
	case err != nil:
		return nil, err
	}
	out := &api.Introspection{
		Active: true, Subject: s.Who.Subject, Issuer: b.URL, Audience: b.URL, Expires: s.Expires.Unix(),
		IssuedAt: s.IssuedAt.Unix(), ID: s.ID, TokenType: s.TokenType(), Leases: []string{},
	}
	for _, l := range s.Leases {
		if l.active(time.Now()) {
			out.Leases = append(out.Leases, l.ID)
		}
	}
	return out, nil
}

// TokenType returns the token_type of the session's token: RFC 6750 or RFC
// 9449, section 5.
func (s *Session) TokenType() string {
	if s.KeyThumbprint == "" {
		return "Bearer"
	}
	return "DPoP"
}

func (s *Session) lease(id string) *Lease {
	for _, l := range s.Leases {
		if l.ID == id {
			return l
		}
	}
	return nil
}

func (l *Lease) active(now time.Time) bool {
	return l.State == Active && now.Before(l.Expires) && (l.Beat.IsZero() || now.Before(l.Beat))
}

// Status returns what the owner of s may know of one of its leases.
func (s *Session) Status(leaseID string) (*api.LeaseStatus, error) {
	l := s.lease(leaseID)
	if l == nil {
		return nil, ErrNotFound
	}
	return &api.LeaseStatus{
		LeaseID: l.ID, Credential: l.Credential, Kind: l.Kind, State: string(l.State),
		IssuedAt: l.IssuedAt.UTC(), ExpiresAt: l.Expires.UTC(), MaxExpires: l.MaxExpires.UTC(),
		Renewable: l.State == Active && l.Renewable(), Revocable: l.Revocable(), Policy: l.Policy,
		Scope: string(l.Scope), Heartbeat: int64(l.DeadMan / time.Second), OnLeak: string(l.OnLeak),
	}, nil
}
