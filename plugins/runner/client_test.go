package runner_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/plugins/exchange"
	"github.com/brevet-dev/brevet/plugins/runner"
	"github.com/brevet-dev/brevet/plugins/runner/runnertest"
)

const canary = runnertest.Canary

func newKey(t testing.TB) *exchange.Key {
	t.Helper()
	key, err := exchange.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newClient(t testing.TB, broker string, hc *http.Client) *runner.Client {
	t.Helper()
	c, err := runner.NewClient(broker, hc, newKey(t))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func request(credentials ...string) runner.Request {
	return runner.Request{SubjectToken: api.NewSecret(runnertest.Token("job")), Credentials: credentials, TTL: time.Minute}
}

func TestExchangeAndRevoke(t *testing.T) {
	b := runnertest.NewBroker(runnertest.Lease("deploy", "TOKEN", canary))
	defer b.Close()
	c := newClient(t, b.URL, b.Client())
	answer, err := c.Exchange(t.Context(), request("deploy"))
	if err != nil {
		t.Fatal(err)
	}
	if got := answer.Leases[0].Values["token"].Reveal(); got != canary {
		t.Errorf("value = %q", got)
	}
	for range 2 { // the second finds nothing to end, which is no error
		if err := c.Revoke(t.Context(), answer.AccessToken); err != nil {
			t.Errorf("Revoke: %v", err)
		}
	}
	if sessions, live, _ := b.Counts(); sessions != 1 || live != 0 {
		t.Errorf("%d sessions, %d live; want 1, 0", sessions, live)
	}
	// Another key cannot use the token.
	if _, err := newClient(t, b.URL, b.Client()).Exchange(t.Context(), request("deploy")); !runner.IsKind(err, runner.Denied) {
		t.Errorf("Exchange with another key = %v, want a denial", err)
	}
}

// TestUnusable ends the session of an answer that is not as asked for.
func TestUnusable(t *testing.T) {
	wrong := runnertest.Lease("deploy", "TOKEN", canary)
	wrong.Sensitive = append(wrong.Sensitive, "absent")
	b := runnertest.NewBroker(wrong)
	defer b.Close()
	_, err := newClient(t, b.URL, b.Client()).Exchange(t.Context(), request("deploy"))
	if !runner.IsKind(err, runner.Protocol) {
		t.Errorf("Exchange = %v, want a protocol failure", err)
	}
	if sessions, live, _ := b.Counts(); sessions != 1 || live != 0 {
		t.Errorf("%d sessions, %d live; want 1, 0", sessions, live)
	}
}

// transport answers without a network, so that it works in a synctest bubble.
type transport func(*http.Request) (*http.Response, error)

func (f transport) RoundTrip(r *http.Request) (*http.Response, error) {
	if err := r.ParseForm(); err != nil { // reads the body
		return nil, err
	}
	return f(r)
}

func response(status int, header, body string) *http.Response {
	h := http.Header{}
	if name, value, ok := strings.Cut(header, ": "); ok {
		h.Set(name, value)
	}
	return &http.Response{StatusCode: status, Header: h, Body: io.NopCloser(strings.NewReader(body))}
}

// sealed answers r with a session of that type and a lease of deploy.
func sealed(t *testing.T, r *http.Request, tokenType string) *http.Response {
	t.Helper()
	recipient, err := api.ParseSealKey(r.PostForm.Get("seal_key"))
	if err != nil {
		t.Fatal(err)
	}
	answer := api.TokenResponse{
		AccessToken: api.NewSecret(canary), TokenType: tokenType, Leases: []api.Lease{runnertest.Lease("deploy", "TOKEN", canary)},
	}
	body, err := answer.EncodeSealed(recipient, r.URL.String(), r.Header.Get("DPoP"))
	if err != nil {
		t.Fatal(err)
	}
	return response(200, "", string(body))
}

// TestUnsealed refuses what was not asked for: leases in clear, and a session
// that anyone could use.
func TestUnsealed(t *testing.T) {
	clear := `{"access_token": "` + canary + `", "token_type": "DPoP", "leases": [{"lease_id": "1", "credential": "deploy"}]}`
	for name, answer := range map[string]func(*http.Request) *http.Response{
		"leases that are not sealed":           func(*http.Request) *http.Response { return response(200, "", clear) },
		"the session is not bound":             func(r *http.Request) *http.Response { return sealed(t, r, "Bearer") },
		"are sealed to another key or request": func(r *http.Request) *http.Response { r.Header.Set("DPoP", "x"); return sealed(t, r, "DPoP") },
	} {
		revoked := 0
		hc := &http.Client{Transport: transport(func(r *http.Request) (*http.Response, error) {
			if r.URL.Path == api.PathRevoke {
				revoked++
				return response(200, "", ""), nil
			}
			return answer(r), nil
		})}
		got, err := newClient(t, "https://broker.example.com", hc).Exchange(t.Context(), request("deploy"))
		if got != nil || !runner.IsKind(err, runner.Protocol) || !strings.Contains(err.Error(), name) || revoked != 1 {
			t.Errorf("Exchange = %v, %v, revoked %d times; want an error about: %s", got, err, revoked, name)
		}
	}
}

func TestRetries(t *testing.T) {
	refused := errors.New("connection refused")
	for _, tt := range []struct {
		name        string
		first       func() (*http.Response, error) // answers all tries but the last
		failures    int
		kind        runner.Kind // 0: success
		least, most time.Duration
	}{
		{"at once", nil, 0, 0, 0, 0},
		{"connection", func() (*http.Response, error) { return nil, refused }, 2, 0, 375 * time.Millisecond, 750 * time.Millisecond},
		{"bad gateway", func() (*http.Response, error) { return response(502, "", "<html>"), nil }, 1, 0, 125 * time.Millisecond, 250 * time.Millisecond},
		{"retry after", func() (*http.Response, error) { return response(503, "Retry-After: 7", ""), nil }, 1, 0, 7125 * time.Millisecond, 7250 * time.Millisecond},
		{"slow down", func() (*http.Response, error) { return response(429, "Retry-After: x", ""), nil }, 1, 0, 125 * time.Millisecond, 250 * time.Millisecond},
		{"after the time is up", func() (*http.Response, error) { return response(503, "Retry-After: 31", ""), nil }, 99, runner.Unavailable, 0, 0},
		{"never there", func() (*http.Response, error) { return nil, refused }, 99, runner.Unavailable, 20 * time.Second, 30 * time.Second},
		{"not again", func() (*http.Response, error) { return response(500, "", ""), nil }, 1, runner.Unavailable, 0, 0},
		{"denied", func() (*http.Response, error) {
			return response(400, "", `{"error": "invalid_target", "request_id": "a\nb"}`), nil
		}, 1, runner.Denied, 0, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tries, keys, proofs := 0, map[string]bool{}, map[string]bool{}
				hc := &http.Client{Transport: transport(func(r *http.Request) (*http.Response, error) {
					keys[r.Header.Get(api.HeaderRetryKey)], proofs[r.Header.Get("DPoP")] = true, true
					if tries++; tries <= tt.failures {
						return tt.first()
					}
					return sealed(t, r, "DPoP"), nil
				})}
				ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
				defer cancel()
				start := time.Now()
				_, err := newClient(t, "https://broker.example.com", hc).Exchange(ctx, request("deploy"))
				if tt.kind == 0 && err != nil || tt.kind != 0 && !runner.IsKind(err, tt.kind) {
					t.Errorf("Exchange = %v, want kind %d", err, tt.kind)
				}
				if d := time.Since(start); d < tt.least || d > tt.most {
					t.Errorf("took %v, want %v to %v", d, tt.least, tt.most)
				}
				if len(keys) != 1 || len(proofs) != tries {
					t.Errorf("%d tries with %d retry keys and %d proofs", tries, len(keys), len(proofs))
				}
				if err != nil && strings.ContainsAny(err.Error(), "\n") {
					t.Errorf("%q has more than one line", err)
				}
			})
		})
	}
}

