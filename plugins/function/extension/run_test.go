package extension_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/brevet-dev/brevet/plugins/exchange"
	"github.com/brevet-dev/brevet/plugins/function/extension"
	"github.com/brevet-dev/brevet/plugins/runner/agent"
	"github.com/brevet-dev/brevet/test/servers"
)

// canary is part of every secret here.
const canary = "canary-31c7"

// env is an environment.
func env(pairs ...string) func(string) string {
	all := map[string]string{}
	for i := 0; i < len(pairs); i += 2 {
		all[pairs[i]] = pairs[i+1]
	}
	return func(name string) string { return all[name] }
}

// A stub is an Extensions API for kinds of sandboxes that package test/lambda does
// not have. It gives the events that it is told to.
type stub struct {
	*httptest.Server
	events chan string // the bodies of events

	mu         sync.Mutex
	registered []string
	waiting    int // how many times the next event was asked for
}

func newStub(t *testing.T) *stub {
	s := &stub{events: make(chan string)}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /2020-01-01/extension/register", func(w http.ResponseWriter, r *http.Request) {
		var in struct{ Events []string }
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil || r.Header.Get("Lambda-Extension-Name") != "brevet-extension" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		s.set(func() { s.registered = in.Events })
		w.Header().Set("Lambda-Extension-Identifier", "id-1")
	})
	mux.HandleFunc("GET /2020-01-01/extension/event/next", func(w http.ResponseWriter, r *http.Request) {
		s.set(func() { s.waiting++ })
		select {
		case e := <-s.events:
			fmt.Fprint(w, e)
		case <-r.Context().Done():
		}
	})
	s.Server = httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return s
}

func (s *stub) set(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

// options are those of an extension of w whose Lambda is s.
func (s *stub) options(w *world, kind string) extension.Options {
	w.Helper()
	_, port, err := net.SplitHostPort(servers.FreeAddr(w))
	if err != nil {
		w.Fatal(err)
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		w.Fatal(err)
	}
	return extension.Options{
		Name: "brevet-extension", Runtime: s.Listener.Addr().String(), Broker: w.broker.URL, Credentials: []string{"database"}, Port: number,
		Dir: filepath.Join(w.TempDir(), "brevet"), AWS: agent.AWSContainer, Tell: func(err error) { w.Logf("told: %v", err) },
		Getenv: env("AWS_LAMBDA_INITIALIZATION_TYPE", kind, "AWS_REGION", "eu-west-1", "AWS_ENDPOINT_URL_STS", w.sts.URL,
			"AWS_ACCESS_KEY_ID", w.role.AccessKeyID, "AWS_SECRET_ACCESS_KEY", w.role.SecretAccessKey, "AWS_SESSION_TOKEN", w.role.SessionToken),
	}
}

// run runs an extension until the returned function is called, which gives its error.
func run(w *world, o extension.Options) (wait func() error) {
	done := make(chan error, 1)
	ctx, cancel := context.WithCancel(context.Background())
	go func() { done <- o.Run(ctx) }()
	w.Cleanup(cancel)
	return func() error { return <-done }
}

// asked waits until the extension has asked for the next event n times.
func (s *stub) asked(t *testing.T, n int) {
	t.Helper()
	servers.Eventually(t, "the extension asks for the next event", func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.waiting < n {
			return fmt.Errorf("%d times", s.waiting)
		}
		return nil
	})
}

// TestSnapStart: what is copied has no credentials in it; the first event of each
// copy gets some.
func TestSnapStart(t *testing.T) {
	t.Parallel()
	w, s := newWorld(t), newStub(t)
	wait := run(w, s.options(w, "snap-start"))
	s.asked(t, 1)
	if n := len(w.broker.Events("exchange", "granted")); n != 0 {
		t.Errorf("%d exchanges before the first event", n)
	}
	s.events <- `{"eventType":"INVOKE","deadlineMs":1}`
	s.asked(t, 2)
	if n := len(w.broker.Events("exchange", "granted")); n != 1 {
		t.Errorf("%d exchanges after the first event, want 1", n)
	}
	s.events <- `{"eventType":"SHUTDOWN","deadlineMs":1}`
	if err := wait(); err != nil {
		t.Error(err)
	}
	if !slices.Equal(s.registered, []string{"INVOKE", "SHUTDOWN"}) {
		t.Errorf("it registered for %v", s.registered)
	}
}

