package broker_test

import (
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/golang-jwt/jwt/v5"
	"github.com/redis/go-redis/v9"

	"github.com/brevet-dev/brevet/broker"
	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/broker/keys"
	"github.com/brevet-dev/brevet/broker/lease"
	"github.com/brevet-dev/brevet/broker/mint"
	"github.com/brevet-dev/brevet/issuers"
	"github.com/brevet-dev/brevet/issuers/lab"
	"github.com/brevet-dev/brevet/issuers/presets"
	"github.com/brevet-dev/brevet/policies"
)

const brokerURL = "https://broker.example.com"

const shopPolicy = `
policy: shop
issuer: lab
match:
  repository_id: "456"
  ref: refs/heads/main
  event_name: push
grant:
- {credential: deploy, ttl: 10m, max_ttl: 30m}
- {credential: registry, ttl: 5m}
- {credential: clumsy, ttl: 5m}
- {credential: database, ttl: 10m, max_ttl: 30m}
- {credential: artifacts, ttl: 5m, max_ttl: 30m, allow: [generate, unwrap, rewrap]}
- {credential: shredded, ttl: 5m, max_ttl: 30m, allow: [generate, unwrap, rewrap]}
`

// sharedLab is one for all tests: making its RSA keys takes most of a second.
var sharedLab = sync.OnceValues(func() (*lab.Lab, error) { return lab.Start(lab.Options{}) })

func TestMain(m *testing.M) {
	code := m.Run()
	if l, err := sharedLab(); err == nil {
		l.Close()
	}
	os.Exit(code)
}

// A harness is a broker made of the real parts, with a lab issuer in front and
// a target behind that knows which of its credentials live. Any step can be
// made to fail.
type harness struct {
	*broker.Broker
	lab    *lab.Lab
	target *target
	faults *faults
	audit  *memoryAudit
	root   *keys.Software
	state  string // file of the ring
	epochs *keys.Epochs
	ring   *faultyRing
	redis  *redis.Client
	server *miniredis.Miniredis
}

func newHarness(t testing.TB) *harness {
	t.Helper()
	h := &harness{target: &target{live: map[string]string{}}, faults: &faults{}, audit: &memoryAudit{}}
	h.audit.faults = h.faults
	h.target.faults = h.faults
	var err error
	if h.lab, err = sharedLab(); err != nil {
		t.Fatal(err)
	}
	set, err := issuers.New([]issuers.Config{{Name: "lab", Preset: "github", URL: h.lab.URL, Audience: brokerURL, InsecureHTTP: true}})
	if err != nil {
		t.Fatal(err)
	}
	h.server = miniredis.RunT(t)
	h.redis = redis.NewClient(&redis.Options{Addr: h.server.Addr(), MaxRetries: -1, DialerRetries: 1})
	t.Cleanup(func() { h.redis.Close() })
	if h.root, err = keys.NewSoftware(time.Now()); err != nil {
		t.Fatal(err)
	}
	h.state = filepath.Join(t.TempDir(), "ring")
	if err := keys.InitRing(t.Context(), h.state, h.root); err != nil {
		t.Fatal(err)
	}
	h.start(t, set, policies.NewLive(loadPolicies(t, set, shopPolicy)))
	return h
}

// start makes the broker as a process would: from root, state and Redis.
func (h *harness) start(t testing.TB, set *issuers.Set, live *policies.Live) {
	t.Helper()
	h.epochs = keys.NewEpochs(h.root, keys.NewRedisBoard(h.redis), keys.EpochOptions{URL: brokerURL})
	if err := h.epochs.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	ring, err := keys.OpenRing(t.Context(), h.redis, keys.RingOptions{URL: brokerURL, Root: h.root, State: h.state})
	if err != nil {
		t.Fatal(err)
	}
	h.ring = &faultyRing{Ring: ring, h: h}
	h.Broker, err = broker.New(&broker.Broker{
		URL: brokerURL, Issuers: set, Policies: live, Leases: &faultyStore{Store: lease.New(h.redis, ring), faults: h.faults},
		Audit: h.audit, Sessions: h.epochs, DataKeys: h.ring,
		Targets: map[string]broker.Target{
			"deploy":    {Kind: "test", Minter: h.target.minter("deploy"), MinTTL: time.Minute},
			"registry":  {Kind: "test", Minter: h.target.minter("registry")},
			"clumsy":    {Kind: "test", Minter: tooLong{h.target.minter("clumsy")}},
			"database":  {Kind: "test", Minter: namedMinter{&testMinter{h.target, "database"}}},
			"artifacts": h.dataKeys(t, mint.Config{Name: "artifacts", Kind: mint.KindDataKey, MaxAge: 48 * time.Hour}),
			"shredded":  h.dataKeys(t, mint.Config{Name: "shredded", Kind: mint.KindDataKey, Shred: true}),
		},
	})
	if err != nil {
		t.Fatal(err)
	}
}