// TestInterruptedExchange ends the context while the broker works on the
// exchange: the answer is waited for, since it says what to give back.
func TestInterruptedExchange(t *testing.T) {
	b := runnertest.NewBroker(runnertest.Lease("deploy", "TOKEN", canary))
	defer b.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	b.Before(func(*http.Request) { cancel() })
	answer, err := newClient(t, b.URL, b.Client()).Exchange(ctx, request("deploy"))
	if err != nil || answer == nil {
		t.Errorf("Exchange = %v, %v; want the answer", answer, err)
	}
}

// TestUnansweredExchange ends the context while the broker works on an exchange
// that it never answers: the error says that something may have been granted.
func TestUnansweredExchange(t *testing.T) {
	b := runnertest.NewBroker(runnertest.Lease("deploy", "TOKEN", canary))
	defer b.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	b.Before(func(r *http.Request) { cancel(); <-r.Context().Done() })
	start := time.Now()
	_, err := newClient(t, b.URL, b.Client()).Exchange(ctx, request("deploy"))
	if !errors.Is(err, runner.ErrUnanswered) || !runner.IsKind(err, runner.Unavailable) {
		t.Errorf("Exchange = %v, want an ErrUnanswered", err)
	}
	if d := time.Since(start); d < 5*time.Second || d > 10*time.Second {
		t.Errorf("took %v, want 5s", d)
	}
	// Without a connection there is nothing to wait for.
	if _, err := newClient(t, b.URL, b.Client()).Exchange(ctx, request("deploy")); err == nil || errors.Is(err, runner.ErrUnanswered) {
		t.Errorf("Exchange after the end = %v", err)
	}
}

