package issuers_test

import (
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/brevet-dev/brevet/issuers"
	"github.com/brevet-dev/brevet/issuers/lab"
)

// canary stands in hostile tokens and must not come back in any error.
const canary = "CANARY7f3a"

// A hostile token is to be refused for one reason.
type hostile struct {
	name string
	raw  string
	want string
}

func TestHostileTokens(t *testing.T) {
	p := start(t, lab.Options{Preset: "github"})
	other := start(t, lab.Options{Preset: "gitlab"})
	set := newSet(t, p.config("github"), other.config("gitlab"))
	check(t, set, p.mint(t, nil), "")
	check(t, set, other.mint(t, nil), "")
	reasons := make(map[string]bool)
	for _, h := range slices.Concat(spellings(t, p), headers(t, p), signatures(t, p, other), claims(t, p), times(t, p), forks(t, other)) {
		t.Run(h.name, func(t *testing.T) {
			id, err := set.Verify(t.Context(), h.raw)
			if got := reason(t, id, err); got != h.want {
				t.Errorf("reason %q, want %q (%v)", got, h.want, err)
			}
			if err != nil && strings.Contains(err.Error(), canary) {
				t.Errorf("the error repeats the token: %v", err)
			}
			reasons[h.want] = true
		})
	}
	reasons[issuers.ReasonTooOld] = true // TestMaxAge: here such a token has expired too
	for _, r := range issuers.Reasons() {
		if !reasons[r] {
			t.Errorf("no hostile token is refused as %q", r)
		}
	}
}

func encode(text string) string { return base64.RawURLEncoding.EncodeToString([]byte(text)) }

// payload returns a good token's payload with text put before its last brace.
func payload(t *testing.T, p *platform, text string) []byte {
	good := strings.Split(p.mint(t, nil), ".")[1]
	decoded, err := base64.RawURLEncoding.DecodeString(good)
	if err != nil {
		t.Fatal(err)
	}
	return append(decoded[:len(decoded)-1], text+"}"...)
}

// spellings are texts that some reader takes for a token, or for another one.
func spellings(t *testing.T, p *platform) []hostile {
	good := p.mint(t, map[string]any{"head_ref": canary})
	part := strings.Split(good, ".")
	flat, err := json.Marshal(map[string]string{"protected": part[0], "payload": part[1], "signature": part[2]})
	if err != nil {
		t.Fatal(err)
	}
	// 256 bytes of signature leave 4 bits in the last character; set them.
	loose := good[:len(good)-1] + string(good[len(good)-1]+1)
	cases := []hostile{
		{"empty", "", issuers.ReasonMalformed},
		{"dots only", "..", issuers.ReasonMalformed},
		{"too large", good + strings.Repeat("A", 16<<10), issuers.ReasonTooLarge},
		{"no signature", part[0] + "." + part[1] + ".", issuers.ReasonMalformed},
		{"two segments", part[0] + "." + part[1], issuers.ReasonMalformed},
		{"five segments, as JWE", good + "." + part[1] + "." + part[2], issuers.ReasonMalformed},
		{"16 Ki dots", strings.Repeat(".", 16<<10), issuers.ReasonMalformed},
		{"JSON serialization", string(flat), issuers.ReasonMalformed},
		{"line break at the end", good + "\n", issuers.ReasonMalformed},
		{"line break inside", part[0] + "." + part[1][:8] + "\n" + part[1][8:] + "." + part[2], issuers.ReasonMalformed},
		{"space in front", " " + good, issuers.ReasonMalformed},
		{"padding", good + "=", issuers.ReasonMalformed},
		{"loose base64", loose, issuers.ReasonMalformed},
		{"standard base64", part[0] + "." + part[1] + "./" + part[2][1:], issuers.ReasonMalformed},
		{"header is a list", encode("[]") + "." + part[1] + "." + part[2], issuers.ReasonMalformed},
		{"header names alg twice", encode(`{"alg":"RS256","alg":"none"}`) + "." + part[1] + "." + part[2], issuers.ReasonMalformed},
	}
	for name, text := range map[string]string{
		"payload names sub twice":        `,"sub":"` + canary + `"`,
		"payload names ISS too":          `,"ISS":"` + canary + `"`,
		"payload names i\\u017f\\u017f":  `,"i\u017f\u017f":"` + canary + `"`,
		"payload names ref in an escape": `,"re\u0066":"` + canary + `"`,
		"nested name twice":              `,"x":{"a":1,"A":2}`,
		"lone surrogate":                 `,"x":"\ud800"`,
		"invalid UTF-8":                  ",\"x\":\"\xff\"",
		"control character":              ",\"x\":\"\x01\"",
		"too deep":                       `,"x":` + strings.Repeat("[", 16) + strings.Repeat("]", 16),
		"too many members":               manyMembers(200),
		"something behind the object":    `}{"x":1`,
		"not JSON":                       `,"x":NaN`,
	} {
		cases = append(cases, hostile{name, p.forge(t, lab.Forgery{Payload: payload(t, p, text)}), issuers.ReasonMalformed})
	}
	return cases
}

