package policies_test

import (
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/brevet-dev/brevet/policies"
)

const shopPolicy = "policy: shop\nissuer: github\nmatch: " + shop + "\ngrant: [{credential: other, ttl: 1m}]\n"

// folder loads files by name: their text is joined to documents by ---.
func folder(t testing.TB, files map[string][]string) (*policies.Set, error) {
	t.Helper()
	dir := t.TempDir()
	for name, docs := range files {
		put(t, dir, name, strings.Join(docs, "---\n"))
	}
	set, err := policies.Load(dir, options())
	if err != nil {
		err = errors.New(strings.ReplaceAll(err.Error(), dir+string(filepath.Separator), ""))
	}
	return set, err
}

func mustFolder(t testing.TB, files map[string][]string) *policies.Set {
	t.Helper()
	set, err := folder(t, files)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func TestTenants(t *testing.T) {
	set := mustFolder(t, map[string][]string{
		"a.yaml":          {shopPolicy},
		"acme/eu/a.yaml":  {shopPolicy},
		"payments/a.yaml": {strings.Replace(shopPolicy, "ttl: 1m", "ttl: 2m", 1)},
	})
	d, err := set.Decide(github(nil), "other")
	if err != nil || d.Grant.Policy != "payments/shop" {
		t.Errorf("Decide = %+v, %v, want the grant of payments/shop, which is the longest", d.Grant, err)
	}
	if set.Len() != 3 {
		t.Errorf("Len() = %d, want 3", set.Len())
	}
}

// What a guardrail denies is denied to the policies in its scope, wherever it
// stands and however they are found.
func TestDeny(t *testing.T) {
	const rail = "guardrails: %s\nissuer: github\ndeny: [{reason: not on Sundays, match: {event_name: push, repository: acme/shop}}]\n"
	policy := func(match string) string { return strings.Replace(shopPolicy, shop, match, 1) }
	unpinned := strings.Replace(policy(`{repository: acme/shop}`), "grant:", unsafe+"\ngrant:", 1)
	byOwner := strings.Replace(policy(acme), "grant:", unsafe+"\ngrant:", 1)
	tests := []struct {
		name   string
		files  map[string][]string
		change map[string]any
		denied bool
	}{
		{"none", map[string][]string{"a.yaml": {shopPolicy}}, nil, false},
		{"before the policy", map[string][]string{"a.yaml": {rail, shopPolicy}}, nil, true},
		{"behind the policy", map[string][]string{"a.yaml": {shopPolicy, rail}}, nil, true},
		{"in a later file of the root", map[string][]string{"a/a.yaml": {shopPolicy}, "z.yaml": {rail}}, nil, true},
		{"found by its owner", map[string][]string{"a.yaml": {byOwner, rail}}, nil, true},
		{"found by its issuer", map[string][]string{"a.yaml": {unpinned, rail}}, nil, true},
		{"in another folder", map[string][]string{"a/a.yaml": {shopPolicy}, "b/b.yaml": {rail}}, nil, false},
		{"below it", map[string][]string{"a/a.yaml": {shopPolicy}, "a/b/b.yaml": {rail}}, nil, false},
		{"given from above", map[string][]string{"a/b/a.yaml": {shopPolicy}, "a.yaml": {rail + "folder: a/b\n"}}, nil, true},
		{"given to another", map[string][]string{"a/bc/a.yaml": {shopPolicy}, "a/b/a.yaml": {strings.Replace(shopPolicy, "shop", "x", 1) + "mode: shadow\n"}, "a.yaml": {rail + "folder: a/b\n"}}, nil, false},
		{"of another issuer", map[string][]string{"a.yaml": {shopPolicy, "guardrails: x\nissuer: robot\ndeny: [{reason: x, match: {name: x}}]\n"}}, nil, false},
		{"one part fits", map[string][]string{"a.yaml": {shopPolicy, rail}}, map[string]any{"event_name": "schedule"}, false},
		{"a part that may fit", map[string][]string{"a.yaml": {shopPolicy, rail}}, map[string]any{"repository": nil}, true},
		{"a part of another type", map[string][]string{"a.yaml": {shopPolicy, rail}}, map[string]any{"repository": int64(1)}, false},
		{"one of two", map[string][]string{"a.yaml": {shopPolicy, strings.Replace(rail, "push", "schedule", 1)}, "b.yaml": {strings.Replace(rail, "%s", "b", 1)}}, nil, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for _, docs := range tt.files {
				for i := range docs {
					docs[i] = strings.Replace(docs[i], "%s", "a", 1)
				}
			}
			set := mustFolder(t, tt.files)
			for _, s := range []*policies.Set{set, set.Unindexed()} {
				d, err := s.Decide(github(tt.change), "other")
				if errors.Is(err, policies.ErrNoGrant) != tt.denied {
					t.Errorf("Decide = %+v, %v, want denied: %v", d.Grant, err, tt.denied)
				}
				if tt.denied && !strings.Contains(err.Error(), "guardrails ") {
					t.Errorf("Decide = %v, want the guardrail in it", err)
				}
			}
		})
	}
}

