package system

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/test/servers"
)

// A stream is an open request for the events of a session, at one broker.
type stream struct {
	t      *testing.T
	events *api.EventReader
}

// listenAt asks the broker at an address for the events of a bearer session.
func (f *fixture) listenAt(session string) *stream {
	f.t.Helper()
	req, err := http.NewRequestWithContext(f.t.Context(), http.MethodGet, "http://"+f.listen+api.PathEvents, nil)
	if err != nil {
		f.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+session)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { resp.Body.Close() })
	if resp.StatusCode != http.StatusOK {
		f.t.Fatalf("GET /v1/events = %d", resp.StatusCode)
	}
	return &stream{f.t, api.NewEventReader(resp.Body)}
}

// hears returns the next event that says something; "" for the end.
func (s *stream) hears() (name string, data api.Revocation) {
	s.t.Helper()
	for {
		e, err := s.events.Next()
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return "", data
		}
		if err != nil {
			s.t.Fatal(err)
		}
		if e.Name == "" {
			continue
		}
		if err := json.Unmarshal(e.Data, &data); err != nil {
			s.t.Fatal(err)
		}
		return e.Name, data
	}
}

// exchanged makes a session with leases.
func (f *fixture) exchanged(credentials ...string) *api.TokenResponse {
	f.t.Helper()
	a := f.post(api.PathToken, f.form(f.token(nil), credentials...))
	if a.status != http.StatusOK {
		f.t.Fatalf("exchange = %d %s", a.status, a.body)
	}
	out, err := api.DecodeTokenResponse(a.body)
	if err != nil {
		f.t.Fatal(err)
	}
	f.secrets.add(out.AccessToken.Reveal())
	return out
}

// What one broker or an operator's command ends, those hear who listen at
// another; a broker that stops and a Redis that is lost end their streams.
func TestEvents(t *testing.T) {
	t.Parallel()
	store := servers.StartRedis(t)
	a := start(t, options{redis: store.Addr})
	b := a.mate(options{})
	b.join(a, "--allow-unattested")
	b.serve()
	session := a.exchanged("registry", "deploy")
	token := session.AccessToken.Reveal()
	at, other := b.listenAt(token), a.listenAt(token)
	if got := a.post(api.PathRevoke, map[string][]string{"token": {session.Leases[0].LeaseID}}, "Authorization", "Bearer "+token); got.status != http.StatusOK {
		t.Fatalf("revoking = %d %s", got.status, got.body)
	}
	for _, s := range []*stream{at, other} {
		want := api.Revocation{LeaseID: session.Leases[0].LeaseID, Credential: "registry", Why: "revoked"}
		if name, got := s.hears(); name != api.EventRevoked || got != want {
			t.Errorf("heard %s %+v, want %+v", name, got, want)
		}
	}
	b.brevetd("leases", "revoke", "--credential", "deploy", "--yes")
	for _, s := range []*stream{at, other} {
		if name, got := s.hears(); name != api.EventRevoked || got.Credential != "deploy" || got.Why != "ordered" {
			t.Errorf("heard %s %+v, want that an operator ended deploy", name, got)
		}
	}
	a.stopsAtOnce()
	kept := b.exchangedAt("registry")
	at = b.listenAt(kept)
	store.Kill()
	if name, got := at.hears(); name != "" {
		t.Errorf("heard %s %+v of a Redis that is lost", name, got)
	}
}

// exchangedAt makes a session at this broker, and returns its token.
func (f *fixture) exchangedAt(credentials ...string) string {
	f.t.Helper()
	r, err := f.client.PostForm("http://"+f.listen+api.PathToken, f.form(f.token(nil), credentials...))
	if err != nil {
		f.t.Fatal(err)
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if err != nil || r.StatusCode != http.StatusOK {
		f.t.Fatalf("exchange = %d %s, %v", r.StatusCode, body, err)
	}
	out, err := api.DecodeTokenResponse(body)
	if err != nil {
		f.t.Fatal(err)
	}
	f.secrets.add(out.AccessToken.Reveal())
	return out.AccessToken.Reveal()
}

// stopsAtOnce stops a broker, which must not wait for those who listen.
func (f *fixture) stopsAtOnce() {
	f.t.Helper()
	fresh := f.exchangedAt("registry")
	s, begin := f.listenAt(fresh), time.Now()
	f.stop()
	if took := time.Since(begin); took > 20*time.Second { // it would wait for 35 s
		f.t.Error(fmt.Errorf("it took %s to stop", took))
	}
	if name, got := s.hears(); name != "" {
		f.t.Errorf("heard %s %+v of a broker that stopped", name, got)
	}
}
