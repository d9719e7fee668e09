package issuers_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/brevet-dev/brevet/issuers"
)

// jsonTexts are payloads, and some headers, that are no JSON, or JSON that two
// readers read differently. All are signed.
func jsonTexts(t *testing.T, f *forge) []hostile {
	cases := []hostile{}
	add := func(name, header, payload string) {
		cases = append(cases, hostile{"JSON: " + name, f.sign(t, "ES256", header, payload), issuers.ReasonMalformed})
	}
	good, head := f.claims(nil), f.header("ES256", nil)
	more := func(text string) string { return good[:len(good)-1] + "," + text + "}" }
	for _, claim := range []string{"iss", "aud", "sub", "exp", "nbf", "iat", "jti", "project_id"} {
		add(claim+" twice, the last one another", head, more(`"`+claim+`":"`+canary+`"`))
		add(claim+" twice, the first one another", head, `{"`+claim+`":"`+canary+`",`+good[1:])
		add(claim+" in upper case too", head, more(`"`+strings.ToUpper(claim)+`":1`))
		add(claim+" in an escape too", head, more(fmt.Sprintf(`"\u%04x%s":1`, claim[0], claim[1:])))
	}
	for _, parameter := range []string{"alg", "kid", "typ"} {
		add(parameter+" twice", head[:len(head)-1]+`,"`+parameter+`":"`+canary+`"}`, good)
		add(parameter+" in upper case too", head[:len(head)-1]+`,"`+strings.ToUpper(parameter)+`":"`+canary+`"}`, good)
	}
	for name, text := range map[string]string{
		"iss with a long s": `"iſs":"` + canary + `"`, "kid with a Kelvin sign": `"` + "\u212a" + `id":1,"kid":2`, "a name twice, deep inside": `"x":[{"y":{"a":1,"a":2}}]`,
		"high surrogate alone": `"x":"\ud800"`, "low surrogate alone": `"x":"\udc00"`, "surrogates swapped": `"x":"\udc00\ud800"`, "surrogate in a name": `"\ud800":1`,
		"CESU-8": "\"x\":\"\xed\xa0\xbd\xed\xb8\x80\"", "overlong NUL": "\"x\":\"\xc0\x80\"", "invalid byte": "\"x\":\"\xff\"", "cut UTF-8": "\"x\":\"\xe2\x82\"", "above U+10FFFF": "\"x\":\"\xf4\x90\x80\x80\"",
		"NUL in a text": "\"x\":\"\x00\"", "line break in a text": "\"x\":\"\n\"", "unknown escape": `"x":"\x41"`, "cut escape": `"x":"\u00"`, "octal escape": `"x":"\101"`,
		"NaN": `"x":NaN`, "Infinity": `"x":Infinity`, "-Infinity": `"x":-Infinity`, "leading zero": `"x":007`, "plus sign": `"x":+1`, "hexadecimal": `"x":0x10`, "no digits behind the point": `"x":1.`,
		"no digits before it": `"x":.5`, "no exponent": `"x":1e`, "minus alone": `"x":-`, "underscore": `"x":1_000`, "undefined": `"x":undefined`, "True": `"x":True`, "single quotes": `'x':1`, "no quotes": `x:1`,
		"comma at the end": `"x":1,`, "two commas": `"x":1,,"y":2`, "no colon": `"x" 1`, "no value": `"x":`, "comment": `"x":1/* */`, "line comment": "\"x\":1//\n", "object not closed": `"x":{`, "list not closed": `"x":[1`,
		"17 levels of lists": `"x":` + strings.Repeat("[", 16) + strings.Repeat("]", 16), "17 levels of objects": `"x":` + strings.Repeat(`{"y":`, 16) + "1" + strings.Repeat("}", 16),
		"4000 levels": `"x":` + strings.Repeat("[", 4000) + strings.Repeat("]", 4000), "200 claims more": manyMembers(200)[1:],
	} {
		add(name, head, more(text))
	}
	for name, text := range map[string]string{
		"nothing": " ", "null": "null", "a text": `"x"`, "a number": "1", "a list": "[" + good + "]", "cut": good[:len(good)-1], "a second object": good + good, "garbage behind": good + "x", "NUL behind": good + "\x00",
		"a byte order mark": "\ufeff" + good, "UTF-16": "\xfe\xff" + strings.Join(strings.Split(good, ""), "\x00"), "a list of pairs": `[["iss","` + canary + `"]]`, "form": "iss=" + canary, "XML": "<iss>" + canary + "</iss>", "CBOR": "\xa1\x01\x02",
	} {
		add("the payload is "+name, head, text)
		add("the header is "+name, strings.Replace(text, good, head, -1), good)
	}
	return cases
}

