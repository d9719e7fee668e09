package broker_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/brevet-dev/brevet/broker"
	"github.com/brevet-dev/brevet/broker/api"
)

const limitedPolicy = `
policy: limited
issuer: lab
match:
  repository_owner_id: "123"
  event_name: push
unsafe: {reason: it is for every repository}
limits: {live: 3, per_minute: 6}
grant:
- {credential: deploy, ttl: 10m, limits: {live: 2}}
- {credential: registry, ttl: 5m}
`

// A limit is of each workload, or of all that the policy grants; a client hears
// 429 and when to come back, and its token is not used up.
func TestLimits(t *testing.T) {
	h := newHarness(t)
	h.Policies.Swap(loadPolicies(t, h.Issuers, limitedPolicy))
	ask := func(repository, credential string) *broker.Request {
		req := h.request(t, credential)
		req.SubjectToken = h.token(t, map[string]any{"repository_id": repository})
		return req
	}
	first := h.mustExchange(t, ask("456", "deploy"))
	h.mustExchange(t, ask("456", "deploy"))
	third := ask("456", "deploy")
	_, err := h.exchange(t, third)
	r := broker.Refuse(err)
	if !errors.Is(err, broker.ErrQuota) || r.Status != 429 || r.Public.Code != api.CodeSlowDown || r.RetryAfter != 10*time.Second {
		t.Fatalf("a third lease of a workload: %v, %+v; want 429, and ten seconds", err, r)
	}
	h.mustExchange(t, ask("457", "deploy"))
	if _, err := h.exchange(t, ask("458", "registry")); !errors.Is(err, broker.ErrQuota) {
		t.Errorf("a fourth lease of the policy = %v, want ErrQuota", err)
	}
	if err := h.RevokeSession(t.Context(), first.Token, "R"); err != nil {
		t.Fatal(err)
	}
	h.redis.Del(t.Context(), h.redis.Keys(t.Context(), "brevet:*:looked").Val()...) // as if some time had passed
	h.mustExchange(t, third)
	if n := len(h.target.leases()); n != 3 {
		t.Errorf("%d credentials live, want 3", n)
	}
}

// Without limits nothing is counted.
func TestPoliciesWithoutLimits(t *testing.T) {
	h := newHarness(t)
	h.mustExchange(t, h.request(t, "deploy"))
	if n := len(h.redis.Keys(t.Context(), "brevet:*:q:*").Val()); n != 0 {
		t.Errorf("%d quotas are counted, want none", n)
	}
}

// The audit log tells of grants by policies that lack pins, once each,
// and of those only.
func TestUnsafePoliciesAreRecorded(t *testing.T) {
	h := newHarness(t)
	h.mustExchange(t, h.request(t, "deploy"))
	h.Policies.Swap(loadPolicies(t, h.Issuers, limitedPolicy))
	h.mustExchange(t, h.request(t, "deploy", "registry"))
	want := []string{"policy limited: it is for every repository"}
	events := h.audit.named(broker.EventExchange)
	if len(events) != 2 || events[0].Unsafe != nil || !slices.Equal(events[1].Unsafe, want) {
		t.Errorf("exchanges: %+v, want unsafe in the second: %q", events, want)
	}
}
