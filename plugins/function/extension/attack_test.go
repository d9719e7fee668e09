package extension_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/brevet-dev/brevet/broker"
	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/plugins/exchange"
	"github.com/brevet-dev/brevet/plugins/function/extension"
	"github.com/brevet-dev/brevet/test/servers"
)

// live is how many leases of the broker live.
func (w *world) live() (n int) {
	w.Helper()
	err := w.broker.Lease.All(w.Context(), func(l *broker.Lease) error {
		if l.State == broker.Active {
			n++
		}
		return nil
	})
	if err != nil {
		w.Fatal(err)
	}
	return n
}

// TestBrokenEvents: an answer of the Extensions API that is no event ends the
// extension, which gives everything back, instead of being asked for again at once.
func TestBrokenEvents(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for name, body := range map[string]string{
		"nothing": "", "no JSON": "INVOKE", "null": "null", "an object": "{}", "another event": `{"eventType":"RESTORE"}`,
		"a list": `[{"eventType":"INVOKE"}]`, "large": `{"eventType":"INVOKE","x":"` + strings.Repeat("x", 2<<20) + `"}`,
	} {
		s := newStub(t)
		wait := run(w, s.options(w, "on-demand"))
		s.asked(t, 1)
		if n := w.live(); n != 1 {
			t.Errorf("%s: %d leases live before it, want 1", name, n)
		}
		s.events <- body
		if err := wait(); !exchange.IsKind(err, exchange.Protocol) || len(err.Error()) > 300 {
			t.Errorf("%s: Run = %v", name, err)
		}
		if n := w.live(); n != 0 {
			t.Errorf("%s: %d leases live after it", name, n)
		}
	}
}

// TestLambdaElsewhere: what answers in Lambda's place cannot send the extension to
// another.
func TestLambdaElsewhere(t *testing.T) {
	t.Parallel()
	w, s := newWorld(t), newStub(t)
	away := httptest.NewServer(http.RedirectHandler(s.URL+"/2020-01-01/extension/register", http.StatusTemporaryRedirect))
	t.Cleanup(away.Close)
	o := s.options(w, "on-demand")
	o.Runtime = away.Listener.Addr().String()
	if err := o.Run(t.Context()); !exchange.IsKind(err, exchange.Protocol) || !strings.Contains(err.Error(), "Lambda answered 307") || s.registered != nil {
		t.Errorf("Run = %v", err)
	}
}

// TestEventStorm: many invocations at once cost the broker nothing.
func TestEventStorm(t *testing.T) {
	t.Parallel()
	w, s := newWorld(t), newStub(t)
	wait := run(w, s.options(w, "on-demand"))
	for i := range 500 {
		s.events <- fmt.Sprintf(`{"eventType":"INVOKE","deadlineMs":%d}`, i-250)
	}
	s.events <- `{"eventType":"SHUTDOWN","deadlineMs":-9223372036854775808}`
	if err := wait(); err != nil {
		t.Error(err)
	}
	if n := len(w.broker.Events("exchange", "granted")); n != 1 || w.live() != 0 {
		t.Errorf("%d exchanges, want 1; %d leases live", n, w.live())
	}
}

// files are options of an extension that writes files, and asks often. told returns
// what it told.
func (s *stub) files(w *world) (o extension.Options, told func() []string) {
	var mu sync.Mutex
	var all []string
	o = s.options(w, "on-demand")
	o.Files, o.Function.MaxStale = true, 50*time.Millisecond
	o.Tell = func(err error) {
		mu.Lock()
		defer mu.Unlock()
		all = append(all, err.Error())
	}
	return o, func() []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(all)
	}
}

