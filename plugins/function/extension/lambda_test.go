package extension_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	awssts "github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/brevet-dev/brevet/issuers/lab"
	"github.com/brevet-dev/brevet/test/cloud"
	"github.com/brevet-dev/brevet/test/lambda"
	"github.com/brevet-dev/brevet/test/servers"
	"github.com/brevet-dev/brevet/test/sts"
)

// programs has brevet as releases have it, as opt/brevet-extension, and the function
// that the tests invoke, as probe. TestMain makes it.
var programs string

func TestMain(m *testing.M) { os.Exit(runTests(m)) }

func runTests(m *testing.M) int {
	dir, err := os.MkdirTemp("", "extension-")
	if err == nil {
		programs = dir
		defer os.RemoveAll(dir)
		err = errors.Join(build("../../../cmd/brevet", "opt/brevet-extension"), build("./testdata/probe", "probe"))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// build builds a static program.
func build(from, to string) error {
	cmd := exec.Command("go", "build", "-buildvcs=false", "-trimpath", "-tags=nethttpomithttp2", "-ldflags=-s -w", "-o", filepath.Join(programs, to), from)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build %s: %w\n%s", from, err, out)
	}
	return nil
}

// A wish is what the function is invoked with: a request to the extension, or a file
// to read below the extension's folder.
type wish struct {
	Path   string
	Method string  // "": GET
	Host   string  // "": as the extension listens
	Header *string // Authorization; nil: the token
	File   string
	Init   bool // what the same gave while the function started
}

// A find is what the function answers.
type find struct {
	Status int
	Header http.Header
	Body   string
	Mode   string // of the file
	Error  string
}

// A journal is what a sandbox logs.
type journal struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.b.Write(p)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.b.String()
}

// A world is an AWS account, and a broker that trusts its issuer.
type world struct {
	*testing.T
	broker *cloud.Broker
	issuer *lab.Lab
	sts    *sts.Server
	role   lambda.Session
	minted *string // the last token of the account
}

const (
	lambdaRole = "arn:aws:iam::111122223333:role/ci/shop-deploy"
	deployer   = "arn:aws:iam::111122223333:user/lambda"
)

func newWorld(t *testing.T) *world {
	t.Helper()
	issuer, err := lab.Start(lab.Options{Preset: "aws"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { issuer.Close() })
	w := &world{T: t, issuer: issuer, minted: new(string)}
	w.broker = cloud.StartBroker(t, cloud.Issuer{Preset: "aws", URL: issuer.URL, Match: `{aws_account: "111122223333", sub: "` + lambdaRole + `"}`})
	w.account([]string{lambdaRole}, func(wish sts.TokenWish) (string, error) {
		token, err := issuer.Mint(wish.Audience[0], nil)
		*w.minted = token
		return token, err
	})
	return w
}

// account starts STS, and gives the function's role a session as Lambda does.
func (w *world) account(allowed []string, mint func(sts.TokenWish) (string, error)) {
	w.Helper()
	const id, secret = "AKIALAMBDA0000000000", canary + "/lambda"
	server, err := sts.Start(sts.Config{
		Users:    []sts.User{{ARN: deployer, AccessKeyID: id, SecretAccessKey: secret}},
		Roles:    []sts.Role{{ARN: lambdaRole, Principals: []string{deployer}}},
		Outbound: &sts.Outbound{Allowed: allowed, Mint: mint},
	})
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { server.Close() })
	client := awssts.New(awssts.Options{Region: "eu-west-1", BaseEndpoint: &server.URL, Credentials: credentials.NewStaticCredentialsProvider(id, secret, "")})
	out, err := client.AssumeRole(w.Context(), &awssts.AssumeRoleInput{RoleArn: aws.String(lambdaRole), RoleSessionName: aws.String("shop")})
	if err != nil {
		w.Fatal(err)
	}
	c := out.Credentials
	w.sts, w.role = server, lambda.Session{AccessKeyID: *c.AccessKeyId, SecretAccessKey: *c.SecretAccessKey, SessionToken: *c.SessionToken}
}

// A sandbox is one of the function, with the extension.
type sandbox struct {
	*lambda.Sandbox
	t   *testing.T
	log *journal
}

// sandbox makes one with more variables, as pairs.
func (w *world) sandbox(pairs ...string) *sandbox {
	w.Helper()
	return w.run(lambda.Function{Command: []string{filepath.Join(programs, "probe")}}, pairs...)
}

