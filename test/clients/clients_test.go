// Package clients_test runs the GitHub action and the GitLab template by real CI
// clients (act, gitlab-ci-local), and the Buildkite plugin as Buildkite's agent
// does, against a real broker, and reads in the broker's audit log what happened.
// Nothing here needs the network.
package clients_test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/brevet-dev/brevet/test/servers"
)

// TestClients builds the programs once for all clients.
func TestClients(t *testing.T) {
	b := build(t)
	t.Run("github", func(t *testing.T) { testGitHub(t, b) })
	t.Run("gitlab", func(t *testing.T) { testGitLab(t, b) })
	t.Run("buildkite", func(t *testing.T) { testBuildkite(t, b) })
	t.Run("shell", func(t *testing.T) { testShell(t, b) })
	t.Run("examples", func(t *testing.T) { testExamples(t, b) })
	t.Run("corpus", func(t *testing.T) { testCorpus(t, b) })
}

// programs are freshly built binaries.
type programs struct{ brevet, brevetd string }

func build(t *testing.T) programs {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.Command("go", "build", "-o", dir+"/", "./cmd/brevet", "./cmd/brevetd")
	cmd.Dir, cmd.Env = root(t), append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building: %v\n%s", err, out)
	}
	return programs{filepath.Join(dir, "brevet"), filepath.Join(dir, "brevetd")}
}

// A dev is a running "brevetd dev".
type dev struct {
	dir string
	env map[string]string // what it tells jobs: see dev.env
	cmd *exec.Cmd
}

func startDev(t *testing.T, b programs) *dev {
	t.Helper()
	d := &dev{dir: t.TempDir(), env: map[string]string{}}
	d.cmd = exec.Command(b.brevetd, "dev", "--dir", d.dir)
	servers.Start(t, d.cmd)
	var text []byte
	servers.Eventually(t, "brevetd dev is ready", func() (err error) {
		text, err = os.ReadFile(filepath.Join(d.dir, "dev.env"))
		return err
	})
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		d.env[name] = strings.Trim(value, "'")
	}
	return d
}

// An event is what these tests read of a line of the audit log.
type event struct {
	Name      string `json:"event"`
	RequestID string `json:"request_id"`
	Outcome   string `json:"outcome"`
	Leases    []struct {
		ID         string `json:"lease"`
		Credential string `json:"credential"`
		State      string `json:"state"`
	} `json:"leases"`
}

// events returns the audit log. What is in it is on disk before the job hears
// of it, so there is nothing to wait for.
func (d *dev) events(t *testing.T) []event {
	t.Helper()
	var all []event
	for line := range strings.Lines(readFile(t, filepath.Join(d.dir, "audit.jsonl"))) {
		var e event
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("reading the audit log: %v", err)
		}
		all = append(all, e)
	}
	return all
}

// leases returns the sorted ids and credentials of the leases in the events that
// have the name and outcome.
func leases(all []event, name, outcome string) (ids, credentials []string) {
	for _, e := range all {
		if e.Name != name || e.Outcome != outcome {
			continue
		}
		for _, l := range e.Leases {
			ids, credentials = append(ids, l.ID), append(credentials, l.Credential)
		}
	}
	slices.Sort(ids)
	slices.Sort(credentials)
	return ids, credentials
}

// wantLeased fails unless exactly these credentials were leased, and each lease
// was revoked, or none.
func (d *dev) wantLeased(t *testing.T, revoked bool, credentials ...string) {
	t.Helper()
	all := d.events(t)
	granted, got := leases(all, "exchange", "granted")
	if !slices.Equal(got, credentials) {
		t.Errorf("leased %v, want %v", got, credentials)
	}
	want := granted
	if !revoked {
		want = nil
	}
	if ended, _ := leases(all, "revoke", "granted"); !slices.Equal(ended, want) {
		t.Errorf("revoked the leases %v, want %v", ended, want)
	}
}

// jwt is the form of all tokens here: the job's, the session's, the credentials.
var jwt = regexp.MustCompile(`eyJ[A-Za-z0-9_-]+\.`)

// wantMasked fails if any token can be read in a job's output.
func wantMasked(t *testing.T, output string) {
	t.Helper()
	if jwt.MatchString(output) {
		t.Errorf("a token is in the job's output:\n%s", output)
	}
}

// wantText fails unless output has all of the texts.
func wantText(t *testing.T, output string, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if !strings.Contains(output, text) {
			t.Errorf("the job's output has no %q:\n%s", text, output)
		}
	}
}

// repository makes a git repository with one commit of the files, which maps
// paths to contents.
func repository(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		write(t, filepath.Join(dir, name), text)
	}
	for _, args := range [][]string{
		{"init", "--quiet", "--initial-branch=main"},
		{"remote", "add", "origin", "https://git.example.com/acme/shop.git"},
		{"config", "user.name", "alice"},
		{"config", "user.email", "alice@example.com"},
		{"add", "."},
		{"commit", "--quiet", "--message=first"},
	} {
		cmd := exec.Command("git", args...)
		cmd.Dir, cmd.Env = dir, cleanEnv(t, dir)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
	}
	return dir
}

// cleanEnv returns an environment in which a client finds nothing of the user's
// or of a CI system that these tests run in, and the given folders first in its
// PATH.
func cleanEnv(t *testing.T, home string, first ...string) []string {
	t.Helper()
	path := append(first, os.Getenv("PATH"))
	return []string{
		"HOME=" + home, "XDG_CACHE_HOME=" + home + "/.cache", "XDG_CONFIG_HOME=" + home + "/.config",
		"TMPDIR=" + home, "PATH=" + strings.Join(path, string(filepath.ListSeparator)),
		"GIT_CONFIG_NOSYSTEM=1",
	}
}

// run runs cmd to its end and returns its exit status and output.
func run(t *testing.T, cmd *exec.Cmd) (status int, output string) {
	t.Helper()
	out, err := cmd.CombinedOutput()
	if _, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
		t.Fatalf("%v\n%s", err, out)
	}
	return cmd.ProcessState.ExitCode(), string(out)
}

// tool returns the path of something that test/tools.sh installs.
func tool(t *testing.T, name string) string {
	t.Helper()
	path := filepath.Join(root(t), ".tools", name)
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%v; run: make tools", err)
	}
	return path
}

// node returns the folder of a version of Node.
func node(t *testing.T, version string) string {
	t.Helper()
	return filepath.Dir(tool(t, "node_modules/node"+version+"/bin/node"))
}

func root(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// read returns a file of brevet's repository.
func read(t *testing.T, name string) string {
	t.Helper()
	return readFile(t, filepath.Join(root(t), name))
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// write makes a file, which anybody may run, and the folders above it.
func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
}

// sum returns the SHA-256 of a program in hex.
func sum(program string) string {
	s := sha256.Sum256([]byte(program))
	return hex.EncodeToString(s[:])
}

// serveTLS starts an https server and returns its URL and a file with the
// certificate to trust.
func serveTLS(t *testing.T, routes func(*http.ServeMux)) (url, caFile string) {
	t.Helper()
	mux := http.NewServeMux()
	routes(mux)
	server := httptest.NewTLSServer(mux)
	t.Cleanup(server.Close)
	caFile = filepath.Join(t.TempDir(), "ca.pem")
	write(t, caFile, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})))
	return server.URL, caFile
}

// get returns what is at url.
func get(url string) (status int, body []byte, err error) {
	resp, err := http.Get(url)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	body, err = io.ReadAll(resp.Body)
	return resp.StatusCode, body, err
}
