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
	"time"

	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/plugins/runner/runnertest"
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
	t.Run("long job", func(t *testing.T) { githubLongJob(t, b) })
	t.Run("long job cancelled", func(t *testing.T) { githubLongJobCancelled(t, b) })
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
	bin      string            // folder with more programs for the PATH; may be ""
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
	first := []string{node(t, r.node)}
	if r.bin != "" {
		first = append(first, r.bin)
	}
	cmd.Env = cleanEnv(t, shortTempDir(t), first...)
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

// githubLongJob runs for longer than four credentials live, one after the other,
// with the AWS SDK.
func githubLongJob(t *testing.T, b programs) {
	terraform := t.TempDir()
	build := exec.Command("go", "build", "-o", terraform, "./terraform")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building: %v\n%s", err, out)
	}
	d, broker := shortLived(t)
	status, out := d.act(t, actRun{
		node: "24", workflow: "examples/github/terraform.yml", action: newAction(t, b.brevet), bin: terraform,
		env: map[string]string{"AWS_EC2_METADATA_DISABLED": "true"},
	})
	if status != 0 || strings.Contains(out, runnertest.Canary) {
		t.Errorf("the job ended with %d:\n%s", status, out)
	}
	wantText(t, out, "nothing is leased before a tool asks for it", "applied, with 4 credentials", "stopped the agent, which gave back what it had")
	wantAllRevoked(t, broker)
}

func githubLongJobCancelled(t *testing.T, b programs) {
	bin := t.TempDir()
	write(t, filepath.Join(bin, "terraform"), "#!/bin/sh\nset -e\nbrevet aws-credential-process cloud >/dev/null\ntouch \"${STARTED:?}\"\nexec sleep 600\n")
	d, broker := shortLived(t)
	d.cancel(t, actRun{workflow: "examples/github/terraform.yml", action: newAction(t, b.brevet), bin: bin})
	wantAllRevoked(t, broker)
}

// shortLived is a broker that grants AWS roles for two seconds, which no real one
// does: AWS has none below fifteen minutes.
func shortLived(t *testing.T) (*dev, *runnertest.Broker) {
	t.Helper()
	lease := runnertest.Lease("cloud", "AWS_SESSION_TOKEN", "")
	lease.Kind, lease.Values, lease.Env = "aws-role", map[string]api.Secret{}, nil
	lease.Sensitive = []string{"access_key_id", "secret_access_key", "session_token"}
	for _, name := range lease.Sensitive {
		lease.Values[name] = api.NewSecret(name + "-" + runnertest.Canary)
	}
	broker := runnertest.NewBroker(lease)
	t.Cleanup(broker.Close)
	broker.SetTerms("cloud", runnertest.Terms{TTL: 2 * time.Second, Times: -1})
	return &dev{env: map[string]string{
		"BREVET_BROKER": broker.URL, "ACTIONS_ID_TOKEN_REQUEST_URL": broker.URL + "/github?api-version=2.0", "ACTIONS_ID_TOKEN_REQUEST_TOKEN": runnertest.Request,
	}}, broker
}

func wantAllRevoked(t *testing.T, broker *runnertest.Broker) {
	t.Helper()
	if sessions, live, _ := broker.Counts(); sessions == 0 || live != 0 {
		t.Errorf("%d sessions, of which %d live when the job has ended", sessions, live)
	}
}

// shortTempDir is a folder in which the path of a socket is not too long.
func shortTempDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "ci-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
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