// deploy adds to a function what makes the extension work, and more variables.
func (w *world) deploy(f lambda.Function, log io.Writer, pairs ...string) lambda.Function {
	w.Helper()
	_, port, err := net.SplitHostPort(servers.FreeAddr(w))
	if err != nil {
		w.Fatal(err)
	}
	f.Extensions, f.Role, f.Timeout, f.Log = filepath.Join(programs, "opt"), w.role, 20*time.Second, log
	f.Environment = map[string]string{
		"BREVET_BROKER": w.broker.URL, "BREVET_CREDENTIALS": "database,queue", "BREVET_PORT": port, "AWS_ENDPOINT_URL_STS": w.sts.URL,
	}
	for i := 0; i < len(pairs); i += 2 {
		f.Environment[pairs[i]] = pairs[i+1]
	}
	return f
}

func (w *world) run(f lambda.Function, pairs ...string) *sandbox {
	w.Helper()
	s := &sandbox{t: w.T, log: &journal{}}
	var err error
	if s.Sandbox, err = lambda.New(w.deploy(f, s.log, pairs...)); err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() {
		if err := s.Close(); err != nil {
			w.Errorf("Close = %v", err)
		}
		if w.Failed() {
			w.Logf("the function's log:\n%s", s.log)
		}
	})
	return s
}

// ask invokes the function.
func (s *sandbox) ask(w wish) (out find) {
	s.t.Helper()
	payload, err := json.Marshal(w)
	if err != nil {
		s.t.Fatal(err)
	}
	answer, err := s.Invoke(s.t.Context(), payload)
	if err != nil {
		s.t.Fatalf("Invoke = %v", err)
	}
	if err := json.Unmarshal(answer.Payload, &out); err != nil {
		s.t.Fatalf("%v in %s", err, answer.Payload)
	}
	return out
}

// A credential is as the extension answers.
type credential struct {
	Name, Kind string
	LeaseID    string    `json:"lease_id"`
	ExpiresAt  time.Time `json:"expires_at"`
	Values     map[string]string
}

// credential asks for one and must get it.
func (s *sandbox) credential(name string) (c credential) {
	s.t.Helper()
	s.read(s.ask(wish{Path: "/credentials/" + name}), &c)
	return c
}

func (s *sandbox) read(f find, c *credential) {
	s.t.Helper()
	if f.Status != http.StatusOK || json.Unmarshal([]byte(f.Body), c) != nil || strings.Count(c.Values["token"], ".") != 2 {
		s.t.Fatalf("the extension answered %d %s", f.Status, f.Error)
	}
}

// state is that of a lease at the broker.
func (w *world) state(lease string) string {
	w.Helper()
	l, err := w.broker.Lease.Lease(w.Context(), lease)
	if err != nil {
		return err.Error()
	}
	return string(l.State)
}

// audited reports whether the audit log has an event of a lease.
func (w *world) audited(name, lease string) bool {
	for line := range strings.Lines(w.broker.Told()) {
		if strings.Contains(line, `"event":"`+name+`"`) && strings.Contains(line, lease) {
			return true
		}
	}
	return false
}

// exit is how the extension ended last.
func (s *sandbox) exit() string {
	s.t.Helper()
	for _, e := range s.Exits() {
		if e.Name == "brevet-extension" {
			return e.Status
		}
	}
	return "it did not end"
}

// quiet checks that no secret got into the function's log or the broker's.
func (w *world) quiet(s *sandbox, secrets ...string) {
	w.Helper()
	for _, secret := range append(secrets, canary, *w.minted, w.role.SecretAccessKey, w.role.SessionToken) {
		if secret != "" && (strings.Contains(s.log.String(), secret) || strings.Contains(w.broker.Told(), secret)) {
			w.Errorf("a log has the secret that begins with %.4s", secret)
		}
	}
}