// TestManagedInstances has no INVOKE, which Lambda refuses there.
func TestManagedInstances(t *testing.T) {
	t.Parallel()
	w, s := newWorld(t), newStub(t)
	wait := run(w, s.options(w, "lambda-managed-instances"))
	s.asked(t, 1)
	s.events <- `{"eventType":"SHUTDOWN","deadlineMs":1}`
	if err := wait(); err != nil {
		t.Error(err)
	}
	if !slices.Equal(s.registered, []string{"SHUTDOWN"}) || len(w.broker.Events("exchange", "granted")) != 1 {
		t.Errorf("it registered for %v, and made %d exchanges", s.registered, len(w.broker.Events("exchange", "granted")))
	}
}

// TestShutdownInTime: a broker that does not answer does not hold up the end.
func TestShutdownInTime(t *testing.T) {
	t.Parallel()
	w, s := newWorld(t), newStub(t)
	proxy := servers.NewProxy(t, strings.TrimPrefix(w.broker.URL, "http://"))
	o := s.options(w, "on-demand")
	var told []error
	var mu sync.Mutex
	o.Tell = func(err error) {
		mu.Lock()
		defer mu.Unlock()
		told = append(told, err)
	}
	o.Function.HTTPClient = &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", proxy.Addr)
	}}}
	wait := run(w, o)
	s.asked(t, 1)
	proxy.Hold("/v1/revoke")
	began := time.Now()
	s.events <- fmt.Sprintf(`{"eventType":"SHUTDOWN","deadlineMs":%d}`, time.Now().Add(500*time.Millisecond).UnixMilli())
	if err := wait(); err != nil {
		t.Error(err)
	}
	mu.Lock()
	defer mu.Unlock()
	if took := time.Since(began); took > time.Second || len(told) != 1 || !strings.Contains(told[0].Error(), "they end by their ttl") {
		t.Errorf("it took %s, and told %v", took, told)
	}
	if _, err := os.Lstat(o.Dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the folder is still there: %v", err)
	}
}

// get asks an extension in this process.
func get(t *testing.T, o extension.Options, path string) (status int, body string) {
	t.Helper()
	token, err := os.ReadFile(filepath.Join(o.Dir, "token"))
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequest(http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d%s", o.Port, path), nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+string(token))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Error(err)
		return 0, ""
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Error(err)
	}
	return resp.StatusCode, string(text)
}

// TestManyRequests: a thousand requests while the extension starts, and some that
// say nothing, or too much.
func TestManyRequests(t *testing.T) {
	t.Parallel()
	w, s := newWorld(t), newStub(t)
	o := s.options(w, "on-demand")
	hold := make(chan struct{})
	o.Function.HTTPClient = &http.Client{Transport: held{hold}}
	wait := run(w, o)
	servers.Eventually(t, "the extension has registered", func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.registered == nil {
			return errors.New("not yet")
		}
		return nil
	})
	for _, text := range []string{"", "no HTTP\r\n\r\n", "GET / HTTP/1.1\r\nX: " + strings.Repeat("x", 20<<10) + "\r\n\r\n"} {
		conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", o.Port))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		io.WriteString(conn, text) // it may be closed already
	}
	var all sync.WaitGroup
	for range 1000 {
		all.Go(func() {
			if status, body := get(t, o, "/credentials/database/token"); status != http.StatusOK || strings.Count(body, ".") != 2 {
				t.Errorf("%d", status)
			}
		})
	}
	close(hold)
	all.Wait()
	s.events <- `{"eventType":"SHUTDOWN"}`
	if err := wait(); err != nil {
		t.Error(err)
	}
	if n := len(w.broker.Events("exchange", "granted")); n != 1 {
		t.Errorf("%d exchanges, want 1", n)
	}
}

