package issuers_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/rand"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/brevet-dev/brevet/issuers"
	"github.com/brevet-dev/brevet/issuers/lab"
)

const (
	discoveryPath = "/.well-known/openid-configuration"
	jwksPath      = "/.well-known/jwks"
)

// body answers with JSON.
func body(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, text)
	}
}

// An issuer whose answers are not what they should be is unavailable: its
// tokens are neither accepted nor called bad.
func TestIssuerFaults(t *testing.T) {
	elsewhere := start(t, lab.Options{})
	tests := []struct {
		name    string
		fault   lab.Fault
		replace func(p *platform) *replacement
	}{
		{name: "down", fault: lab.Down},
		{name: "redirects", fault: lab.Redirect},
		{name: "sends keys without end", fault: lab.HugeJWKS},
		{name: "discovery is not JSON", replace: func(*platform) *replacement {
			return &replacement{discoveryPath, body("<html>")}
		}},
		{name: "discovery names another issuer", replace: func(p *platform) *replacement {
			return &replacement{discoveryPath, body(fmt.Sprintf(`{"issuer":"%s/","jwks_uri":"%s/.well-known/jwks"}`, p.URL, p.URL))}
		}},
		{name: "keys on another host", replace: func(p *platform) *replacement {
			return &replacement{discoveryPath, body(fmt.Sprintf(`{"issuer":"%s","jwks_uri":"%s/.well-known/jwks"}`, p.URL, elsewhere.URL))}
		}},
		{name: "no jwks_uri", replace: func(p *platform) *replacement {
			return &replacement{discoveryPath, body(fmt.Sprintf(`{"issuer":"%s"}`, p.URL))}
		}},
		{name: "jwks_uri with a user", replace: func(p *platform) *replacement {
			uri := strings.Replace(p.URL, "http://", "http://user@", 1)
			return &replacement{discoveryPath, body(fmt.Sprintf(`{"issuer":"%s","jwks_uri":"%s/.well-known/jwks"}`, p.URL, uri))}
		}},
		{name: "jwks_uri is a file", replace: func(p *platform) *replacement {
			return &replacement{discoveryPath, body(fmt.Sprintf(`{"issuer":"%s","jwks_uri":"file:///etc/passwd"}`, p.URL))}
		}},
		{name: "keys as text", replace: func(p *platform) *replacement {
			return &replacement{jwksPath, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "text/plain")
				io.WriteString(w, jwksOf(t, p))
			}}
		}},
		{name: "keys compressed", replace: func(p *platform) *replacement {
			return &replacement{jwksPath, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "application/json")
				w.Header().Set("Content-Encoding", "gzip")
				z := gzip.NewWriter(w)
				io.WriteString(z, jwksOf(t, p))
				z.Close()
			}}
		}},
		{name: "keys with status 404", replace: func(p *platform) *replacement { return &replacement{jwksPath, status(t, p, 404)} }},
		{name: "keys with status 500", replace: func(p *platform) *replacement { return &replacement{jwksPath, status(t, p, 500)} }},
		{name: "keys with status 203", replace: func(p *platform) *replacement { return &replacement{jwksPath, status(t, p, 203)} }},
		{name: "jwks_uri with a fragment", replace: func(p *platform) *replacement {
			return &replacement{discoveryPath, body(fmt.Sprintf(`{"issuer":"%s","jwks_uri":"%s/.well-known/jwks#x"}`, p.URL, p.URL))}
		}},
		{name: "no keys", replace: func(*platform) *replacement { return &replacement{jwksPath, body(`{"keys":[]}`)} }},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			p := start(t, lab.Options{})
			set := newSet(t, p.config("github"))
			p.Break(test.fault)
			if test.replace != nil {
				p.replace.Store(test.replace(p))
			}
			check(t, set, p.mint(t, nil), "unavailable")
			if status := set.Status(); len(status) != 1 || status[0].Err == nil || status[0].Keys != 0 || !status[0].Fetched.IsZero() {
				t.Errorf("Status = %+v", status)
			}
		})
	}
	if elsewhere.hits.Load() != 0 {
		t.Error("keys were fetched from a host that is not allowed")
	}
}

