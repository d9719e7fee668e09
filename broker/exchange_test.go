package broker_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/brevet-dev/brevet/broker"
	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/issuers"
	"github.com/brevet-dev/brevet/policies"
)

func TestExchange(t *testing.T) {
	h := newHarness(t)
	issued := h.mustExchange(t, h.request(t, "deploy", "registry"))

	if len(issued.Leases) != 2 || issued.Leases[0].Credential != "deploy" || issued.Leases[1].Credential != "registry" {
		t.Fatalf("leases are not deploy and registry, in this order: %v", issued.Leases)
	}
	deploy, registry := issued.Leases[0], issued.Leases[1]
	if got := deploy.Values["password"].Reveal(); got != "canary-"+deploy.LeaseID {
		t.Errorf("deploy's password = %q", got)
	}
	if !deploy.Renewable || registry.Renewable || !deploy.Revocable {
		t.Errorf("deploy renewable %v revocable %v, registry renewable %v; want true, true, false", deploy.Renewable, deploy.Revocable, registry.Renewable)
	}
	if left := time.Until(deploy.ExpiresAt); left > 10*time.Minute || left < 9*time.Minute+50*time.Second {
		t.Errorf("deploy ends in %s, want 10m", left)
	}
	for id, state := range h.live(t) {
		if state != broker.Active {
			t.Errorf("lease %s is %s, want active", id, state)
		}
	}
	if _, err := h.Authenticate(t.Context(), issued.Token, nil); err != nil {
		t.Errorf("Authenticate with the session token = %v", err)
	}
	var names []string
	for _, e := range h.audit.events {
		names = append(names, string(e.Name)+" "+string(e.Leases[0].State))
	}
	if got := strings.Join(names, ", "); got != "intent pending, exchange active" {
		t.Errorf("audit log: %s", got)
	}
	if who := h.audit.events[0].Who; who == nil || who.Workload.ProjectID != "456" || who.Workload.Run == "" {
		t.Errorf("the intent does not say who: %+v", who)
	}
}

// What the platform says and nobody declared is in the log once, and nowhere else.
func TestUndeclaredClaims(t *testing.T) {
	h := newHarness(t)
	req := h.request(t, "deploy")
	req.SubjectToken = h.token(t, map[string]any{"repo_property_tier": "gold"})
	h.mustExchange(t, req)
	for _, e := range h.audit.events {
		want := ""
		if e.Name == broker.EventExchange {
			want = `"gold"`
		}
		if got := string(e.Undeclared["repo_property_tier"]); got != want || e.Who.Claims["repo_property_tier"] != nil {
			t.Errorf("%s: undeclared %q, claims %v", e.Name, got, e.Who.Claims)
		}
	}
}

