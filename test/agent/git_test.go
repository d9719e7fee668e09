package agent

import (
	"encoding/pem"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/brevet-dev/brevet/plugins/runner/runnertest"
	"github.com/brevet-dev/brevet/test/agent/job"
)

// A host is a git host that wants a user's token, over https.
type host struct {
	*httptest.Server
	mu   sync.Mutex
	seen []string // user:token of those that had one
}

// startHost serves one repository, acme/shop.git, with one commit, by git's own
// server. git of this process trusts it and asks brevet for its credentials.
func startHost(t *testing.T, accept func(user, token string) bool) *host {
	t.Helper()
	dir := t.TempDir()
	repo := filepath.Join(dir, "acme", "shop.git")
	git(t, "", "init", "-q", "--bare", "-b", "main", repo)
	git(t, repo, "config", "http.receivepack", "true")
	backend := strings.TrimSpace(git(t, "", "--exec-path"))
	serve := &cgi.Handler{
		Path: filepath.Join(backend, "git-http-backend"),
		Env:  []string{"GIT_PROJECT_ROOT=" + dir, "GIT_HTTP_EXPORT_ALL=1", "REMOTE_USER=job"},
	}
	h := &host{}
	h.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, token, ok := r.BasicAuth()
		if !ok || !accept(user, token) {
			w.Header().Set("WWW-Authenticate", `Basic realm="git"`)
			http.Error(w, "no", http.StatusUnauthorized)
			return
		}
		h.mu.Lock()
		h.seen = append(h.seen, user+":"+token)
		h.mu.Unlock()
		serve.ServeHTTP(w, r)
	}))
	t.Cleanup(h.Close)
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: h.Certificate().Raw})
	t.Setenv("GIT_CONFIG_GLOBAL", job.Write(t, "gitconfig",
		"[credential]\n\thelper = brevet\n\tuseHttpPath = true\n[user]\n\tname = job\n\temail = job@example.com\n"))
	t.Setenv("GIT_SSL_CAINFO", job.Write(t, "ca.pem", string(ca)))
	t.Setenv("GIT_CONFIG_NOSYSTEM", "1")
	t.Setenv("GIT_TERMINAL_PROMPT", "0")
	return h
}

func (h *host) name() string { return strings.TrimPrefix(h.URL, "https://") }

func git(t *testing.T, dir string, args ...string) string {
	t.Helper()
	if dir != "" {
		args = append([]string{"-C", dir}, args...)
	}
	return job.Output(t, "git", args...)
}

// TestGit clones and pushes, with other tokens as leases end. The host takes
// tokens only as long as their leases live.
func TestGit(t *testing.T) {
	broker := job.Start(t)
	broker.SetTerms(job.Shop, runnertest.Terms{TTL: 2 * time.Second, Times: -1})
	first := map[string]time.Time{}
	var mu sync.Mutex
	h := startHost(t, func(user, token string) bool {
		mu.Lock()
		defer mu.Unlock()
		if first[token].IsZero() {
			first[token] = time.Now()
		}
		return user == "x-access-token" && strings.HasPrefix(token, job.Token(job.Shop)) && time.Since(first[token]) < 2*time.Second
	})
	t.Setenv("BREVET_GIT", h.name()+"/acme=shop")
	work := filepath.Join(t.TempDir(), "work")
	git(t, "", "clone", "-q", h.URL+"/acme/shop.git", work)
	for deadline := time.Now().Add(15 * time.Second); ; {
		git(t, work, "commit", "-q", "--allow-empty", "-m", "more")
		git(t, work, "push", "-q", "origin", "HEAD:main")
		mu.Lock()
		tokens := len(first)
		mu.Unlock()
		if tokens >= 3 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the host saw %d tokens", tokens)
		}
	}
	if sessions, _, _ := broker.Counts(); sessions != 1 {
		t.Errorf("%d exchanges, want 1", sessions)
	}
}

// TestGitElsewhere shows that a host gets no credential of another's.
func TestGitElsewhere(t *testing.T) {
	broker := job.Start(t)
	h := startHost(t, func(string, string) bool { return true })
	for _, routes := range []string{"", "git.example.com=shop", h.name() + "/acm=shop", h.name() + "/acme/sho=shop"} {
		t.Setenv("BREVET_GIT", routes)
		out, err := exec.Command("git", "ls-remote", h.URL+"/acme/shop.git").CombinedOutput()
		if err == nil || strings.Contains(string(out), runnertest.Canary) {
			t.Errorf("with %q: %v, %s", routes, err, out)
		}
	}
	if sessions, _, _ := broker.Counts(); sessions != 0 || len(h.seen) != 0 {
		t.Errorf("%d exchanges, the host saw %d credentials", sessions, len(h.seen))
	}
}

// TestGitRefused shows that a refusal ends git: it asks no person.
func TestGitRefused(t *testing.T) {
	job.Start(t)
	h := startHost(t, func(string, string) bool { return true })
	t.Setenv("BREVET_GIT", h.name()+"=admin")
	asked := filepath.Join(t.TempDir(), "asked")
	t.Setenv("GIT_TERMINAL_PROMPT", "1")
	t.Setenv("GIT_ASKPASS", job.Write(t, "ask", "#!/bin/sh\ntouch "+asked+"\n"))
	if err := os.Chmod(os.Getenv("GIT_ASKPASS"), 0o700); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("git", "ls-remote", h.URL+"/acme/shop.git").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "brevet: error: the agent does not hand out admin") {
		t.Errorf("git: %v, %s", err, out)
	}
	if _, err := os.Stat(asked); err == nil {
		t.Error("git asked a person")
	}
}
