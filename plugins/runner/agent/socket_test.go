package agent_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/plugins/runner"
	"github.com/brevet-dev/brevet/plugins/runner/agent"
	"github.com/brevet-dev/brevet/plugins/runner/runnertest"
)

// A served agent hands out "deploy", of kind jwt, and tells of what goes wrong.
type served struct {
	*agent.Agent
	m      *maker
	socket string
	told   chan error
	done   chan error // gets what Serve returned
}

func serve(t *testing.T, o agent.Options) *served {
	t.Helper()
	s := &served{m: &maker{ttl: time.Hour}, told: make(chan error, 100), done: make(chan error, 1)}
	if o.Credentials == nil {
		o.Credentials = []string{"deploy"}
	}
	o.Env, o.Wait, o.Tell = runner.Env{"TMPDIR=" + t.TempDir()}, time.Minute, func(err error) { s.told <- err }
	if o.Open == nil {
		o.Open = s.m.open
	}
	var err error
	if s.Agent, err = agent.Listen(o); err != nil {
		t.Fatal(err)
	}
	s.socket = s.Variables().Get(agent.Variable)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { s.done <- s.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-s.done; err != nil {
			t.Errorf("Serve: %v", err)
		}
		if _, err := os.Lstat(filepath.Dir(s.socket)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the agent's folder: %v", err)
		}
	})
	return s
}

func (s *served) dial(t *testing.T) net.Conn {
	t.Helper()
	conn, err := net.Dial("unix", s.socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// works fails the test unless a tool gets its lease at once.
func (s *served) works(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	l, err := agent.Ask(ctx, s.socket, "deploy")
	if err != nil || !strings.HasPrefix(l.Values["token"].Reveal(), runnertest.Canary) {
		t.Errorf("Ask: %v", err)
	}
}

// TestSilentTools opens more connections than the agent keeps, and says nothing.
func TestSilentTools(t *testing.T) {
	s := serve(t, agent.Options{AWS: "deploy"})
	for range 3 * agent.MaxSilent {
		s.dial(t)
	}
	s.works(t)
	web := strings.TrimPrefix(s.Variables().Get("AWS_CONTAINER_CREDENTIALS_FULL_URI"), "http://")
	web, _, _ = strings.Cut(web, "/")
	for range 3 * agent.MaxSilent {
		conn, err := net.Dial("tcp", web)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: "); err != nil {
			break // it was closed already
		}
	}
	resp, err := http.Get("http://" + web)
	if err != nil || resp.StatusCode != http.StatusUnauthorized {
		t.Fatalf("a request after all that: %v", err)
	}
	resp.Body.Close()
	s.works(t)
}

// TestDeafTools ask and do not read.
func TestDeafTools(t *testing.T) {
	s := serve(t, agent.Options{})
	for range 100 {
		if _, err := io.WriteString(s.dial(t), `{"op": "lease", "credential": "deploy"}`+"\n"); err != nil {
			t.Fatal(err)
		}
	}
	s.works(t)
}

// TestNonsense asks in all wrong ways.
func TestNonsense(t *testing.T) {
	s := serve(t, agent.Options{})
	for _, tt := range []struct{ request, want string }{
		{"nonsense\n", "another form"},
		{"\n", "another form"},
		{"[1]\n", "another form"},
		{"{}\n", "what it does not do"},
		{`{"op": "export"}` + "\n", "what it does not do"},
		{`{"op": "lease"}` + "\n", "does not hand out"},
		{`{"op": "lease", "credential": "../deploy"}` + "\n", "does not hand out"},
		{strings.Repeat("a", 1<<20), ""},
		{"GET / HTTP/1.1\r\n\r\n", "another form"},
	} {
		conn := s.dial(t)
		go io.WriteString(conn, tt.request) // may be cut short
		answer, err := bufio.NewReader(conn).ReadString('\n')
		if !strings.Contains(answer, tt.want) || strings.Contains(answer, runnertest.Canary) || (tt.want == "") != (err != nil) {
			t.Errorf("%.40q: %s, %v", tt.request, answer, err)
		}
	}
	s.works(t)
}

// TestStop has the end of the agent wait for what is given back, and tell of what
// went wrong.
func TestStop(t *testing.T) {
	s := serve(t, agent.Options{})
	s.works(t)
	told, err := agent.Stop(t.Context(), s.socket)
	if err != nil || len(told) > 0 || s.m.ended != 1 {
		t.Errorf("Stop = %q, %v; %d sessions ended", told, err, s.m.ended)
	}
	if _, err := agent.Stop(t.Context(), s.socket); !errors.Is(err, agent.ErrNoAgent) {
		t.Errorf("Stop again: %v", err)
	}
	if _, err := agent.Ask(t.Context(), s.socket, "deploy"); !errors.Is(err, agent.ErrNoAgent) {
		t.Errorf("Ask: %v", err)
	}
}

// TestForgedAgent has something else answer in an agent's place.
func TestForgedAgent(t *testing.T) {
	for _, answer := range []string{
		"", "nonsense\n", "{}\n", `{"lease": {}}` + "\n", `{"lease": {"lease_id": "l", "credential": "other"}}` + "\n",
		`{"failure": {"kind": 2, "text": "##[set-output]\u001b[31m\n::error::no"}}` + "\n", strings.Repeat(" ", 2<<20),
	} {
		socket := filepath.Join(t.TempDir(), "s")
		l, err := net.Listen("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				bufio.NewReader(conn).ReadString('\n')
				io.WriteString(conn, answer)
				conn.Close()
			}
		}()
		lease, err := agent.Ask(t.Context(), socket, "deploy")
		if lease != nil || err == nil || strings.ContainsAny(err.Error(), "\n\x1b") || strings.Contains(err.Error(), "##[") {
			t.Errorf("%.40q: %v", answer, err)
		}
		l.Close()
	}
}

