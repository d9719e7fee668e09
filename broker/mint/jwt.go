package mint

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/brevet-dev/brevet/broker"
	"github.com/brevet-dev/brevet/broker/api"
)

// defaultJWTSubject names the project by an id that nobody else can be given.
const defaultJWTSubject = "issuer:{issuer}:project:{project_id}"

// jwtMinTTL keeps a lease from ending within the second in which it begins: the
// times of a token are whole seconds.
const jwtMinTTL = time.Second

// valueToken is the one value of a jwt.
const valueToken = "token"

// registered are the claims with a meaning of their own to those who check
// tokens: RFC 7519, section 4.1; OpenID Connect Core, section 2; RFC 7800
// (cnf); RFC 8693, section 4 (act, may_act, scope, client_id).
var registered = [...]string{
	"iss", "sub", "aud", "exp", "nbf", "iat", "jti",
	"azp", "nonce", "auth_time", "acr", "amr", "at_hash", "c_hash",
	"cnf", "act", "may_act", "scope", "client_id",
}

var claimForm = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_.:/-]{0,127}$`)

func (c *Config) validateJWT() []FieldError {
	bad := c.validateTTL(jwtMinTTL, jwtMaxTTL)
	bad = append(bad, c.validateEnv(c.jwtEnv())...)
	if c.Audience == "" {
		bad = append(bad, fieldErrorf("audience", "audience is missing; name the service that is to accept the token"))
	}
	bad = append(bad, validateAudience(c.Audience)...)
	for _, name := range slices.Sorted(maps.Keys(c.Claims)) {
		if slices.Contains(registered[:], name) || findFact(name) != nil {
			bad = append(bad, fieldErrorf("claims", "claims: %s is set by the broker; choose another name", name))
		} else if !claimForm.MatchString(name) {
			bad = append(bad, fieldErrorf("claims", "claims: %.80q must be 1 to 128 letters, digits and _.:/- and start with a letter", name))
		}
	}
	return append(bad, c.validateTemplates()...)
}

func validateAudience(aud string) []FieldError {
	if len(aud) > 255 || strings.ContainsFunc(aud, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return []FieldError{fieldErrorf("audience", "audience must be at most 255 printable ASCII characters without spaces")}
	}
	return nil
}

// jwtEnv is NAME_TOKEN, such as REGISTRY_TOKEN for the credential registry.
func (c *Config) jwtEnv() map[string]string {
	name := strings.ToUpper(strings.ReplaceAll(c.Name, "-", "_"))
	return map[string]string{name + "_TOKEN": valueToken}
}

// A jwtMinter makes tokens for one audience.
//
// The token has the form of an OpenID Connect ID token, so any library for those
// checks it by the broker's discovery document. Its claims are iss, aud, sub,
// iat, nbf (clockSkew before iat), exp (the end of the lease), jti (the lease's
// id), every fact of the package comment's list that there is, as a string under
// the same name, and the configured claims. ref, environment, trigger, actor and
// job may be the choice of whoever pushes: a verifier should pin sub, or the ids.
type jwtMinter struct {
	config  Config
	deps    Deps
	subject *template
	claims  map[string]*template
	env     map[string]string
}

func newJWT(c Config, d Deps) (broker.Target, error) {
	if c.Subject == "" {
		c.Subject = defaultJWTSubject
	}
	m := &jwtMinter{config: c, deps: d, claims: map[string]*template{}, env: c.environment(c.jwtEnv())}
	var err error
	if m.subject, err = parseTemplate(c.Subject, subjectDialect); err != nil {
		return broker.Target{}, fmt.Errorf("subject: %w", err)
	}
	if m.claims, err = parseAll("claims", c.Claims, claimDialect); err != nil {
		return broker.Target{}, err
	}
	return broker.Target{Kind: KindJWT, Minter: m, MinTTL: jwtMinTTL}, nil
}

func parseAll(field string, texts map[string]string, d dialect) (map[string]*template, error) {
	out := make(map[string]*template, len(texts))
	for name, text := range texts {
		t, err := parseTemplate(text, d)
		if err != nil {
			return nil, fmt.Errorf("%s.%s: %w", field, name, err)
		}
		out[name] = t
	}
	return out, nil
}

// expandAll fills in templates in the order of their names, so that the same
// workload always meets the same first error.
func expandAll(field string, ts map[string]*template, s *broker.Session, l *broker.Lease) (map[string]string, error) {
	out := make(map[string]string, len(ts))
	for _, name := range slices.Sorted(maps.Keys(ts)) {
		text, err := ts[name].expand(s, l)
		if err != nil {
			return nil, fmt.Errorf("filling in %s.%s: %w", field, name, err)
		}
		out[name] = text
	}
	return out, nil
}

// Mint implements [broker.Minter].
func (m *jwtMinter) Mint(ctx context.Context, s *broker.Session, l *broker.Lease) (*broker.Credential, error) {
	now, end := time.Now(), l.Expires.Truncate(time.Second)
	if !end.After(now) {
		return nil, fmt.Errorf("%w: the lease ends before its token could begin", broker.ErrLimit)
	}
	claims, err := m.payload(s, l, now, end)
	if err != nil {
		return nil, err
	}
	token, err := m.deps.Sign(ctx, "JWT", claims)
	if err != nil {
		return nil, fmt.Errorf("signing the token: %w", err)
	}
	return &broker.Credential{
		Values:    map[string]api.Secret{valueToken: api.NewSecret(token)},
		Env:       maps.Clone(m.env),
		Sensitive: []string{valueToken},
		Expires:   end,
	}, nil
}

func (m *jwtMinter) payload(s *broker.Session, l *broker.Lease, now, end time.Time) (map[string]any, error) {
	sub, err := m.subject.expand(s, l)
	if err != nil {
		return nil, fmt.Errorf("filling in subject: %w", err)
	}
	custom, err := expandAll("claims", m.claims, s, l)
	if err != nil {
		return nil, err
	}
	claims := standardClaims(m.deps.URL, m.config.Audience, sub, tokenID(l), now, end)
	for _, f := range facts {
		if value := f.of(s, l); value != "" {
			claims[f.name] = value
		}
	}
	for name, value := range custom {
		claims[name] = value
	}
	return claims, nil
}

// standardClaims are those of RFC 7519, section 4.1.
func standardClaims(iss, aud, sub, id string, now, end time.Time) map[string]any {
	return map[string]any{
		"iss": iss, "aud": aud, "sub": sub, "jti": id,
		"iat": now.Unix(), "nbf": now.Add(-clockSkew).Unix(), "exp": end.Unix(),
	}
}

// tokenID returns the jti: the lease's id. A renewal makes another token, which
// needs another jti (RFC 7519, section 4.1.7): the id with the new end.
func tokenID(l *broker.Lease) string {
	if l.State != broker.Active {
		return l.ID
	}
	return l.ID + "." + strconv.FormatInt(l.Expires.Unix(), 10)
}

// Revoke implements [broker.Minter]. It is never called: no lease of a jwt has
// a handle.
func (m *jwtMinter) Revoke(context.Context, api.Secret) error {
	return errors.New("a signed token cannot be revoked")
}