func manyMembers(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `,"m%d":0`, i)
	}
	return b.String()
}

// headers hold parameters that change what is verified, or with what.
func headers(t *testing.T, p *platform) []hostile {
	cases := []hostile{}
	add := func(name, parameter string, value any, want string) {
		header := map[string]any{parameter: value}
		cases = append(cases, hostile{name, p.forge(t, lab.Forgery{Header: header}), want})
	}
	for _, name := range []string{"crit", "b64", "jwk", "jku", "x5u", "x5c", "zip", "enc", "cty"} {
		add("header has "+name, name, canary, issuers.ReasonHeader)
	}
	add("empty crit", "crit", []string{}, issuers.ReasonHeader)
	add("b64 false", "b64", false, issuers.ReasonHeader)
	add("null crit", "crit", json.RawMessage("null"), issuers.ReasonHeader)
	add("no typ", "typ", nil, issuers.ReasonHeader)
	add("empty typ", "typ", "", issuers.ReasonHeader)
	add("access token", "typ", "at+jwt", issuers.ReasonHeader)
	add("typ is a number", "typ", 1, issuers.ReasonHeader)
	add("no kid", "kid", nil, issuers.ReasonHeader)
	add("empty kid", "kid", "", issuers.ReasonHeader)
	add("kid is a number", "kid", 1, issuers.ReasonHeader)
	add("long kid", "kid", strings.Repeat("k", 257), issuers.ReasonHeader)
	add("kid is a path", "kid", "../../"+canary, issuers.ReasonUnknownKey)
	add("no alg", "alg", nil, issuers.ReasonAlgorithm)
	add("alg is a number", "alg", 256, issuers.ReasonAlgorithm)
	add("alg in lower case", "alg", "rs256", issuers.ReasonAlgorithm)
	return cases
}

// signatures are not the issuer's.
func signatures(t *testing.T, p, other *platform) []hostile {
	good := strings.Split(p.mint(t, nil), ".")
	more := strings.Split(p.mint(t, map[string]any{"repository_id": "1"}), ".")
	public := publicPEM(t, p)
	return []hostile{
		{"strange key", p.forge(t, lab.Forgery{StrangeKey: true}), issuers.ReasonSignature},
		{"another payload", good[0] + "." + more[1] + "." + good[2], issuers.ReasonSignature},
		{"zeros", good[0] + "." + good[1] + "." + encode(strings.Repeat("\x00", 256)), issuers.ReasonSignature},
		{"cut", good[0] + "." + good[1] + "." + encode("x"), issuers.ReasonSignature},
		{"none", p.forge(t, lab.Forgery{Method: jwt.SigningMethodNone, MethodKey: jwt.UnsafeAllowNoneSignatureType}) + "AA", issuers.ReasonAlgorithm},
		{"HS256 with the public key", p.forge(t, lab.Forgery{Method: jwt.SigningMethodHS256, MethodKey: public}), issuers.ReasonAlgorithm},
		{"HS256 called RS256", p.forge(t, lab.Forgery{Method: jwt.SigningMethodHS256, MethodKey: public, Header: map[string]any{"alg": "RS256"}}), issuers.ReasonSignature},
		{"RS512", p.forge(t, lab.Forgery{Method: jwt.SigningMethodRS512}), issuers.ReasonAlgorithm},
		{"PS256 called RS256", p.forge(t, lab.Forgery{Method: jwt.SigningMethodPS256, Header: map[string]any{"alg": "RS256"}}), issuers.ReasonSignature},
		{"signed by another configured issuer", other.mint(t, map[string]any{"iss": p.URL}), issuers.ReasonUnknownKey},
		{"that, under this one's kid", other.forge(t, lab.Forgery{Claims: map[string]any{"iss": p.URL}, Header: map[string]any{"kid": keyID(t, good[0])}}), issuers.ReasonSignature},
	}
}