// status answers with p's own keys, and a status that says that they are none.
func status(t testing.TB, p *platform, code int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/jwk-set+json")
		w.WriteHeader(code)
		io.WriteString(w, jwksOf(t, p))
	}
}

// RFC 7517, section 8.5, has a media type of its own for keys.
func TestKeysMediaType(t *testing.T) {
	p := start(t, lab.Options{})
	p.replace.Store(&replacement{jwksPath, status(t, p, http.StatusOK)})
	check(t, newSet(t, p.config("github")), p.mint(t, nil), "")
}

// jwksOf returns p's own keys as a document.
func jwksOf(t testing.TB, p *platform) string {
	t.Helper()
	recorder := httptest.NewRecorder()
	p.Handler().ServeHTTP(recorder, httptest.NewRequest(http.MethodGet, jwksPath, nil))
	if recorder.Code != http.StatusOK {
		t.Errorf("the lab's keys: status %d", recorder.Code)
	}
	return recorder.Body.String()
}

func TestAllowedJWKSHost(t *testing.T) {
	p, keys := start(t, lab.Options{}), start(t, lab.Options{})
	p.replace.Store(&replacement{discoveryPath, body(fmt.Sprintf(`{"issuer":"%s","jwks_uri":"%s/.well-known/jwks"}`, p.URL, keys.URL))})
	keys.replace.Store(&replacement{jwksPath, body(jwksOf(t, p))})
	config := p.config("github")
	config.AllowedJWKSHosts = []string{strings.TrimPrefix(keys.URL, "http://")}
	check(t, newSet(t, config), p.mint(t, nil), "")
}

// Google keeps its keys on another host than its name, and Entra those of its
// older issuers.
func TestKeysHosts(t *testing.T) {
	tests := []struct {
		preset, url, uri string
		allowed          bool
	}{
		{"google", "", "https://www.googleapis.com/oauth2/v3/certs", true},
		{"google", "", "https://www.googleapis.com.example.com/oauth2/v3/certs", false},
		{"google", "", "http://www.googleapis.com/oauth2/v3/certs", false},
		{"entra", "https://sts.windows.net/72f988bf-0000-4000-8000-2d7cd011db47/", "https://login.microsoftonline.com/common/discovery/keys", true},
		{"gitlab", "", "https://www.googleapis.com/oauth2/v3/certs", false},
	}
	for _, test := range tests {
		c := &issuers.Config{Name: "x", Preset: test.preset, URL: test.url, Audience: "https://broker.example.com"}
		if err := issuers.AllowsKeysAt(c, test.uri); (err == nil) != test.allowed {
			t.Errorf("%s, %s: %v", test.preset, test.uri, err)
		}
	}
}

// The token's caller waits for a slow issuer no longer than it wants to, and
// the broker no longer than five seconds: for the answer, and for its end.
func TestSlowIssuer(t *testing.T) {
	t.Parallel()
	silent, slow := start(t, lab.Options{}), start(t, lab.Options{Preset: "gitlab"})
	silent.Break(lab.Slow)
	slow.replace.Store(&replacement{jwksPath, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, `{"keys":[`)
		http.NewResponseController(w).Flush() // what fails here, the client sees
		<-r.Context().Done()
	}})
	set := newSet(t, silent.config("github"), slow.config("gitlab"))
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	id, err := set.Verify(gone, silent.mint(t, nil))
	if got := reason(t, id, err); got != "unavailable" {
		t.Errorf("Verify with a cancelled context = %v", err)
	}
	began := time.Now()
	var both sync.WaitGroup
	both.Go(func() { check(t, set, silent.mint(t, nil), "unavailable") })
	both.Go(func() { check(t, set, slow.mint(t, nil), "unavailable") })
	both.Wait()
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("a slow issuer held Verify up for %v", took)
	}
}

