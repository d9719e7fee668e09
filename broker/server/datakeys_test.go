package server_test

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/brevet-dev/brevet/broker"
	"github.com/brevet-dev/brevet/broker/api"
)

func TestDataKeyOverHTTP(t *testing.T) {
	f := start(t)
	j := f.newJob("artifacts")
	for _, name := range []string{"DATA_KEY", "DATA_KEY_WRAPPED", "DATA_KEY_ID"} {
		if j.value(j.lease.Env[name]) == "" {
			t.Errorf("the answer has no %s: %v", name, j.lease.Env)
		}
	}
	a := f.post(api.PathUnwrap, j.use(), j.headers(api.PathUnwrap)...)
	got, err := api.DecodeDataKey(a.body)
	if a.status != http.StatusOK || err != nil || got.Plaintext.Reveal() != j.value(api.ValuePlaintext) || got.KeyID != j.value(api.ValueKeyID) {
		t.Fatalf("unwrap = %d %s", a.status, a.body)
	}
	if a.header.Get("Cache-Control") != "no-store" {
		t.Errorf("the answer may be stored: %v", a.header)
	}
	f.wantEvent(t, a, "unwrap", "granted")

	if _, err := f.ring.Rotate(t.Context()); err != nil {
		t.Fatal(err)
	}
	form := j.use()
	form.Set("context", ` { "artifact" : "\u0061pp.tar" } `) // the same, written otherwise
	a = f.post(api.PathRewrap, form, j.headers(api.PathRewrap)...)
	again, err := api.DecodeDataKey(a.body)
	if a.status != http.StatusOK || err != nil || !again.Plaintext.IsZero() || again.Wrapped == j.value(api.ValueWrapped) {
		t.Fatalf("rewrap = %d %s", a.status, a.body)
	}
	if strings.Contains(string(a.body), "plaintext") || strings.Contains(string(a.body), j.value(api.ValuePlaintext)) {
		t.Errorf("the answer to a rewrapping shows the key: %s", a.body)
	}
	f.wantEvent(t, a, "rewrap", "granted")
	form.Set("wrapped", again.Wrapped)
	if a = f.post(api.PathUnwrap, form, j.headers(api.PathUnwrap)...); a.status != http.StatusOK || !strings.Contains(string(a.body), j.value(api.ValuePlaintext)) {
		t.Errorf("unwrap of what was rewrapped = %d", a.status)
	}
}

// wantEvent checks that one request made one line, besides the intent of an
// exchange.
func (f *fixture) wantEvent(t *testing.T, a answer, event, outcome string) {
	t.Helper()
	lines := f.lines(a.header.Get("X-Request-Id"))
	if len(lines) > 0 && lines[0]["event"] == "intent" {
		lines = lines[1:]
	}
	if len(lines) != 1 || lines[0]["event"] != event || lines[0]["outcome"] != outcome || (outcome != "granted") != (lines[0]["cause"] != nil) {
		t.Errorf("the audit log tells of the request: %v; want one line, %s %s", lines, event, outcome)
	}
}

func TestSealedDataKeyOverHTTP(t *testing.T) {
	f := start(t)
	j := f.newJob("shredded")
	key, err := api.NewSealKey()
	if err != nil {
		t.Fatal(err)
	}
	form := j.use()
	form.Set("seal_key", key.Public())
	headers := j.headers(api.PathUnwrap)
	a := f.post(api.PathUnwrap, form, headers...)
	context := api.SealContext{URL: f.url + api.PathUnwrap, Proof: headers[3], SessionToken: api.NewSecret(j.session)}
	got, err := api.DecodeSealedDataKey(a.body, key, context)
	if err != nil || got.Plaintext.Reveal() != j.value(api.ValuePlaintext) {
		t.Fatalf("unwrap = %d %s, %v", a.status, a.body, err)
	}
	if strings.Contains(string(a.body), j.value(api.ValuePlaintext)) {
		t.Error("the key can be read in the answer")
	}
	f.wantEvent(t, a, "unwrap", "granted")
	// There is nothing to seal in the answer to a rewrapping.
	a = f.post(api.PathRewrap, form, j.headers(api.PathRewrap)...)
	if got, err := api.DecodeDataKey(a.body); err != nil || got.Wrapped == "" {
		t.Errorf("rewrap with a seal_key = %d %s", a.status, a.body)
	}
}

