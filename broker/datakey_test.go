package broker_test

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/brevet-dev/brevet/broker"
	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/broker/keys"
	"github.com/brevet-dev/brevet/broker/mint"
	"github.com/brevet-dev/brevet/policies"
)

var tarball = api.Context{"artifact": "app.tar", "release": "1.2"}

// policyOf returns a policy of one repository: "456" is that of the harness's
// tokens, and grant what it says of data keys.
func policyOf(name, repository, grant string) string {
	return "policy: " + name + "\nissuer: lab\nmatch: {repository_id: \"" + repository + "\", ref: refs/heads/main, event_name: push}\ngrant:\n- {credential: " + grant + "}\n"
}

func (h *harness) enforce(t *testing.T, documents ...string) {
	t.Helper()
	h.Policies.Swap(loadPolicies(t, h.Issuers, documents...))
}

// made is a data key as a job gets it.
type made struct {
	issued                                *broker.Issued
	lease, plaintext, wrapped, id, signed string
}

// dataKey makes one for a context.
func (h *harness) dataKey(t testing.TB, credential string, c api.Context) made {
	t.Helper()
	req := h.request(t, credential)
	req.Context = c
	issued := h.mustExchange(t, req)
	v := issued.Leases[0].Values
	return made{
		issued, issued.Leases[0].LeaseID, v[api.ValuePlaintext].Reveal(), v[api.ValueWrapped].Reveal(),
		v[api.ValueKeyID].Reveal(), v[api.ValueStatement].Reveal(),
	}
}

// session is that of another job, which wants no new key.
func (h *harness) session(t *testing.T, repository string, credentials ...string) *broker.Issued {
	t.Helper()
	req := h.request(t, credentials...)
	req.SubjectToken = h.token(t, map[string]any{"repository_id": repository})
	req.DataKey = broker.NoKeyWanted
	return h.mustExchange(t, req)
}

// use does what the server does with a wrapped data key.
func (h *harness) use(t *testing.T, name broker.EventName, by *broker.Issued, wrapped string, c api.Context) (*api.DataKey, error) {
	t.Helper()
	do := h.Unwrap
	if name == broker.EventRewrap {
		do = h.Rewrap
	}
	ev := &broker.Event{Name: name, RequestID: "R7"}
	var k *api.DataKey
	s, err := h.Authenticate(t.Context(), by.Token, nil)
	if err == nil {
		k, err = do(t.Context(), s, wrapped, c, ev)
	}
	if err != nil && k != nil {
		t.Errorf("%s gives a key beside the error %v", name, err)
	}
	if err := h.Conclude(t.Context(), ev, nil, err); err != nil {
		return nil, err
	}
	return k, nil
}

func (h *harness) mustUnwrap(t *testing.T, by *broker.Issued, k made, c api.Context) {
	t.Helper()
	got, err := h.use(t, broker.EventUnwrap, by, k.wrapped, c)
	if err != nil || got.Plaintext.Reveal() != k.plaintext || got.KeyID != k.id || got.Wrapped != "" {
		t.Fatalf("Unwrap = %+v, %v; want the key %s", got, err, k.id)
	}
}

// outcome returns the one event of a name.
func (h *harness) outcome(t *testing.T, name broker.EventName) broker.Event {
	t.Helper()
	events := h.audit.named(name)
	if len(events) != 1 {
		t.Fatalf("%d events %s, want exactly one: %+v", len(events), name, events)
	}
	return events[0]
}

