package broker_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/brevet-dev/brevet/broker"
)

// canaryPolicies refuse for a reason of each kind. Every word of them that a
// stranger could learn something from has "canary" in it.
const canaryPolicies = `
guardrails: canary-rails
deny:
- {reason: canary reason, match: {runner_environment: self-hosted}}
---
policy: canary-shop
issuer: lab
match:
  repository_id: "456"
  ref: refs/heads/canary
  event_name: push
names: {repository: acme/canary}
when: claims.actor == "canary"
grant:
- {credential: deploy, ttl: 10m}
---
policy: canary-shadow
issuer: lab
match: {repository_id: "456", ref: refs/heads/canary, event_name: push}
grant:
- {credential: deploy, ttl: 10m}
mode: shadow
---
policy: canary-ended
issuer: lab
match: {repository_id: "456", ref: refs/heads/canary, event_name: push}
grant:
- {credential: deploy, ttl: 10m}
expires: 2020-01-01
`

// Whatever keeps the policies from granting, its caller hears the same
// sentence, which says nothing of a policy or a claim; the audit log has the
// reason.
func TestRefusalSaysNothingOfPolicies(t *testing.T) {
	tests := []struct {
		name   string
		claims map[string]any
		cause  string // that the audit log must have
	}{
		{"another ref", map[string]any{"ref": "refs/heads/x"}, `claim ref is "refs/heads/x", match wants "refs/heads/canary"`},
		{"a stranger's run", map[string]any{"event_name": "pull_request"}, "claim event_name is"},
		{"guardrails", map[string]any{"runner_environment": "self-hosted"}, "canary reason"},
		{"the condition", map[string]any{"actor": "mallory"}, "when is false"},
		{"drift", map[string]any{"actor": "canary", "repository": "acme/other"}, "names wants"},
		{"another project", map[string]any{"repository_id": "1"}, "no policy for this project"},
	}
	h := newHarness(t)
	h.Policies.Swap(loadPolicies(t, h.Issuers, canaryPolicies))
	said := map[string]string{}
	for _, tt := range tests {
		claims := map[string]any{"ref": "refs/heads/canary", "event_name": "push", "repository": "acme/canary"}
		for name, v := range tt.claims {
			claims[name] = v
		}
		req := h.request(t, "deploy")
		req.SubjectToken = h.token(t, claims)
		_, err := h.exchange(t, req)
		public, _ := json.Marshal(broker.Refuse(err).Public)
		said[string(public)] = tt.name
		if strings.Contains(string(public), "canary") || strings.Contains(string(public), "acme") {
			t.Errorf("%s: the caller hears %s", tt.name, public)
		}
		if last := h.audit.events[len(h.audit.events)-1]; !strings.Contains(last.Cause, tt.cause) || last.RequestID != req.RequestID {
			t.Errorf("%s: the audit log has %q, want %q", tt.name, last.Cause, tt.cause)
		}
	}
	if len(said) != 1 {
		t.Errorf("callers can tell reasons apart: %v", said)
	}
}
