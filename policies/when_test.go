package policies_test

import (
	"slices"
	"strings"
	"testing"
)

func withWhen(when string) string {
	lines := strings.ReplaceAll(when, "\n", "\n  ")
	return document("a", shop, "{credential: other, ttl: 1m}", "when: |-\n  "+lines)
}

func TestWhen(t *testing.T) {
	tests := []struct {
		when string
		want bool
	}{
		{`claims.ref == "refs/heads/main"`, true},
		{`claims.ref == "refs/heads/dev"`, false},
		{`claims.ref != "refs/heads/dev"`, true},
		{`claims.attempt == 1 && claims.attempt < 2 && claims.attempt >= 1`, true},
		{`!claims.fork`, true},
		{`claims.fork`, false},
		{`claims.event_name in ["push", "schedule"]`, true},
		{`"build" in claims.groups`, true},
		{`"deploy" in claims.groups`, false},
		{`size(claims.groups) == 1`, true},
		{`claims.ref.startsWith("refs/heads/") && claims.ref.endsWith("main") && claims.ref.contains("ads")`, true},
		{`claims.ref.matches("^refs/heads/[a-z]+$")`, true},
		{`claims.ref.matches("^refs/heads/[a-l]+$")`, false},
		{`claims.fork ? claims.ref == "x" : claims.ref == "refs/heads/main"`, true},
		{`claims.repository_id == "456" || claims.repository_id == "457"`, true},
		{`(claims.environment in ["production"])`, true},
	}
	for _, tt := range tests {
		t.Run(tt.when, func(t *testing.T) {
			_, err := mustLoad(t, withWhen(tt.when)).Decide(github(nil), "other")
			if got := err == nil; got != tt.want {
				t.Errorf("Decide = %v, want granted: %v", err, tt.want)
			}
		})
	}
}

// An absent claim must not make a condition true, however it is turned around.
func TestWhenAbsentClaim(t *testing.T) {
	id := github(map[string]any{"environment": nil, "groups": nil})
	tests := []struct {
		when string
		want bool
	}{
		{`claims.environment == "production"`, false},
		{`claims.environment in ["production"]`, false},
		{`size(claims.groups) == 0`, false},
		{`size(claims.environment) == 0`, false},
		{`claims.environment == "dev" || claims.ref == "x"`, false},
		{`claims.environment == "dev" || claims.ref == "refs/heads/main"`, true}, // by the other half
	}
	for _, tt := range tests {
		t.Run(tt.when, func(t *testing.T) {
			_, err := mustLoad(t, withWhen(tt.when)).Decide(id, "other")
			if got := err == nil; got != tt.want {
				t.Errorf("Decide = %v, want granted: %v", err, tt.want)
			}
		})
	}
}

