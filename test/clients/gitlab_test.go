package clients_test

import (
	"encoding/json"
	"fmt"
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
	t.Run("the command fails", func(t *testing.T) { gitlabCommandFails(t, b) })
	t.Run("refused", func(t *testing.T) { gitlabRefused(t, b) })
	t.Run("installation", func(t *testing.T) { gitlabInstallation(t, b) })
}

// gitlab runs the example with the given deploy.sh, and a token for the job with
// claims changed as in "&claim.ref=topic".
func (d *dev) gitlab(t *testing.T, b programs, deploy, claims string) (status int, output string) {
	t.Helper()
	repo := repository(t, map[string]string{
		".gitlab-ci.yml": read(t, "examples/gitlab/.gitlab-ci.yml"),
		"ci/brevet.yml":  read(t, "plugins/gitlab/template.yml"),
		"deploy.sh":      deploy,
	})
	// The client reads the project's CI/CD variables and the job's token here.
	variables, err := yaml.Marshal(map[string]string{
		"BREVET_BROKER": d.env["BREVET_BROKER"], "BREVET_BINARY": b.brevet, "BREVET_SHA256": sum(readFile(t, b.brevet)),
		"BREVET_ID_TOKEN": d.gitlabToken(t, claims),
	})
	if err != nil {
		t.Fatal(err)
	}
	home := t.TempDir()
	write(t, filepath.Join(repo, ".gitlab-ci-local-variables.yml"), string(variables))
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
	status, out := d.gitlab(t, b, read(t, "examples/gitlab/deploy.sh"), "")
	if status != 0 {
		t.Errorf("the job ended with %d:\n%s", status, out)
	}
	wantText(t, out, "nothing is leased yet", "pushing the image with ***", "deploying with ***")
	d.wantLeased(t, true, "deploy", "registry")
}

func gitlabCommandFails(t *testing.T, b programs) {
	d := startDev(t, b)
	status, out := d.gitlab(t, b, "#!/bin/sh\necho \"failing with $DEPLOY_TOKEN\"; exit 3\n", "")
	if status == 0 {
		t.Errorf("the job succeeded:\n%s", out)
	}
	wantText(t, out, "failing with ***", "FAIL 3") // the client's words for the exit status
	d.wantLeased(t, true, "deploy", "registry")
}

func gitlabRefused(t *testing.T, b programs) {
	d := startDev(t, b)
	status, out := d.gitlab(t, b, "#!/bin/sh\necho the command ran\n", "&claim.pipeline_source=merge_request_event")
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

// installScript returns the template's before_script.
func installScript(t *testing.T) string {
	t.Helper()
	var template struct {
		Job struct {
			BeforeScript []string `yaml:"before_script"`
		} `yaml:".brevet"`
	}
	if err := yaml.Unmarshal([]byte(read(t, "plugins/gitlab/template.yml")), &template); err != nil {
		t.Fatal(fmt.Errorf("reading the template: %w", err))
	}
	return strings.Join(template.Job.BeforeScript, "\n")
}
