package issuers_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
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
// the broker no longer than five seconds.
func TestSlowIssuer(t *testing.T) {
	t.Parallel()
	p := start(t, lab.Options{})
	p.Break(lab.Slow)
	set, raw := newSet(t, p.config("github")), p.mint(t, nil)
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	id, err := set.Verify(gone, raw)
	if got := reason(t, id, err); got != "unavailable" {
		t.Errorf("Verify with a cancelled context = %v", err)
	}
	began := time.Now()
	check(t, set, raw, "unavailable")
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
	l, err := lab.New(lab.Options{URL: server.URL + "/_services/token"})
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
		Name: "github", Preset: "github", URL: l.URL, Audience: audience,
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

// running runs the set in the background until the end of the test.
func running(t *testing.T, set *issuers.Set) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); set.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	synctest.Wait()
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

func TestStaleKeys(t *testing.T) {
	p := start(t, lab.Options{})
	synctest.Test(t, func(t *testing.T) {
		set := newSet(t, p.config("github"))
		running(t, set)
		time.Sleep(time.Second)
		p.Break(lab.Down)
		time.Sleep(23 * time.Hour)
		check(t, set, p.mint(t, nil), "")
		check(t, set, p.strange(t)("new"), "unavailable") // it may be a new key's
		if status := set.Status(); status[0].Err == nil || status[0].Keys != 1 || time.Since(status[0].Fetched) < 22*time.Hour {
			t.Errorf("Status = %+v, want old keys and an error", status)
		}
		time.Sleep(2 * time.Hour)
		check(t, set, p.mint(t, nil), "unavailable")
		p.Break(lab.Healthy)
		time.Sleep(time.Minute)
		check(t, set, p.mint(t, nil), "")
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
	good, point := firstKey(t, p), firstKey(t, ec)
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
		"alg is a number":        with(good, map[string]any{"alg": 256}),
		"private":                with(good, map[string]any{"d": "AQAB"}),
		"symmetric":              {"kty": "oct", "kid": "x", "k": "c2VjcmV0"},
		"unknown type":           with(good, map[string]any{"kty": "rsa"}),
		"no kid":                 with(good, map[string]any{"kid": nil}),
		"empty kid":              with(good, map[string]any{"kid": ""}),
		"long kid":               with(good, map[string]any{"kid": strings.Repeat("k", 257)}),
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
		"another curve":          with(point, map[string]any{"crv": "P-384"}),
		"ES256 not wanted":       point,
	}
	for name, odd := range skipped {
		algorithms := []string{"RS256", "ES256"}
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