const (
	notWrapped  = "wrapped data key not accepted: it was changed, its time or its lease is over, its KEK was destroyed, or its context is another"
	notAllowed  = "no policy allows this session to do that with this data key"
	noSession   = "session token not accepted; it may have expired, or it needs the DPoP key it is bound to"
	noProof     = "DPoP proof not accepted; check its htm, htu, iat and key"
	proofAgain  = "DPoP proof already used; make a new one for each request"
	noContext   = "the context is not a JSON object of strings, each name once"
	noWrapped   = "wrapped is missing, or over 4096 bytes"
	repeated    = "a parameter that may be given once was repeated"
	headerTwice = "a header that may be given once was repeated"
)

// Whatever is wrong with a request about a data key, it gets the description
// that docs/http.md lists, one event, and no key.
func TestDataKeyRequestsAreRefused(t *testing.T) {
	f := start(t)
	j, other, jwt := f.newJob("artifacts"), f.newJob("artifacts"), f.newJob("registry", "shredded")
	set := func(name, value string) func(url.Values) { return func(v url.Values) { v.Set(name, value) } }
	type request struct {
		contentType, query, body string // of body "": form
		form                     func(url.Values)
		headers                  func(path string) []string
	}
	bearer := func(path string) []string { return []string{"Authorization", "DPoP " + j.session} }
	tests := []struct {
		name string
		request
		status            int
		code, description string
	}{
		{"no wrapped key", request{form: func(v url.Values) { v.Del("wrapped") }}, 400, api.CodeInvalidRequest, noWrapped},
		{"a long wrapped key", request{form: set("wrapped", strings.Repeat("A", api.MaxWrapped+1))}, 400, api.CodeInvalidRequest, noWrapped},
		{"garbage", request{form: set("wrapped", "a.b.c.d.e")}, 400, api.CodeInvalidRequest, notWrapped},
		{"no context", request{form: func(v url.Values) { v.Del("context") }}, 400, api.CodeInvalidRequest, notWrapped},
		{"another context", request{form: set("context", `{"artifact":"lib.tar"}`)}, 400, api.CodeInvalidRequest, notWrapped},
		{"a context that is no JSON", request{form: set("context", "app.tar")}, 400, api.CodeInvalidRequest, noContext},
		{"an empty context parameter", request{form: set("context", "")}, 400, api.CodeInvalidRequest, noContext},
		{"a name twice", request{form: set("context", `{"artifact":"app.tar","artifact":"app.tar"}`)}, 400, api.CodeInvalidRequest, noContext},
		{"a long value", request{form: set("context", `{"a":"`+strings.Repeat("v", 257)+`"}`)}, 400, api.CodeInvalidRequest, "a value in the context has more than 256 bytes"},
		{"a long name", request{form: set("context", `{"`+strings.Repeat("n", 65)+`":""}`)}, 400, api.CodeInvalidRequest, "a name in the context has no or more than 64 bytes"},
		{"control characters", request{form: set("context", `{"a":"\u0007"}`)}, 400, api.CodeInvalidRequest, "the context holds what is not UTF-8, or control characters"},
		{"a parameter twice", request{body: j.use().Encode() + "&context=%7B%7D"}, 400, api.CodeInvalidRequest, repeated},
		{"a parameter in the URL", request{query: "?context={}"}, 400, api.CodeInvalidRequest, "parameters belong into the body, not into the URL"},
		{"JSON", request{contentType: "application/json", body: "{}"}, 400, api.CodeInvalidRequest, "the body must be application/x-www-form-urlencoded"},
		{"no form", request{body: "wrapped=%zz"}, 400, api.CodeInvalidRequest, "the body is not a form"},
		{"a large body", request{form: set("x", strings.Repeat("x", api.MaxBody))}, 413, api.CodeInvalidRequest, "the body is over 65536 bytes"},
		{"a seal key that is none", request{form: set("seal_key", "AAAA")}, 400, api.CodeInvalidRequest, "seal_key is not a public key of X25519 and ML-KEM-768"},
		{"no session", request{headers: func(string) []string { return nil }}, 401, api.CodeInvalidToken, noSession},
		{"no proof", request{headers: bearer}, 401, api.CodeInvalidToken, noSession},
		{"another's proof", request{headers: func(path string) []string { return append(bearer(path), "DPoP", other.proof(path, j.session)) }}, 401, api.CodeInvalidToken, noSession},
		{"a wrong ath", request{headers: func(path string) []string { return append(bearer(path), "DPoP", j.proof(path, other.session)) }}, 400, api.CodeInvalidDPoPProof, noProof},
		{"no ath", request{headers: func(path string) []string { return append(bearer(path), "DPoP", j.proof(path, "")) }}, 400, api.CodeInvalidDPoPProof, noProof},
		{"a proof for another path", request{headers: func(path string) []string { return j.headers(api.PathToken) }}, 400, api.CodeInvalidDPoPProof, noProof},
		{"two proofs", request{headers: func(path string) []string { return append(j.headers(path), "DPoP", j.proof(path, j.session)) }}, 400, api.CodeInvalidRequest, headerTwice},
		{"a session without that data key", request{headers: jwt.headers}, 403, api.CodeInsufficientScope, notAllowed},
	}
	for path, event := range map[string]string{api.PathUnwrap: "unwrap", api.PathRewrap: "rewrap"} {
		for _, tt := range tests {
			t.Run(event+" "+tt.name, func(t *testing.T) {
				form, headers, contentType := j.use(), j.headers, "application/x-www-form-urlencoded"
				if tt.form != nil {
					tt.form(form)
				}
				if tt.headers != nil {
					headers = tt.headers
				}
				if tt.contentType != "" {
					contentType = tt.contentType
				}
				body := tt.body
				if body == "" {
					body = form.Encode()
				}
				a := f.do("POST", path+tt.query, contentType, body, headers(path)...)
				f.wantRefusal(t, a, tt.status, tt.code, tt.description)
				f.wantEvent(t, a, event, "refused")
			})
		}
	}
	// A proof is good for one request.
	headers := j.headers(api.PathUnwrap)
	if a := f.post(api.PathUnwrap, j.use(), headers...); a.status != http.StatusOK {
		t.Fatalf("unwrap = %d %s", a.status, a.body)
	}
	a := f.post(api.PathUnwrap, j.use(), headers...)
	f.wantRefusal(t, a, 400, api.CodeInvalidDPoPProof, proofAgain)
	f.wantEvent(t, a, "unwrap", "refused")
}