// TestUnusableLate revokes an answer that cannot be used also when the time is
// over.
func TestUnusableLate(t *testing.T) {
	wrong := runnertest.Lease("deploy", "LD_PRELOAD", canary)
	b := runnertest.NewBroker(wrong)
	defer b.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	b.Before(func(*http.Request) { cancel() })
	if _, err := newClient(t, b.URL, b.Client()).Exchange(ctx, request("deploy")); !runner.IsKind(err, runner.Protocol) {
		t.Errorf("Exchange = %v", err)
	}
	if sessions, live, _ := b.Counts(); sessions != 1 || live != 0 {
		t.Errorf("%d sessions, %d live; want 1, 0", sessions, live)
	}
}

// TestRetryAfterDate gives the other form of the header, a date.
func TestRetryAfterDate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start, tries := time.Now(), 0
		hc := &http.Client{Transport: transport(func(r *http.Request) (*http.Response, error) {
			if tries++; tries == 1 {
				return response(503, "Retry-After: "+start.Add(9*time.Second).UTC().Format(http.TimeFormat), ""), nil
			}
			return sealed(t, r, "DPoP"), nil
		})}
		if _, err := newClient(t, "https://broker.example.com", hc).Exchange(t.Context(), request("deploy")); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(start) - 9*time.Second; d < 125*time.Millisecond || d > 250*time.Millisecond {
			t.Errorf("waited %v beyond the 9s, want a little", d)
		}
	})
}

func TestTLS(t *testing.T) {
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {}))
	defer server.Close()
	old := httptest.NewUnstartedServer(server.Config.Handler)
	old.TLS = &tls.Config{MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10}
	old.StartTLS()
	defer old.Close()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	block := &pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}
	if err := os.WriteFile(ca, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, broker, ca string
		kind             runner.Kind // 0: no error
	}{
		{"private CA", server.URL, ca, 0},
		{"unknown CA", server.URL, "", runner.Misconfigured},
		{"TLS 1.1", old.URL, ca, runner.Unavailable},
	} {
		hc, err := runner.NewHTTPClient(tt.ca)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		err = newClient(t, tt.broker, hc).Revoke(ctx, api.NewSecret(canary))
		if tt.kind == 0 && err != nil || tt.kind != 0 && !runner.IsKind(err, tt.kind) {
			t.Errorf("%s: %v, want kind %d", tt.name, err, tt.kind)
		}
	}
	for _, path := range []string{filepath.Join(t.TempDir(), "absent"), "client_test.go"} {
		if _, err := runner.NewHTTPClient(path); !runner.IsKind(err, runner.Misconfigured) {
			t.Errorf("NewHTTPClient(%s) = %v", path, err)
		}
	}
}

// TestCertificateHints checks that only a missing CA is answered by trusting
// more.
func TestCertificateHints(t *testing.T) {
	for want, cause := range map[string]error{
		"--ca-file":        x509.UnknownAuthorityError{},
		"another host":     x509.HostnameError{Certificate: &x509.Certificate{}, Host: "broker.example.com"},
		"time is over":     x509.CertificateInvalidError{Cert: &x509.Certificate{}, Reason: x509.Expired},
		"mend its certifi": x509.CertificateInvalidError{Cert: &x509.Certificate{}, Reason: x509.NotAuthorizedToSign},
	} {
		hc := &http.Client{Transport: transport(func(*http.Request) (*http.Response, error) {
			return nil, &tls.CertificateVerificationError{Err: cause}
		})}
		err := newClient(t, "https://broker.example.com", hc).Revoke(t.Context(), api.NewSecret(canary))
		failure, ok := errors.AsType[*runner.Failure](err)
		if !ok || failure.Kind != runner.Misconfigured || !strings.Contains(failure.Hint, want) {
			t.Errorf("Revoke with %v = %v, want a hint with %q", cause, err, want)
		}
	}
}

// TestCommandsInAnswers checks that no answer can give GitHub's runner a command.
func TestCommandsInAnswers(t *testing.T) {
	hc := &http.Client{Transport: transport(func(*http.Request) (*http.Response, error) {
		return response(400, "", `{"error": "##[x]", "error_description": "##[set-output name=a]b\n::error::c", "request_id": "####[y]##vso[z]"}`), nil
	})}
	_, err := newClient(t, "https://broker.example.com", hc).Exchange(t.Context(), request("deploy"))
	failure, ok := errors.AsType[*runner.Failure](err)
	if !ok || strings.ContainsAny(err.Error(), "\n") || strings.Contains(err.Error()+failure.Hint, "##[") || strings.Contains(err.Error()+failure.Hint, "##vso[") {
		t.Errorf("Exchange = %q", err)
	}
}

