package api_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/brevet-dev/brevet/broker/api"
)

const canary = "canary-9c1e"

func answer() *api.TokenResponse {
	return &api.TokenResponse{
		AccessToken: api.NewSecret("session-" + canary), IssuedTokenType: api.TokenTypeJWT, TokenType: "DPoP", ExpiresIn: 900,
		Leases: []api.Lease{{
			LeaseID: "l1-x", Credential: "deploy", Kind: "jwt", ExpiresAt: time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC), Renewable: true,
			Values: map[string]api.Secret{"token": api.NewSecret(canary)}, Env: map[string]string{"TOKEN": "token"}, Sensitive: []string{"token"},
		}},
	}
}

// Whatever prints a secret by accident prints no secret.
func TestSecretsDoNotPrint(t *testing.T) {
	type nested struct {
		hidden api.Secret
		Shown  api.Secret
		Any    any
		Map    map[string]api.Secret
		List   []api.Secret
	}
	s := api.NewSecret(canary)
	n := nested{s, s, s, map[string]api.Secret{"k": s}, []api.Secret{s}}
	var out strings.Builder
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d", "%T"} {
		fmt.Fprintf(&out, verb+verb+verb+verb, s, n, answer(), unwrapped())
	}
	fmt.Fprint(&out, s, n, answer(), unwrapped(), fmt.Errorf("wrapped: %w", fmt.Errorf("%v", s)), errors.Join(fmt.Errorf("%v", unwrapped())))
	data, err := json.Marshal([]any{s, n, answer(), unwrapped()})
	if err != nil {
		t.Fatal(err)
	}
	out.Write(data)
	slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "s", s, "n", n, "a", answer(), "k", unwrapped())
	slog.New(slog.NewTextHandler(&out, nil)).Info("x", "s", s, "n", n, "a", answer(), "k", unwrapped())
	shown := false
	for _, secret := range []string{canary, fmt.Sprintf("%x", canary), fmt.Sprintf("%X", canary), canaryKey, fmt.Sprintf("%x", canaryKey)} {
		shown = shown || strings.Contains(out.String(), secret)
	}
	if shown {
		t.Errorf("a secret was printed:\n%s", &out)
	}
	if s.Reveal() != canary || s.IsZero() || !(api.Secret{}).IsZero() {
		t.Error("Reveal does not give the value")
	}
}

func TestEncodeDecode(t *testing.T) {
	body, err := answer().Encode()
	if err != nil {
		t.Fatal(err)
	}
	want := `{"access_token":"session-canary-9c1e","issued_token_type":"urn:ietf:params:oauth:token-type:jwt","token_type":"DPoP","expires_in":900,` +
		`"leases":[{"lease_id":"l1-x","credential":"deploy","kind":"jwt","expires_at":"2030-01-02T03:04:05Z","renewable":true,"revocable":false,` +
		`"values":{"token":"canary-9c1e"},"env":{"TOKEN":"token"},"sensitive":["token"]}]}`
	if string(body) != want {
		t.Errorf("Encode = %s\nwant %s", body, want)
	}
	got, err := api.DecodeTokenResponse(body)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := got.Encode(); err != nil || string(again) != want {
		t.Errorf("decoded and encoded again: %s, %v", again, err)
	}
}

func TestSealedResponse(t *testing.T) {
	const url, proof = "https://broker.example.com/v1/token", "proof"
	key, err := api.NewSealKey()
	if err != nil {
		t.Fatal(err)
	}
	recipient, err := api.ParseSealKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	body, err := answer().EncodeSealed(recipient, url, proof)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(strings.ReplaceAll(string(body), "session-"+canary, ""), canary) || strings.Contains(string(body), "l1-x") {
		t.Fatalf("the sealed answer shows its leases: %s", body)
	}
	got, err := api.DecodeSealedResponse(body, key, url, proof)
	if err != nil || got.Leases[0].Values["token"].Reveal() != canary {
		t.Fatalf("DecodeSealedResponse = %v, %v", got, err)
	}
	other, err := api.NewSealKey()
	if err != nil {
		t.Fatal(err)
	}
	clear, err := answer().Encode()
	if err != nil {
		t.Fatal(err)
	}
	sealed := func(edit func(map[string]any)) []byte {
		m := map[string]any{}
		if err := json.Unmarshal(body, &m); err != nil {
			t.Fatal(err)
		}
		edit(m)
		out, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	for _, tt := range []struct {
		name       string
		body       []byte
		key        *api.SealKey
		url, proof string
	}{
		{"another key", body, other, url, proof},
		{"another broker", body, key, "https://other.example.com/v1/token", proof},
		{"another request", body, key, url, "another proof"},
		{"leases in clear", clear, key, url, proof},
		{"leases in clear beside", sealed(func(m map[string]any) { m["leases"] = []any{} }), key, url, proof},
		{"another session", sealed(func(m map[string]any) { m["access_token"] = "x" }), key, url, proof},
		{"one bit changed", sealed(func(m map[string]any) {
			s := []byte(m["sealed_leases"].(string))
			s[len(s)/2] ^= 1
			m["sealed_leases"] = string(s)
		}), key, url, proof},
		{"cut off", sealed(func(m map[string]any) { m["sealed_leases"] = m["sealed_leases"].(string)[:100] }), key, url, proof},
	} {
		if got, err := api.DecodeSealedResponse(tt.body, tt.key, tt.url, tt.proof); err == nil || got == nil || len(got.Leases) != 0 || got.AccessToken.IsZero() {
			t.Errorf("%s: DecodeSealedResponse = %v, %v; want an error, and the session token to end it with", tt.name, got, err)
		}
	}
}

func FuzzDecodeTokenResponse(f *testing.F) {
	if body, err := answer().Encode(); err == nil {
		f.Add(body)
	}
	f.Add([]byte(`{"access_token":"x","leases":[{"lease_id":""}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := api.DecodeTokenResponse(data)
		if err != nil {
			return
		}
		body, err := r.Encode()
		if err != nil {
			t.Fatalf("what was decoded cannot be encoded: %v", err)
		}
		if _, err := api.DecodeTokenResponse(body); err != nil {
			t.Errorf("what was encoded cannot be decoded: %v", err)
		}
	})
}

func FuzzParseSealKey(f *testing.F) {
	if key, err := api.NewSealKey(); err == nil {
		f.Add(key.Public())
	}
	f.Add("AAAA")
	f.Fuzz(func(t *testing.T, s string) {
		r, err := api.ParseSealKey(s)
		if (r == nil) == (err == nil) {
			t.Errorf("ParseSealKey = %v, %v", r, err)
		}
		if err == nil {
			if _, err := answer().EncodeSealed(r, "u", "p"); err != nil {
				t.Errorf("a key that was accepted does not seal: %v", err)
			}
		}
	})
}
