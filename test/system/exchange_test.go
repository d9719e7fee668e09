package system

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"

	"github.com/brevet-dev/brevet/broker/api"
)

// The life of a credential over HTTP, with a bound session.
func TestLifeOfACredential(t *testing.T) { onEachRoot(t, testLifeOfACredential) }

func testLifeOfACredential(t *testing.T, f *fixture) {
	key := newKey(t)
	answer := f.exchange(f.form(f.token(nil), "deploy", "registry"), "DPoP", key.proof(t, "POST", f.url+api.PathToken, ""))
	if answer.TokenType != "DPoP" || answer.IssuedTokenType != api.TokenTypeJWT || len(answer.Leases) != 2 {
		t.Fatalf("answer: %+v", answer)
	}
	session, lease := answer.AccessToken.Reveal(), answer.Leases[0]

	// Any OIDC library verifies what was minted, from the discovery document.
	provider, err := oidc.NewProvider(t.Context(), f.url)
	if err != nil {
		t.Fatalf("discovery: %v", err)
	}
	verifier := provider.Verifier(&oidc.Config{ClientID: "https://deploy.example.com"})
	minted, err := verifier.Verify(t.Context(), lease.Values["token"].Reveal())
	if err != nil {
		t.Fatalf("stock go-oidc refuses the minted token: %v", err)
	}
	if minted.Expiry.After(lease.ExpiresAt) {
		t.Errorf("the token ends at %s, after its lease at %s", minted.Expiry, lease.ExpiresAt)
	}
	if _, err := verifier.Verify(t.Context(), session); err == nil {
		t.Error("a session token passes for a credential")
	}

	call := func(method, path string, form url.Values) map[string]any {
		t.Helper()
		a := f.do(method, path, "application/x-www-form-urlencoded", form.Encode(),
			"Authorization", "DPoP "+session, "DPoP", key.proof(t, method, f.url+path, session))
		out := map[string]any{}
		if err := json.Unmarshal(a.body, &out); err != nil || a.status != http.StatusOK {
			t.Fatalf("%s %s = %d %s", method, path, a.status, a.body)
		}
		return out
	}
	path := api.PathLeases + lease.LeaseID
	if got := call("GET", path, nil); got["state"] != "active" || got["credential"] != "deploy" {
		t.Errorf("GET lease = %v", got)
	}
	if got := call("POST", api.PathIntrospect, url.Values{"token": {session}}); got["active"] != true {
		t.Errorf("introspect = %v", got)
	}
	if got := call("POST", path+"/renew", nil); got["lease_id"] != lease.LeaseID || got["expires_at"].(string) < lease.ExpiresAt.UTC().Format(time.RFC3339) {
		t.Errorf("renew = %v, was until %s", got["expires_at"], lease.ExpiresAt)
	}
	if a := f.post(api.PathRevoke, url.Values{"token": {session}}); a.status != http.StatusOK {
		t.Fatalf("revoke = %d %s", a.status, a.body)
	}
	if got := call("GET", path, nil); got["state"] != "revoked" {
		t.Errorf("GET lease after revocation = %v", got)
	}
	if got := call("POST", api.PathIntrospect, url.Values{"token": {session}}); got["active"] != false || len(got) != 1 {
		t.Errorf("introspect after revocation = %v", got)
	}
	if out := f.brevetd("leases", "list"); strings.Contains(out, "active") {
		t.Errorf("leases list: %s", out)
	}
}

// What ends TLS in between sees no credential.
func TestSealedAnswer(t *testing.T) { onEachRoot(t, testSealedAnswer) }

func testSealedAnswer(t *testing.T, f *fixture) {
	key, err := api.NewSealKey()
	if err != nil {
		t.Fatal(err)
	}
	form := f.form(f.token(nil), "deploy")
	form.Set("seal_key", key.Public())
	proof := newKey(t).proof(t, "POST", f.url+api.PathToken, "")
	a := f.post(api.PathToken, form, "DPoP", proof)
	answer, err := api.DecodeSealedResponse(a.body, key, f.url+api.PathToken, proof)
	if err != nil || answer.Leases[0].Values["token"].IsZero() {
		t.Fatalf("DecodeSealedResponse(%s) = %v", a.body, err)
	}
	if strings.Contains(string(a.body), answer.Leases[0].Values["token"].Reveal()) {
		t.Error("the credential can be read in the answer")
	}
}

// A thief who tries a session token without its key is told of by the name of
// the session, whatever he asks for.
func TestStolenSessionTokenIsRecorded(t *testing.T) { onEachRoot(t, testStolenSessionTokenIsRecorded) }

