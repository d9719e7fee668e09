package broker_test

import (
	"errors"
	"testing"
	"time"

	"github.com/brevet-dev/brevet/broker"
	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/policies"
)

// renew does what the server does.
func (h *harness) renew(t *testing.T, issued *broker.Issued, leaseID string) (*api.Lease, error) {
	t.Helper()
	s, err := h.Authenticate(t.Context(), issued.Token, nil)
	if err != nil {
		t.Fatalf("Authenticate = %v", err)
	}
	ev := &broker.Event{Name: broker.EventRenew, RequestID: "R2"}
	l, err := h.Renew(t.Context(), s, leaseID, ev)
	return l, h.Conclude(t.Context(), ev, nil, err)
}

func TestRenew(t *testing.T) {
	h := newHarness(t)
	req := h.request(t, "deploy", "registry")
	issued := h.mustExchange(t, req)
	deploy, registry := issued.Leases[0], issued.Leases[1]

	if _, err := h.renew(t, issued, registry.LeaseID); !errors.Is(err, broker.ErrLimit) {
		t.Errorf("renewing beyond max_ttl = %v, want ErrLimit", err)
	}
	if _, err := h.renew(t, issued, "l1-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"); !errors.Is(err, broker.ErrNotFound) {
		t.Errorf("renewing someone else's lease = %v, want ErrNotFound", err)
	}
	h.waitASecond(t)
	renewed, err := h.renew(t, issued, deploy.LeaseID)
	if err != nil {
		t.Fatalf("Renew = %v", err)
	}
	if !renewed.ExpiresAt.After(deploy.ExpiresAt) {
		t.Errorf("renewed until %s, was %s", renewed.ExpiresAt, deploy.ExpiresAt)
	}
	if events := h.audit.named(broker.EventRenew); len(events) != 3 || events[2].Outcome != broker.Granted {
		t.Errorf("audit log of the renewals: %+v", events)
	}
}

// waitASecond waits until the end of a lease, which is in whole seconds, can
// move.
func (h *harness) waitASecond(t *testing.T) {
	t.Helper()
	<-time.After(time.Until(time.Now().Truncate(time.Second).Add(time.Second)))
}

func TestWithdrawnGrantEndsTheLeaseAtRenewal(t *testing.T) {
	h := newHarness(t)
	issued := h.mustExchange(t, h.request(t, "deploy", "registry"))
	h.Policies.Swap(loadPolicies(t, h.Issuers, `
policy: shop
issuer: lab
match: {repository_id: "456", ref: refs/heads/main, event_name: push}
grant:
- {credential: registry, ttl: 5m}
`))
	if _, err := h.renew(t, issued, issued.Leases[0].LeaseID); !errors.Is(err, policies.ErrNoGrant) {
		t.Errorf("Renew = %v, want ErrNoGrant", err)
	}
	if got := h.target.leases(); len(got) != 1 || got[0] != issued.Leases[1].LeaseID {
		t.Errorf("live: %v; want only the lease that is still granted", got)
	}
}

func TestFailedRenewalKeepsItsBooks(t *testing.T) {
	for _, step := range []string{"extend", "record intent", "mint deploy", "confirm", "record renew"} {
		for _, late := range []bool{false, true} {
			t.Run(step, func(t *testing.T) {
				t.Parallel() // each waits for a second
				h := newHarness(t)
				req := h.request(t, "deploy")
				req.TTL = time.Minute + time.Second
				issued := h.mustExchange(t, req)
				h.waitASecond(t)
				h.faults.at, h.faults.late = step, late
				if _, err := h.renew(t, issued, issued.Leases[0].LeaseID); err == nil {
					t.Fatal("Renew succeeded")
				}
				h.assertAccounted(t)
				h.sweep(t)
				h.assertGone(t, false)
			})
		}
	}
}

