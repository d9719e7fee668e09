package issuers_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/brevet-dev/brevet/issuers"
	"github.com/brevet-dev/brevet/issuers/lab"
)

const audience = "https://broker.example.com"

// A platform is a lab issuer behind a real local server that counts what is
// asked of it and can be given other answers.
type platform struct {
	*lab.Lab
	hits    atomic.Int64 // requests for the keys
	replace atomic.Pointer[replacement]
}

// A replacement answers a path in the lab's place.
type replacement struct {
	path    string
	handler http.HandlerFunc
}

func start(t testing.TB, opts lab.Options) *platform {
	t.Helper()
	p := &platform{}
	server := httptest.NewServer(p)
	t.Cleanup(server.Close)
	opts.URL = server.URL
	l, err := lab.New(opts)
	if err != nil {
		t.Fatal(err)
	}
	p.Lab = l
	t.Cleanup(func() { l.Close() })
	return p
}

func (p *platform) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.HasSuffix(r.URL.Path, "/jwks") {
		p.hits.Add(1)
	}
	if other := p.replace.Load(); other != nil && other.path == r.URL.Path {
		other.handler(w, r)
		return
	}
	p.Handler().ServeHTTP(w, r)
}

// config configures p as an issuer of that preset, which is also its name.
func (p *platform) config(preset string) issuers.Config {
	return issuers.Config{Name: preset, Preset: preset, URL: p.URL, InsecureHTTP: true, Audience: audience}
}

func newSet(t testing.TB, configs ...issuers.Config) *issuers.Set {
	t.Helper()
	set, err := issuers.New(configs)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// mint returns a good token with changes.
func (p *platform) mint(t testing.TB, changes map[string]any) string {
	t.Helper()
	return p.forge(t, lab.Forgery{Claims: changes})
}

func (p *platform) forge(t testing.TB, f lab.Forgery) string {
	t.Helper()
	raw, err := p.Forge(audience, f)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// reason returns the reason of a refusal, "unavailable", "" for no error.
func reason(t testing.TB, id *issuers.Identity, err error) string {
	t.Helper()
	if (err == nil) == (id == nil) {
		t.Errorf("Verify = %v, %v: want either", id, err)
	}
	var refusal *issuers.TokenError
	switch {
	case err == nil:
		return ""
	case errors.As(err, &refusal) && errors.Is(err, issuers.ErrInvalidToken) && !errors.Is(err, issuers.ErrUnavailable):
		return refusal.Reason
	case errors.Is(err, issuers.ErrUnavailable) && !errors.Is(err, issuers.ErrInvalidToken):
		return "unavailable"
	}
	t.Errorf("Verify = %v: neither ErrInvalidToken nor ErrUnavailable", err)
	return err.Error()
}

// check verifies raw and compares the reason with want.
func check(t testing.TB, set *issuers.Set, raw, want string) {
	t.Helper()
	id, err := set.Verify(t.Context(), raw)
	if got := reason(t, id, err); got != want {
		t.Errorf("Verify gave reason %q, want %q (%v)", got, want, err)
	}
}
