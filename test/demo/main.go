// Command demo plays the main job with the real programs: "brevetd dev" as the
// broker, "brevet exec" as the runner plugin in a job of GitHub Actions. It
// tells what happens, fails if anything is not as it should be, and cleans up.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "demo: error:", err)
		os.Exit(1)
	}
}

// job is what the job runs: a careless script.
const job = `echo "registry token, plainly:  $REGISTRY_TOKEN"
echo "registry token, base64:   $(printf %s "$REGISTRY_TOKEN" | base64 | tr -d '\n')"
echo "deploy token, in JSON:    {\"token\": \"$DEPLOY_TOKEN\"}"
bin/brevetd leases list --config "$DEMO_CONFIG"`

func run(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "brevet-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	d := &demo{dir: dir}
	stop, err := d.startBroker(ctx)
	if err != nil {
		return err
	}
	defer stop()
	for _, step := range []func(context.Context) error{d.mainJob, d.afterwards, d.replay, d.pullRequest} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	say("Done. Read on in README.md, or start your own with: bin/brevetd dev")
	return nil
}

type demo struct {
	dir   string
	env   []string // of a GitHub job
	token string   // the subject token that the main job showed
}

// say prints a headline, bold on a terminal (no-color.org).
func say(format string, args ...any) {
	bold, plain := "\033[1m", "\033[0m"
	if info, err := os.Stdout.Stat(); err != nil || info.Mode()&os.ModeCharDevice == 0 || os.Getenv("NO_COLOR") != "" {
		bold, plain = "", ""
	}
	fmt.Printf("\n"+bold+"▸ "+format+plain+"\n", args...)
}

func indent(text string) {
	for line := range strings.Lines(text) {
		fmt.Print("    ", line)
	}
}

// startBroker starts brevetd dev and waits until it accepts.
func (d *demo) startBroker(ctx context.Context) (stop func(), err error) {
	var log bytes.Buffer
	cmd := exec.CommandContext(ctx, "bin/brevetd", "dev", "--dir", d.dir)
	cmd.Stderr = &log
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	stop = func() {
		if err := cmd.Process.Signal(syscall.SIGTERM); err == nil {
			<-exited
		}
	}
	for {
		if d.env, err = readEnv(filepath.Join(d.dir, "dev.env")); err == nil {
			say("A broker runs in one process: Redis inside, a software root key, a lab issuer that imitates GitHub")
			indent(lookup(d.env, "BREVET_BROKER") + "\n")
			return stop, nil
		}
		select {
		case <-exited:
			return nil, fmt.Errorf("brevetd dev ended early:\n%s", &log)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func readEnv(file string) ([]string, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	return strings.Split(strings.ReplaceAll(strings.TrimSpace(string(data)), "'", ""), "\n"), nil
}

func lookup(env []string, name string) string {
	for _, e := range env {
		if value, ok := strings.CutPrefix(e, name+"="); ok {
			return value
		}
	}
	return ""
}

// brevet runs the runner plugin as a job would, with more variables.
func (d *demo) brevet(ctx context.Context, env []string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "bin/brevet", args...)
	cmd.Env = append(append(os.Environ(), d.env...), env...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (d *demo) mainJob(ctx context.Context) error {
	say("A job on main runs: brevet exec --credential registry,deploy -- sh job.sh")
	platform, err := d.watchPlatform()
	if err != nil {
		return err
	}
	defer platform.Close()
	request, err := url.Parse(lookup(d.env, "ACTIONS_ID_TOKEN_REQUEST_URL"))
	if err != nil {
		return err
	}
	out, err := d.brevet(ctx, []string{
		"DEMO_CONFIG=" + filepath.Join(d.dir, "brevetd.yaml"),
		"ACTIONS_ID_TOKEN_REQUEST_URL=" + platform.URL + request.RequestURI(),
	}, "exec", "--credential", "registry,deploy", "--", "sh", "-c", job)
	indent(out)
	switch {
	case err != nil:
		return fmt.Errorf("the job failed: %w", err)
	case strings.Contains(out, "eyJ") || strings.Count(out, "***") < 3:
		return errors.New("the job's output is not masked")
	case strings.Count(out, "active") != 2:
		return errors.New("the leases were not active while the job ran")
	}
	say("It asked once, and got both. What it printed was masked on the way out, in base64 too")
	return nil
}

// watchPlatform stands between the job and its platform, as a leaky step of the
// job could, and keeps a copy of the token.
func (d *demo) watchPlatform() (*httptest.Server, error) {
	lab, err := url.Parse(lookup(d.env, "ACTIONS_ID_TOKEN_REQUEST_URL"))
	if err != nil {
		return nil, err
	}
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: lab.Scheme, Host: lab.Host})
	proxy.ModifyResponse = func(r *http.Response) error {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return err
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		var answer struct{ Value string }
		if err := json.Unmarshal(body, &answer); err != nil {
			return err
		}
		d.token = answer.Value
		return nil
	}
	return httptest.NewServer(proxy), nil
}

func (d *demo) afterwards(ctx context.Context) error {
	say("The job is over: brevetd leases list, and what the audit log says of the end")
	list, err := exec.CommandContext(ctx, "bin/brevetd", "leases", "list", "--config", filepath.Join(d.dir, "brevetd.yaml")).Output()
	if err != nil {
		return err
	}
	indent(string(list))
	if strings.Contains(string(list), "active") {
		return errors.New("a lease outlived its job")
	}
	log, err := os.ReadFile(filepath.Join(d.dir, "audit.jsonl"))
	if err != nil {
		return err
	}
	revoked := 0
	for line := range strings.Lines(string(log)) {
		var e struct {
			Event  string
			Leases []struct {
				Lease, Credential, State string
				Expires                  time.Time `json:"expires_at"`
			}
		}
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			return err
		}
		if e.Event == "revoke" {
			revoked++
			indent(fmt.Sprintf("%s: lease of %s %s; the signed token itself ends at %s\n",
				e.Leases[0].Lease, e.Leases[0].Credential, e.Leases[0].State, e.Leases[0].Expires.Local().Format(time.TimeOnly)))
		}
	}
	if revoked != 2 {
		return fmt.Errorf("the audit log tells of %d revoked leases, not 2", revoked)
	}
	return nil
}

// refused runs the plugin and expects a refusal.
func (d *demo) refused(ctx context.Context, env ...string) error {
	out, err := d.brevet(ctx, env, "exec", "--credential", "deploy", "--", "echo", "this must not run")
	indent(out)
	if err == nil || !strings.Contains(out, "brevet: error:") {
		return errors.New("it was let in")
	}
	return nil
}

func (d *demo) replay(ctx context.Context) error {
	say("A thief found the job's token in a log, and shows it again")
	file := filepath.Join(d.dir, "stolen")
	if err := os.WriteFile(file, []byte(d.token), 0o600); err != nil {
		return err
	}
	return d.refused(ctx, "BREVET_TOKEN_FILE="+file)
}

func (d *demo) pullRequest(ctx context.Context) error {
	say("A pull request asks for the same credential")
	return d.refused(ctx, "ACTIONS_ID_TOKEN_REQUEST_URL="+lookup(d.env, "ACTIONS_ID_TOKEN_REQUEST_URL")+
		"&claim.event_name=pull_request&claim.ref=refs/pull/7/merge")
}
