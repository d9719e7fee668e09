// Package issuers says who vouches for a job. It reads the subject token that
// a CI platform signed, checks it against the configured issuer's keys and
// rules, and returns the identity in it as typed claims.
//
// One token takes this way, and nothing of it is believed earlier than here:
//
//  1. parseToken reads it as text, without any cryptography, in the one
//     spelling that all readers understand alike. Its iss picks a configured
//     issuer; of an unknown one nothing is ever fetched.
//  2. checkHeader applies the issuer's rules to alg, typ, kid and the rest.
//  3. The keyring finds the key. go-oidc then checks iss, aud, exp and nbf, and
//     asks our key set for the signature, which golang-jwt verifies, once.
//  4. identify applies the claim rules, which go-oidc does not know, and keeps
//     the declared claims.
//
// What is known of a platform is data: a [Preset].
package issuers

import (
	"context"
	"crypto"
	"crypto/rsa"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/golang-jwt/jwt/v5"

	"github.com/brevet-dev/brevet/issuers/presets"
)

// A Set verifies the tokens of all configured issuers. It is safe for
// concurrent use.
type Set struct {
	byURL  map[string]*issuer
	byName map[string]*issuer
	order  []*issuer // as configured

	verified *cache
}

// An issuer is one entry of the configuration, ready for use.
type issuer struct {
	name, url, audience string

	preset *presets.Preset
	rules  rules // for the claims
	keys   *keyring
}

// New makes a Set. It touches no network: an issuer that is down does not keep
// the broker from starting. The error joins every problem of every
// configuration, each after its issuer's name.
func New(configs []Config) (*Set, error) {
	s := &Set{byURL: make(map[string]*issuer), byName: make(map[string]*issuer), verified: newCache()}
	var problems []error
	for i := range configs {
		c := &configs[i]
		for _, problem := range c.Validate() {
			problems = append(problems, fmt.Errorf("issuer %q: %w", c.Name, problem))
		}
		if s.byName[c.Name] != nil {
			problems = append(problems, fmt.Errorf("issuer %q: name: used twice; give each issuer its own", c.Name))
		}
		if other := s.byURL[c.issuerURL()]; other != nil {
			problems = append(problems, fmt.Errorf("issuer %q: url: is also that of issuer %q; remove one", c.Name, other.name))
		}
		is := &issuer{name: c.Name, url: c.issuerURL(), audience: c.Audience}
		s.byName[is.name], s.byURL[is.url] = is, is
		s.order = append(s.order, is)
	}
	if len(problems) > 0 {
		return nil, errors.Join(problems...)
	}
	for i, is := range s.order {
		if err := is.build(&configs[i]); err != nil {
			return nil, fmt.Errorf("issuer %q: %w", is.name, err)
		}
	}
	return s, nil
}

// build fills is from its valid configuration.
func (is *issuer) build(c *Config) error {
	var err error
	if is.preset, err = c.Resolve(); err != nil {
		return err
	}
	is.rules = newRules(c, is.preset)
	is.keys, err = newKeyring(c, is.preset)
	return err
}

// Preset returns the preset of the issuer with that name. It must not be
// changed.
func (s *Set) Preset(issuer string) (*presets.Preset, bool) {
	is, ok := s.byName[issuer]
	if !ok {
		return nil, false
	}
	return is.preset, true
}

// Run keeps the keys of all issuers fresh until ctx ends, then returns, and
// logs when an issuer cannot be reached and when it can again. Without it keys
// are fetched when a token first needs them, and again when they are not
// believed any more.
func (s *Set) Run(ctx context.Context, log *slog.Logger) {
	var refreshers sync.WaitGroup
	for _, is := range s.order {
		refreshers.Go(func() { is.keys.run(ctx, log) })
	}
	refreshers.Wait()
}

// Status returns the state of every issuer's keys, in the configuration's
// order.
func (s *Set) Status() []Status {
	var all []Status
	for _, is := range s.order {
		all = append(all, is.keys.status(time.Now()))
	}
	return all
}