func TestExchangeRefuses(t *testing.T) {
	bad := func(code string) *broker.Refusal { return &broker.Refusal{Public: api.Error{Code: code}, Status: 400} }
	tests := []struct {
		name   string
		claims map[string]any
		edit   func(*broker.Request)
		is     error
		want   *broker.Refusal
	}{
		{"a pull request", map[string]any{"event_name": "pull_request", "ref": "refs/pull/7/merge"}, nil, policies.ErrNoGrant, bad(api.CodeInvalidTarget)},
		{"another repository", map[string]any{"repository_id": "457"}, nil, policies.ErrNoGrant, bad(api.CodeInvalidTarget)},
		{"an unknown credential", nil, func(r *broker.Request) { r.Credentials = []string{"deploy", "root"} }, policies.ErrUnknownCredential, bad(api.CodeInvalidTarget)},
		{"an expired token", map[string]any{"exp": time.Now().Add(-time.Minute).Unix()}, nil, issuers.ErrInvalidToken, bad(api.CodeInvalidRequest)},
		{"another audience", map[string]any{"aud": "https://other.example.com"}, nil, issuers.ErrInvalidToken, bad(api.CodeInvalidRequest)},
		{"an unknown issuer", map[string]any{"iss": "https://elsewhere.example.com"}, nil, issuers.ErrInvalidToken, bad(api.CodeInvalidRequest)},
		{"no token at all", nil, func(r *broker.Request) { r.SubjectToken = api.NewSecret("x.y.z") }, issuers.ErrInvalidToken, bad(api.CodeInvalidRequest)},
		{"a ttl beyond the grant", nil, func(r *broker.Request) { r.TTL = 11 * time.Minute }, broker.ErrLimit, bad(api.CodeInvalidRequest)},
		{"a ttl that the target cannot give", nil, func(r *broker.Request) { r.TTL = time.Second }, broker.ErrLimit, bad(api.CodeInvalidRequest)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := newHarness(t)
			req := h.request(t, "deploy")
			req.SubjectToken = h.token(t, tt.claims)
			if tt.edit != nil {
				tt.edit(req)
			}
			_, err := h.exchange(t, req)
			if !errors.Is(err, tt.is) {
				t.Fatalf("Exchange = %v, want %v", err, tt.is)
			}
			got := broker.Refuse(err)
			if got.Public.Code != tt.want.Public.Code || got.Status != tt.want.Status || got.Outcome() != broker.Refused {
				t.Errorf("answer is %d %s, want %d %s", got.Status, got.Public.Code, tt.want.Status, tt.want.Public.Code)
			}
			if strings.ContainsAny(got.Public.Description, "\"\\") || got.Public.Description == "" {
				t.Errorf("description %q is empty or not fit for RFC 6749", got.Public.Description)
			}
			if h.target.minted != 0 || len(h.live(t)) != 0 {
				t.Errorf("minted %d credentials, reserved %d leases", h.target.minted, len(h.live(t)))
			}
			if e := h.audit.named(broker.EventExchange); len(e) != 1 || e[0].Outcome != broker.Refused || e[0].Cause == "" {
				t.Errorf("audit log has no single refusal with a cause: %+v", e)
			}
		})
	}
}

func TestTTLAsksForLess(t *testing.T) {
	h := newHarness(t)
	req := h.request(t, "deploy")
	req.TTL = 2 * time.Minute
	issued := h.mustExchange(t, req)
	if left := time.Until(issued.Leases[0].ExpiresAt); left > 2*time.Minute {
		t.Errorf("the lease ends in %s, asked for 2m", left)
	}
}

// Of whatever step fails, and in whatever way, nothing may be left: no live
// credential without a live lease and an audit line, no lease that never ends.
func TestNothingIsLost(t *testing.T) {
	steps := []string{"reserve", "record intent", "mint deploy", "mint registry", "commit", "record exchange"}
	for _, step := range steps {
		for _, how := range []struct {
			name       string
			late, kill bool
		}{{"fails", false, false}, {"loses its answer", true, false}, {"is where the process dies", true, true}, {"is never reached", false, true}} {
			t.Run(step+" "+how.name, func(t *testing.T) {
				h := newHarness(t)
				h.faults.at, h.faults.late, h.faults.kill = step, how.late, how.kill
				if issued, err := h.exchange(t, h.request(t, "deploy", "registry")); err == nil || issued != nil {
					t.Fatalf("Exchange = %v, %v; want an error and nothing issued", issued, err)
				}
				h.assertAccounted(t)
				if !how.kill && !how.late {
					h.faults.clear()
					if left := h.target.leases(); len(left) != 0 {
						t.Errorf("still live at the target right after the failure: %v", left)
					}
				}
				h.sweep(t)
				h.assertGone(t, step == "mint deploy" && how.late || step == "mint registry" && how.late || how.kill)
			})
		}
	}
}

// assertAccounted checks that whatever lives has a lease that lives and an
// intent in the audit log.
func (h *harness) assertAccounted(t *testing.T) {
	t.Helper()
	intended := map[string]bool{}
	for _, e := range h.audit.named(broker.EventIntent) {
		for _, l := range e.Leases {
			intended[l.ID] = true
		}
	}
	leases := h.live(t)
	for _, id := range h.target.leases() {
		if !leases[id].Live() {
			t.Errorf("credential %s lives without a lease", id)
		}
		if !intended[id] {
			t.Errorf("credential %s lives without a line in the audit log", id)
		}
	}
}

