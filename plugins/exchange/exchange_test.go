package exchange_test

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
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/plugins/exchange"
	"github.com/brevet-dev/brevet/plugins/runner/runnertest"
)

const (
	brokerURL = "https://broker.example.com"
	canary    = runnertest.Canary
)

func newKey(t testing.TB) *exchange.Key {
	t.Helper()
	key, err := exchange.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newClient(t testing.TB, broker string, hc *http.Client) *exchange.Client {
	t.Helper()
	c, err := exchange.NewClient(broker, hc, newKey(t))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func request(credentials ...string) exchange.Request {
	return exchange.Request{SubjectToken: api.NewSecret(runnertest.Token("job")), Credentials: credentials, TTL: time.Minute}
}

// A transport answers without a network.
type transport func(*http.Request) (*http.Response, error)

func (f transport) RoundTrip(r *http.Request) (*http.Response, error) {
	if err := r.ParseForm(); err != nil {
		return nil, err
	}
	return f(r)
}

func response(status int, body string, headers ...string) *http.Response {
	resp := &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body))}
	for i := 0; i+1 < len(headers); i += 2 {
		resp.Header.Set(headers[i], headers[i+1])
	}
	return resp
}

// sealed answers an exchange.
func sealed(t testing.TB, r *http.Request, tokenType string, leases ...api.Lease) *http.Response {
	t.Helper()
	to, err := api.ParseSealKey(r.PostForm.Get("seal_key"))
	if err != nil {
		t.Error(err)
		return response(500, "")
	}
	answer := api.TokenResponse{AccessToken: api.NewSecret("session-" + canary), TokenType: tokenType, Leases: leases}
	body, err := answer.EncodeSealed(to, r.URL.String(), r.Header.Get("DPoP"))
	if err != nil {
		t.Error(err)
	}
	return response(200, string(body), "Date", time.Now().UTC().Format(http.TimeFormat))
}

var deploy = runnertest.Lease("deploy", "TOKEN", canary)

// TestExchange lives through a session with a broker that checks all that it is
// sent, which fails twice at first.
func TestExchange(t *testing.T) {
	b := runnertest.NewBroker(deploy)
	defer b.Close()
	b.Busy(2)
	c := newClient(t, b.URL, b.Client())
	before := time.Now()
	answer, err := c.Exchange(t.Context(), request("deploy"))
	if err != nil || len(answer.Leases) != 1 || answer.Leases[0].Values["token"].Reveal() != canary {
		t.Fatalf("Exchange = %+v, %v", answer, err)
	}
	if answer.Sent.Before(before) || answer.Date.IsZero() {
		t.Errorf("sent %v, answered %v; the exchange began at %v", answer.Sent, answer.Date, before)
	}
	if sessions, live, tries := b.Counts(); sessions != 1 || live != 1 || tries != 3 {
		t.Errorf("%d sessions, %d live, %d tries; want 1, 1, 3", sessions, live, tries)
	}
	if err := c.Heartbeat(t.Context(), answer.AccessToken); err != nil {
		t.Errorf("Heartbeat = %v", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.Revoke(ended, answer.AccessToken); err != nil {
		t.Errorf("Revoke = %v", err)
	}
	if _, live, _ := b.Counts(); live != 0 {
		t.Errorf("%d sessions live", live)
	}
}

// TestLostAnswer repeats an exchange with the same key and name, and a new proof.
func TestLostAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var names, proofs []string
		c := newClient(t, brokerURL, &http.Client{Transport: transport(func(r *http.Request) (*http.Response, error) {
			names, proofs = append(names, r.Header.Get(api.HeaderRetryKey)), append(proofs, r.Header.Get("DPoP"))
			if len(names) < 3 {
				return nil, io.ErrUnexpectedEOF
			}
			return sealed(t, r, "DPoP", deploy), nil
		})})
		if _, err := c.Exchange(t.Context(), request("deploy")); err != nil {
			t.Fatal(err)
		}
		if len(names) != 3 || names[0] == "" || names[0] != names[2] || proofs[0] == proofs[1] || proofs[1] == proofs[2] {
			t.Errorf("names %q; %d proofs", names, len(proofs))
		}
	})
}

