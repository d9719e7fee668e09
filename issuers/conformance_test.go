package issuers_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"
	"github.com/golang-jwt/jwt/v5"

	"github.com/brevet-dev/brevet/issuers"
)

// TestConformance shows the verifier the tokens that vectors for JWS libraries
// are made of (Project Wycheproof's, and the reports on what libraries got
// wrong), each signed by a forge for this issuer, and expects each to be
// refused for its own reason. The same tokens are shown to the libraries behind
// the verifier as they come: what those accept, only our rules keep out.
func TestConformance(t *testing.T) {
	f := newForge(t)
	set, others := newSet(t, f.config()), readers(t, f)
	total, accepted := 0, make([]int, len(others))
	seen := map[string]bool{}
	for _, theme := range corpus() {
		cases, accepts := theme.cases(t, f), make([]int, len(others))
		for _, h := range cases {
			if seen[h.name] {
				t.Errorf("two cases have the name %q", h.name)
			}
			seen[h.name] = true
			h.check(t, set)
			for i, other := range others {
				if other.accepts(h.raw) {
					accepts[i]++
					accepted[i]++
				}
			}
		}
		total += len(cases)
		t.Logf("%s: %d tokens; accepted by others: %v", theme.name, len(cases), accepts)
	}
	report(t, others, accepted, total)
}

// check verifies h.raw and compares the reason; the error must not repeat it.
func (h hostile) check(t *testing.T, set *issuers.Set) {
	t.Helper()
	id, err := set.Verify(t.Context(), h.raw)
	if got := reason(t, id, err); got != h.want {
		t.Errorf("%s: reason %q, want %q (%v)", h.name, got, h.want, err)
	}
	if err != nil && strings.Contains(err.Error(), canary) {
		t.Errorf("%s: the error repeats the token: %v", h.name, err)
	}
}

// report tells how many of total hostile tokens each of others accepts.
func report(t *testing.T, others []otherReader, accepted []int, total int) {
	t.Helper()
	for i, other := range others {
		t.Logf("%s accepts %d of %d hostile tokens", other.name, accepted[i], total)
		if accepted[i] == 0 {
			t.Errorf("%s accepts none of the hostile tokens: it does not read them", other.name)
		}
	}
}

// A theme makes hostile tokens of one kind.
type theme struct {
	name  string
	cases func(*testing.T, *forge) []hostile
}

func corpus() []theme {
	return []theme{
		{"serializations", serializations}, {"base64", encodings}, {"alg", algorithmNames}, {"MAC under the public key", symmetric},
		{"kid", keyNames}, {"header parameters", headerParameters}, {"key confusion", confusions},
		{"damaged signatures", damagedSignatures}, {"ECDSA", ecdsaSignatures}, {"RSA padding and salts", rsaSignatures},
		{"Ed25519", edwardsSignatures}, {"JSON", jsonTexts}, {"claims", claimValues}, {"times", timeValues},
	}
}

// Good tokens, and what is odd but means one thing only, are accepted, also by
// the other readers where that is not said: a corpus that everybody refuses
// would show nothing.
func TestConformanceControl(t *testing.T) {
	f := newForge(t)
	set, others := newSet(t, f.config()), readers(t, f)
	for _, alg := range issuers.Algorithms() {
		raw := f.token(t, alg, nil, nil)
		check(t, set, raw, "")
		for _, other := range others {
			if !other.accepts(raw) {
				t.Errorf("%s refuses a good token by %s", other.name, alg)
			}
		}
		if f.ec[alg] == nil && alg != "EdDSA" {
			check(t, set, f.token(t, alg, map[string]any{"kid": "bare"}, nil), "")
		}
	}
	for name, raw := range map[string]string{
		"no typ":                    f.token(t, "ES256", map[string]any{"typ": nil}, nil),
		"typ in lower case":         f.token(t, "ES256", map[string]any{"typ": "jwt"}, nil),
		"x5t":                       f.token(t, "ES256", map[string]any{"x5t": "AAAA", "x5t#S256": "AAAA"}, nil),
		"a parameter nobody knows":  f.token(t, "ES256", map[string]any{"orgId": "7"}, nil),
		"aud in a list of one":      f.token(t, "ES256", nil, map[string]any{"aud": []string{audience}}),
		"azp is the broker":         f.token(t, "ES256", nil, map[string]any{"azp": audience}),
		"alg in an escape":          f.sign(t, "ES256", `{"\u0061lg":"ES\u0032\u00356","kid":"ES256"}`, f.claims(nil)),
		"white space in the JSON":   f.sign(t, "ES256", " {\n\"alg\" : \"ES256\" ,\t\"kid\":\"ES256\"}\r\n", f.claims(nil)),
		"a number of 400 digits":    f.token(t, "ES256", nil, map[string]any{"odd": json.RawMessage(strings.Repeat("9", 400))}),
		"a claim with U+0000":       f.token(t, "ES256", nil, map[string]any{"odd": "\x00"}),
		"members of many languages": f.token(t, "ES256", nil, map[string]any{"größe": 1, "大きさ": 2, "😀": 3}),
	} {
		id, err := set.Verify(t.Context(), raw)
		if got := reason(t, id, err); got != "" {
			t.Errorf("%s: refused: %v", name, err)
		}
	}
}

