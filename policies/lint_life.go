package policies

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// expiredID is the one rule that is for policies that have expired, too.
const expiredID = "L034"

// lifeRules are about how long a policy and its leases live, and its tests.
func lifeRules() []Rule {
	return []Rule{
		{"L012", "long-ttl", SeverityWarning, "A lease lives for longer than an hour. What leaks is of use for as long.", (*linter).longTTL},
		{"L015", "no-expiry", SeverityInfo, "The policy has no end: it grants for as long as nobody thinks of it.", (*linter).noExpiry},
		{"L016", "no-allow-test", SeverityWarning, "No test says whom the policy is for: a change that breaks it is not noticed.", (*linter).noAllowTest},
		{"L026", "unsafe-in-force", SeverityWarning, "The policy says unsafe: it lacks what its issuer's preset asks for.", (*linter).unsafeInForce},
		{expiredID, "expired", SeverityWarning, "The policy has expired: it grants nothing any more.", (*linter).isExpired},
		{"L035", "no-deny-test", SeverityWarning, "No test says whom the policy is not for: a change that opens it is not noticed.", (*linter).noDenyTest},
	}
}

// longTTL is what a lease may live without a remark.
const longTTL = time.Hour

func (l *linter) longTTL() {
	for i, g := range l.p.grants {
		if l.set.credentials[g.Credential].DataKey || l.set.credentials[g.Credential].MinTTL > longTTL || g.MaxTTL <= longTTL {
			continue
		}
		var edits []Edit
		place := l.at("grant", i)
		for _, f := range []struct {
			name string
			d    time.Duration
		}{{"ttl", g.TTL}, {"max_ttl", g.MaxTTL}} {
			if f.d > longTTL && (f.name == "ttl" || g.MaxTTL != g.TTL || l.p.written.doc.Has([]any{"grant", i, f.name})) {
				edits = append(edits, l.field(f.name+": "+short(longTTL), "", "grant", i, f.name))
				place = l.at("grant", i, f.name)
			}
		}
		l.find(place, l.usual, edits, "leases of %q live for up to %s; so does what leaks", g.Credential, short(g.MaxTTL))
	}
}

func (l *linter) noExpiry() {
	if l.p.expires.IsZero() && l.usual != nil {
		end := time.Now().UTC().AddDate(1, 0, 0).Format(time.DateOnly)
		l.find(l.at("policy"), l.usual, []Edit{l.field("expires: "+end, "at the latest when someone looks at it again", "expires")}, "the policy has no end")
	}
}

func (l *linter) isExpired() {
	if !l.p.expired() {
		return
	}
	kept := *l.p
	kept.expires = time.Time{}
	token, _ := kept.witness()
	l.find(l.at("expires"), token, l.whole("it grants nothing"), "the policy has expired at %s", l.p.expires.Format(time.RFC3339))
}

func (l *linter) unsafeInForce() {
	if l.p.unsafe == "" {
		return
	}
	edits := []Edit{}
	for _, pin := range l.p.lacks() {
		for _, e := range l.pass(pin.AnyOf[0]) {
			if e.Action != "remove" {
				edits = append(edits, e)
			}
		}
	}
	l.find(l.at("unsafe"), l.usual, append(edits, l.without("unsafe")), "the policy is unsafe: %s", l.p.unsafe)
}

// expectations returns which tests there are of the policy.
func (l *linter) expectations() (allows, denies bool) {
	for _, t := range l.p.tests {
		allows, denies = allows || len(t.allow) > 0, denies || len(t.deny) > 0
	}
	for _, t := range l.set.cases {
		if t.policy == l.p {
			allows, denies = allows || len(t.allow) > 0, denies || len(t.deny) > 0
		}
	}
	return allows, denies
}

func (l *linter) noAllowTest() {
	allows, denies := l.expectations()
	if allows || l.usual == nil {
		return
	}
	tests := []string{l.testText("whom it is for", l.usual, "allow")}
	if claims := l.nearMiss(); !denies && claims != nil {
		tests = append(tests, l.testText("whom it is not for", claims, "deny"))
	}
	l.find(l.at("policy"), l.usual, l.testEdit(tests, 0), "the policy has no test that allows")
}

func (l *linter) noDenyTest() {
	allows, denies := l.expectations()
	if denies || l.usual == nil {
		return
	}
	claims := l.nearMiss()
	if claims == nil {
		return
	}
	tests := []string{l.testText("whom it is not for", claims, "deny")}
	if !allows {
		tests = slices.Insert(tests, 0, l.testText("whom it is for", l.usual, "allow"))
	}
	l.find(l.at("policy"), claims, l.testEdit(tests, len(tests)-1), "the policy has no test that denies")
}

// nearMiss returns a token that differs in one claim only from one that is
// granted to, and is refused: of a stranger's run, if there is such a thing.
func (l *linter) nearMiss() map[string]any {
	for _, r := range l.p.risks {
		claims := maps.Clone(l.usual)
		if claims[r.claim], _ = meet(&r.condition); !l.p.gives(claims) && hasType(claims[r.claim], l.p.preset.Claims[r.claim].Type) {
			return claims
		}
	}
	for _, c := range l.p.match {
		claims := maps.Clone(l.usual)
		if claims[c.claim] = l.other(c.claim); !l.p.gives(claims) {
			return claims
		}
	}
	return nil
}

// testEdit adds tests, of which the finding asks for one. If the document has
// none, it is all of them: two keys called tests would not load.
func (l *linter) testEdit(tests []string, own int) []Edit {
	if l.p.written.doc.Has([]any{"tests"}) {
		return []Edit{l.field("- "+tests[own], "", "tests", len(l.p.written.in.Tests))}
	}
	note := ""
	if len(tests) > 1 {
		note = "once: L016 and L035 say the same"
	}
	return []Edit{l.field("tests: ["+strings.Join(tests, ", ")+"]", note, "tests")}
}

// testText writes a test with these claims.
func (l *linter) testText(name string, claims map[string]any, field string) string {
	var credentials []string
	for _, g := range l.p.grants {
		credentials = append(credentials, g.Credential)
	}
	if short := l.short(claims); l.p.gives(short) == l.p.gives(claims) {
		claims = short
	}
	return fmt.Sprintf("{name: %s, claims: %s, %s: %s}", name, yamlValue(claims), field, yamlValue(credentials))
}

// short returns those of the claims that the policy looks at.
func (l *linter) short(claims map[string]any) map[string]any {
	short := map[string]any{}
	for _, name := range l.telling(claims) {
		short[name] = claims[name]
	}
	for _, r := range l.p.risks {
		if v, ok := claims[r.claim]; ok {
			short[r.claim] = v
		}
	}
	return short
}