// TestRetryAfter waits as long as it is told, and those who are told the same do
// not come back together.
func TestRetryAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		back := map[time.Duration]bool{}
		var all sync.WaitGroup
		for range 20 {
			all.Go(func() {
				start, tries := time.Now(), 0
				c := newClient(t, brokerURL, &http.Client{Transport: transport(func(r *http.Request) (*http.Response, error) {
					if tries++; tries == 1 {
						return response(503, "", "Retry-After", "7"), nil
					}
					return sealed(t, r, "DPoP", deploy), nil
				})})
				if _, err := c.Exchange(t.Context(), request("deploy")); err != nil {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				back[time.Since(start)] = true
			})
		}
		all.Wait()
		for d := range back {
			if d < 7*time.Second || d > 8*time.Second {
				t.Errorf("waited %v, want 7s and some jitter", d)
			}
		}
		if len(back) < 15 {
			t.Errorf("20 clients came back at %d times", len(back))
		}
	})
}

func TestRetries(t *testing.T) {
	refused := errors.New("connection refused")
	for _, tt := range []struct {
		name        string
		first       func() (*http.Response, error) // answers all tries but the last
		failures    int
		kind        exchange.Kind // 0: success
		least, most time.Duration
	}{
		{"at once", nil, 0, 0, 0, 0},
		{"connection", func() (*http.Response, error) { return nil, refused }, 2, 0, 375 * time.Millisecond, 750 * time.Millisecond},
		{"bad gateway", func() (*http.Response, error) { return response(502, "<html>"), nil }, 1, 0, 125 * time.Millisecond, 250 * time.Millisecond},
		{"retry after", func() (*http.Response, error) { return response(503, "", "Retry-After", "7"), nil }, 1, 0, 7125 * time.Millisecond, 7250 * time.Millisecond},
		{"slow down", func() (*http.Response, error) { return response(429, "", "Retry-After", "x"), nil }, 1, 0, 125 * time.Millisecond, 250 * time.Millisecond},
		{"after the time is up", func() (*http.Response, error) { return response(503, "", "Retry-After", "31"), nil }, 99, exchange.Unavailable, 0, 0},
		{"never there", func() (*http.Response, error) { return nil, refused }, 99, exchange.Unavailable, 20 * time.Second, 30 * time.Second},
		{"not again", func() (*http.Response, error) { return response(500, ""), nil }, 1, exchange.Unavailable, 0, 0},
		{"denied", func() (*http.Response, error) {
			return response(400, `{"error": "invalid_target", "request_id": "a\nb"}`), nil
		}, 1, exchange.Denied, 0, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tries, keys, proofs := 0, map[string]bool{}, map[string]bool{}
				hc := &http.Client{Transport: transport(func(r *http.Request) (*http.Response, error) {
					keys[r.Header.Get(api.HeaderRetryKey)], proofs[r.Header.Get("DPoP")] = true, true
					if tries++; tries <= tt.failures {
						return tt.first()
					}
					return sealed(t, r, "DPoP", deploy), nil
				})}
				ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
				defer cancel()
				start := time.Now()
				_, err := newClient(t, brokerURL, hc).Exchange(ctx, request("deploy"))
				if tt.kind == 0 && err != nil || tt.kind != 0 && !exchange.IsKind(err, tt.kind) {
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
	b := runnertest.NewBroker(deploy)
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
	b := runnertest.NewBroker(deploy)
	defer b.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	b.Before(func(r *http.Request) { cancel(); <-r.Context().Done() })
	start := time.Now()
	_, err := newClient(t, b.URL, b.Client()).Exchange(ctx, request("deploy"))
	if !errors.Is(err, exchange.ErrUnanswered) || !exchange.IsKind(err, exchange.Unavailable) {
		t.Errorf("Exchange = %v, want an ErrUnanswered", err)
	}
	if d := time.Since(start); d < 5*time.Second || d > 10*time.Second {
		t.Errorf("took %v, want 5s", d)
	}
	// Without a connection there is nothing to wait for.
	if _, err := newClient(t, b.URL, b.Client()).Exchange(ctx, request("deploy")); err == nil || errors.Is(err, exchange.ErrUnanswered) {
		t.Errorf("Exchange after the end = %v", err)
	}
}

// TestRetryAfterDate gives the other form of the header, a date.
func TestRetryAfterDate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start, tries := time.Now(), 0
		hc := &http.Client{Transport: transport(func(r *http.Request) (*http.Response, error) {
			if tries++; tries == 1 {
				return response(503, "", "Retry-After", start.Add(9*time.Second).UTC().Format(http.TimeFormat)), nil
			}
			return sealed(t, r, "DPoP", deploy), nil
		})}
		if _, err := newClient(t, brokerURL, hc).Exchange(t.Context(), request("deploy")); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(start) - 9*time.Second; d < 125*time.Millisecond || d > 250*time.Millisecond {
			t.Errorf("waited %v beyond the 9s, want a little", d)
		}
	})
}