// headerOf reads what anyone can read of a wrapped key.
func headerOf(t *testing.T, wrapped string) map[string]any {
	t.Helper()
	head, err := base64.RawURLEncoding.DecodeString(strings.Split(wrapped, ".")[0])
	if err != nil {
		t.Fatal(err)
	}
	var out map[string]any
	if err := json.Unmarshal(head, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

const statementType = "brevet-data-key+jwt"

func TestDataKeyExchange(t *testing.T) {
	for _, credential := range []string{"artifacts", "shredded"} {
		t.Run(credential, func(t *testing.T) {
			h := newHarness(t)
			k := h.dataKey(t, credential, tarball)
			raw, err := base64.StdEncoding.DecodeString(k.plaintext)
			if err != nil || len(raw) != api.DataKeySize {
				t.Errorf("plaintext of %d bytes, %v", len(raw), err)
			}
			wire := k.issued.Leases[0]
			if !slices.Equal(wire.Sensitive, []string{api.ValuePlaintext}) || len(wire.Values) != 4 || wire.Revocable != (credential == "shredded") {
				t.Errorf("the lease is %+v", wire)
			}
			h.checkStatement(t, k, credential)
			if e := h.outcome(t, broker.EventExchange); e.Leases[0].DataKey != k.id || e.Context["release"] != "1.2" {
				t.Errorf("the audit log says of the exchange: %+v", e)
			}
		})
	}
}

// checkStatement verifies the statement of k as a stranger would: with the root
// and the broker's url, and nothing else.
func (h *harness) checkStatement(t *testing.T, k made, credential string) {
	t.Helper()
	archive := &keys.Archive{Roots: []*x509.Certificate{h.root.Certificate()}, URL: brokerURL}
	var got struct {
		Issuer     string     `json:"iss"`
		Subject    string     `json:"sub"`
		Lease      string     `json:"jti"`
		Issued     int64      `json:"iat"`
		Expires    int64      `json:"exp"`
		Credential string     `json:"credential"`
		Policy     string     `json:"policy"`
		Digest     string     `json:"policy_digest"`
		Workload   broker.Who `json:"workload"`
		Context    api.Context
		KEK        string
		Shred      bool
	}
	if err := archive.Verify(statementType, k.signed, &got); err != nil {
		t.Fatalf("the statement: %v", err)
	}
	head := headerOf(t, k.wrapped)
	switch l := k.issued.Session.Leases[0]; {
	case got.Issuer != brokerURL, got.Subject != k.id, got.Lease != k.lease, got.Credential != credential:
		t.Errorf("the statement is of another key: %+v", got)
	case got.Policy != "shop", got.Digest != l.PolicyDigest, got.Workload.Workload.ProjectID != "456", got.Workload.Claims != nil:
		t.Errorf("the statement is of another policy or workload: %+v", got)
	case got.Context.Canonical() != tarball.Canonical(), got.KEK != head["kid"], got.KEK == "", got.Shred != (credential == "shredded"):
		t.Errorf("the statement is of another context or KEK: %+v", got)
	case float64(got.Issued) != head["iat"], float64(got.Expires) != head["exp"], head["dek"] != k.id, head["lease"] != k.lease:
		t.Errorf("the statement %+v differs from what is wrapped: %v", got, head)
	}
	if strings.Contains(k.signed+k.wrapped, k.plaintext) {
		t.Error("the key can be read")
	}
	stranger, err := keys.NewSoftware(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for name, a := range map[string]*keys.Archive{
		"another root":   {Roots: []*x509.Certificate{stranger.Certificate()}, URL: brokerURL},
		"another broker": {Roots: archive.Roots, URL: "https://other.example.com"},
	} {
		if err := a.Verify(statementType, k.signed, &got); !errors.Is(err, keys.ErrToken) {
			t.Errorf("with %s: Verify = %v", name, err)
		}
	}
	for i := range strings.Split(k.signed, ".") {
		if err := archive.Verify(statementType, flipBit(t, k.signed, i, 0.5), &got); !errors.Is(err, keys.ErrToken) {
			t.Errorf("with a bit changed in part %d: Verify = %v", i, err)
		}
	}
}

// flipBit changes one bit of a part of a token, at a place within it from 0 to
// 1.
func flipBit(t *testing.T, token string, part int, at float64) string {
	t.Helper()
	parts := strings.Split(token, ".")
	raw, err := base64.RawURLEncoding.DecodeString(parts[part])
	if err != nil {
		t.Fatal(err)
	}
	raw[int(at*float64(len(raw)-1))] ^= 1
	parts[part] = base64.RawURLEncoding.EncodeToString(raw)
	return strings.Join(parts, ".")
}

// The longest context that is allowed, of what takes most room, makes a
// statement and an audit line that can be read.
func TestLongestContext(t *testing.T) {
	for _, r := range []string{"<", `"`, "\u2028", "x"} {
		h := newHarness(t)
		c := api.Context{}
		for i := range api.MaxContextEntries {
			name := strings.Repeat(r, api.MaxContextName/len(r)-3) + fmt.Sprint(i)
			c[name] = strings.Repeat(r, api.MaxContextValue/len(r))
		}
		if err := c.Validate(); err != nil {
			t.Fatal(err)
		}
		k := h.dataKey(t, "artifacts", c)
		archive := &keys.Archive{Roots: []*x509.Certificate{h.root.Certificate()}, URL: brokerURL}
		var got struct{ Context api.Context }
		if err := archive.Verify(statementType, k.signed, &got); err != nil || got.Context.Canonical() != c.Canonical() {
			t.Errorf("%q: the statement of %d bytes: %v", r, len(k.signed), err)
		}
		h.mustUnwrap(t, k.issued, k, c)
	}
}

func TestExchangeOfDataKeysRefuses(t *testing.T) {
	for _, tt := range []struct {
		name  string
		grant string // "": that of the harness
		edit  func(*broker.Request)
		is    error
		code  string
	}{
		{"a context for what is no data key", "", func(r *broker.Request) { r.Credentials, r.Context = []string{"deploy"}, tarball }, broker.ErrContext, api.CodeInvalidRequest},
		{"a key of what is no data key", "", func(r *broker.Request) { r.Credentials, r.DataKey = []string{"deploy"}, broker.KeyWanted }, broker.ErrContext, api.CodeInvalidRequest},
		{"a key without generate", "artifacts, ttl: 1m, allow: [unwrap]", func(r *broker.Request) { r.DataKey = broker.KeyWanted }, policies.ErrNoGrant, api.CodeInvalidTarget},
		{"a key for another context", "artifacts, ttl: 1m, context: {release: \"2\"}", func(r *broker.Request) { r.Context = tarball }, policies.ErrNoGrant, api.CodeInvalidTarget},
		{"a key for no context", "artifacts, ttl: 1m, context: {release: \"2\"}", func(*broker.Request) {}, policies.ErrNoGrant, api.CodeInvalidTarget},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := newHarness(t)
			if tt.grant != "" {
				h.enforce(t, policyOf("shop", "456", tt.grant))
			}
			req := h.request(t, "artifacts")
			tt.edit(req)
			if _, err := h.exchange(t, req); !errors.Is(err, tt.is) || broker.Refuse(err).Public.Code != tt.code {
				t.Errorf("Exchange = %v, want %v", err, tt.is)
			}
			if e := h.outcome(t, broker.EventExchange); e.Outcome != broker.Refused || e.Cause == "" || len(h.live(t)) != 0 || len(h.ring.wraps) != 0 {
				t.Errorf("recorded %+v; %d leases, %d keys", e, len(h.live(t)), len(h.ring.wraps))
			}
		})
	}
}

// A lease without a new key is for what was encrypted before.
func TestLeaseWithoutAKey(t *testing.T) {
	h := newHarness(t)
	k := h.dataKey(t, "artifacts", nil)
	h.enforce(t, policyOf("shop", "456", "artifacts, ttl: 1m, allow: [unwrap]"))
	for _, wish := range []broker.KeyWish{broker.KeyIfAllowed, broker.NoKeyWanted} {
		req := h.request(t, "artifacts")
		req.DataKey = wish
		issued := h.mustExchange(t, req)
		if len(issued.Leases[0].Values) != 0 || len(h.ring.wraps) != 1 {
			t.Errorf("%q: a key was made", wish)
		}
		h.mustUnwrap(t, issued, k, nil)
	}
}

func TestUnwrap(t *testing.T) {
	h := newHarness(t)
	h.enforce(t, shopPolicy, policyOf("reader", "789", "artifacts, ttl: 5m, allow: [unwrap]"))
	k := h.dataKey(t, "artifacts", tarball)
	other := h.session(t, "789", "artifacts")
	again := api.Context{"release": "1.2", "artifact": "app.tar"}
	for name, by := range map[string]*broker.Issued{"the same session": k.issued, "another": other} {
		h.audit.events = nil
		h.mustUnwrap(t, by, k, again)
		e := h.outcome(t, broker.EventUnwrap)
		if e.Outcome != broker.Granted || e.Session != by.Session.ID || e.DataKey.ID != k.id || e.DataKey.Lease != k.lease || e.DataKey.KEK == "" ||
			e.Context["artifact"] != "app.tar" || e.Leases[0].ID != by.Leases[0].LeaseID || e.Who == nil || e.Policies == "" {
			t.Errorf("%s: the audit log says %+v", name, e)
		}
	}
	// A key that is not shredded outlives its lease.
	if err := h.RevokeSession(t.Context(), k.issued.Token, "R"); err != nil {
		t.Fatal(err)
	}
	h.sweep(t)
	h.mustUnwrap(t, h.session(t, "789", "artifacts"), k, again)
	h.restart(t)
	h.mustUnwrap(t, h.session(t, "789", "artifacts"), k, again)
}

// aged wraps a key as if it was made some time ago.
func (h *harness) aged(t *testing.T, k made, age, maxAge time.Duration) string {
	t.Helper()
	old := *h.ring.wraps[0].key
	old.Issued = time.Now().Truncate(time.Second).Add(-age)
	old.Expires = old.Issued.Add(maxAge)
	wrapped, err := h.ring.Ring.WrapKey(t.Context(), &old)
	if err != nil {
		t.Fatal(err)
	}
	return wrapped
}

// An attempt is to unwrap or rewrap.
type attempt struct {
	by      *broker.Issued
	wrapped string
	context api.Context
}

func TestUseOfADataKeyIsRefused(t *testing.T) {
	must := func(t *testing.T, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	grant := func(allow string) func(*testing.T, *harness, made, *attempt) {
		return func(t *testing.T, h *harness, _ made, a *attempt) {
			h.enforce(t, policyOf("shop", "456", "artifacts, ttl: 5m, max_ttl: 30m, "+allow))
			a.by = h.session(t, "456", "artifacts")
		}
	}
	for _, tt := range []struct {
		name  string
		spoil func(*testing.T, *harness, made, *attempt)
		is    error
		want  int // HTTP status
	}{
		{"without the operation", grant("allow: [generate]"), policies.ErrOperation, 403},
		{"granted another context", grant("allow: [unwrap, rewrap], context: {release: \"2\"}"), policies.ErrOperation, 403},
		{"granted a younger key", func(t *testing.T, h *harness, k made, a *attempt) {
			a.wrapped = h.aged(t, k, 2*time.Hour, 48*time.Hour)
			grant("allow: [unwrap, rewrap], max_age: 1h")(t, h, k, a)
		}, policies.ErrOperation, 403},
		{"another credential's", func(t *testing.T, h *harness, k made, a *attempt) { a.by = h.session(t, "456", "shredded") }, policies.ErrOperation, 403},
		{"no data key's session", func(t *testing.T, h *harness, k made, a *attempt) {
			a.by = h.mustExchange(t, h.request(t, "deploy"))
		}, policies.ErrOperation, 403},
		{"wrong context", func(_ *testing.T, _ *harness, _ made, a *attempt) {
			a.context = api.Context{"artifact": "app.tar", "release": "1.3"}
		}, broker.ErrWrapped, 400},
		{"part of the context", func(_ *testing.T, _ *harness, _ made, a *attempt) { a.context = api.Context{"artifact": "app.tar"} }, broker.ErrWrapped, 400},
		{"more than the context", func(_ *testing.T, _ *harness, _ made, a *attempt) {
			a.context = api.Context{"artifact": "app.tar", "release": "1.2", "x": ""}
		}, broker.ErrWrapped, 400},
		{"no context", func(_ *testing.T, _ *harness, _ made, a *attempt) { a.context = api.Context{} }, broker.ErrWrapped, 400},
		{"session ended", func(t *testing.T, h *harness, k made, _ *attempt) {
			must(t, h.RevokeSession(t.Context(), k.issued.Token, "R"))
		}, broker.ErrEnded, 400},
		{"lease revoked", func(t *testing.T, h *harness, k made, _ *attempt) {
			must(t, h.RevokeLease(t.Context(), k.issued.Token, k.lease, "R"))
		}, broker.ErrEnded, 400},
		{"lease expired", func(t *testing.T, h *harness, k made, _ *attempt) {
			h.redis.HSet(t.Context(), redisKey(t, 'l', k.lease), "expires", time.Now().Add(-time.Second).UnixMilli())
		}, broker.ErrEnded, 400},
		{"lease gone", func(t *testing.T, h *harness, k made, _ *attempt) {
			h.redis.Del(t.Context(), redisKey(t, 'l', k.lease))
		}, broker.ErrEnded, 400},
		{"session changed in Redis", func(t *testing.T, h *harness, k made, _ *attempt) {
			key := redisKey(t, 's', k.issued.Session.ID)
			record := h.redis.HGet(t.Context(), key, "record").Val()
			h.redis.HSet(t.Context(), key, "record", strings.Replace(record, `"generate",`, "", 1))
		}, broker.ErrSession, 401},
		{"policy withdrawn", func(t *testing.T, h *harness, _ made, _ *attempt) {
			h.enforce(t, policyOf("shop", "456", "registry, ttl: 1m"))
		}, policies.ErrNoGrant, 400},
		{"operation withdrawn", func(t *testing.T, h *harness, _ made, _ *attempt) {
			h.enforce(t, policyOf("shop", "456", "artifacts, ttl: 5m, max_ttl: 30m, allow: [generate]"))
		}, policies.ErrOperation, 403},
		{"max_age of the credential passed", func(t *testing.T, h *harness, k made, a *attempt) {
			a.wrapped = h.aged(t, k, 48*time.Hour, 48*time.Hour)
		}, broker.ErrWrapped, 400},
		{"KEK destroyed", func(t *testing.T, h *harness, _ made, a *attempt) {
			kek := headerOf(t, a.wrapped)["kid"].(string)
			_, err := h.ring.Rotate(t.Context())
			must(t, err)
			_, err = h.ring.Destroy(t.Context(), kek, nil, time.Now().Add(72*time.Hour))
			must(t, err)
		}, broker.ErrWrapped, 400},
		{"another fleet's", func(t *testing.T, _ *harness, _ made, a *attempt) {
			a.wrapped = newHarness(t).dataKey(t, "artifacts", tarball).wrapped
		}, broker.ErrWrapped, 400},
		{"the handle of a lease", func(t *testing.T, h *harness, _ made, a *attempt) {
			var err error
			a.wrapped, err = h.ring.Seal(t.Context(), strings.Repeat("k", api.DataKeySize), "x")
			must(t, err)
		}, broker.ErrWrapped, 400},
		{"the statement", func(_ *testing.T, _ *harness, k made, a *attempt) { a.wrapped = k.signed }, broker.ErrWrapped, 400},
		{"nothing", func(_ *testing.T, _ *harness, _ made, a *attempt) { a.wrapped = "" }, broker.ErrWrapped, 400},
		{"ring unavailable", func(_ *testing.T, h *harness, _ made, _ *attempt) {
			h.faults.at, h.faults.is = "unwrap", broker.ErrUnavailable
		}, broker.ErrUnavailable, 503},
		{"audit log down", func(_ *testing.T, h *harness, _ made, _ *attempt) { h.faults.at = "record" }, broker.ErrUnavailable, 503},
		{"Redis down", func(_ *testing.T, h *harness, _ made, _ *attempt) { h.server.Close() }, broker.ErrUnavailable, 503},
	} {
		for _, name := range []broker.EventName{broker.EventUnwrap, broker.EventRewrap} {
			t.Run(string(name)+" "+tt.name, func(t *testing.T) {
				h := newHarness(t)
				k := h.dataKey(t, "artifacts", tarball)
				a := &attempt{k.issued, k.wrapped, tarball}
				tt.spoil(t, h, k, a)
				if h.faults.at == "record" {
					h.faults.at += " " + string(name)
				}
				wraps := len(h.ring.wraps)
				got, err := h.use(t, name, a.by, a.wrapped, a.context)
				refusal := broker.Refuse(err)
				if got != nil || !errors.Is(err, tt.is) || refusal.Status != tt.want {
					t.Fatalf("%s = %v, %v; want %v and status %d", name, got, err, tt.is, tt.want)
				}
				if strings.ContainsAny(refusal.Public.Description, "\"\\") || (refusal.Status == 503) != (refusal.RetryAfter > 0) {
					t.Errorf("the answer is %+v", refusal)
				}
				if tt.name == "audit log down" {
					return
				}
				if e := h.outcome(t, name); e.Outcome == broker.Granted || e.Cause == "" || e.Code != refusal.Public.Code || e.DataKey != nil && e.DataKey.NewKEK != "" {
					t.Errorf("the audit log says %+v", e)
				}
				if len(h.ring.wraps) != wraps {
					t.Error("it was wrapped again")
				}
			})
		}
	}
}

// One bit, anywhere, and it is no key any more.
func TestOneBitChanged(t *testing.T) {
	h := newHarness(t)
	k := h.dataKey(t, "artifacts", nil)
	s, err := h.Authenticate(t.Context(), k.issued.Token, nil)
	if err != nil {
		t.Fatal(err)
	}
	for part, what := range []string{"header", "encrypted key", "iv", "ciphertext", "tag"} {
		for _, at := range []float64{0, 0.3, 0.7, 1} {
			changed := flipBit(t, k.wrapped, part, at)
			if got, err := h.Unwrap(t.Context(), s, changed, nil, &broker.Event{}); got != nil || !errors.Is(err, broker.ErrWrapped) {
				t.Errorf("one bit of the %s changed: Unwrap = %v, %v", what, got, err)
			}
		}
	}
	// Nor can parts of two keys be one.
	other := strings.Split(h.dataKey(t, "artifacts", nil).wrapped, ".")
	for part := range other {
		mixed := strings.Split(k.wrapped, ".")
		mixed[part] = other[part]
		if got, err := h.Unwrap(t.Context(), s, strings.Join(mixed, "."), nil, &broker.Event{}); got != nil || !errors.Is(err, broker.ErrWrapped) {
			t.Errorf("with part %d of another: Unwrap = %v, %v", part, got, err)
		}
	}
}

// A withdrawn grant ends the lease, too, and with it a key that is shredded.
func TestWithdrawnGrantOfADataKey(t *testing.T) {
	h := newHarness(t)
	k := h.dataKey(t, "shredded", nil)
	h.enforce(t, policyOf("shop", "456", "registry, ttl: 1m"))
	if _, err := h.use(t, broker.EventUnwrap, k.issued, k.wrapped, nil); !errors.Is(err, policies.ErrNoGrant) {
		t.Fatalf("Unwrap = %v", err)
	}
	if e := h.outcome(t, broker.EventRevoke); e.Leases[0].ID != k.lease || e.Leases[0].Why != "withdrawn" {
		t.Errorf("the audit log says of the lease: %+v", e)
	}
	h.enforce(t, shopPolicy)
	h.isShredded(t, k)
}

func TestMaxUses(t *testing.T) {
	const limited = "artifacts, ttl: 5m, max_ttl: 30m, allow: [generate, unwrap, rewrap], max_uses: "
	h := newHarness(t)
	h.enforce(t, policyOf("shop", "456", limited+"3"), policyOf("reader", "789", limited+"1"))
	k, other := h.dataKey(t, "artifacts", nil), h.dataKey(t, "artifacts", nil)
	h.mustUnwrap(t, k.issued, k, nil)
	h.mustUnwrap(t, h.session(t, "456", "artifacts"), k, nil)
	again, err := h.use(t, broker.EventRewrap, k.issued, k.wrapped, nil) // which is no use, and makes no new ones
	if err != nil {
		t.Fatal(err)
	}
	h.restart(t) // nor does that
	var granted, used atomic.Int32
	var all sync.WaitGroup
	for _, wrapped := range []string{k.wrapped, again.Wrapped} { // one more use is left, and two want it
		s := h.session(t, "456", "artifacts")
		all.Go(func() {
			switch _, err := h.use(t, broker.EventUnwrap, s, wrapped, nil); {
			case err == nil:
				granted.Add(1)
			case errors.Is(err, broker.ErrUsedUp) && broker.Refuse(err).Status == 403:
				used.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	all.Wait()
	if granted.Load() != 1 || used.Load() != 1 {
		t.Errorf("of two at once for the last use %d were granted and %d refused", granted.Load(), used.Load())
	}
	h.mustUnwrap(t, h.session(t, "789", "artifacts"), k, nil) // another policy's uses are its own
	h.mustUnwrap(t, other.issued, other, nil)                 // and another key's
	for name, policy := range map[string]string{"a higher limit": limited + "4", "no limit": strings.TrimSuffix(limited, ", max_uses: ")} {
		h.enforce(t, policyOf("shop", "456", policy))
		if _, err := h.use(t, broker.EventUnwrap, k.issued, k.wrapped, nil); !errors.Is(err, broker.ErrUsedUp) {
			t.Errorf("a session from before %s: Unwrap = %v, want ErrUsedUp", name, err)
		}
	}
	h.mustUnwrap(t, h.session(t, "456", "artifacts"), k, nil)
}

// A use that cannot be counted does not happen.
func TestUseNotCounted(t *testing.T) {
	for _, late := range []bool{false, true} {
		h := newHarness(t)
		h.enforce(t, policyOf("shop", "456", "artifacts, ttl: 5m, allow: [generate, unwrap], max_uses: 5"))
		k := h.dataKey(t, "artifacts", nil)
		h.faults.at, h.faults.late, h.faults.is = "count", late, broker.ErrUnavailable
		if got, err := h.use(t, broker.EventUnwrap, k.issued, k.wrapped, nil); got != nil || broker.Refuse(err).Status != 503 {
			t.Errorf("Unwrap = %v, %v", got, err)
		}
	}
}

func TestRewrap(t *testing.T) {
	for _, credential := range []string{"artifacts", "shredded"} {
		h := newHarness(t)
		k := h.dataKey(t, credential, tarball)
		c, err := h.ring.Rotate(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		got, err := h.use(t, broker.EventRewrap, k.issued, k.wrapped, tarball)
		if err != nil || !got.Plaintext.IsZero() || got.KeyID != k.id || got.Wrapped == k.wrapped {
			t.Fatalf("Rewrap = %+v, %v; want the key %s wrapped anew, and no plaintext", got, err, k.id)
		}
		before, after := headerOf(t, k.wrapped), headerOf(t, got.Wrapped)
		if after["kid"] != c.KEK {
			t.Errorf("it is under %v, and the newest is %s", after["kid"], c.KEK)
		}
		if e := h.outcome(t, broker.EventRewrap); e.Outcome != broker.Granted || e.DataKey.KEK != before["kid"] || e.DataKey.NewKEK != c.KEK {
			t.Errorf("the audit log says %+v", e.DataKey)
		}
		delete(before, "kid")
		delete(after, "kid")
		if fmt.Sprint(before) != fmt.Sprint(after) {
			t.Errorf("the header was %v, and is %v", before, after)
		}
		if needed := h.needed(t, c.KEK); needed.Before(got.ExpiresAt) {
			t.Errorf("its KEK is needed until %s, and it can be unwrapped until %s", needed, got.ExpiresAt)
		}
		for _, wrapped := range []string{k.wrapped, got.Wrapped} {
			k.wrapped = wrapped
			h.mustUnwrap(t, k.issued, k, tarball)
		}
	}
}

// needed is until when Redis says that a KEK is needed.
func (h *harness) needed(t *testing.T, kek string) time.Time {
	t.Helper()
	seconds, err := h.redis.HGet(t.Context(), "brevet:ring:needed", kek).Int64()
	if err != nil {
		t.Fatalf("until when KEK %s is needed: %v", kek, err)
	}
	return time.Unix(seconds, 0)
}

// isShredded checks that nobody gets k any more, from the wrapped form or one
// that was made from it, with a session that may unwrap and every KEK there.
func (h *harness) isShredded(t *testing.T, k made) {
	t.Helper()
	for _, when := range []string{"at once", "after a sweep", "after a restart", "after a rotation"} {
		switch when {
		case "after a sweep":
			h.sweep(t)
			if h.redis.HExists(t.Context(), redisKey(t, 'l', k.lease), "handle").Val() {
				t.Error("Redis still has the share")
			}
		case "after a restart":
			h.restart(t)
		case "after a rotation":
			if _, err := h.ring.Rotate(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		by := h.session(t, "456", "shredded")
		again, err := h.use(t, broker.EventRewrap, by, k.wrapped, nil)
		if err != nil {
			t.Fatalf("%s: Rewrap = %v", when, err)
		}
		for _, wrapped := range []string{k.wrapped, again.Wrapped} {
			if got, err := h.use(t, broker.EventUnwrap, by, wrapped, nil); got != nil || !errors.Is(err, broker.ErrWrapped) {
				t.Errorf("%s: Unwrap = %v, %v; want ErrWrapped", when, got, err)
			}
		}
	}
	if got := len(h.ring.Status().KEKs); got != 2 {
		t.Errorf("%d KEKs, want all that there ever were", got)
	}
}

func TestShred(t *testing.T) {
	for name, end := range map[string]func(*testing.T, *harness, made) error{
		"lease revoked": func(t *testing.T, h *harness, k made) error {
			return h.RevokeLease(t.Context(), k.issued.Token, k.lease, "R")
		},
		"session revoked": func(t *testing.T, h *harness, k made) error { return h.RevokeSession(t.Context(), k.issued.Token, "R") },
		"expired": func(t *testing.T, h *harness, k made) error {
			past := time.Now().Add(-time.Second).UnixMilli()
			return h.redis.HSet(t.Context(), redisKey(t, 'l', k.lease), "expires", past).Err()
		},
		"swept": func(t *testing.T, h *harness, _ made) error { h.sweep(t); return nil },
		"revoked, and the broker dies half-way": func(t *testing.T, h *harness, k made) error {
			h.faults.at, h.faults.kill = "end", true
			h.faults.late = true
			if err := h.RevokeLease(t.Context(), k.issued.Token, k.lease, "R"); err == nil {
				t.Error("RevokeLease succeeds though the broker died")
			}
			h.faults.clear()
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHarness(t)
			k := h.dataKey(t, "shredded", nil)
			h.mustUnwrap(t, k.issued, k, nil)
			h.mustUnwrap(t, h.session(t, "456", "shredded"), k, nil)
			if err := end(t, h, k); err != nil {
				t.Fatal(err)
			}
			h.isShredded(t, k)
		})
	}
}

// A renewal keeps a key that is shredded; without one it ends with its lease.
func TestShredAndRenewal(t *testing.T) {
	h := newHarness(t)
	k := h.dataKey(t, "shredded", nil)
	h.waitASecond(t)
	if l, err := h.renew(t, k.issued, k.lease); err != nil || len(l.Values) != 0 {
		t.Fatalf("Renew = %+v, %v; want no other key", l, err)
	}
	h.mustUnwrap(t, k.issued, k, nil)
}

// A share that cannot be read now is no sign that the key is shredded.
func TestShareUnavailable(t *testing.T) {
	h := newHarness(t)
	k := h.dataKey(t, "shredded", nil)
	h.faults.at, h.faults.is = "lease", broker.ErrUnavailable
	if got, err := h.use(t, broker.EventUnwrap, k.issued, k.wrapped, nil); got != nil || broker.Refuse(err).Status != 503 {
		t.Errorf("Unwrap = %v, %v", got, err)
	}
	h.faults.clear()
	h.mustUnwrap(t, k.issued, k, nil)
}

// Who writes to Redis gives no key another share.
func TestShareMoved(t *testing.T) {
	h := newHarness(t)
	a, b := h.dataKey(t, "shredded", nil), h.dataKey(t, "shredded", nil)
	share := h.redis.HGet(t.Context(), redisKey(t, 'l', a.lease), "handle").Val()
	h.redis.HSet(t.Context(), redisKey(t, 'l', b.lease), "handle", share)
	if got, err := h.use(t, broker.EventUnwrap, a.issued, b.wrapped, nil); got != nil || !errors.Is(err, broker.ErrWrapped) {
		t.Errorf("Unwrap with another's share = %v, %v", got, err)
	}
	h.redis.HDel(t.Context(), redisKey(t, 'l', a.lease), "handle")
	if got, err := h.use(t, broker.EventUnwrap, a.issued, a.wrapped, nil); got != nil || !errors.Is(err, broker.ErrWrapped) {
		t.Errorf("Unwrap without a share = %v, %v", got, err)
	}
}

// The half that is wrapped is independent of the key: who has every KEK knows
// no more of it than before. Each bit of the pad is 1 half of the time.
func TestHalfAKeySaysNothing(t *testing.T) {
	const n = 4000
	var ones [8 * api.DataKeySize]int
	key := &broker.DataKey{Key: api.NewSecret(strings.Repeat("k", api.DataKeySize))}
	for range n {
		half, share := key.Split()
		if !half.Shred || share.IsZero() || key.Shred {
			t.Fatal("Split does not tell a half from a key")
		}
		for i, b := range []byte(half.Key.Reveal()) {
			for bit := range 8 {
				ones[8*i+bit] += int((b ^ 'k') >> bit & 1)
			}
		}
	}
	for i, got := range ones { // 8 standard deviations: once in 10^13 runs of this test
		if got < n/2-253 || got > n/2+253 {
			t.Errorf("bit %d of a half differs from the key's in %d of %d", i, got, n)
		}
	}
}

// Whatever step fails, there is no wrapped key without a lease and a line in the
// audit log that came before it, and one that nobody was given dies.
func TestNoDataKeyIsLost(t *testing.T) {
	for _, step := range []string{"reserve", "record intent", "wrap", "sign", "commit", "record exchange"} {
		for _, how := range []struct {
			name       string
			late, kill bool
		}{{"fails", false, false}, {"loses its answer", true, false}, {"is where the process dies", true, true}, {"is never reached", false, true}} {
			t.Run(step+" "+how.name, func(t *testing.T) {
				h := newHarness(t)
				h.faults.at, h.faults.late, h.faults.kill = step, how.late, how.kill
				if issued, err := h.exchange(t, h.request(t, "artifacts", "shredded")); err == nil || issued != nil {
					t.Fatalf("Exchange = %v, %v; want an error and nothing issued", issued, err)
				}
				h.sweep(t)
				h.assertGone(t, false)
				h.assertWrapsAccounted(t, (step == "reserve" || step == "record intent"))
				by := h.session(t, "456", "artifacts", "shredded")
				for _, w := range h.ring.wraps {
					if got, err := h.use(t, broker.EventUnwrap, by, w.wrapped, nil); w.key.Shred && (got != nil || !errors.Is(err, broker.ErrWrapped)) {
						t.Errorf("Unwrap of a key of an exchange that failed = %v, %v", got, err)
					}
				}
			})
		}
	}
}

func (h *harness) assertWrapsAccounted(t *testing.T, none bool) {
	t.Helper()
	if none && len(h.ring.wraps) > 0 {
		t.Error("a key was wrapped before its lease and its intent were written down")
	}
	told := map[string]bool{}
	for _, name := range []broker.EventName{broker.EventExpire, broker.EventRevoke} {
		for _, e := range h.audit.named(name) {
			told[e.Leases[0].ID] = true
		}
	}
	for _, w := range h.ring.wraps {
		if w.lease != broker.Pending || !w.intended {
			t.Errorf("a key was wrapped while its lease was %q, and intended %v", w.lease, w.intended)
		}
		if !told[w.key.Lease] {
			t.Errorf("no line tells that lease %s ended", w.key.Lease)
		}
	}
}

// forgetful is a Redis that does not take promises of until when a KEK is
// needed.
type forgetful struct{ on atomic.Bool }

func (*forgetful) DialHook(next redis.DialHook) redis.DialHook { return next }
func (*forgetful) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}
func (f *forgetful) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if f.on.Load() && slices.Contains(cmd.Args(), any("brevet:ring:needed")) {
			return errInjected
		}
		return next(ctx, cmd)
	}
}

// That a KEK is needed is on record before anything is wrapped under it.
func TestPromiseComesFirst(t *testing.T) {
	h := newHarness(t)
	f := &forgetful{}
	f.on.Store(true)
	h.redis.AddHook(f)
	if issued, err := h.exchange(t, h.request(t, "artifacts")); issued != nil || broker.Refuse(err).Status != 503 || !errors.Is(err, errInjected) {
		t.Errorf("Exchange = %v, %v", issued, err)
	}
	if len(h.ring.wraps) != 0 {
		t.Error("a key was wrapped")
	}
	f.on.Store(false)
	k := h.dataKey(t, "artifacts", nil)
	head := headerOf(t, k.wrapped)
	if needed := h.needed(t, head["kid"].(string)); needed.Before(time.Unix(int64(head["exp"].(float64)), 0)) {
		t.Errorf("the KEK is needed until %s only", needed)
	}
	if _, err := h.ring.Rotate(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := h.ring.Destroy(t.Context(), head["kid"].(string), nil, time.Now().Add(47*time.Hour)); !errors.Is(err, keys.ErrNeeded) {
		t.Errorf("Destroy of a KEK that is needed = %v", err)
	}
	f.on.Store(true)
	if got, err := h.use(t, broker.EventRewrap, k.issued, k.wrapped, nil); got != nil || broker.Refuse(err).Status != 503 {
		t.Errorf("Rewrap without a promise = %v, %v", got, err)
	}
}

// A ring that cannot be read is no reason to say that a KEK was destroyed.
func TestUnknownKEKWithoutRedis(t *testing.T) {
	h := newHarness(t)
	k := h.dataKey(t, "artifacts", nil)
	foreign := newHarness(t).dataKey(t, "artifacts", nil)
	s, err := h.Authenticate(t.Context(), k.issued.Token, nil)
	if err != nil {
		t.Fatal(err)
	}
	h.server.Close()
	if _, err := h.Unwrap(t.Context(), s, foreign.wrapped, nil, &broker.Event{}); broker.Refuse(err).Status != 503 {
		t.Errorf("Unwrap under an unknown KEK, without Redis = %v", err)
	}
	if got, err := h.Unwrap(t.Context(), s, k.wrapped, nil, &broker.Event{}); err != nil || got.Plaintext.Reveal() != k.plaintext {
		t.Errorf("Unwrap under a known one = %v, %v", got, err)
	}
}

// A data key as an exchange makes it: 32 random bytes, wrapped, with a signed
// statement. Redis, the policies and the audit log are not in it.
func BenchmarkDataKeyGenerate(b *testing.B) {
	for _, credential := range []string{"artifacts", "shredded"} {
		b.Run(credential, func(b *testing.B) {
			h := newHarness(b)
			k := h.dataKey(b, credential, tarball)
			s, l := k.issued.Session, *k.issued.Session.Leases[0]
			target, err := mint.New(
				mint.Config{Name: credential, Kind: mint.KindDataKey, Shred: credential == "shredded"},
				mint.Deps{URL: brokerURL, Sign: h.epochs.Sign, SignArchival: h.epochs.SignArchival, WrapKey: h.ring.Ring.WrapKey},
			)
			if err != nil {
				b.Fatal(err)
			}
			l.State = broker.Pending
			b.ReportAllocs()
			for b.Loop() {
				if _, err := target.Minter.Mint(b.Context(), s, &l); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// Unwrapping as the broker does it for a session that was authenticated: the
// key, the context, the policies in force. Nothing of it asks Redis.
func BenchmarkDataKeyUnwrap(b *testing.B) {
	h := newHarness(b)
	k := h.dataKey(b, "artifacts", tarball)
	s, err := h.Authenticate(b.Context(), k.issued.Token, nil)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := h.Unwrap(b.Context(), s, k.wrapped, tarball, &broker.Event{}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDataKeyRewrap(b *testing.B) {
	h := newHarness(b)
	h.DataKeys = h.ring.Ring
	k := h.dataKey(b, "artifacts", tarball)
	s, err := h.Authenticate(b.Context(), k.issued.Token, nil)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := h.Rewrap(b.Context(), s, k.wrapped, tarball, &broker.Event{}); err != nil {
			b.Fatal(err)
		}
	}
}
