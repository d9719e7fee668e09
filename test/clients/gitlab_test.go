package clients_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
)

func testGitLab(t *testing.T, b programs) {
	t.Run("example", func(t *testing.T) { gitlabExample(t, b) })
	t.Run("component", func(t *testing.T) { gitlabComponent(t, b) })
	t.Run("one token, one key", func(t *testing.T) { gitlabOneKey(t, b) })
	t.Run("the command fails", func(t *testing.T) { gitlabCommandFails(t, b) })
	t.Run("refused", func(t *testing.T) { gitlabRefused(t, b) })
	t.Run("installation", func(t *testing.T) { gitlabInstallation(t, b) })
}

// A gitlabRun is one run of a pipeline, in a repository of its own.
type gitlabRun struct {
	pipeline  string            // .gitlab-ci.yml; "": the example
	deploy    string            // deploy.sh
	claims    string            // changed in the job's token, as in "&claim.ref=topic"
	variables map[string]string // the project's CI/CD variables; nil: what the example needs
}

// gitlab runs a pipeline against d.
func (d *dev) gitlab(t *testing.T, b programs, r gitlabRun) (status int, output string) {
	t.Helper()
	if r.pipeline == "" {
		r.pipeline = read(t, "examples/gitlab/.gitlab-ci.yml")
	}
	if r.variables == nil {
		r.variables = map[string]string{"BREVET_BROKER": d.env["BREVET_BROKER"], "BREVET_BINARY": b.brevet, "BREVET_SHA256": sum(readFile(t, b.brevet))}
	}
	template := read(t, "plugins/gitlab/templates/brevet.yml")
	repo := repository(t, map[string]string{
		".gitlab-ci.yml": r.pipeline, "deploy.sh": r.deploy, "ci/brevet.yml": template, "templates/brevet.yml": template,
	})
	// The client reads the project's CI/CD variables and the job's token here.
	variables := maps.Clone(r.variables)
	variables["BREVET_ID_TOKEN"] = d.gitlabToken(t, r.claims)
	text, err := yaml.Marshal(variables)
	if err != nil {
		t.Fatal(err)
	}
	home := t.TempDir()
	write(t, filepath.Join(repo, ".gitlab-ci-local-variables.yml"), string(text))
	cmd := exec.CommandContext(t.Context(), tool(t, "node_modules/.bin/gitlab-ci-local"))
	cmd.Dir, cmd.Env = repo, cleanEnv(t, home, node(t, "24"))
	status, output = run(t, cmd)
	wantMasked(t, output)
	if left, err := filepath.Glob(filepath.Join(home, "brevet-*")); err != nil || len(left) > 0 {
		t.Errorf("the job left %v, %v", left, err)
	}
	return status, output
}

// gitlabToken gets a job's token as GitLab would put it into BREVET_ID_TOKEN.
func (d *dev) gitlabToken(t *testing.T, claims string) string {
	t.Helper()
	u := d.env["LAB_GITLAB_REQUEST_URL"] + "&audience=" + url.QueryEscape(d.env["BREVET_BROKER"]) + claims
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, u, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "bearer "+d.env["LAB_GITLAB_REQUEST_TOKEN"])
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var answer struct{ Value string }
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil || answer.Value == "" {
		t.Fatalf("the lab gave no token: %s, %v", resp.Status, err)
	}
	return answer.Value
}

func gitlabExample(t *testing.T, b programs) {
	d := startDev(t, b)
	status, out := d.gitlab(t, b, gitlabRun{deploy: read(t, "examples/gitlab/deploy.sh")})
	if status != 0 {
		t.Errorf("the job ended with %d:\n%s", status, out)
	}
	wantText(t, out, "nothing is leased yet", "pushing the image with ***", "deploying with ***")
	d.wantLeased(t, true, "deploy", "registry")
}

// gitlabComponent includes the template as a component, with all that it needs
// as inputs.
func gitlabComponent(t *testing.T, b programs) {
	d := startDev(t, b)
	pipeline := fmt.Sprintf(`
include:
  - component: $CI_SERVER_FQDN/$CI_PROJECT_PATH/brevet@$CI_COMMIT_SHA
    inputs: {broker: %q, credentials: "registry,deploy", ttl: 4m, binary: %q, sha256: %q}
deploy:
  extends: .brevet
  script:
    - '[ "$BREVET_TTL" = 4m ]'
    - brevet exec -- ./deploy.sh
`, d.env["BREVET_BROKER"], b.brevet, sum(readFile(t, b.brevet)))
	status, out := d.gitlab(t, b, gitlabRun{pipeline: pipeline, deploy: read(t, "examples/gitlab/deploy.sh"), variables: map[string]string{}})
	if status != 0 {
		t.Errorf("the job ended with %d:\n%s", status, out)
	}
	wantText(t, out, "pushing the image with ***", "deploying with ***")
	d.wantLeased(t, true, "deploy", "registry")
}

