package policies

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/brevet-dev/brevet/issuers"
	"github.com/brevet-dev/brevet/issuers/presets"
	"github.com/brevet-dev/brevet/policies/strictyaml"
)

// realOptions has the presets that brevet brings along, a credential of each
// class, and one that lives long.
func realOptions() Options {
	return Options{
		Issuers: presets.Known(),
		Credentials: map[string]Credential{
			"deploy": {MaxTTL: 12 * time.Hour}, "read": {Read: true}, "aws": {MinTTL: 15 * time.Minute},
		},
		Sources: true,
	}
}

// filler keeps a folder from being empty when its only policy is removed.
const filler = `policy: filler
issuer: github
match: {repository_id: "1", repository_owner_id: "1", environment: filler, event_name: push, runner_environment: github-hosted}
grant: [{credential: read, ttl: 5m}]
expires: 2999-01-01
tests:
- {name: yes, claims: {repository_id: "1", repository_owner_id: "1", environment: filler, event_name: push, runner_environment: github-hosted}, allow: [read]}
- {name: no, claims: {repository_id: "2"}, deny: [read]}
`

// folder writes files into a new folder.
func folder(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// lintFiles lints files, or returns why they do not load.
func lintFiles(t testing.TB, files map[string]string) (*Set, []Finding, error) {
	t.Helper()
	set, err := Load(folder(t, files), realOptions())
	return set, set.Lint(nil), err
}

func lintDocument(t testing.TB, doc string) (*Set, []Finding, error) {
	t.Helper()
	return lintFiles(t, map[string]string{"a.yaml": doc, "filler.yaml": filler})
}

func found(findings []Finding, id string) []Finding {
	return slices.DeleteFunc(slices.Clone(findings), func(f Finding) bool { return f.ID != id })
}

// A wrong is a policy that says more, or less, than its author meant.
type wrong struct {
	id   string // what lint says, first in the name
	name string
	doc  string
	at   string // line:column
	says string // part of the message
}

const githubHead = "policy: a\nissuer: github\nmatch:\n  repository_id: \"456\"\n  repository_owner_id: \"123\"\n"

// github returns a policy with more lines behind its ids, from line 6 on.
func ofGitHub(lines ...string) string {
	return githubHead + strings.Join(lines, "\n") + "\ngrant:\n- {credential: deploy, ttl: 15m}\n"
}

// ofGitLab is the same for GitLab, from line 5 on.
func ofGitLab(lines ...string) string {
	return "policy: a\nissuer: gitlab\nmatch:\n  project_id: \"456\"\n" + strings.Join(lines, "\n") + "\ngrant:\n- {credential: deploy, ttl: 15m}\n"
}

const (
	unsafely = "unsafe: {reason: a test}"
	mainPush = "  ref: refs/heads/main\n  event_name: push"
	inProd   = "  environment: production\n  event_name: push"
)

func wrongs() []wrong {
	return []wrong{
		{"L001", "no id", "policy: a\nissuer: github\nmatch:\n  repository: acme/shop\n  ref: refs/heads/main\n" + unsafely + "\ngrant: [{credential: deploy, ttl: 15m}]\n", "4:3", "pins no id"},
		{"L002", "contains", ofGitHub(mainPush, `when: claims.job_workflow_ref.contains("acme/flows")`), "8:39", `is true of "xacme/flowsx" too`},
		{"L002", "endsWith", ofGitHub("  environment: production\n  event_name: push", `when: claims.ref.endsWith("/main")`), "8:26", `is true of "x/main" too`},
		{"L003", "a pattern for anything", ofGitHub(inProd, `when: claims.ref.matches("^refs/heads/.*-prod$")`), "8:25", "too"},
		{"L004", "pull requests", "policy: a\nissuer: github\nmatch:\n  repository_id: \"456\"\n  environment: preview\n  event_name: [push, pull_request]\ngrant: [{credential: read, ttl: 15m}]\n", "6:15", "pull_request"},
		{"L005", "a name without its id", "policy: a\nissuer: github\nmatch: {repository_owner_id: \"123\", environment: production, event_name: push}\nnames: {repository: acme/shop}\n" + unsafely + "\ngrant: [{credential: deploy, ttl: 15m}]\n", "4:21", "repository_id is not"},
		{"L006", "no event", ofGitHub("  environment: production", unsafely), "4:3", "the event"},
		{"L006", "no gate", ofGitHub("  event_name: push", unsafely), "4:3", "a deployment environment"},
		{"L007", "a prefix of names", ofGitHub(inProd, `when: claims.ref.startsWith("refs/heads/rel")`), "8:28", `"refs/heads/relx" too`},
		{"L008", "a workflow by its path", ofGitHub(mainPush, `when: claims.job_workflow_ref.startsWith("acme/flows/.github/workflows/deploy.yml")`), "8:41", "every branch"},
		{"L008", "a workflow by the begin of its ref", ofGitHub(mainPush, `when: claims.job_workflow_ref.startsWith("acme/flows/.github/workflows/deploy.yml@refs/heads/main")`), "8:41", "mainx"},
		{"L009", "an owner", "policy: a\nissuer: github\nmatch:\n  repository_owner_id: \"123\"\n  environment: production\n  event_name: push\n" + unsafely + "\ngrant: [{credential: deploy, ttl: 15m}]\n", "4:24", "every project of the owner"},
		{"L010", "a branch that is not protected", ofGitHub(mainPush), "6:8", "ref_protected"},
		{"L011", "all but one", ofGitHub(inProd, `when: claims.ref != "refs/heads/dev"`), "8:18", "every other value"},
		{"L011", "not in a list", ofGitHub(inProd, `when: '!(claims.actor_id in ["66", "67"])'`), "8:8", "actor_id"},
		{"L012", "a long life", strings.Replace(ofGitHub(inProd), "ttl: 15m", "ttl: 15m, max_ttl: 8h", 1), "9:43", "8h"},
		{"L013", "always true", ofGitHub(mainPush, `when: claims.ref == "refs/heads/main"`), "8:7", "true for every token"},
		{"L013", "one of two that are all", ofGitHub(inProd, `when: claims.ref == "a" || claims.ref != "a"`), "8:7", "true for every token"},
		{"L014", "any runner", ofGitHub(inProd), "4:3", "runners"},
		{"L015", "no end", ofGitHub(inProd), "1:9", "no end"},
		{"L016", "no test that allows", ofGitHub(inProd), "1:9", "allows"},
		{"L018", "Cyrillic", ofGitHub("  environment: pr\u043eduction\n  event_name: push"), "6:16", `"production"`},
		{"L018", "white space", ofGitHub("  environment: \"production \"\n  event_name: push"), "6:16", `"production"`},
		{"L019", "a workflow at a branch", ofGitHub(inProd, "  job_workflow_ref: acme/flows/.github/workflows/deploy.yml@refs/heads/main"), "8:21", "which moves"},
		{"L021", "an event in capitals", ofGitHub("  environment: production\n  event_name: Push"), "7:15", `"Push" is no value`},
		{"L021", "an event in capitals, in a condition", ofGitHub(inProd, `when: claims.event_name in ["push", "Pull_Request"]`), "8:7", `"Pull_Request" is no value`},
		{"L022", "a name in match", ofGitHub(inProd, "  repository: acme/shop"), "8:15", "in names"},
		{"L023", "all owners", "policy: a\nissuer: github\nmatch:\n  repository: {glob: \"*/shop\"}\n  environment: production\n  event_name: push\n" + unsafely + "\ngrant: [{credential: deploy, ttl: 15m}]\n", "4:15", "any owner"},
		{"L024", "an actor", ofGitHub(inProd, "  actor: alice"), "8:10", "names a person"},
		{"L024", "an e-mail address", ofGitLab("  ref_protected: \"true\"\n  pipeline_source: push\n  user_email: alice@example.com"), "7:15", "names a person"},
		{"L024", "an actor in a condition", ofGitHub(inProd, `when: claims.actor == "alice"`), "8:13", "names a person"},
		{"L025", "one's own workflow", ofGitHub(inProd, "  job_workflow_ref: acme/shop/.github/workflows/deploy.yml@refs/heads/main"), "8:21", "reuses no workflow"},
		{"L026", "unsafe", ofGitHub("  environment: production", unsafely), "7:9", "a test"},
		{"L029", "releases and what begins like it", ofGitHub("  ref: {glob: \"refs/heads/release*\"}\n  environment: production\n  event_name: push"), "6:8", `"refs/heads/releasex" too`},
		{"L030", "two branches at once", ofGitHub(mainPush, `when: claims.ref == "refs/heads/dev"`), "8:7", "when is false"},
		{"L030", "an event that is refused", ofGitHub(inProd, `when: claims.event_name == "pull_request"`), "8:7", "when is false"},
		{"L030", "names that contradict match", ofGitHub(inProd, "  repository: acme/shop", "names: {repository: acme/shop2}"), "4:3", "contradict"},
		{"L031", "tags and branches", ofGitHub("  ref: {glob: \"refs/*/main\"}\n  environment: production\n  event_name: push"), "6:8", "tags"},
		{"L033", "the name of a workflow", ofGitHub(inProd, "  workflow: deploy"), "8:13", "whoever pushes"},
		{"L033", "a head ref in a condition", ofGitHub(inProd, `when: claims.head_ref == ""`), "8:13", "whoever pushes"},
		{"L034", "an end that is past", ofGitHub(inProd, "expires: 2020-01-01"), "8:10", "expired"},
		{"L035", "no test that denies", ofGitHub(inProd), "1:9", "denies"},
		{"L036", "a branch without refs", ofGitHub("  ref: main\n  event_name: push"), "6:8", `"refs/heads/main"`},
		{"L036", "a name for an id", strings.Replace(ofGitHub(inProd), `"456"`, "acme-shop", 1), "4:18", "is a number"},
		{"L036", "GitHub's ref in GitLab", ofGitLab("  ref_protected: \"true\"\n  pipeline_source: push\n  ref: refs/heads/main"), "7:8", `"main"`},
		{"L037", "an environment of any owner", "policy: a\nissuer: github\nmatch:\n  repository_id: \"456\"\n  environment: production\n  event_name: push\ngrant: [{credential: deploy, ttl: 15m}]\n", "5:16", "transfer"},
	}
}

// Each is found, at its place, with a token that the policies decide on as the
// finding says; and what mends it, applied, makes it go.
func TestLint(t *testing.T) {
	for _, w := range wrongs() {
		t.Run(w.id+" "+w.name, func(t *testing.T) {
			set, all, err := lintDocument(t, w.doc)
			if err != nil {
				t.Fatal(err)
			}
			got := found(all, w.id)
			if len(got) != 1 {
				t.Fatalf("%d findings %s in\n%s", len(got), w.id, list(all))
			}
			f := got[0]
			if place := fmt.Sprintf("%d:%d", f.Line, f.Column); place != w.at || !strings.Contains(f.Message, w.says) {
				t.Errorf("%s: %s, want it at %s with %q", place, f.Message, w.at, w.says)
			}
			for _, f := range all {
				checkFinding(t, set, f)
			}
			checkMend(t, w.doc, f)
		})
	}
}

func list(findings []Finding) string {
	var lines []string
	for _, f := range findings {
		lines = append(lines, fmt.Sprintf("%s %s %s", f.ID, f.Place(), f.Message))
	}
	return strings.Join(lines, "\n")
}

// checkFinding tries the token of a finding.
func checkFinding(t *testing.T, set *Set, f Finding) {
	t.Helper()
	if f.Token == nil {
		if !slices.Contains([]string{"L027", "L028", "L030", "L032", "L038", "L040"}, f.ID) {
			t.Errorf("%s has no token", f.ID)
		}
		return
	}
	p := set.policies[slices.IndexFunc(set.policies, func(p *policy) bool { return p.name == f.Policy })]
	_, err := set.Decide(&issuers.Identity{Issuer: p.issuer, Claims: f.Token}, p.grants[0].Credential)
	if granted := strings.HasPrefix(f.Shows, "is granted"); granted != (err == nil) {
		t.Errorf("%s: the token %q, and Decide says %v", f.ID, f.Shows, err)
	}
}

// checkMend applies what mends a finding and lints again.
func checkMend(t *testing.T, doc string, f Finding) {
	t.Helper()
	if len(f.Mend) == 0 {
		t.Fatalf("%s: nothing is said that mends it", f.ID)
	}
	mended := apply(t, doc, f.Mend)
	_, again, err := lintDocument(t, mended)
	if err != nil {
		t.Fatalf("mended:\n%s\n%v", mended, err)
	}
	for _, g := range again {
		if g.ID == f.ID && g.Policy == f.Policy && g.Message == f.Message {
			t.Errorf("mended, and %s is there still: %s\n%s", g.ID, g.Message, mended)
		}
	}
}

// apply makes the changes.
func apply(t *testing.T, doc string, edits []Edit) string {
	t.Helper()
	root := readYAML(t, doc)
	for _, e := range edits {
		if e.Action == "remove" && len(e.steps) == 0 {
			return filler2
		}
		change(t, root, e)
	}
	text, err := json.Marshal(ordered(root))
	if err != nil {
		t.Fatal(err)
	}
	return `{"policy": "` + fmt.Sprint(root["policy"]) + `", ` + strings.TrimPrefix(string(text), "{")
}

// What mends a policy without tests is one key, whichever of both findings is
// mended, and mends both.
func TestLintMendsTestsOnce(t *testing.T) {
	doc := ofGitHub(inProd)
	_, all, err := lintDocument(t, doc)
	if err != nil {
		t.Fatal(err)
	}
	allow, deny := found(all, "L016"), found(all, "L035")
	if len(allow) != 1 || len(deny) != 1 || !reflect.DeepEqual(allow[0].Mend, deny[0].Mend) {
		t.Fatalf("L016 is mended by %+v, L035 by %+v; want the same", allow, deny)
	}
	_, again, err := lintDocument(t, apply(t, doc, deny[0].Mend))
	if err != nil || len(found(again, "L016"))+len(found(again, "L035")) > 0 {
		t.Errorf("mended: %v\n%s", err, list(again))
	}
}

// filler2 stands for a policy that was removed.
var filler2 = strings.NewReplacer("policy: filler", "policy: filler-two", `"1"`, `"22"`).Replace(filler)

func ordered(root map[string]any) map[string]any {
	rest := maps.Clone(root)
	delete(rest, "policy")
	return rest
}

func readYAML(t *testing.T, text string) map[string]any {
	t.Helper()
	doc, problems := strictyaml.Parse("mended.yaml", []byte(text))
	if doc == nil {
		t.Fatalf("%s\n%v", text, problems)
	}
	var root map[string]any
	if problems := doc.Decode(&root); len(problems) > 0 {
		t.Fatal(problems)
	}
	return root
}

func change(t *testing.T, root map[string]any, e Edit) {
	t.Helper()
	at, last := any(root), e.steps[len(e.steps)-1]
	for i, step := range e.steps[:len(e.steps)-1] {
		switch s := step.(type) {
		case string:
			m := at.(map[string]any)
			if m[s] == nil && e.Action != "remove" {
				m[s] = map[string]any{}
				if _, isIndex := e.steps[i+1].(int); isIndex {
					m[s] = []any{}
				}
			}
			at = m[s]
		case int:
			at = at.([]any)[s]
		}
	}
	switch key, isKey := last.(string); {
	case isKey && e.Action == "remove":
		delete(at.(map[string]any), key)
		if len(e.steps) == 2 && len(at.(map[string]any)) == 0 {
			delete(root, e.steps[0].(string))
		}
	case isKey:
		line := readYAML(t, e.YAML)
		maps.Copy(at.(map[string]any), line)
		if _, ok := line[key]; !ok {
			t.Errorf("%q is no line for %s", e.YAML, e.Path)
		}
	default:
		parent := e.steps[0].(string)
		root[parent] = append(at.([]any), readYAML(t, "x:\n"+e.YAML)["x"].([]any)...)
	}
}

// A policy that follows all of it.
const exemplary = `policy: shop-deploy
description: main of acme/shop may deploy from the production environment
issuer: github
match:
  repository_id: "456"
  repository_owner_id: "123"
  ref: refs/heads/main
  environment: production
  event_name: [push, workflow_dispatch]
  runner_environment: github-hosted
names: {repository: acme/shop}
grant:
- {credential: deploy, ttl: 15m, max_ttl: 1h}
expires: 2999-03-01
tests:
- name: main
  claims: {repository_id: "456", repository_owner_id: "123", ref: refs/heads/main, environment: production, event_name: push, runner_environment: github-hosted, repository: acme/shop}
  allow: [deploy]
- name: a pull request
  claims: {repository_id: "456", repository_owner_id: "123", ref: refs/pull/1/merge, event_name: pull_request, runner_environment: github-hosted, repository: acme/shop}
  deny: [deploy]
`

func TestLintClean(t *testing.T) {
	_, findings, err := lintDocument(t, exemplary)
	if err != nil || len(findings) > 0 {
		t.Errorf("%v\n%s", err, list(findings))
	}
}

// What looks like a mistake that a rule is for, and is none.
func TestLintSilent(t *testing.T) {
	for _, tt := range []wrong{
		{id: "L033", name: "the type of a ref", doc: ofGitLab("  ref: main\n  ref_type: branch\n  ref_protected: \"true\"\n  pipeline_source: push")},
		{id: "L024", name: "the address of an account that is no person's", doc: "policy: a\nissuer: google\nmatch: {sub: \"1122\", project_number: 7}\n" +
			"names: {email: ci@acme-prod.iam.gserviceaccount.com}\ngrant: [{credential: deploy, ttl: 15m}]\n"},
	} {
		_, findings, err := lintDocument(t, tt.doc)
		if findings = found(findings, tt.id); err != nil || len(findings) > 0 {
			t.Errorf("%s, %s: %v\n%s", tt.id, tt.name, err, list(findings))
		}
	}
}

func TestRules(t *testing.T) {
	names := map[string]bool{}
	for _, r := range Rules() {
		if names[r.ID] || names[r.Name] || r.About == "" || reflect.ValueOf(r.Severity).IsZero() {
			t.Errorf("rule %s %s is there twice, or lacks something", r.ID, r.Name)
		}
		names[r.ID], names[r.Name] = true, true
	}
	for _, w := range wrongs() {
		delete(names, w.id)
	}
	for _, id := range slices.Sorted(maps.Keys(names)) {
		if strings.HasPrefix(id, "L0") && !slices.Contains([]string{"L017", "L027", "L028", "L032", "L038", "L039", "L040"}, id) {
			t.Errorf("%s has no test", id)
		}
	}
}

// folders are wrongs that several documents make.
func TestLintFolders(t *testing.T) {
	narrow := strings.NewReplacer("policy: a", "policy: b", "production", "[production]").Replace(ofGitHub(inProd, "  ref: refs/heads/main"))
	wide := strings.Replace(ofGitHub(inProd), "15m", "1h", 1)
	tests := []struct {
		id, name string
		files    map[string]string
		want     []string // base name of the file, line and column
	}{
		{"L017", "shadowed", map[string]string{"a.yaml": wide, "b.yaml": narrow}, []string{"b.yaml:1:9"}},
		{"L017", "the same twice", map[string]string{"a.yaml": ofGitHub(inProd), "b.yaml": strings.Replace(ofGitHub(inProd), "policy: a", "policy: b", 1)}, []string{"b.yaml:1:9"}},
		{"L017", "a longer life", map[string]string{"a.yaml": ofGitHub(inProd), "b.yaml": strings.Replace(narrow, "15m", "1h", 1)}, nil},
		{"L017", "another environment", map[string]string{"a.yaml": wide, "b.yaml": strings.Replace(narrow, "[production]", "staging", 1)}, nil},
		{"L017", "one that has an end", map[string]string{"a.yaml": wide + "expires: 2999-01-01\n", "b.yaml": narrow}, nil},
		{"L017", "one in mode shadow", map[string]string{"a.yaml": wide + "mode: shadow\n", "b.yaml": narrow}, nil},
		{"L017", "one with another condition", map[string]string{"a.yaml": strings.Replace(wide, "grant:", "when: claims.run_attempt == \"1\"\ngrant:", 1), "b.yaml": narrow}, nil},
		{"L027", "guardrails of an empty folder", map[string]string{"a.yaml": wide, "team/g.yaml": "guardrails: g\nmax_ttl: 1h\n"}, []string{"g.yaml:1:1"}},
		{"L027", "guardrails of another issuer", map[string]string{"a.yaml": wide, "g.yaml": "guardrails: g\nissuer: gitlab\nmax_ttl: 1h\n"}, []string{"g.yaml:1:1"}},
		{"L027", "a rule that denies nothing", map[string]string{"a.yaml": wide, "g.yaml": "guardrails: g\nissuer: github\ndeny:\n- {reason: no, match: {environment: staging}}\n- {reason: no, match: {actor_id: \"66\"}}\n"}, []string{"g.yaml:4:1"}},
		{"L028", "defaults that all override", map[string]string{"a.yaml": wide + "mode: enforce\n", "d.yaml": "defaults: d\nmode: shadow\n"}, []string{"d.yaml:1:1"}},
		{"L028", "defaults that are used", map[string]string{"a.yaml": wide, "d.yaml": "defaults: d\nmode: shadow\n"}, nil},
		{"L030", "a policy that guardrails deny", map[string]string{"a.yaml": wide, "g.yaml": "guardrails: g\nissuer: github\ndeny: [{reason: no, match: {environment: production}}]\n"}, []string{"a.yaml:4:3"}},
		{"L032", "a condition that is not understood", map[string]string{"a.yaml": ofGitHub(inProd, `when: claims.workflow_sha.matches("^a{2}$") && claims.workflow_sha.startsWith("b")`)}, []string{"a.yaml:8:7"}},
	}
	for _, tt := range tests {
		t.Run(tt.id+" "+tt.name, func(t *testing.T) {
			set, all, err := lintFiles(t, tt.files)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, f := range found(all, tt.id) {
				got = append(got, fmt.Sprintf("%s:%d:%d", filepath.Base(f.File), f.Line, f.Column))
				if f.Policy != "" {
					checkFinding(t, set, f)
				}
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("found at %q, want %q; all:\n%s", got, tt.want, list(all))
			}
		})
	}
}
