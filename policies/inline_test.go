package policies_test

import (
	"path/filepath"
	"reflect"
	"testing"

	"github.com/brevet-dev/brevet/policies"
)

func TestInlineTests(t *testing.T) {
	const doc = `policy: a
issuer: github
match: {repository_id: "456", attempt: [1, 2]}
names: {repository: acme/shop}
when: claims.ref == "refs/heads/main"
grant:
- {credential: other, ttl: 1m}
- {credential: unlimited, ttl: 1m}
mode: shadow
tests:
- {name: good, claims: {repository_id: "456", attempt: 2, repository: acme/shop, ref: refs/heads/main, event_name: push}, allow: [other, unlimited], deny: [deploy]}
- {name: denied after all, claims: {repository_id: "456", attempt: 3, repository: acme/shop, ref: refs/heads/main, event_name: push}, allow: [other, unlimited]}
- {name: granted after all, claims: {repository_id: "456", attempt: 2, repository: acme/shop, ref: refs/heads/main, event_name: push}, allow: [other], deny: [unlimited]}
- {name: absent, claims: {attempt: 2}, allow: [other]}
- {name: no trigger, claims: {repository_id: "456", attempt: 2, repository: acme/shop, ref: refs/heads/main}, allow: [other]}
- {name: a pull request, claims: {repository_id: "456", attempt: 2, repository: acme/shop, ref: refs/heads/main, event_name: pull_request}, allow: [other]}
- {name: when, claims: {repository_id: "456", attempt: 2, repository: acme/shop, ref: x, event_name: push}, allow: [other]}
- {name: when without ref, claims: {repository_id: "456", attempt: 2, repository: acme/shop, event_name: push}, allow: [other]}
- {name: drift, claims: {repository_id: "456", attempt: 2, repository: acme/old, ref: refs/heads/main, event_name: push}, allow: [other]}
- {name: denied, claims: {}, deny: [other, unlimited]}
unsafe: {reason: a test}
`
	want := []policies.TestResult{
		{Name: "good", Pos: ":11"},
		{Name: "denied after all", Pos: ":12", Message: "other is not granted: claim attempt is 3, match wants 1 or 2; unlimited is not granted: claim attempt is 3, match wants 1 or 2"},
		{Name: "granted after all", Pos: ":13", Message: "unlimited is granted"},
		{Name: "absent", Pos: ":14", Message: `other is not granted: claim repository_id is absent, match wants "456"`},
		{Name: "no trigger", Pos: ":15", Message: "other is not granted: claim event_name is absent, which is granted to only if match names it"},
		{Name: "a pull request", Pos: ":16", Message: `other is not granted: claim event_name is "pull_request", which is granted to only if match names it`},
		{Name: "when", Pos: ":17", Message: "other is not granted: when is false"},
		{Name: "when without ref", Pos: ":18", Message: `other is not granted: when cannot be decided: the token has no claim "ref" of type string`},
		{Name: "drift", Pos: ":19", Message: `other is not granted: claim repository is "acme/old", names wants "acme/shop"`},
		{Name: "denied", Pos: ":20"},
	}
	dir := write(t, doc)
	set, err := policies.Load(dir, options())
	if err != nil {
		t.Fatal(err)
	}
	for i := range want {
		want[i].Policy, want[i].Passed = "a", want[i].Message == ""
		want[i].Pos = filepath.Join(dir, "a.yaml") + want[i].Pos
	}
	got := set.Test()
	for i := range max(len(got), len(want)) {
		if i >= len(got) || i >= len(want) || !reflect.DeepEqual(got[i], want[i]) {
			t.Errorf("Test()[%d] = %+v, want %+v", i, at(got, i), at(want, i))
		}
	}
}

func at(list []policies.TestResult, i int) any {
	if i < len(list) {
		return list[i]
	}
	return "nothing"
}
