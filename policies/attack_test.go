package policies_test

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

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

// The name of a file is no part of another set's digest, nor a line of its own
// wherever problems are shown.
func TestNamesOfFiles(t *testing.T) {
	doc := func(name string) string { return document(name, shop, "{credential: other, ttl: 1m}", "") }
	sum := sha256.Sum256([]byte(doc("b")))
	for _, name := range []string{
		fmt.Sprintf("a.yaml\n%x  b.yaml", sum), // a and b together, by its digest
		"a\n::error::x.yaml", "a\x1b[2K.yaml", "a\u202elmay.yaml", "a\\.yaml", "a\xff.yaml",
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(doc("a")), 0o600); err != nil {
			t.Fatal(err)
		}
		set, err := policies.Load(dir, options())
		if err == nil || strings.ContainsAny(err.Error(), "\n\x1b\u202e") || !utf8.ValidString(err.Error()) {
			t.Errorf("Load of %q = %v, %q, want one line that can be read", name, set, err)
		}
	}
}

// The first moment that there is, which Go takes for no time, is an end too.
func TestExpiresAtTheFirstMoment(t *testing.T) {
	for _, expires := range []string{"0001-01-01T00:00:00Z", "0000-12-31"} {
		if _, err := policies.Load(write(t, shopPolicy+"expires: "+expires+"\n"), options()); err == nil {
			t.Errorf("expires: %s loads, and would be no end", expires)
		}
	}
}

// Of an issuer that knows neither projects nor owners a policy must name
// somebody, too: a pattern could stand for all whom the issuer vouches for.
func TestPinsWithoutIDs(t *testing.T) {
	for match, loads := range map[string]bool{
		`{name: {glob: "*"}}`: false, `{name: {glob: "*:*"}}`: false, `{name: {glob: "a*"}}`: false,
		`{name: a}`: true, `{name: [a, b]}`: true, `{name: {glob: "a*"}, vcs-origin: x}`: true,
	} {
		doc := strings.Replace(document("a", match, "{credential: other, ttl: 1m}", ""), "github", "robot", 1)
		if _, err := policies.Load(write(t, doc), options()); (err == nil) != loads {
			t.Errorf("Load with match %s = %v, want it to load: %v", match, err, loads)
		}
	}
}

// A problem is one line, and so none can look like another one, or begin a
// command to the runner that prints it.
func TestProblemsAreLines(t *testing.T) {
	const key = `"\n::error::nobody wrote this"`
	for _, doc := range []string{
		"policy: a\nissuer: github\nmatch: {ref: {" + key + ": x}, " + key + ": x}\n" + key + ": x\n",
		"policy: a\nissuer: github\nmatch: {ref: x}\nwhen: \"claims.ref == '\\n::error::nobody wrote this\"\n",
		"policy: a\nissuer: github\nmatch: {ref: x}\nwhen: \"claims.`\\n::error::nobody wrote this`\"\n",
		"guardrails: a\ndeny: [{reason: x, match: {ref: {" + key + ": x}}}]\ncredentials: [{allow: [" + key + "]}]\n",
	} {
		problems := messages(t, doc)
		if len(problems) == 0 || strings.Contains(strings.Join(problems, ""), "\n") {
			t.Errorf("the problems of %q are not a line each: %q", doc, problems)
		}
	}
}

// What apps say of a commit starts runs with the claims of the default branch,
// and the commit may be that of a fork's pull request.
func TestEventsAboutCommits(t *testing.T) {
	o := options()
	o.Issuers = presets.Known()
	for _, event := range []string{"check_run", "check_suite", "status", "deployment_status", "workflow_run"} {
		doc := document("a", `{repository_id: "456", ref: refs/heads/main, event_name: [push, `+event+`]}`, "{credential: other, ttl: 1m}", "")
		if _, err := policies.Load(write(t, doc), o); err == nil || !strings.Contains(err.Error(), "class read only") {
			t.Errorf("Load with event_name %s = %v, want read only", event, err)
		}
	}
}

// A file of conditions whose patterns count to a thousand, again and again, is
// refused before they are compiled.
func TestPatternsThatCount(t *testing.T) {
	var file strings.Builder
	for i := range 28 {
		when := fmt.Sprintf("claims.ref.matches('^%s$') || claims.ref == 'x%d'", strings.Repeat("a{1000}", 570), i)
		fmt.Fprintf(&file, "---\n%swhen: %q\n", document(fmt.Sprint("p", i), shop, "{credential: other, ttl: 1m}", ""), when)
	}
	start := time.Now()
	problems := messages(t, file.String())
	if took := time.Since(start); took > time.Second || len(problems) != 28 || !strings.Contains(problems[0], "more than 4000 steps") {
		t.Errorf("Load took %s and said %d things: %.200q", took, len(problems), problems)
	}
}
