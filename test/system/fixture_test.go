// Package system tests the broker as it is run: the real program, a real
// redis-server, a lab issuer in front and an STS endpoint behind.
package system

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/issuers/lab"
	"github.com/brevet-dev/brevet/test/servers"
)

// programs builds the programs once and returns the folder they are in.
var programs = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "brevet-bin-")
	if err != nil {
		return "", err
	}
	cmd := exec.Command("go", "build", "-o", dir, "../../cmd/brevetd", "../../cmd/brevetd-pkcs11", "../../cmd/brevet")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return dir, nil
})

// atOnce is how many tests run at the same time: they wait most of it.
const atOnce = 6

func TestMain(m *testing.M) {
	flag.Parse()
	if err := flag.Set("test.parallel", strconv.Itoa(atOnce)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	if dir, err := programs(); err == nil {
		os.RemoveAll(dir)
	}
	servers.RemoveCluster()
	os.Exit(code)
}

// A fixture is a running broker.
type fixture struct {
	t           *testing.T
	dir         string
	url         string // of the fleet
	listen      string // of this broker
	admin       string
	redis       string // address
	lab         *lab.Lab
	place       place       // of its root
	fingerprint string      // of its root
	log         *syncBuffer // of the broker
	told        *syncBuffer // what commands printed
	secrets     *secrets
	client      *http.Client
	cmd         *exec.Cmd
	exited      chan error
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// has reports as an error that s has not that text yet.
func (s *syncBuffer) has(text string) error {
	if !strings.Contains(s.String(), text) {
		return fmt.Errorf("there is no %q in: %s", text, s)
	}
	return nil
}

// options change the fixture before it starts.
type options struct {
	credentials string                 // more of brevetd.yaml's list
	grants      string                 // more of the policy's list
	redis       string                 // address; "" starts one
	url         string                 // of the broker; "" finds a free port
	root        func(*testing.T) place // software if nil
}

const configTemplate = `url: %s
listen: %s
admin_listen: %s
redis: {url: "redis://%s/0"}
%sissuers:
  - {name: lab, preset: github, url: "%s", insecure_http: true}
credentials:
  - {name: registry, kind: jwt, audience: "https://registry.example.com", max_ttl: 15m}
  - {name: deploy, kind: jwt, audience: "https://deploy.example.com", max_ttl: 1h}
  - {name: files, kind: data-key, max_ttl: 1h}
  - {name: brief, kind: data-key, max_ttl: 1h, shred: true}
%spolicies: policies
audit: {file: audit.jsonl}
`

const policyTemplate = `policy: shop
issuer: lab
match:
  repository_id: "456"
  ref: refs/heads/main
  event_name: push
grant:
  - {credential: registry, ttl: 5m}
  - {credential: deploy, ttl: 10m, max_ttl: 30m}
  - {credential: files, ttl: 10m, allow: [generate, unwrap, rewrap]}
  - {credential: brief, ttl: 10m, allow: [generate, unwrap, rewrap]}
%s`

// start runs a broker on loopback.
func start(t *testing.T, o options) *fixture {
	t.Helper()
	f := prepare(t, o)
	f.serve()
	return f
}

// prepare makes all that a broker needs, and does not run it.
func prepare(t *testing.T, o options) *fixture {
	t.Helper()
	issuer, err := lab.Start(lab.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { issuer.Close() })
	f := &fixture{lab: issuer, redis: o.redis, listen: strings.TrimPrefix(o.url, "http://"), secrets: &secrets{}}
	if f.redis == "" {
		f.redis = servers.Redis(t)
	}
	if f.listen == "" {
		f.listen = servers.FreeAddr(t)
	}
	f.url = "http://" + f.listen
	f.install(t, o)
	return f
}

// mate makes another broker at the same url, with the same Redis, that is in no
// fleet yet.
func (f *fixture) mate(o options) *fixture {
	f.t.Helper()
	m := &fixture{lab: f.lab, redis: f.redis, url: f.url, listen: servers.FreeAddr(f.t), secrets: f.secrets}
	m.install(f.t, o)
	return m
}

// install writes the broker's files, and makes its root.
func (f *fixture) install(t *testing.T, o options) {
	t.Helper()
	if o.root == nil {
		o.root = software
	}
	f.t, f.dir, f.admin, f.place = t, t.TempDir(), servers.FreeAddr(t), o.root(t)
	f.log, f.told, f.client = &syncBuffer{}, &syncBuffer{}, &http.Client{Timeout: time.Minute}
	t.Cleanup(f.checkSecrets)
	for name, content := range f.place.files {
		f.write(name, content)
		f.secrets.add(content)
	}
	f.configure(f.place.config, o.credentials)
	f.write("policies/shop.yaml", fmt.Sprintf(policyTemplate, o.grants))
	f.initialize()
}

func (f *fixture) configure(root, credentials string) {
	f.t.Helper()
	f.write("brevetd.yaml", fmt.Sprintf(configTemplate, f.url, f.listen, f.admin, f.redis, root, f.lab.URL, credentials))
}

// initialize makes the root.
func (f *fixture) initialize() {
	f.t.Helper()
	var made struct{ Fingerprint string }
	if err := json.Unmarshal([]byte(f.brevetd("keys", "init", "--json")), &made); err != nil {
		f.t.Fatal(err)
	}
	f.fingerprint = made.Fingerprint
	if auth, err := os.ReadFile(filepath.Join(f.dir, "root", "auth")); err == nil {
		f.secrets.add(string(auth))
	}
}

func (f *fixture) write(name, content string) {
	f.t.Helper()
	file := filepath.Join(f.dir, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		f.t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) read(name string) []byte {
	f.t.Helper()
	data, err := os.ReadFile(filepath.Join(f.dir, name))
	if err != nil {
		f.t.Fatal(err)
	}
	return data
}

// brevetd runs an operator's command to its end and returns what it prints.
func (f *fixture) brevetd(args ...string) string {
	f.t.Helper()
	out, err := f.run(args...)
	if err != nil {
		f.t.Fatalf("brevetd %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// refused runs an operator's command that must end with status 1, and returns
// what it prints.
func (f *fixture) refused(args ...string) string {
	f.t.Helper()
	out, err := f.run(args...)
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != 1 {
		f.t.Fatalf("brevetd %s = %v, want exit status 1\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

func (f *fixture) run(args ...string) (string, error) {
	f.t.Helper()
	out, err := f.command(args...).CombinedOutput()
	f.told.Write(out)
	return string(out), err
}

func (f *fixture) command(args ...string) *exec.Cmd {
	f.t.Helper()
	return f.program("brevetd", args...)
}

func (f *fixture) program(name string, args ...string) *exec.Cmd {
	f.t.Helper()
	dir, err := programs()
	if err != nil {
		f.t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(dir, name), args...)
	cmd.Dir = f.dir
	return cmd
}

// serve starts the broker and waits until it is ready.
func (f *fixture) serve() {
	f.t.Helper()
	f.cmd = f.command("serve")
	f.cmd.Stderr = f.log
	if err := f.cmd.Start(); err != nil {
		f.t.Fatal(err)
	}
	exited := make(chan error, 1)
	f.exited = exited
	cmd := f.cmd
	go func() { exited <- cmd.Wait(); close(exited) }()
	f.t.Cleanup(func() {
		cmd.Process.Kill()
		<-exited
		if f.t.Failed() {
			f.t.Logf("log of the broker:\n%s", f.log)
		}
	})
	servers.Eventually(f.t, "the broker is ready", func() error {
		select {
		case err := <-exited:
			f.t.Fatalf("the broker ended: %v\n%s", err, f.log)
		default:
		}
		return f.ready()
	})
}

// ready reports whether the broker can exchange, though it may warn.
func (f *fixture) ready() error {
	_, err := f.readiness()
	return err
}

// readiness returns what /readyz says; not ready is an error.
func (f *fixture) readiness() (string, error) {
	return f.ask("/readyz")
}

// ask gets something of the operators' listener.
func (f *fixture) ask(path string) (string, error) {
	r, err := http.Get("http://" + f.admin + path)
	if err != nil {
		return "", err
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if err == nil && r.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s", body)
	}
	return string(body), err
}

// metric returns the value of one without labels.
func (f *fixture) metric(name string) float64 {
	f.t.Helper()
	all, err := f.ask("/metrics")
	if err != nil {
		f.t.Fatal(err)
	}
	for line := range strings.Lines(all) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			n, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			if err != nil {
				f.t.Fatal(err)
			}
			return n
		}
	}
	f.t.Fatalf("/metrics has no %s", name)
	return 0
}

// stop ends the broker as an init system does.
func (f *fixture) stop() {
	f.t.Helper()
	if err := f.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		f.t.Fatal(err)
	}
	if err := <-f.exited; err != nil {
		f.t.Fatalf("brevetd serve ended with %v\n%s", err, f.log)
	}
}

func (f *fixture) kill() {
	f.t.Helper()
	f.cmd.Process.Kill()
	<-f.exited
}

// token mints a subject token.
func (f *fixture) token(claims map[string]any) string {
	f.t.Helper()
	token, err := f.lab.Mint(f.url, claims)
	if err != nil {
		f.t.Fatal(err)
	}
	f.secrets.addToken(token)
	return token
}

// form is a whole exchange for credentials.
func (f *fixture) form(token string, credentials ...string) url.Values {
	return url.Values{
		"grant_type": {api.GrantTypeTokenExchange}, "subject_token": {token},
		"subject_token_type": {api.TokenTypeJWT}, "audience": credentials,
	}
}

// An answer is what came back.
type answer struct {
	status int
	header http.Header
	body   []byte
}

func (a answer) oauth(t *testing.T) api.Error {
	t.Helper()
	var e api.Error
	if err := json.Unmarshal(a.body, &e); err != nil {
		t.Fatalf("the answer is not an OAuth error: %s", a.body)
	}
	return e
}

func (f *fixture) post(path string, form url.Values, headers ...string) answer {
	f.t.Helper()
	return f.do(http.MethodPost, path, "application/x-www-form-urlencoded", form.Encode(), headers...)
}

// do sends a request with more headers (name, value, …).
func (f *fixture) do(method, path, contentType, body string, headers ...string) answer {
	f.t.Helper()
	a, err := f.try(method, path, contentType, body, headers...)
	if err != nil {
		f.t.Fatalf("%s %s: %v", method, path, err)
	}
	return a
}

// try is do for any goroutine.
func (f *fixture) try(method, path, contentType, body string, headers ...string) (answer, error) {
	r, err := http.NewRequest(method, "http://"+f.listen+path, strings.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	r.Header.Set("Content-Type", contentType)
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Add(headers[i], headers[i+1])
	}
	resp, err := f.client.Do(r)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	out, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, out}, err
}

// exchange must succeed.
func (f *fixture) exchange(form url.Values, headers ...string) *api.TokenResponse {
	f.t.Helper()
	a := f.post(api.PathToken, form, headers...)
	if a.status != http.StatusOK {
		f.t.Fatalf("POST /v1/token = %d %s", a.status, a.body)
	}
	out, err := api.DecodeTokenResponse(a.body)
	if err != nil {
		f.t.Fatal(err)
	}
	f.secrets.addAnswer(out)
	return out
}

// auditLines returns the audit log.
func (f *fixture) auditLines() []map[string]any {
	f.t.Helper()
	data, err := os.ReadFile(filepath.Join(f.dir, "audit.jsonl"))
	if err != nil {
		f.t.Fatal(err)
	}
	var out []map[string]any
	for line := range strings.Lines(string(data)) {
		var e map[string]any
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			f.t.Fatalf("audit line is not JSON: %v", err)
		}
		out = append(out, e)
	}
	return out
}
