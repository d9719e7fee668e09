package system

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/test/servers"
)

func TestRedisGoesAndComesBack(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	addr := servers.FreeAddr(t)
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	startRedis := func() *exec.Cmd {
		cmd := exec.Command("redis-server", "--port", port, "--bind", "127.0.0.1", "--dir", dir, "--appendonly", "yes", "--appendfsync", "always")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		servers.Eventually(t, "redis-server listens", func() error {
			c, err := net.Dial("tcp", addr)
			if err == nil {
				err = c.Close()
			}
			return err
		})
		return cmd
	}
	server := startRedis()
	t.Cleanup(func() { server.Process.Kill(); server.Wait() })
	f := start(t, options{redis: addr})
	answer := f.exchange(f.form(f.token(nil), "deploy"))

	server.Process.Kill()
	server.Wait()
	form := f.form(f.token(nil), "deploy")
	a := f.post(api.PathToken, form)
	if e := a.oauth(t); a.status != http.StatusServiceUnavailable || e.Code != "temporarily_unavailable" || a.header.Get("Retry-After") == "" {
		t.Errorf("exchange without Redis = %d %s, Retry-After %q", a.status, a.body, a.header.Get("Retry-After"))
	}
	if err := f.ready(); err == nil {
		t.Error("ready without Redis")
	}
	if r, err := http.Get("http://" + f.admin + "/healthz"); err != nil || r.StatusCode != 200 {
		t.Errorf("not alive without Redis: %v", err)
	}

	server = startRedis()
	servers.Eventually(t, "the broker is ready again", f.ready)
	f.exchange(form) // the refused exchange did not burn the token
	if a := f.post(api.PathRevoke, map[string][]string{"token": {answer.AccessToken.Reveal()}}); a.status != 200 {
		t.Errorf("revoking what was issued before = %d %s", a.status, a.body)
	}
}

// A session outlives the broker that issued it, and its epoch key.
func TestBrokerIsKilledAndComesBack(t *testing.T) {
	t.Parallel()
	f := start(t, options{})
	answer := f.exchange(f.form(f.token(nil), "deploy"))
	f.kill()
	f.serve()
	session := answer.AccessToken.Reveal()
	a := f.do("GET", api.PathLeases+answer.Leases[0].LeaseID, "", "", "Authorization", "Bearer "+session)
	if a.status != 200 || !strings.Contains(string(a.body), `"active"`) {
		t.Errorf("GET lease after the restart = %d %s", a.status, a.body)
	}
	if a := f.post(api.PathRevoke, map[string][]string{"token": {session}}); a.status != 200 {
		t.Errorf("revoke after the restart = %d %s", a.status, a.body)
	}
	f.stop()
	if out := f.brevetd("audit", "verify"); !strings.HasPrefix(out, "ok: ") {
		t.Errorf("audit verify: %s", out)
	}
}

func TestAuditLogShowsTampering(t *testing.T) {
	t.Parallel()
	f := start(t, options{})
	f.exchange(f.form(f.token(nil), "deploy"))
	f.stop()
	file := filepath.Join(f.dir, "audit.jsonl")
	log, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	f.brevetd("audit", "verify")
	// An auditor elsewhere needs the root's certificate and nothing else.
	f.write("auditor/root.crt", f.brevetd("keys", "status", "--certificate"))
	if out := f.brevetd("audit", "verify", "--root", "auditor/root.crt", "--url", f.url, "audit.jsonl"); !strings.HasPrefix(out, "ok: ") {
		t.Errorf("audit verify --root: %s", out)
	}
	if err := os.WriteFile(file, []byte(strings.Replace(string(log), `"granted"`, `"refused"`, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := f.command("audit", "verify").CombinedOutput(); err == nil || !strings.Contains(string(out), "line ") {
		t.Errorf("audit verify of a changed log = %v, %s", err, out)
	}
}

// SIGTERM while a request is under way: it is answered, then the broker ends.
func TestShutdownFinishesWhatWasBegun(t *testing.T) {
	t.Parallel()
	f := start(t, options{})
	conn, err := net.Dial("tcp", strings.TrimPrefix(f.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	body := f.form(f.token(nil), "deploy").Encode()
	fmt.Fprintf(conn, "POST /v1/token HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", len(body), body[:10])
	servers.Eventually(t, "the broker has the beginning of the request", func() error { return f.ready() })
	if err := f.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	servers.Eventually(t, "the broker stops accepting", func() error {
		c, err := net.Dial("tcp", strings.TrimPrefix(f.url, "http://"))
		if err != nil {
			return nil
		}
		c.Close()
		return fmt.Errorf("it accepts")
	})
	fmt.Fprint(conn, body[10:])
	answer := make([]byte, 15)
	if _, err := conn.Read(answer); err != nil || string(answer) != "HTTP/1.1 200 OK" {
		t.Errorf("the request that was under way = %q, %v", answer, err)
	}
	if err := <-f.exited; err != nil {
		t.Errorf("brevetd serve ended with %v", err)
	}
}

func TestReload(t *testing.T) {
	t.Parallel()
	f := start(t, options{})
	hangup := func(logged string) {
		t.Helper()
		before := strings.Count(f.log.String(), logged)
		if err := f.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		servers.Eventually(t, "the broker says: "+logged, func() error {
			if strings.Count(f.log.String(), logged) == before {
				return fmt.Errorf("not yet")
			}
			return nil
		})
	}
	f.write("policies/shop.yaml", "policy: shop\nisuer: lab\n")
	hangup("policies not reloaded")
	f.exchange(f.form(f.token(nil), "deploy")) // the old ones stay in force
	f.write("policies/shop.yaml", strings.Replace(fmt.Sprintf(policyTemplate, ""), "refs/heads/main", "refs/heads/other", 1))
	hangup("policies reloaded")
	if a := f.post(api.PathToken, f.form(f.token(nil), "deploy")); a.status != 400 {
		t.Errorf("exchange by a policy that is gone = %d", a.status)
	}
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	f := start(t, options{})
	f.exchange(f.form(f.token(nil), "deploy"))
	f.post(api.PathToken, f.form("x.y.z", "deploy"))
	r, err := http.Get("http://" + f.admin + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	var out strings.Builder
	if err := r.Write(&out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`brevet_exchanges_total{code="",outcome="granted"} 1`, `brevet_exchanges_total{code="invalid_request",outcome="refused"} 1`,
		`brevet_leases_issued_total{credential="deploy",policy="shop"} 1`, `brevet_root_info{kind="software"} 1`,
		`brevet_http_request_duration_seconds_count{route="/v1/token",status="200"} 1`,
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("/metrics has no %s", want)
		}
	}
}

func TestLogIsStructured(t *testing.T) {
	t.Parallel()
	f := start(t, options{})
	id := f.post(api.PathToken, f.form("x.y.z", "deploy")).oauth(t).RequestID
	servers.Eventually(t, "the log has a line for request "+id, func() error { // it is written after the answer
		for line := range strings.Lines(f.log.String()) {
			var entry struct {
				RequestID string `json:"request_id"`
				Status    int
			}
			if err := json.Unmarshal([]byte(line), &entry); err != nil {
				t.Fatalf("log line is not JSON: %s", line)
			}
			if entry.RequestID == id && entry.Status == 400 {
				return nil
			}
		}
		return fmt.Errorf("no such line")
	})
}
