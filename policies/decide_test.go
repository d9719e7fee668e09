package policies_test

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/brevet-dev/brevet/issuers"
	"github.com/brevet-dev/brevet/policies"
)

func TestDecide(t *testing.T) {
	gitlab := func(id, runner any) *issuers.Identity {
		return &issuers.Identity{Issuer: "gitlab", Claims: map[string]any{"project_id": id, "runner_id": runner, "ref_protected": "true", "groups": []string{"build"}}}
	}
	set, err := policies.Load("testdata/good", options())
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name       string
		id         *issuers.Identity
		credential string
		want       string // the granting policy, or ""
		err        error
	}{
		{"all holds", github(nil), "deploy", "shop-deploy", nil},
		{"another credential of the same policy", github(nil), "registry", "shop-deploy", nil},
		{"the other listed value", github(map[string]any{"event_name": "workflow_dispatch"}), "deploy", "shop-deploy", nil},
		{"a credential that no policy grants", github(nil), "other", "", policies.ErrNoGrant},
		{"a credential that does not exist", github(nil), "root", "", policies.ErrUnknownCredential},
		{"another project", github(map[string]any{"repository_id": "457"}), "deploy", "", policies.ErrNoGrant},
		{"another owner", github(map[string]any{"repository_owner_id": "124"}), "deploy", "", policies.ErrNoGrant},
		{"another ref", github(map[string]any{"ref": "refs/heads/main2"}), "deploy", "", policies.ErrNoGrant},
		{"another case", github(map[string]any{"ref": "refs/heads/Main"}), "deploy", "", policies.ErrNoGrant},
		{"a pinned claim absent", github(map[string]any{"environment": nil}), "deploy", "", policies.ErrNoGrant},
		{"a pinned claim empty", github(map[string]any{"environment": ""}), "deploy", "", policies.ErrNoGrant},
		{"a pinned claim of another type", github(map[string]any{"repository_id": int64(456)}), "deploy", "", policies.ErrNoGrant},
		{"an id that is a list", github(map[string]any{"repository_id": []string{"456"}}), "deploy", "", policies.ErrNoGrant},
		{"a trigger that is not listed", github(map[string]any{"event_name": "schedule"}), "deploy", "", policies.ErrNoGrant},
		{"when is false", github(map[string]any{"run_attempt": "2"}), "deploy", "", policies.ErrNoGrant},
		{"when cannot be decided", github(map[string]any{"run_attempt": nil}), "deploy", "", policies.ErrNoGrant},
		{"when on a claim of another type", github(map[string]any{"run_attempt": int64(1)}), "deploy", "", policies.ErrNoGrant},
		{"another issuer with the same claims", &issuers.Identity{Issuer: "gitlab", Claims: github(nil).Claims}, "deploy", "", policies.ErrNoGrant},
		{"an issuer that is not configured", &issuers.Identity{Issuer: "evil", Claims: github(nil).Claims}, "deploy", "", policies.ErrNoGrant},
		{"no claims", &issuers.Identity{Issuer: "github"}, "deploy", "", policies.ErrNoGrant},
		{"no identity", nil, "deploy", "", policies.ErrNoGrant},
		{"a number and a list", gitlab("22", int64(2)), "registry", "gitlab-build", nil},
		{"another number", gitlab("22", int64(3)), "registry", "", policies.ErrNoGrant},
		{"a number as a string", gitlab("22", "2"), "registry", "", policies.ErrNoGrant},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d, err := set.Decide(tt.id, tt.credential)
			if d == nil || d.Grant.Policy != tt.want || !errors.Is(err, tt.err) {
				t.Fatalf("Decide = %+v, %v, want %q, %v", d, err, tt.want, tt.err)
			}
			if err != nil && d.Grant != (policies.Grant{}) {
				t.Errorf("Decide = %+v beside the error %v", d.Grant, err)
			}
		})
	}
}

func TestNilSetRefuses(t *testing.T) {
	var set *policies.Set
	d, err := set.Decide(github(nil), "deploy")
	if d == nil || d.Grant != (policies.Grant{}) || !errors.Is(err, policies.ErrNoGrant) {
		t.Errorf("nil.Decide = %+v, %v, want an empty decision and ErrNoGrant", d, err)
	}
	if set.Len() != 0 || set.Digest() != "" || set.Test() != nil {
		t.Error("a nil Set is not empty")
	}
}

