package policies_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/brevet-dev/brevet/issuers"
	"github.com/brevet-dev/brevet/issuers/presets"
	"github.com/brevet-dev/brevet/policies"
)

// Patterns that nearly fit everywhere take no time that somebody would notice,
// whatever the token says: with the * tried again at each place, a document of
// such ones took a second for each exchange of its project.
func TestPatternsThatNearlyFit(t *testing.T) {
	var globs []string
	for i := range 100 {
		globs = append(globs, fmt.Sprintf(`{glob: "*%sb%d*b"}`, strings.Repeat("a", 240), i))
	}
	set := mustLoad(t, document("a", `{repository_id: "456", ref: refs/heads/main, event_name: push, environment: [`+strings.Join(globs, ", ")+`]}`, "{credential: other, ttl: 1m}", ""))
	id := github(map[string]any{"environment": strings.Repeat("a", 11<<10)})
	start := time.Now()
	if d, err := set.Decide(id, "other"); err == nil {
		t.Errorf("Decide = %+v, want none", d.Grant)
	}
	if took := time.Since(start); took > 300*time.Millisecond {
		t.Errorf("Decide took %s", took)
	}
}

// GitHub makes the environment that a job names if it is not there, without any
// rule. So a pattern is a gate that everyone opens who can push a branch.
func TestEnvironmentByPattern(t *testing.T) {
	o := options()
	o.Issuers = presets.Known()
	for environment, loads := range map[string]bool{
		"production": true, "[production, staging]": true, `{glob: "prod-*"}`: false, `[production, {glob: "prod-*"}]`: false,
	} {
		doc := document("a", `{repository_id: "456", event_name: push, environment: `+environment+`}`, "{credential: other, ttl: 1m}", "")
		if _, err := policies.Load(write(t, doc), o); (err == nil) != loads {
			t.Errorf("Load with environment %s = %v, want it to load: %v", environment, err, loads)
		}
	}
}

// The branch of a fork's pull request has as many slashes as its author likes:
// none of them is taken for a branch of the repository.
func TestDeepBranchesOfForks(t *testing.T) {
	o := options()
	o.Issuers = presets.Known()
	doc := strings.Replace(document("a", `{pipeline_id: p, build_source: webhook}`, "{credential: other, ttl: 1m}", unsafe), "github", "buildkite", 1)
	set, err := policies.Load(write(t, doc), o)
	if err != nil {
		t.Fatal(err)
	}
	id := &issuers.Identity{Issuer: "buildkite", Claims: map[string]any{"pipeline_id": "p", "build_source": "webhook"}}
	for branch, grants := range map[string]bool{
		"main": true, "a/b/c/d": true, "mallory:a": false, "mallory:a/b/c": false, "mallory:a/b/c/d": false,
		"mallory:" + strings.Repeat("a/", 120) + "a": false,
	} {
		id.Claims["build_branch"] = branch
		if d, err := set.Decide(id, "other"); (err == nil) != grants {
			t.Errorf("Decide with branch %.20s = %+v, %v, want a grant: %v", branch, d.Grant, err, grants)
		}
	}
}