// An otherReader verifies tokens of one forge in another way.
type otherReader struct {
	name    string
	accepts func(raw string) bool
}

func readers(t *testing.T, f *forge) []otherReader {
	provider, err := oidc.NewProvider(t.Context(), f.url)
	if err != nil {
		t.Fatal(err)
	}
	verifier := provider.Verifier(&oidc.Config{ClientID: audience})
	byDefault := func(raw string) bool {
		_, err := verifier.Verify(t.Context(), raw)
		return err == nil
	}
	keys := libraryKeys(t, f.published())
	parse := func(options ...jwt.ParserOption) func(string) bool {
		return func(raw string) bool {
			token, err := jwt.Parse(raw, keys, options...)
			return err == nil && token.Valid
		}
	}
	advised := parse(jwt.WithIssuer(f.url), jwt.WithAudience(audience), jwt.WithExpirationRequired(), jwt.WithIssuedAt(), jwt.WithValidMethods(issuers.Algorithms()))
	return []otherReader{
		{"go-oidc by default", byDefault},
		{"golang-jwt by default", parse()},
		{"golang-jwt with issuer, audience, expiry, iat and methods", advised},
		{"go-oidc and so set up golang-jwt together", func(raw string) bool { return byDefault(raw) && advised(raw) }},
	}
}

// libraryKeys finds keys by kid, as go-jose reads them.
func libraryKeys(t *testing.T, keys []map[string]any) jwt.Keyfunc {
	byID := map[string]any{}
	for _, key := range keys {
		text, err := json.Marshal(key)
		if err != nil {
			t.Fatal(err)
		}
		var jwk jose.JSONWebKey
		if err := jwk.UnmarshalJSON(text); err == nil { // what it refuses is passed over
			byID[jwk.KeyID] = jwk.Key
		}
	}
	return func(token *jwt.Token) (any, error) {
		kid, _ := token.Header["kid"].(string)
		if key := byID[kid]; key != nil {
			return key, nil
		}
		return nil, fmt.Errorf("no key %q", kid)
	}
}

// serializations are what RFC 7515 and 7516 write in other ways.
func serializations(t *testing.T, f *forge) []hostile {
	good := f.token(t, "ES256", nil, nil)
	part := strings.Split(good, ".")
	member := fmt.Sprintf(`"payload":"%s"`, part[1])
	signature := fmt.Sprintf(`"protected":"%s","signature":"%s"`, part[0], part[2])
	bare := fmt.Sprintf(`"header":{"alg":"ES256","kid":"ES256"},"signature":"%s"`, part[2])
	nested := f.sign(t, "ES256", f.header("ES256", map[string]any{"cty": "JWT"}), good)
	cases := []hostile{
		{"nested JWS", nested, issuers.ReasonMalformed},
		{"segments in another order", part[1] + "." + part[0] + "." + part[2], issuers.ReasonClaimMissing},
	}
	for name, raw := range map[string]string{
		"flattened JSON":                    "{" + member + "," + signature + "}",
		"general JSON":                      "{" + member + `,"signatures":[{` + signature + "}]}",
		"two signatures":                    "{" + member + `,"signatures":[{` + signature + "},{" + signature + "}]}",
		"no signatures":                     "{" + member + `,"signatures":[]}`,
		"JSON with an unprotected alg":      "{" + member + "," + bare + "}",
		"JSON behind white space":           " \n{" + member + "," + signature + "}",
		"JSON string":                       `"` + good + `"`,
		"JWE":                               good + "." + part[0] + "." + part[1],
		"four segments":                     good + "." + part[2],
		"four segments, the last one empty": good + ".",
		"two segments":                      part[0] + "." + part[1],
		"one segment":                       part[0],
		"no text":                           "",
		"one dot":                           ".",
		"two dots":                          "..",
		"three dots":                        "...",
		"no header":                         "." + part[1] + "." + part[2],
		"no payload":                        part[0] + ".." + part[2],
		"no signature":                      part[0] + "." + part[1] + ".",
		"no header and no signature":        "." + part[1] + ".",
		"with the scheme":                   "Bearer " + good,
		"twice, with a comma":               good + "," + good,
		"twice, with a space":               good + " " + good,
		"with a byte order mark":            "\ufeff" + good,
		"percent-encoded dots":              strings.ReplaceAll(good, ".", "%2E"),
		"tilde of SD-JWT":                   good + "~",
		"PASETO":                            "v4.public." + part[2],
		"not ASCII":                         strings.Replace(good, "e", "е", 1),
		"binary":                            "\x00\xff\xfe",
	} {
		cases = append(cases, hostile{name, raw, issuers.ReasonMalformed})
	}
	return cases
}

