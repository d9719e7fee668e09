package policies_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/brevet-dev/brevet/issuers/presets"
	"github.com/brevet-dev/brevet/policies"
)

// hostile returns n policies of one file whose claims are nearly alike: each of
// nine has as many patterns, of which none says whether they have tokens in
// common before most were compared.
func hostile(t *testing.T, n, patterns int, seed string) *policies.Set {
	t.Helper()
	claims := strings.Fields("ref environment actor workflow repository head_ref base_ref job_workflow_ref workflow_ref")
	files := fstest.MapFS{}
	for i := range n {
		var b strings.Builder
		fmt.Fprintf(&b, "policy: p%d\nissuer: github\nunsafe: {reason: a test}\nmatch:\n", i)
		for _, claim := range claims {
			var globs []string
			for j := range patterns {
				globs = append(globs, fmt.Sprintf(`{glob: "a*%s%d-%d*/b*"}`, seed, i, j))
			}
			fmt.Fprintf(&b, "  %s: [%s]\n", claim, strings.Join(globs, ", "))
		}
		b.WriteString("grant: [{credential: other, ttl: 1m}]\n")
		files[fmt.Sprintf("p%d.yaml", i)] = &fstest.MapFile{Data: []byte(b.String())}
	}
	o := options()
	o.Issuers, o.Sources = presets.Known(), true
	set, err := policies.LoadFS(files, "hostile", o)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// What grows with the square of what somebody wrote ends: whoever proposes a
// change must not keep from their review those who wait for the comparison. What
// was not compared is a gain, and said to be none that was found.
func TestCompareOfHostileSets(t *testing.T) {
	a, b := hostile(t, 160, 12, "x"), hostile(t, 160, 12, "y")
	start := time.Now()
	d, err := policies.CompareWithin(t.Context(), a, b, 20_000_000)
	if err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("it took %v for a tenth of what Compare may take", took)
	}
	if d.Unsearched < 150 || len(d.Changes) != 160 {
		t.Errorf("%d of %d changes unsearched, want nearly all of 160", d.Unsearched, len(d.Changes))
	}
	for _, c := range d.Changes {
		if !slices.ContainsFunc(c.Effects, func(e policies.Effect) bool { return e.Kind.IsGain() }) {
			t.Fatalf("%s gains nothing, they say: %+v", c.Policy, c.Effects)
		}
	}
}

// A removal, too, of which nobody looked what it does by way of others.
func TestCompareUnsearchedRemoval(t *testing.T) {
	a, b := mustLoad(t, base, strings.NewReplacer("shop", "b", "456", "457").Replace(base)), mustLoad(t, base)
	d, err := policies.CompareWithin(t.Context(), a, b, 1)
	if err != nil || d.Unsearched != 1 || d.Gains() == 0 {
		t.Errorf("%+v, %v; want a gain that cannot be ruled out", d, err)
	}
	if d, err = policies.Compare(t.Context(), a, b); err != nil || d.Unsearched != 0 || d.Gains() != 0 {
		t.Errorf("%+v, %v; want no gain", d, err)
	}
}

// Lint compares no more than that either, and says so.
func TestLintOfHostileSets(t *testing.T) {
	set := hostile(t, 40, 12, "x")
	if findings := policies.LintWithin(set, 1_000); !has(findings, "L040") {
		t.Error("lint compared all with a thousandth of what it takes")
	}
	if findings := set.Lint(nil); has(findings, "L040") {
		t.Error("lint did not compare 40 policies")
	}
}

// What tests see of all policies of an issuer grows with the product of both.
func TestCoverageEnds(t *testing.T) {
	set, err := withTests(t, "tests: shop\ncases:\n"+strings.Repeat("- {name: x, fixture: main, deny: [deploy]}\n", 100))
	if err != nil {
		t.Fatal(err)
	}
	if c := set.Coverage(); c.Unplayed != 0 {
		t.Errorf("%d of 100 tests were not looked at", c.Unplayed)
	}
	c := policies.CoverageWithin(set, 10_000)
	if c.Unplayed == 0 || c.Unplayed == 100 || c.Ways == 0 {
		t.Errorf("%d of 100 tests were not looked at, want some", c.Unplayed)
	}
}

func has(findings []policies.Finding, id string) bool {
	return slices.ContainsFunc(findings, func(f policies.Finding) bool { return f.ID == id })
}