// claimValues are of the wrong type, of another party, or of a length or
// spelling that makes them another thing to somebody.
func claimValues(t *testing.T, f *forge) []hostile {
	cases := []hostile{}
	add := func(claim string, value any, want string) {
		name := fmt.Sprintf("%s is %.60q", claim, fmt.Sprint(value))
		if text, ok := value.(json.RawMessage); ok {
			name = fmt.Sprintf("%s is the JSON %.60s", claim, text)
		}
		cases = append(cases, hostile{name, f.token(t, "ES256", nil, map[string]any{claim: value}), want})
	}
	notStrings := []any{json.RawMessage("null"), 1, true, []string{}, []string{"x"}, map[string]any{"x": 1}}
	for _, value := range notStrings {
		for _, claim := range []string{"iss", "sub", "jti", "project_id"} {
			add(claim, value, issuers.ReasonClaimType)
		}
		add("aud", value, issuers.ReasonAudience)
	}
	for _, claim := range []string{"iss", "sub", "project_id"} {
		add(claim, nil, issuers.ReasonClaimMissing)
	}
	for _, claim := range []string{"sub", "jti"} {
		for _, value := range []string{"", "x\x00", "x\n", "x\r\ny: z", "x\x1b[2J", "x\u202e", "x\u2028", "x\ufeff", "x\u00ad", "x\u200b", strings.Repeat("x", 1025)} {
			add(claim, value, issuers.ReasonClaimValue)
		}
	}
	for _, iss := range []string{
		f.url + "/", f.url + "//", strings.ToUpper(f.url), f.url + "#", f.url + "?", f.url + "/.", f.url + " ", " " + f.url, f.url + "\n", f.url + "\x00", f.url + "@" + canary, f.url + "." + canary,
		strings.Replace(f.url, "http:", "https:", 1), strings.Replace(f.url, "127.0.0.1", "localhost", 1), strings.Replace(f.url, "127.0.0.1", "127.1", 1), strings.Replace(f.url, "127.0.0.1", "user@127.0.0.1", 1),
		f.url[:len(f.url)-1], f.url + "/realms/x", "%68" + f.url[1:], strings.TrimPrefix(f.url, "http://"), "https://example.com", "file:///etc/passwd", "https://169.254.169.254/", "x",
	} {
		add("iss", iss, issuers.ReasonUnknownIssuer)
	}
	add("iss", "", issuers.ReasonClaimValue)
	for _, aud := range []any{
		nil, "", audience + "/", strings.ToUpper(audience), audience + " ", audience + "\n", audience[:len(audience)-1], audience + "." + canary, "*", "https://*.example.com",
		[]string{audience, canary}, []string{canary, audience}, []string{audience, audience}, []any{audience, 1}, []any{[]string{audience}}, []any{nil}, map[string]any{audience: true},
		audience + "," + canary, audience + " " + canary, "sts.amazonaws.com", "api://AzureADTokenExchange", "https://github.com/acme",
	} {
		add("aud", aud, issuers.ReasonAudience)
	}
	for _, azp := range []any{canary, "", json.RawMessage("null"), []string{audience}, audience + "/"} {
		add("azp", azp, issuers.ReasonAudience)
	}
	add("_claim_names", map[string]any{"project_id": "x"}, issuers.ReasonClaimValue)
	add("_claim_sources", map[string]any{"x": map[string]any{"endpoint": "https://" + canary}}, issuers.ReasonClaimValue)
	return cases
}

