package server_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/brevet-dev/brevet/broker"
	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/broker/server"
)

// watching has the broker look after who listens, until the test ends.
func (f *fixture) watching(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); f.broker.Watch(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
}

// eventHeaders are those of a job's request for events.
func (j *job) eventHeaders() []string {
	return []string{"Authorization", "DPoP " + j.session, "DPoP", j.proofOf(http.MethodGet, api.PathEvents, j.session)}
}

// serve serves f on loopback, with times for a request that a stream outlives.
func (f *fixture) serve(t *testing.T, longest time.Duration) *httptest.Server {
	t.Helper()
	server := httptest.NewUnstartedServer(f.handler)
	server.Config.ReadTimeout, server.Config.WriteTimeout = longest, longest
	server.Start()
	t.Cleanup(server.Close)
	return server
}

// open asks for the job's events until it may listen.
func (j *job) open(t *testing.T, server *httptest.Server, more ...string) *http.Response {
	t.Helper()
	for range 100 {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+api.PathEvents, nil)
		if err != nil {
			t.Fatal(err)
		}
		for headers := append(j.eventHeaders(), more...); len(headers) > 0; headers = headers[2:] {
			req.Header.Set(headers[0], headers[1])
		}
		resp, err := server.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { resp.Body.Close() })
		if resp.StatusCode != http.StatusServiceUnavailable {
			return resp
		}
	}
	t.Fatal("the broker does not look after who listens")
	return nil
}

// next returns the next event that says something.
func next(t *testing.T, events *api.EventReader) (name string, data api.Revocation) {
	t.Helper()
	for {
		e, err := events.Next()
		if errors.Is(err, io.EOF) {
			return "end", data
		}
		if err != nil {
			t.Fatal(err)
		}
		if e.Name == "" {
			continue
		}
		if err := json.Unmarshal(e.Data, &data); err != nil {
			t.Fatal(err)
		}
		return e.Name, data
	}
}

// A stream tells of each lease that is revoked, outlives what a request may
// take, and ends with its session.
func TestEvents(t *testing.T) {
	f := start(t)
	f.watching(t)
	const longest = 300 * time.Millisecond
	server := f.serve(t, longest)
	j, begin := f.newJob("artifacts", "registry"), time.Now()
	resp := j.open(t, server)
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "text/event-stream" || resp.Header.Get("Cache-Control") != "no-store" {
		t.Fatalf("GET /v1/events = %d, %v", resp.StatusCode, resp.Header)
	}
	var seen bytes.Buffer
	events := api.NewEventReader(io.TeeReader(resp.Body, &seen))
	if a := f.post(api.PathRevoke, url.Values{"token": {j.lease.LeaseID}}, "Authorization", "DPoP "+j.session); a.status != http.StatusOK {
		t.Fatalf("revoking = %d %s", a.status, a.body)
	}
	want := api.Revocation{LeaseID: j.lease.LeaseID, Credential: "artifacts", Why: "revoked"}
	if name, got := next(t, events); name != api.EventRevoked || got != want {
		t.Errorf("heard %s %+v, want %+v", name, got, want)
	}
	if time.Since(begin) < longest {
		<-time.After(longest - time.Since(begin))
	}
	if a := f.post(api.PathRevoke, url.Values{"token": {j.session}}); a.status != http.StatusOK {
		t.Fatalf("revoking = %d %s", a.status, a.body)
	}
	for _, want := range []api.Revocation{{Credential: "registry"}, {Session: true}} {
		name, got := next(t, events)
		if name != api.EventRevoked || got.Credential != want.Credential || got.Session != want.Session {
			t.Errorf("heard %s %+v, want %+v", name, got, want)
		}
	}
	if name, got := next(t, events); name != "end" {
		t.Errorf("after the end of the session: %s %+v", name, got)
	}
	if !strings.HasPrefix(seen.String(), "retry: ") || !strings.Contains(seen.String(), "\nid: "+f.broker.KeysID()+"\n\n") {
		t.Errorf("the stream begins with: %s", seen.String())
	}
	for what, secret := range f.secrets {
		if bytes.Contains(seen.Bytes(), secret) {
			t.Errorf("the stream holds %s", what)
		}
	}
}

