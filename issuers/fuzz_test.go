package issuers_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/brevet-dev/brevet/issuers"
	"github.com/brevet-dev/brevet/issuers/lab"
	"github.com/brevet-dev/brevet/issuers/presets"
	"github.com/brevet-dev/brevet/issuers/strictjson"
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

// FuzzReadClaims reads payloads as each preset does: what comes out is declared
// and typed, is read again as the same, and is not in the audit log twice.
func FuzzReadClaims(f *testing.F) {
	known := presets.Known()
	for name := range known {
		for _, variant := range append(presets.Variants(name), "") {
			payload, err := presets.Example(name, variant)
			if err != nil {
				f.Fatal(err)
			}
			text, err := json.Marshal(payload)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(name, string(text))
		}
	}
	f.Add("google", `{"sub":"1","google":{"compute_engine":{"project_number":1e3}}}`)
	f.Add("kubernetes", `{"kubernetes.io":{"serviceaccount":[]}}`)
	f.Fuzz(func(t *testing.T, name, text string) {
		p := known[name]
		payload, err := strictjson.Object(text, strictjson.Limits{Depth: 16, Members: 200})
		if p == nil || err != nil {
			return
		}
		before := fmt.Sprint(payload)
		claims, err := issuers.ReadClaims(p, payload)
		if (err == nil) == (claims == nil) || err != nil && !errors.Is(err, issuers.ErrInvalidToken) {
			t.Fatalf("ReadClaims = %v, %v", claims, err)
		}
		for name, value := range claims {
			if !hasType(value, p.Claims[name].Type) {
				t.Errorf("%s is a %T", name, value)
			}
		}
		size := 0
		for name, value := range issuers.Undeclared(payload, p) {
			if _, declared := p.Claims[name]; declared && len(p.Claims[name].Path) == 0 {
				t.Errorf("%s is declared and undeclared", name)
			}
			size += len(name) + len(value)
		}
		if size > 4<<10 || fmt.Sprint(payload) != before {
			t.Errorf("%d bytes are undeclared, or the payload was changed", size)
		}
	})
}

func hasType(value any, typ presets.Type) bool {
	switch value.(type) {
	case string:
		return typ == presets.String
	case int64:
		return typ == presets.Int
	case bool:
		return typ == presets.Bool
	case []string:
		return typ == presets.StringList
	}
	return false
}