// TestFilesObstructed: whatever is in the way of a new value, the old one does not
// stay, and the way is cleared where it can be.
func TestFilesObstructed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for name, test := range map[string]struct {
		obstacle string // a folder, below the extension's, with something in it
		cleared  bool
	}{
		"at the file":  {"credentials/database/token", true},
		"at the draft": {".new", false},
	} {
		s := newStub(t)
		o, told := s.files(w)
		wait := run(w, o)
		s.asked(t, 1)
		file := filepath.Join(o.Dir, "credentials", "database", "token")
		first, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		obstacle := filepath.Join(o.Dir, test.obstacle)
		if err := errors.Join(os.RemoveAll(obstacle), os.MkdirAll(filepath.Join(obstacle, "x"), 0o700)); err != nil {
			t.Fatal(err)
		}
		w.broker.Revoke("database", 0)
		servers.Eventually(t, name, func() error {
			second, err := os.ReadFile(file)
			switch {
			case test.cleared && (err != nil || string(second) == string(first)):
				return fmt.Errorf("the file has the first value, or %v", err)
			case !test.cleared && (!errors.Is(err, os.ErrNotExist) || len(told()) == 0):
				return fmt.Errorf("the file is there, or %v; told: %v", err, told())
			}
			return nil
		})
		for range 3 {
			s.events <- `{"eventType":"INVOKE"}` // each looks after the files
		}
		s.events <- `{"eventType":"SHUTDOWN"}`
		if err := wait(); err != nil {
			t.Error(err)
		}
		if all := told(); len(all) > 2 {
			t.Errorf("%s: it told %d times: %q", name, len(all), all)
		}
	}
}

// TestRevokesFirst: what keeps the extension from closing its own does not keep it from
// revoking, for which there are two seconds.
func TestRevokesFirst(t *testing.T) {
	t.Parallel()
	w, s := newWorld(t), newStub(t)
	o := s.options(w, "on-demand")
	stuck, free := make(chan struct{}), make(chan struct{})
	o.AWS = func(api.Lease) ([]byte, error) {
		close(stuck)
		<-free
		return nil, errors.New("it was stuck")
	}
	wait := run(w, o)
	s.asked(t, 1)
	conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", o.Port))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	token, err := os.ReadFile(filepath.Join(o.Dir, "token"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fprintf(conn, "GET /aws/database HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nAuthorization: %s\r\n\r\n", o.Port, token); err != nil {
		t.Fatal(err)
	}
	<-stuck
	s.events <- `{"eventType":"SHUTDOWN"}`
	servers.Eventually(t, "the lease is revoked", func() error {
		if n := w.live(); n > 0 {
			return fmt.Errorf("%d live", n)
		}
		return nil
	})
	close(free)
	if err := wait(); err != nil {
		t.Error(err)
	}
}

// TestWipesTheRest: a file that cannot be overwritten does not spare the others.
func TestWipesTheRest(t *testing.T) {
	base := t.TempDir()
	dir, kept := filepath.Join(base, "brevet"), filepath.Join(base, "other name")
	program, err := os.ReadFile("/bin/sleep")
	if err == nil {
		err = errors.Join(os.Mkdir(dir, 0o700), os.WriteFile(filepath.Join(dir, "a"), program, 0o700), os.WriteFile(filepath.Join(dir, "b"), []byte(canary), 0o600),
			os.Link(filepath.Join(dir, "b"), kept))
	}
	if err != nil {
		t.Fatal(err)
	}
	busy := exec.Command(filepath.Join(dir, "a"), "60") // a program that runs cannot be written to
	if err := busy.Start(); err != nil {
		t.Fatal(err)
	}
	wiped := extension.Wipe(dir)
	if err := errors.Join(busy.Process.Kill(), ignoreExit(busy.Wait())); err != nil {
		t.Error(err)
	}
	if wiped == nil || !strings.Contains(wiped.Error(), "text file busy") {
		t.Errorf("Wipe = %v", wiped)
	}
	if _, err := os.Lstat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the folder is still there: %v", err)
	}
	if got, err := os.ReadFile(kept); err != nil || strings.Trim(string(got), "\x00") != "" {
		t.Errorf("the other file holds %q, %v", got, err)
	}
}

// ignoreExit returns err unless it is how a program ended.
func ignoreExit(err error) error {
	if _, ok := errors.AsType[*exec.ExitError](err); ok {
		return nil
	}
	return err
}

// raw sends text to the extension as it is, and returns all that comes back.
func raw(t *testing.T, o extension.Options, text string) string {
	t.Helper()
	conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", o.Port))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	go io.WriteString(conn, text) // who is not listened to cannot write all
	got, err := io.ReadAll(conn)
	if err != nil && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("reading: %v", err)
	}
	return string(got)
}