// TestCommandsInAnswers checks that no answer can give GitHub's runner a command.
func TestCommandsInAnswers(t *testing.T) {
	hc := &http.Client{Transport: transport(func(*http.Request) (*http.Response, error) {
		return response(400, `{"error": "##[x]", "error_description": "##[set-output name=a]b\n::error::c", "request_id": "####[y]##vso[z]"}`), nil
	})}
	_, err := newClient(t, brokerURL, hc).Exchange(t.Context(), request("deploy"))
	failure, ok := errors.AsType[*exchange.Failure](err)
	if !ok || strings.ContainsAny(err.Error(), "\n") || strings.Contains(err.Error()+failure.Hint, "##[") || strings.Contains(err.Error()+failure.Hint, "##vso[") {
		t.Errorf("Exchange = %q", err)
	}
}

// TestDeadline: the error is of the last try, and says what the broker wants.
func TestDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		c := newClient(t, brokerURL, &http.Client{Transport: transport(func(*http.Request) (*http.Response, error) {
			return response(429, `{"error": "slow_down", "request_id": "req-7"}`, "Retry-After", "60"), nil
		})})
		start := time.Now()
		_, err := c.Exchange(ctx, request("deploy"))
		f, ok := errors.AsType[*exchange.Failure](err)
		if !ok || f.Kind != exchange.Unavailable || f.RetryAfter != time.Minute || !strings.Contains(err.Error(), "slow_down") {
			t.Errorf("Exchange = %#v", err)
		}
		if time.Since(start) != 0 {
			t.Errorf("it took %v to see that there is no time", time.Since(start))
		}
	})
}

// TestBrokersClock goes by the broker's clock when a proof was refused for its
// time, once, and not for any time.
func TestBrokersClock(t *testing.T) {
	for _, tt := range []struct {
		ahead time.Duration
		ok    bool
	}{{0, true}, {30 * time.Minute, true}, {-30 * time.Minute, true}, {3 * time.Hour, false}, {-3 * time.Hour, false}, {10 * time.Second, false}} {
		tries := 0
		synctest.Test(t, func(t *testing.T) {
			c := newClient(t, brokerURL, &http.Client{Transport: transport(func(r *http.Request) (*http.Response, error) {
				tries++
				now := time.Now().Add(tt.ahead)
				iat := int64(verify(t, r.Header.Get("DPoP"))["iat"].(float64))
				if now.Sub(time.Unix(iat, 0)).Abs() > 5*time.Second {
					return response(400, `{"error": "invalid_dpop_proof"}`, "Date", now.UTC().Format(http.TimeFormat)), nil
				}
				return sealed(t, r, "DPoP", deploy), nil
			})})
			_, err := c.Exchange(t.Context(), request("deploy"))
			if (err == nil) != tt.ok || err != nil && !strings.Contains(err.Error(), "invalid_dpop_proof") {
				t.Errorf("%v ahead: Exchange = %v", tt.ahead, err)
			}
			if tries > 2 {
				t.Errorf("%v ahead: %d tries", tt.ahead, tries)
			}
		})
	}
}

// TestClockHint says how wrong the clock is where that may be why the broker
// refused, and not where it cannot be.
func TestClockHint(t *testing.T) {
	for _, tt := range []struct {
		status int
		ahead  time.Duration
		want   string // "": nothing
	}{
		{400, 3 * time.Hour, "is 3h0m0s behind the broker's"}, {401, -3 * time.Hour, "is 3h0m0s ahead of the broker's"},
		{400, 20 * time.Second, ""}, {500, 3 * time.Hour, ""},
	} {
		synctest.Test(t, func(t *testing.T) {
			c := newClient(t, brokerURL, &http.Client{Transport: transport(func(*http.Request) (*http.Response, error) {
				return response(tt.status, `{"error": "invalid_request"}`, "Date", time.Now().Add(tt.ahead).UTC().Format(http.TimeFormat)), nil
			})})
			err := c.Heartbeat(t.Context(), api.NewSecret("session"))
			f, ok := errors.AsType[*exchange.Failure](err)
			if !ok || !strings.Contains(f.Hint, tt.want) || tt.want == "" && strings.Contains(f.Hint, "clock") {
				t.Errorf("%d, %v ahead: Heartbeat = %v, with the hint %q", tt.status, tt.ahead, err, f.Hint)
			}
		})
	}
}

