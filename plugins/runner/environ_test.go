package runner_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/plugins/runner"
	"github.com/brevet-dev/brevet/plugins/runner/runnertest"
)

func TestForChild(t *testing.T) {
	env := runner.Env{
		"PATH=/bin", "DEPLOY=old", "BREVET_TOKEN_FILE=x", "BREVET_TOKEN=x", "BREVET_ID_TOKEN=x", "BREVET_SESSION=x",
		"ACTIONS_ID_TOKEN_REQUEST_URL=x", "ACTIONS_ID_TOKEN_REQUEST_TOKEN=x", "ACTIONS_RUNTIME_URL=kept", "BREVET_BROKER=kept",
	}
	got, err := env.ForChild([]api.Lease{runnertest.Lease("deploy", "DEPLOY", "new"), runnertest.Lease("registry", "A_1", "two")})
	want := runner.Env{"PATH=/bin", "ACTIONS_RUNTIME_URL=kept", "BREVET_BROKER=kept", "A_1=two", "DEPLOY=new"}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("ForChild = %v, %v; want %v", got, err, want)
	}
}

func TestForChildRefuses(t *testing.T) {
	for _, tt := range []struct {
		name  string
		lease api.Lease
		kind  runner.Kind
	}{
		{"same name", runnertest.Lease("other", "DEPLOY", canary), runner.Misconfigured},
		{"empty name", runnertest.Lease("other", "", canary), runner.Protocol},
		{"digit first", runnertest.Lease("other", "1A", canary), runner.Protocol},
		{"equals sign", runnertest.Lease("other", "A=B", canary), runner.Protocol},
		{"new line", runnertest.Lease("other", "A\nB", canary), runner.Protocol},
		{"not ASCII", runnertest.Lease("other", "Ä", canary), runner.Protocol},
		{"zero byte", runnertest.Lease("other", "B", canary+"\x00"), runner.Protocol},
	} {
		env, err := runner.Env{}.ForChild([]api.Lease{runnertest.Lease("deploy", "DEPLOY", "x"), tt.lease})
		if env != nil || !runner.IsKind(err, tt.kind) {
			t.Errorf("%s: ForChild = %v, %v; want kind %d", tt.name, env, err, tt.kind)
		}
		if err != nil && (strings.Contains(err.Error(), canary) || strings.Contains(err.Error(), "\n")) {
			t.Errorf("%s: %q", tt.name, err)
		}
	}
}

func TestGet(t *testing.T) {
	env := runner.Env{"A=1", "AB=2", "A=3", "C"}
	for name, want := range map[string]string{"A": "3", "AB": "2", "B": "", "C": ""} {
		if got := env.Get(name); got != want {
			t.Errorf("Get(%s) = %q, want %q", name, got, want)
		}
	}
}

// FuzzFormat checks that whatever a broker sends, the lines for a shell and for
// a dotenv file hold the one assignment that they are for.
func FuzzFormat(f *testing.F) {
	f.Add("TOKEN", "plain")
	f.Add("TOKEN", "it's $(id) `id` \"x\" \\ \n second")
	f.Add("A;B", "x")
	f.Fuzz(func(t *testing.T, name, value string) {
		answer := &api.TokenResponse{Leases: []api.Lease{runnertest.Lease("deploy", name, value)}}
		if text, err := runner.Format(answer, "env", false); err == nil {
			line := strings.TrimSuffix(string(text), "\n")
			quoted, ok := strings.CutPrefix(line, "export "+name+"='")
			inner := strings.TrimSuffix(quoted, "'")
			if !ok || strings.ReplaceAll(inner, `'\''`, "'") != value || strings.Contains(strings.ReplaceAll(inner, `'\''`, ""), "'") {
				t.Errorf("env %q for %q", text, value)
			}
		}
		if text, err := runner.Format(answer, "dotenv", false); err == nil {
			line := strings.TrimSuffix(string(text), "\n")
			if line != name+"="+value && line != name+"='"+value+"'" || strings.Contains(line, "\n") {
				t.Errorf("dotenv %q for %q", text, value)
			}
		}
	})
}