func keyID(t *testing.T, header string) string {
	text, err := base64.RawURLEncoding.DecodeString(header)
	if err != nil {
		t.Fatal(err)
	}
	var fields struct{ Kid string }
	if err := json.Unmarshal(text, &fields); err != nil {
		t.Fatal(err)
	}
	return fields.Kid
}

// publicPEM returns p's public key as a tool would show it.
func publicPEM(t *testing.T, p *platform) []byte {
	der, err := x509.MarshalPKIXPublicKey(p.PublicKey())
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
}

// claims are signed, and say what they must not.
func claims(t *testing.T, p *platform) []hostile {
	cases := []hostile{}
	add := func(name string, changes map[string]any, want string) {
		cases = append(cases, hostile{name, p.mint(t, changes), want})
	}
	one := func(claim string, value any, want string) {
		add(fmt.Sprintf("%s is %.20v", claim, value), map[string]any{claim: value}, want)
	}
	one("iss", nil, issuers.ReasonClaimMissing)
	one("iss", 1, issuers.ReasonClaimType)
	one("iss", "", issuers.ReasonClaimValue)
	one("iss", p.URL+"/", issuers.ReasonUnknownIssuer)
	one("iss", strings.ToUpper(p.URL), issuers.ReasonUnknownIssuer)
	one("iss", p.URL+"@"+canary, issuers.ReasonUnknownIssuer)
	one("aud", nil, issuers.ReasonAudience)
	one("aud", "https://github.com/acme", issuers.ReasonAudience)
	one("aud", audience+"/", issuers.ReasonAudience)
	one("aud", []string{audience, canary}, issuers.ReasonAudience)
	one("aud", []string{}, issuers.ReasonAudience)
	one("aud", []any{[]string{audience}}, issuers.ReasonAudience)
	one("aud", map[string]any{audience: true}, issuers.ReasonAudience)
	one("azp", canary, issuers.ReasonAudience)
	one("azp", []string{audience}, issuers.ReasonAudience)
	one("_claim_names", map[string]any{"ref": "x"}, issuers.ReasonClaimValue)
	one("_claim_sources", map[string]any{"x": map[string]any{"endpoint": canary}}, issuers.ReasonClaimValue)
	one("nonce", 1, issuers.ReasonMalformed) // only go-oidc minds
	for claim, limit := range map[string]int{"sub": 1 << 10, "jti": 256} {
		one(claim, nil, issuers.ReasonClaimMissing)
		one(claim, 1, issuers.ReasonClaimType)
		one(claim, "", issuers.ReasonClaimValue)
		one(claim, strings.Repeat("x", limit+1), issuers.ReasonClaimValue)
		one(claim, canary+"\n", issuers.ReasonClaimValue)
		one(claim, canary+"\u202e", issuers.ReasonClaimValue)
	}
	one("repository_id", nil, issuers.ReasonClaimMissing)
	one("repository_id", 456, issuers.ReasonClaimType)
	one("repository_id", []string{"456"}, issuers.ReasonClaimType)
	one("repository_id", json.RawMessage("null"), issuers.ReasonClaimType)
	one("environment", true, issuers.ReasonClaimType)
	return cases
}

