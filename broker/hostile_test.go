package broker_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/brevet-dev/brevet/broker"
	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/policies"
)

// Key names the Redis key of a session ('s') or lease ('l').
func redisKey(t *testing.T, kind byte, id string) string {
	t.Helper()
	shard, err := broker.ShardOf(kind, id)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("brevet:{%d}:%c:%s", shard, kind, id)
}

// Who writes to Redis and has a session of his own gets nothing by it.
func TestRedisWriterGetsNoCredential(t *testing.T) {
	for name, edit := range map[string]func(record map[string]any){
		"another identity": func(r map[string]any) {
			r["who"].(map[string]any)["claims"].(map[string]any)["repository_id"] = "1"
		},
		"another credential": func(r map[string]any) { r["leases"].([]any)[0].(map[string]any)["credential"] = "deploy" },
		"a longer life": func(r map[string]any) {
			r["leases"].([]any)[0].(map[string]any)["max"] = time.Now().Add(time.Hour).UnixMilli()
		},
		"no key": func(r map[string]any) { delete(r, "jkt") },
		"another lease": func(r map[string]any) {
			r["leases"].([]any)[0].(map[string]any)["id"] = "l1-" + strings.Repeat("a", 32)
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHarness(t)
			key := newKey(t)
			req := h.request(t, "registry")
			req.Proof = key.proof(t, "POST", api.PathToken, "")
			issued := h.mustExchange(t, req)
			session := redisKey(t, 's', issued.Session.ID)
			var record map[string]any
			if err := json.Unmarshal([]byte(h.redis.HGet(t.Context(), session, "record").Val()), &record); err != nil {
				t.Fatal(err)
			}
			edit(record)
			changed, err := json.Marshal(record)
			if err != nil {
				t.Fatal(err)
			}
			h.redis.HSet(t.Context(), session, "record", changed)
			proof := key.proof(t, "GET", "/x", issued.Token.Reveal())
			if _, err := h.Authenticate(t.Context(), issued.Token, proof); !errors.Is(err, broker.ErrSession) {
				t.Errorf("Authenticate with a changed record = %v, want ErrSession", err)
			}
		})
	}
}

// What is in the lease's own hash is for sweepers: a renewal does not go by it.
func TestRenewalGoesByTheRecord(t *testing.T) {
	h := newHarness(t)
	issued := h.mustExchange(t, h.request(t, "registry"))
	id := issued.Leases[0].LeaseID
	h.redis.HSet(t.Context(), redisKey(t, 'l', id), "credential", "deploy", "max", time.Now().Add(time.Hour).UnixMilli())
	if _, err := h.renew(t, issued, id); err == nil {
		t.Error("a lease that its writer made longer was renewed")
	}
	if s, err := h.Authenticate(t.Context(), issued.Token, nil); err != nil || s.Leases[0].Credential != "registry" {
		t.Errorf("the lease's credential is not the record's: %v", err)
	}
}

// hooked calls before it mints.
type hooked struct {
	broker.Minter
	before func()
}

func (m *hooked) Mint(ctx context.Context, s *broker.Session, l *broker.Lease) (*broker.Credential, error) {
	m.before()
	return m.Minter.Mint(ctx, s, l)
}

func TestRevokedWhileItIsRenewed(t *testing.T) {
	h := newHarness(t)
	issued := h.mustExchange(t, h.request(t, "deploy"))
	target := h.Targets["deploy"]
	target.Minter = &hooked{target.Minter, func() {
		if err := h.RevokeSession(t.Context(), issued.Token, "R9"); err != nil {
			t.Error(err)
		}
	}}
	h.Targets["deploy"] = target
	if l, err := h.renew(t, issued, issued.Leases[0].LeaseID); !errors.Is(err, broker.ErrEnded) || l != nil {
		t.Errorf("Renew = %v, %v; want ErrEnded", l, err)
	}
	h.sweep(t)
	h.assertGone(t, false)
}

func TestReplacedWhileItIsMinted(t *testing.T) {
	h := newHarness(t)
	key := newKey(t)
	req := h.request(t, "deploy")
	req.Proof = key.proof(t, "POST", api.PathToken, "")
	again := *req
	again.Proof = key.proof(t, "POST", api.PathToken, "")
	target := h.Targets["deploy"]
	first := true
	target.Minter = &hooked{target.Minter, func() {
		if first {
			first = false
			h.mustExchange(t, &again)
		}
	}}
	h.Targets["deploy"] = target
	if _, err := h.exchange(t, req); !errors.Is(err, broker.ErrEnded) {
		t.Errorf("the exchange that was replaced = %v, want ErrEnded", err)
	}
	if err := h.SweepOnce(t.Context(), time.Now()); err != nil {
		t.Fatal(err)
	}
	if got := h.target.leases(); len(got) != 1 {
		t.Errorf("live: %v; want the second exchange's only", got)
	}
}

