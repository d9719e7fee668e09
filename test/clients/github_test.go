package clients_test

import (
	"bytes"
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/brevet-dev/brevet/test/servers"
)

// nodes are the versions that the action must run on: that of action.yml, and
// the oldest.
func nodes() []string { return []string{"24", "20"} }

func testGitHub(t *testing.T, b programs) {
	for _, version := range nodes() {
		t.Run("unit/node"+version, func(t *testing.T) { unitTests(t, version) })
		t.Run("example/node"+version, func(t *testing.T) { githubExample(t, b, version) })
	}
	t.Run("exec example", func(t *testing.T) { githubExec(t, b) })
	t.Run("exec cancelled", func(t *testing.T) { githubExecCancelled(t, b) })
	t.Run("outputs", func(t *testing.T) { githubOutputs(t, b) })
	t.Run("a later step fails", func(t *testing.T) { githubLaterStepFails(t, b) })
	t.Run("cancelled", func(t *testing.T) { githubCancelled(t, b) })
	t.Run("the broker is gone", func(t *testing.T) { githubBrokerGone(t, b) })
	t.Run("refused", func(t *testing.T) { githubRefused(t, b) })
	t.Run("download", func(t *testing.T) { githubDownload(t, b) })
}

// unitTests runs the action's own tests.
func unitTests(t *testing.T, version string) {
	files, err := filepath.Glob(filepath.Join(root(t), "actions/test/*.test.mjs"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no tests in actions/test: %v", err)
	}
	cmd := exec.Command(filepath.Join(node(t, version), "node"), append([]string{"--test"}, files...)...)
	cmd.Env = cleanEnv(t, t.TempDir())
	if status, out := run(t, cmd); status != 0 {
		t.Errorf("node --test ended with %d:\n%s", status, out)
	}
}

// An actRun is one run of a workflow by act, in a repository of its own.
type actRun struct {
	node     string            // version
	workflow string            // a file's path from the root of brevet's repository
	action   string            // folder with the action's files
	deploy   string            // deploy.sh; "": the example's
	vars     map[string]string // the repository's variables, besides BREVET_BROKER
	env      map[string]string // for all steps
}

// act runs a workflow against d.
func (d *dev) act(t *testing.T, r actRun) (status int, output string) {
	t.Helper()
	status, output = run(t, d.actCommand(t, r))
	wantMasked(t, output)
	return status, output
}

func (d *dev) actCommand(t *testing.T, r actRun) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), tool(t, "bin/act"), "-P", "ubuntu-latest=-self-hosted",
		"--no-cache-server", "--action-offline-mode", "--local-repository", "brevet-dev/brevet@v1="+r.action,
		"--env-file", d.stepEnv(t, r.env), "--var", "BREVET_BROKER="+d.env["BREVET_BROKER"])
	for name, value := range r.vars {
		cmd.Args = append(cmd.Args, "--var", name+"="+value)
	}
	cmd.Env = cleanEnv(t, t.TempDir(), node(t, r.node))
	if r.deploy == "" {
		r.deploy = read(t, "examples/github/deploy.sh")
	}
	cmd.Dir = repository(t, map[string]string{".github/workflows/test.yml": read(t, r.workflow), "deploy.sh": r.deploy})
	return cmd
}

// stepEnv returns a file with what GitHub gives the steps of a job for its
// token, and with extra, which wins.
func (d *dev) stepEnv(t *testing.T, extra map[string]string) string {
	t.Helper()
	all := map[string]string{
		"ACTIONS_ID_TOKEN_REQUEST_URL":   d.env["ACTIONS_ID_TOKEN_REQUEST_URL"],
		"ACTIONS_ID_TOKEN_REQUEST_TOKEN": d.env["ACTIONS_ID_TOKEN_REQUEST_TOKEN"],
	}
	maps.Copy(all, extra)
	var text strings.Builder
	for name, value := range all {
		fmt.Fprintf(&text, "%s='%s'\n", name, value)
	}
	file := filepath.Join(t.TempDir(), "step.env")
	write(t, file, text.String())
	return file
}

