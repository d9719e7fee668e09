package lab_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/coreos/go-oidc/v3/oidc"

	"github.com/brevet-dev/brevet/issuers/lab"
)

const audience = "https://broker.example.com"

func start(t *testing.T, opts lab.Options) *lab.Lab {
	t.Helper()
	l, err := lab.Start(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Errorf("Close = %v", err)
		}
	})
	return l
}

// fetch asks the token endpoint as a job does.
func fetch(t *testing.T, l *lab.Lab, authorization, query string) (status int, token string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, l.RequestURL+query, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", authorization)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var answer struct{ Value string }
	if err := json.NewDecoder(res.Body).Decode(&answer); err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, answer.Value
}

// verify lets a stock OpenID Connect client find the keys and check the token.
func verify(t *testing.T, l *lab.Lab, raw, audience string) map[string]any {
	t.Helper()
	provider, err := oidc.NewProvider(t.Context(), l.URL)
	if err != nil {
		t.Fatal(err)
	}
	token, err := provider.Verifier(&oidc.Config{ClientID: audience}).Verify(t.Context(), raw)
	if err != nil {
		t.Fatal(err)
	}
	var claims map[string]any
	if err := token.Claims(&claims); err != nil {
		t.Fatal(err)
	}
	return claims
}

func TestTokenEndpoint(t *testing.T) {
	l := start(t, lab.Options{})
	status, raw := fetch(t, l, "bearer "+l.RequestToken, "&audience="+url.QueryEscape(audience))
	if status != http.StatusOK {
		t.Fatalf("status %d", status)
	}
	claims := verify(t, l, raw, audience)
	for name, want := range map[string]any{
		"iss": l.URL, "sub": "repo:acme/shop:environment:production", "repository_id": "456",
		"repository_owner_id": "123", "ref": "refs/heads/main", "event_name": "push", "base_ref": "",
	} {
		if claims[name] != want {
			t.Errorf("%s = %v, want %v", name, claims[name], want)
		}
	}
	if iat := claims["iat"].(float64); claims["nbf"] != iat-600 || claims["exp"] != iat+300 {
		t.Errorf("times are %v, %v, %v", claims["nbf"], claims["iat"], claims["exp"])
	}
	_, again := fetch(t, l, "Bearer "+l.RequestToken, "")
	if other := verify(t, l, again, "https://github.com/acme"); other["jti"] == claims["jti"] {
		t.Error("two tokens have one jti")
	}
}

func TestTokenEndpointRefuses(t *testing.T) {
	l := start(t, lab.Options{})
	for _, authorization := range []string{"", "bearer", "bearer ", "bearer x", l.RequestToken, "basic " + l.RequestToken} {
		if status, raw := fetch(t, l, authorization, ""); status != http.StatusUnauthorized || raw != "" {
			t.Errorf("Authorization %q: status %d", authorization, status)
		}
	}
	if status, _ := fetch(t, l, "bearer "+l.RequestToken, "&claim.exp=soon"); status != http.StatusBadRequest {
		t.Errorf("claim.exp=soon: status %d", status)
	}
}

func TestPlayedPullRequest(t *testing.T) {
	l := start(t, lab.Options{})
	_, raw := fetch(t, l, "bearer "+l.RequestToken, "&audience=a&claim.event_name=pull_request&claim.environment=&claim.ref=refs/pull/7/merge&claim.exp=4000000000")
	claims := verify(t, l, raw, "a")
	if claims["sub"] != "repo:acme/shop:pull_request" || claims["ref"] != "refs/pull/7/merge" || claims["exp"] != 4e9 {
		t.Errorf("claims = %v", claims)
	}
	if _, present := claims["environment"]; present {
		t.Error("the environment was not removed")
	}
}