// document returns a policy for acme/shop with lines added; the lines of a map
// given twice would be a problem, so match comes from the caller too.
func document(name, match, grant, more string) string {
	return fmt.Sprintf("policy: %s\nissuer: github\nmatch: %s\ngrant: [%s]\n%s\n", name, match, grant, more)
}

func TestUntrustedTriggers(t *testing.T) {
	tests := []struct {
		name, match, when, trigger string
		want                       bool
	}{
		{"trusted, none listed", shop, "", "push", true},
		{"untrusted, none listed", shop, "", "pull_request", false},
		{"untrusted, another listed", `{repository_id: "456", ref: refs/heads/main, event_name: pull_request_target}`, "", "pull_request", false},
		{"untrusted and listed", `{repository_id: "456", ref: refs/heads/main, event_name: [push, pull_request]}`, "", "pull_request", true},
		{"untrusted, in when only", shop, `when: claims.event_name == "pull_request"`, "pull_request", false},
		{"absent", shop, "", "", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			set := mustLoad(t, document("a", tt.match, "{credential: read, ttl: 1m}", tt.when))
			id := github(map[string]any{"event_name": tt.trigger})
			if tt.trigger == "" {
				delete(id.Claims, "event_name")
			}
			if d, err := set.Decide(id, "read"); (err == nil) != tt.want {
				t.Errorf("Decide(%s) = %+v, %v, want granted: %v", tt.trigger, d, err, tt.want)
			}
		})
	}
}

// An operator is told what kept the policies from granting.
func TestNearMisses(t *testing.T) {
	set, err := policies.Load("testdata/good", options())
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, credential, want string
		id                     *issuers.Identity
	}{
		{"another ref", "deploy", `policy shop-deploy: claim ref is "refs/heads/x", match wants "refs/heads/main"`, github(map[string]any{"ref": "refs/heads/x"})},
		{"another project and owner", "deploy", "no policy for this project or owner has a grant for it", github(map[string]any{"repository_id": "1", "repository_owner_id": "2"})},
		{"no grant for it", "other", "no policy for this project or owner has a grant for it", github(nil)},
	} {
		if _, err := set.Decide(tt.id, tt.credential); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: Decide = %v, want an error with: %s", tt.name, err, tt.want)
		}
	}
}

// lacking returns unsafe for a match that needs it.
func lacking(match string) string {
	if match == shop {
		return ""
	}
	return unsafe
}

// The order of files, here a to d, must not matter.
func TestDecideChoice(t *testing.T) {
	tests := []struct {
		name   string
		grants [4]string // of the policies p0 to p3
		want   policies.Grant
	}{
		{"the longest max_ttl", [4]string{"ttl: 2h", "ttl: 1m, max_ttl: 3h", "ttl: 1h, max_ttl: 2h", "ttl: 1s"},
			policies.Grant{TTL: time.Minute, MaxTTL: 3 * time.Hour, Policy: "p1"}},
		{"then the longest ttl", [4]string{"ttl: 1m, max_ttl: 2h", "ttl: 2m, max_ttl: 2h", "ttl: 3m, max_ttl: 2h", "ttl: 1h"},
			policies.Grant{TTL: 3 * time.Minute, MaxTTL: 2 * time.Hour, Policy: "p2"}},
		{"then the first name", [4]string{"ttl: 1m", "ttl: 2m", "ttl: 2m", "ttl: 2m"},
			policies.Grant{TTL: 2 * time.Minute, MaxTTL: 2 * time.Minute, Policy: "p1"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var docs []string
			for i, match := range []string{acme, shop, `{repository_owner_id: ["9", "123"], ref: refs/heads/main}`, `{repository_id: ["456", "9"]}`} {
				docs = append(docs, document(fmt.Sprintf("p%d", i), match, "{credential: other, "+tt.grants[i]+"}", lacking(match)))
			}
			for range 2 {
				d, err := mustLoad(t, docs...).Decide(github(nil), "other")
				if err != nil {
					t.Fatal(err)
				}
				got := d.Grant
				got.PolicyDigest, got.Unsafe = "", ""
				tt.want.Credential = "other"
				if got != tt.want {
					t.Errorf("Decide = %+v, want %+v", got, tt.want)
				}
				docs[0], docs[1], docs[2], docs[3] = docs[3], docs[2], docs[1], docs[0]
			}
		})
	}
}