func TestListenRefuses(t *testing.T) {
	open := t.TempDir()
	if err := os.Chmod(open, 0o755); err != nil {
		t.Fatal(err)
	}
	private := filepath.Join(t.TempDir(), "private")
	link := filepath.Join(t.TempDir(), "link")
	if err := errors.Join(os.Mkdir(private, 0o700), os.Symlink(private, link)); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for dir, want := range map[string]string{
		open: "open to other users: mode 0755", link: "is not a folder", file: "is not a folder", filepath.Join(open, "a", "b"): "making the agent's folder",
		filepath.Join(t.TempDir(), strings.Repeat("long", 30)): "listening for tools",
	} {
		a, err := agent.Listen(agent.Options{Dir: dir})
		if a != nil || !runner.IsKind(err, runner.Misconfigured) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", dir, err, want)
		}
	}
	if _, err := agent.Listen(agent.Options{Credentials: []string{"deploy"}, AWS: "cloud"}); err == nil {
		t.Error("a credential for AWS that is not handed out was accepted")
	}
}

// TestForms are tested with the clients that read them, in test/agent; here with
// what they must refuse.
func TestForms(t *testing.T) {
	forms := map[string]func(api.Lease) ([]byte, error){
		"AWSProcess": agent.AWSProcess, "AWSContainer": agent.AWSContainer,
		"Kubernetes": func(l api.Lease) ([]byte, error) { return agent.Kubernetes(l, "") },
		"Google":     func(l api.Lease) ([]byte, error) { return agent.Google(l, "") },
		"Token": func(l api.Lease) ([]byte, error) {
			token, err := agent.Token(l, "git")
			return []byte(token.Reveal()), err
		},
	}
	secret := api.NewSecret(runnertest.Canary)
	all := map[string]api.Secret{
		"access_key_id": secret, "secret_access_key": secret, "session_token": secret, "token": secret, "username": secret, "password": secret, "plaintext": secret,
	}
	fits := map[string]string{"AWSProcess": "aws-role", "AWSContainer": "aws-role", "Kubernetes": "jwt", "Google": "jwt", "Token": "jwt"}
	for name, form := range forms {
		for _, kind := range []string{"jwt", "aws-role", "postgres", "data-key", "", "JWT"} {
			out, err := form(api.Lease{Credential: "c", Kind: kind, Values: all, ExpiresAt: time.Unix(2e9, 0)})
			if (err == nil) != (kind == fits[name]) {
				t.Errorf("%s of kind %q: %v", name, kind, err)
			}
			if err != nil && (len(out) > 0 || !strings.Contains(err.Error(), "has no use for")) {
				t.Errorf("%s of kind %q: %d bytes, %v", name, kind, len(out), err)
			}
		}
		for _, bad := range []string{"", "a b", "a\nb", "a\x00", "ü", "a\r"} {
			v := map[string]api.Secret{}
			for value := range all {
				v[value] = api.NewSecret(bad)
			}
			if out, err := form(api.Lease{Credential: "c", Kind: fits[name], Values: v}); err == nil || len(out) > 0 {
				t.Errorf("%s of %q = %v", name, bad, err)
			}
		}
	}
}

