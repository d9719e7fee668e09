package issuers

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/brevet-dev/brevet/issuers/presets"
)

const (
	maxSubject = 1 << 10      // bytes of sub
	maxTokenID = 256          // bytes of jti; GitHub's and GitLab's are UUIDs
	maxTime    = 253402300799 // 9999-12-31T23:59:59Z, the last second of RFC 3339
)

// rules are what the claims of one issuer's tokens are held to.
type rules struct {
	preset   *presets.Preset
	audience string
	extra    []string          // audiences that may stand beside it
	skew     time.Duration     // iat and nbf may lie so far in the future
	parts    map[string]string // of the issuer's URL, by name
}

func newRules(c *Config, p *presets.Preset) rules {
	r := rules{preset: p, audience: c.Audience, extra: c.ExtraAudiences, skew: cmp.Or(c.Skew, defaultSkew)}
	r.parts, _ = p.FitURL(c.issuerURL()) // a loopback address has none
	return r
}

// identify applies the claim rules to t, whose signature was checked, and
// returns who it speaks for. It is as strict as go-oidc or stricter in
// everything that go-oidc checks.
func (is *issuer) identify(t *token, now time.Time) (*Identity, error) {
	id := &Identity{Issuer: is.name, URL: is.url, Preset: is.preset}
	if err := is.rules.checkAudience(t.claims); err != nil {
		return nil, err
	}
	var err error
	if id.IssuedAt, id.Expires, err = is.rules.checkTimes(t.claims, now); err != nil {
		return nil, err
	}
	if id.Subject, err = requiredString(t.claims, "sub"); err != nil {
		return nil, err
	}
	if len(id.Subject) > maxSubject || !printable(id.Subject) {
		return nil, refuse(ReasonClaimValue, "sub is longer than %d bytes or not printable", maxSubject)
	}
	if id.ReplayID, err = replayID(t, is.preset.RequireJTI); err != nil {
		return nil, err
	}
	if id.Claims, err = ReadClaims(is.preset, t.claims); err != nil {
		return nil, err
	}
	if err := is.rules.checkFacts(id.Claims, id.Subject); err != nil {
		return nil, err
	}
	id.Workload, id.Undeclared = workload(id.Claims, is.preset), undeclared(t.claims, is.preset)
	return id, nil
}

// checkAudience demands that the token is for the broker and nobody else but
// who was named: what is shown to several parties, any of them can replay
// (SPIFFE JWT-SVID, section 6.2). Distributed claims (OpenID Connect Core,
// section 5.6.2) would be somebody else's word.
func (r *rules) checkAudience(claims map[string]any) error {
	list, isList := claims["aud"].([]any)
	if !isList {
		list = []any{claims["aud"]}
	}
	if !slices.Contains(list, any(r.audience)) {
		return refuse(ReasonAudience, "aud is not the broker's")
	}
	for i, aud := range list {
		text, isString := aud.(string)
		known := text == r.audience || slices.Contains(r.extra, text)
		if !isString || !known || slices.Contains(list[:i], aud) {
			return refuse(ReasonAudience, "aud also names somebody who is not in extra_audiences, or somebody twice")
		}
	}
	azp, present := claims["azp"]
	if present && !declaresTop(r.preset, "azp") && azp != any(r.audience) {
		return refuse(ReasonAudience, "azp names another party")
	}
	for _, name := range []string{"_claim_names", "_claim_sources"} {
		if _, present := claims[name]; present {
			return refuse(ReasonClaimValue, "%s: distributed claims are not allowed", name)
		}
	}
	return nil
}

// declaresTop reports whether p declares the claim of that name in the token.
func declaresTop(p *presets.Preset, name string) bool {
	for ours, claim := range p.Claims {
		if slices.Equal(location(ours, claim), []string{name}) {
			return true
		}
	}
	return false
}