func (f *fixture) wantRefusal(t *testing.T, a answer, status int, code, description string) {
	t.Helper()
	var e api.Error
	if err := json.Unmarshal(a.body, &e); err != nil || a.status != status || e.Code != code || e.Description != description || e.RequestID != a.header.Get("X-Request-Id") {
		t.Errorf("answer = %d %s\nwant %d %s: %s", a.status, a.body, status, code, description)
	}
	if (status == 401) != (a.header.Get("WWW-Authenticate") != "") || (status == 503) != (a.header.Get("Retry-After") != "") {
		t.Errorf("headers of a %d: %v", status, a.header)
	}
}

func TestExchangeParametersOfDataKeys(t *testing.T) {
	f := start(t)
	for _, tt := range []struct {
		name              string
		more              url.Values
		credential        string
		code, description string // of a refusal
		values            int    // of the lease
	}{
		{"no wish", nil, "artifacts", "", "", 4},
		{"generate", url.Values{"data_key": {"generate"}, "context": {tarball}}, "artifacts", "", "", 4},
		{"none", url.Values{"data_key": {"none"}}, "artifacts", "", "", 0},
		{"an empty context", url.Values{"context": {"{}"}}, "artifacts", "", "", 4},
		{"another wish", url.Values{"data_key": {"unwrap"}}, "artifacts", api.CodeInvalidRequest, "data_key must be generate or none", 0},
		{"a context that is none", url.Values{"context": {"[]"}}, "artifacts", api.CodeInvalidRequest, noContext, 0},
		{"two contexts", url.Values{"context": {"{}", "{}"}}, "artifacts", api.CodeInvalidRequest, repeated, 0},
		{"two wishes", url.Values{"data_key": {"none", "none"}}, "artifacts", api.CodeInvalidRequest, repeated, 0},
		{"a context for another kind", url.Values{"context": {"{}"}}, "registry", api.CodeInvalidRequest, "context and data_key are for credentials of kind data-key, and none was asked for", 0},
		{"a wish for another kind", url.Values{"data_key": {"none"}}, "registry", api.CodeInvalidRequest, "context and data_key are for credentials of kind data-key, and none was asked for", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := f.post(api.PathToken, f.form(tt.more, tt.credential))
			if tt.code != "" {
				f.wantRefusal(t, a, 400, tt.code, tt.description)
				f.wantEvent(t, a, "exchange", "refused")
				return
			}
			out, err := api.DecodeTokenResponse(a.body)
			if err != nil || len(out.Leases) != 1 || len(out.Leases[0].Values) != tt.values || out.Leases[0].Kind != api.KindDataKey {
				t.Fatalf("answer = %d %s", a.status, a.body)
			}
			f.wantEvent(t, a, "exchange", "granted")
		})
	}
}