// TestLife is the life of a sandbox in which all goes well: a cold start in which the
// function asks at once, warm invocations, files, and a shutdown.
func TestLife(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.sandbox("ASK_AT_INIT", "/credentials/database", "BREVET_FILES", "true", "BREVET_TTL", "1m")
	var first, again credential
	s.read(s.ask(wish{Init: true}), &first)
	if first.Name != "database" || first.Kind != "jwt" || w.state(first.LeaseID) != "active" || time.Until(first.ExpiresAt) > time.Minute {
		t.Errorf("while it started the function got %s of kind %s until %s, whose lease is %s", first.Name, first.Kind, first.ExpiresAt, w.state(first.LeaseID))
	}
	s.read(s.ask(wish{Path: "/credentials/database"}), &again)
	if again.LeaseID != first.LeaseID {
		t.Errorf("a warm invocation got lease %s, want %s", again.LeaseID, first.LeaseID)
	}
	if f := s.ask(wish{Path: "/credentials/database/token"}); f.Status != 200 || f.Body != first.Values["token"] || f.Header.Get("Content-Type") != "text/plain; charset=utf-8" || f.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("the value: %d %v", f.Status, f.Header)
	}
	if f := s.ask(wish{File: "credentials/database/token"}); f.Body != first.Values["token"] || f.Mode != "-rw-------" {
		t.Errorf("the file: %s %s", f.Mode, f.Error)
	}
	if f := s.ask(wish{Path: "/ready"}); f.Status != 200 || f.Body != `{"ready":true}` {
		t.Errorf("ready: %+v", f)
	}
	if n := len(w.broker.Events("exchange", "granted")); n != 1 || s.Inits() != 1 {
		t.Errorf("%d exchanges in %d inits, want one in one", n, s.Inits())
	}
	token := s.ask(wish{File: "token"})
	if len(token.Body) < 43 || token.Mode != "-rw-------" {
		t.Errorf("the token has %d characters, and the mode %s", len(token.Body), token.Mode)
	}
	s.Shutdown()
	if s.exit() != "exit status 0" || w.state(first.LeaseID) != "revoked" || !w.audited("revoke", first.LeaseID) {
		t.Errorf("the extension: %s; the lease: %s", s.exit(), w.state(first.LeaseID))
	}
	if _, err := os.Lstat(filepath.Join(s.Tmp, "brevet")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the extension's folder is still there: %v", err)
	}
	w.quiet(s, first.Values["token"], token.Body)
}

// TestRefusedRequests: whoever asks in another way gets nothing.
func TestRefusedRequests(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.sandbox()
	token := s.ask(wish{File: "token"}).Body
	text := func(s string) *string { return &s }
	for name, test := range map[string]struct {
		wish   wish
		status int
		want   string
	}{
		"bare token":      {wish{Path: "/ready", Header: &token}, 200, "ready"},
		"localhost":       {wish{Path: "/ready", Host: "localhost:PORT"}, 200, "ready"},
		"no token":        {wish{Path: "/ready", Header: text("")}, 401, "unauthorized"},
		"another token":   {wish{Path: "/ready", Header: text("Bearer " + strings.Repeat("x", len(token)))}, 401, "unauthorized"},
		"half a token":    {wish{Path: "/ready", Header: text("Bearer " + token[:20])}, 401, "unauthorized"},
		"another scheme":  {wish{Path: "/ready", Header: text("Basic " + token)}, 401, "unauthorized"},
		"another host":    {wish{Path: "/ready", Host: "evil.example.com"}, 421, "misdirected_request"},
		"no port":         {wish{Path: "/ready", Host: "127.0.0.1"}, 421, "misdirected_request"},
		"POST":            {wish{Path: "/ready", Method: "POST"}, 405, "GET only"},
		"another path":    {wish{Path: "/"}, 404, "there are GET /credentials/NAME"},
		"no name":         {wish{Path: "/credentials/"}, 404, "not_found"},
		"another name":    {wish{Path: "/credentials/other"}, 404, "BREVET_CREDENTIALS"},
		"another value":   {wish{Path: "/credentials/database/password"}, 404, "it has token"},
		"a longer path":   {wish{Path: "/credentials/database/token/x"}, 404, "not_found"},
		"up and down":     {wish{Path: "/credentials/../ready"}, 404, "not_found"},
		"a query":         {wish{Path: "/ready?x=y"}, 404, "not_found"},
		"not for AWS":     {wish{Path: "/aws/database"}, 400, `"code":"misconfigured"`},
		"another for AWS": {wish{Path: "/aws/other"}, 404, `"message":"the extension does not have this credential"`},
	} {
		test.wish.Host = strings.Replace(test.wish.Host, "PORT", s.port(), 1)
		f := s.ask(test.wish)
		var body map[string]any
		if f.Status != test.status || !strings.Contains(f.Body, test.want) || json.Unmarshal([]byte(f.Body), &body) != nil {
			t.Errorf("%s: %+v, want %d with %q", name, f, test.status, test.want)
		}
		if strings.Contains(f.Body, token) {
			t.Errorf("%s: the answer has the token", name)
		}
	}
	if f := s.ask(wish{Path: "/ready", Header: text("")}); f.Header.Get("WWW-Authenticate") != "Bearer" {
		t.Errorf("without a token: %+v", f)
	}
}

// port is where the extension listens.
func (s *sandbox) port() string {
	env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", s.PID("runtime")))
	if err != nil {
		s.t.Fatal(err)
	}
	for pair := range strings.SplitSeq(string(env), "\x00") {
		if port, ok := strings.CutPrefix(pair, "BREVET_PORT="); ok {
			return port
		}
	}
	s.t.Fatal("no BREVET_PORT")
	return ""
}