// timeValues are no times, or times at which the token is not valid.
func timeValues(t *testing.T, f *forge) []hostile {
	cases := []hostile{}
	now := time.Now().Unix()
	add := func(name string, claims map[string]any, want string) {
		cases = append(cases, hostile{name, f.token(t, "ES256", nil, claims), want})
	}
	for _, claim := range []string{"exp", "iat", "nbf"} {
		typed := func(name, value string) {
			add(claim+" "+name, map[string]any{claim: json.RawMessage(value)}, issuers.ReasonClaimType)
		}
		typed("in a text", fmt.Sprintf(`"%d"`, now+60))
		typed("as a date", `"2999-01-01T00:00:00Z"`)
		typed("null", "null")
		typed("true", "true")
		typed("in a list", fmt.Sprintf("[%d]", now+60))
		typed("in an object", fmt.Sprintf(`{"$numberLong":"%d"}`, now+60))
		typed("with a fraction", fmt.Sprintf("%d.5", now+60))
		typed("with a fraction of zero", fmt.Sprintf("%d.0", now+60))
		typed("with an exponent", fmt.Sprintf("%de0", now+60))
		typed("1e10", "1e10")
		typed("1e400", "1e400")
		typed("1e-400", "1e-400")
		typed("-1e400", "-1e400")
		typed("of 1000 digits", strings.Repeat("9", 1000))
		typed("2^63", "9223372036854775808")
		typed("2^64", "18446744073709551616")
		for name, value := range map[string]int64{"negative": -1, "of the year 10000": 253402300800, "in milliseconds": (now + 60) * 1000, "in nanoseconds": (now + 60) * 1e9, "2^63 - 1": 1<<63 - 1, "-2^63": -1 << 63} {
			add(claim+" "+name, map[string]any{claim: value}, issuers.ReasonClaimValue)
		}
	}
	add("no exp", map[string]any{"exp": nil}, issuers.ReasonClaimMissing)
	add("no iat", map[string]any{"iat": nil}, issuers.ReasonClaimMissing)
	add("exp is 0", map[string]any{"exp": 0}, issuers.ReasonExpired)
	add("exp is -0", map[string]any{"exp": json.RawMessage("-0")}, issuers.ReasonExpired)
	add("exp a second ago", map[string]any{"iat": now - 300, "nbf": now - 300, "exp": now - 1}, issuers.ReasonExpired)
	add("exp now", map[string]any{"iat": now - 300, "nbf": now - 300, "exp": now}, issuers.ReasonExpired)
	add("exp an hour ago", map[string]any{"iat": now - 7200, "exp": now - 3600}, issuers.ReasonExpired)
	add("iat ten minutes ahead", map[string]any{"iat": now + 600, "exp": now + 900}, issuers.ReasonNotYetValid)
	add("iat three minutes ahead", map[string]any{"iat": now + 180}, issuers.ReasonNotYetValid)
	add("nbf three minutes ahead", map[string]any{"nbf": now + 180}, issuers.ReasonNotYetValid)
	add("nbf tomorrow", map[string]any{"nbf": now + 86400}, issuers.ReasonNotYetValid)
	add("exp before iat", map[string]any{"iat": now + 20, "exp": now + 10}, issuers.ReasonLifetime)
	add("lives two hours", map[string]any{"exp": now + 7200}, issuers.ReasonLifetime)
	add("lives ten years", map[string]any{"exp": now + 315360000}, issuers.ReasonLifetime)
	add("iat is 0", map[string]any{"iat": 0}, issuers.ReasonLifetime)
	add("issued eleven minutes ago", map[string]any{"iat": now - 660, "nbf": now - 660}, issuers.ReasonTooOld)
	return cases
}
