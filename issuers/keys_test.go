package issuers_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"log/slog"
	"maps"
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
			if status := set.Status()[0]; status.Keys != 0 || status.Version != 0 || set.KeysVersion("github") != 0 {
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
			if got := set.KeysVersion("github"); got != version {
				t.Errorf("KeysVersion = %d, want %d", got, version)
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
		if set.KeysVersion("other") != 0 {
			t.Error("an issuer that is not configured has keys")
		}
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

func TestParseJWKS(t *testing.T) {
	p, ec := start(t, lab.Options{}), start(t, lab.Options{Preset: "generic", Algorithm: "ES256"})
	good, point, edwards := firstKey(t, p), firstKey(t, ec), ed25519JWK(t)
	// with returns key with changes; nil removes a member.
	with := func(key map[string]any, changes map[string]any) map[string]any {
		changed := map[string]any{}
		for _, from := range []map[string]any{key, changes} {
			for name, value := range from {
				changed[name] = value
				if value == nil {
					delete(changed, name)
				}
			}
		}
		return changed
	}
	skipped := map[string]map[string]any{
		"for encryption":         with(good, map[string]any{"use": "enc"}),
		"use is a list":          with(good, map[string]any{"use": []string{"sig"}}),
		"key_ops sign":           with(good, map[string]any{"key_ops": []string{"sign"}}),
		"key_ops is a string":    with(good, map[string]any{"key_ops": "verify"}),
		"for another algorithm":  with(good, map[string]any{"alg": "RS512"}),
		"alg of another type":    with(good, map[string]any{"alg": "ES256"}),
		"alg of another curve":   with(point, map[string]any{"alg": "ES384"}),
		"alg in lower case":      with(good, map[string]any{"alg": "rs256"}),
		"alg none":               with(good, map[string]any{"alg": "none"}),
		"alg HS256":              with(good, map[string]any{"alg": "HS256"}),
		"alg null":               with(good, map[string]any{"alg": json.RawMessage("null")}),
		"alg is a list":          with(good, map[string]any{"alg": []string{"RS256"}}),
		"key_ops null":           with(good, map[string]any{"key_ops": json.RawMessage("null")}),
		"alg is a number":        with(good, map[string]any{"alg": 256}),
		"private":                with(good, map[string]any{"d": "AQAB"}),
		"symmetric":              {"kty": "oct", "kid": "x", "k": "c2VjcmV0"},
		"unknown type":           with(good, map[string]any{"kty": "rsa"}),
		"no kid":                 with(good, map[string]any{"kid": nil}),
		"empty kid":              with(good, map[string]any{"kid": ""}),
		"long kid":               with(good, map[string]any{"kid": strings.Repeat("k", 257)}),
		"exponent 1":             with(good, map[string]any{"e": "AQ"}),
		"exponent 0":             with(good, map[string]any{"e": "AA"}),
		"no exponent":            with(good, map[string]any{"e": nil}),
		"exponent 3":             with(good, map[string]any{"e": "Aw"}),
		"even exponent":          with(good, map[string]any{"e": "AQAC"}),
		"huge exponent":          with(good, map[string]any{"e": "AQAAAAAAAAAB"}),
		"small modulus":          with(good, map[string]any{"n": strings.Repeat("f", 171)}),
		"large modulus":          with(good, map[string]any{"n": strings.Repeat("f", 700)}),
		"even modulus":           with(good, map[string]any{"n": strings.Repeat("f", 341) + "A"}),
		"modulus with padding":   with(good, map[string]any{"n": good["n"].(string) + "=="}),
		"modulus is a number":    with(good, map[string]any{"n": 1}),
		"point not on the curve": with(point, map[string]any{"x": point["y"], "y": point["x"]}),
		"short point":            with(point, map[string]any{"x": "AQAB"}),
		"point at infinity":      with(point, map[string]any{"x": strings.Repeat("A", 43), "y": strings.Repeat("A", 43)}),
		"coordinate above p":     with(point, map[string]any{"x": strings.Repeat("_", 42) + "8"}),
		"padded coordinate":      with(point, map[string]any{"x": "AA" + point["x"].(string)}),
		"line break in it":       with(point, map[string]any{"x": point["x"].(string) + "\n"}),
		"loose base64":           with(point, map[string]any{"x": loosened(point["x"].(string))}),
		"another curve":          with(point, map[string]any{"crv": "P-384"}),
		"curve in lower case":    with(point, map[string]any{"crv": "p-256"}),
		"curve secp256k1":        with(point, map[string]any{"crv": "secp256k1"}),
		"no curve":               with(point, map[string]any{"crv": nil}),
		"EC as OKP":              with(point, map[string]any{"kty": "OKP"}),
		"Ed448":                  with(edwards, map[string]any{"crv": "Ed448"}),
		"X25519":                 with(edwards, map[string]any{"crv": "X25519"}),
		"Ed25519 for ES256":      with(edwards, map[string]any{"alg": "ES256"}),
		"Ed25519 with d":         with(edwards, map[string]any{"d": edwards["x"]}),
		"Ed25519, short":         with(edwards, map[string]any{"x": "AQAB"}),
		"ES256 not wanted":       point,
	}
	for name, odd := range skipped {
		algorithms := []string{"RS256", "ES256", "EdDSA"}
		if name == "ES256 not wanted" {
			algorithms = algorithms[:1]
		}
		if keys, err := issuers.ParseJWKS(jwks(t, odd), algorithms...); err == nil {
			t.Errorf("%s: ParseJWKS took %v", name, keys)
		}
		odd = with(odd, map[string]any{"kid": "odd"})
		other := with(good, map[string]any{"kid": "good", "use": nil, "alg": nil, "key_ops": []string{"verify"}})
		if name == "no kid" || name == "empty kid" || name == "long kid" {
			delete(odd, "kid")
		}
		if keys, err := issuers.ParseJWKS(jwks(t, odd, other), algorithms...); err != nil || len(keys) != 1 || keys["good"] != "RS256" {
			t.Errorf("%s beside a good key: ParseJWKS = %v, %v", name, keys, err)
		}
	}
	if keys, err := issuers.ParseJWKS(jwks(t, good, point), "RS256", "ES256"); err != nil || len(keys) != 2 {
		t.Errorf("two good keys: ParseJWKS = %v, %v", keys, err)
	}
	many := []map[string]any{}
	for i := range 101 {
		many = append(many, with(good, map[string]any{"kid": fmt.Sprint(i)}))
	}
	for name, document := range map[string][]byte{
		"one kid twice":         jwks(t, good, good),
		"one kid twice, in odd": jwks(t, good, with(good, map[string]any{"use": "enc"})),
		"101 keys":              jwks(t, many...),
		"no keys":               jwks(t),
		"no list":               []byte(`{"keys":{}}`),
		"a list":                []byte(`[]`),
		"not objects":           []byte(`{"keys":[1,"x",null]}`),
		"names twice":           bytes.Replace(jwks(t, good), []byte(`"kty"`), []byte(`"KTY":"oct","kty"`), 1),
	} {
		if keys, err := issuers.ParseJWKS(document, "RS256"); err == nil {
			t.Errorf("%s: ParseJWKS took %v", name, keys)
		}
	}
	if _, err := issuers.ParseJWKS(jwks(t, many[:100]...), "RS256"); err != nil {
		t.Errorf("100 keys: %v", err)
	}
}

// Keys without alg may verify what is for their type and curve and is the
// issuer's; keys with it, that alone.
func TestKeyAlgorithms(t *testing.T) {
	rsaKey, point := firstKey(t, start(t, lab.Options{})), firstKey(t, start(t, lab.Options{Preset: "generic", Algorithm: "ES256"}))
	for _, test := range []struct {
		key    map[string]any
		alg    any
		issuer []string
		want   string
	}{
		{rsaKey, "RS256", issuers.Algorithms(), "RS256"},
		{rsaKey, "PS512", issuers.Algorithms(), "PS512"},
		{rsaKey, nil, issuers.Algorithms(), "RS256 RS384 RS512 PS256 PS384 PS512"},
		{rsaKey, nil, []string{"ES256", "RS256"}, "RS256"},
		{rsaKey, "RS384", []string{"RS256"}, ""},
		{rsaKey, nil, []string{"ES256"}, ""},
		{point, nil, issuers.Algorithms(), "ES256"},
		{point, nil, []string{"ES384"}, ""},
		{ed25519JWK(t), nil, issuers.Algorithms(), "EdDSA"},
		{ed25519JWK(t), "EdDSA", issuers.Algorithms(), "EdDSA"},
	} {
		key := maps.Clone(test.key)
		key["alg"], key["kid"] = test.alg, "k"
		if test.alg == nil {
			delete(key, "alg")
		}
		keys, err := issuers.ParseJWKS(jwks(t, key), test.issuer...)
		if keys["k"] != test.want || (err == nil) != (test.want != "") {
			t.Errorf("ParseJWKS of a %v key with alg %v for %q = %v, %v, want %q", key["kty"], test.alg, test.issuer, keys, err, test.want)
		}
	}
}

// Under a point of low order, a signature of zeros and the point itself
// verifies every message, or one in a few.
func TestEd25519Points(t *testing.T) {
	for range 20 {
		if _, err := issuers.ParseJWKS(jwks(t, ed25519JWK(t)), "EdDSA"); err != nil {
			t.Fatalf("a good key: %v", err)
		}
	}
	for name, point := range map[string]string{
		"order 1":           "01" + strings.Repeat("00", 31),
		"order 1, signed":   "01" + strings.Repeat("00", 30) + "80",
		"order 2":           "ec" + strings.Repeat("ff", 30) + "7f",
		"order 2, signed":   "ec" + strings.Repeat("ff", 31),
		"order 4":           strings.Repeat("00", 32),
		"order 4, negative": strings.Repeat("00", 31) + "80",
		"order 8":           "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
		"order 8, another":  "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
		"order 8, negative": "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
		"p for 0":           "ed" + strings.Repeat("ff", 30) + "7f",
		"p + 1 for 1":       "ee" + strings.Repeat("ff", 30) + "7f",
		"above p":           strings.Repeat("ff", 31) + "7f",
		"not on the curve":  "02" + strings.Repeat("00", 31),
	} {
		x, err := hex.DecodeString(point)
		if err != nil {
			t.Fatal(err)
		}
		jwk := map[string]any{"kty": "OKP", "crv": "Ed25519", "kid": "k", "x": encode(string(x))}
		if keys, err := issuers.ParseJWKS(jwks(t, jwk), "EdDSA"); err == nil {
			t.Errorf("%s: ParseJWKS took %v", name, keys)
		}
	}
}

func ed25519JWK(t testing.TB) map[string]any {
	t.Helper()
	public, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	return map[string]any{"kty": "OKP", "crv": "Ed25519", "kid": "ed", "x": encode(string(public))}
}

// loosened returns another base64 text of the same 32 bytes: 2 bits of the last
// character mean nothing.
func loosened(text string) string {
	const digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	last := len(text) - 1
	return text[:last] + string(digits[strings.IndexByte(digits, text[last])+1])
}

func jwks(t testing.TB, keys ...map[string]any) []byte {
	t.Helper()
	document, err := json.Marshal(map[string]any{"keys": keys})
	if err != nil {
		t.Fatal(err)
	}
	return document
}

// firstKey returns p's published key.
func firstKey(t testing.TB, p *platform) map[string]any {
	var document struct{ Keys []map[string]any }
	if err := json.Unmarshal([]byte(jwksOf(t, p)), &document); err != nil {
		t.Fatal(err)
	}
	return document.Keys[0]
}