// FuzzRequest sends anything to an agent.
func FuzzRequest(f *testing.F) {
	f.Add([]byte(`{"op": "lease", "credential": "deploy"}`))
	f.Add([]byte(`{"op": "lease", "op": "stop"}`))
	f.Add([]byte("\xff{"))
	f.Fuzz(func(t *testing.T, line []byte) {
		m := &maker{ttl: time.Hour}
		out := m.listen(t).Reply(t.Context(), line)
		stopped := out.Lease == nil && out.Failure == nil // nothing went wrong
		if out.Lease != nil && out.Failure != nil || stopped && !bytes.Contains(bytes.ToLower(line), []byte("stop")) && !bytes.Contains(line, []byte(`\u`)) {
			t.Errorf("%q: lease %s and failure %v", line, out.Lease, out.Failure)
		}
	})
}

// TestEndpoint sends what other users of the machine, browsers under a name that
// leads to loopback, and whoever has more than one should, send to the port.
func TestEndpoint(t *testing.T) {
	s := serve(t, agent.Options{Credentials: []string{"deploy", "other"}, AWS: "deploy"})
	uri := s.Variables().Get("AWS_CONTAINER_CREDENTIALS_FULL_URI")
	host, _, _ := strings.Cut(strings.TrimPrefix(uri, "http://"), "/")
	token, err := os.ReadFile(s.Variables().Get("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"))
	if err != nil {
		t.Fatal(err)
	}
	auth := "Authorization: " + string(token) + "\r\n"
	for _, tt := range []struct{ request, want string }{
		{"GET /aws/deploy HTTP/1.1\r\nHost: " + host + "\r\n" + auth, "400"}, // it is not of AWS's kind
		{"GET /aws/other HTTP/1.1\r\nHost: " + host + "\r\n" + auth, "404"},
		{"GET /aws/ HTTP/1.1\r\nHost: " + host + "\r\n" + auth, "404"},
		{"POST /aws/deploy HTTP/1.1\r\nHost: " + host + "\r\n" + auth, "404"},
		{"GET /aws/deploy HTTP/1.1\r\nHost: evil.example.com\r\n" + auth, "401"},
		{"GET http://evil.example.com/aws/deploy HTTP/1.1\r\nHost: " + host + "\r\n" + auth, "401"},
		{"GET /aws/deploy HTTP/1.0\r\n" + auth, "401"},
		{"GET /aws/deploy HTTP/1.1\r\nHost: " + host + "\r\n" + auth + auth, "401"},
		{"GET /aws/deploy HTTP/1.1\r\nHost: " + host + "\r\nAuthorization: \r\n", "401"},
		{"GET /aws/deploy HTTP/1.1\r\nHost: " + host + "\r\n", "401"},
		{"OPTIONS /aws/deploy HTTP/1.1\r\nHost: " + host + "\r\nOrigin: http://evil.example.com\r\n", "401"},
	} {
		conn, err := net.Dial("tcp", host)
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(conn, tt.request+"\r\n")
		answer, err := io.ReadAll(conn)
		conn.Close()
		if !strings.HasPrefix(string(answer), "HTTP/1.1 "+tt.want) || strings.Contains(string(answer), runnertest.Canary) || strings.Contains(string(answer), "Allow-Origin") {
			t.Errorf("%q: %s, %v; want %s", strings.ReplaceAll(tt.request, string(token), "TOKEN"), answer, err, tt.want)
		}
	}
}