// What a policy may not go beyond, and what it may: the other direction is in
// testdata/bad.
func TestGuardrails(t *testing.T) {
	const within = `{repository_id: "456", repository_owner_id: "123", ref: [refs/heads/main, {glob: "refs/heads/v*"}], ref_protected: "true", event_name: push}`
	policy := func(match, grant string) string { return document("p", match, grant, "") }
	const grant = "{credential: other, ttl: 1m, max_ttl: 1h}"
	tests := []struct {
		name, rail, match, grant string
		want                     string // part of the problem, or ""
	}{
		{"max_ttl at the limit", "max_ttl: 1h", shop, grant, ""},
		{"max_ttl beyond", "max_ttl: 59m", shop, grant, "allow a max_ttl of 59m at most, not 1h"},
		{"required, with the same", "issuer: github\nrequire: {repository_owner_id: \"123\"}", within, grant, ""},
		{"required, with one of several", "issuer: github\nrequire: {repository_owner_id: [\"123\", \"9\"]}", within, grant, ""},
		{"required, and not there", "issuer: github\nrequire: {repository_owner_id: \"123\"}", shop, grant, "require that match keeps repository_owner_id within"},
		{"required as a pattern", "issuer: github\nrequire: {ref: {glob: \"refs/heads/*\"}}", within, grant, ""},
		{"required as a narrower pattern", "issuer: github\nrequire: {ref: [refs/heads/main, {glob: \"refs/heads/v1*\"}]}", within, grant, "require that match keeps ref within"},
		{"required as values", "issuer: github\nrequire: {ref: [refs/heads/main, refs/heads/v1]}", within, grant, "require that match keeps ref within"},
		{"allowed", "issuer: github\ncredentials: [{allow: [other]}]", within, grant, ""},
		{"not allowed", "issuer: github\ncredentials: [{allow: [registry]}]", within, grant, `do not allow to grant "other"`},
		{"allowed to others", "issuer: github\ncredentials: [{match: {repository_owner_id: \"9\"}, allow: [other]}, {allow: [registry]}]", within, grant, `do not allow to grant "other"`},
		{"allowed by the second entry", "issuer: github\ncredentials: [{allow: [registry]}, {match: {repository_owner_id: \"123\"}, allow: [\"o*\"]}]", within, grant, ""},
		{"another issuer", "issuer: robot\nrequire: {name: x}", shop, grant, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			rail := "guardrails: g\n" + tt.rail + "\n"
			_, err := folder(t, map[string][]string{"a.yaml": {rail, policy(tt.match, tt.grant)}})
			switch {
			case tt.want == "" && err != nil:
				t.Errorf("Load = %v, want nil", err)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("Load = %v, want %s", err, tt.want)
			}
		})
	}
}

// A team cannot take away what the root says, whatever it writes.
func TestGuardrailsCannotBeLoosened(t *testing.T) {
	org := "guardrails: org\nissuer: github\nmax_ttl: 10m\nunsafe: refuse\ncredentials: [{allow: [registry]}]\n"
	long := strings.Replace(shopPolicy, "other, ttl: 1m", "registry, ttl: 15m", 1)
	for name, team := range map[string][]string{
		"guardrails of its own":        {"guardrails: org\nissuer: github\nmax_ttl: 12h\n", long},
		"guardrails of the same scope": {"guardrails: b\nissuer: github\ncredentials: [{allow: [\"*\"]}]\n", long},
		"defaults":                     {"defaults: d\nmax_ttl: 15m\nttl: 15m\n", strings.Replace(long, ", ttl: 15m", "", 1)},
		"unsafe":                       {strings.Replace(strings.Replace(shopPolicy, shop, acme, 1), "grant:", unsafe+"\ngrant:", 1)},
		"another credential":           {shopPolicy},
		"shadow":                       {shopPolicy + "mode: shadow\n"},
	} {
		if _, err := folder(t, map[string][]string{"org.yaml": {org}, "team/a.yaml": team}); err == nil || !strings.Contains(err.Error(), "guardrails org") {
			t.Errorf("%s: Load = %v, want a problem with guardrails org", name, err)
		}
	}
}