// The document has the condition from line 6 on, indented by 2.
func TestWhenProblems(t *testing.T) {
	tests := []struct {
		when string
		want []string
	}{
		{`ref == "refs/heads/main"`, []string{"6:3: undeclared reference to 'ref'; write claims.ref"}},
		{`claims.sub == "x"`, []string{"6:9: undefined field 'sub' for policies; write what it is made of, such as repository_id"}},
		{`claims.fork and claims.ref == "x"`, []string{"6:15: Syntax error: mismatched input 'and' expecting <EOF>; and is written &&"}},
		{`claims.fork or claims.ref == "x"`, []string{"6:15: Syntax error: mismatched input 'or' expecting <EOF>; or is written ||"}},
		{`claims.reff == "x"`, []string{`6:9: undefined field 'reff'; did you mean "ref"?`}},
		{"claims.fork &&\n  claims.attempt == \"1\" &&\n  foo", []string{
			"7:20: found no matching overload for '_==_' applied to '(int, string)'; both sides must have the same type",
			"8:5: undeclared reference to 'foo'",
		}},
		{`claims.repository_id == 456`, []string{"6:24: found no matching overload for '_==_' applied to '(string, int)'; both sides must have the same type"}},
		{`claims.ref in ["a", 1]`, []string{"6:23: expected type 'string' but found 'int'"}},
		{`claims.ref`, []string{"6:3: the condition must be true or false; this gives string"}},
		{`1 == 1`, []string{"6:3: the condition does not look at any claim"}},
		{`claims == claims`, []string{"6:3: the condition does not look at any claim"}},
		{`claims == claims && claims.fork`, []string{"6:3: write which claim: claims.ref", "6:13: write which claim: claims.ref"}},
		{`claims.fork || true`, []string{"6:18: true and false decide here whatever the token says; remove them"}},
		{`claims.fork ? claims.ref == "x" : true`, []string{"6:37: true and false decide here whatever the token says; remove them"}},
		{`{"a": claims.ref}.a == "x"`, []string{"6:3: a condition compares claims with values; it makes no objects"}},
		{`brevet.Claims{ref: "x"}.ref == claims.ref`, []string{"6:16: a condition compares claims with values; it makes no objects"}},
		{`(claims.environment == "dev") == false`, []string{"6:23: a condition is no value to compare or to look for; join conditions with &&, || and !"}},
		{`(claims.environment == "dev") in [false]`, []string{"6:23: a condition is no value to compare or to look for; join conditions with &&, || and !"}},
		{`false in [claims.environment == "dev"]`, []string{"6:32: a condition is no value to compare or to look for; join conditions with &&, || and !"}},
		{`claims.environment == "dev" ? claims.fork : claims.ref == "x"`, []string{`6:31: claim "environment" may be absent, and then this is an error, not true; say which values are allowed instead`}},
		{`!(claims.fork && (claims.ref == "a" || claims.environment == "b"))`, []string{`6:3: claim "environment" may be absent, and then this is an error, not true; say which values are allowed instead`}},
		{`claims.environment != "dev"`, []string{`6:22: claim "environment" may be absent, and then this is an error, not true; say which values are allowed instead`}},
		{`claims.fork && !(claims.environment in ["dev"])`, []string{`6:18: claim "environment" may be absent, and then this is an error, not true; say which values are allowed instead`}},
		{`has(claims.environment)`, []string{"6:6: undeclared reference to 'has'"}},
		{`dyn(claims.ref) == 1`, []string{"6:6: undeclared reference to 'dyn'"}},
		{`claims.ref < "b"`, []string{"6:14: found no matching overload for '_<_' applied to '(string, string)'"}},
		{`claims.ref.matches("main")`, []string{"6:21: the pattern of matches must match the whole claim; write ^(?:…)$"}},
		{`claims.ref.matches("main$")`, []string{"6:21: the pattern of matches must match the whole claim; write ^(?:…)$"}},
		{`claims.ref.matches("^main")`, []string{"6:21: the pattern of matches must match the whole claim; write ^(?:…)$"}},
		{`claims.ref.matches("^a|b$")`, []string{"6:21: the pattern of matches must match the whole claim; write ^(?:…)$"}},
		{`claims.ref.matches("(?m)^a$")`, []string{"6:21: the pattern of matches must match the whole claim; write ^(?:…)$"}},
		{`claims.ref.matches(claims.repository)`, []string{"6:21: the pattern of matches must be a string, written out"}},
		{`claims.ref.matches("(")`, []string{"6:21: error parsing regexp: missing closing ): `(`"}},
	}
	for _, tt := range tests {
		t.Run(tt.when, func(t *testing.T) {
			var want []string
			for _, w := range tt.want {
				want = append(want, "a.yaml:"+w)
			}
			if got := messages(t, withWhen(tt.when)); !slices.Equal(got, want) {
				t.Errorf("Load:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
		})
	}
}

func TestEmptyWhen(t *testing.T) {
	doc := document("a", shop, "{credential: other, ttl: 1m}", `when: " "`)
	want := []string{"a.yaml:5:8: the condition is empty; remove it if there is none"}
	if got := messages(t, doc); !slices.Equal(got, want) {
		t.Errorf("Load = %q, want %q", got, want)
	}
}
