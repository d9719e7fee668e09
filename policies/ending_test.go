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