// encodings are base64 that decodes to the same bytes in a lenient reader.
func encodings(t *testing.T, f *forge) []hostile {
	good := f.token(t, "RS256", nil, map[string]any{"odd": "?>?>?>"})
	segment := strings.Split(good, ".")
	cases := []hostile{}
	for i, name := range []string{"header", "payload", "signature"} {
		with := func(what, text string) {
			changed := slices.Clone(segment)
			changed[i] = text
			cases = append(cases, hostile{what + " in the " + name, strings.Join(changed, "."), issuers.ReasonMalformed})
		}
		text := segment[i]
		with("padding", text+"=")
		with("double padding", text+"==")
		with("padding inside", text[:4]+"="+text[4:])
		with("line feed", text[:4]+"\n"+text[4:])
		with("line feed at the end", text+"\n")
		with("carriage return", text+"\r\n")
		with("space", text[:4]+" "+text[4:])
		with("tab at the end", text+"\t")
		with("NUL", text+"\x00")
		with("a star", text[:4]+"*"+text[4:])
		with("one character more", text+strings.Repeat("A", (5-len(text)%4)%4))
		with("standard alphabet", text[:4]+"+/+/"+text[4:])
		with("percent encoding", "%"+fmt.Sprintf("%X", text[0])+text[1:])
		if len(text)%4 != 0 {
			with("bits behind the end", loosened(text))
		}
	}
	return cases
}

// algorithmNames are words in alg that some library took for one of its own.
func algorithmNames(t *testing.T, f *forge) []hostile {
	cases := []hostile{}
	add := func(name string, raw string, want string) {
		cases = append(cases, hostile{"alg " + name, raw, want})
	}
	for _, alg := range []any{
		"none", "None", "NONE", "nOnE", "none ", "", "null", json.RawMessage("null"), 0, true, []string{"RS256"}, map[string]any{"RS256": 1},
		"HS256", "HS384", "HS512", "RS1", "RS256 ", " RS256", "rs256", "RS256\x00", "RS256\n", "RS-256", "SHA256withRSA", "ES256K", "Ed25519", "Ed448",
		"ML-DSA-44", "RSA-OAEP", "RSA1_5", "dir", "A256KW", "ECDH-ES", "PBES2-HS256+A128KW", "http://www.w3.org/2001/04/xmldsig-more#rsa-sha256",
	} {
		header := f.header("RS256", map[string]any{"alg": alg})
		add(fmt.Sprintf("%q with a signature", fmt.Sprint(alg)), f.sign(t, "RS256", header, f.claims(nil)), issuers.ReasonAlgorithm)
		add(fmt.Sprintf("%q without one", fmt.Sprint(alg)), encode(header)+"."+encode(f.claims(nil))+".", issuers.ReasonMalformed)
	}
	add("missing", f.sign(t, "RS256", f.header("RS256", map[string]any{"alg": nil}), f.claims(nil)), issuers.ReasonAlgorithm)
	return cases
}