// checkTimes applies RFC 7519, sections 4.1.4 to 4.1.6, and the preset's limits.
func (r *rules) checkTimes(claims map[string]any, now time.Time) (iat, exp time.Time, err error) {
	p := r.preset
	if exp, err = timeClaim(claims, "exp"); err != nil {
		return iat, exp, err
	}
	if iat, err = timeClaim(claims, "iat"); err != nil {
		return iat, exp, err
	}
	nbf := iat
	if _, present := claims["nbf"]; present {
		if nbf, err = timeClaim(claims, "nbf"); err != nil {
			return iat, exp, err
		}
	}
	switch {
	case !now.Before(exp):
		err = refuse(ReasonExpired, "exp was %v ago", now.Sub(exp).Round(time.Second))
	case iat.After(now.Add(r.skew)) || nbf.After(now.Add(r.skew)):
		err = refuse(ReasonNotYetValid, "iat or nbf is more than %v ahead; compare the clocks", r.skew)
	case !iat.Before(exp) || !nbf.Before(exp):
		err = refuse(ReasonLifetime, "exp is not after iat and nbf")
	case exp.Sub(iat) > p.MaxLifetime:
		err = refuse(ReasonLifetime, "exp - iat is %v, above the limit of %v", exp.Sub(iat), p.MaxLifetime)
	case now.Sub(iat) > p.MaxAge:
		err = refuse(ReasonTooOld, "issued %v ago, above max_age %v", now.Sub(iat).Round(time.Second), p.MaxAge)
	}
	return iat, exp, err
}

// timeClaim reads a NumericDate in whole seconds.
func timeClaim(claims map[string]any, name string) (time.Time, error) {
	value, present := claims[name]
	if !present {
		return time.Time{}, refuse(ReasonClaimMissing, "%s is missing", name)
	}
	seconds, ok := wholeNumber(value)
	if !ok {
		return time.Time{}, refuse(ReasonClaimType, "%s is not a whole number", name)
	}
	if seconds < 0 || seconds > maxTime {
		return time.Time{}, refuse(ReasonClaimValue, "%s is not between 1970 and 9999", name)
	}
	return time.Unix(seconds, 0), nil
}

// requiredString returns a claim that must be a string and not empty.
func requiredString(claims map[string]any, name string) (string, error) {
	value, present := claims[name]
	if !present {
		return "", refuse(ReasonClaimMissing, "%s is missing", name)
	}
	text, ok := value.(string)
	if !ok {
		return "", refuse(ReasonClaimType, "%s is not a string", name)
	}
	if text == "" {
		return "", refuse(ReasonClaimValue, "%s is empty", name)
	}
	return text, nil
}

// printable reports whether s is free of control and format characters, line
// ends and odd spaces, with which one id could be shown as another.
func printable(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}

// replayID returns what one token is recognized by when it is shown again:
// its jti, or the hash of what was signed. Never of the signature: from one
// ECDSA signature anybody can compute a second one that is valid too.
func replayID(t *token, requireJTI bool) (string, error) {
	if _, present := t.claims["jti"]; !present && !requireJTI {
		sum := sha256.Sum256([]byte(t.signed))
		return "sha256:" + hex.EncodeToString(sum[:]), nil
	}
	jti, err := requiredString(t.claims, "jti")
	if err != nil {
		return "", err
	}
	if len(jti) > maxTokenID || !printable(jti) {
		return "", refuse(ReasonClaimValue, "jti is longer than %d bytes or not printable", maxTokenID)
	}
	return "jti:" + jti, nil
}

// ReadClaims returns the claims of a payload that p declares, by p's names, as
// string, int64, bool or []string. All others are dropped here: no policy can
// see them. Numbers in payload are [encoding/json.Number], as in what
// presets.Example returns. The error is a [*TokenError]: a claim is missing, of
// another type than declared, or contradicts another.
func ReadClaims(p *presets.Preset, payload map[string]any) (map[string]any, error) {
	found := make(map[string]any, len(p.Claims))
	for name, claim := range p.Claims {
		value, present, err := locate(payload, location(name, claim))
		if err != nil {
			return nil, err
		}
		if present {
			found[name] = value
		}
	}
	return declaredClaims(found, p)
}

// locate returns the value at path. What is on the way must be an object, or
// absent or null.
func locate(payload map[string]any, path []string) (value any, present bool, err error) {
	object := payload
	for i, name := range path[:len(path)-1] {
		if object[name] == nil {
			return nil, false, nil
		}
		inner, isObject := object[name].(map[string]any)
		if !isObject {
			return nil, false, refuse(ReasonClaimType, "%s is not an object", strings.Join(path[:i+1], " "))
		}
		object = inner
	}
	value, present = object[path[len(path)-1]]
	return value, present, nil
}

