package mint_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/brevet-dev/brevet/broker"
	"github.com/brevet-dev/brevet/broker/mint"
	"github.com/brevet-dev/brevet/issuers"
	"github.com/brevet-dev/brevet/test/sts"
)

var update = flag.Bool("update", false, "write the golden files anew")

// declared are the claims that the configured issuers' presets declare.
var declared = []string{"repository", "run_number", "ref_protected", "teams", "base_ref"}

// newIssuer stands in for the broker: it signs, and serves the JWKS.
func newIssuer(t testing.TB) *sts.Issuer {
	t.Helper()
	i, err := sts.NewIssuer()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(i.Close)
	return i
}

// brokerURL is the broker's url where nobody fetches its keys.
const brokerURL = "https://broker.example.com"

// deps returns dependencies whose Sign answers with the claims as plain JSON.
func deps() mint.Deps {
	return mint.Deps{URL: brokerURL, Claims: declared, Sign: func(_ context.Context, _ string, claims any) (string, error) {
		out, err := json.Marshal(claims)
		return string(out), err
	}}
}

func mustNew(t testing.TB, c mint.Config, d mint.Deps) broker.Target {
	t.Helper()
	target, err := mint.New(c, d)
	if err != nil {
		t.Fatalf("New(%s) = %v", c.Name, err)
	}
	return target
}

// aSession is a GitHub job on main of acme/shop.
func aSession() *broker.Session {
	return &broker.Session{ID: "s17-mfrggzdfmztwq2lkmfrggzdfmztwq2lk", Who: broker.Who{
		Issuer: "github", URL: "https://token.actions.githubusercontent.com", Subject: "repo:acme/shop:ref:refs/heads/main",
		Claims: map[string]any{
			"repository": "acme/shop", "run_number": int64(7), "ref_protected": true, "teams": []string{"a"}, "base_ref": "",
		},
		Workload: issuers.Workload{
			OwnerID: "123", Owner: "acme", ProjectID: "456", Project: "acme/shop", Run: "9001", Attempt: "1", Job: "77",
			Ref: "refs/heads/main", Actor: "mona", ActorID: "12", Trigger: "push",
		},
	}}
}

// aLease ends ttl from now, and slack later, as the broker computes it.
func aLease(credential string, ttl time.Duration, target broker.Target) *broker.Lease {
	now := time.Now()
	return &broker.Lease{
		ID: "l17-nbswy3dpeb3w64tmmqqq2lkmfrggzdfm", SessionID: "s17-mfrggzdfmztwq2lkmfrggzdfmztwq2lk",
		Credential: credential, Kind: target.Kind, Policy: "shop", State: broker.Pending, TTL: ttl, IssuedAt: now,
		Expires: now.Add(ttl + target.Slack).Truncate(time.Second), MaxExpires: now.Add(ttl + target.Slack).Truncate(time.Second),
	}
}

// fieldErrors returns the FieldErrors that err joins.
func fieldErrors(err error) []mint.FieldError {
	list, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return nil
	}
	var out []mint.FieldError
	for _, e := range list.Unwrap() {
		if f, ok := errors.AsType[mint.FieldError](e); ok {
			out = append(out, f)
		}
	}
	return out
}

// golden compares got with testdata/name.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("differs from %s (go test -update writes it):\n%s", path, got)
	}
}

func TestNewNeedsItsDependencies(t *testing.T) {
	c := mint.Config{Name: "registry", Kind: "jwt", Audience: "https://registry.example.com"}
	whole := deps()
	for name, d := range map[string]mint.Deps{"url": {Sign: whole.Sign}, "signer": {URL: brokerURL}} {
		if _, err := mint.New(c, d); err == nil {
			t.Errorf("New without %s succeeded", name)
		}
	}
}

func TestNewRefusesWhatValidateRefuses(t *testing.T) {
	_, err := mint.New(mint.Config{Name: "registry", Kind: "jwt"}, deps())
	if got := fieldErrors(err); len(got) != 1 || got[0].Field != "audience" {
		t.Errorf("New without audience = %v, want one FieldError about audience", err)
	}
}

// The broker's own URL as audience would make credentials that look like
// session tokens.
func TestNewRefusesTheBrokersOwnAudience(t *testing.T) {
	for _, aud := range []string{brokerURL, brokerURL + "/", "https://Broker.Example.com"} {
		for _, c := range []mint.Config{
			{Name: "registry", Kind: "jwt", Audience: aud},
			{Name: "deploy", Kind: "aws-role", RoleARN: roleARN, Region: "eu-west-1", Audience: aud},
		} {
			_, err := mint.New(c, deps())
			if got := fieldErrors(err); len(got) != 1 || got[0].Field != "audience" {
				t.Errorf("New(%s, audience %s) = %v, want it refused", c.Kind, aud, err)
			}
		}
	}
}

func TestNewRefusesUndeclaredClaims(t *testing.T) {
	c := mint.Config{Name: "registry", Kind: "jwt", Audience: "https://r.example.com", Subject: "{claims.repositry}"}
	_, err := mint.New(c, deps())
	if err == nil || !strings.Contains(err.Error(), `did you mean "repository"?`) {
		t.Errorf("New = %v, want it to suggest repository", err)
	}
}

// Leases of both kinds have no handle, so Revoke must never claim to have
// revoked anything.
func TestRevokeRefuses(t *testing.T) {
	for _, c := range []mint.Config{
		{Name: "registry", Kind: "jwt", Audience: "https://r.example.com"},
		{Name: "deploy", Kind: "aws-role", RoleARN: roleARN, Region: "eu-west-1"},
	} {
		target := mustNew(t, c, deps())
		if err := target.Minter.Revoke(t.Context(), secret("x")); err == nil {
			t.Errorf("Revoke of %s succeeded", c.Kind)
		}
	}
}

// decodePart reads the header (0) or the claims (1) of a token without checking
// it.
func decodePart(t *testing.T, token string, part int, into any) {
	t.Helper()
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		t.Fatalf("not a token: %q", token)
	}
	raw, err := base64.RawURLEncoding.DecodeString(parts[part])
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, into); err != nil {
		t.Fatal(err)
	}
}

// serve runs h on a loopback port until the test ends, and returns its URL.
func serve(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL
}