func TestRepeatAfterItsLeaseWasRevoked(t *testing.T) {
	h := newHarness(t)
	key := newKey(t)
	req := h.request(t, "deploy")
	req.Proof = key.proof(t, "POST", api.PathToken, "")
	issued := h.mustExchange(t, req)
	if err := h.RevokeLease(t.Context(), issued.Token, issued.Leases[0].LeaseID, "R"); err != nil {
		t.Fatal(err)
	}
	req.Proof = key.proof(t, "POST", api.PathToken, "")
	if _, err := h.exchange(t, req); !errors.Is(err, broker.ErrReplayed) {
		t.Errorf("Exchange = %v, want ErrReplayed", err)
	}
}

// The policies of the moment of renewal bound it, not those of the exchange.
func TestRenewalByStricterPolicies(t *testing.T) {
	policy := func(ttl, maxTTL string) string {
		return "policy: shop\nissuer: lab\nmatch: {repository_id: \"456\", ref: refs/heads/main, event_name: push}\ngrant:\n- {credential: deploy, ttl: " + ttl + ", max_ttl: " + maxTTL + "}\n"
	}
	for _, tt := range []struct{ name, ttl, maxTTL string }{{"a shorter ttl", "2m", "30m"}, {"a shorter max_ttl", "2m", "3m"}} {
		h := newHarness(t)
		issued := h.mustExchange(t, h.request(t, "deploy"))
		h.Policies.Swap(loadPolicies(t, h.Issuers, policy(tt.ttl, tt.maxTTL)))
		if _, err := h.renew(t, issued, issued.Leases[0].LeaseID); !errors.Is(err, broker.ErrLimit) {
			t.Errorf("%s: Renew = %v, want ErrLimit: the lease ends later already", tt.name, err)
		}
	}
}

// panicking panics where it is told to.
type panicking struct {
	broker.Minter
	mint, revoke bool
}

func (m *panicking) Mint(ctx context.Context, s *broker.Session, l *broker.Lease) (*broker.Credential, error) {
	if m.mint {
		panic("a bug of the minter")
	}
	return m.Minter.Mint(ctx, s, l)
}

func (m *panicking) Revoke(ctx context.Context, handle api.Secret) error {
	if _, bounded := ctx.Deadline(); !bounded {
		return errors.New("a revocation without a deadline")
	}
	if m.revoke {
		panic("a bug of the minter")
	}
	return m.Minter.Revoke(ctx, handle)
}

func TestPanicOfAMinter(t *testing.T) {
	for _, order := range [][]string{{"deploy", "registry"}, {"registry", "deploy"}} {
		h := newHarness(t)
		target := h.Targets["registry"]
		target.Minter = &panicking{Minter: target.Minter, mint: true}
		h.Targets["registry"] = target
		if _, err := h.exchange(t, h.request(t, order...)); err == nil || broker.Refuse(err).Status != 500 {
			t.Errorf("%v: Exchange = %v, want an error of the broker", order, err)
		}
		if n := len(h.audit.named(broker.EventExchange)); n != 1 {
			t.Errorf("%v: %d outcomes recorded, want 1", order, n)
		}
		h.sweep(t)
		h.assertGone(t, false)
	}
	h := newHarness(t)
	issued := h.mustExchange(t, h.request(t, "deploy"))
	target := h.Targets["deploy"]
	broken := &panicking{Minter: target.Minter, revoke: true}
	target.Minter = broken
	h.Targets["deploy"] = target
	if err := h.RevokeSession(t.Context(), issued.Token, "R"); err == nil {
		t.Error("RevokeSession succeeded though the minter panicked")
	}
	broken.revoke = false
	h.sweep(t)
	h.assertGone(t, false)
}

// A client that goes away does not stop what ends its leases.
func TestRevocationOutlivesItsClient(t *testing.T) {
	h := newHarness(t)
	issued := h.mustExchange(t, h.request(t, "deploy"))
	target := h.Targets["deploy"]
	ctx, leave := context.WithCancel(t.Context())
	target.Minter = &leaving{target.Minter, leave}
	h.Targets["deploy"] = target
	if err := h.RevokeSession(ctx, issued.Token, "R"); err != nil {
		t.Fatalf("RevokeSession = %v", err)
	}
	h.assertGone(t, false)
}

// leaving is where the client goes away in the middle.
type leaving struct {
	broker.Minter
	leave func()
}

func (m *leaving) Revoke(ctx context.Context, handle api.Secret) error {
	m.leave()
	return m.Minter.Revoke(ctx, handle)
}

func TestGarbageLeaseDoesNotHoldUpItsSession(t *testing.T) {
	h := newHarness(t)
	issued := h.mustExchange(t, h.request(t, "deploy", "registry"))
	h.redis.HSet(t.Context(), redisKey(t, 'l', issued.Leases[0].LeaseID), "ttl", "x")
	if err := h.RevokeSession(t.Context(), issued.Token, "R"); err == nil {
		t.Error("RevokeSession does not tell of the lease that it cannot read")
	}
	if got := h.target.leases(); len(got) != 1 || got[0] != issued.Leases[0].LeaseID {
		t.Errorf("live: %v; want only what cannot be read", got)
	}
	h.redis.HSet(t.Context(), redisKey(t, 'l', issued.Leases[1].LeaseID), "attempts", "-5")
	if err := h.SweepOnce(t.Context(), time.Now().Add(time.Hour)); err != nil {
		t.Errorf("the quarantined lease is claimed again: %v", err)
	}
}

