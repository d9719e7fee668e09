package chaos

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/brevet-dev/brevet/broker"
	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/issuers/lab"
	"github.com/brevet-dev/brevet/test/servers"
)

const configText = `url: http://%[1]s
listen: %[1]s
admin_listen: %[2]s
redis: %[3]s
root: {software: {file: root.pem}}
issuers:
- {name: lab, preset: github, url: "%[4]s", insecure_http: true}
credentials:
- {name: database, kind: jwt, audience: "https://database.example.com"}
- {name: registry, kind: jwt, audience: "https://registry.example.com"}
policies: policies
audit: {file: audit.jsonl}
`

// brevetd builds the program once and returns its file.
var brevetd = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "brevet-bin-")
	if err != nil {
		return "", err
	}
	cmd := exec.Command("go", "build", "-o", dir, "../../cmd/brevetd")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return filepath.Join(dir, "brevetd"), nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if file, err := brevetd(); err == nil {
		os.RemoveAll(filepath.Dir(file))
	}
	os.Exit(code)
}

// A program is the real brevetd on a Redis.
type program struct {
	t          *testing.T
	bin, dir   string
	url, admin string
	lab        *lab.Lab

	mu       sync.Mutex
	sessions []string // answered
	refused  atomic.Int64
}

// startProgram builds and starts brevetd. redis is that part of its
// configuration.
func startProgram(t *testing.T, redis string) *program {
	t.Helper()
	p := &program{t: t, dir: t.TempDir(), admin: servers.FreeAddr(t)}
	var err error
	if p.bin, err = brevetd(); err != nil {
		t.Fatal(err)
	}
	if p.lab, err = lab.Start(lab.Options{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.lab.Close() })
	listen := servers.FreeAddr(t)
	p.url = "http://" + listen
	p.write("brevetd.yaml", fmt.Sprintf(configText, listen, p.admin, redis, p.lab.URL))
	p.write("policies/shop.yaml", fmt.Sprintf(policyText, "10m"))
	p.run("keys", "init")
	servers.Start(t, p.command("serve"))
	servers.Eventually(t, "the broker is ready", p.ready)
	return p
}

func (p *program) write(name, text string) {
	p.t.Helper()
	file := filepath.Join(p.dir, name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o700), os.WriteFile(file, []byte(text), 0o600)); err != nil {
		p.t.Fatal(err)
	}
}

func (p *program) command(args ...string) *exec.Cmd {
	cmd := exec.Command(p.bin, args...)
	cmd.Dir = p.dir
	return cmd
}

// run runs an operator's command.
func (p *program) run(args ...string) string {
	p.t.Helper()
	out, err := p.command(args...).CombinedOutput()
	if err != nil {
		p.t.Fatalf("brevetd %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func (p *program) ready() error {
	r, err := http.Get("http://" + p.admin + "/readyz")
	if err != nil {
		return err
	}
	defer r.Body.Close()
	if body, err := io.ReadAll(r.Body); err != nil || r.StatusCode != http.StatusOK {
		return fmt.Errorf("%s %s %v", r.Status, body, err)
	}
	return nil
}

// exchange is one job. What is not answered must be 503, with a time to try
// again.
func (p *program) exchange() error {
	token, err := p.lab.Mint(p.url, nil)
	if err != nil {
		return err
	}
	r, err := http.PostForm(p.url+api.PathToken, url.Values{
		"grant_type": {api.GrantTypeTokenExchange}, "subject_token": {token},
		"subject_token_type": {api.TokenTypeJWT}, "audience": {"database", "registry"},
	})
	if err != nil {
		return err
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	switch {
	case err != nil:
		return err
	case r.StatusCode == http.StatusServiceUnavailable && r.Header.Get("Retry-After") != "":
		p.refused.Add(1)
		return nil
	case r.StatusCode != http.StatusOK:
		return fmt.Errorf("%s %s", r.Status, body)
	}
	answer, err := api.DecodeTokenResponse(body)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, l := range answer.Leases {
		p.sessions = append(p.sessions, l.LeaseID)
	}
	return nil
}

func (p *program) answered() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.sessions)
}

// while exchanges run, fault happens; then exchanges must be answered again.
func (p *program) while(fault func()) {
	p.t.Helper()
	stop := make(chan struct{})
	var jobs sync.WaitGroup
	for range 4 {
		jobs.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := p.exchange(); err != nil {
					p.t.Errorf("exchange: %v", err)
					return
				}
			}
		})
	}
	p.await(20)
	fault()
	p.await(20)
	close(stop)
	jobs.Wait()
}

