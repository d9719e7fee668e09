package issuers_test

import (
	"context"
	"strings"
	"testing"

	"github.com/brevet-dev/brevet/issuers"
	"github.com/brevet-dev/brevet/issuers/lab"
)

// FuzzVerify looks for a token that is accepted without having been minted.
func FuzzVerify(f *testing.F) {
	p := start(f, lab.Options{Preset: "github"})
	set := newSet(f, p.config("github"))
	good := p.mint(f, nil)
	header, rest, _ := strings.Cut(good, ".")
	for _, raw := range []string{
		good, good + "=", good + "\n", header + "." + rest[1:], strings.ToLower(good), "..", "", "a.b.c", `{"payload":"` + rest + `"}`,
		p.forge(f, lab.Forgery{StrangeKey: true}), p.forge(f, lab.Forgery{Header: map[string]any{"alg": "none"}}),
	} {
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		id, err := set.Verify(context.Background(), raw)
		if got := reason(t, id, err); got == "" && raw != good {
			t.Fatalf("accepted %q", raw)
		}
	})
}

// FuzzParseJWKS checks that nothing an issuer publishes makes more than the
// keys that we take.
func FuzzParseJWKS(f *testing.F) {
	rsa, ec := start(f, lab.Options{}), start(f, lab.Options{Preset: "generic", Algorithm: "ES256"})
	one, two := firstKey(f, rsa), firstKey(f, ec)
	for _, document := range [][]byte{
		jwks(f, one, two), jwks(f, one, one), jwks(f), []byte(`{"keys":[1,null,{},{"kty":"RSA","kid":"x","n":"","e":""}]}`),
		[]byte(`{"keys":[{"kty":"EC","crv":"P-256","kid":"x","x":"AA","y":"AA"}]}`), []byte(`{"keys":{}}`), []byte(`[]`), {},
	} {
		f.Add(document)
	}
	f.Fuzz(func(t *testing.T, document []byte) {
		keys, err := issuers.ParseJWKS(document, "RS256", "ES256")
		if (err == nil) == (len(keys) == 0) || len(keys) > 100 {
			t.Fatalf("ParseJWKS(%q) = %v, %v", document, keys, err)
		}
		for kid, alg := range keys {
			if kid == "" || alg != "RS256" && alg != "ES256" {
				t.Fatalf("ParseJWKS(%q) = %v", document, keys)
			}
		}
	})
}