// Verify authenticates a subject token: whoever shows raw is the workload that
// it returns, as far as a bearer token can say. It does not know whether raw
// was shown before; that is for whoever keeps ReplayID.
//
// The error is a [*TokenError] if raw is bad ([ErrInvalidToken]), and matches
// [ErrUnavailable] if the issuer's keys cannot be had or ctx ended before they
// came. With an error the identity is nil.
//
// Of issuers whose tokens are shown more than once it remembers those it has
// verified: see cache.
func (s *Set) Verify(ctx context.Context, raw string) (*Identity, error) {
	if id := s.verified.find(raw, time.Now()); id != nil {
		return id, nil
	}
	t, err := parseToken(raw)
	if err != nil {
		return nil, err
	}
	is, configured := s.byURL[t.issuer]
	if !configured {
		return nil, refuse(ReasonUnknownIssuer, "iss is no configured issuer's url")
	}
	version := is.keys.status(time.Now()).Version // before it is used
	id, err := is.verify(ctx, t, time.Now())
	if err == nil {
		s.verified.keep(is, t, id, version)
	}
	if refusal := (*TokenError)(nil); errors.As(err, &refusal) {
		refusal.Issuer = is.name
	}
	return id, err
}

func (is *issuer) verify(ctx context.Context, t *token, now time.Time) (*Identity, error) {
	alg, kid, err := checkHeader(t.header, is.preset)
	if err != nil {
		return nil, err
	}
	key, err := is.keys.find(ctx, kid, now)
	if err != nil {
		return nil, err
	}
	if !slices.Contains(key.algorithms, alg) {
		return nil, refuse(ReasonAlgorithm, "alg does not fit the key")
	}
	signature := &signature{token: t, key: key.public, method: method(alg)}
	config := &oidc.Config{
		ClientID:             is.audience,
		SupportedSigningAlgs: is.preset.Algorithms,
		Now:                  func() time.Time { return now },
	}
	_, refused := oidc.NewVerifier(is.url, signature, config).Verify(ctx, t.raw)
	if !signature.valid {
		return nil, refuse(ReasonSignature, "the signature is not by the key that kid names")
	}
	// Our rules come first: they say why, and go-oidc's errors quote the token.
	id, err := is.identify(t, now)
	if err != nil {
		return nil, err
	}
	if refused != nil {
		return nil, refuse(ReasonMalformed, "go-oidc refuses claims that the claim rules accept")
	}
	return id, nil
}

// A signature is the [oidc.KeySet] for one token and the one key that its
// header names.
type signature struct {
	token  *token
	key    crypto.PublicKey
	method jwt.SigningMethod // the token's alg, which was found to be the key's
	valid  bool
}

// VerifySignature implements [oidc.KeySet]. It is the only place where a
// subject token's signature is verified. It does without golang-jwt's parser,
// which would read once more what parseToken read more strictly.
func (s *signature) VerifySignature(_ context.Context, raw string) ([]byte, error) {
	if raw != s.token.raw {
		return nil, errors.New("not the token that was read")
	}
	if err := s.method.Verify(s.token.signed, s.token.signature, s.key); err != nil {
		return nil, fmt.Errorf("verifying the signature: %w", err)
	}
	s.valid = true
	return s.token.payload, nil
}

// method returns how alg, one of [Algorithms], verifies. golang-jwt would take
// a PSS salt of any length; RFC 7518, section 3.5, wants the hash's.
func method(alg string) jwt.SigningMethod {
	m := jwt.GetSigningMethod(alg)
	pss, ok := m.(*jwt.SigningMethodRSAPSS)
	if !ok {
		return m
	}
	return &jwt.SigningMethodRSAPSS{
		SigningMethodRSA: pss.SigningMethodRSA,
		VerifyOptions:    &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash},
	}
}
