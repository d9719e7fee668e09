package runner_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/plugins/runner"
	"github.com/brevet-dev/brevet/plugins/runner/runnertest"
)

func TestRender(t *testing.T) {
	odd := runnertest.Lease("odd.one", "ODD", "a\"b\n<é&")
	leases := []api.Lease{runnertest.Lease("deploy", "TOKEN", canary), odd}
	for template, want := range map[string]string{
		"":                                     "",
		"no reference { } }}":                  "no reference { } }}",
		"a {{deploy.token}}{{deploy.token}} b": "a " + canary + canary + " b",
		"{{ odd.one.token }}":                  "a\"b\n<é&",
		"{{odd.one.token|json}}":               `a\"b\n\u003cé\u0026`,
		"{{odd.one.token | base64}}":           "YSJiCjzDqSY=",
		"{{odd.one.token|url}}":                "a%22b%0A%3C%C3%A9%26",
	} {
		if got, err := runner.Render(template, leases); got != want || err != nil {
			t.Errorf("%q renders %q, %v; want %q", template, got, err, want)
		}
	}
	for template, want := range map[string]string{
		"{{": "t:1: what follows", "\n\n{{deploy.token}": "t:3: what follows", "{{}}": "what follows", "{{deploy}}": "what follows",
		"{{.token}}": "what follows", "{{deploy.}}": "what follows", "{{deploy.user}}": "there are {{deploy.token}}, {{odd.one.token}}",
		"{{deploy.token|}}x{{": "t:1: what follows", "{{deploy.token|rot13}}": `no encoding "rot13"`, "{{{deploy.token}}}": "what follows",
		"{{deploy.token\n}}\n{{ x y.z }}": "t:3: what follows",
	} {
		if got, err := runner.Render(template, leases); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), canary) {
			t.Errorf("%q renders %q, %v; want an error with %q", template, got, err, want)
		}
	}
}

// FuzzRender checks that of a template whatever stands outside of references
// comes through as it is, and that nothing else between braces does.
func FuzzRender(f *testing.F) {
	f.Add("a {{deploy.token}} b")
	f.Add("{{deploy.token|json}}}}{{")
	f.Fuzz(func(t *testing.T, template string) {
		got, err := runner.Render(template, []api.Lease{runnertest.Lease("deploy", "TOKEN", "VALUE")})
		if err != nil {
			return
		}
		rest := got
		for i, part := range strings.Split(template, "{{") {
			if i > 0 {
				_, part, _ = strings.Cut(part, "}}")
				_, rest, _ = strings.Cut(rest, "VALUE")
			}
			before, ok := strings.CutPrefix(rest, part)
			if !ok && !strings.Contains(template, "base64") {
				t.Fatalf("%q renders %q", template, got)
			}
			rest = before
		}
	})
}

// TestStretchedFile has a command that makes its file longer than memory is: the
// end of brevet, or the next renewals, must not try to hold that.
func TestStretchedFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	c := shell(`truncate -s 4T "$DEPLOY_TOKEN"`)
	var err error
	if c.Files, err = runner.OpenFiles([]runner.FileWish{{Variable: "DEPLOY_TOKEN", Path: path}}, nil); err != nil {
		t.Fatal(err)
	}
	leases := []api.Lease{runnertest.Lease("deploy", "DEPLOY_TOKEN", canary)}
	if err := c.Files.Fill(leases); err != nil {
		t.Fatal(err)
	}
	if c.Env, err = runner.Env(os.Environ()).ForChild(leases, runner.Wishes{Files: c.Files}); err != nil {
		t.Fatal(err)
	}
	kept := filepath.Join(t.TempDir(), "kept") // another name of the same file
	c.Args[2] = `ln "$DEPLOY_TOKEN" ` + kept + ` && ` + c.Args[2]
	if status, err := run(t, c, func() {}); status != 0 || err != nil {
		t.Fatalf("Run = %d, %v; want 0", status, err)
	}
	if err := c.Files.Remove(); err != nil {
		t.Errorf("Remove = %v", err)
	}
	if info, err := os.Stat(kept); err != nil || info.Size() != 0 {
		t.Errorf("the file has %v, %v; want nothing left in it", info, err)
	}
}
