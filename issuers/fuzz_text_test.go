package issuers_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/brevet-dev/brevet/issuers"
)

// FuzzSplice looks for a token that is accepted without having been minted: it
// puts text into a good one, in the place of some of it.
func FuzzSplice(f *testing.F) {
	p := newForge(f)
	set := newSet(f, p.config())
	good := []string{}
	for _, alg := range issuers.Algorithms() {
		good = append(good, p.token(f, alg, nil, map[string]any{"iat": time.Now().Unix(), "exp": time.Now().Add(59 * time.Minute).Unix()}))
	}
	for i, raw := range good {
		middle, end := strings.IndexByte(raw, '.'), strings.LastIndexByte(raw, '.')
		f.Add(uint(i), uint(middle), uint(0), "=")
		f.Add(uint(i), uint(end), uint(1), "..")
		f.Add(uint(i), uint(end+1), uint(len(raw)), "AA")
		f.Add(uint(i), uint(len(raw)), uint(0), "\n")
		f.Add(uint(i), uint(0), uint(middle), encode(`{"alg":"none"}`))
		f.Add(uint(i), uint(0), uint(len(raw)), `{"payload":"e30"}`)
	}
	f.Fuzz(func(t *testing.T, alg, at, cut uint, text string) {
		whole := good[alg%uint(len(good))]
		at = min(at, uint(len(whole)))
		cut = min(cut, uint(len(whole))-at)
		raw := whole[:at] + text + whole[at+cut:]
		id, err := set.Verify(context.Background(), raw)
		if got := reason(t, id, err); (got == "") != (raw == whole) {
			t.Fatalf("%q for %q, made of %q", got, raw, whole)
		}
	})
}

// FuzzParseToken: what is read has one spelling, and is what encoding/json, and
// so go-oidc, reads.
func FuzzParseToken(f *testing.F) {
	p := newForge(f)
	for _, raw := range []string{
		p.token(f, "ES256", nil, nil), p.token(f, "EdDSA", nil, map[string]any{"iss": "\x00"}), encode("{}") + "." + encode(`{"iss":"x"}`) + ".AA",
		encode("{}") + "." + encode(`{"iss":"x"}`) + ".AB", encode("{}") + "\n." + encode(`{"iss":"x"}`) + ".AA", "...", strings.Repeat(".", 16<<10),
	} {
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		header, claims, segments, err := issuers.ParseToken(raw)
		if err != nil {
			return
		}
		if strings.Join(segments, ".") != raw {
			t.Fatalf("%q is also spelled %q", raw, segments)
		}
		sameAsLibrary(t, segments[0], header)
		sameAsLibrary(t, segments[1], claims)
	})
}

// sameAsLibrary compares the members of an object with what encoding/json reads
// into a struct, whose names it folds.
func sameAsLibrary(t *testing.T, segment string, got map[string]any) {
	t.Helper()
	text, err := base64.RawURLEncoding.DecodeString(segment)
	if err != nil {
		t.Fatal(err)
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	var seen struct{ Alg, Kid, Iss, Aud, Exp, Crit any }
	if err := decoder.Decode(&seen); err != nil {
		t.Fatalf("encoding/json refuses %q: %v", text, err)
	}
	for name, want := range map[string]any{"alg": seen.Alg, "kid": seen.Kid, "iss": seen.Iss, "aud": seen.Aud, "exp": seen.Exp, "crit": seen.Crit} {
		if value, present := got[name]; present && !reflect.DeepEqual(value, want) {
			t.Fatalf("%q: we read %s = %v, encoding/json reads %v", text, name, value, want)
		}
	}
}

// FuzzPayload signs any payload: what is accepted has the claims that every
// other reader sees in it, too.
func FuzzPayload(f *testing.F) {
	p := newForge(f)
	p.url = "http://127.0.0.1" // so that seeds stay good; the keys are there already
	config := p.config()
	config.JWKSFile = writeKeys(f, jwks(f, p.keys...))
	set := newSet(f, config)
	good := p.claims(map[string]any{"iat": time.Now().Unix(), "exp": time.Now().Add(59 * time.Minute).Unix()})
	for _, text := range []string{
		good, good[:len(good)-1] + `,"Aud":"x"}`, `{"iss":"http://127.0.0.1"}`, strings.Replace(good, `"aud"`, `"AUD"`, 1), strings.Replace(good, `"exp":`, `"exp":1`, 1), strings.Replace(good, "456", `\u0034\ud83d\ude00`, 1),
		good[:len(good)-1] + `,"x":{"y":[1,2e9,"\u0000",null,true]}}`,
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		id, err := set.Verify(context.Background(), p.sign(t, "ES256", p.header("ES256", nil), text))
		if reason(t, id, err) != "" {
			return
		}
		var seen struct {
			Iss, Sub  string
			ProjectID string `json:"project_id"`
			Exp       int64
		}
		if err := json.Unmarshal([]byte(text), &seen); err != nil {
			t.Fatalf("accepted what encoding/json refuses: %q: %v", text, err)
		}
		if seen.Iss != id.URL || seen.Sub != id.Subject || seen.ProjectID != id.Claims["project_id"] || seen.Exp != id.Expires.Unix() || id.ReplayID == "" {
			t.Fatalf("%q: we read %+v, encoding/json reads %+v", text, id, seen)
		}
	})
}

