package server_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/brevet-dev/brevet/broker/api"
)

func (f *fixture) leak(j *job, body string, headers ...string) answer {
	return f.do(http.MethodPost, api.PathLeaks, "application/json", strings.ReplaceAll(body, "LEASE", j.lease.LeaseID), headers...)
}

func TestLeaks(t *testing.T) {
	f := start(t)
	j := f.ending("registry")
	const report = `{"leaks":[{"lease_id":"LEASE","value":"token","output":"stdout","encoding":"base64 of UTF-16","count":3,"lines":[12,40]},
		{"lease_id":"LEASE","value":"token","output":"stderr","encoding":"never heard of","count":1,"lines":[7]}, {"lease_id":"l1-x","count":1}]}`
	for _, tt := range []struct {
		name    string
		body    string
		headers []string
		status  int
		says    string
	}{
		{"right", report, j.headers(api.PathLeaks), 200, `{"revoked":false}`},
		{"without a proof", report, []string{"Authorization", "DPoP " + j.session}, 401, api.CodeInvalidToken},
		{"without a token", report, nil, 401, api.CodeInvalidToken},
		{"with a proof for another path", report, j.headers(api.PathRevoke), 400, api.CodeInvalidDPoPProof},
		{"no leaks", `{}`, j.headers(api.PathLeaks), 400, "a report has 1 to 100 leaks"},
		{"a secret as a name", `{"leaks":[{"lease_id":"LEASE","value":"Hunter2","count":1}]}`, j.headers(api.PathLeaks), 400, "leak 1: value is not the name of one"},
		{"too large", `{"leaks":[{"lease_id":"` + strings.Repeat("x", api.MaxBody) + `"}]}`, j.headers(api.PathLeaks), 413, "the body is over"},
	} {
		a := f.leak(j, tt.body, tt.headers...)
		if a.status != tt.status || !strings.Contains(string(a.body), tt.says) {
			t.Errorf("%s: %d %s, want %d %s", tt.name, a.status, a.body, tt.status, tt.says)
		}
		lines := f.lines(a.header.Get("X-Request-Id"))
		if want := map[bool]string{true: "leak", false: "lookup"}[tt.status == 200]; len(lines) != 1 || lines[0]["event"] != want {
			t.Errorf("%s: audit log %v, want one %s", tt.name, lines, want)
		}
	}
	if a := f.post(api.PathLeaks, url.Values{"leaks": {"x"}}, j.headers(api.PathLeaks)...); a.status != 400 || !strings.Contains(string(a.body), "application/json") {
		t.Errorf("a form: %d %s", a.status, a.body)
	}
	for _, want := range []string{`brevet_leaks_total{credential="registry",encoding="base64"} 3`, `brevet_leaks_total{credential="registry",encoding="other"} 1`} {
		if !strings.Contains(string(f.metrics()), want) {
			t.Errorf("no %s in the metrics", want)
		}
	}
	f.search(t, "the answers", f.answers.Bytes())
}

// A leak that the policy does not put up with ends the session, and what is
// reported then comes too late.
func TestLeakRevokes(t *testing.T) {
	f := start(t)
	j := f.ending("careful")
	if j.lease.OnLeak != api.OnLeakRevoke {
		t.Errorf("on_leak = %q", j.lease.OnLeak)
	}
	const report = `{"leaks":[{"lease_id":"LEASE","value":"token","output":"stdout","encoding":"plain","count":1,"lines":[1]}]}`
	if a := f.leak(j, report, j.headers(api.PathLeaks)...); a.status != 200 || !strings.Contains(string(a.body), `{"revoked":true}`) {
		t.Errorf("POST /v1/leaks = %d %s", a.status, a.body)
	}
	if got := f.state(j); got != "revoked" {
		t.Errorf("the lease is %s", got)
	}
	if a := f.leak(j, report, j.headers(api.PathLeaks)...); a.status != 401 || !strings.Contains(string(a.body), api.CodeInvalidToken) {
		t.Errorf("afterwards: %d %s", a.status, a.body)
	}
}

// The answer to a renewal is sealed if the request wants it.
func TestSealedRenewal(t *testing.T) {
	f := start(t)
	j := f.ending("registry")
	key, err := api.NewSealKey()
	if err != nil {
		t.Fatal(err)
	}
	path := api.PathLeases + j.lease.LeaseID + "/renew"
	headers := j.headers(path)
	a := f.post(path, url.Values{"seal_key": {key.Public()}}, headers...)
	var proof string
	for i := range headers {
		if headers[i] == "DPoP" {
			proof = headers[i+1]
		}
	}
	l, err := api.DecodeSealedLease(a.body, key, api.SealContext{URL: f.url + path, Proof: proof, SessionToken: api.NewSecret(j.session)})
	if a.status != 200 || err != nil || l.LeaseID != j.lease.LeaseID || l.Values["token"].IsZero() {
		t.Fatalf("POST %s = %d, %+v, %v", path, a.status, l, err)
	}
	if strings.Contains(string(a.body), "token") || strings.Contains(string(a.body), "values") {
		t.Errorf("the sealed answer shows what is in it: %s", a.body)
	}
	if a := f.post(path, url.Values{"seal_key": {"x"}}, j.headers(path)...); a.status != 400 || !strings.Contains(string(a.body), "seal_key is not") {
		t.Errorf("with a bad seal_key: %d %s", a.status, a.body)
	}
	if a := f.post(path, nil, j.headers(path)...); a.status != 200 || !strings.Contains(string(a.body), `"values":{"token":`) {
		t.Errorf("without a seal_key: %d", a.status)
	}
}