// Who may not listen learns nothing but why.
func TestEventsAreRefused(t *testing.T) {
	f := start(t)
	f.watching(t)
	j, other := f.newJob("artifacts"), f.newJob("artifacts")
	used := j.eventHeaders()
	j.open(t, f.serve(t, time.Minute)) // the broker looks after listeners
	if a := f.do(http.MethodGet, api.PathLeases+j.lease.LeaseID, "", "", j.eventHeaders()...); a.status != http.StatusBadRequest {
		t.Errorf("a proof for events is good for a lease: %d", a.status)
	}
	for _, c := range []struct {
		name    string
		headers []string
		status  int
		code    string
	}{
		{"no token", nil, 401, api.CodeInvalidToken},
		{"no proof", []string{"Authorization", "DPoP " + j.session}, 401, api.CodeInvalidToken},
		{"a proof by another key", []string{"Authorization", "DPoP " + j.session, "DPoP", other.proofOf(http.MethodGet, api.PathEvents, j.session)}, 401, api.CodeInvalidToken},
		{"a proof for another method", []string{"Authorization", "DPoP " + j.session, "DPoP", j.proof(api.PathEvents, j.session)}, 400, api.CodeInvalidDPoPProof},
		{"a long Last-Event-ID", append(j.eventHeaders(), api.HeaderLastEventID, strings.Repeat("x", 65)), 400, api.CodeInvalidRequest},
		{"two of them", append(j.eventHeaders(), api.HeaderLastEventID, "x", api.HeaderLastEventID, "y"), 400, api.CodeInvalidRequest},
	} {
		a := f.do(http.MethodGet, api.PathEvents, "", "", c.headers...)
		if a.status != c.status || !strings.Contains(string(a.body), `"error":"`+c.code+`"`) {
			t.Errorf("%s: %d %s, want %d %s", c.name, a.status, a.body, c.status, c.code)
		}
	}
	again := f.do(http.MethodGet, api.PathLeases+j.lease.LeaseID, "", "", used...)
	if again.status != http.StatusBadRequest {
		t.Errorf("a proof for events at another path: %d", again.status)
	}
	a := f.do(http.MethodPost, api.PathEvents, "", "", j.eventHeaders()...)
	if a.status != http.StatusMethodNotAllowed {
		t.Errorf("POST /v1/events = %d", a.status)
	}
}

// A client is an open connection in memory.
type client struct {
	header http.Header
	text   bytes.Buffer
	gone   bool
}

func (c *client) Header() http.Header              { return c.header }
func (c *client) WriteHeader(int)                  {}
func (c *client) SetReadDeadline(time.Time) error  { return nil }
func (c *client) SetWriteDeadline(time.Time) error { return nil }
func (c *client) FlushError() error                { return nil }

func (c *client) Write(p []byte) (int, error) {
	if c.gone {
		return 0, errors.New("the client has gone")
	}
	return c.text.Write(p)
}

// In a quietStore nothing happens.
type quietStore struct{ broker.LeaseStore }

func (quietStore) SessionStates(_ context.Context, watched []broker.Watched) ([]broker.SessionState, error) {
	return make([]broker.SessionState, len(watched)), nil
}

// follow lets c follow a session without leases in a bubble, and returns what
// it has got in the end, and when that was.
func follow(t *testing.T, c *client, life time.Duration) (text string, took time.Duration) {
	synctest.Test(t, func(t *testing.T) {
		b := &broker.Broker{Leases: quietStore{}}
		s := &server.Server{Broker: b}
		ctx, cancel := context.WithCancel(t.Context())
		go b.Watch(ctx)
		synctest.Wait()
		start := time.Now()
		err := s.Follow(c, httptest.NewRequest(http.MethodGet, api.PathEvents, nil), &broker.Session{Expires: start.Add(life)})
		if err != nil || b.Listeners() != 0 {
			t.Errorf("Follow = %v, and %d listen", err, b.Listeners())
		}
		text, took = c.text.String(), time.Since(start)
		cancel()
	})
	return text, took
}

// A stream in silence shows that it lives four times a minute, and ends when the
// token of its session does.
func TestEventsEndWithTheToken(t *testing.T) {
	c := &client{header: http.Header{}}
	text, took := follow(t, c, 10*time.Minute+time.Second)
	if beats := strings.Count(text, ":\n\n"); took != 10*time.Minute+time.Second || beats != int(10*time.Minute/server.EventBeat) {
		t.Errorf("%d signs of life in %s", beats, took)
	}
}

// A client that has gone is noticed at the next sign of life.
func TestEventsEndWithTheClient(t *testing.T) {
	c := &client{header: http.Header{}, gone: true}
	if text, took := follow(t, c, time.Hour); took > server.EventBeat || text != "" {
		t.Errorf("it was noticed after %s", took)
	}
}