// gitlabOneKey uses the job's one token twice, with the key that brevet keeps,
// and then as one who has only read the token.
func gitlabOneKey(t *testing.T, b programs) {
	d := startDev(t, b)
	pipeline := `
include: [{local: ci/brevet.yml}]
deploy:
  extends: .brevet
  script:
    - brevet exec --credential registry -- ./deploy.sh
    - brevet exec --credential deploy -- ./deploy.sh
    - '[ "$(stat -c %a "$BREVET_STATE_DIR" "$BREVET_STATE_DIR"/* | tr "\n" " ")" = "700 600 " ]'
    - BREVET_STATE_DIR=$PWD/thief brevet exec --credential deploy -- ./deploy.sh || echo "the thief got $?"
`
	status, out := d.gitlab(t, b, gitlabRun{pipeline: pipeline, deploy: "#!/bin/sh\necho \"with ${REGISTRY_TOKEN-}${DEPLOY_TOKEN-}\"\n"})
	if status != 0 || strings.Count(out, "with ***") != 2 {
		t.Errorf("the job ended with %d:\n%s", status, out)
	}
	wantText(t, out, "subject token already used", "the thief got 77")
	d.wantLeased(t, true, "deploy", "registry")
}

func gitlabCommandFails(t *testing.T, b programs) {
	d := startDev(t, b)
	status, out := d.gitlab(t, b, gitlabRun{deploy: "#!/bin/sh\necho \"failing with $DEPLOY_TOKEN\"; exit 3\n"})
	if status == 0 {
		t.Errorf("the job succeeded:\n%s", out)
	}
	wantText(t, out, "failing with ***", "FAIL 3") // the client's words for the exit status
	d.wantLeased(t, true, "deploy", "registry")
}

func gitlabRefused(t *testing.T, b programs) {
	d := startDev(t, b)
	status, out := d.gitlab(t, b, gitlabRun{deploy: "#!/bin/sh\necho the command ran\n", claims: "&claim.pipeline_source=merge_request_event"})
	if status == 0 || strings.Contains(out, "the command ran") {
		t.Errorf("the command ran:\n%s", out)
	}
	wantText(t, out, "brevet: error: ", "brevet: hint: ")
	d.wantLeased(t, false)
}

// gitlabInstallation runs the template's before_script by a plain POSIX shell.
func gitlabInstallation(t *testing.T, b programs) {
	program := readFile(t, b.brevet)
	server, ca := serveTLS(t, func(mux *http.ServeMux) {
		mux.HandleFunc("GET /asset", func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte(program)) })
		mux.Handle("GET /to-http", http.RedirectHandler("http://127.0.0.1:1/asset", http.StatusFound))
	})
	for _, test := range []struct {
		name       string
		env        []string
		wantStatus int
		want       string
	}{
		{"a program", []string{"BREVET_BINARY=" + b.brevet}, 0, "installed brevet "},
		{"a program with the wrong sum", []string{"BREVET_BINARY=" + b.brevet, "BREVET_SHA256=" + sum("x")}, 1, "the program's SHA-256 is " + sum(program)},
		{"no such program", []string{"BREVET_BINARY=/nowhere"}, 1, "copying BREVET_BINARY"},
		{"a download", []string{"BREVET_DOWNLOAD_URL=" + server + "/asset", "BREVET_SHA256=" + sum(program)}, 0, "installed brevet "},
		{"a download with the wrong sum", []string{"BREVET_DOWNLOAD_URL=" + server + "/asset", "BREVET_SHA256=" + sum("x")}, 1, "the program's SHA-256 is " + sum(program)},
		{"a download without a sum", []string{"BREVET_DOWNLOAD_URL=" + server + "/asset"}, 1, "without a known SHA-256"},
		{"a redirect to http", []string{"BREVET_DOWNLOAD_URL=" + server + "/to-http", "BREVET_SHA256=" + sum(program)}, 1, "downloading https://"},
		{"plain http", []string{"BREVET_DOWNLOAD_URL=http://127.0.0.1:1/x", "BREVET_SHA256=" + sum(program)}, 1, "not https"},
		{"nothing given", nil, 1, "no brevet"},
	} {
		t.Run(test.name, func(t *testing.T) {
			cmd := exec.Command("sh", "-ec", "os=o arch=a url=u sum=s dir=d\n"+installScript(t)+
				"\n[ $os$arch$url$sum$dir = oausd ] # the job's own\necho installed $(brevet --version)\n")
			cmd.Env = append(cleanEnv(t, t.TempDir()), "CI_JOB_ID=7", "CURL_CA_BUNDLE="+ca)
			cmd.Env = append(cmd.Env, test.env...)
			status, out := run(t, cmd)
			if status != test.wantStatus {
				t.Errorf("the script ended with %d:\n%s", status, out)
			}
			wantText(t, out, test.want)
		})
	}
	t.Run("a folder that was there before", func(t *testing.T) {
		home := t.TempDir()
		if err := os.Symlink(t.TempDir(), filepath.Join(home, "brevet-job-7")); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("sh", "-ec", installScript(t))
		cmd.Env = append(cleanEnv(t, home), "CI_JOB_ID=7", "BREVET_BINARY="+b.brevet)
		status, out := run(t, cmd)
		if status == 0 {
			t.Error("the script succeeded")
		}
		wantText(t, out, "was there before the job")
	})
}

// installScript returns the part of the template's before_script that installs
// brevet. What the first part makes of inputs, the client's runs show.
func installScript(t *testing.T) string {
	t.Helper()
	_, jobs, found := strings.Cut(read(t, "plugins/gitlab/templates/brevet.yml"), "\n---\n")
	var template struct {
		Job struct {
			BeforeScript []string `yaml:"before_script"`
		} `yaml:".brevet"`
	}
	if err := yaml.Unmarshal([]byte(jobs), &template); err != nil || !found || len(template.Job.BeforeScript) != 2 {
		t.Fatalf("reading the template: %v", err)
	}
	return template.Job.BeforeScript[1]
}
