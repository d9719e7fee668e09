package policies_test

import (
	"testing"
	"time"

	"github.com/brevet-dev/brevet/policies"
)

func TestEndingOfAGrant(t *testing.T) {
	const head = "policy: a\nissuer: github\nmatch: {repository_id: \"456\", ref: refs/heads/main, event_name: push}\ngrant:\n- "
	for _, tt := range []struct {
		grant   string
		scope   policies.Scope
		deadMan time.Duration
	}{
		{`{credential: other, ttl: 1m}`, policies.ScopeJob, 0},
		{`{credential: other, ttl: 1m, scope: job}`, policies.ScopeJob, 0},
		{`{credential: other, ttl: 1m, scope: run}`, policies.ScopeRun, 0},
		{`{credential: other, ttl: 31s, dead_man: 30s}`, policies.ScopeJob, 30 * time.Second},
		{`{credential: other, ttl: 2h, dead_man: 1h, scope: job}`, policies.ScopeJob, time.Hour},
	} {
		d, err := mustLoad(t, head+tt.grant).Decide(github(nil), "other")
		if err != nil {
			t.Fatal(err)
		}
		if d.Grant.Scope != tt.scope || d.Grant.DeadMan != tt.deadMan {
			t.Errorf("%s: scope %q, dead_man %s; want %q, %s", tt.grant, d.Grant.Scope, d.Grant.DeadMan, tt.scope, tt.deadMan)
		}
	}
}

func TestOnLeak(t *testing.T) {
	const head = "policy: a\nissuer: github\nmatch: {repository_id: \"456\", ref: refs/heads/main, event_name: push}\ngrant:\n- {credential: other, ttl: 1m"
	for written, want := range map[string]policies.OnLeak{
		"}": policies.ReportLeak, ", on_leak: report}": policies.ReportLeak, ", on_leak: revoke}": policies.RevokeOnLeak,
	} {
		d, err := mustLoad(t, head+written).Decide(github(nil), "other")
		if err != nil || d.Grant.OnLeak != want {
			t.Errorf("%s: %q, %v; want %q", written, d.Grant.OnLeak, err, want)
		}
	}
}