// TestThaw: a sandbox that was frozen past the end of what it had has another at
// once, in files, too.
func TestThaw(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.sandbox("BREVET_TTL", "2s", "BREVET_FILES", "true")
	first := s.credential("database")
	servers.Eventually(t, "the lease is over", func() error {
		if time.Since(first.ExpiresAt) < time.Second { // it is rounded down
			return errors.New("not yet")
		}
		return nil
	})
	second := s.credential("database")
	if second.LeaseID == first.LeaseID || !second.ExpiresAt.After(time.Now()) {
		t.Errorf("after the thaw the function got %s until %s, first %s", second.LeaseID, second.ExpiresAt, first.LeaseID)
	}
	if f := s.ask(wish{File: "credentials/database/token"}); f.Body == first.Values["token"] || f.Error != "" {
		t.Errorf("after the thaw the file is the same, or %s", f.Error)
	}
}

// TestRevoked: what an operator revoked is not handed out, nor left in files, after
// the max stale.
func TestRevoked(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.sandbox("BREVET_MAX_STALE", "100ms", "BREVET_FILES", "true")
	first := s.credential("database")
	w.broker.Revoke("database", 0)
	servers.Eventually(t, "the lease is another", func() error {
		f := s.ask(wish{File: "credentials/database/token"})
		if second := s.credential("database"); second.LeaseID == first.LeaseID || f.Body == first.Values["token"] {
			return errors.New("it is the same")
		}
		return nil
	})
	w.broker.Revoke("database", time.Hour)
	servers.Eventually(t, "there is none", func() error {
		f, file := s.ask(wish{Path: "/credentials/database"}), s.ask(wish{File: "credentials/database/token"})
		if f.Status != http.StatusForbidden || !strings.Contains(f.Body, "access_denied") || file.Error == "" {
			return fmt.Errorf("%d, %v", f.Status, file.Error)
		}
		return nil
	})
}

// TestInitFails: what the function's log and Lambda are told.
func TestInitFails(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	large := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		rw.Write(bytes.Repeat([]byte("x"), 10<<20)) // who has gone needs no more
	}))
	t.Cleanup(large.Close)
	for name, test := range map[string]struct {
		variables []string
		kind      string
		want      []string
	}{
		"broker down":       {[]string{"BREVET_BROKER", "http://" + servers.FreeAddr(t)}, "Extension.Unavailable", []string{"connection refused", "hint: check that the URL is right"}},
		"denied":            {[]string{"BREVET_CREDENTIALS", "other"}, "Extension.Denied", []string{"the broker refused", "hint: the whole reason is in the broker's audit log"}},
		"a large answer":    {[]string{"BREVET_BROKER", large.URL}, "Extension.Protocol", []string{"an answer over 1024 KiB"}},
		"another CA":        {[]string{"BREVET_CA_FILE", "/nowhere"}, "Extension.Misconfigured", []string{"reading the CA file", "hint: BREVET_CA_FILE"}},
		"no broker":         {[]string{"BREVET_BROKER", ""}, "Extension.Misconfigured", []string{"BREVET_BROKER: the broker's URL", "hint: set it, for the function, to the url"}},
		"no credential":     {[]string{"BREVET_CREDENTIALS", ""}, "Extension.Misconfigured", []string{"BREVET_CREDENTIALS: no credential asked for", "hint: set it"}},
		"a name for a path": {[]string{"BREVET_CREDENTIALS", "../x", "BREVET_FILES", "true"}, "Extension.Misconfigured", []string{"cannot be the name of a folder"}},
		"no token file":     {[]string{"BREVET_TOKEN_FILE", "/nowhere"}, "Extension.Misconfigured", []string{"reading BREVET_TOKEN_FILE", "no such file", "hint: whoever runs"}},
		"no token in it":    {[]string{"BREVET_TOKEN_FILE", "/etc/passwd"}, "Extension.Misconfigured", []string{"what BREVET_TOKEN_FILE has is not a JWT"}},
		"a wrong wish":      {[]string{"BREVET_FILES", "yes"}, "", []string{"BREVET_FILES must be true or false"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := &world{T: t, broker: w.broker, sts: w.sts, role: w.role, minted: w.minted}
			w.fails(w.sandbox(test.variables...), test.kind, test.want...)
		})
	}
}

