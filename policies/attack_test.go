package policies_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

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
