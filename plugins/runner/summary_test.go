package runner_test

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/plugins/runner"
	"github.com/brevet-dev/brevet/plugins/runner/runnertest"
)

func TestSummarize(t *testing.T) {
	plain := runnertest.Lease("registry", "REGISTRY_TOKEN", canary)
	ofRun, lasting := runnertest.Lease("of_run", "A", canary), runnertest.Lease("lasting", "B", canary)
	ofRun.Scope, lasting.Revocable = api.ScopeRun, false
	odd := runnertest.Lease("odd", "C", canary)
	odd.Kind, odd.LeaseID = "<img>|`x`", "a\n### b"
	file := filepath.Join(t.TempDir(), "summary")
	if err := os.WriteFile(file, []byte("what a step said\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	env := runner.Env{"GITHUB_STEP_SUMMARY=" + file}
	if err := runner.Summarize(env, []api.Lease{plain, ofRun, lasting, odd}, 161400*time.Millisecond, false); err != nil {
		t.Fatal(err)
	}
	if err := runner.Summarize(env, []api.Lease{plain}, time.Second, true); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"what a step said\n### brevet leased for one command\n\n",
		"\nregistry | jwt | lease-registry | 2m41s | given back\n",
		"\nof\\_run | jwt | lease-of\\_run | 2m41s | kept for the run\n",
		"\nlasting | jwt | lease-lasting | 2m41s | cannot be revoked and works until its TTL\n",
		"\nodd | ?img???x? | a???? b | 2m41s | given back\n",
		"\nregistry | jwt | lease-registry | 1s | could not be given back and ends by its TTL\n",
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("the summary has no %q:\n%s", want, text)
		}
	}
	if strings.Contains(string(text), canary) {
		t.Error("the summary has a value")
	}
}

func TestSummarizeElsewhere(t *testing.T) {
	if err := runner.Summarize(nil, nil, 0, false); err != nil {
		t.Errorf("Summarize without a file = %v", err)
	}
	if err := runner.Summarize(runner.Env{"GITHUB_STEP_SUMMARY=" + filepath.Join(t.TempDir(), "none")}, nil, 0, false); err == nil {
		t.Error("Summarize made a file that the runner had not made")
	}
}

// TestSummaryPipe has a pipe, which nobody reads, where the run's page was: to
// wait for a reader would keep the job from its end.
func TestSummaryPipe(t *testing.T) {
	path := filepath.Join(t.TempDir(), "page")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		done <- runner.Summarize(runner.Env{"GITHUB_STEP_SUMMARY=" + path}, []api.Lease{runnertest.Lease("deploy", "A", canary)}, time.Second, false)
	}()
	select {
	case err := <-done:
		if err == nil || !strings.Contains(err.Error(), "summary") {
			t.Errorf("Summarize = %v; want an error", err)
		}
	case <-time.After(2 * time.Second):
		t.Error("Summarize waits for a reader")
	}
}
