package mint_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"

	"github.com/brevet-dev/brevet/broker"
	"github.com/brevet-dev/brevet/broker/mint"
)

// A relying party needs nothing but the broker's URL and its own audience.
func TestJWTVerifiesWithStockOIDC(t *testing.T) {
	issuer := newIssuer(t)
	d := mint.Deps{URL: issuer.URL, Claims: declared, Sign: issuer.Sign}
	target := mustNew(t, jwtConfig(func(c *mint.Config) { c.Claims = map[string]string{"team": "team-{claims.repository}"} }), d)
	l := aLease("registry", 5*time.Minute, target)
	cred, err := target.Minter.Mint(t.Context(), aSession(), l)
	if err != nil {
		t.Fatal(err)
	}
	provider, err := oidc.NewProvider(t.Context(), issuer.URL)
	if err != nil {
		t.Fatal(err)
	}
	verifier := provider.Verifier(&oidc.Config{ClientID: "https://registry.example.com"})
	token, err := verifier.Verify(t.Context(), cred.Values["token"].Reveal())
	if err != nil {
		t.Fatalf("Verify = %v", err)
	}
	if token.Subject != "issuer:github:project:456" || !token.Expiry.Equal(l.Expires) || !cred.Expires.Equal(l.Expires) {
		t.Errorf("sub %s, exp %s, want the default subject and %s", token.Subject, token.Expiry, l.Expires)
	}
	var header struct{ Typ string }
	decodePart(t, cred.Values["token"].Reveal(), 0, &header)
	if header.Typ != "JWT" {
		t.Errorf("typ %q, want JWT", header.Typ)
	}
	var claims struct{ Team, Ref, Environment string }
	if err := token.Claims(&claims); err != nil || claims.Team != "team-acme/shop" || claims.Ref != "refs/heads/main" || claims.Environment != "" {
		t.Errorf("claims %+v, %v", claims, err)
	}
	other := provider.Verifier(&oidc.Config{ClientID: "https://other.example.com"})
	if _, err := other.Verify(t.Context(), cred.Values["token"].Reveal()); err == nil {
		t.Error("a token for another audience was accepted")
	}
}

// The claims are a contract with everyone who trusts the broker.
func TestJWTClaims(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		target := mustNew(t, jwtConfig(func(c *mint.Config) { c.Claims = map[string]string{"protected": "{claims.ref_protected}"} }), deps())
		s := aSession()
		s.Who.Workload.Environment = "production"
		cred, err := target.Minter.Mint(t.Context(), s, aLease("registry", 5*time.Minute, target))
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		if err := json.Indent(&out, []byte(cred.Values["token"].Reveal()), "", "  "); err != nil {
			t.Fatal(err)
		}
		golden(t, "jwt_claims.json", out.String()+"\n")
	})
}

func TestJWTCredential(t *testing.T) {
	target := mustNew(t, jwtConfig(func(c *mint.Config) { c.Name = "my-registry" }), deps())
	if target.Kind != "jwt" || target.Slack != 0 {
		t.Errorf("target %+v", target)
	}
	cred, err := target.Minter.Mint(t.Context(), aSession(), aLease("my-registry", time.Minute, target))
	if err != nil {
		t.Fatal(err)
	}
	if !maps.Equal(cred.Env, map[string]string{"MY_REGISTRY_TOKEN": "token"}) || !slices.Equal(cred.Sensitive, []string{"token"}) {
		t.Errorf("env %v, sensitive %v", cred.Env, cred.Sensitive)
	}
	if !cred.Handle.IsZero() {
		t.Error("a signed token has a handle, and so pretends to be revocable")
	}
	renamed := mustNew(t, jwtConfig(func(c *mint.Config) { c.Env = map[string]string{"token": "NPM_TOKEN"} }), deps())
	cred, err = renamed.Minter.Mint(t.Context(), aSession(), aLease("registry", time.Minute, renamed))
	if err != nil || !maps.Equal(cred.Env, map[string]string{"NPM_TOKEN": "token"}) {
		t.Errorf("renamed env %v, %v", cred, err)
	}
}

func jti(t *testing.T, target broker.Target, l *broker.Lease) string {
	t.Helper()
	cred, err := target.Minter.Mint(t.Context(), aSession(), l)
	if err != nil {
		t.Fatal(err)
	}
	var claims struct{ JTI, Lease string }
	if err := json.Unmarshal([]byte(cred.Values["token"].Reveal()), &claims); err != nil || claims.Lease != l.ID {
		t.Fatalf("claims %+v, %v", claims, err)
	}
	return claims.JTI
}

// A renewed lease has the same id, and its token another jti.
func TestJWTRenewalHasItsOwnID(t *testing.T) {
	target := mustNew(t, jwtConfig(func(*mint.Config) {}), deps())
	l := aLease("registry", time.Minute, target)
	first := jti(t, target, l)
	l.State, l.Expires = broker.Active, l.Expires.Add(time.Minute)
	second := jti(t, target, l)
	if first != l.ID || second == first || !strings.HasPrefix(second, l.ID+".") {
		t.Errorf("jti %s, then %s, for lease %s", first, second, l.ID)
	}
}

func TestJWTRefusesAnEndedLease(t *testing.T) {
	target := mustNew(t, jwtConfig(func(*mint.Config) {}), deps())
	cred, err := target.Minter.Mint(t.Context(), aSession(), aLease("registry", -time.Minute, target))
	if cred != nil || !errors.Is(err, broker.ErrLimit) {
		t.Errorf("Mint = %v, %v, want ErrLimit", cred, err)
	}
}

func TestJWTWithoutSignature(t *testing.T) {
	broken := errors.New("no epoch key")
	d := deps()
	d.Sign = func(context.Context, string, any) (string, error) { return "", broken }
	target := mustNew(t, jwtConfig(func(*mint.Config) {}), d)
	cred, err := target.Minter.Mint(t.Context(), aSession(), aLease("registry", time.Minute, target))
	if cred != nil || !errors.Is(err, broken) {
		t.Errorf("Mint = %v, %v, want the signer's error", cred, err)
	}
}