// secure serves p's keys over TLS and returns its configuration.
func secure(t *testing.T) (*platform, issuers.Config) {
	p := &platform{}
	server := httptest.NewUnstartedServer(p)
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // refused handshakes are the test
	server.StartTLS()
	t.Cleanup(server.Close)
	l, err := lab.New(lab.Options{Preset: "gitlab", URL: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	p.Lab = l
	ca := filepath.Join(t.TempDir(), "ca.pem")
	bundle := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(ca, bundle, 0o600); err != nil {
		t.Fatal(err)
	}
	return p, issuers.Config{
		Name: "gitlab", Preset: "gitlab", URL: server.URL, Audience: audience,
		CAFile: ca, AllowPrivateCIDRs: []string{"127.0.0.0/8"},
	}
}

func TestTLS(t *testing.T) {
	p, config := secure(t)
	raw := p.mint(t, nil)
	check(t, newSet(t, config), raw, "")
	p.hits.Store(0)
	private, unknownCA := config, config
	private.AllowPrivateCIDRs = []string{"10.0.0.0/8"}
	unknownCA.CAFile = ""
	check(t, newSet(t, private), raw, "unavailable")
	check(t, newSet(t, unknownCA), raw, "unavailable")
	if p.hits.Load() != 0 {
		t.Error("the keys were fetched all the same")
	}
}

func TestKeysTogether(t *testing.T) {
	p := start(t, lab.Options{})
	set, raw := newSet(t, p.config("github")), p.mint(t, nil)
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() { check(t, set, raw, "") })
	}
	all.Wait()
	if hits := p.hits.Load(); hits != 1 {
		t.Errorf("50 first tokens fetched the keys %d times, want once", hits)
	}
}

// expect runs f and fails unless it fetched the keys want times.
func (p *platform) expect(t *testing.T, want int64, f func()) {
	t.Helper()
	before := p.hits.Load()
	f()
	if got := p.hits.Load() - before; got != want {
		t.Errorf("%d fetches, want %d", got, want)
	}
}

// strange returns a function that makes tokens with kids that the issuer never
// had. Their signatures are wrong, which nobody can know without the key.
func (p *platform) strange(t *testing.T) func(kid string) string {
	_, rest, _ := strings.Cut(p.mint(t, nil), ".")
	return func(kid string) string {
		return encode(fmt.Sprintf(`{"alg":"RS256","typ":"JWT","kid":"%s"}`, kid)) + "." + rest
	}
}

// In the tests below the server stands outside of the bubble and the client
// keeps no connection open, so that the bubble's clock stands still during a
// request and runs on as soon as it is answered.

func TestKidFlood(t *testing.T) {
	p := start(t, lab.Options{})
	synctest.Test(t, func(t *testing.T) {
		set := newSet(t, p.config("github"))
		p.expect(t, 1, func() { check(t, set, p.mint(t, nil), "") })
		strange := p.strange(t)
		flood := func() {
			for range 1500 {
				check(t, set, strange(rand.Text()), issuers.ReasonUnknownKey)
			}
		}
		p.expect(t, 0, flood)
		if n := set.UnknownKeys("github"); n == 0 || n > 1024 {
			t.Errorf("%d kids are known as unknown, want some, and 1024 at most", n)
		}
		time.Sleep(31 * time.Second)
		p.expect(t, 1, flood)
		time.Sleep(31 * time.Second)
		p.expect(t, 1, flood)

		time.Sleep(31 * time.Second)
		p.expect(t, 1, func() { check(t, set, strange("again"), issuers.ReasonUnknownKey) })
		time.Sleep(31 * time.Second) // a fetch is allowed, but this kid is known as unknown
		p.expect(t, 0, func() { check(t, set, strange("again"), issuers.ReasonUnknownKey) })
		time.Sleep(31 * time.Second)
		p.expect(t, 1, func() { check(t, set, strange("again"), issuers.ReasonUnknownKey) })
	})
}