func TestUsedUpOverHTTP(t *testing.T) {
	f := start(t)
	j := f.newJob("once")
	for _, status := range []int{200, 403, 403} {
		a := f.post(api.PathUnwrap, j.use(), j.headers(api.PathUnwrap)...)
		if a.status != status {
			t.Fatalf("unwrap = %d %s, want %d", a.status, a.body, status)
		}
		if status == 403 {
			f.wantRefusal(t, a, 403, api.CodeInsufficientScope, "this data key was unwrapped as often as the policy allows")
			f.wantEvent(t, a, "unwrap", "refused")
		}
	}
	a := f.post(api.PathRewrap, j.use(), j.headers(api.PathRewrap)...)
	f.wantRefusal(t, a, 403, api.CodeInsufficientScope, notAllowed)
}

// What is not on record does not leave.
func TestNoKeyWithoutALine(t *testing.T) {
	f := start(t)
	j := f.newJob("artifacts")
	for _, path := range []string{api.PathUnwrap, api.PathRewrap} {
		f.breaks("record "+strings.TrimPrefix(path, "/v1/datakeys/"), broker.ErrUnavailable)
		a := f.post(path, j.use(), j.headers(path)...)
		f.wantRefusal(t, a, 503, api.CodeTemporarily, "try again")
		if strings.Contains(string(a.body), j.value(api.ValuePlaintext)) || strings.Contains(string(a.body), "eyJ") {
			t.Errorf("a key left without a line: %s", a.body)
		}
	}
	f.breaks("record exchange", broker.ErrUnavailable)
	a := f.post(api.PathToken, f.form(nil, "artifacts"))
	f.wantRefusal(t, a, 503, api.CodeTemporarily, "try again")
	f.breaks("", nil)
	if a := f.post(api.PathUnwrap, j.use(), j.headers(api.PathUnwrap)...); a.status != http.StatusOK {
		t.Errorf("unwrap afterwards = %d %s", a.status, a.body)
	}
}
