package server_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/brevet-dev/brevet/broker/api"
)

func TestHeartbeat(t *testing.T) {
	f := start(t)
	j := f.ending("watched")
	if j.lease.Heartbeat.Seconds() != 30 {
		t.Errorf("heartbeat = %s", j.lease.Heartbeat)
	}
	for _, tt := range []struct {
		name    string
		headers []string
		status  int
		code    string
	}{
		{"right", j.headers(api.PathHeartbeat), 200, ""},
		{"without a proof", []string{"Authorization", "DPoP " + j.session}, 401, api.CodeInvalidToken},
		{"without a token", nil, 401, api.CodeInvalidToken},
		{"with a proof for another path", j.headers(api.PathRevoke), 400, api.CodeInvalidDPoPProof},
	} {
		a := f.post(api.PathHeartbeat, nil, tt.headers...)
		if a.status != tt.status || tt.code != "" && !strings.Contains(string(a.body), tt.code) {
			t.Errorf("%s: %d %s, want %d %s", tt.name, a.status, a.body, tt.status, tt.code)
		}
		if n := len(f.lines(a.header.Get("X-Request-Id"))); (n == 0) != (tt.status == 200) {
			t.Errorf("%s: %d lines in the audit log", tt.name, n)
		}
	}
	if a := f.post(api.PathRevoke, url.Values{"token": {j.session}, "scope": {"job"}}); a.status != 200 {
		t.Fatalf("POST /v1/revoke = %d %s", a.status, a.body)
	}
	a := f.post(api.PathHeartbeat, nil, j.headers(api.PathHeartbeat)...)
	if a.status != 400 || !strings.Contains(string(a.body), "the lease has ended") {
		t.Errorf("after the end: %d %s", a.status, a.body)
	}
	for _, want := range []string{`brevet_heartbeats_total{outcome="granted"} 1`, `brevet_heartbeats_total{outcome="refused"} 4`} {
		if !strings.Contains(string(f.metrics()), want) {
			t.Errorf("no %s in the metrics", want)
		}
	}
}

func TestRevokeByScope(t *testing.T) {
	f := start(t)
	j := f.ending("shared")
	if j.lease.Scope != api.ScopeRun {
		t.Errorf("scope = %q", j.lease.Scope)
	}
	session := []string{"Authorization", "DPoP " + j.session}
	for _, tt := range []struct {
		name    string
		form    url.Values
		headers []string
		status  int
		says    string
	}{
		{"the job's end", url.Values{"token": {j.session}, "scope": {"job"}}, nil, 200, ""},
		{"no scope", url.Values{"token": {j.session}, "scope": {"runs"}}, nil, 400, "scope must be job or run"},
		{"an empty scope", url.Values{"token": {j.session}, "scope": {""}}, nil, 400, "scope must be job or run"},
		{"a scope with a lease", url.Values{"token": {j.lease.LeaseID}, "scope": {"job"}}, session, 400, "scope goes with a session token"},
		{"a token with a run", url.Values{"token": {j.session}, "scope": {"run"}}, j.headers(api.PathRevoke), 400, "with scope=run there is no token"},
		{"a run without the key", url.Values{"scope": {"run"}}, session, 401, "session token not accepted"},
		{"a run without a session", url.Values{"scope": {"run"}}, nil, 401, "session token not accepted"},
	} {
		a := f.post(api.PathRevoke, tt.form, tt.headers...)
		if a.status != tt.status || tt.says != "" && !strings.Contains(string(a.body), tt.says) {
			t.Errorf("%s: %d %s, want %d %s", tt.name, a.status, a.body, tt.status, tt.says)
		}
		if got := f.state(j); got != "active" {
			t.Fatalf("%s: the lease is %s", tt.name, got)
		}
	}
	a := f.post(api.PathRevoke, url.Values{"scope": {"run"}}, j.headers(api.PathRevoke)...)
	if a.status != http.StatusOK {
		t.Fatalf("scope=run: %d %s", a.status, a.body)
	}
	if got := f.state(j); got != "revoking" {
		t.Errorf("the lease is %s, want revoking", got)
	}
	if lines := f.lines(a.header.Get("X-Request-Id")); len(lines) != 1 || lines[0]["event"] != "run" || lines[0]["outcome"] != "granted" || lines[0]["who"] == nil {
		t.Errorf("audit log: %v", lines)
	}
}

// ending exchanges for a credential that is no data key.
func (f *fixture) ending(credential string) *job {
	f.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.t.Fatal(err)
	}
	j := &job{f: f, key: key}
	a := f.post(api.PathToken, f.form(nil, credential), "DPoP", j.proof(api.PathToken, ""))
	out, err := api.DecodeTokenResponse(a.body)
	if err != nil {
		f.t.Fatalf("POST /v1/token = %d %s, %v", a.status, a.body, err)
	}
	j.session, j.lease = out.AccessToken.Reveal(), out.Leases[0]
	return j
}

// state returns the state of a job's lease.
func (f *fixture) state(j *job) string {
	return f.redis.HGet("brevet:{"+strings.TrimPrefix(strings.SplitN(j.lease.LeaseID, "-", 2)[0], "l")+"}:l:"+j.lease.LeaseID, "state")
}