func testStolenSessionTokenIsRecorded(t *testing.T, f *fixture) {
	proof := newKey(t).proof(t, "POST", f.url+api.PathToken, "")
	stolen := f.exchange(f.form(f.token(nil), "deploy"), "DPoP", proof)
	path := api.PathLeases + stolen.Leases[0].LeaseID
	for event, request := range map[string][2]string{"lookup": {"GET", path}, "renew": {"POST", path + "/renew"}} {
		a := f.do(request[0], request[1], "application/x-www-form-urlencoded", "", "Authorization", "DPoP "+stolen.AccessToken.Reveal())
		if a.status != http.StatusUnauthorized {
			t.Fatalf("%s without the key = %d %s", event, a.status, a.body)
		}
		lines := f.auditLines()
		last := lines[len(lines)-1]
		if last["event"] != event || last["outcome"] != "refused" || last["session"] == nil || last["who"] == nil {
			t.Errorf("the audit log says of the %s: %v", event, last)
		}
	}
}

func TestBadRequests(t *testing.T) { onEachRoot(t, testBadRequests) }

func testBadRequests(t *testing.T, f *fixture) {
	good := f.form(f.token(nil), "deploy")
	with := func(edit func(url.Values)) string {
		form := url.Values{}
		for k, v := range good {
			form[k] = append([]string(nil), v...)
		}
		edit(form)
		return form.Encode()
	}
	set := func(name, value string) string { return with(func(v url.Values) { v.Set(name, value) }) }
	key := newKey(t)
	tests := []struct {
		name   string
		body   string
		header []string
		status int
		code   string
	}{
		{"a token over 16 KiB", set("subject_token", strings.Repeat("x", 16<<10+1)), nil, 400, "invalid_request"},
		{"a body over 64 KiB", set("x", strings.Repeat("x", 64<<10)), nil, 413, "invalid_request"},
		{"a repeated parameter", good.Encode() + "&subject_token=x", nil, 400, "invalid_request"},
		{"no grant type", with(func(v url.Values) { v.Del("grant_type") }), nil, 400, "invalid_request"},
		{"another grant type", set("grant_type", "password"), nil, 400, "unsupported_grant_type"},
		{"no token", with(func(v url.Values) { v.Del("subject_token") }), nil, 400, "invalid_request"},
		{"no token type", with(func(v url.Values) { v.Del("subject_token_type") }), nil, 400, "invalid_request"},
		{"another token type", set("subject_token_type", "urn:ietf:params:oauth:token-type:saml2"), nil, 400, "invalid_request"},
		{"no credential", with(func(v url.Values) { v.Del("audience") }), nil, 400, "invalid_request"},
		{"one credential twice", good.Encode() + "&audience=deploy", nil, 400, "invalid_request"},
		{"too many credentials", with(func(v url.Values) {
			for i := range 33 {
				v.Add("audience", fmt.Sprint(i))
			}
		}), nil, 400, "invalid_request"},
		{"an unknown credential", set("audience", "root"), nil, 400, "invalid_target"},
		{"a ttl that is none", set("ttl", "5"), nil, 400, "invalid_request"},
		{"a ttl beyond the grant", set("ttl", "11m"), nil, 400, "invalid_request"},
		{"a resource", set("resource", "https://x"), nil, 400, "invalid_target"},
		{"a scope", set("scope", "x"), nil, 400, "invalid_request"},
		{"an actor", set("actor_token", "x"), nil, 400, "invalid_request"},
		{"a token where a name belongs", good.Encode() + "&audience=" + f.token(nil), nil, 400, "invalid_target"},
		{"a seal key of low order", set("seal_key", lowOrder(t)), nil, 400, "invalid_request"},
		{"a seal key that is none", set("seal_key", "eA"), nil, 400, "invalid_request"},
		{"a seal key in another spelling", set("seal_key", "+/=="), nil, 400, "invalid_request"},
		{"not a form", "{}", []string{"Content-Type", "application/json"}, 400, "invalid_request"},
		{"an expired token", set("subject_token", f.token(map[string]any{"exp": time.Now().Add(-time.Hour).Unix()})), nil, 400, "invalid_request"},
		{"another audience", set("subject_token", f.token(map[string]any{"aud": "https://x.example.com"})), nil, 400, "invalid_request"},
		{"an unknown issuer", set("subject_token", f.token(map[string]any{"iss": "http://127.0.0.1:1"})), nil, 400, "invalid_request"},
		{"a pull request", set("subject_token", f.token(map[string]any{"event_name": "pull_request"})), nil, 400, "invalid_target"},
		{"alg none", set("subject_token", "eyJhbGciOiJub25lIiwidHlwIjoiSldUIiwia2lkIjoiMSJ9."+strings.Split(f.token(nil), ".")[1]+"."), nil, 400, "invalid_request"},
		{"a proof for another path", good.Encode(), []string{"DPoP", key.proof(t, "POST", f.url+"/v1/revoke", "")}, 400, "invalid_dpop_proof"},
		{"a proof that is none", good.Encode(), []string{"DPoP", "x"}, 400, "invalid_dpop_proof"},
		{"two proofs", good.Encode(), []string{"DPoP", "x", "DPoP", "y"}, 400, "invalid_request"},
		{"a strange retry key", good.Encode(), []string{"Idempotency-Key", "a b"}, 400, "invalid_request"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			contentType := "application/x-www-form-urlencoded"
			if len(tt.header) > 0 && tt.header[0] == "Content-Type" {
				contentType, tt.header = tt.header[1], nil
			}
			a := f.do("POST", api.PathToken, contentType, tt.body, tt.header...)
			e := a.oauth(t)
			if a.status != tt.status || e.Code != tt.code || e.RequestID == "" || e.Description == "" {
				t.Fatalf("answer = %d %s, want %d %s with a request id", a.status, a.body, tt.status, tt.code)
			}
			if a.header.Get("Cache-Control") != "no-store" || a.header.Get("X-Request-Id") != e.RequestID {
				t.Errorf("headers: %v", a.header)
			}
			if strings.ContainsAny(e.Description, "\"\\") {
				t.Errorf("description %q is not fit for RFC 6749, section 5.2", e.Description)
			}
			outcomes := 0
			for _, line := range f.auditLines() {
				if line["request_id"] == e.RequestID && line["event"] == "exchange" && line["outcome"] == "refused" && line["cause"] != "" {
					outcomes++
				}
			}
			if outcomes != 1 {
				t.Errorf("the audit log tells of %d outcomes of this request, want 1", outcomes)
			}
		})
	}
	if out := f.brevetd("leases", "list", "--json"); strings.TrimSpace(out) != "[]" {
		t.Errorf("refused requests left leases: %s", out)
	}
	f.exchange(good) // none of them burned the token
	if a := f.post(api.PathToken, good); a.status != 400 || a.oauth(t).Code != "invalid_request" {
		t.Errorf("the same token again = %d %s", a.status, a.body)
	}
	for _, shown := range []string{f.log.String(), fmt.Sprint(f.auditLines())} {
		if strings.Contains(shown, "eyJ") {
			t.Error("a token is in the log or the audit log")
		}
	}
}

