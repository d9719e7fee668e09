package issuers_test

import (
	"encoding/base64"
	"errors"
	"strings"
	"testing"

	"github.com/brevet-dev/brevet/issuers"
)

func TestPeek(t *testing.T) {
	part := func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }
	token := func(payload string) string {
		return part(`{"alg":"RS256"}`) + "." + part(payload) + "." + part("canary-signature")
	}
	claims, err := issuers.Peek(token(`{"iss":"https://ci.example.com","ref":"main"}`))
	if err != nil || claims["ref"] != "main" || len(claims) != 2 {
		t.Errorf("Peek = %v, %v", claims, err)
	}
	for _, raw := range []string{
		"", "x", "a.b.c", token(`[]`), token(`{"iss":"x","iss":"x"}`), token(`{"iss":1}`), token(`{}`),
		token(`{"iss":"https://ci.example.com"}`) + "=", " " + token(`{"iss":"x"}`), token(`{"iss":"` + strings.Repeat("x", 20_000) + `"}`),
	} {
		claims, err := issuers.Peek(raw)
		if claims != nil || !errors.Is(err, issuers.ErrInvalidToken) {
			t.Errorf("Peek(%.40q) = %v, %v; want ErrInvalidToken", raw, claims, err)
			continue
		}
		for i := 0; i+16 <= len(raw); i += 16 {
			if strings.Contains(err.Error(), raw[i:i+16]) {
				t.Errorf("Peek(%.40q) quotes the token: %v", raw, err)
			}
		}
	}
}

func TestByURL(t *testing.T) {
	set, err := issuers.New([]issuers.Config{{Name: "hub", Preset: "github", Audience: "https://broker.example.com"}})
	if err != nil {
		t.Fatal(err)
	}
	for url, want := range map[string]string{
		"https://token.actions.githubusercontent.com": "hub", "https://token.actions.githubusercontent.com/": "", "": "", "hub": "",
	} {
		if got := set.ByURL(url); got != want {
			t.Errorf("ByURL(%q) = %q, want %q", url, got, want)
		}
	}
}
