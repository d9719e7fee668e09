package policies

import (
	"fmt"
	"maps"
	"strings"
	"testing"
)

// A rule that denies a name is told of if a longer name evades it, until longer
// ones are denied, too.
func TestEvadableDeny(t *testing.T) {
	guard := func(match string) string {
		return "guardrails: g\nissuer: github\ndeny:\n- {reason: no, match: {" + match + "}}\n"
	}
	for _, tt := range []struct{ match, evades, mend string }{
		{`ref: {glob: "refs/heads/dev/*"}`, `"refs/heads/dev/x/x"`, `ref: [{glob: "refs/heads/dev/*"}, {glob: "refs/heads/dev/*/*"}, {glob: "refs/heads/dev/*/*/*"}, {glob: "refs/heads/dev/*/*/*/*"}]`},
		{"ref: refs/heads/main", `"refs/heads/main/x"`, `ref: [refs/heads/main, {glob: "refs/heads/main/*"}, {glob: "refs/heads/main/*/*"}, {glob: "refs/heads/main/*/*/*"}]`},
		{`repository: {glob: "acme/*"}, runner_environment: self-hosted`, `"acme/x/x"`, `repository: [{glob: "acme/*"}, {glob: "acme/*/*"}, {glob: "acme/*/*/*"}, {glob: "acme/*/*/*/*"}]`},
		{`repository_id: "456"`, "", ""},
		{"runner_environment: self-hosted", "", ""},
		{"event_name: push", "", ""},
		{"environment: production", "", ""},
	} {
		_, all, err := lintFiles(t, map[string]string{"filler.yaml": filler, "g.yaml": guard(tt.match)})
		if err != nil {
			t.Fatal(err)
		}
		got := found(all, "L038")
		if tt.evades == "" {
			if len(got) > 0 {
				t.Errorf("%s: %s", tt.match, list(got))
			}
			continue
		}
		if len(got) != 1 || got[0].Line != 4 || !strings.Contains(got[0].Message, tt.evades) || got[0].Mend[0].YAML != tt.mend {
			t.Fatalf("%s: %+v", tt.match, got)
		}
		if _, all, err = lintFiles(t, map[string]string{"filler.yaml": filler, "g.yaml": guard(got[0].Mend[0].YAML)}); err != nil || len(found(all, "L038")) > 0 {
			t.Errorf("%s mended: %v\n%s", tt.match, err, list(all))
		}
	}
}

// A tenant that may write policies for anybody's projects is told of, and the
// document that lint proposes keeps it to its own.
func TestOpenTenant(t *testing.T) {
	inA := map[string]string{"a/a.yaml": ofGitHub(inProd)}
	root := func(guards string) map[string]string {
		files := maps.Clone(inA)
		files["g.yaml"] = "guardrails: g\nissuer: github\n" + guards
		return files
	}
	reads := map[string]string{"a/a.yaml": strings.Replace(ofGitHub(inProd), "credential: deploy", "credential: read", 1)}
	own := maps.Clone(inA)
	own["a/g.yaml"] = "guardrails: g\nrequire: {repository_owner_id: \"123\"}\nissuer: github\n"
	for _, tt := range []struct {
		name  string
		files map[string]string
		open  bool
	}{
		{"no guardrails", inA, true},
		{"a policy in the root", map[string]string{"a.yaml": ofGitHub(inProd)}, false},
		{"credentials that read", reads, false},
		{"an owner", root(`require: {repository_owner_id: "123"}`), false},
		{"a project", root(`require: {repository_id: "456"}`), false},
		{"no id", root("require: {environment: production}"), true},
		{"a shorter life", root("max_ttl: 1h"), true},
		{"credentials of an owner", root(`credentials: [{match: {repository_owner_id: "123"}, allow: [deploy]}]`), false},
		{"credentials of anybody", root("credentials: [{allow: [deploy]}]"), true},
		{"credentials of an owner, and of anybody", root(`credentials: [{match: {repository_owner_id: "123"}, allow: [deploy]}, {allow: ["dep*"]}]`), true},
		{"guardrails of its own", own, true},
	} {
		_, all, err := lintFiles(t, tt.files)
		if err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		if got := found(all, "L039"); len(got) > 0 != tt.open || len(got) > 1 {
			t.Errorf("%s: %+v", tt.name, got)
		}
	}
}

func TestOpenTenantMended(t *testing.T) {
	files := map[string]string{"a/a.yaml": ofGitHub(inProd), "b/b.yaml": strings.NewReplacer("456", "789", `"123"`, `"124"`).Replace(ofGitHub(inProd))}
	_, all, err := lintFiles(t, files)
	got := found(all, "L039")
	if err != nil || len(got) != 2 {
		t.Fatalf("%v\n%s", err, list(got))
	}
	for i, f := range got {
		files[fmt.Sprintf("guard-%d.yaml", i)] = f.Mend[0].YAML
	}
	if _, all, err = lintFiles(t, files); err != nil || len(found(all, "L039")) > 0 {
		t.Fatalf("mended: %v\n%s", err, list(all))
	}
	files["a/theirs.yaml"] = strings.Replace(files["b/b.yaml"], "policy: a", "policy: b", 1)
	if _, _, err := lintFiles(t, files); err == nil || !strings.Contains(err.Error(), `guardrails a-github (`) || !strings.Contains(err.Error(), `require that match keeps repository_owner_id within "123"`) {
		t.Errorf("a policy of a for a project of b: %v", err)
	}
}
