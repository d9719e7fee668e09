package issuers_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/brevet-dev/brevet/issuers"
	"github.com/brevet-dev/brevet/issuers/lab"
)

func TestParseJWKS(t *testing.T) {
	p, ec := start(t, lab.Options{}), start(t, lab.Options{Preset: "generic", Algorithm: "ES256"})
	good, point, edwards := firstKey(t, p), firstKey(t, ec), ed25519JWK(t)
	// with returns key with changes; nil removes a member.
	with := func(key map[string]any, changes map[string]any) map[string]any {
		changed := map[string]any{}
		for _, from := range []map[string]any{key, changes} {
			for name, value := range from {
				changed[name] = value
				if value == nil {
					delete(changed, name)
				}
			}
		}
		return changed
	}
	skipped := map[string]map[string]any{
		"for encryption":         with(good, map[string]any{"use": "enc"}),
		"use is a list":          with(good, map[string]any{"use": []string{"sig"}}),
		"key_ops sign":           with(good, map[string]any{"key_ops": []string{"sign"}}),
		"key_ops is a string":    with(good, map[string]any{"key_ops": "verify"}),
		"for another algorithm":  with(good, map[string]any{"alg": "RS512"}),
		"alg of another type":    with(good, map[string]any{"alg": "ES256"}),
		"alg of another curve":   with(point, map[string]any{"alg": "ES384"}),
		"alg in lower case":      with(good, map[string]any{"alg": "rs256"}),
		"alg none":               with(good, map[string]any{"alg": "none"}),
		"alg HS256":              with(good, map[string]any{"alg": "HS256"}),
		"alg null":               with(good, map[string]any{"alg": json.RawMessage("null")}),
		"alg is a list":          with(good, map[string]any{"alg": []string{"RS256"}}),
		"key_ops null":           with(good, map[string]any{"key_ops": json.RawMessage("null")}),
		"alg is a number":        with(good, map[string]any{"alg": 256}),
		"private":                with(good, map[string]any{"d": "AQAB"}),
		"symmetric":              {"kty": "oct", "kid": "x", "k": "c2VjcmV0"},
		"unknown type":           with(good, map[string]any{"kty": "rsa"}),
		"no kid":                 with(good, map[string]any{"kid": nil}),
		"empty kid":              with(good, map[string]any{"kid": ""}),
		"long kid":               with(good, map[string]any{"kid": strings.Repeat("k", 257)}),
		"exponent 1":             with(good, map[string]any{"e": "AQ"}),
		"exponent 0":             with(good, map[string]any{"e": "AA"}),
		"no exponent":            with(good, map[string]any{"e": nil}),
		"exponent 3":             with(good, map[string]any{"e": "Aw"}),
		"even exponent":          with(good, map[string]any{"e": "AQAC"}),
		"huge exponent":          with(good, map[string]any{"e": "AQAAAAAAAAAB"}),
		"exponent of 32 bits":    with(good, map[string]any{"e": "gAAAAQ"}),
		"65537 and 2^64":         with(good, map[string]any{"e": "AQAAAAAAAQAB"}),
		"small modulus":          with(good, map[string]any{"n": strings.Repeat("f", 171)}),
		"large modulus":          with(good, map[string]any{"n": strings.Repeat("f", 700)}),
		"modulus of 4097 bits":   with(good, map[string]any{"n": "AQ" + strings.Repeat("A", 681) + "B"}),
		"even modulus":           with(good, map[string]any{"n": "_" + strings.Repeat("f", 340) + "A"}),
		"modulus with padding":   with(good, map[string]any{"n": good["n"].(string) + "=="}),
		"modulus is a number":    with(good, map[string]any{"n": 1}),
		"point not on the curve": with(point, map[string]any{"x": point["y"], "y": point["x"]}),
		"short point":            with(point, map[string]any{"x": "AQAB"}),
		"point at infinity":      with(point, map[string]any{"x": strings.Repeat("A", 43), "y": strings.Repeat("A", 43)}),
		"coordinate above p":     with(point, map[string]any{"x": strings.Repeat("_", 42) + "8"}),
		"padded coordinate":      with(point, map[string]any{"x": "AA" + point["x"].(string)}),
		"line break in it":       with(point, map[string]any{"x": point["x"].(string) + "\n"}),
		"loose base64":           with(point, map[string]any{"x": loosened(point["x"].(string))}),
		"another curve":          with(point, map[string]any{"crv": "P-384"}),
		"curve in lower case":    with(point, map[string]any{"crv": "p-256"}),
		"curve secp256k1":        with(point, map[string]any{"crv": "secp256k1"}),
		"no curve":               with(point, map[string]any{"crv": nil}),
		"EC as OKP":              with(point, map[string]any{"kty": "OKP"}),
		"Ed448":                  with(edwards, map[string]any{"crv": "Ed448"}),
		"X25519":                 with(edwards, map[string]any{"crv": "X25519"}),
		"Ed25519 for ES256":      with(edwards, map[string]any{"alg": "ES256"}),
		"Ed25519 with d":         with(edwards, map[string]any{"d": edwards["x"]}),
		"Ed25519, short":         with(edwards, map[string]any{"x": "AQAB"}),
		"ES256 not wanted":       point,
	}
	for name, odd := range skipped {
		algorithms := []string{"RS256", "ES256", "EdDSA"}
		if name == "ES256 not wanted" {
			algorithms = algorithms[:1]
		}
		if keys, err := issuers.ParseJWKS(jwks(t, odd), algorithms...); err == nil {
			t.Errorf("%s: ParseJWKS took %v", name, keys)
		}
		odd = with(odd, map[string]any{"kid": "odd"})
		other := with(good, map[string]any{"kid": "good", "use": nil, "alg": nil, "key_ops": []string{"verify"}})
		if name == "no kid" || name == "empty kid" || name == "long kid" {
			delete(odd, "kid")
		}
		if keys, err := issuers.ParseJWKS(jwks(t, odd, other), algorithms...); err != nil || len(keys) != 1 || keys["good"] != "RS256" {
			t.Errorf("%s beside a good key: ParseJWKS = %v, %v", name, keys, err)
		}
	}
	if keys, err := issuers.ParseJWKS(jwks(t, good, point), "RS256", "ES256"); err != nil || len(keys) != 2 {
		t.Errorf("two good keys: ParseJWKS = %v, %v", keys, err)
	}
	many := []map[string]any{}
	for i := range 101 {
		many = append(many, with(good, map[string]any{"kid": fmt.Sprint(i)}))
	}
	for name, document := range map[string][]byte{
		"one kid twice":         jwks(t, good, good),
		"one kid twice, in odd": jwks(t, good, with(good, map[string]any{"use": "enc"})),
		"101 keys":              jwks(t, many...),
		"no keys":               jwks(t),
		"no list":               []byte(`{"keys":{}}`),
		"a list":                []byte(`[]`),
		"not objects":           []byte(`{"keys":[1,"x",null]}`),
		"names twice":           bytes.Replace(jwks(t, good), []byte(`"kty"`), []byte(`"KTY":"oct","kty"`), 1),
	} {
		if keys, err := issuers.ParseJWKS(document, "RS256"); err == nil {
			t.Errorf("%s: ParseJWKS took %v", name, keys)
		}
	}
	for name, document := range map[string][]byte{
		"100 keys":            jwks(t, many[:100]...),
		"modulus of 4096":     jwks(t, with(good, map[string]any{"n": strings.Repeat("_", 682) + "8"})),
		"modulus of 2048":     jwks(t, with(good, map[string]any{"n": "_" + strings.Repeat("f", 340) + "Q"})),
		"exponent of 31 bits": jwks(t, with(good, map[string]any{"e": "QAAAAQ"})),
		"kid of 256 bytes":    jwks(t, with(good, map[string]any{"kid": strings.Repeat("k", 256)})),
	} {
		if _, err := issuers.ParseJWKS(document, "RS256"); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Keys without alg may verify what is for their type and curve and is the
// issuer's; keys with it, that alone.
func TestKeyAlgorithms(t *testing.T) {
	rsaKey, point := firstKey(t, start(t, lab.Options{})), firstKey(t, start(t, lab.Options{Preset: "generic", Algorithm: "ES256"}))
	for _, test := range []struct {
		key    map[string]any
		alg    any
		issuer []string
		want   string
	}{
		{rsaKey, "RS256", issuers.Algorithms(), "RS256"},
		{rsaKey, "PS512", issuers.Algorithms(), "PS512"},
		{rsaKey, nil, issuers.Algorithms(), "RS256 RS384 RS512 PS256 PS384 PS512"},
		{rsaKey, nil, []string{"ES256", "RS256"}, "RS256"},
		{rsaKey, "RS384", []string{"RS256"}, ""},
		{rsaKey, nil, []string{"ES256"}, ""},
		{point, nil, issuers.Algorithms(), "ES256"},
		{point, nil, []string{"ES384"}, ""},
		{ed25519JWK(t), nil, issuers.Algorithms(), "EdDSA"},
		{ed25519JWK(t), "EdDSA", issuers.Algorithms(), "EdDSA"},
	} {
		key := maps.Clone(test.key)
		key["alg"], key["kid"] = test.alg, "k"
		if test.alg == nil {
			delete(key, "alg")
		}
		keys, err := issuers.ParseJWKS(jwks(t, key), test.issuer...)
		if keys["k"] != test.want || (err == nil) != (test.want != "") {
			t.Errorf("ParseJWKS of a %v key with alg %v for %q = %v, %v, want %q", key["kty"], test.alg, test.issuer, keys, err, test.want)
		}
	}
}

// Under a point of low order, a signature of zeros and the point itself
// verifies every message, or one in a few.
func TestEd25519Points(t *testing.T) {
	for range 20 {
		if _, err := issuers.ParseJWKS(jwks(t, ed25519JWK(t)), "EdDSA"); err != nil {
			t.Fatalf("a good key: %v", err)
		}
	}
	for name, point := range map[string]string{
		"order 1":           "01" + strings.Repeat("00", 31),
		"order 1, signed":   "01" + strings.Repeat("00", 30) + "80",
		"order 2":           "ec" + strings.Repeat("ff", 30) + "7f",
		"order 2, signed":   "ec" + strings.Repeat("ff", 31),
		"order 4":           strings.Repeat("00", 32),
		"order 4, negative": strings.Repeat("00", 31) + "80",
		"order 8":           "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
		"order 8, another":  "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
		"order 8, negative": "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
		"p for 0":           "ed" + strings.Repeat("ff", 30) + "7f",
		"p + 1 for 1":       "ee" + strings.Repeat("ff", 30) + "7f",
		"above p":           strings.Repeat("ff", 31) + "7f",
		"not on the curve":  "02" + strings.Repeat("00", 31),
	} {
		x, err := hex.DecodeString(point)
		if err != nil {
			t.Fatal(err)
		}
		jwk := map[string]any{"kty": "OKP", "crv": "Ed25519", "kid": "k", "x": encode(string(x))}
		if keys, err := issuers.ParseJWKS(jwks(t, jwk), "EdDSA"); err == nil {
			t.Errorf("%s: ParseJWKS took %v", name, keys)
		}
	}
}

func ed25519JWK(t testing.TB) map[string]any {
	t.Helper()
	public, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	return map[string]any{"kty": "OKP", "crv": "Ed25519", "kid": "ed", "x": encode(string(public))}
}

// loosened returns another base64 text of the same 32 bytes: 2 bits of the last
// character mean nothing.
func loosened(text string) string {
	const digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	last := len(text) - 1
	return text[:last] + string(digits[strings.IndexByte(digits, text[last])+1])
}

func jwks(t testing.TB, keys ...map[string]any) []byte {
	t.Helper()
	document, err := json.Marshal(map[string]any{"keys": keys})
	if err != nil {
		t.Fatal(err)
	}
	return document
}

// firstKey returns p's published key.
func firstKey(t testing.TB, p *platform) map[string]any {
	var document struct{ Keys []map[string]any }
	if err := json.Unmarshal([]byte(jwksOf(t, p)), &document); err != nil {
		t.Fatal(err)
	}
	return document.Keys[0]
}
