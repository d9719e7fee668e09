package agent

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/brevet-dev/brevet/issuers/lab"
	"github.com/brevet-dev/brevet/test/agent/job"
	"github.com/brevet-dev/brevet/test/cloud"
)

// TestPodsBroker checks the configuration and the policy for the pods of the
// example, and finds nothing to mend in them.
func TestPodsBroker(t *testing.T) {
	brevetd := filepath.Join(t.TempDir(), "brevetd")
	root, err := job.Root()
	if err != nil {
		t.Fatal(err)
	}
	build := exec.Command("go", "build", "-o", brevetd, "./cmd/brevetd")
	build.Dir, build.Env = root, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	for _, args := range [][]string{{"check"}, {"policy", "lint", "--strict"}} {
		cmd := exec.Command(brevetd, args...)
		cmd.Dir = filepath.Join(root, "examples/functions/kubernetes")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("brevetd %v: %v\n%s", args, err, out)
		}
	}
}

// A node has pods of one service account, and a whole broker that believes the
// cluster's issuer.
type node struct {
	t      *testing.T
	broker *cloud.Broker
	lab    *lab.Lab
	dir    string
}

func newNode(t *testing.T) *node {
	t.Helper()
	l, err := lab.Start(lab.Options{Preset: "kubernetes"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	n := &node{t: t, lab: l, dir: t.TempDir()}
	n.broker = cloud.StartBroker(t, cloud.Issuer{Preset: "kubernetes", URL: l.URL, Match: "{service_account_uid: 00000002-4b5a-4c6d-8e7f-0a1b2c3d4e5f}"})
	return n
}

// token mints what the kubelet puts into the file of a pod.
func (n *node) token(file string) {
	n.t.Helper()
	token, err := n.lab.Mint(n.broker.URL, nil)
	if err == nil {
		err = os.WriteFile(filepath.Join(n.dir, file), []byte(token), 0o600)
	}
	if err != nil {
		n.t.Fatal(err)
	}
}

// once runs a container that gets a credential with a token and a key, and returns
// what it prints. Without a key file it has a folder of its own for temporary files,
// as containers have.
func (n *node) once(token, key string) (string, error) {
	cmd := exec.Command("brevet", "agent", "serve", "--once", "--allow-disk", "--credential", "database", "--file", "DATABASE_TOKEN="+filepath.Join(n.dir, "out"))
	cmd.Env = []string{"BREVET_BROKER=" + n.broker.URL, "BREVET_TOKEN_FILE=" + filepath.Join(n.dir, token), "TMPDIR=" + n.t.TempDir()}
	if key != "" {
		cmd.Env = append(cmd.Env, "BREVET_KEY_FILE="+filepath.Join(n.dir, key))
	}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// TestRestartUnderOneToken starts a container again before the kubelet has replaced
// its token, with its key and without, and has a thief come.
func TestRestartUnderOneToken(t *testing.T) {
	n := newNode(t)
	n.token("token")
	for range 2 {
		if out, err := n.once("token", "key"); err != nil {
			t.Fatalf("with the key: %v\n%s", err, out)
		}
	}
	for _, key := range []string{"", "another"} {
		out, err := n.once("token", key)
		if err == nil || !strings.Contains(out, "subject token already used") || !strings.Contains(out, "hint: where a process starts again") {
			t.Errorf("with the key %q: %v\n%s", key, err, out)
		}
	}
	n.token("token") // rotated
	if out, err := n.once("token", "key"); err != nil {
		t.Errorf("with the next token: %v\n%s", err, out)
	}
}