// restart is what another process finds: all that was in memory is gone.
func (h *harness) restart(t testing.TB) {
	t.Helper()
	h.start(t, h.Issuers, h.Policies)
}

func (h *harness) dataKeys(t testing.TB, c mint.Config) broker.Target {
	t.Helper()
	sign := func(ctx context.Context, typ string, claims any) (token string, err error) {
		err = h.faults.step("sign", func() error { token, err = h.epochs.SignArchival(ctx, typ, claims); return err })
		return token, err
	}
	target, err := mint.New(c, mint.Deps{URL: brokerURL, Sign: h.epochs.Sign, SignArchival: sign, WrapKey: h.ring.WrapKey})
	if err != nil {
		t.Fatal(err)
	}
	return target
}

func loadPolicies(t testing.TB, set *issuers.Set, documents ...string) *policies.Set {
	t.Helper()
	dir := t.TempDir()
	for i, d := range documents {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%d.yaml", i)), []byte(d), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	preset, _ := set.Preset("lab")
	out, err := policies.Load(dir, policies.Options{
		Issuers: map[string]*presets.Preset{"lab": preset},
		Credentials: map[string]policies.Credential{
			"deploy": {}, "registry": {}, "clumsy": {}, "database": {}, "artifacts": {DataKey: true}, "shredded": {DataKey: true},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func (h *harness) token(t testing.TB, claims map[string]any) api.Secret {
	t.Helper()
	token, err := h.lab.Mint(brokerURL, claims)
	if err != nil {
		t.Fatal(err)
	}
	return api.NewSecret(token)
}

// request asks for credentials with a fresh token and no DPoP key.
func (h *harness) request(t testing.TB, credentials ...string) *broker.Request {
	t.Helper()
	return &broker.Request{RequestID: "R1", SubjectToken: h.token(t, nil), Credentials: credentials}
}

// exchange does what the server does: exchange, then conclude.
func (h *harness) exchange(t testing.TB, req *broker.Request) (*broker.Issued, error) {
	t.Helper()
	ev := &broker.Event{Name: broker.EventExchange, RequestID: req.RequestID}
	issued, err := h.Exchange(t.Context(), req, ev)
	if err := h.Conclude(t.Context(), ev, issued, err); err != nil {
		return nil, err
	}
	return issued, nil
}

func (h *harness) mustExchange(t testing.TB, req *broker.Request) *broker.Issued {
	t.Helper()
	issued, err := h.exchange(t, req)
	if err != nil {
		t.Fatalf("Exchange = %v", err)
	}
	return issued
}

// sweep ends everything that is due within the next hours.
func (h *harness) sweep(t testing.TB) {
	t.Helper()
	h.faults.clear()
	if err := h.SweepOnce(t.Context(), time.Now().Add(3*time.Hour)); err != nil {
		t.Fatalf("SweepOnce = %v", err)
	}
}

// live returns the leases that live, as the store tells.
func (h *harness) live(t testing.TB) map[string]broker.State {
	t.Helper()
	out := map[string]broker.State{}
	store := h.Leases.(*faultyStore).Store
	if err := store.All(t.Context(), func(l *broker.Lease) error { out[l.ID] = l.State; return nil }); err != nil {
		t.Fatal(err)
	}
	return out
}

// faults says which steps fail. A step that fails "late" does its work and then
// loses the answer; after "dead" nothing works any more, as for a process that
// was killed.
type faults struct {
	mu   sync.Mutex
	at   string // name of the step
	is   error  // what it fails with; nil: errInjected
	late bool
	kill bool // what follows the step fails, too
	dead bool
}

var errInjected = errors.New("injected fault")

func (f *faults) clear() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.at, f.is, f.late, f.kill, f.dead = "", nil, false, false, false
}

// step runs do as the named step.
func (f *faults) step(name string, do func() error) error {
	f.mu.Lock()
	hit, late, dead, is := f.at == name, f.late, f.dead, cmp.Or(f.is, errInjected)
	if hit && f.kill {
		f.dead = true
	}
	f.mu.Unlock()
	if dead || hit && !late {
		return is
	}
	if err := do(); err != nil {
		return err
	}
	if hit {
		return is
	}
	return nil
}

type faultyStore struct {
	*lease.Store
	faults *faults
}

func (s *faultyStore) Reserve(ctx context.Context, x *broker.Session, u broker.TokenUse) error {
	return s.faults.step("reserve", func() error { return s.Store.Reserve(ctx, x, u) })
}

func (s *faultyStore) Commit(ctx context.Context, x *broker.Session) error {
	return s.faults.step("commit", func() error { return s.Store.Commit(ctx, x) })
}

func (s *faultyStore) Extend(ctx context.Context, l *broker.Lease, until time.Time) error {
	return s.faults.step("extend", func() error { return s.Store.Extend(ctx, l, until) })
}

func (s *faultyStore) Heartbeat(ctx context.Context, session, proof string) error {
	return s.faults.step("heartbeat", func() error { return s.Store.Heartbeat(ctx, session, proof) })
}

func (s *faultyStore) Confirm(ctx context.Context, l *broker.Lease) error {
	return s.faults.step("confirm", func() error { return s.Store.Confirm(ctx, l) })
}

func (s *faultyStore) End(ctx context.Context, id string, leases []string, why string) (out []*broker.Lease, err error) {
	err = s.faults.step("end", func() error { out, err = s.Store.End(ctx, id, leases, why); return err })
	return out, err
}

func (s *faultyStore) Finish(ctx context.Context, l *broker.Lease, final broker.State) error {
	return s.faults.step("finish", func() error { return s.Store.Finish(ctx, l, final) })
}

func (s *faultyStore) Lease(ctx context.Context, id string) (out *broker.Lease, err error) {
	err = s.faults.step("lease", func() error { out, err = s.Store.Lease(ctx, id); return err })
	return out, err
}

func (s *faultyStore) CountUse(ctx context.Context, id, name string, most int, until time.Time) error {
	return s.faults.step("count", func() error { return s.Store.CountUse(ctx, id, name, most, until) })
}

// A faultyRing keeps what it wrapped, and how things stood when it did.
type faultyRing struct {
	*keys.Ring
	h *harness

	mu    sync.Mutex
	wraps []wrapping
}

// A wrapping is a wrapped key that came to be, whoever got it.
type wrapping struct {
	key      *broker.DataKey
	wrapped  string
	lease    broker.State // of its lease at that time; "" without one
	intended bool         // a line in the audit log told of it before
}

func (r *faultyRing) WrapKey(ctx context.Context, k *broker.DataKey) (wrapped string, err error) {
	w := wrapping{key: k}
	if l, err := r.h.Leases.(*faultyStore).Store.Lease(ctx, k.Lease); err == nil {
		w.lease = l.State
	}
	w.intended = slices.ContainsFunc(r.h.audit.named(broker.EventIntent), func(e broker.Event) bool {
		return slices.ContainsFunc(e.Leases, func(l broker.EventLease) bool { return l.ID == k.Lease })
	})
	err = r.h.faults.step("wrap", func() error {
		if w.wrapped, err = r.Ring.WrapKey(ctx, k); err != nil {
			return err
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		r.wraps = append(r.wraps, w)
		return nil
	})
	if err != nil {
		return "", err
	}
	return w.wrapped, nil
}

func (r *faultyRing) UnwrapKey(ctx context.Context, wrapped string) (k *broker.DataKey, err error) {
	err = r.h.faults.step("unwrap", func() error { k, err = r.Ring.UnwrapKey(ctx, wrapped); return err })
	if err != nil {
		return nil, err
	}
	return k, nil
}

// memoryAudit keeps events in order.
type memoryAudit struct {
	faults *faults
	mu     sync.Mutex
	events []broker.Event
}

func (a *memoryAudit) Record(_ context.Context, e *broker.Event) error {
	return a.faults.step("record "+string(e.Name), func() error {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.events = append(a.events, *e)
		return nil
	})
}

func (a *memoryAudit) named(name broker.EventName) []broker.Event {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(a.events), func(e broker.Event) bool { return e.Name != name })
}

// target is where credentials live: it can list them, each under its lease.
type target struct {
	faults *faults
	mu     sync.Mutex
	live   map[string]string // lease id → credential
	minted int
}

func (t *target) leases() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []string
	for id := range t.live {
		out = append(out, id)
	}
	slices.Sort(out)
	return out
}

func (t *target) minter(name string) broker.Minter { return &testMinter{t, name} }

type testMinter struct {
	target *target
	name   string
}

func (m *testMinter) Mint(_ context.Context, _ *broker.Session, l *broker.Lease) (*broker.Credential, error) {
	cred := &broker.Credential{
		Values: map[string]api.Secret{"password": api.NewSecret("canary-" + l.ID)}, Env: map[string]string{"PASSWORD": "password"},
		Sensitive: []string{"password"}, Expires: l.Expires, Handle: api.NewSecret(l.ID),
	}
	return cred, m.target.faults.step("mint "+m.name, func() error {
		m.target.mu.Lock()
		defer m.target.mu.Unlock()
		m.target.live[l.ID] = m.name
		m.target.minted++
		return nil
	})
}

func (m *testMinter) Revoke(_ context.Context, handle api.Secret) error {
	return m.target.faults.step("revoke "+m.name, func() error {
		m.target.mu.Lock()
		defer m.target.mu.Unlock()
		delete(m.target.live, handle.Reveal())
		return nil
	})
}

// tooLong makes credentials that outlive their lease.
type tooLong struct{ broker.Minter }

func (m tooLong) Mint(ctx context.Context, s *broker.Session, l *broker.Lease) (*broker.Credential, error) {
	cred, err := m.Minter.Mint(ctx, s, l)
	cred.Expires = l.Expires.Add(time.Second)
	return cred, err
}

// A dpopKey is a job's.
type dpopKey struct {
	*ecdsa.PrivateKey
	n int
}

func newKey(t testing.TB) *dpopKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &dpopKey{PrivateKey: key}
}

func coordinate(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// sign makes a proof; edit may spoil it.
func (k *dpopKey) sign(t testing.TB, method, url, token string, edit func(h, c map[string]any)) string {
	t.Helper()
	point, err := k.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	k.n++
	claims := jwt.MapClaims{"jti": fmt.Sprint(k.n), "htm": method, "htu": url, "iat": time.Now().Unix()}
	if token != "" {
		sum := sha256.Sum256([]byte(token))
		claims["ath"] = coordinate(sum[:])
	}
	proof := jwt.NewWithClaims(jwt.SigningMethodES256, claims)
	proof.Header["typ"] = "dpop+jwt"
	proof.Header["jwk"] = map[string]any{"kty": "EC", "crv": "P-256", "x": coordinate(point[1:33]), "y": coordinate(point[33:])}
	if edit != nil {
		edit(proof.Header, claims)
	}
	out, err := proof.SignedString(k.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// proof returns the verified proof of a request with k.
func (k *dpopKey) proof(t testing.TB, method, path, token string) *broker.Proof {
	t.Helper()
	p, err := broker.VerifyProof(k.sign(t, method, brokerURL+path, token, nil), method, brokerURL+path, time.Now())
	if err != nil {
		t.Fatalf("VerifyProof = %v", err)
	}
	return p
}