func TestBoundSessionNeedsItsKey(t *testing.T) {
	h := newHarness(t)
	key, other := newKey(t), newKey(t)
	req := h.request(t, "deploy")
	req.Proof = key.proof(t, "POST", api.PathToken, "")
	issued := h.mustExchange(t, req)
	token := issued.Token.Reveal()
	path := api.PathLeases + issued.Leases[0].LeaseID
	good := key.proof(t, "GET", path, token)
	for _, tt := range []struct {
		name  string
		proof *broker.Proof
		want  error
	}{
		{"no proof", nil, broker.ErrSession},
		{"another key", other.proof(t, "GET", path, token), broker.ErrSession},
		{"a proof for another token", key.proof(t, "GET", path, "x"), broker.ErrProof},
		{"a proof without a token", key.proof(t, "GET", path, ""), broker.ErrProof},
		{"the proof of its key", good, nil},
		{"the same proof again", good, broker.ErrProofReplayed},
	} {
		if _, err := h.Authenticate(t.Context(), issued.Token, tt.proof); !errors.Is(err, tt.want) {
			t.Errorf("Authenticate with %s = %v, want %v", tt.name, err, tt.want)
		}
	}
}

func TestForgedSessionTokens(t *testing.T) {
	h := newHarness(t)
	issued := h.mustExchange(t, h.request(t, "deploy"))
	sign := func(typ string, edit func(map[string]any)) api.Secret {
		claims := map[string]any{"iss": brokerURL, "aud": brokerURL, "sub": "x", "jti": issued.Session.ID,
			"iat": time.Now().Unix(), "exp": time.Now().Add(time.Hour).Unix()}
		edit(claims)
		token, err := h.epochs.Sign(t.Context(), typ, claims)
		if err != nil {
			t.Fatal(err)
		}
		return api.NewSecret(token)
	}
	for name, token := range map[string]api.Secret{
		"a credential of kind jwt":   sign("JWT", func(map[string]any) {}),
		"an expired one":             sign("at+jwt", func(c map[string]any) { c["exp"] = time.Now().Unix() }),
		"one for another audience":   sign("at+jwt", func(c map[string]any) { c["aud"] = "https://x.example.com" }),
		"one of another broker":      sign("at+jwt", func(c map[string]any) { c["iss"] = "https://x.example.com" }),
		"one of an unknown session":  sign("at+jwt", func(c map[string]any) { c["jti"] = "s1-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa" }),
		"one with an id that is not": sign("at+jwt", func(c map[string]any) { c["jti"] = "../../x" }),
		"the subject token":          h.token(t, nil),
		"nothing":                    {},
	} {
		if _, err := h.Authenticate(t.Context(), token, nil); !errors.Is(err, broker.ErrSession) {
			t.Errorf("Authenticate with %s = %v, want ErrSession", name, err)
		}
	}
}

func TestRevoke(t *testing.T) {
	h := newHarness(t)
	mine := h.mustExchange(t, h.request(t, "deploy", "registry"))
	other := h.mustExchange(t, h.request(t, "deploy"))
	if err := h.RevokeLease(t.Context(), other.Token, mine.Leases[0].LeaseID, "R3"); err != nil {
		t.Errorf("revoking someone else's lease = %v, want silence", err)
	}
	if got := len(h.target.leases()); got != 3 {
		t.Errorf("%d credentials live, want 3: one session ended another's lease", got)
	}
	if err := h.RevokeLease(t.Context(), mine.Token, mine.Leases[0].LeaseID, "R4"); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time changes nothing
		if err := h.RevokeSession(t.Context(), mine.Token, "R5"); err != nil {
			t.Fatal(err)
		}
	}
	if err := h.RevokeSession(t.Context(), api.NewSecret("unknown"), "R6"); err != nil {
		t.Errorf("revoking an unknown token = %v, want silence (RFC 7009, section 2.2)", err)
	}
	if got := h.target.leases(); len(got) != 1 || got[0] != other.Leases[0].LeaseID {
		t.Errorf("live: %v; want only the other session's", got)
	}
	if events := h.audit.named(broker.EventRevoke); len(events) != 2 || events[0].RequestID != "R4" || events[1].RequestID != "R5" {
		t.Errorf("audit log of the revocations: %+v", events)
	}
	s, err := h.Authenticate(t.Context(), mine.Token, nil)
	if err != nil || !s.Ended {
		t.Fatalf("the session is not ended: %v", err)
	}
	status, err := s.Status(mine.Leases[0].LeaseID)
	if err != nil || status.State != "revoked" {
		t.Errorf("Status = %+v, %v; want revoked", status, err)
	}
	if _, err := h.renew(t, mine, mine.Leases[1].LeaseID); !errors.Is(err, broker.ErrEnded) {
		t.Errorf("Renew after revocation = %v, want ErrEnded", err)
	}
}