// programName is the name of brevet for this machine, in a release.
func programName() string { return fmt.Sprintf("brevet-%s-%s", runtime.GOOS, runtime.GOARCH) }

// newAction copies the action's files, with brevet among them unless it is "".
func newAction(t *testing.T, brevet string) string {
	t.Helper()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "action.yml"), read(t, "action.yml"))
	if err := os.CopyFS(filepath.Join(dir, "actions"), os.DirFS(filepath.Join(root(t), "actions"))); err != nil {
		t.Fatal(err)
	}
	if brevet != "" {
		write(t, filepath.Join(dir, "bin", programName()), readFile(t, brevet))
	}
	return dir
}

func githubExample(t *testing.T, b programs, version string) {
	d := startDev(t, b)
	status, out := d.act(t, actRun{node: version, workflow: "examples/github/deploy.yml", action: newAction(t, b.brevet)})
	if status != 0 {
		t.Errorf("the job ended with %d:\n%s", status, out)
	}
	wantText(t, out, "pushing the image with ***", "deploying with ***", "brevet: gave the leases back")
	d.wantLeased(t, true, "deploy", "registry")
}

func githubExec(t *testing.T, b programs) {
	d := startDev(t, b)
	status, out := d.act(t, actRun{node: "24", workflow: "examples/github/exec.yml", action: newAction(t, b.brevet)})
	if status != 0 {
		t.Errorf("the job ended with %d:\n%s", status, out)
	}
	wantText(t, out, "pushing the image with ***", "deploying with ***", "brevet: nothing was leased")
	d.wantLeased(t, true, "deploy", "registry")
}

func githubOutputs(t *testing.T, b programs) {
	d := startDev(t, b)
	status, out := d.act(t, actRun{node: "24", workflow: "test/clients/testdata/outputs.yml", action: newAction(t, b.brevet)})
	if status != 0 {
		t.Errorf("the job ended with %d:\n%s", status, out)
	}
	wantText(t, out, "without - not set", "with - ***", "lease of registry")
	d.wantLeased(t, true, "registry")
}

func githubLaterStepFails(t *testing.T, b programs) {
	d := startDev(t, b)
	status, out := d.act(t, actRun{node: "24", workflow: "test/clients/testdata/later-step-fails.yml", action: newAction(t, b.brevet)})
	if status == 0 {
		t.Errorf("the job succeeded:\n%s", out)
	}
	wantText(t, out, "about to fail with ***", "exit status 3")
	d.wantLeased(t, true, "deploy")
}

func githubCancelled(t *testing.T, b programs) {
	d := startDev(t, b)
	d.cancel(t, actRun{workflow: "test/clients/testdata/cancelled.yml", action: newAction(t, b.brevet)})
	d.wantLeased(t, true, "deploy")
}

// githubExecCancelled leaves brevet below a shell: act kills a step's first
// process at once, where GitHub's runner sends it a signal and waits.
func githubExecCancelled(t *testing.T, b programs) {
	d := startDev(t, b)
	d.cancel(t, actRun{
		workflow: "test/clients/testdata/exec-cancelled.yml", action: newAction(t, b.brevet),
		deploy: "#!/bin/sh\necho \"with $DEPLOY_TOKEN\"; touch \"${STARTED:?}\"; exec sleep 600\n",
	})
	servers.Eventually(t, "the leases are revoked", func() error {
		if ids, _ := leases(d.events(t), "revoke", "granted"); len(ids) != 2 {
			return fmt.Errorf("%d of 2 are", len(ids))
		}
		return nil
	})
	d.wantLeased(t, true, "deploy", "registry")
}

