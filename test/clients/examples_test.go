package clients_test

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
)

func testExamples(t *testing.T, b programs) {
	t.Run("the broker's", func(t *testing.T) { checkBroker(t, b) })
	t.Run("workflows", checkWorkflows)
	t.Run("inputs", checkInputs)
}

// checkBroker runs the policies' tests, and finds nothing to mend in them but
// what a reader decides.
func checkBroker(t *testing.T, b programs) {
	for _, args := range [][]string{{"check"}, {"policy", "lint", "--strict"}} {
		cmd := exec.Command(b.brevetd, args...)
		cmd.Dir = filepath.Join(root(t), "examples/broker")
		if status, out := run(t, cmd); status != 0 {
			t.Errorf("brevetd %v ended with %d:\n%s", args, status, out)
		}
	}
}

// checkWorkflows reads the examples as actionlint does.
func checkWorkflows(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(root(t), "examples/github/*.yml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no workflows in examples/github: %v", err)
	}
	cmd := exec.Command(tool(t, "bin/actionlint"), append([]string{"-no-color", "-config-file", "/dev/null"}, files...)...)
	cmd.Dir = t.TempDir()
	if status, out := run(t, cmd); status != 0 {
		t.Errorf("actionlint ended with %d:\n%s", status, out)
	}
}

// checkInputs compares the options that each platform's file declares with what
// docs/runner.md says of them.
func checkInputs(t *testing.T) {
	docs := read(t, "docs/runner.md")
	section := func(title string) string {
		_, rest, _ := strings.Cut(docs, "\n## "+title+"\n")
		text, _, _ := strings.Cut(rest, "\n## ")
		return text
	}
	var action struct {
		Inputs map[string]struct{ Description string }
	}
	decode(t, read(t, "action.yml"), &action)
	for name, input := range action.Inputs {
		if input.Description == "" || !strings.Contains(section("GitHub"), "| `"+name+"` |") {
			t.Errorf("action.yml: the input %s is not described there and in docs/runner.md", name)
		}
	}
	header, _, _ := strings.Cut(read(t, "plugins/gitlab/templates/brevet.yml"), "\n---\n")
	var component struct {
		Spec struct {
			Inputs map[string]struct{ Description string }
		}
	}
	decode(t, header, &component)
	for name, input := range component.Spec.Inputs {
		variable := "BREVET_" + strings.ToUpper(name)
		if !strings.HasPrefix(input.Description, variable+": ") || !strings.Contains(section("GitLab"), "`"+name+"`, `"+variable+"`") {
			t.Errorf("the component's input %s is not described there and in docs/runner.md", name)
		}
	}
	for name := range pluginOptions(t) {
		if !strings.Contains(section("Buildkite"), "`"+name+"`") {
			t.Errorf("the plugin's option %s is not described in docs/runner.md", name)
		}
	}
}

func decode(t *testing.T, text string, v any) {
	t.Helper()
	if err := yaml.Unmarshal([]byte(text), v); err != nil {
		t.Fatal(err)
	}
}
