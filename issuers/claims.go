package issuers

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/brevet-dev/brevet/issuers/presets"
)

// Skew is how far the clocks of issuer and broker may differ: iat and nbf may
// lie that far in the future. Nothing is added to exp.
const Skew = 60 * time.Second

const (
	maxSubject = 1 << 10      // bytes of sub
	maxTokenID = 256          // bytes of jti; GitHub's and GitLab's are UUIDs
	maxTime    = 253402300799 // 9999-12-31T23:59:59Z, the last second of RFC 3339
)

// identify applies the claim rules to t, whose signature was checked, and
// returns who it speaks for. It is as strict as go-oidc or stricter in
// everything that go-oidc checks.
func (is *issuer) identify(t *token, now time.Time) (*Identity, error) {
	id := &Identity{Issuer: is.name, URL: is.url, Preset: is.preset}
	if err := checkAudience(t.claims, is.audience); err != nil {
		return nil, err
	}
	var err error
	if id.IssuedAt, id.Expires, err = checkTimes(t.claims, is.preset, now); err != nil {
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
	if id.Claims, err = declaredClaims(t.claims, is.preset); err != nil {
		return nil, err
	}
	id.Workload = workload(id.Claims, is.preset)
	return id, nil
}

// checkAudience demands that the token is for the broker and nobody else: what
// is shown to several parties, any of them can replay (SPIFFE JWT-SVID, section
// 6.2). Distributed claims (OpenID Connect Core, section 5.6.2) would be
// somebody else's word.
func checkAudience(claims map[string]any, audience string) error {
	aud := claims["aud"]
	if list, ok := aud.([]any); ok && len(list) == 1 {
		aud = list[0]
	}
	if aud != any(audience) {
		return refuse(ReasonAudience, "aud is not exactly the broker's url")
	}
	if azp, present := claims["azp"]; present && azp != any(audience) {
		return refuse(ReasonAudience, "azp names another party")
	}
	for _, name := range []string{"_claim_names", "_claim_sources"} {
		if _, present := claims[name]; present {
			return refuse(ReasonClaimValue, "%s: distributed claims are not allowed", name)
		}
	}
	return nil
}

// checkTimes applies RFC 7519, sections 4.1.4 to 4.1.6, and the preset's limits.
func checkTimes(claims map[string]any, p *presets.Preset, now time.Time) (iat, exp time.Time, err error) {
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
	case iat.After(now.Add(Skew)) || nbf.After(now.Add(Skew)):
		err = refuse(ReasonNotYetValid, "iat or nbf is more than %v ahead; compare the clocks", Skew)
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

// declaredClaims returns the preset's claims that are present, with the
// declared types. All others are dropped here: no policy can see them.
func declaredClaims(claims map[string]any, p *presets.Preset) (map[string]any, error) {
	declared := make(map[string]any, len(p.Claims))
	for name, claim := range p.Claims {
		value, present := claims[name]
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
	for _, pair := range p.MustEqual {
		one, other := declared[pair[0]], declared[pair[1]]
		if one != nil && other != nil && one != other {
			return nil, refuse(ReasonClaimConflict, "%s and %s differ", pair[0], pair[1])
		}
	}
	return declared, nil
}

// convert returns a value of strictjson as the Go type of t. It does not
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
	fact := func(name string) string {
		switch value := claims[name].(type) {
		case string:
			return value
		case int64:
			return strconv.FormatInt(value, 10)
		}
		return ""
	}
	return Workload{
		OwnerID: fact(p.OwnerID), Owner: fact(p.Owner),
		ProjectID: fact(p.ProjectID), Project: fact(p.Project),
		Run: fact(p.Run), Attempt: fact(p.Attempt), Job: fact(p.Job),
		Ref: fact(p.Ref), Environment: fact(p.Environment),
		Actor: fact(p.Actor), ActorID: fact(p.ActorID), Trigger: fact(p.Trigger),
	}
}