// times are wrong by a few seconds, a unit or an age.
func times(t *testing.T, p *platform) []hostile {
	cases := []hostile{}
	add := func(name string, changes map[string]any, want string) {
		cases = append(cases, hostile{name, p.mint(t, changes), want})
	}
	at := func(seconds int64) int64 { return time.Now().Unix() + seconds }
	for _, claim := range []string{"exp", "iat", "nbf"} {
		if claim != "nbf" {
			add("no "+claim, map[string]any{claim: nil}, issuers.ReasonClaimMissing)
		}
		add(claim+" is a string", map[string]any{claim: fmt.Sprint(at(60))}, issuers.ReasonClaimType)
		add(claim+" has a fraction", map[string]any{claim: json.Number(fmt.Sprintf("%d.5", at(60)))}, issuers.ReasonClaimType)
		add(claim+" has an exponent", map[string]any{claim: json.Number("1e9")}, issuers.ReasonClaimType)
		add(claim+" in milliseconds", map[string]any{claim: at(60) * 1000}, issuers.ReasonClaimValue)
		add(claim+" negative", map[string]any{claim: -1}, issuers.ReasonClaimValue)
		add(claim+" beyond int64", map[string]any{claim: json.Number("9223372036854775808")}, issuers.ReasonClaimType)
	}
	add("expired a second ago", map[string]any{"exp": at(-1)}, issuers.ReasonExpired)
	add("expires this second", map[string]any{"exp": at(0)}, issuers.ReasonExpired)
	add("exp is 0", map[string]any{"exp": 0}, issuers.ReasonExpired)
	add("iat ahead", map[string]any{"iat": at(90)}, issuers.ReasonNotYetValid)
	add("nbf ahead", map[string]any{"nbf": at(90)}, issuers.ReasonNotYetValid)
	add("iat at exp", map[string]any{"iat": at(30), "exp": at(30)}, issuers.ReasonLifetime)
	add("nbf behind exp", map[string]any{"nbf": at(25), "exp": at(20)}, issuers.ReasonLifetime)
	add("lives eleven minutes", map[string]any{"exp": at(660)}, issuers.ReasonLifetime)
	add("lives for ten years", map[string]any{"exp": at(315360000)}, issuers.ReasonLifetime)
	add("eleven minutes old", map[string]any{"iat": at(-660), "exp": at(-61)}, issuers.ReasonExpired)
	add("iat is 0", map[string]any{"iat": 0}, issuers.ReasonLifetime)
	return cases
}

// forks are merge requests of a fork that run in the target project, and
// GitLab's tokens of other shapes.
func forks(t *testing.T, p *platform) []hostile {
	day := int64(24 * 60 * 60)
	old := time.Now().Unix() - day - 1
	return []hostile{
		{"fork in the target project", p.mint(t, map[string]any{"project_id": "666"}), issuers.ReasonClaimConflict},
		{"runner_id is a string", p.mint(t, map[string]any{"runner_id": "1001"}), issuers.ReasonClaimType},
		{"ref_protected is a bool", p.mint(t, map[string]any{"ref_protected": true}), issuers.ReasonClaimType},
		{"legacy CI_JOB_JWT", p.mint(t, map[string]any{"iss": "gitlab.com", "sub": "job_1"}), issuers.ReasonUnknownIssuer},
		{"a day old", p.mint(t, map[string]any{"iat": old, "nbf": old, "exp": old + day}), issuers.ReasonExpired},
		{"lives longer than a day", p.mint(t, map[string]any{"exp": time.Now().Unix() + day + 60}), issuers.ReasonLifetime},
	}
}