// TestDo makes each form of call: what it sends, and what a sealed answer to it is
// bound to.
func TestDo(t *testing.T) {
	session := api.NewSecret("session")
	for _, tt := range []struct {
		call                exchange.Call
		method, media, sent string
		proof               bool
	}{
		{exchange.Call{Path: "/form", Session: session, Form: url.Values{"a": {"b"}}}, "POST", "application/x-www-form-urlencoded", "a=b", true},
		{exchange.Call{Path: "/empty", Session: session}, "POST", "application/x-www-form-urlencoded", "", true},
		{exchange.Call{Path: "/json", Session: session, JSON: []byte(`{}`)}, "POST", "application/json", "{}", true},
		{exchange.Call{Method: "GET", Path: "/state", Session: session}, "GET", "", "", true},
		{exchange.Call{Path: api.PathRevoke, Form: url.Values{"token": {"x"}}}, "POST", "application/x-www-form-urlencoded", "token=x", false},
		{exchange.Call{Path: api.PathRevoke, Session: session, Form: url.Values{"scope": {"run"}}}, "POST", "application/x-www-form-urlencoded", "scope=run", true},
	} {
		var proof string
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			proof = r.Header.Get("DPoP")
			body, err := io.ReadAll(r.Body)
			if err != nil || r.Method != tt.method || r.URL.Path != tt.call.Path || r.Header.Get("Content-Type") != tt.media || string(body) != tt.sent {
				t.Errorf("%s: got %s %s %q %q, %v", tt.call.Path, r.Method, r.URL, r.Header.Get("Content-Type"), body, err)
			}
			if want := map[bool]string{true: "DPoP session"}[tt.proof]; r.Header.Get("Authorization") != want || (proof != "") != tt.proof {
				t.Errorf("%s: Authorization %q, proof %t", tt.call.Path, r.Header.Get("Authorization"), proof != "")
			}
		}))
		defer server.Close()
		reply, err := newClient(t, server.URL, server.Client()).Do(t.Context(), tt.call)
		if err != nil {
			t.Fatal(err)
		}
		if reply.Seal.URL != server.URL+tt.call.Path || reply.Seal.Proof != proof || reply.Seal.SessionToken.Reveal() != tt.call.Session.Reveal() {
			t.Errorf("%s: the answer is bound to another request: %+v", tt.call.Path, reply.Seal)
		}
	}
}

// TestUnusable ends the session of an answer that is not as asked for.
func TestUnusable(t *testing.T) {
	another := deploy
	another.Credential = "another"
	for name, answer := range map[string]func(*http.Request) *http.Response{
		"a bearer session":    func(r *http.Request) *http.Response { return sealed(t, r, "Bearer", deploy) },
		"another credential":  func(r *http.Request) *http.Response { return sealed(t, r, "DPoP", another) },
		"one credential more": func(r *http.Request) *http.Response { return sealed(t, r, "DPoP", deploy, another) },
		"nothing":             func(r *http.Request) *http.Response { return sealed(t, r, "DPoP") },
		"leases that are in the clear": func(*http.Request) *http.Response {
			return response(200, `{"access_token": "x", "token_type": "DPoP", "leases": [{"lease_id": "l", "credential": "deploy"}]}`)
		},
	} {
		revoked := 0
		c := newClient(t, brokerURL, &http.Client{Transport: transport(func(r *http.Request) (*http.Response, error) {
			if r.URL.Path == api.PathRevoke {
				revoked++
				return response(200, ""), nil
			}
			return answer(r), nil
		})})
		if _, err := c.Exchange(t.Context(), request("deploy")); !exchange.IsKind(err, exchange.Protocol) || revoked != 1 {
			t.Errorf("%s: Exchange = %v, and %d revocations", name, err, revoked)
		}
	}
}