// declaredClaims returns the preset's claims that are present, with the
// declared types; found has them by the preset's names.
func declaredClaims(found map[string]any, p *presets.Preset) (map[string]any, error) {
	declared := make(map[string]any, len(p.Claims))
	for name, claim := range p.Claims {
		value, present := found[name]
		if claim.Optional && value == nil {
			continue
		}
		if !present {
			return nil, refuse(ReasonClaimMissing, "%s is missing", name)
		}
		converted, ok := convert(value, claim.Type)
		if !ok {
			return nil, refuse(ReasonClaimType, "%s is not of type %s", name, claim.Type)
		}
		declared[name] = converted
	}
	if err := checkGroups(declared, p); err != nil {
		return nil, err
	}
	return declared, nil
}

// checkGroups applies MustEqual and OneOf.
func checkGroups(declared map[string]any, p *presets.Preset) error {
	for _, pair := range p.MustEqual {
		one, other := declared[pair[0]], declared[pair[1]]
		if one != nil && other != nil && one != other {
			return refuse(ReasonClaimConflict, "%s and %s differ", pair[0], pair[1])
		}
	}
	for _, group := range p.OneOf {
		present := 0
		for _, name := range group {
			if declared[name] != nil {
				present++
			}
		}
		if present != 1 {
			return refuse(ReasonClaimConflict, "exactly one of %s must be there", strings.Join(group, ", "))
		}
	}
	return nil
}

// checkFacts compares what the issuer's URL and sub say with the claims of the
// same names: the URL is the operator's word, the claims are the token's.
func (r *rules) checkFacts(claims map[string]any, subject string) error {
	if err := r.sameParts("the issuer's url", r.parts, claims); err != nil {
		return err
	}
	if len(r.preset.Subjects) == 0 {
		return nil
	}
	for _, pattern := range r.preset.Subjects {
		if parts, fits := presets.Fit(pattern, subject); fits {
			return r.sameParts("sub", parts, claims)
		}
	}
	return refuse(ReasonClaimValue, "sub is not of the form %s", strings.Join(r.preset.Subjects, " or "))
}

func (r *rules) sameParts(where string, parts map[string]string, claims map[string]any) error {
	for name, part := range parts {
		if _, declared := r.preset.Claims[name]; declared && fact(claims[name]) != part {
			return refuse(ReasonClaimConflict, "%s is not what %s says", name, where)
		}
	}
	return nil
}

// convert returns a value of readJSONObject as the Go type of t. It does not
// cast: the digits "1" are no Int.
func convert(value any, t presets.Type) (any, bool) {
	switch t {
	case presets.String:
		text, ok := value.(string)
		return text, ok
	case presets.Bool:
		truth, ok := value.(bool)
		return truth, ok
	case presets.Int:
		return wholeNumber(value)
	case presets.StringList:
		return stringList(value)
	}
	return nil, false
}

func wholeNumber(value any) (int64, bool) {
	number, ok := value.(json.Number)
	if !ok {
		return 0, false
	}
	whole, err := number.Int64()
	return whole, err == nil
}

func stringList(value any) ([]string, bool) {
	list, ok := value.([]any)
	texts := make([]string, 0, len(list))
	for _, item := range list {
		text, isString := item.(string)
		ok = ok && isString
		texts = append(texts, text)
	}
	return texts, ok
}

// workload picks the facts that leases are found by.
func workload(claims map[string]any, p *presets.Preset) Workload {
	fact := func(name string) string { return fact(claims[name]) }
	return Workload{
		OwnerID: fact(p.OwnerID), Owner: fact(p.Owner),
		ProjectID: fact(p.ProjectID), Project: fact(p.Project),
		Run: fact(p.Run), Attempt: fact(p.Attempt), Job: fact(p.Job),
		Ref: fact(p.Ref), Environment: fact(p.Environment),
		Actor: fact(p.Actor), ActorID: fact(p.ActorID), Trigger: fact(p.Trigger),
	}
}

// fact returns a claim as text, "" for one that is absent.
func fact(value any) string {
	switch value := value.(type) {
	case string:
		return value
	case int64:
		return strconv.FormatInt(value, 10)
	}
	return ""
}