func TestBrokerURL(t *testing.T) {
	for _, tt := range []struct {
		url string
		ok  bool
	}{
		{"https://broker.example.com", true},
		{"https://broker.example.com/", false},
		{"https://broker.example.com:8443/path", false},
		{"http://localhost:8080", true},
		{"http://127.0.0.1:8080", true},
		{"http://[::1]:8080", true},
		{"http://broker.example.com", false},
		{"http://127.0.0.1.example.com", false},
		{"http://localhost@example.com", false},
		{"https://user@broker.example.com", false},
		{"https://broker.example.com?x=y", false},
		{"https://broker.example.com?", false},
		{"https://broker.example.com#x", false},
		{"ftp://broker.example.com", false},
		{"broker.example.com", false},
		{"https:broker.example.com", false},
		{"", false},
	} {
		_, err := runner.NewClient(tt.url, nil, nil)
		if (err == nil) != tt.ok || err != nil && !runner.IsKind(err, runner.Misconfigured) {
			t.Errorf("NewClient(%q) = %v, want ok %v", tt.url, err, tt.ok)
		}
	}
}

// FuzzAnswer answers an exchange with anything: it is accepted or refused, and
// no part of it can write a line of the job's log.
func FuzzAnswer(f *testing.F) {
	f.Add(200, []byte(`{"access_token": "x", "token_type": "DPoP", "leases": [{"lease_id": "1", "credential": "deploy"}]}`))
	f.Add(200, []byte(`{"access_token": "x", "leases": [{}]}`))
	f.Add(400, []byte(`{"error": "invalid_request", "error_description": "\n::add-mask::x", "request_id": "\u001b[31m"}`))
	f.Add(200, []byte(`{"access_token": "x", "leases": [{"lease_id": "1", "env": {"A\n::error::": "b"}}]}`))
	f.Add(302, []byte("\xff\xfe"))
	key := newKey(f)
	f.Fuzz(func(t *testing.T, status int, body []byte) {
		if status < 200 || status > 599 {
			return
		}
		hc := &http.Client{Transport: transport(func(r *http.Request) (*http.Response, error) {
			if r.URL.Path == api.PathRevoke {
				return response(200, "", ""), nil
			}
			recipient, err := api.ParseSealKey(r.PostForm.Get("seal_key"))
			if err != nil {
				t.Fatal(err)
			}
			if answer, err := api.DecodeTokenResponse(body); err == nil { // a broker can seal anything
				sealed, err := answer.EncodeSealed(recipient, r.URL.String(), r.Header.Get("DPoP"))
				if err != nil {
					t.Fatal(err)
				}
				body = sealed
			}
			return &http.Response{StatusCode: status, Body: io.NopCloser(bytes.NewReader(body))}, nil
		})}
		c, err := runner.NewClient("https://broker.example.com", hc, key)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		answer, err := c.Exchange(ctx, request("deploy"))
		if (err == nil) == (answer == nil) {
			t.Fatalf("answer %v, error %v", answer, err)
		}
		if err != nil && strings.ContainsAny(err.Error(), "\n\r\x1b") {
			t.Errorf("status %s: %q", strconv.Itoa(status), err)
		}
	})
}

// TestForm checks what RFC 8693, section 2.1, wants to see.
func TestForm(t *testing.T) {
	var got url.Values
	hc := &http.Client{Transport: transport(func(r *http.Request) (*http.Response, error) {
		got = r.PostForm
		return sealed(t, r, "DPoP"), nil
	})}
	if _, err := newClient(t, "https://broker.example.com", hc).Exchange(t.Context(), request("deploy")); err != nil {
		t.Fatal(err)
	}
	want := url.Values{
		"grant_type": {api.GrantTypeTokenExchange}, "subject_token": {runnertest.Token("job")},
		"subject_token_type": {api.TokenTypeJWT}, "audience": {"deploy"}, "ttl": {"1m0s"},
		"seal_key": got["seal_key"],
	}
	if got.Encode() != want.Encode() {
		t.Errorf("form %s, want %s", got.Encode(), want.Encode())
	}
}

// TestEndlessHeader has a broker, or a proxy on the way, send headers that are
// larger than any answer.
func TestEndlessHeader(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Long", strings.Repeat("a", 1<<20))
	}))
	defer s.Close()
	client, err := runner.NewHTTPClient("")
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Get(s.URL)
	if err == nil {
		resp.Body.Close()
		t.Errorf("an answer with %d bytes of headers was read", len(resp.Header.Get("X-Long")))
	}
}
