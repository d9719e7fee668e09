package policies_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/brevet-dev/brevet/issuers/presets"
	"github.com/brevet-dev/brevet/policies"
	"github.com/brevet-dev/brevet/policies/strictyaml"
)

const shopDoc = `policy: shop
issuer: github
match: {repository_id: "456", ref: refs/heads/main, event_name: push}
when: claims.run_attempt == "1"
grant: [{credential: other, ttl: 1m}]
---
policy: shop-next
issuer: github
match: {repository_id: "456", ref: refs/heads/main, event_name: push}
grant: [{credential: unlimited, ttl: 1m}]
mode: shadow
`

// withTests returns the set of a folder with shopDoc and tests, or why there is none.
func withTests(t testing.TB, tests string) (*policies.Set, error) {
	t.Helper()
	dir := write(t, shopDoc)
	if err := os.WriteFile(filepath.Join(dir, "a_test.yaml"), []byte(tests), 0o600); err != nil {
		t.Fatal(err)
	}
	return policies.Load(dir, known())
}

func TestFilesOfTests(t *testing.T) {
	set, err := withTests(t, `tests: shop
cases:
- {name: main, fixture: main, allow: [other], deny: [deploy]}
- {name: a rerun, fixture: main, with: {run_attempt: "2"}, allow: [other]}
- {name: a shadow, policy: shop-next, fixture: main, allow: [unlimited]}
- {name: not its own, policy: shop-next, fixture: main, allow: [other]}
- {name: granted, fixture: main, deny: [other]}
---
tests:
- {name: by issuer, issuer: github, fixture: other, allow: [other]}
- {name: by claims, issuer: github, claims: {repository_id: "456"}, deny: [other]}
- {name: without, policy: shop, fixture: main, without: [run_attempt], allow: [other]}
`)
	if err != nil {
		t.Fatal(err)
	}
	want := []struct{ policy, name, line, message string }{
		{"shop", "main", "3", ""},
		{"shop", "a rerun", "4", `other is not granted: policy shop: when is false`},
		{"shop-next", "a shadow", "5", "unlimited is not granted: policy shop-next is in mode shadow"},
		{"shop-next", "not its own", "6", ""},
		{"shop", "granted", "7", "other is granted"},
		{"", "by issuer", "10", "other is not granted: no policy for this project or owner has a grant for it"},
		{"", "by claims", "11", ""},
		{"shop", "without", "12", `other is not granted: policy shop: when cannot be decided: the token has no claim "run_attempt" of type string`},
	}
	got := set.Test()
	if len(got) != len(want) {
		t.Fatalf("%d results, want %d: %+v", len(got), len(want), got)
	}
	for i, w := range want {
		g := got[i]
		if g.Policy != w.policy || g.Name != w.name || g.Message != w.message || g.Passed != (w.message == "") || !strings.HasSuffix(g.Pos, "a_test.yaml:"+w.line) {
			t.Errorf("result %d = %+v, want %+v", i, g, w)
		}
	}
}

// A test fails with the parts of a condition that did not hold.
func TestFailedConditionInATest(t *testing.T) {
	set := mustLoad(t, `policy: a
issuer: github
match: {repository_id: "456", ref: refs/heads/main, event_name: push}
when: claims.attempt > 1 && claims.ref == "refs/heads/main"
grant: [{credential: other, ttl: 1m}]
tests:
- {name: main, claims: {repository_id: "456", ref: refs/heads/main, event_name: push, attempt: 1}, allow: [other]}
`)
	const want = "other is not granted: when is false: claims.attempt > 1 (attempt is 1)"
	if got := set.Test()[0].Message; got != want {
		t.Errorf("message %q, want %q", got, want)
	}
}