// TestTricks: requests as no client of the function's sends them get nothing, and no
// more than one answer comes on a connection.
func TestTricks(t *testing.T) {
	t.Parallel()
	w, s := newWorld(t), newStub(t)
	o := s.options(w, "on-demand")
	wait := run(w, o)
	s.asked(t, 1)
	file, err := os.ReadFile(filepath.Join(o.Dir, "token"))
	if err != nil {
		t.Fatal(err)
	}
	token, own := string(file), fmt.Sprintf("127.0.0.1:%d", o.Port)
	auth := "Host: " + own + "\r\nAuthorization: Bearer " + token + "\r\n"
	const good = "GET /ready HTTP/1.1\r\n"
	for name, test := range map[string]struct {
		text, want string // the beginning of the answer; "": none
	}{
		"as it should be":        {good + auth + "\r\n", "HTTP/1.1 200"},
		"another host, absolute": {"GET http://evil.example.com/ready HTTP/1.1\r\n" + auth + "\r\n", "HTTP/1.1 421"},
		"a name that ends so":    {"GET http://" + own + "@evil.example.com/ready HTTP/1.1\r\n" + auth + "\r\n", "HTTP/1.1 421"},
		"two hosts":              {good + "Host: evil.example.com\r\n" + auth + "\r\n", ""},
		"no host":                {"GET /ready HTTP/1.0\r\nAuthorization: Bearer " + token + "\r\n\r\n", "HTTP/1.1 421"},
		"two tokens":             {good + auth + "Authorization: Bearer " + token + "\r\n\r\n", "HTTP/1.1 401"},
		"a token and more":       {good + "Host: " + own + "\r\nAuthorization: Bearer " + token + "x\r\n\r\n", "HTTP/1.1 401"},
		"an empty token":         {good + "Host: " + own + "\r\nAuthorization: Bearer \r\n\r\n", "HTTP/1.1 401"},
		"zeros for a token":      {good + "Host: " + own + "\r\nAuthorization: Bearer " + strings.Repeat("\x00", len(token)) + "\r\n\r\n", ""},
		"a token in the query":   {"GET /ready?token=" + token + " HTTP/1.1\r\nHost: " + own + "\r\n\r\n", "HTTP/1.1 401"},
		"a cookie":               {good + "Host: " + own + "\r\nCookie: Authorization=" + token + "\r\n\r\n", "HTTP/1.1 401"},
		"up":                     {"GET /credentials/../ready HTTP/1.1\r\n" + auth + "\r\n", "HTTP/1.1 404"},
		"up, encoded":            {"GET /credentials/%2e%2e/%2e%2e/token HTTP/1.1\r\n" + auth + "\r\n", "HTTP/1.1 404"},
		"up to a file":           {"GET /credentials/..%2f..%2ftoken HTTP/1.1\r\n" + auth + "\r\n", "HTTP/1.1 404"},
		"a NUL":                  {"GET /credentials/database%00 HTTP/1.1\r\n" + auth + "\r\n", "HTTP/1.1 404"},
		"a NUL in a value":       {"GET /credentials/database/token%00 HTTP/1.1\r\n" + auth + "\r\n", "HTTP/1.1 404"},
		"a real NUL":             {"GET /credentials/database\x00 HTTP/1.1\r\n" + auth + "\r\n", ""},
		"two slashes":            {"GET //ready HTTP/1.1\r\n" + auth + "\r\n", "HTTP/1.1 404"},
		"a slash more":           {"GET /ready/ HTTP/1.1\r\n" + auth + "\r\n", "HTTP/1.1 404"},
		"no slash":               {"GET ready HTTP/1.1\r\n" + auth + "\r\n", ""},
		"a star":                 {"OPTIONS * HTTP/1.1\r\n" + auth + "\r\n", "HTTP/1.1 405"},
		"a proxy's":              {"CONNECT " + own + " HTTP/1.1\r\n" + auth + "\r\n", "HTTP/1.1 405"},
		"HEAD":                   {"HEAD /ready HTTP/1.1\r\n" + auth + "\r\n", "HTTP/1.1 405"},
		"lines in a path":        {"GET /ready%0d%0aX-Y:%20z HTTP/1.1\r\n" + auth + "\r\n", "HTTP/1.1 404"},
		"HTTP/2":                 {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "HTTP/1.1 421"},
		"TLS":                    {"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + strings.Repeat("\r\n", 10), ""},
		"one after another":      {good + auth + "\r\n" + good + auth + "\r\n", "HTTP/1.1 200"},
		"one within another":     {good + "Host: " + own + "\r\nContent-Length: 200\r\n\r\n" + good + auth + "\r\n", "HTTP/1.1 401"},
		"in chunks":              {good + "Host: " + own + "\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n" + good + auth + "\r\n", "HTTP/1.1 401"},
		"a large header":         {good + auth + "X: " + strings.Repeat("x", 20<<10) + "\r\n\r\n", ""},
		"many headers":           {good + auth + strings.Repeat("X: y\r\n", 5000) + "\r\n", ""},
	} {
		got := raw(t, o, test.text)
		if !strings.HasPrefix(got, test.want) || test.want == "" && got != "" || strings.Count(got, "HTTP/1.1") > 1 || strings.Contains(got, token) {
			t.Errorf("%s: %q, want %q", name, got, test.want)
		}
	}
	s.events <- `{"eventType":"SHUTDOWN"}`
	if err := wait(); err != nil {
		t.Error(err)
	}
	if conn, err := net.Dial("tcp", own); err == nil {
		conn.Close()
		t.Error("something listens after the end")
	}
}

// late holds the first answer back until that channel is closed, and closes came when
// there is one.
type late struct{ until, came chan struct{} }

func (l late) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := http.DefaultTransport.RoundTrip(r)
	select {
	case <-l.until:
	default:
		close(l.came)
		<-l.until
	}
	return resp, err
}

