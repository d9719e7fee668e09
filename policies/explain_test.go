package policies_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/brevet-dev/brevet/issuers"
	"github.com/brevet-dev/brevet/issuers/presets"
	"github.com/brevet-dev/brevet/policies"
)

// known is options with the presets that brevet brings along.
func known() policies.Options {
	o := options()
	o.Issuers = map[string]*presets.Preset{"github": presets.Known()["github"], "gitlab": presets.Known()["gitlab"]}
	return o
}

func explained(t testing.TB) *policies.Set {
	t.Helper()
	set, err := policies.Load("testdata/explain", known())
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// played is the identity of a fixture with changes; nil removes a claim.
func played(t testing.TB, fixture string, changes map[string]any) *issuers.Identity {
	t.Helper()
	claims, err := policies.Fixture(presets.Known()["github"], fixture)
	if err != nil {
		t.Fatal(err)
	}
	for name, v := range changes {
		claims[name] = v
		if v == nil {
			delete(claims, name)
		}
	}
	return &issuers.Identity{Issuer: "github", Claims: claims}
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != string(want) {
		t.Errorf("%s is not what it was; with -update it is written anew, then read what changed. Got:\n%s", file, got)
	}
}

func TestExplain(t *testing.T) {
	set := explained(t)
	tests := []struct {
		name, fixture string
		changes       map[string]any
		credential    string
	}{
		{"granted", "deploy", nil, "other"},
		{"pull-request", "pull_request", nil, ""},
		{"renamed", "deploy", map[string]any{"repository": "acme/market"}, "other"},
		{"self-hosted", "self_hosted", nil, "unlimited"},
		{"condition", "deploy", map[string]any{"run_attempt": "2", "actor_id": nil}, "other"},
		{"stranger", "deploy", map[string]any{"repository_id": "1"}, "other"},
		{"another-owner", "deploy", map[string]any{"repository_id": "1", "repository_owner_id": "9"}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			id := played(t, tt.fixture, tt.changes)
			var got []byte
			synctest.Test(t, func(t *testing.T) { // it is midnight, 2000-01-01
				var err error
				if got, err = json.MarshalIndent(set.Explain(id, tt.credential), "", " "); err != nil {
					t.Fatal(err)
				}
			})
			golden(t, "explain/"+tt.name+".golden", append(got, '\n'))
		})
	}
}

func TestNothingToExplain(t *testing.T) {
	var none *policies.Set
	if e := none.Explain(github(nil), ""); len(e.Answers)+len(e.Verdicts) > 0 {
		t.Errorf("Explain of no policies = %+v", e)
	}
	if c := none.Coverage(); c.Ways != 0 || c.Unseen == nil {
		t.Errorf("Coverage of no policies = %+v", c)
	}
}

// An explanation that says something else than the decision would be worse
// than none.
func TestExplanationAgreesWithTheDecision(t *testing.T) {
	set := explained(t)
	random := rand.New(rand.NewPCG(1, 2))
	values := map[string][]any{
		"repository_id": {"456", "999", nil}, "repository_owner_id": {"123", "9"}, "repository": {"acme/shop", "acme/x"},
		"ref": {"refs/heads/main", "refs/heads/release/1", nil}, "environment": {"production", "staging", nil},
		"event_name": {"push", "pull_request", nil}, "run_attempt": {"1", "2", nil}, "actor_id": {"789", nil},
		"repository_visibility": {"internal", "public", nil}, "runner_environment": {"github-hosted", "self-hosted", nil},
	}
	granted := 0
	for range 3000 {
		changes := map[string]any{}
		for _, name := range slices.Sorted(maps.Keys(values)) {
			if random.IntN(3) == 0 {
				changes[name] = values[name][random.IntN(len(values[name]))]
			}
		}
		id := played(t, "deploy", changes)
		for _, credential := range []string{"other", "unlimited"} {
			_, err := set.Decide(id, credential)
			e := set.Explain(id, credential)
			holds := slices.ContainsFunc(e.Verdicts, func(v policies.Verdict) bool { return v.Holds && !v.Shadow })
			if holds != (err == nil) || e.Answers[0].Granted != (err == nil) || (e.Nearest == "") != (err == nil) {
				t.Fatalf("%v: Decide = %v, Explain = %+v", changes, err, e)
			}
			if err == nil {
				granted++
			}
		}
	}
	if granted < 100 {
		t.Errorf("only %d were granted: the tokens test little", granted)
	}
}

// Every change of a policy that an explanation proposes makes the part hold
// that it is for.
func TestChangesMakePartsHold(t *testing.T) {
	const doc = `policy: a
issuer: github
match:
  repository_id: "456"
  ref: {glob: "refs/heads/release/*"}
  environment: [production, staging]
  event_name: push
  attempt: 1
  fork: false
  groups: {contains: build}
names:
  repository: acme/shop
grant:
- {credential: readable, ttl: 1m}
`
	o := options()
	o.Credentials["readable"] = policies.Credential{Read: true}
	id := github(map[string]any{
		"ref": `refs/heads/o"dd`, "environment": "test", "event_name": "pull_request", "attempt": int64(2), "fork": true,
		"groups": []string{"others"}, "repository": "acme/new: {x}",
	})
	lines := strings.Split(doc, "\n")
	load := func() *policies.Set {
		set, err := policies.Load(write(t, strings.Join(lines, "\n")), o)
		if err != nil {
			t.Fatal(err)
		}
		return set
	}
	before := load().Explain(id, "readable").Verdicts[0]
	for _, c := range before.Changes {
		if c.YAML == "" {
			t.Errorf("%s: no change proposed: %+v", c.Path, c)
			continue
		}
		var line int
		fmt.Sscan(c.Place[strings.LastIndexByte(c.Place, ':')+1:], &line)
		lines[line-1] = "  " + c.YAML
	}
	set := load()
	if after := set.Explain(id, "readable").Verdicts[0]; !after.Holds || len(before.Changes) != 7 {
		t.Errorf("after the changes %+v: %+v", before.Changes, after)
	}
	if _, err := set.Decide(id, "readable"); err != nil {
		t.Error(err)
	}
}

