package mint

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"time"

	"github.com/brevet-dev/brevet/broker"
	"github.com/brevet-dev/brevet/broker/api"
)

const (
	// DefaultMaxAge is used where Config.MaxAge is 0: longer than artifacts of CI
	// are commonly kept (GitHub keeps them for 90 days at most by default).
	DefaultMaxAge = 90 * 24 * time.Hour

	// maxMaxAge bounds how long a KEK must be kept for what was wrapped under it.
	maxMaxAge = 10 * 365 * 24 * time.Hour

	// dataKeyMaxTTL is for how long the session token lives by which a lease is
	// renewed.
	dataKeyMaxTTL = 12 * time.Hour

	statementType = "brevet-data-key+jwt"
)

// dataKeyEnv are the default variables: variable → value.
var dataKeyEnv = map[string]string{
	"DATA_KEY":         api.ValuePlaintext,
	"DATA_KEY_WRAPPED": api.ValueWrapped,
	"DATA_KEY_ID":      api.ValueKeyID,
}

func (c *Config) validateDataKey() []FieldError {
	bad := append(c.validateTTL(time.Second, dataKeyMaxTTL), c.validateEnv(dataKeyEnv)...)
	if c.MaxAge != 0 && (c.MaxAge < time.Minute || c.MaxAge > maxMaxAge) {
		bad = append(bad, fieldErrorf("max_age", "max_age %s must be within %s and %s", c.MaxAge, time.Minute, maxMaxAge))
	}
	if c.Shred && c.MaxAge != 0 {
		bad = append(bad, fieldErrorf("max_age", "max_age and shred do not go together: a key that is shredded ends with its lease, by max_ttl at the latest"))
	}
	return bad
}

type dataKeyMinter struct {
	config Config
	deps   Deps
	env    map[string]string
}

func newDataKey(c Config, d Deps) (broker.Target, error) {
	if d.SignArchival == nil || d.WrapKey == nil {
		return broker.Target{}, errors.New("a data key needs an archival signer and a key wrapper")
	}
	return broker.Target{Kind: c.Kind, Minter: &dataKeyMinter{c, d, c.environment(dataKeyEnv)}}, nil
}

// Mint implements [broker.Minter]. A renewal makes no other key: it goes on
// with what the lease allows.
func (m *dataKeyMinter) Mint(ctx context.Context, s *broker.Session, l *broker.Lease) (*broker.Credential, error) {
	out := &broker.Credential{Expires: l.Expires, Handle: l.Handle}
	if l.NoKey || l.State == broker.Active {
		return out, nil
	}
	k := broker.NewDataKey(s, l, m.maxAge(l))
	half := k
	if m.config.Shred {
		half, out.Handle = k.Split()
	}
	wrapped, err := m.deps.WrapKey(ctx, half)
	if err != nil {
		return nil, fmt.Errorf("wrapping a data key: %w", err)
	}
	statement, err := m.deps.SignArchival(ctx, statementType, m.statement(s, l, half))
	if err != nil {
		return nil, fmt.Errorf("signing the statement of a data key: %w", err)
	}
	plaintext := base64.StdEncoding.EncodeToString([]byte(k.Key.Reveal()))
	out.DataKey, out.Env, out.Sensitive = k.ID, m.env, []string{api.ValuePlaintext}
	out.Values = map[string]api.Secret{
		api.ValuePlaintext: api.NewSecret(plaintext),
		api.ValueWrapped:   api.NewSecret(wrapped),
		api.ValueKeyID:     api.NewSecret(k.ID),
		api.ValueStatement: api.NewSecret(statement),
	}
	return out, nil
}

// maxAge is how long a key of lease l can be unwrapped. One that is shredded
// with its lease not longer than that may live.
func (m *dataKeyMinter) maxAge(l *broker.Lease) time.Duration {
	switch {
	case m.config.Shred:
		return l.MaxExpires.Sub(l.IssuedAt)
	case m.config.MaxAge != 0:
		return m.config.MaxAge
	}
	return DefaultMaxAge
}

// A statement says where a data key comes from, to whoever finds it years
// later: it carries the certificates up to the root.
type statement struct {
	Issuer     string      `json:"iss"`
	Subject    string      `json:"sub"` // id of the data key
	ID         string      `json:"jti"` // of the lease
	IssuedAt   int64       `json:"iat"`
	Expires    int64       `json:"exp"` // the wrapped key is of no use after that
	Credential string      `json:"credential"`
	Policy     string      `json:"policy"`
	Digest     string      `json:"policy_digest"`
	Workload   broker.Who  `json:"workload"`
	Context    api.Context `json:"context"`
	KEK        string      `json:"kek"`
	Shred      bool        `json:"shred,omitempty"`
}

func (m *dataKeyMinter) statement(s *broker.Session, l *broker.Lease, k *broker.DataKey) statement {
	c := s.Context
	if c == nil {
		c = api.Context{}
	}
	return statement{
		Issuer: m.deps.URL, Subject: k.ID, ID: l.ID, IssuedAt: k.Issued.Unix(), Expires: k.Expires.Unix(),
		Credential: l.Credential, Policy: l.Policy, Digest: l.PolicyDigest, Workload: s.Who.WithoutClaims(),
		Context: c, KEK: k.KEK, Shred: k.Shred,
	}
}

// Revoke implements [broker.Minter]. The share of a key that is shredded is the
// handle itself: it goes with the lease's record. Nothing else is to be ended.
func (m *dataKeyMinter) Revoke(context.Context, api.Secret) error { return nil }