// TestIntrospect: what the broker does not know any more has ended.
func TestIntrospect(t *testing.T) {
	for _, tt := range []struct {
		status int
		body   string
		active bool
		kind   exchange.Kind // 0: no error
	}{
		{200, `{"active": true, "leases": ["l1"]}`, true, 0},
		{200, `{"active": false}`, false, 0},
		{401, `{"error": "invalid_token"}`, false, 0},
		{400, `{"error": "invalid_request"}`, false, exchange.Denied},
		{200, `<html>`, false, exchange.Protocol},
		{302, ``, false, exchange.Protocol},
		{500, ``, false, exchange.Unavailable},
	} {
		c := newClient(t, brokerURL, &http.Client{Transport: transport(func(r *http.Request) (*http.Response, error) {
			if r.Header.Get("Authorization") != "DPoP session" || verify(t, r.Header.Get("DPoP"))["ath"] == nil {
				t.Error("the session is not shown with its key")
			}
			return response(tt.status, tt.body), nil
		})})
		in, err := c.Introspect(t.Context(), api.NewSecret("session"))
		if tt.kind == 0 && (err != nil || in.Active != tt.active) || tt.kind != 0 && !exchange.IsKind(err, tt.kind) {
			t.Errorf("%d %s: Introspect = %+v, %v", tt.status, tt.body, in, err)
		}
	}
}

// TestRedirect: a redirect would carry the token to another host.
func TestRedirect(t *testing.T) {
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the redirect was followed") }))
	defer elsewhere.Close()
	b := httptest.NewServer(http.RedirectHandler(elsewhere.URL, http.StatusTemporaryRedirect))
	defer b.Close()
	hc, err := exchange.NewHTTPClient("")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := newClient(t, b.URL, hc).Exchange(t.Context(), request("deploy")); !exchange.IsKind(err, exchange.Protocol) {
		t.Errorf("Exchange = %v", err)
	}
}

// short returns a context for what would be tried for ever.
func short(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	t.Cleanup(cancel)
	return ctx
}

// TestTLS: private certificates, and one handshake for many connections.
func TestTLS(t *testing.T) {
	var mu sync.Mutex
	var resumed []bool
	server := httptest.NewTLSServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		resumed = append(resumed, r.TLS.DidResume)
	}))
	defer server.Close()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	hc, err := exchange.NewHTTPClient(ca)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := newClient(t, server.URL, hc).Revoke(t.Context(), api.NewSecret("x")); err != nil {
			t.Fatal(err)
		}
		hc.CloseIdleConnections()
	}
	if len(resumed) != 2 || resumed[0] || !resumed[1] {
		t.Errorf("sessions resumed: %v, want false, true", resumed)
	}
	old := httptest.NewUnstartedServer(server.Config.Handler)
	old.TLS = &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}
	old.StartTLS()
	defer old.Close()
	if err := newClient(t, old.URL, hc).RevokeScope(short(t), api.NewSecret("x"), ""); !exchange.IsKind(err, exchange.Unavailable) {
		t.Errorf("a revocation with TLS 1.1 = %v", err)
	}
	if hc, err = exchange.NewHTTPClient(""); err != nil {
		t.Fatal(err)
	}
	err = newClient(t, server.URL, hc).Revoke(t.Context(), api.NewSecret("x"))
	if f, ok := errors.AsType[*exchange.Failure](err); !ok || f.Kind != exchange.Misconfigured || !strings.Contains(f.Hint, "BREVET_CA_FILE") {
		t.Errorf("Revoke with an unknown CA = %v", err)
	}
	for _, path := range []string{filepath.Join(t.TempDir(), "absent"), "exchange_test.go"} {
		if _, err := exchange.NewHTTPClient(path); !exchange.IsKind(err, exchange.Misconfigured) {
			t.Errorf("NewHTTPClient(%s) = %v", path, err)
		}
	}
}

func TestCertificateHints(t *testing.T) {
	for want, cause := range map[string]error{
		"another host":     x509.HostnameError{Certificate: &x509.Certificate{}, Host: "broker.example.com"},
		"time is over":     x509.CertificateInvalidError{Cert: &x509.Certificate{}, Reason: x509.Expired},
		"mend its certifi": x509.CertificateInvalidError{Cert: &x509.Certificate{}, Reason: x509.NotAuthorizedToSign},
	} {
		c := newClient(t, brokerURL, &http.Client{Transport: transport(func(*http.Request) (*http.Response, error) {
			return nil, &tls.CertificateVerificationError{Err: cause}
		})})
		err := c.Revoke(t.Context(), api.NewSecret("x"))
		if f, ok := errors.AsType[*exchange.Failure](err); !ok || f.Kind != exchange.Misconfigured || !strings.Contains(f.Hint, want) {
			t.Errorf("Revoke with %v = %v, want a hint with %q", cause, err, want)
		}
	}
}