func TestBadFilesOfTests(t *testing.T) {
	tests := []struct{ name, doc, want string }{
		{"nothing", "tests: shop\n", "1:1: there are no tests: tests is the name of a policy, with its cases, or a list of tests"},
		{"an unknown policy", "tests: shpo\ncases: [{name: a, fixture: main, deny: [other]}]\n", `1:8: there is no policy "shpo"; did you mean "shop"?`},
		{"an unknown policy of one", "tests: [{policy: x, name: a, fixture: main, deny: [other]}]\n", `1:18: there is no policy "x"`},
		{"about nothing", "tests: [{name: a, fixture: main, deny: [other]}]\n", "1:9: the test is about nothing; name a policy, or the issuer of the token"},
		{"an unknown issuer", "tests: [{issuer: githib, name: a, fixture: main, deny: [other]}]\n", `1:18: issuer "githib" is not configured; did you mean "github"?`},
		{"another issuer", "tests: [{policy: shop, issuer: gitlab, name: a, fixture: main, deny: [other]}]\n", `1:32: policy shop is for issuer "github"; leave issuer out`},
		{"an unknown fixture", "tests: [{policy: shop, name: a, fixture: mian, deny: [other]}]\n", `preset github has no fixture "mian"; did you mean "main"?`},
		{"both", "tests: [{policy: shop, name: a, fixture: main, claims: {ref: x}, deny: [other]}]\n", "give claims or a fixture; with changes claims of a fixture"},
		{"with without fixture", "tests: [{policy: shop, name: a, claims: {ref: x}, with: {ref: y}, deny: [other]}]\n", "with changes a fixture, and there is none"},
		{"an unknown claim", "tests: [{policy: shop, name: a, fixture: main, with: {rfe: y}, deny: [other]}]\n", `tokens of issuer "github" have no claim "rfe"; did you mean "ref"?`},
		{"a wrong type", "tests: [{policy: shop, name: a, fixture: main, with: {run_id: 7}, deny: [other]}]\n", `is a string in these tokens; quote it: "7"`},
		{"an unknown claim to remove", "tests: [{policy: shop, name: a, fixture: main, without: [rfe], deny: [other]}]\n", `have no claim "rfe"; did you mean "ref"?`},
		{"changed and removed", "tests: [{policy: shop, name: a, fixture: main, with: {ref: x}, without: [ref], deny: [other]}]\n", `"ref" is in with and in without`},
		{"an unknown credential", "tests: [{policy: shop, name: a, fixture: main, deny: [othr]}]\n", `credential "othr" is not configured; did you mean "other"?`},
		{"allowed and denied", "tests: [{policy: shop, name: a, fixture: main, allow: [other], deny: [other]}]\n", `"other" is in allow and in deny`},
		{"no name, nothing expected", "tests: [{policy: shop, fixture: main}]\n", "the test has no name"},
		{"an unknown key", "tests: shop\ncases: [{nmae: a, name: a, fixture: main, deny: [other]}]\n", `unknown field "nmae"; did you mean "name"?`},
		{"not YAML", "tests: [", ""},
		{"a policy", shopDoc, `unknown field "policy"`},
	}
	for _, tt := range tests {
		set, err := withTests(t, tt.doc)
		var problems strictyaml.Problems
		if set != nil || !errors.As(err, &problems) {
			t.Errorf("%s: Load = %v, %v, want a strictyaml.Problems", tt.name, set, err)
			continue
		}
		if !strings.Contains(err.Error(), tt.want) || !strings.Contains(problems[0].File, "a_test.yaml") {
			t.Errorf("%s: %v, want %s", tt.name, err, tt.want)
		}
	}
}

// Every example token of every platform has only values that its preset knows
// how to read, so that a test can start from it.
func TestFixtures(t *testing.T) {
	for name, p := range presets.Known() {
		for _, fixture := range policies.Fixtures(p) {
			if claims, err := policies.Fixture(p, fixture); err != nil || len(p.Claims) > 0 && len(claims) == 0 {
				t.Errorf("fixture %s of %s: %v, %v", fixture, name, claims, err)
			}
		}
	}
	if _, err := policies.Fixture(presets.Known()["github"], "nothing"); err == nil {
		t.Error("a fixture that there is not was read")
	}
}

// FuzzTests reads files of tests that strangers wrote: they are refused, or run.
func FuzzTests(f *testing.F) {
	for _, file := range []string{"testdata/explain/payments/till_test.yaml", "testdata/explain/shop.yaml"} {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(data))
	}
	f.Add("tests: shop\ncases: [{name: a, fixture: main, with: {ref: x}, without: [environment], allow: [other], deny: [deploy]}]\n")
	f.Add("tests: [{issuer: github, name: a, claims: {ref: null}, deny: [other]}]\n---\ntests: shop\ncases: []\n")
	f.Fuzz(func(t *testing.T, doc string) {
		set, err := withTests(t, doc)
		if (set == nil) != (err != nil) {
			t.Fatalf("Load = %v, %v", set, err)
		}
		if err != nil {
			return
		}
		for _, r := range set.Test() {
			if r.Passed != (r.Message == "") || r.Name == "" {
				t.Errorf("%+v", r)
			}
		}
		if c := set.Coverage(); c.Seen > c.Ways {
			t.Errorf("%d of %d ways seen", c.Seen, c.Ways)
		}
	})
}

// A tenant's tests are about its own policies: one that named another tenant's
// would stop every load once that one is removed.
func TestTenantsTestTheirOwn(t *testing.T) {
	policy := func(name string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(named(shopPolicy, name))} }
	for _, tt := range []struct{ file, name, want string }{
		{"a/x_test.yaml", "shop", ""},
		{"a/x_test.yaml", "a/shop", ""},
		{"a/deep/x_test.yaml", "shop", ""},
		{"x_test.yaml", "b/other", ""},
		{"x_test.yaml", "root", ""},
		{"a/x_test.yaml", "b/other", "policy b/other is none of tenant a"},
		{"a/deep/x_test.yaml", "b/other", "policy b/other is none of tenant a"},
		{"a/x_test.yaml", "root", "policy root is none of tenant a"},
		{"a/x_test.yaml", "shpo", `there is no policy "shpo"; did you mean "shop"?`},
		{"a/x_test.yaml", "b/othr", `there is no policy "b/othr"`},
	} {
		files := fstest.MapFS{"root.yaml": policy("root"), "a/shop.yaml": policy("shop"), "b/other.yaml": policy("other")}
		files[tt.file] = &fstest.MapFile{Data: []byte("tests: " + tt.name + "\ncases: [{name: x, fixture: main, deny: [deploy]}]\n")}
		_, err := policies.LoadFS(files, "tenants", known())
		if got := fmt.Sprint(err); (tt.want == "") != (err == nil) || !strings.Contains(got, tt.want) || strings.Contains(got, "did you mean \"b/other") {
			t.Errorf("%s names %s: %v, want %q", tt.file, tt.name, err, tt.want)
		}
	}
}

// named gives a document another name.
func named(doc, name string) string {
	_, rest, _ := strings.Cut(doc, "\n")
	return "policy: " + name + "\n" + rest
}
