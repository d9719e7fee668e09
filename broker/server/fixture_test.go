package server_test

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/golang-jwt/jwt/v5"
	"github.com/redis/go-redis/v9"

	"github.com/brevet-dev/brevet/broker"
	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/broker/audit"
	"github.com/brevet-dev/brevet/broker/keys"
	"github.com/brevet-dev/brevet/broker/lease"
	"github.com/brevet-dev/brevet/broker/mint"
	"github.com/brevet-dev/brevet/broker/server"
	"github.com/brevet-dev/brevet/issuers"
	"github.com/brevet-dev/brevet/issuers/lab"
	"github.com/brevet-dev/brevet/issuers/presets"
	"github.com/brevet-dev/brevet/policies"
)

const policy = `
policy: shop
issuer: lab
match: {repository_id: "456", ref: refs/heads/main, event_name: push}
grant:
- {credential: registry, ttl: 5m, max_ttl: 10m}
- {credential: watched, ttl: 5m, dead_man: 30s}
- {credential: shared, ttl: 5m, scope: run}
- {credential: artifacts, ttl: 5m, max_ttl: 10m, allow: [generate, unwrap, rewrap]}
- {credential: shredded, ttl: 5m, max_ttl: 10m, allow: [generate, unwrap, rewrap]}
- {credential: once, ttl: 5m, max_ttl: 10m, allow: [generate, unwrap], max_uses: 1}
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

// A fixture is a broker of real parts behind its HTTP surface. Any step can be
// made to fail, and whatever was secret in it is known.
type fixture struct {
	t       *testing.T
	url     string
	lab     *lab.Lab
	handler http.Handler
	admin   http.Handler
	broker  *broker.Broker
	ring    *keys.Ring
	redis   *miniredis.Miniredis
	file    string // the audit log
	log     bytes.Buffer
	answers bytes.Buffer // refusals, with their headers

	mu      sync.Mutex
	fail    string // the step that fails
	with    error
	secrets map[string][]byte // what must not be seen, by what it is
}

func start(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{t: t, url: "https://broker.example.com", secrets: map[string][]byte{}, redis: miniredis.RunT(t)}
	var err error
	if f.lab, err = sharedLab(); err != nil {
		t.Fatal(err)
	}
	client := redis.NewClient(&redis.Options{Addr: f.redis.Addr(), MaxRetries: -1, DialerRetries: 1})
	t.Cleanup(func() { client.Close() })
	dir := t.TempDir()
	root, err := keys.NewSoftware(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if err := keys.InitRing(t.Context(), filepath.Join(dir, "ring"), root); err != nil {
		t.Fatal(err)
	}
	if f.ring, err = keys.OpenRing(t.Context(), client, keys.RingOptions{URL: f.url, Root: root, State: filepath.Join(dir, "ring")}); err != nil {
		t.Fatal(err)
	}
	epochs := keys.NewEpochs(root, keys.NewRedisBoard(client), keys.EpochOptions{URL: f.url})
	if err := epochs.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.file = filepath.Join(dir, "audit.jsonl")
	log, err := audit.Open(f.file, audit.Options{Sign: epochs.SignArchival})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { log.Close() })
	f.build(epochs, client, log, dir)
	return f
}

func (f *fixture) build(epochs *keys.Epochs, client *redis.Client, log *audit.Log, dir string) {
	f.t.Helper()
	set, err := issuers.New([]issuers.Config{{Name: "lab", Preset: "github", URL: f.lab.URL, Audience: f.url, InsecureHTTP: true}})
	if err != nil {
		f.t.Fatal(err)
	}
	targets := map[string]broker.Target{}
	for _, c := range []mint.Config{
		{Name: "registry", Kind: mint.KindJWT, Audience: "https://registry.example.com"},
		{Name: "watched", Kind: mint.KindJWT, Audience: "https://watched.example.com"},
		{Name: "shared", Kind: mint.KindJWT, Audience: "https://shared.example.com"},
		{Name: "artifacts", Kind: mint.KindDataKey, MaxAge: 48 * time.Hour},
		{Name: "shredded", Kind: mint.KindDataKey, Shred: true},
		{Name: "once", Kind: mint.KindDataKey},
	} {
		if targets[c.Name], err = mint.New(c, mint.Deps{
			URL: f.url, Sign: epochs.Sign, SignArchival: spy{f, epochs}.SignArchival, WrapKey: spyRing{f.ring, f}.WrapKey,
		}); err != nil {
			f.t.Fatal(err)
		}
	}
	f.broker, err = broker.New(&broker.Broker{
		URL: f.url, Issuers: set, Policies: policies.NewLive(f.policies(set, dir)), Leases: &spyStore{lease.New(client, spyRing{f.ring, f}), f},
		Audit: spyAudit{log, f}, Sessions: spy{f, epochs}, DataKeys: spyRing{f.ring, f}, Targets: targets,
	})
	if err != nil {
		f.t.Fatal(err)
	}
	s := &server.Server{
		Broker: f.broker, Log: slog.New(slog.NewJSONHandler(&f.log, &slog.HandlerOptions{Level: slog.LevelDebug})), Metrics: server.NewMetrics(),
		JWKS: epochs.JWKS, Trust: func() ([]byte, error) { return nil, errors.New("no bundle") }, Ready: func(context.Context) (error, error) { return nil, nil },
		Policies: func() any { return map[string]string{"digest": "sha256:x"} },
	}
	f.handler, f.admin = s.Handler(), s.Admin()
}

func (f *fixture) policies(set *issuers.Set, dir string) *policies.Set {
	f.t.Helper()
	folder := filepath.Join(dir, "policies")
	if err := os.Mkdir(folder, 0o700); err != nil {
		f.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, "shop.yaml"), []byte(policy), 0o600); err != nil {
		f.t.Fatal(err)
	}
	preset, _ := set.Preset("lab")
	key := policies.Credential{DataKey: true}
	out, err := policies.Load(folder, policies.Options{
		Issuers:     map[string]*presets.Preset{"lab": preset},
		Credentials: map[string]policies.Credential{"registry": {}, "watched": {}, "shared": {}, "artifacts": key, "shredded": key, "once": key},
	})
	if err != nil {
		f.t.Fatal(err)
	}
	return out
}

// secret notes what must not be seen anywhere.
func (f *fixture) secret(what, value string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.secrets[fmt.Sprintf("%s %d", what, len(f.secrets))] = []byte(value)
}

// breaks makes a step fail from now on; "" none.
func (f *fixture) breaks(step string, with error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fail, f.with = step, with
}

var errInjected = errors.New("injected fault")

func (f *fixture) step(name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fail == name {
		return fmt.Errorf("%s: %w", name, cmp.Or(f.with, errInjected))
	}
	return nil
}

// spyRing sees every key that is wrapped, and every handle that is sealed, even
// if nobody gets it.
type spyRing struct {
	*keys.Ring
	f *fixture
}

func (r spyRing) WrapKey(ctx context.Context, k *broker.DataKey) (string, error) {
	r.f.secret("what is wrapped", k.Key.Reveal())
	wrapped, err := r.Ring.WrapKey(ctx, k)
	if err := errors.Join(err, r.f.step("wrap")); err != nil {
		return "", err
	}
	return wrapped, nil
}

func (r spyRing) UnwrapKey(ctx context.Context, wrapped string) (*broker.DataKey, error) {
	k, err := r.Ring.UnwrapKey(ctx, wrapped)
	if err == nil {
		r.f.secret("what is unwrapped", k.Key.Reveal())
	}
	if err := errors.Join(err, r.f.step("unwrap")); err != nil {
		return nil, err
	}
	return k, nil
}

func (r spyRing) Seal(ctx context.Context, handle, name string) (string, error) {
	r.f.secret("a handle", handle)
	if raw, err := base64.StdEncoding.DecodeString(handle); err == nil {
		r.f.secret("a share", string(raw))
	}
	sealed, err := r.Ring.Seal(ctx, handle, name)
	if err := errors.Join(err, r.f.step("seal")); err != nil {
		return "", err
	}
	return sealed, nil
}

func (r spyRing) Open(ctx context.Context, sealed, name string) (string, error) {
	handle, err := r.Ring.Open(ctx, sealed, name)
	if err := errors.Join(err, r.f.step("open")); err != nil {
		return "", err
	}
	return handle, nil
}

// spy sees every session token.
type spy struct {
	f *fixture
	*keys.Epochs
}

func (s spy) Sign(ctx context.Context, typ string, claims any) (string, error) {
	token, err := s.Epochs.Sign(ctx, typ, claims)
	s.f.secret("a session token", token)
	if err := errors.Join(err, s.f.step("sign")); err != nil {
		return "", err
	}
	return token, nil
}

func (s spy) SignArchival(ctx context.Context, typ string, claims any) (string, error) {
	token, err := s.Epochs.SignArchival(ctx, typ, claims)
	if err := errors.Join(err, s.f.step("sign archival")); err != nil {
		return "", err
	}
	return token, nil
}

type spyStore struct {
	*lease.Store
	f *fixture
}

func (s *spyStore) Reserve(ctx context.Context, x *broker.Session, u broker.TokenUse) error {
	return errors.Join(s.Store.Reserve(ctx, x, u), s.f.step("reserve"))
}

func (s *spyStore) Commit(ctx context.Context, x *broker.Session) error {
	return errors.Join(s.Store.Commit(ctx, x), s.f.step("commit"))
}

func (s *spyStore) Session(ctx context.Context, id string) (*broker.Session, error) {
	x, err := s.Store.Session(ctx, id)
	if err := errors.Join(err, s.f.step("session")); err != nil {
		return nil, err
	}
	return x, nil
}

func (s *spyStore) Lease(ctx context.Context, id string) (*broker.Lease, error) {
	l, err := s.Store.Lease(ctx, id)
	if err := errors.Join(err, s.f.step("lease")); err != nil {
		return nil, err
	}
	return l, nil
}

func (s *spyStore) CountUse(ctx context.Context, id, name string, most int, until time.Time) error {
	return errors.Join(s.Store.CountUse(ctx, id, name, most, until), s.f.step("count"))
}

func (s *spyStore) UseProof(ctx context.Context, session, proof string) error {
	return errors.Join(s.Store.UseProof(ctx, session, proof), s.f.step("proof"))
}

type spyAudit struct {
	*audit.Log
	f *fixture
}

func (a spyAudit) Record(ctx context.Context, e *broker.Event) error {
	if err := a.f.step("record " + string(e.Name)); err != nil {
		return err
	}
	return a.Log.Record(ctx, e)
}

// An answer is what came back.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// do sends a request with more headers (name, value, …).
func (f *fixture) do(method, path, contentType, body string, headers ...string) answer {
	f.t.Helper()
	r := httptest.NewRequest(method, f.url+path, strings.NewReader(body))
	r.Header.Set("Content-Type", contentType)
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Add(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	f.handler.ServeHTTP(w, r)
	a := answer{w.Code, w.Result().Header, w.Body.Bytes()}
	if a.status >= 400 {
		fmt.Fprintf(&f.answers, "%v\n%s\n", a.header, a.body)
	}
	return a
}

func (f *fixture) post(path string, form url.Values, headers ...string) answer {
	f.t.Helper()
	return f.do(http.MethodPost, path, "application/x-www-form-urlencoded", form.Encode(), headers...)
}

// form is a whole exchange for credentials, with a new token.
func (f *fixture) form(more url.Values, credentials ...string) url.Values {
	f.t.Helper()
	token, err := f.lab.Mint(f.url, nil)
	if err != nil {
		f.t.Fatal(err)
	}
	f.secret("a subject token", token)
	out := url.Values{
		"grant_type": {api.GrantTypeTokenExchange}, "subject_token": {token},
		"subject_token_type": {api.TokenTypeJWT}, "audience": credentials,
	}
	for name, values := range more {
		out[name] = values
	}
	return out
}

// A job has a session that is bound to its key.
type job struct {
	f       *fixture
	key     *ecdsa.PrivateKey
	session string
	lease   api.Lease // the first one
}

const tarball = `{"artifact":"app.tar"}`

// newJob exchanges for credentials with the context tarball.
func (f *fixture) newJob(credentials ...string) *job {
	f.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.t.Fatal(err)
	}
	j := &job{f: f, key: key}
	a := f.post(api.PathToken, f.form(url.Values{"context": {tarball}}, credentials...), "DPoP", j.proof(api.PathToken, ""))
	if a.status != http.StatusOK {
		f.t.Fatalf("POST /v1/token = %d %s", a.status, a.body)
	}
	out, err := api.DecodeTokenResponse(a.body)
	if err != nil {
		f.t.Fatal(err)
	}
	j.session, j.lease = out.AccessToken.Reveal(), out.Leases[0]
	plaintext := j.lease.Values[api.ValuePlaintext].Reveal()
	raw, err := base64.StdEncoding.DecodeString(plaintext)
	if err != nil {
		f.t.Fatal(err)
	}
	f.secret("a data key", string(raw))
	return j
}

func (j *job) value(name string) string { return j.lease.Values[name].Reveal() }

// use is the form of a request about the job's data key.
func (j *job) use() url.Values {
	return url.Values{"wrapped": {j.value(api.ValueWrapped)}, "context": {tarball}}
}

// headers are those of the job's requests.
func (j *job) headers(path string) []string {
	return []string{"Authorization", "DPoP " + j.session, "DPoP", j.proof(path, j.session)}
}

// proof makes the DPoP header of a POST; token is the session token, or "".
func (j *job) proof(path, token string) string {
	j.f.t.Helper()
	return j.proofOf(http.MethodPost, path, token)
}

// proofOf makes the DPoP header of any request.
func (j *job) proofOf(method, path, token string) string {
	j.f.t.Helper()
	point, err := j.key.PublicKey.Bytes()
	if err != nil {
		j.f.t.Fatal(err)
	}
	enc := base64.RawURLEncoding.EncodeToString
	claims := jwt.MapClaims{"jti": rand.Text(), "htm": method, "htu": j.f.url + path, "iat": time.Now().Unix()}
	if token != "" {
		sum := sha256.Sum256([]byte(token))
		claims["ath"] = enc(sum[:])
	}
	proof := jwt.NewWithClaims(jwt.SigningMethodES256, claims)
	proof.Header["typ"] = "dpop+jwt"
	proof.Header["jwk"] = map[string]any{"kty": "EC", "crv": "P-256", "x": enc(point[1:33]), "y": enc(point[33:])}
	out, err := proof.SignedString(j.key)
	if err != nil {
		j.f.t.Fatal(err)
	}
	return out
}

// lines returns the lines of the audit log that belong to a request.
func (f *fixture) lines(requestID string) (out []map[string]any) {
	f.t.Helper()
	data, err := os.ReadFile(f.file)
	if err != nil {
		f.t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		var e map[string]any
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			f.t.Fatalf("audit line is not JSON: %v", err)
		}
		if e["request_id"] == requestID {
			out = append(out, e)
		}
	}
	return out
}

// metrics returns what /metrics shows.
func (f *fixture) metrics() []byte {
	f.t.Helper()
	w := httptest.NewRecorder()
	f.admin.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	out, err := io.ReadAll(w.Result().Body)
	if err != nil || w.Code != http.StatusOK {
		f.t.Fatalf("GET /metrics = %d, %v", w.Code, err)
	}
	return out
}