func TestBrokerURL(t *testing.T) {
	for url, ok := range map[string]bool{
		brokerURL: true, "http://localhost:8080": true, "http://127.0.0.1:8080": true, "http://[::1]:8080": true,
		brokerURL + "/": false, brokerURL + "/path": false, brokerURL + "?": false, brokerURL + "#x": false, "http://broker.example.com": false,
		"http://127.0.0.1.example.com": false, "http://localhost@example.com": false, brokerURL + "?x=y": false, "https:broker.example.com": false,
		brokerURL + ":8443/path": false, "https://user@broker.example.com": false, "ftp://broker.example.com": false, "broker.example.com": false, "": false,
	} {
		if _, err := exchange.NewClient(url, nil, nil); (err == nil) != ok || err != nil && !exchange.IsKind(err, exchange.Misconfigured) {
			t.Errorf("NewClient(%q) = %v, want ok %v", url, err, ok)
		}
	}
}

// FuzzAnswer answers an exchange with anything: it is accepted or refused, and no
// part of it can write a line of a log.
func FuzzAnswer(f *testing.F) {
	f.Add(200, "", []byte(`{"access_token": "x", "token_type": "DPoP", "leases": [{"lease_id": "1", "credential": "deploy"}]}`))
	f.Add(200, "Thu, 01 Jan 1970 00:00:00 GMT", []byte(`{"access_token": "x", "leases": [{}]}`))
	f.Add(400, "x", []byte(`{"error": "invalid_dpop_proof", "error_description": "\nx", "request_id": "\u001b[31m"}`))
	f.Add(302, "", []byte("\xff\xfe"))
	key := newKey(f)
	f.Fuzz(func(t *testing.T, status int, date string, body []byte) {
		if status < 200 || status > 599 || strconv.Itoa(status) == "" {
			return
		}
		hc := &http.Client{Transport: transport(func(r *http.Request) (*http.Response, error) {
			if r.URL.Path == api.PathRevoke {
				return response(200, ""), nil
			}
			to, err := api.ParseSealKey(r.PostForm.Get("seal_key"))
			if err != nil {
				t.Fatal(err)
			}
			if answer, err := api.DecodeTokenResponse(body); err == nil { // a broker can seal anything
				if body, err = answer.EncodeSealed(to, r.URL.String(), r.Header.Get("DPoP")); err != nil {
					t.Fatal(err)
				}
			}
			return &http.Response{StatusCode: status, Header: http.Header{"Date": {date}}, Body: io.NopCloser(bytes.NewReader(body))}, nil
		})}
		c, err := exchange.NewClient(brokerURL, hc, key)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		answer, err := c.Exchange(ctx, request("deploy"))
		if (err == nil) == (answer == nil) {
			t.Fatalf("answer %v, error %v", answer, err)
		}
		if err != nil && strings.ContainsAny(err.Error(), "\r\x1b") {
			t.Errorf("status %d: %q", status, err)
		}
	})
}

// Headers are read before anything bounds the body.
func TestHeadersAreBounded(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Long", strings.Repeat("x", 1<<20))
	}))
	defer server.Close()
	hc, err := exchange.NewHTTPClient("")
	if err != nil {
		t.Fatal(err)
	}
	resp, err := hc.Get(server.URL)
	if err == nil {
		resp.Body.Close()
		t.Error("a megabyte of headers was read")
	}
}

// TestBrokenConnection: a try whose connection breaks is followed by one with a proof
// of its own. net/http alone would send the same again: RFC 9449, section 11.1.
func TestBrokenConnection(t *testing.T) {
	var mu sync.Mutex
	var proofs []string
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		switch proofs = append(proofs, r.Header.Get("DPoP")); len(proofs) {
		case 1:
			w.WriteHeader(http.StatusServiceUnavailable) // the connection stays
		case 2:
			conn, _, err := w.(http.Hijacker).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			conn.Close()
		default:
			w.WriteHeader(http.StatusBadRequest)
			io.WriteString(w, `{"error": "invalid_request"}`)
		}
	}))
	defer s.Close()
	_, err := client(t, s.URL, "").Exchange(t.Context(), exchange.Request{SubjectToken: api.NewSecret("a.b.c"), Credentials: []string{"deploy"}})
	if !exchange.IsKind(err, exchange.Denied) || len(proofs) != 3 || proofs[1] == proofs[2] {
		t.Errorf("Exchange = %v, after %d tries, the last with a proof that was sent before: %t", err, len(proofs), len(proofs) == 3 && proofs[1] == proofs[2])
	}
}