// What match would not take as a value is not proposed.
func TestNoChangeToWhatLooksLikeAPattern(t *testing.T) {
	set := explained(t)
	for _, ref := range []any{"refs/heads/*", "refs/heads/a|b", `refs/heads/\d`, "", nil} {
		for _, c := range set.Explain(played(t, "deploy", map[string]any{"ref": ref}), "other").Verdicts[0].Changes {
			if c.Path == "match.ref" && (c.YAML != "" || c.Token == "") {
				t.Errorf("ref %q: proposed %+v", ref, c)
			}
		}
	}
}

func TestConditionInParts(t *testing.T) {
	const doc = `policy: a
issuer: github
match: {repository_id: "456", ref: refs/heads/main, event_name: push}
when: |
  claims.run_attempt == "1" && claims.attempt > 0
  && (claims.environment == "production"
  || claims.ref.startsWith("refs/tags/"))
grant:
- {credential: other, ttl: 1m}
`
	set := mustLoad(t, doc)
	tests := []struct {
		name    string
		changes map[string]any
		want    string
	}{
		{"all hold", nil, `true 5:true 5:true 6:true(6:true 7:false)`},
		{"the first stops", map[string]any{"run_attempt": "2"}, `false 5:false 5:true 6:true(6:true 7:false)`},
		{"absent", map[string]any{"environment": nil}, `false 5:true 5:true 6:false(6:false 7:false)`},
		{"nothing", map[string]any{"environment": nil, "run_attempt": nil, "attempt": nil}, `false 5:false 5:false 6:false(6:false 7:false)`},
	}
	for _, tt := range tests {
		parts := set.Explain(github(tt.changes), "other").Verdicts[0].Parts
		i := slices.IndexFunc(parts, func(p policies.Part) bool { return p.Kind == policies.PartWhen })
		when := parts[i]
		got := fmt.Sprint(when.Holds)
		for _, p := range when.Parts {
			got += " " + brief(p)
		}
		if got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
}

func brief(p policies.Part) string {
	s := fmt.Sprintf("%s:%v", p.Place[strings.LastIndexByte(p.Place, ':')+1:], p.Holds)
	if len(p.Parts) == 0 {
		return s
	}
	var list []string
	for _, sub := range p.Parts {
		list = append(list, brief(sub))
	}
	return s + "(" + strings.Join(list, " ") + ")"
}

// Of thousands of policies for other projects a few are shown.
func TestNearestOfMany(t *testing.T) {
	var docs []string
	for i := range 20 {
		docs = append(docs, fmt.Sprintf("policy: p%d\nissuer: github\nmatch: {repository_id: \"%d\", ref: r%d, event_name: push}\ngrant: [{credential: other, ttl: 1m}]\n", i, i, i))
	}
	e := mustLoad(t, docs...).Explain(github(map[string]any{"ref": "r7"}), "other")
	if len(e.Verdicts) != 3 || e.Nearest != "p7" || e.Verdicts[0].Candidate || e.Verdicts[0].Failed != 1 {
		t.Errorf("Explain = %+v", e)
	}
}

func TestClaims(t *testing.T) {
	p := &presets.Preset{Claims: map[string]presets.Claim{
		"id":     {Type: presets.String},
		"n":      {Type: presets.Int},
		"groups": {Type: presets.StringList},
		"pod":    {Type: presets.String, Path: []string{"kubernetes.io", "pod"}},
	}}
	tests := []struct{ in, want string }{
		{`{"id": "1", "n": 2, "groups": ["a"], "kubernetes.io": {"pod": "x"}, "more": 1}`, `map[groups:[a] id:1 n:2 pod:x] [more]`},
		{`{"id": null}`, `map[] []`},
		{`{"pod": "not where tokens have it"}`, `map[] [pod]`},
		{`{"id": 1}`, `reading claims: claim id must be a string`},
		{`{"id": true, "n": "2", "groups": [1]}`, `reading claims: claim groups must be a list of strings, claim id must be a string and claim n must be a whole number without quotes`},
		{`{"n": 1.5}`, `reading claims: claim n must be a whole number without quotes`},
		{`{"kubernetes.io": "x"}`, `map[] []`},
	}
	if claims, _, err := policies.NamedClaims(p, map[string]any{"pod": "x"}); err != nil || claims["pod"] != "x" {
		t.Errorf("NamedClaims = %v, %v", claims, err)
	}
	for _, tt := range tests {
		d := json.NewDecoder(strings.NewReader(tt.in))
		d.UseNumber()
		var raw map[string]any
		if err := d.Decode(&raw); err != nil {
			t.Fatal(err)
		}
		claims, others, err := policies.Claims(p, raw)
		got := fmt.Sprint(claims, " ", others)
		if err != nil {
			got = err.Error()
		}
		if got != tt.want {
			t.Errorf("Claims(%s) = %s, want %s", tt.in, got, tt.want)
		}
	}
}