func (p *program) await(more int) {
	p.t.Helper()
	before := p.answered()
	servers.Eventually(p.t, "exchanges are answered", func() error {
		if now := p.answered(); now < before+more {
			return fmt.Errorf("%d of %d", now-before, more)
		}
		return nil
	})
}

// close compares what was answered with the leases and the audit log.
func (p *program) close() {
	p.t.Helper()
	var leases []struct {
		ID string `json:"lease_id"`
	}
	if err := json.Unmarshal([]byte(p.run("leases", "list", "--json")), &leases); err != nil {
		p.t.Fatal(err)
	}
	known := map[string]bool{}
	for _, l := range leases {
		known[l.ID] = true
	}
	announced, _ := recorded(readFile(p.t, filepath.Join(p.dir, "audit.jsonl")))
	for _, id := range p.sessions {
		if !known[id] || !announced[id] {
			p.t.Errorf("lease %s was answered; in Redis: %v, in the audit log: %v", id, known[id], announced[id])
		}
	}
	p.t.Logf("%d leases were answered, %d exchanges refused", len(p.sessions), p.refused.Load())
	if out := p.run("audit", "verify"); !strings.HasPrefix(out, "ok: ") {
		p.t.Errorf("audit verify: %s", out)
	}
}

// The whole program, as it is configured for Sentinels.
func TestProgramWithSentinels(t *testing.T) {
	t.Parallel()
	s := servers.Sentinel(t)
	p := startProgram(t, fmt.Sprintf("{sentinel: {master: %s, addrs: [%q]}, wait_replicas: 1}", s.Master, s.Sentinels[2]))
	p.while(func() {
		old := s.Primary(t)
		old.Kill()
		servers.Eventually(t, "the replica is promoted", func() error {
			if s.Primary(t) == old {
				return errors.New("not yet")
			}
			return nil
		})
		old.Start()
	})
	servers.Eventually(t, "the broker is ready again", p.ready)
	p.close()
}

// The whole program on a cluster, as a user who may do no more than it needs,
// while slots go from node to node.
func TestProgramOnACluster(t *testing.T) {
	t.Parallel()
	c := servers.Cluster(t, 3, false)
	for _, node := range c.Nodes {
		if err := node.Client.Do(t.Context(), "ACL", "SETUSER", "brevet", "on", ">not-in-the-configuration", "resetkeys", "~brevet:*",
			"+@all", "-@dangerous", "+info", "+cluster|slots", "+cluster|info").Err(); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(file, []byte("not-in-the-configuration\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p := startProgram(t, fmt.Sprintf("{cluster: {addrs: [%q], user: brevet, password_file: %q}}", c.Nodes[1].Addr, file))
	p.while(func() {
		for range 5 {
			slot := slotOf(t, c, mathrand.IntN(broker.Shards))
			from := c.Owner(slot)
			moveSlowly(t, c, slot, from, (from+1)%3)
		}
	})
	c.Owner(0)
	if out := p.run("keys", "status"); !strings.Contains(out, "version 1") {
		t.Errorf("keys status: %s", out)
	}
	p.run("keys", "rotate")
	p.enroll()
	p.close()
}

// enroll lets another broker into the fleet, over Redis.
func (p *program) enroll() {
	p.t.Helper()
	other := &program{t: p.t, bin: p.bin, dir: p.t.TempDir()}
	other.write("brevetd.yaml", readFile(p.t, filepath.Join(p.dir, "brevetd.yaml")))
	other.write("policies/shop.yaml", fmt.Sprintf(policyText, "10m"))
	member, applicant := fingerprint(p.run("keys", "status")), fingerprint(other.run("keys", "init"))
	joined := make(chan error, 1)
	go func() {
		out, err := other.command("keys", "enroll", "--fleet", member).CombinedOutput()
		if err != nil {
			err = fmt.Errorf("%w: %s", err, out)
		}
		joined <- err
	}()
	servers.Eventually(p.t, "the member lets it in", func() error {
		out, err := p.command("keys", "enroll", applicant, "--allow-unattested").CombinedOutput()
		if err != nil {
			err = fmt.Errorf("%w: %s", err, out)
		}
		return err
	})
	if err := <-joined; err != nil {
		p.t.Errorf("joining: %v", err)
	}
}

// fingerprint is the first in what a command printed.
func fingerprint(out string) string {
	_, rest, _ := strings.Cut(out, "sha256:")
	hex, _, _ := strings.Cut(rest, "\n")
	return "sha256:" + strings.TrimSpace(hex)
}
