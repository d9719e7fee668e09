package policies_test

import (
	"errors"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/brevet-dev/brevet/policies"
)

// A policy holds to the end of its last day, or until its time, whenever it was
// loaded.
func TestExpires(t *testing.T) {
	for _, tt := range []struct {
		name, expires string
		holds, ends   time.Duration // after midnight, the beginning of 2000-01-01 UTC
	}{
		{"a day", "2000-01-02", 48*time.Hour - 1, 48 * time.Hour},
		{"a time", "2000-01-01T12:00:00Z", 12*time.Hour - 1, 12 * time.Hour},
		{"a time elsewhere", "2000-01-01T12:00:00+02:00", 10*time.Hour - 1, 10 * time.Hour},
	} {
		synctest.Test(t, func(t *testing.T) { // its clock begins at that midnight
			start := time.Now()
			set := mustLoad(t, shopPolicy+"expires: "+tt.expires+"\n")
			for _, at := range []time.Duration{tt.holds, tt.ends, 1000 * time.Hour} {
				time.Sleep(time.Until(start.Add(at)))
				d, err := set.Decide(github(nil), "other")
				if holds := at <= tt.holds; (err == nil) != holds {
					t.Errorf("%s: Decide after %s = %+v, %v, want a grant: %v", tt.name, at, d.Grant, err, holds)
				}
				if err != nil && !strings.Contains(err.Error(), "policy a.yaml has expired") && !strings.Contains(err.Error(), "policy shop has expired") {
					t.Errorf("%s: Decide = %v, want it to say that the policy has expired", tt.name, err)
				}
			}
		})
	}
}

// One that ended before it was loaded loads, so that a restart does not depend
// on the clock, and holds for nobody, in shadow mode and with drift too.
func TestExpiredBeforeLoad(t *testing.T) {
	for _, more := range []string{"", "mode: shadow\n", "names: {repository: acme/old}\n"} {
		set := mustLoad(t, shopPolicy+"expires: 1999-12-31\n"+more)
		d, err := set.Decide(github(nil), "other")
		if !errors.Is(err, policies.ErrNoGrant) || !reflect.DeepEqual(*d, policies.Decision{}) {
			t.Errorf("Decide with %q = %+v, %v, want nothing and ErrNoGrant", more, d, err)
		}
	}
}

// Decide gives a grant or an error, never both and never neither (a plugin of
// OpenBao returned both, and the token went out: CVE-2026-46405).
func TestGrantOrError(t *testing.T) {
	rail := "guardrails: g\nissuer: github\ndeny: [{reason: x, match: {run_attempt: \"3\"}}]\n"
	set := mustFolder(t, map[string][]string{"a.yaml": {
		rail,
		shopPolicy,
		strings.Replace(shopPolicy, "shop", "shadow", 1) + "mode: shadow\n",
		strings.Replace(strings.Replace(shopPolicy, "shop", "longer", 1), "1m", "2h", 1) + "when: claims.run_attempt == \"2\"\n",
		strings.Replace(strings.Replace(shopPolicy, "shop", "drift", 1), "1m", "3h", 1) + "names: {repository: acme/old}\n",
		strings.Replace(strings.Replace(shopPolicy, "shop", "expired", 1), "1m", "4h", 1) + "expires: 1999-12-31\n",
		strings.Replace(strings.Replace(shopPolicy, shop, acme, 1), "shop", "unpinned", 1) + unsafe + "\nmode: shadow\n",
	}})
	sets := []*policies.Set{nil, set, set.Unindexed()}
	for _, change := range []map[string]any{
		nil, {"run_attempt": "2"}, {"run_attempt": "3"}, {"run_attempt": nil}, {"repository_id": "1"}, {"event_name": "pull_request"}, {"event_name": nil}, {"ref": "x"}, {"repository_id": nil, "repository_owner_id": nil},
	} {
		for _, s := range sets {
			for _, credential := range []string{"other", "read", "none", ""} {
				d, err := s.Decide(github(change), credential)
				switch {
				case d == nil:
					t.Fatalf("Decide(%v, %q) = nil, %v", change, credential, err)
				case err != nil && d.Grant != policies.Grant{}:
					t.Errorf("Decide(%v, %q) = %+v beside %v", change, credential, d.Grant, err)
				case err == nil && (d.Grant.Policy == "" || d.Grant.Credential != credential || d.Grant.TTL <= 0 || d.Grant.MaxTTL < d.Grant.TTL || d.Grant.PolicyDigest == ""):
					t.Errorf("Decide(%v, %q) = %+v without an error", change, credential, d.Grant)
				}
			}
		}
	}
}

// A policy whose project is a pattern is found by its owner, or among all.
func TestPatternsAreNotIndexed(t *testing.T) {
	o := options()
	preset := o.Issuers["github"]
	preset.ProjectID, preset.Pins = "repository", nil
	set, err := policies.Load(write(t,
		document("a", `{repository: {glob: "acme/*"}, event_name: push}`, "{credential: other, ttl: 1m}", ""),
		document("b", `{repository: [acme/shop, {glob: "acme/s*"}], repository_owner_id: "123"}`, "{credential: unlimited, ttl: 1m}", ""),
	), o)
	if err != nil {
		t.Fatal(err)
	}
	for _, credential := range []string{"other", "unlimited"} {
		if d, err := set.Decide(github(nil), credential); err != nil {
			t.Errorf("Decide(%s) = %+v, %v, want a grant", credential, d.Grant, err)
		}
		if d, err := set.Decide(github(map[string]any{"repository": "acme/x/y"}), credential); err == nil {
			t.Errorf("Decide(%s) of another = %+v", credential, d.Grant)
		}
	}
}

// A risk that is a pattern is named by it, or by a narrower one, and by nothing
// else.
func TestNamedRisks(t *testing.T) {
	o := options()
	preset := o.Issuers["github"]
	preset.Risks[0].Claim, preset.Risks[0].Values = "ref", []string{"refs/pull/*/merge", "true"}
	for _, tt := range []struct {
		ref        string
		credential string
		loads      bool
	}{
		{"refs/heads/main", "other", true},
		{"refs/pull/7/merge", "other", false},
		{"refs/pull/7/merge", "read", true},
		{`[refs/heads/main, refs/pull/7/merge]`, "other", false},
		{`{glob: "refs/pull/*/merge"}`, "other", false},
		{`{glob: "refs/pull/1*/merge"}`, "other", false},
		{`{glob: "refs/*/*/merge"}`, "other", true}, // does not name it: such a token gets nothing
	} {
		doc := document("a", "{repository_id: \"456\", event_name: push, environment: x, ref: "+tt.ref+"}", "{credential: "+tt.credential+", ttl: 1m}", "")
		set, err := policies.Load(write(t, doc), o)
		if (err == nil) != tt.loads {
			t.Errorf("Load with ref %s and %s = %v, want it to load: %v", tt.ref, tt.credential, err, tt.loads)
		}
		if err != nil {
			continue
		}
		id := github(map[string]any{"environment": "x", "ref": "refs/pull/7/merge"})
		if d, err := set.Decide(id, tt.credential); (err == nil) != (tt.credential == "read") {
			t.Errorf("Decide with ref %s and %s = %+v, %v", tt.ref, tt.credential, d.Grant, err)
		}
	}
}
