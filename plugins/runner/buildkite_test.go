package runner_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/brevet-dev/brevet/plugins/runner"
	"github.com/brevet-dev/brevet/plugins/runner/runnertest"
)

// buildkite makes script what the PATH has as buildkite-agent, and returns a
// job's environment.
func buildkite(t *testing.T, script string) runner.Env {
	t.Helper()
	dir := t.TempDir()
	if script != "" {
		if err := os.WriteFile(filepath.Join(dir, "buildkite-agent"), []byte("#!/bin/sh\n"+script), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir)
	return runner.Env{"PATH=/usr/bin:/bin", "BUILDKITE=true", "BUILDKITE_JOB_ID=7", "BUILDKITE_AGENT_ACCESS_TOKEN=" + canary}
}

func TestBuildkite(t *testing.T) {
	const wanted = "oidc request-token --audience https://broker.example.com --claim organization_id,pipeline_id,build_id"
	env := buildkite(t, `[ "$*" = "`+wanted+`" ] && [ "$BUILDKITE_AGENT_ACCESS_TOKEN" = `+canary+` ] || exit 1
echo "a word on stderr" >&2
echo '`+runnertest.Token("buildkite")+`'`)
	source, err := runner.FindSource(env, nil)
	if err != nil || source.Platform != "buildkite" || source.KeepsToken {
		t.Fatalf("FindSource = %+v, %v", source, err)
	}
	if token, err := source.Token(t.Context(), "https://broker.example.com"); err != nil || token.Reveal() != runnertest.Token("buildkite") {
		t.Errorf("Token = %q, %v", token.Reveal(), err)
	}
}

func TestBuildkiteGivesNone(t *testing.T) {
	for _, tt := range []struct {
		name, script string
		kind         runner.Kind
		want         string
	}{
		{"no agent", "", runner.Misconfigured, "buildkite-agent is not on the PATH"},
		{"refused", "echo '403 no \x1b[31mtoken\n##[x]' >&2; exit 1", runner.Unavailable, "asking Buildkite's agent for a token: exit status 1: 403 no  [31mtoken # #[x]"},
		{"no token", "echo " + canary, runner.Misconfigured, "what the job has as its OIDC token (buildkite) is not a JWT"},
		{"much to say", "while echo nonsense; do :; done >&2 & sleep 0.2; kill $!; exit 1", runner.Unavailable, "exit status 1: nonsense"},
	} {
		source, err := runner.FindSource(buildkite(t, tt.script), nil)
		if err != nil {
			t.Fatal(err)
		}
		token, err := source.Token(t.Context(), "https://broker.example.com")
		if !token.IsZero() || !runner.IsKind(err, tt.kind) || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), canary) {
			t.Errorf("%s: Token = %v, want %q", tt.name, err, tt.want)
		}
	}
}

// TestBuildkiteHangs has an agent that never answers.
func TestBuildkiteHangs(t *testing.T) {
	source, err := runner.FindSource(buildkite(t, "exec sleep 600"), nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := source.Token(ctx, "https://broker.example.com"); !runner.IsKind(err, runner.Unavailable) {
		t.Errorf("Token = %v", err)
	}
}

// TestBuildkiteElsewhere has a job's variables without those that a token is
// asked for with, as in a container.
func TestBuildkiteElsewhere(t *testing.T) {
	_, err := runner.FindSource(runner.Env{"BUILDKITE=true", "BUILDKITE_JOB_ID=7"}, nil)
	failure, ok := errors.AsType[*runner.Failure](err)
	if !ok || !strings.Contains(failure.Hint, "mount-buildkite-agent: true") {
		t.Errorf("FindSource = %v", err)
	}
}