func TestPresets(t *testing.T) {
	tests := []struct {
		opts     lab.Options
		query    string
		sub      string
		lifetime float64
	}{
		{lab.Options{Preset: "github", Claims: map[string]any{"environment": nil}}, "", "repo:acme/shop:ref:refs/heads/main", 300},
		{lab.Options{Preset: "gitlab"}, "&claim.runner_id=7", "project_path:acme/shop:ref_type:branch:ref:main", 3600},
		{lab.Options{Preset: "generic", Claims: map[string]any{"sub": "me"}}, "", "me", 300},
		{lab.Options{Preset: "generic"}, "&claim.sub=you", "you", 300},
	}
	for _, test := range tests {
		l := start(t, test.opts)
		_, raw := fetch(t, l, "bearer "+l.RequestToken, "&audience=a"+test.query)
		claims := verify(t, l, raw, "a")
		if claims["sub"] != test.sub || claims["exp"].(float64)-claims["iat"].(float64) != test.lifetime {
			t.Errorf("%+v: claims = %v", test.opts, claims)
		}
		if id, present := claims["runner_id"]; present && id != 7.0 {
			t.Errorf("runner_id = %#v, want the number 7", id)
		}
	}
}

func TestES256AndRotation(t *testing.T) {
	l := start(t, lab.Options{Preset: "generic", Algorithm: "ES256"})
	old, err := l.Mint("a", nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Rotate(); err != nil {
		t.Fatal(err)
	}
	raw, err := l.Mint("a", nil)
	if err != nil {
		t.Fatal(err)
	}
	keys := oidc.NewRemoteKeySet(t.Context(), l.URL+"/.well-known/jwks")
	config := &oidc.Config{ClientID: "a", SupportedSigningAlgs: []string{"ES256"}}
	for _, token := range []string{old, raw} {
		if _, err := oidc.NewVerifier(l.URL, keys, config).Verify(t.Context(), token); err != nil {
			t.Errorf("after Rotate: %v", err)
		}
	}
	l.Withdraw()
	keys = oidc.NewRemoteKeySet(t.Context(), l.URL+"/.well-known/jwks")
	if _, err := oidc.NewVerifier(l.URL, keys, config).Verify(t.Context(), old); err == nil {
		t.Error("after Withdraw the old key is still published")
	}
}

// Every algorithm's tokens verify with a stock client.
func TestAlgorithms(t *testing.T) {
	for _, alg := range []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"} {
		l := start(t, lab.Options{Preset: "generic", Algorithm: alg})
		raw, err := l.Mint("a", nil)
		if err != nil {
			t.Fatal(err)
		}
		keys := oidc.NewRemoteKeySet(t.Context(), l.URL+"/.well-known/jwks")
		config := &oidc.Config{ClientID: "a", SupportedSigningAlgs: []string{alg}}
		if _, err := oidc.NewVerifier(l.URL, keys, config).Verify(t.Context(), raw); err != nil {
			t.Errorf("%s: %v", alg, err)
		}
	}
}

// What is inside of objects can be played by the preset's name for it, and
// numbers and booleans stay what they are.
func TestPlayedInsideOfObjects(t *testing.T) {
	l := start(t, lab.Options{Preset: "kubernetes", Claims: map[string]any{"namespace": "build", "pod": nil}})
	for range 2 { // the first does not change what the second gets
		_, raw := fetch(t, l, "bearer "+l.RequestToken, "&audience=a&claim.service_account=shop&claim.warnafter=7&claim.node=")
		claims := verify(t, l, raw, "a")
		inner, _ := claims["kubernetes.io"].(map[string]any)
		account, _ := inner["serviceaccount"].(map[string]any)
		pod, _ := inner["pod"].(map[string]any)
		node, _ := inner["node"].(map[string]any)
		if claims["sub"] != "system:serviceaccount:build:shop" || account["uid"] == nil || inner["warnafter"] != 7.0 ||
			pod["name"] != nil || pod["uid"] == nil || node["name"] != nil || node["uid"] == nil {
			t.Errorf("claims = %v", claims)
		}
		if claims["namespace"] != nil {
			t.Error("the claim was set at the top, too")
		}
		_, raw = fetch(t, l, "bearer "+l.RequestToken, "&audience=a")
		if claims := verify(t, l, raw, "a"); claims["sub"] != "system:serviceaccount:build:shop-deploy" {
			t.Errorf("the next token has %v", claims["sub"])
		}
	}
	l = start(t, lab.Options{Preset: "circleci"})
	_, raw := fetch(t, l, "bearer "+l.RequestToken, "&audience=a&claim.oidc.circleci.com/ssh-rerun=true")
	if claims := verify(t, l, raw, "a"); claims["oidc.circleci.com/ssh-rerun"] != true {
		t.Errorf("claims = %v", claims)
	}
}