// Anyone can be refused as often as he likes: most of it is counted, not
// recorded.
func TestFloodOfStrangers(t *testing.T) {
	h := newHarness(t)
	for range 1000 {
		ev := &broker.Event{Name: broker.EventExchange}
		if err := h.Conclude(t.Context(), ev, nil, broker.ErrProof); !errors.Is(err, broker.ErrProof) {
			t.Fatal(err)
		}
	}
	recorded := len(h.audit.named(broker.EventExchange))
	if recorded < 200 || recorded > 300 {
		t.Errorf("%d of 1000 refusals recorded, want about 200", recorded)
	}
	// It crowds out nobody who shows a token; those have their own bounds.
	granted := h.request(t, "deploy")
	for range 300 {
		req := &broker.Request{SubjectToken: h.token(t, map[string]any{"repository_id": "1"}), Credentials: []string{"deploy"}}
		if _, err := h.exchange(t, req); !errors.Is(err, policies.ErrNoGrant) {
			t.Fatal(err)
		}
	}
	if got := len(h.audit.named(broker.EventExchange)) - recorded; got < 100 || got > 200 {
		t.Errorf("%d of 300 refusals by policy recorded, want about 100", got)
	}
	// What is granted is recorded, whatever else goes on; so is what fails after.
	h.mustExchange(t, granted)
	before := len(h.audit.named(broker.EventExchange))
	h.faults.at = "mint deploy"
	if _, err := h.exchange(t, h.request(t, "deploy")); err == nil {
		t.Fatal("Exchange succeeded though the target failed")
	}
	h.faults.clear()
	if len(h.audit.named(broker.EventExchange)) != before+1 {
		t.Error("a failure after leases were reserved was not recorded")
	}
	// The next that is recorded tells of those that were not.
	<-time.After(100 * time.Millisecond)
	if err := h.Conclude(t.Context(), &broker.Event{Name: broker.EventExchange}, nil, broker.ErrProof); err == nil {
		t.Fatal("refused, and no error")
	}
	events := h.audit.named(broker.EventExchange)
	if last := events[len(events)-1]; last.Suppressed != 1000-recorded {
		t.Errorf("the next line tells of %d refusals, want %d", last.Suppressed, 1000-recorded)
	}
}

// A proof cannot be shown again for as long as it would be accepted.
func TestProofMemory(t *testing.T) {
	key, url := newKey(t), brokerURL+"/v1/token"
	iat := time.Unix(1_800_000_000, 0)
	proof := key.sign(t, "POST", url, "", func(_, c map[string]any) { c["iat"] = iat.Unix() })
	var first, last time.Time
	for d := -3 * time.Minute; d < 3*time.Minute; d += 250 * time.Millisecond {
		if _, err := broker.VerifyProof(proof, "POST", url, iat.Add(d)); err == nil {
			if first.IsZero() {
				first = iat.Add(d)
			}
			last = iat.Add(d)
		}
	}
	if last.Sub(first) >= broker.ProofMemory {
		t.Errorf("a proof is accepted for %s and remembered for %s", last.Sub(first), broker.ProofMemory)
	}
}

// An issuer that is down gives strangers no other way into the log.
func TestFloodOfFailures(t *testing.T) {
	h := newHarness(t)
	for range 1000 {
		if err := h.Conclude(t.Context(), &broker.Event{Name: broker.EventExchange}, nil, broker.ErrUnavailable); err == nil {
			t.Fatal("failed, and no error")
		}
	}
	if n := len(h.audit.named(broker.EventExchange)); n > 300 {
		t.Errorf("%d of 1000 failures recorded, want about 200", n)
	}
}

// A session is ended whatever was done to its record.
func TestRevokeATamperedSession(t *testing.T) {
	h := newHarness(t)
	issued := h.mustExchange(t, h.request(t, "deploy"))
	h.redis.HSet(t.Context(), redisKey(t, 's', issued.Session.ID), "record", "{}")
	if err := h.RevokeSession(t.Context(), issued.Token, "R"); err != nil {
		t.Fatalf("RevokeSession = %v", err)
	}
	h.assertGone(t, false)
}

// If nobody knows whether the lease still lives, its credential is left to it.
func TestUnconfirmedRenewalEndsNothing(t *testing.T) {
	h := newHarness(t)
	issued := h.mustExchange(t, h.request(t, "deploy"))
	h.faults.at = "confirm"
	if _, err := h.renew(t, issued, issued.Leases[0].LeaseID); err == nil {
		t.Fatal("Renew succeeded though it was not confirmed")
	}
	if got := h.target.leases(); len(got) != 1 {
		t.Errorf("live: %v; the job's credential was revoked under a lease that lives", got)
	}
	h.sweep(t)
	h.assertGone(t, false)
}