func TestMaxAge(t *testing.T) {
	p := start(t, lab.Options{})
	config := p.config("github")
	config.MaxAge = time.Minute
	synctest.Test(t, func(t *testing.T) {
		set, now := newSet(t, config), time.Now().Unix()
		check(t, set, p.mint(t, map[string]any{"iat": now - 60}), "")
		check(t, set, p.mint(t, map[string]any{"iat": now - 61}), issuers.ReasonTooOld)
	})
}

// The longest and last that is taken; what is above is among the hostile.
func TestLongestClaims(t *testing.T) {
	p := start(t, lab.Options{})
	set := newSet(t, p.config("github"))
	check(t, set, p.mint(t, map[string]any{"sub": strings.Repeat("x", 1<<10), "jti": strings.Repeat("x", 256)}), "")
	check(t, set, p.mint(t, map[string]any{"exp": 253402300799}), issuers.ReasonLifetime)
	check(t, set, p.mint(t, map[string]any{"exp": 253402300800}), issuers.ReasonClaimValue)
	check(t, set, p.forge(t, lab.Forgery{Header: map[string]any{"kid": strings.Repeat("k", 256)}}), issuers.ReasonUnknownKey)
	check(t, set, p.forge(t, lab.Forgery{Header: map[string]any{"kid": strings.Repeat("k", 257)}}), issuers.ReasonHeader)
}

// A jti that the preset does not ask for is the token's id all the same, and
// must be one.
func TestOptionalTokenID(t *testing.T) {
	p := start(t, lab.Options{Preset: "generic", Algorithm: "ES256", Claims: map[string]any{"project": 1}})
	set := newSet(t, genericConfig(p))
	id, err := set.Verify(t.Context(), p.mint(t, map[string]any{"jti": "one"}))
	if err != nil || id.ReplayID != "jti:one" {
		t.Errorf("Verify = %+v, %v, want the ReplayID jti:one", id, err)
	}
	check(t, set, p.mint(t, map[string]any{"jti": ""}), issuers.ReasonClaimValue)
	check(t, set, p.mint(t, map[string]any{"jti": 1}), issuers.ReasonClaimType)
}

// The bubble's clock stands on a whole second, so that every limit can be met
// exactly.
func TestTimesToTheNanosecond(t *testing.T) {
	p := start(t, lab.Options{})
	synctest.Test(t, func(t *testing.T) {
		set, now := newSet(t, p.config("github")), time.Now().Unix()
		expiring := p.mint(t, map[string]any{"exp": now + 5})
		ageing := p.mint(t, map[string]any{"iat": now - 590, "nbf": now - 590, "exp": now + 10})
		early := p.mint(t, map[string]any{"iat": now + 30, "nbf": now + 30})
		check(t, set, early, "")
		check(t, set, p.mint(t, map[string]any{"iat": now + 31}), issuers.ReasonNotYetValid)
		check(t, set, p.mint(t, map[string]any{"nbf": now + 31}), issuers.ReasonNotYetValid)
		check(t, set, p.mint(t, map[string]any{"exp": now + 600}), "")
		check(t, set, p.mint(t, map[string]any{"exp": now + 601}), issuers.ReasonLifetime)
		time.Sleep(5*time.Second - time.Nanosecond)
		check(t, set, expiring, "")
		time.Sleep(time.Nanosecond)
		check(t, set, expiring, issuers.ReasonExpired)
		time.Sleep(5*time.Second - time.Nanosecond)
		check(t, set, ageing, "")
		time.Sleep(time.Nanosecond)
		check(t, set, ageing, issuers.ReasonExpired)
	})
}

// An issuer that is not configured is never asked for anything.
func TestUnknownIssuerIsNotFetched(t *testing.T) {
	p, stranger := start(t, lab.Options{}), start(t, lab.Options{})
	stranger.replace.Store(&replacement{"/.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		t.Error("the stranger's discovery document was fetched")
		io.WriteString(w, "{}")
	}})
	check(t, newSet(t, p.config("github")), stranger.mint(t, nil), issuers.ReasonUnknownIssuer)
	if stranger.hits.Load() != 0 {
		t.Error("the stranger's keys were fetched")
	}
}