// TestEndedWhileStarting: what is granted while the extension is told to end is given
// back.
func TestEndedWhileStarting(t *testing.T) {
	t.Parallel()
	w, s := newWorld(t), newStub(t)
	o := s.options(w, "on-demand")
	hold, came := make(chan struct{}), make(chan struct{})
	o.Function.HTTPClient = &http.Client{Transport: late{hold, came}}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- o.Run(ctx) }()
	<-came
	cancel()
	close(hold)
	<-done // with or without an error
	if n := w.live(); n != 0 || len(w.broker.Events("exchange", "granted")) != 1 {
		t.Errorf("%d leases live", n)
	}
	if _, err := os.Lstat(o.Dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the folder is still there: %v", err)
	}
}

// TestNoMoreEvents: an Extensions API that fails after a good start ends the extension,
// which gives everything back.
func TestNoMoreEvents(t *testing.T) {
	t.Parallel()
	w, s := newWorld(t), newStub(t)
	for name, fail := range map[string]http.HandlerFunc{
		"an error":   func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) },
		"no answer":  func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"a redirect": func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, r.URL.Path, http.StatusFound) },
	} {
		mux := http.NewServeMux()
		mux.HandleFunc("POST /2020-01-01/extension/register", func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Lambda-Extension-Identifier", "id-1") })
		mux.HandleFunc("GET /2020-01-01/extension/event/next", fail)
		server := httptest.NewServer(mux)
		t.Cleanup(server.Close)
		o := s.options(w, "on-demand")
		o.Runtime = server.Listener.Addr().String()
		if err := o.Run(t.Context()); err == nil {
			t.Errorf("%s: Run succeeded", name)
		}
		if n := w.live(); n != 0 {
			t.Errorf("%s: %d leases live", name, n)
		}
	}
}

// TestSnapshotHasNoCredentials: a function that asks before it is copied waits for the
// copy's first event, however early it asks.
func TestSnapshotHasNoCredentials(t *testing.T) {
	t.Parallel()
	w, s := newWorld(t), newStub(t)
	o := s.options(w, "snap-start")
	wait := run(w, o)
	s.asked(t, 1)
	token, err := os.ReadFile(filepath.Join(o.Dir, "token"))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", o.Port))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, err = fmt.Fprintf(conn, "GET /ready HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nAuthorization: %s\r\n\r\n", o.Port, token)
	if err = errors.Join(err, conn.SetReadDeadline(time.Now().Add(500*time.Millisecond))); err != nil {
		t.Fatal(err)
	}
	answer := make([]byte, 12)
	if n, err := conn.Read(answer); !errors.Is(err, os.ErrDeadlineExceeded) || len(w.broker.Events("exchange", "granted")) > 0 {
		t.Errorf("before the first event: %q, %v", answer[:n], err)
	}
	s.events <- `{"eventType":"INVOKE"}`
	if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if n, err := io.ReadFull(conn, answer); string(answer) != "HTTP/1.1 200" {
		t.Errorf("after it: %q, %v", answer[:n], err)
	}
	s.events <- `{"eventType":"SHUTDOWN"}`
	if err := wait(); err != nil {
		t.Error(err)
	}
}