func TestShadowAndDrift(t *testing.T) {
	const grant = "{credential: other, ttl: 1m}"
	tests := []struct {
		name string
		docs []string
		want policies.Decision // Grant: the policy only
		err  error
	}{
		{"shadow does not grant", []string{
			document("b", shop, grant, "mode: shadow"), document("a", acme, grant, "mode: shadow\n"+unsafe),
			document("c", strings.Replace(shop, "456", "1", 1), grant, "mode: shadow"),
		}, policies.Decision{Shadow: []string{"a", "b"}}, policies.ErrNoGrant},
		{"shadow beside enforce", []string{
			document("a", shop, "{credential: other, ttl: 2h}", "mode: shadow"), document("b", shop, grant, "mode: enforce"),
		}, policies.Decision{Grant: policies.Grant{Policy: "b"}, Shadow: []string{"a"}}, nil},
		{"drift denies", []string{
			document("b", shop, grant, "names: {repository: acme/store, environment: staging}"),
			document("a", shop, grant, "names: {repository: acme/old}\nmode: shadow"),
		}, policies.Decision{Drift: []policies.Drift{
			{Policy: "a", Claim: "repository", Want: "acme/old", Got: "acme/shop"},
			{Policy: "b", Claim: "environment", Want: "staging", Got: "production"},
			{Policy: "b", Claim: "repository", Want: "acme/store", Got: "acme/shop"},
		}}, policies.ErrNoGrant},
		{"drift of one, grant of another", []string{
			document("a", shop, grant, "names: {repository: acme/old}"), document("b", shop, grant, "names: {repository: acme/shop}"),
		}, policies.Decision{Grant: policies.Grant{Policy: "b"}, Drift: []policies.Drift{{Policy: "a", Claim: "repository", Want: "acme/old", Got: "acme/shop"}}}, nil},
		{"no drift where the rest does not hold", []string{
			document("a", strings.Replace(shop, "456", "1", 1), grant, "names: {repository: acme/old}"),
			document("b", shop, "{credential: unlimited, ttl: 1m}", "names: {repository: acme/old}"),
		}, policies.Decision{}, policies.ErrNoGrant},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d, err := mustLoad(t, tt.docs...).Decide(github(nil), "other")
			if !errors.Is(err, tt.err) {
				t.Fatalf("Decide = %v, want %v", err, tt.err)
			}
			d.Grant = policies.Grant{Policy: d.Grant.Policy}
			if !reflect.DeepEqual(*d, tt.want) {
				t.Errorf("Decide = %+v, want %+v", *d, tt.want)
			}
		})
	}
}

func TestDriftOfAbsentClaim(t *testing.T) {
	set := mustLoad(t, document("a", shop, "{credential: other, ttl: 1m}", "names: {environment: production}"))
	d, err := set.Decide(github(map[string]any{"environment": nil}), "other")
	want := []policies.Drift{{Policy: "a", Claim: "environment", Want: "production", Got: ""}}
	if !errors.Is(err, policies.ErrNoGrant) || !reflect.DeepEqual(d.Drift, want) {
		t.Errorf("Decide = %+v, %v, want drift %+v", d, err, want)
	}
}

// A preset that has no ids is matched by what it has.
func TestPresetWithoutIDs(t *testing.T) {
	set := mustLoad(t, "policy: a\nissuer: robot\nmatch: {name: r2}\nwhen: claims.`vcs-origin` == \"here\"\ngrant: [{credential: other, ttl: 1m}]\n")
	for _, tt := range []struct {
		name, origin string
		want         error
	}{{"r2", "here", nil}, {"r3", "here", policies.ErrNoGrant}, {"r2", "there", policies.ErrNoGrant}} {
		id := &issuers.Identity{Issuer: "robot", Claims: map[string]any{"name": tt.name, "vcs-origin": tt.origin}}
		if _, err := set.Decide(id, "other"); !errors.Is(err, tt.want) {
			t.Errorf("Decide(%s, %s) = %v, want %v", tt.name, tt.origin, err, tt.want)
		}
	}
}

// A decision costs nothing for the policies of others: it looks at none of them.
func TestDecideAmongMany(t *testing.T) {
	allocations := func(n int) float64 {
		set, err := policies.Load(manyPolicies(t, n, sameWhen), options())
		if err != nil {
			t.Fatal(err)
		}
		id := github(nil)
		return testing.AllocsPerRun(20, func() {
			if d, err := set.Decide(id, "other"); err != nil || d.Grant.Policy != "p0" {
				t.Errorf("Decide among %d = %+v, %v", n, d, err)
			}
		})
	}
	if one, many := allocations(1), allocations(500); many > one {
		t.Errorf("Decide allocates %v times among 500 policies, and %v times with one", many, one)
	}
}