// fails checks that a sandbox cannot start, and why.
func (w *world) fails(s *sandbox, kind string, want ...string) {
	w.Helper()
	err := s.Init(w.Context())
	failure, ok := errors.AsType[*lambda.Error](err)
	if !ok || !strings.HasPrefix(failure.Type, "Extension.") {
		w.Fatalf("Init = %v", err)
	}
	for _, text := range append(want, "brevet: error: ", kind) {
		if !strings.Contains(s.log.String(), text) {
			w.Errorf("the log does not say %q", text)
		}
	}
	if s.exit() == "exit status 0" {
		w.Error("the extension exited as if all were well")
	}
	w.quiet(s)
}

// TestNoPermission: the role lacks sts:GetWebIdentityToken.
func TestNoPermission(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.account(nil, nil)
	w.fails(w.sandbox(), "Extension.Misconfigured", "STS refused (AccessDenied)", "hint: allow the function's role sts:GetWebIdentityToken")
}

// TestTokenFile: where there is no STS the token comes from a file.
func TestTokenFile(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.account(nil, nil)
	token, err := w.issuer.Mint(w.broker.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(token+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := w.sandbox("BREVET_TOKEN_FILE", file)
	c := s.credential("database")
	if got := w.state(c.LeaseID); got != "active" {
		t.Errorf("the lease is %s", got)
	}
	s.Shutdown()
	if got := w.state(c.LeaseID); got != "revoked" {
		t.Errorf("after the shutdown the lease is %s", got)
	}
	w.quiet(s, token, c.Values["token"])
}

// TestStartWithout: the function starts although STS cannot be reached, and has
// credentials when it can.
func TestStartWithout(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	addr := servers.FreeAddr(t)
	s := w.sandbox("BREVET_START_WITHOUT", "true", "AWS_ENDPOINT_URL_STS", "http://"+addr)
	f := s.ask(wish{Path: "/ready"})
	if f.Status != http.StatusServiceUnavailable || f.Header.Get("Retry-After") == "" || !strings.Contains(f.Body, "temporarily_unavailable") {
		t.Errorf("without STS: %+v", f)
	}
	if !strings.Contains(s.log.String(), "brevet: warning: function: asking STS for a token") {
		t.Error("the log does not say why there are no credentials")
	}
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	target, err := url.Parse(w.sts.URL)
	if err != nil {
		t.Fatal(err)
	}
	front := &httptest.Server{Listener: listener, Config: &http.Server{Handler: &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host, r.Out.Host = "http", target.Host, r.In.Host
		},
	}}}
	front.Start()
	t.Cleanup(front.Close)
	servers.Eventually(t, "the function has credentials", func() error {
		if f := s.ask(wish{Path: "/credentials/queue"}); f.Status != http.StatusOK {
			return fmt.Errorf("%d", f.Status)
		}
		return nil
	})
}

// TestKilled: an extension that is killed takes the sandbox with it, and the next
// invocation starts another in the same place.
func TestKilled(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.sandbox("BREVET_FILES", "true")
	first := s.credential("database")
	syscall.Kill(s.PID("brevet-extension"), syscall.SIGKILL)
	servers.Eventually(t, "the function has credentials again", func() error {
		payload, err := json.Marshal(wish{Path: "/credentials/database"})
		if err != nil {
			return err
		}
		_, err = s.Invoke(t.Context(), payload)
		return err
	})
	second := s.credential("database")
	if second.LeaseID == first.LeaseID || s.Inits() != 2 {
		t.Errorf("after the reset the function got %s, first %s, in %d inits", second.LeaseID, first.LeaseID, s.Inits())
	}
	if f := s.ask(wish{File: "credentials/database/token"}); f.Body != second.Values["token"] {
		t.Errorf("after the reset the file has something else, or %s", f.Error)
	}
	s.Shutdown()
	if w.state(first.LeaseID) != "active" || w.state(second.LeaseID) != "revoked" {
		t.Errorf("the lease of the killed one is %s, until its ttl; that of the other %s", w.state(first.LeaseID), w.state(second.LeaseID))
	}
}

// TestTerminated: SIGTERM ends the extension as a shutdown does.
func TestTerminated(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.sandbox()
	first := s.credential("database")
	pid := s.PID("brevet-extension")
	syscall.Kill(pid, syscall.SIGCONT)
	syscall.Kill(pid, syscall.SIGTERM)
	servers.Eventually(t, "the lease is revoked", func() error {
		if got := w.state(first.LeaseID); got != "revoked" {
			return errors.New("it is " + got)
		}
		return nil
	})
	servers.Eventually(t, "the extension ends", func() error {
		if got := s.exit(); got != "exit status 0" {
			return errors.New(got)
		}
		return nil
	})
}