// cancel interrupts act, as a person who cancels the job does, while a step runs
// that would not end by itself: one that has made the file $STARTED.
func (d *dev) cancel(t *testing.T, r actRun) {
	t.Helper()
	started := filepath.Join(t.TempDir(), "started")
	r.node, r.env = "24", map[string]string{"STARTED": started}
	cmd := d.actCommand(t, r)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the job's output:\n%s", &out)
		}
	})
	servers.Eventually(t, "the step runs", func() error { _, err := os.Stat(started); return err })
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil || strings.Contains(out.String(), "the job went on") {
		t.Errorf("the job was not cancelled, %v:\n%s", err, &out)
	}
	wantMasked(t, out.String())
}

func githubBrokerGone(t *testing.T, b programs) {
	d := startDev(t, b)
	status, out := d.act(t, actRun{
		node: "24", workflow: "test/clients/testdata/broker-gone.yml", action: newAction(t, b.brevet),
		env: map[string]string{"BROKER_PID": fmt.Sprint(d.cmd.Process.Pid)},
	})
	if status != 0 {
		t.Errorf("the job ended with %d:\n%s", status, out)
	}
	wantText(t, out, "::warning::revoking the leases failed; they end by themselves at ")
	d.wantLeased(t, false, "deploy")
}

func githubRefused(t *testing.T, b programs) {
	d := startDev(t, b)
	status, out := d.act(t, actRun{
		node: "24", workflow: "test/clients/testdata/refused.yml", action: newAction(t, b.brevet),
		env: map[string]string{
			"ACTIONS_ID_TOKEN_REQUEST_URL": d.env["ACTIONS_ID_TOKEN_REQUEST_URL"] +
				"&claim.event_name=pull_request&claim.ref=refs/pull/7/merge&claim.environment=",
		},
	})
	if status == 0 {
		t.Errorf("the job succeeded:\n%s", out)
	}
	wantText(t, out, "no REGISTRY_TOKEN, no DEPLOY_TOKEN", "brevet: nothing was leased", "hint: ")
	d.wantLeased(t, false)
	for _, e := range d.events(t) {
		if e.Name == "exchange" {
			wantText(t, out, e.RequestID) // so that the operator finds the whole reason
		}
	}
}

// githubDownload lets the action get brevet from a release, which is a redirect
// away as GitHub's are.
func githubDownload(t *testing.T, b programs) {
	program := readFile(t, b.brevet)
	server, ca := serveTLS(t, func(mux *http.ServeMux) {
		mux.Handle("GET /brevet-dev/brevet/releases/download/v1.2.3/"+programName(), http.RedirectHandler("/asset", http.StatusFound))
		mux.HandleFunc("GET /asset", func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte(program)) })
	})
	for _, test := range []struct {
		name       string
		sum        string // input sha256
		own        string // the sum that the action knows of v1.2.3
		wantStatus int
		want       string
		leased     []string
	}{
		{"the right sum", sum(program), "", 0, "with ***", []string{"registry"}},
		{"the right sum in the action", "", sum(program), 0, "with ***", []string{"registry"}},
		{"a wrong sum", sum("x"), sum(program), 1, "what was downloaded has the SHA-256 " + sum(program), nil},
		{"a wrong sum in the action", "", sum("x"), 1, "what was downloaded has the SHA-256 " + sum(program), nil},
		{"no sum", "", "", 1, "the SHA-256 of brevet v1.2.3 for", nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			d, action := startDev(t, b), newAction(t, "")
			if test.own != "" {
				platform := strings.TrimPrefix(programName(), "brevet-")
				write(t, filepath.Join(action, "actions/release.json"),
					fmt.Sprintf(`{"version": "v1.2.3", "sha256": {%q: %q}}`, platform, test.own))
			}
			status, out := d.act(t, actRun{
				node: "24", workflow: "test/clients/testdata/download.yml", action: action,
				vars: map[string]string{"SHA256": test.sum},
				env:  map[string]string{"GITHUB_SERVER_URL": server, "NODE_EXTRA_CA_CERTS": ca},
			})
			if status != test.wantStatus {
				t.Errorf("the job ended with %d:\n%s", status, out)
			}
			wantText(t, out, test.want)
			d.wantLeased(t, true, test.leased...)
		})
	}
}
