package runner

import (
	"context"
	"errors"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// buildkiteAgent is the program that gives the jobs of Buildkite their tokens.
const buildkiteAgent = "buildkite-agent"

// buildkiteClaims are the ids that the preset buildkite needs and that a job has
// to ask for.
const buildkiteClaims = "organization_id,pipeline_id,build_id"

const buildkiteHint = "Buildkite: the job needs its agent; in a container mount it, with its BUILDKITE_… variables (mount-buildkite-agent: true)"

// buildkiteSource asks the job's agent for a token each time. Its lifetime is the
// platform's default, five minutes. Without what the agent needs to know the job
// by, there is no source.
// See https://buildkite.com/docs/agent/cli/reference/oidc
func buildkiteSource(env Env) (*Source, error) {
	for _, name := range []string{"BUILDKITE_JOB_ID", "BUILDKITE_AGENT_ACCESS_TOKEN"} {
		if env.Get(name) == "" {
			return nil, failf(Misconfigured, buildkiteHint, "this job has no OIDC token: %s is not set", name)
		}
	}
	return &Source{"buildkite", false, func(ctx context.Context, audience string) (string, error) {
		cmd := exec.CommandContext(ctx, buildkiteAgent, "oidc", "request-token", "--audience", audience, "--claim", buildkiteClaims)
		cmd.Env = env
		cmd.WaitDelay = time.Second // for what it started and left behind
		var message strings.Builder
		cmd.Stderr = &bounded{w: &message, left: 4 << 10}
		token, err := cmd.Output()
		if errors.Is(err, syscall.ECHILD) {
			err = nil // brevet exec has waited for it, as for all that ends; no token is no JWT
		}
		if errors.Is(err, exec.ErrNotFound) {
			return "", failf(Misconfigured, buildkiteHint, "%s is not on the PATH", buildkiteAgent)
		}
		if err != nil {
			return "", failf(Unavailable, buildkiteHint, "asking Buildkite's agent for a token: %w: %s", err, Printable(strings.TrimSpace(message.String())))
		}
		return string(token), nil
	}}, nil
}

// A bounded writer drops what comes after so many bytes.
type bounded struct {
	w    *strings.Builder
	left int
}

func (b *bounded) Write(p []byte) (int, error) {
	kept := p[:min(len(p), b.left)]
	b.left -= len(kept)
	b.w.Write(kept)
	return len(p), nil
}