func TestDefaults(t *testing.T) {
	const root = "defaults: root\nissuer: github\nttl: 2m\nmax_ttl: 10m\nmode: shadow\nmatch: {event_name: [push, schedule], repository_owner_id: \"123\"}\nlimits: {per_minute: 5}\n"
	const heir = "policy: heir\nmatch: {repository_id: \"456\", ref: refs/heads/main}\ngrant: [{credential: other}]\n"
	tests := []struct {
		name  string
		files map[string][]string
		want  policies.Grant
		err   bool
	}{
		{"the mode is the default's", map[string][]string{"a.yaml": {root, heir}}, policies.Grant{}, true},
		{"what the policy says wins", map[string][]string{"a.yaml": {root, strings.Replace(heir, "other", "other, ttl: 1m, max_ttl: 3m", 1) + "mode: enforce\nlimits: {live: 1}\n"}},
			policies.Grant{TTL: 60, MaxTTL: 180, OfPolicy: policies.Limits{Live: 1}}, false},
		{"the nearest wins", map[string][]string{"a.yaml": {root}, "t/a.yaml": {"defaults: t\nmode: enforce\nttl: 3m\n"}, "t/u/a.yaml": {heir}},
			policies.Grant{TTL: 180, MaxTTL: 600, OfPolicy: policies.Limits{PerMinute: 5}}, false},
		{"what the policy says of a claim wins", map[string][]string{"a.yaml": {strings.Replace(root, "[push, schedule]", "schedule", 1) + "---\n" + strings.Replace(heir, "ref:", "event_name: push, ref:", 1) + "mode: enforce\n"}},
			policies.Grant{TTL: 120, MaxTTL: 600, OfPolicy: policies.Limits{PerMinute: 5}}, false},
		{"and each claim by itself", map[string][]string{"a.yaml": {root}, "t/a.yaml": {"defaults: t\nissuer: github\nmode: enforce\nmatch: {event_name: push}\n", heir}},
			policies.Grant{TTL: 120, MaxTTL: 600, OfPolicy: policies.Limits{PerMinute: 5}}, false},
		{"an event that the nearest leaves out", map[string][]string{"a.yaml": {root}, "t/a.yaml": {"defaults: t\nissuer: github\nmode: enforce\nmatch: {event_name: schedule}\n", heir}}, policies.Grant{}, true},
		{"an owner that the root wants", map[string][]string{"a.yaml": {strings.Replace(root, `"123"`, `"9"`, 1)}, "t/a.yaml": {"defaults: t\nmode: enforce\n", heir}}, policies.Grant{}, true},
		{"beside a policy of another issuer", map[string][]string{"a.yaml": {root, heir + "mode: enforce\n", "policy: r\nissuer: robot\nmatch: {name: x}\ngrant: [{credential: other}]\n"}},
			policies.Grant{TTL: 120, MaxTTL: 600, OfPolicy: policies.Limits{PerMinute: 5}}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d, err := mustFolder(t, tt.files).Decide(github(nil), "other")
			if (err != nil) != tt.err {
				t.Fatalf("Decide = %+v, %v, want an error: %v", d, err, tt.err)
			}
			got := policies.Grant{TTL: d.Grant.TTL / 1e9, MaxTTL: d.Grant.MaxTTL / 1e9, OfPolicy: d.Grant.OfPolicy}
			if got != tt.want {
				t.Errorf("Decide = %+v, want %+v (in seconds)", got, tt.want)
			}
		})
	}
}

func TestWarnings(t *testing.T) {
	set := mustFolder(t, map[string][]string{
		"a.yaml":      {shopPolicy},
		"acme/a.yaml": {"policy: images\nissuer: github\nmatch: " + acme + "\nunsafe: {reason: \" all may pull \"}\ngrant: [{credential: read, ttl: 1m}]\n"},
	})
	var got []string
	for _, w := range set.Warnings() {
		got = append(got, w.Policy+" "+filepath.Base(w.Place)+" "+w.Message)
	}
	want := []string{"acme/images a.yaml:1 unsafe, it does not pin the repository; a ref or an environment; the event: all may pull"}
	if !slices.Equal(got, want) {
		t.Errorf("Warnings() = %q, want %q", got, want)
	}
	for credential, want := range map[string]string{"read": "all may pull", "other": ""} {
		d, err := set.Decide(github(nil), credential)
		if err != nil || d.Grant.Unsafe != want {
			t.Errorf("Decide(%s) = %+v, %v, want unsafe %q", credential, d.Grant, err, want)
		}
	}
}
