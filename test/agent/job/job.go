// Package job is a CI job with an agent of brevet's, and the broker of both, for
// tests that run the tools which the agent serves.
package job

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/plugins/runner/runnertest"
)

// Names of the credentials that every job may have.
const (
	Cloud    = "cloud"    // of kind aws-role
	Registry = "registry" // of kind jwt, as Shop
	Shop     = "shop"
)

// Start begins a job of GitHub's whose environment is this process's until the
// test ends. An agent with flags runs in it.
func Start(t *testing.T, flags ...string) *runnertest.Broker {
	t.Helper()
	broker := Without(t)
	args := append([]string{"agent", "start", "--lifetime", "5m", "--format", "github", "--credential", Cloud + "," + Registry + "," + Shop}, flags...)
	for line := range strings.Lines(Output(t, "brevet", args...)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		t.Setenv(name, value)
	}
	t.Cleanup(func() {
		Output(t, "brevet", "agent", "stop")
		if _, live, _ := broker.Counts(); live != 0 {
			t.Errorf("%d sessions live when the agent has ended", live)
		}
	})
	return broker
}

// Without begins a job like that of Start, without an agent.
func Without(t *testing.T) *runnertest.Broker {
	t.Helper()
	broker := runnertest.NewBroker(CloudLease(), runnertest.Lease(Registry, "REGISTRY_TOKEN", Token(Registry)), runnertest.Lease(Shop, "SHOP_TOKEN", Token(Shop)))
	t.Cleanup(broker.Close)
	for name, value := range map[string]string{
		"HOME": t.TempDir(), "BREVET_BROKER": broker.URL, "BREVET_AGENT": "",
		"ACTIONS_ID_TOKEN_REQUEST_URL": broker.URL + "/github?api-version=2.0", "ACTIONS_ID_TOKEN_REQUEST_TOKEN": runnertest.Request,
	} {
		t.Setenv(name, value)
	}
	return broker
}

// Token is the first token of a credential.
func Token(credential string) string { return credential + "-" + runnertest.Canary }

// CloudLease is a lease of Cloud.
func CloudLease() api.Lease {
	l := runnertest.Lease(Cloud, "AWS_SESSION_TOKEN", "")
	l.Kind = "aws-role"
	l.Values, l.Sensitive = map[string]api.Secret{}, []string{"access_key_id", "secret_access_key", "session_token"}
	for _, name := range l.Sensitive {
		l.Values[name] = api.NewSecret(name + "-" + runnertest.Canary)
	}
	l.Env = map[string]string{"AWS_SESSION_TOKEN": "session_token"}
	return l
}

// Main runs a package's tests with brevet on the PATH, by all its names. It is for
// a TestMain.
func Main(m *testing.M) int {
	bin, err := os.MkdirTemp("", "brevet-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(bin)
	if err := build(bin); err != nil {
		fmt.Fprintln(os.Stderr, "building brevet:", err)
		return 1
	}
	os.Setenv("PATH", bin+string(os.PathListSeparator)+os.Getenv("PATH"))
	return m.Run()
}

// build builds brevet, and links the names under which tools start it.
func build(bin string) error {
	root, err := Root()
	if err != nil {
		return err
	}
	cmd := exec.Command("go", "build", "-o", bin, "./cmd/brevet")
	cmd.Dir, cmd.Env, cmd.Stderr = root, append(os.Environ(), "CGO_ENABLED=0"), os.Stderr
	if err := cmd.Run(); err != nil {
		return err
	}
	return errors.Join(
		os.Symlink("brevet", filepath.Join(bin, "docker-credential-brevet")),
		os.Symlink("brevet", filepath.Join(bin, "git-credential-brevet")),
	)
}

// Root is the folder of brevet's module.
func Root() (string, error) {
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/brevet-dev/brevet").Output()
	return strings.TrimSpace(string(dir)), err
}

// Output runs a program and returns what it prints to stdout.
func Output(t *testing.T, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, &stderr)
	}
	return string(out)
}

// Write writes a file of the test's own, and returns its path.
func Write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
