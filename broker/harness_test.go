package broker_test

import (
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
	"github.com/brevet-dev/brevet/issuers"
	"github.com/brevet-dev/brevet/issuers/lab"
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
	epochs *keys.Epochs
	redis  *redis.Client
}

func newHarness(t *testing.T) *harness {
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
	client := redis.NewClient(&redis.Options{Addr: miniredis.RunT(t).Addr()})
	t.Cleanup(func() { client.Close() })
	h.redis = client
	root, err := keys.NewSoftware(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	h.epochs = keys.NewEpochs(root, keys.NewRedisBoard(client), keys.EpochOptions{URL: brokerURL})
	if err := h.epochs.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.Broker, err = broker.New(&broker.Broker{
		URL: brokerURL, Issuers: set, Policies: policies.NewLive(loadPolicies(t, set, shopPolicy)),
		Leases: &faultyStore{Store: lease.New(client, testSealer(t)), faults: h.faults}, Audit: h.audit, Sessions: h.epochs,
		Targets: map[string]broker.Target{
			"deploy":   {Kind: "test", Minter: h.target.minter("deploy"), MinTTL: time.Minute},
			"registry": {Kind: "test", Minter: h.target.minter("registry")},
			"clumsy":   {Kind: "test", Minter: tooLong{h.target.minter("clumsy")}},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func loadPolicies(t *testing.T, set *issuers.Set, documents ...string) *policies.Set {
	t.Helper()
	dir := t.TempDir()
	for i, d := range documents {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%d.yaml", i)), []byte(d), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	preset, _ := set.Preset("lab")
	out, err := policies.Load(dir, policies.Options{
		Issuers:     map[string]*issuers.Preset{"lab": preset},
		Credentials: map[string]policies.Credential{"deploy": {}, "registry": {}, "clumsy": {}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func (h *harness) token(t *testing.T, claims map[string]any) api.Secret {
	t.Helper()
	token, err := h.lab.Mint(brokerURL, claims)
	if err != nil {
		t.Fatal(err)
	}
	return api.NewSecret(token)
}

// request asks for credentials with a fresh token and no DPoP key.
func (h *harness) request(t *testing.T, credentials ...string) *broker.Request {
	t.Helper()
	return &broker.Request{RequestID: "R1", SubjectToken: h.token(t, nil), Credentials: credentials}
}

// exchange does what the server does: exchange, then conclude.
func (h *harness) exchange(t *testing.T, req *broker.Request) (*broker.Issued, error) {
	t.Helper()
	ev := &broker.Event{Name: broker.EventExchange, RequestID: req.RequestID}
	issued, err := h.Exchange(t.Context(), req, ev)
	if err := h.Conclude(t.Context(), ev, issued, err); err != nil {
		return nil, err
	}
	return issued, nil
}

func (h *harness) mustExchange(t *testing.T, req *broker.Request) *broker.Issued {
	t.Helper()
	issued, err := h.exchange(t, req)
	if err != nil {
		t.Fatalf("Exchange = %v", err)
	}
	return issued
}

// sweep ends everything that is due within the next hours.
func (h *harness) sweep(t *testing.T) {
	t.Helper()
	h.faults.clear()
	if err := h.SweepOnce(t.Context(), time.Now().Add(3*time.Hour)); err != nil {
		t.Fatalf("SweepOnce = %v", err)
	}
}

// live returns the leases that live, as the store tells.
func (h *harness) live(t *testing.T) map[string]broker.State {
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
	late bool
	kill bool // what follows the step fails, too
	dead bool
}

var errInjected = errors.New("injected fault")

func (f *faults) clear() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.at, f.late, f.kill, f.dead = "", false, false, false
}

// step runs do as the named step.
func (f *faults) step(name string, do func() error) error {
	f.mu.Lock()
	hit, late, dead := f.at == name, f.late, f.dead
	if hit && f.kill {
		f.dead = true
	}
	f.mu.Unlock()
	if dead || hit && !late {
		return errInjected
	}
	if err := do(); err != nil {
		return err
	}
	if hit {
		return errInjected
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

func newKey(t *testing.T) *dpopKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &dpopKey{PrivateKey: key}
}

func coordinate(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// sign makes a proof; edit may spoil it.
func (k *dpopKey) sign(t *testing.T, method, url, token string, edit func(h, c map[string]any)) string {
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
func (k *dpopKey) proof(t *testing.T, method, path, token string) *broker.Proof {
	t.Helper()
	p, err := broker.VerifyProof(k.sign(t, method, brokerURL+path, token, nil), method, brokerURL+path, time.Now())
	if err != nil {
		t.Fatalf("VerifyProof = %v", err)
	}
	return p
}