// keyNames are kids that must lead to no key, file, query or address.
func keyNames(t *testing.T, f *forge) []hostile {
	cases := []hostile{}
	add := func(name string, kid any, want string) {
		cases = append(cases, hostile{"kid " + name, f.token(t, "RS256", map[string]any{"kid": kid}, nil), want})
	}
	add("missing", nil, issuers.ReasonHeader)
	for name, kid := range map[string]any{
		"empty": "", "null": json.RawMessage("null"), "a number": 1, "true": true, "a list": []string{"RS256"}, "an object": map[string]any{"kid": "RS256"},
		"of 257 bytes": strings.Repeat("k", 257), "of 4 KiB": strings.Repeat("k", 4<<10),
	} {
		add(name, kid, issuers.ReasonHeader)
	}
	for name, kid := range map[string]string{
		"a path": "../../../../dev/null", "an absolute path": "/proc/sys/kernel/randomize_va_space", "SQL": "x' UNION SELECT '" + canary + "';--",
		"a command": "|/bin/sleep 9", "a URL": "http://169.254.169.254/" + canary, "LDAP": "*)(uid=*", "a format": "%s%n%d",
		"in lower case": "rs256", "with a space": "RS256 ", "with a NUL": "RS256\x00", "with a line break": "RS256\n",
		"in full width": "ＲＳ２５６", "with a zero-width space": "RS256\u200b", "of 256 bytes": strings.Repeat("k", 256),
		"of a prototype": "__proto__", "of a constructor": "constructor", "a star": "*", "a dot": ".", "zero": "0",
	} {
		add(name, kid, issuers.ReasonUnknownKey)
	}
	folded := `{"alg":"RS256","KID":"RS256"}`
	twice := `{"alg":"RS256","kid":"RS256","Kid":"ES256"}`
	return append(cases,
		hostile{"kid in upper case", f.sign(t, "RS256", folded, f.claims(nil)), issuers.ReasonHeader},
		hostile{"kid in two cases", f.sign(t, "RS256", twice, f.claims(nil)), issuers.ReasonMalformed},
		hostile{"kid among the claims", f.token(t, "RS256", map[string]any{"kid": nil}, map[string]any{"kid": "RS256"}), issuers.ReasonHeader},
	)
}

// headerParameters bring a key of their own, or change what is signed.
func headerParameters(t *testing.T, f *forge) []hostile {
	cases := []hostile{}
	add := func(name string, changes map[string]any) {
		cases = append(cases, hostile{name, f.token(t, "RS256", changes, nil), issuers.ReasonHeader})
	}
	for _, name := range []string{"jwk", "jku", "x5u", "x5c", "crit", "b64", "zip", "enc", "cty"} {
		add("header null "+name, map[string]any{name: json.RawMessage("null")})
		add("header text "+name, map[string]any{name: canary})
		add("header list "+name, map[string]any{name: []string{}})
	}
	for name, value := range map[string]any{
		"crit names exp": []string{"exp"}, "crit names b64": []string{"b64"}, "crit names alg": []string{"alg"}, "crit names what nobody knows": []string{canary},
		"crit names one twice": []string{"exp", "exp"}, "crit is a text": "exp", "crit names an empty name": []string{""},
	} {
		add(name, map[string]any{"crit": value, "exp": 1, canary: 1, "b64": nil})
	}
	add("b64 is true", map[string]any{"b64": true})
	add("b64 is true and critical", map[string]any{"b64": true, "crit": []string{"b64"}})
	add("compressed", map[string]any{"zip": "DEF"})
	add("cty is JWT", map[string]any{"cty": "JWT"})
	for _, typ := range []any{
		"", "at+jwt", "application/at+jwt", "dpop+jwt", "logout+jwt", "secevent+jwt", "JOSE", "JOSE+JSON", "kb+jwt", "entity-statement+jwt",
		"JWT ", "JWT,at+jwt", 1, true, []string{"JWT"}, json.RawMessage("null"),
	} {
		add(fmt.Sprintf("typ is %q", fmt.Sprint(typ)), map[string]any{"typ": typ})
	}
	strange := rsaJWK(&f.strange.PublicKey, map[string]any{"kid": "RS256", "alg": "RS256"})
	embedded := encode(f.header("RS256", map[string]any{"jwk": strange})) + "." + encode(f.claims(nil))
	signature, err := jwt.SigningMethodRS256.Sign(embedded, f.strange)
	if err != nil {
		t.Fatal(err)
	}
	header := encode(f.header("RS256", map[string]any{"b64": false, "crit": []string{"b64"}}))
	raw := f.signText(t, "RS256", header+"."+f.claims(nil)) // signed, and not encoded
	detached := header + ".." + raw[strings.LastIndexByte(raw, '.')+1:]
	encoded := header + "." + encode(f.claims(nil)) + raw[strings.LastIndexByte(raw, '.'):]
	return append(cases,
		hostile{"signed by the key that it brings", embedded + "." + encode(string(signature)), issuers.ReasonHeader},
		hostile{"payload in the open", raw, issuers.ReasonMalformed},
		hostile{"payload detached", detached, issuers.ReasonMalformed},
		hostile{"payload signed in the open, shown encoded", encoded, issuers.ReasonHeader},
	)
}