func TestRevocationIsTriedAgain(t *testing.T) {
	h := newHarness(t)
	issued := h.mustExchange(t, h.request(t, "deploy"))
	h.faults.at = "revoke deploy"
	if err := h.RevokeSession(t.Context(), issued.Token, "R2"); err == nil {
		t.Fatal("RevokeSession succeeded though the target refused")
	}
	if got := h.live(t)[issued.Leases[0].LeaseID]; got != broker.Revoking {
		t.Errorf("lease is %s, want revoking", got)
	}
	h.sweep(t)
	h.assertGone(t, false)
}

func TestRevocationThatNeverSucceedsIsStuck(t *testing.T) {
	h := newHarness(t)
	issued := h.mustExchange(t, h.request(t, "deploy"))
	h.faults.at = "revoke deploy"
	if err := h.RevokeSession(t.Context(), issued.Token, "R2"); err == nil {
		t.Fatal("RevokeSession succeeded though the target refused")
	}
	id := issued.Leases[0].LeaseID
	for i := range 20 {
		if h.live(t)[id] == broker.Stuck {
			break
		}
		if err := h.SweepOnce(t.Context(), time.Now().Add(time.Duration(i+1)*time.Hour)); err == nil {
			t.Fatal("SweepOnce succeeded though the target refused")
		}
	}
	if got := h.live(t)[id]; got != broker.Stuck {
		t.Fatalf("lease is %s, want stuck", got)
	}
	events := h.audit.named(broker.EventRevoke)
	if len(events) != 1 || events[0].Outcome != broker.Failed || events[0].Cause == "" {
		t.Errorf("audit log of the stuck lease: %+v", events)
	}
}

func TestIntrospect(t *testing.T) {
	h := newHarness(t)
	mine, other := h.mustExchange(t, h.request(t, "deploy")), h.mustExchange(t, h.request(t, "deploy"))
	s, err := h.Authenticate(t.Context(), mine.Token, nil)
	if err != nil {
		t.Fatal(err)
	}
	id := mine.Leases[0].LeaseID
	for _, tt := range []struct {
		name   string
		token  api.Secret
		active bool
	}{
		{"its own token", mine.Token, true}, {"its own lease", api.NewSecret(id), true},
		{"another's token", other.Token, false}, {"another's lease", api.NewSecret(other.Leases[0].LeaseID), false},
		{"garbage", api.NewSecret("garbage"), false},
	} {
		got, err := h.Introspect(t.Context(), s, tt.token)
		if err != nil || got.Active != tt.active {
			t.Errorf("Introspect(%s) = %+v, %v; want active %v", tt.name, got, err, tt.active)
		}
		if !got.Active && got.ID+got.Subject != "" {
			t.Errorf("Introspect(%s) tells of an inactive token: %+v", tt.name, got)
		}
	}
	if err := h.RevokeSession(t.Context(), mine.Token, "R"); err != nil {
		t.Fatal(err)
	}
	if s, err = h.Authenticate(t.Context(), mine.Token, nil); err != nil {
		t.Fatal(err)
	}
	for _, token := range []api.Secret{mine.Token, api.NewSecret(id)} {
		if got, err := h.Introspect(t.Context(), s, token); err != nil || got.Active || got.ID != "" || got.Expires != 0 {
			t.Errorf("Introspect after revocation = %+v, %v; want inactive, and nothing more", got, err)
		}
	}
}

func TestExpiredLeasesAreSwept(t *testing.T) {
	h := newHarness(t)
	h.mustExchange(t, h.request(t, "deploy", "registry"))
	h.sweep(t)
	h.assertGone(t, false)
	if events := h.audit.named(broker.EventExpire); len(events) != 2 || events[0].Leases[0].State != broker.Expired {
		t.Errorf("audit log of the sweep: %+v", events)
	}
}