// While the issuer is down a flood of kids causes no more requests than when it
// is up, and the keys at hand go on.
func TestKidFloodWhileDown(t *testing.T) {
	p := start(t, lab.Options{})
	synctest.Test(t, func(t *testing.T) {
		set := newSet(t, p.config("github"))
		check(t, set, p.mint(t, nil), "")
		p.replace.Store(&replacement{jwksPath, func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "down", http.StatusBadGateway)
		}})
		strange := p.strange(t)
		for range 3 {
			time.Sleep(31 * time.Second)
			p.expect(t, 1, func() {
				for range 200 {
					check(t, set, strange(rand.Text()), "unavailable")
				}
			})
			check(t, set, p.mint(t, nil), "")
			time.Sleep(6 * time.Second) // a moment more than is waited for without any keys
			p.expect(t, 0, func() { check(t, set, strange("again"), "unavailable") })
		}
	})
}

// A wrong signature under a known kid never causes a fetch.
func TestBadSignatureFetchesNothing(t *testing.T) {
	p := start(t, lab.Options{})
	synctest.Test(t, func(t *testing.T) {
		set := newSet(t, p.config("github"))
		check(t, set, p.mint(t, nil), "")
		time.Sleep(time.Hour)
		p.expect(t, 0, func() {
			for range 200 {
				check(t, set, p.forge(t, lab.Forgery{StrangeKey: true}), issuers.ReasonSignature)
			}
		})
	})
}

func TestRotation(t *testing.T) {
	p := start(t, lab.Options{})
	synctest.Test(t, func(t *testing.T) {
		set := newSet(t, p.config("github"))
		check(t, set, p.mint(t, nil), "")
		if err := p.Rotate(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(31 * time.Second)
		p.expect(t, 1, func() { check(t, set, p.mint(t, nil), "") })
		if status := set.Status(); status[0].Keys != 2 || status[0].Err != nil {
			t.Errorf("Status = %+v, want two keys", status)
		}
	})
}

// running runs the set in the background until the end of the test and returns
// its log, which may be read when everything waits.
func running(t *testing.T, set *issuers.Set) *bytes.Buffer {
	ctx, cancel := context.WithCancel(t.Context())
	done, text := make(chan struct{}), &bytes.Buffer{}
	go func() { defer close(done); set.Run(ctx, slog.New(slog.NewTextHandler(text, nil))) }()
	t.Cleanup(func() { cancel(); <-done })
	synctest.Wait()
	return text
}

func TestRunWithdrawsKeys(t *testing.T) {
	p := start(t, lab.Options{})
	synctest.Test(t, func(t *testing.T) {
		set := newSet(t, p.config("github"))
		running(t, set)
		time.Sleep(time.Second)
		p.expect(t, 0, func() { check(t, set, p.mint(t, nil), "") }) // Run had fetched them
		old := p.mint(t, nil)
		if err := p.Rotate(); err != nil {
			t.Fatal(err)
		}
		p.Withdraw()
		check(t, set, old, "")
		p.expect(t, 1, func() { time.Sleep(time.Hour) })
		kid := keyID(t, strings.Split(old, ".")[0])
		check(t, set, p.strange(t)(kid), issuers.ReasonUnknownKey)
		check(t, set, p.mint(t, nil), "")
	})
}

// max-age decides about the next refresh, between five minutes and an hour.
func TestCacheControl(t *testing.T) {
	p := start(t, lab.Options{})
	for header, want := range map[string]int64{
		"":                              1, // fetches in 61 minutes
		"max-age=86400":                 1,
		"public, Max-Age=1200, private": 3,
		"max-age=0":                     12,
		"max-age=-1":                    12,
		"no-store":                      12,
		"max-age=86400, no-cache":       12,
	} {
		p.replace.Store(&replacement{jwksPath, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Cache-Control", header)
			p.Handler().ServeHTTP(w, r)
		}})
		synctest.Test(t, func(t *testing.T) {
			running(t, newSet(t, p.config("github")))
			time.Sleep(time.Second)
			before := p.hits.Load()
			time.Sleep(61 * time.Minute)
			// Each pause is up to a tenth shorter than it could be.
			if got := p.hits.Load() - before; got < want || got > want+want/9+1 {
				t.Errorf("Cache-Control %q: %d refreshes in 61 minutes, want %d", header, got, want)
			}
		})
	}
}