// assertGone checks that after a sweep no lease lives. A credential whose
// handle the broker never learned may be left at the target, under the id of a
// lease whose end the audit log tells: that is what reconciling finds.
func (h *harness) assertGone(t *testing.T, handleMayBeLost bool) {
	t.Helper()
	if left := h.live(t); len(left) != 0 {
		t.Errorf("leases that never end: %v", left)
	}
	told := map[string]bool{}
	for _, name := range []broker.EventName{broker.EventExpire, broker.EventRevoke} {
		for _, e := range h.audit.named(name) {
			told[e.Leases[0].ID] = true
		}
	}
	for _, id := range h.target.leases() {
		if !handleMayBeLost {
			t.Errorf("credential %s was not revoked", id)
		}
		if !told[id] {
			t.Errorf("credential %s is left, and no line tells that its lease ended", id)
		}
	}
}

func TestCredentialBeyondItsLeaseIsRevoked(t *testing.T) {
	h := newHarness(t)
	if _, err := h.exchange(t, h.request(t, "deploy", "clumsy")); err == nil || broker.Refuse(err).Status != 500 {
		t.Fatalf("Exchange = %v, want an error of the broker", err)
	}
	if left := h.target.leases(); len(left) != 0 {
		t.Errorf("left at the target: %v", left)
	}
}

func TestTokenIsBurned(t *testing.T) {
	h := newHarness(t)
	req := h.request(t, "deploy")
	h.mustExchange(t, req)
	if _, err := h.exchange(t, req); !errors.Is(err, broker.ErrReplayed) {
		t.Errorf("second Exchange = %v, want ErrReplayed", err)
	}
	thief := newKey(t)
	req.Proof = thief.proof(t, "POST", api.PathToken, "")
	if _, err := h.exchange(t, req); !errors.Is(err, broker.ErrReplayed) {
		t.Errorf("Exchange with another key = %v, want ErrReplayed", err)
	}
	if h.target.minted != 1 {
		t.Errorf("minted %d credentials, want 1", h.target.minted)
	}
}

func TestRetryWithTheSameKeyReplacesTheLostAnswer(t *testing.T) {
	h := newHarness(t)
	key := newKey(t)
	req := h.request(t, "deploy")
	req.Proof = key.proof(t, "POST", api.PathToken, "")
	first := h.mustExchange(t, req)
	req.Proof = key.proof(t, "POST", api.PathToken, "")
	second := h.mustExchange(t, req)
	if err := h.SweepOnce(t.Context(), time.Now()); err != nil {
		t.Fatal(err)
	}
	if got := h.target.leases(); len(got) != 1 || got[0] != second.Leases[0].LeaseID {
		t.Errorf("live: %v; want only %s, the retry's, and not %s", got, second.Leases[0].LeaseID, first.Leases[0].LeaseID)
	}
}

func TestManyExchangesOfOneToken(t *testing.T) {
	h := newHarness(t)
	req := h.request(t, "deploy")
	var mu sync.Mutex
	granted := 0
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if _, err := h.exchange(t, req); err == nil {
				mu.Lock()
				granted++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if granted != 1 || h.target.minted != 1 {
		t.Errorf("granted %d, minted %d; want 1 and 1", granted, h.target.minted)
	}
}

// Nothing that is shown, logged or recorded holds the token or a credential.
func TestSecretsStayInside(t *testing.T) {
	h := newHarness(t)
	for _, step := range []string{"", "commit", "mint deploy", "record exchange"} {
		h.faults.clear()
		h.faults.at = step
		req := h.request(t, "deploy")
		issued, err := h.exchange(t, req)
		shown := fmt.Sprintf("%v %+v %#v %+v %v", issued, issued, req, h.audit.events, err)
		if err != nil {
			shown += fmt.Sprintf("%+v", broker.Refuse(err))
		}
		for what, secret := range map[string]string{"the subject token": req.SubjectToken.Reveal(), "a credential": "canary-l"} {
			if strings.Contains(shown, secret) {
				t.Errorf("with %q failing, %s is shown", step, what)
			}
		}
	}
}