// lowOrder returns a seal key that can be read and not be used: its X25519 half
// is the point 0 (RFC 7748, section 6.1).
func lowOrder(t *testing.T) string {
	t.Helper()
	key, err := api.NewSealKey()
	if err != nil {
		t.Fatal(err)
	}
	raw, err := base64.RawURLEncoding.DecodeString(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	clear(raw[len(raw)-32:])
	return base64.RawURLEncoding.EncodeToString(raw)
}

func TestOtherEndpointsRefuse(t *testing.T) { onEachRoot(t, testOtherEndpointsRefuse) }

func testOtherEndpointsRefuse(t *testing.T, f *fixture) {
	answer := f.exchange(f.form(f.token(nil), "deploy"))
	id := answer.Leases[0].LeaseID
	tests := []struct {
		name, method, path string
		form               url.Values
		token              string
		status             int
	}{
		{"a lease without a session", "GET", api.PathLeases + id, nil, "", 401},
		{"a lease with garbage", "GET", api.PathLeases + id, nil, "garbage", 401},
		{"someone else's lease", "GET", api.PathLeases + "l1-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", nil, answer.AccessToken.Reveal(), 404},
		{"renewal without a session", "POST", api.PathLeases + id + "/renew", nil, "", 401},
		{"introspection without a session", "POST", api.PathIntrospect, url.Values{"token": {"x"}}, "", 401},
		{"introspection of nothing", "POST", api.PathIntrospect, nil, answer.AccessToken.Reveal(), 400},
		{"revocation of nothing", "POST", api.PathRevoke, nil, "", 400},
		{"revocation of a lease without a session", "POST", api.PathRevoke, url.Values{"token": {id}}, "", 401},
		{"revocation of an unknown token", "POST", api.PathRevoke, url.Values{"token": {"garbage"}}, "", 200},
		{"a token in the URL", "POST", api.PathRevoke + "?token=x", url.Values{"token": {"x"}}, "", 400},
		{"another method", "GET", api.PathToken, nil, "", 405},
		{"an unknown path", "GET", "/v1/secrets", nil, "", 404},
		{"metrics on the public side", "GET", "/metrics", nil, "", 404},
		{"a path with dots", "GET", "/v1/leases/../token", nil, "", 404},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			headers := []string{}
			if tt.token != "" {
				headers = []string{"Authorization", "Bearer " + tt.token}
			}
			a := f.do(tt.method, tt.path, "application/x-www-form-urlencoded", tt.form.Encode(), headers...)
			if a.status != tt.status {
				t.Fatalf("%s %s = %d %s, want %d", tt.method, tt.path, a.status, a.body, tt.status)
			}
			if tt.status >= 400 && a.oauth(t).RequestID == "" {
				t.Errorf("no request id: %s", a.body)
			}
			if tt.status == 401 && strings.Contains(tt.method+tt.path, "GET"+api.PathLeases) {
				last := f.auditLines()[len(f.auditLines())-1]
				if last["event"] != "lookup" || last["outcome"] != "refused" {
					t.Errorf("the refusal is not in the audit log: %v", last)
				}
			}
			if tt.status == 401 && a.header.Get("WWW-Authenticate") == "" {
				t.Error("401 without WWW-Authenticate")
			}
		})
	}
}