// FuzzHeader signs any header: what is accepted names the algorithm and the key
// that signed it.
func FuzzHeader(f *testing.F) {
	p := newForge(f)
	set := newSet(f, p.config())
	for _, text := range []string{
		p.header("ES256", nil), p.header("RS256", nil), `{"alg":"none"}`, `{"alg":"ES256","kid":"ES256","crit":[]}`, `{"alg":"ES256","kid":"ES256","typ":"JWT","x":{"alg":"none"}}`, `{"ALG":"none","alg":"ES256","kid":"ES256"}`,
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		id, err := set.Verify(context.Background(), p.sign(t, "ES256", text, p.claims(nil)))
		if reason(t, id, err) != "" {
			return
		}
		var seen map[string]any
		if err := json.Unmarshal([]byte(text), &seen); err != nil || seen["alg"] != "ES256" || seen["kid"] != "ES256" {
			t.Fatalf("accepted the header %q", text)
		}
		for _, name := range []string{"crit", "b64", "jwk", "jku", "x5u", "x5c", "zip", "enc", "cty"} {
			if _, present := seen[name]; present {
				t.Fatalf("accepted the header %q", text)
			}
		}
	})
}

// FuzzKeySet is FuzzParseJWKS for an issuer that uses all algorithms.
func FuzzKeySet(f *testing.F) {
	p := newForge(f)
	for _, document := range [][]byte{
		jwks(f, p.keys...), jwks(f, p.keys[0], p.keys[0]), jwks(f), []byte(`{"keys":[1,null,{},{"kty":"RSA","kid":"x","n":"","e":""}]}`),
		[]byte(`{"keys":[{"kty":"EC","crv":"P-256","kid":"x","x":"AA","y":"AA"}]}`), []byte(`{"keys":{}}`), []byte(`[]`), {},
		jwks(f, map[string]any{"kty": "OKP", "crv": "Ed25519", "kid": "x", "x": encode(strings.Repeat("\x00", 32))}),
	} {
		f.Add(document)
	}
	f.Fuzz(func(t *testing.T, document []byte) {
		keys, err := issuers.ParseJWKS(document, issuers.Algorithms()...)
		if (err == nil) == (len(keys) == 0) || len(keys) > 100 {
			t.Fatalf("ParseJWKS(%q) = %v, %v", document, keys, err)
		}
		for kid, algorithms := range keys {
			for alg := range strings.SplitSeq(algorithms, " ") {
				if kid == "" || !slices.Contains(issuers.Algorithms(), alg) {
					t.Fatalf("ParseJWKS(%q) = %v", document, keys)
				}
			}
		}
	})
}

// FuzzParseDiscovery: what is accepted is of the issuer, to every reader, and
// the address in it is one that leads to its host alone.
func FuzzParseDiscovery(f *testing.F) {
	const issuer = "https://ci.example.com/x"
	for _, text := range []string{
		`{"issuer":"https://ci.example.com/x","jwks_uri":"https://ci.example.com/keys"}`, `{"issuer":"https://ci.example.com/x/","jwks_uri":"x"}`, `{"ISSUER":"https://ci.example.com/x","jwks_uri":"x"}`,
		`{"issuer":"https://ci.example.com/x","jwks_uri":"https://ci.example.com@evil.example/keys"}`, `{"issuer":"https://ci.example.com/x","jwks_uri":"https://ci.example.com\\@evil.example/"}`, `{}`, `[]`, "",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		uri, err := issuers.ParseDiscovery([]byte(text), issuer)
		if err != nil {
			if uri != "" {
				t.Fatalf("ParseDiscovery(%q) = %q and %v", text, uri, err)
			}
			return
		}
		var seen struct {
			Issuer  string `json:"issuer"`
			JWKSURI string `json:"jwks_uri"`
		}
		if err := json.Unmarshal([]byte(text), &seen); err != nil || seen.Issuer != issuer || seen.JWKSURI != uri {
			t.Fatalf("ParseDiscovery(%q) = %q, encoding/json reads %+v, %v", text, uri, seen, err)
		}
		if issuers.CheckJWKSURI(issuer, uri) != nil {
			return
		}
		u, err := url.Parse(uri)
		if err != nil || u.Scheme != "https" || u.Hostname() != "ci.example.com" || u.User != nil {
			t.Fatalf("jwks_uri %q was let through", uri)
		}
	})
}

// FuzzCacheTime: whatever the header says, keys are refreshed within the hour.
func FuzzCacheTime(f *testing.F) {
	for _, text := range []string{"", "max-age=60", "max-age=-1", "max-age=99999999999999999999", "no-store", "MAX-AGE = 5", `max-age="5"`, ",,=", "max-age=1,max-age=2"} {
		f.Add(text, text)
	}
	f.Fuzz(func(t *testing.T, one, other string) {
		got := issuers.CacheTime(http.Header{"Cache-Control": {one, other}})
		if got < 0 || got > time.Hour {
			t.Fatalf("cacheTime(%q, %q) = %v", one, other, got)
		}
	})
}