// Keys are believed until the refresh that is due, an hour after the last one,
// and stale_keys after that.
func TestStaleKeys(t *testing.T) {
	p := start(t, lab.Options{})
	for _, test := range []struct {
		stale *time.Duration
		until time.Duration
	}{{nil, 2 * time.Hour}, {new(time.Minute), 61 * time.Minute}, {new(24 * time.Hour), 25 * time.Hour}} {
		synctest.Test(t, func(t *testing.T) {
			p.Break(lab.Healthy)
			config := p.config("github")
			config.StaleKeys = test.stale
			set, fetched := newSet(t, config), time.Now()
			log := running(t, set)
			time.Sleep(time.Second)
			p.Break(lab.Down)
			time.Sleep(test.until - 2*time.Second)
			check(t, set, p.mint(t, nil), "")
			check(t, set, p.strange(t)("new"), "unavailable") // it may be a new key's
			status := set.Status()[0]
			if until := fetched.Add(test.until); status.Err == nil || status.Keys != 1 || !status.Until.Equal(until) || !status.Fetched.Equal(fetched) {
				t.Errorf("Status = %+v, want old keys until %v and an error", status, until)
			}
			time.Sleep(2 * time.Second)
			check(t, set, p.mint(t, nil), "unavailable")
			if status := set.Status()[0]; status.Keys != 0 || status.Version != 0 {
				t.Errorf("Status = %+v, want no keys", status)
			}
			time.Sleep(time.Minute)
			p.Break(lab.Healthy)
			time.Sleep(time.Minute)
			check(t, set, p.mint(t, nil), "")
			synctest.Wait()
			expectLog(t, log, "level=WARN", "level=ERROR", "level=INFO")
		})
	}
}

// expectLog fails unless the log has exactly one line with each of want, in
// this order.
func expectLog(t *testing.T, log *bytes.Buffer, want ...string) {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(log.String()), "\n")
	ok := len(lines) == len(want)
	for i := range min(len(lines), len(want)) {
		ok = ok && strings.Contains(lines[i], want[i]) && strings.Contains(lines[i], "issuer=")
	}
	if !ok {
		t.Errorf("the log is\n%s\nwant lines with %q", log, want)
	}
}

// Without Run, keys that are not believed any more are fetched when a token
// needs them.
func TestWithoutRun(t *testing.T) {
	p := start(t, lab.Options{})
	synctest.Test(t, func(t *testing.T) {
		set, raw := newSet(t, p.config("github")), func() string { return p.mint(t, nil) }
		p.expect(t, 1, func() { check(t, set, raw(), "") })
		time.Sleep(2*time.Hour - time.Second)
		p.expect(t, 0, func() { check(t, set, raw(), "") })
		time.Sleep(time.Second)
		p.expect(t, 1, func() { check(t, set, raw(), "") })
	})
}

// The version grows with each change of the keys, and only then.
func TestKeysVersion(t *testing.T) {
	p := start(t, lab.Options{})
	synctest.Test(t, func(t *testing.T) {
		set := newSet(t, p.config("github"))
		want := func(version uint64) {
			t.Helper()
			if got := set.Status()[0].Version; got != version {
				t.Errorf("Status has version %d, want %d", got, version)
			}
		}
		want(0)
		running(t, set)
		time.Sleep(time.Second)
		want(1)
		time.Sleep(time.Hour)
		want(1)
		if err := p.Rotate(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		want(2)
		p.Withdraw()
		time.Sleep(time.Hour)
		want(3)
	})
}

// The broker starts while an issuer is down, and asks it again soon, but not
// for every token.
func TestDownAtStart(t *testing.T) {
	p := start(t, lab.Options{})
	p.replace.Store(&replacement{jwksPath, func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "down", http.StatusBadGateway)
	}})
	synctest.Test(t, func(t *testing.T) {
		set := newSet(t, p.config("github"))
		p.expect(t, 1, func() {
			for range 20 {
				check(t, set, p.mint(t, nil), "unavailable")
			}
		})
		p.replace.Store(nil)
		p.expect(t, 0, func() { check(t, set, p.mint(t, nil), "unavailable") })
		time.Sleep(5 * time.Second)
		p.expect(t, 1, func() { check(t, set, p.mint(t, nil), "") })
	})
}