// The token that a job gets without asking has the platform's default audience.
func TestDefaultAudience(t *testing.T) {
	for preset, want := range map[string]string{
		"github": "https://github.com/acme", "buildkite": "https://buildkite.com/acme", "azure-devops": "api://AzureADTokenExchange",
		"vercel": "https://vercel.com/acme", "circleci": "9f1c2d3e-4b5a-4c6d-8e7f-0a1b2c3d4e5f", "google": "default",
	} {
		l := start(t, lab.Options{Preset: preset})
		_, raw := fetch(t, l, "bearer "+l.RequestToken, "")
		verify(t, l, raw, want)
	}
}

func TestIssuerWithPath(t *testing.T) {
	var l *lab.Lab
	outer, err := lab.Start(lab.Options{}) // only for a free address
	if err != nil {
		t.Fatal(err)
	}
	if err := outer.Close(); err != nil {
		t.Fatal(err)
	}
	listen := strings.TrimPrefix(outer.URL, "http://")
	l = start(t, lab.Options{Listen: listen, URL: outer.URL + "/_services/token"})
	_, raw := fetch(t, l, "bearer "+l.RequestToken, "&audience=a")
	if claims := verify(t, l, raw, "a"); claims["iss"] != outer.URL+"/_services/token" {
		t.Errorf("iss = %v", claims["iss"])
	}
}

func TestFaults(t *testing.T) {
	l := start(t, lab.Options{})
	get := func(path string) (*http.Response, []byte, error) {
		client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, l.URL+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := client.Do(req)
		if err != nil {
			return nil, nil, err
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		return res, body, err
	}
	l.Break(lab.Down)
	if res, _, err := get("/.well-known/jwks"); err != nil || res.StatusCode != http.StatusInternalServerError {
		t.Errorf("down: %v, %v", res, err)
	}
	l.Break(lab.Redirect)
	res, _, err := get("/.well-known/jwks")
	if err != nil || res.StatusCode != http.StatusFound {
		t.Fatalf("redirect: %v, %v", res, err)
	}
	if res, body, err := get("/.well-known/jwks?redirected=1"); err != nil || res.StatusCode != http.StatusOK || !bytes.Contains(body, []byte("keys")) {
		t.Errorf("behind the redirect: %v, %v", res, err)
	}
	l.Break(lab.HugeJWKS)
	if _, body, err := get("/.well-known/jwks"); err != nil || len(body) < 4<<20 {
		t.Errorf("huge: %d bytes, %v", len(body), err)
	}
	l.Break(lab.Healthy)
	if _, raw := fetch(t, l, "bearer "+l.RequestToken, "&audience=a"); verify(t, l, raw, "a") == nil {
		t.Error("not mended")
	}
}

// Close ends even what a Slow lab holds up.
func TestSlowEndsWithClose(t *testing.T) {
	l, err := lab.Start(lab.Options{})
	if err != nil {
		t.Fatal(err)
	}
	l.Break(lab.Slow)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, l.URL+"/.well-known/jwks", nil)
	if err != nil {
		t.Fatal(err)
	}
	answered := make(chan error, 1)
	go func() {
		res, err := http.DefaultClient.Do(req)
		if err == nil {
			err = res.Body.Close()
		}
		answered <- err
	}()
	if err := l.Close(); err != nil {
		t.Errorf("Close = %v", err)
	}
	<-answered // with an empty answer or a broken connection
	if err := l.Close(); err != nil {
		t.Errorf("second Close = %v", err)
	}
}

func TestOptions(t *testing.T) {
	for _, opts := range []lab.Options{
		{Listen: "0.0.0.0:0"}, {Listen: ":0"}, {Listen: "localhost:0"}, {Preset: "jenkins"}, {Algorithm: "HS256"}, {Listen: "127.0.0.1:99999"},
	} {
		if l, err := lab.Start(opts); err == nil {
			l.Close()
			t.Errorf("Start(%+v) worked", opts)
		}
	}
	if _, err := lab.New(lab.Options{}); err == nil {
		t.Error("New without a URL worked")
	}
}
