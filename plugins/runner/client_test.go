package runner_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"
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

// TestNoBroker says how to name one; another mistake is told as package exchange
// does.
func TestNoBroker(t *testing.T) {
	for broker, hint := range map[string]string{"": "--broker URL", "https://broker.example.com/": "byte for byte"} {
		_, err := runner.NewClient(broker, nil, nil)
		failure, ok := errors.AsType[*runner.Failure](err)
		if !ok || failure.Kind != runner.Misconfigured || !strings.Contains(failure.Hint, hint) {
			t.Errorf("NewClient(%q) = %v, want a hint with %q", broker, err, hint)
		}
	}
}