// held holds requests back until it is closed.
type held struct{ until chan struct{} }

func (h held) RoundTrip(r *http.Request) (*http.Response, error) {
	<-h.until
	return http.DefaultTransport.RoundTrip(r)
}

// TestTwo: a second extension does not take the folder of the first.
func TestTwo(t *testing.T) {
	t.Parallel()
	w, s := newWorld(t), newStub(t)
	o := s.options(w, "on-demand")
	wait := run(w, o)
	s.asked(t, 1)
	if err := o.Run(t.Context()); !exchange.IsKind(err, exchange.Misconfigured) || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("the second: %v", err)
	}
	if status, body := get(t, o, "/ready"); status != http.StatusOK {
		t.Errorf("the first: %d %s", status, body)
	}
	s.events <- `{"eventType":"SHUTDOWN"}`
	if err := wait(); err != nil {
		t.Error(err)
	}
}

// TestFolder: in a folder that others may enter, or that is none, nothing is written.
func TestFolder(t *testing.T) {
	base := t.TempDir()
	target := filepath.Join(base, "target")
	for name, test := range map[string]struct {
		make func(dir string) error
		want string // of the error
	}{
		"new": {func(string) error { return nil }, ""},
		"left": {func(dir string) error {
			return errors.Join(os.MkdirAll(filepath.Join(dir, "credentials", "x"), 0o700), os.WriteFile(filepath.Join(dir, "token"), []byte("old"), 0o600))
		}, ""},
		"link":    {func(dir string) error { return errors.Join(os.MkdirAll(target, 0o700), os.Symlink(target, dir)) }, "is not a folder"},
		"file":    {func(dir string) error { return os.WriteFile(dir, nil, 0o600) }, "is not a folder"},
		"open":    {func(dir string) error { return errors.Join(os.Mkdir(dir, 0o700), os.Chmod(dir, 0o755)) }, "is open to other users"},
		"nowhere": {func(dir string) error { return os.WriteFile(filepath.Dir(dir), nil, 0o600) }, "not a directory"},
	} {
		dir := filepath.Join(base, name, "brevet")
		if name != "nowhere" {
			if err := os.Mkdir(filepath.Dir(dir), 0o700); err != nil {
				t.Fatal(err)
			}
		}
		if err := test.make(dir); err != nil {
			t.Fatal(err)
		}
		err := extension.Folder(dir)
		if test.want == "" {
			entries, listed := os.ReadDir(dir)
			if err != nil || listed != nil || len(entries) > 0 {
				t.Errorf("%s: %v, and %v in it", name, err, entries)
			}
		} else if !exchange.IsKind(err, exchange.Misconfigured) || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
	}
}

// TestWipe overwrites, and leaves alone what links lead to.
func TestWipe(t *testing.T) {
	base := t.TempDir()
	dir, outside := filepath.Join(base, "brevet"), filepath.Join(base, "outside")
	file := filepath.Join(dir, "credentials", "value")
	err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o700), os.WriteFile(file, []byte(canary), 0o600), os.WriteFile(outside, []byte("kept"), 0o600),
		os.Symlink(outside, filepath.Join(dir, "link")), os.Link(file, filepath.Join(base, "other name")))
	if err != nil {
		t.Fatal(err)
	}
	if err := extension.Wipe(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the folder is still there: %v", err)
	}
	for name, want := range map[string]string{outside: "kept", filepath.Join(base, "other name"): strings.Repeat("\x00", len(canary))} {
		if got, err := os.ReadFile(name); err != nil || string(got) != want {
			t.Errorf("%s holds %q, %v, want %q", name, got, err, want)
		}
	}
	if err := extension.Wipe(dir); err != nil {
		t.Errorf("Wipe of nothing = %v", err)
	}
}
