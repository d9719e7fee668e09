// Package chaos lets brokers exchange while Redis fails in every way that is
// known, and keeps books: of what was answered, of the leases, of the
// credentials at their target, and of the audit log. At the end they must
// agree.
//
// Each fault lasts a few seconds; CHAOSTIME=1m makes it as long as that.
package chaos

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/redis/go-redis/v9"

	"github.com/brevet-dev/brevet/broker"
	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/broker/audit"
	"github.com/brevet-dev/brevet/broker/keys"
	"github.com/brevet-dev/brevet/broker/lease"
	"github.com/brevet-dev/brevet/issuers"
	"github.com/brevet-dev/brevet/issuers/lab"
	"github.com/brevet-dev/brevet/issuers/presets"
	"github.com/brevet-dev/brevet/policies"
	"github.com/brevet-dev/brevet/test/servers"
)

const brokerURL = "https://broker.example.com"

const policyText = `policy: shop
issuer: lab
match: {repository_id: "456", ref: refs/heads/main, event_name: push}
grant:
- {credential: database, ttl: %s, max_ttl: 1h}
- {credential: registry, ttl: %[1]s, max_ttl: 1h}
`

// chaosTime is how long a fault lasts.
func chaosTime(t *testing.T) time.Duration {
	t.Helper()
	text := os.Getenv("CHAOSTIME")
	if text == "" {
		return 3 * time.Second
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatalf("CHAOSTIME: %v", err)
	}
	return d
}

// A world is two brokers on one Redis, with an issuer in front and a target
// behind.
type world struct {
	t       *testing.T
	dir     string
	lab     *lab.Lab
	target  *target
	brokers [2]*node
	books   *books

	stop  context.CancelFunc
	loops sync.WaitGroup
}

// A node is one broker, with its own connections and audit log.
type node struct {
	*broker.Broker
	store *lease.Store
	redis redis.UniversalClient
	audit *audit.Log
	skew  time.Duration // of its sweeper's clock
}

// options are what differs between worlds.
type options struct {
	dial     func() redis.UniversalClient
	replicas int           // wait_replicas
	ttl      string        // of leases; "" is 10m
	skew     time.Duration // one broker is early by it, the other late
}

func newWorld(t *testing.T, o options) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir(), target: newTarget(t)}
	w.books = &books{world: w, answered: map[string]*answer{}}
	var err error
	if w.lab, err = lab.Start(lab.Options{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.lab.Close() })
	root, err := keys.NewSoftware(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	live := w.policies(o.ttl)
	for i := range w.brokers {
		w.brokers[i] = w.newNode(i, o, root, live)
	}
	w.brokers[0].skew, w.brokers[1].skew = o.skew, -o.skew
	w.acquaint()
	return w
}

// acquaint waits until each broker knows the other's epoch, which takes a
// second at most: until then a session of the other is nobody's.
func (w *world) acquaint() {
	w.t.Helper()
	for i, n := range w.brokers {
		token, err := n.Sessions.Sign(w.t.Context(), "at+jwt", map[string]string{})
		if err != nil {
			w.t.Fatal(err)
		}
		servers.Eventually(w.t, "brokers know each other", func() error {
			return w.brokers[1-i].Sessions.Verify(w.t.Context(), "at+jwt", token, &map[string]any{})
		})
	}
}

func (w *world) policies(ttl string) *policies.Live {
	w.t.Helper()
	if ttl == "" {
		ttl = "10m"
	}
	dir := filepath.Join(w.dir, "policies")
	if err := errors.Join(os.Mkdir(dir, 0o700), os.WriteFile(filepath.Join(dir, "shop.yaml"), fmt.Appendf(nil, policyText, ttl), 0o600)); err != nil {
		w.t.Fatal(err)
	}
	preset, _ := w.issuers().Preset("lab")
	set, err := policies.Load(dir, policies.Options{
		Issuers:     map[string]*presets.Preset{"lab": preset},
		Credentials: map[string]policies.Credential{"database": {}, "registry": {}},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return policies.NewLive(set)
}

func (w *world) issuers() *issuers.Set {
	w.t.Helper()
	set, err := issuers.New([]issuers.Config{{Name: "lab", Preset: "github", URL: w.lab.URL, Audience: brokerURL, InsecureHTTP: true}})
	if err != nil {
		w.t.Fatal(err)
	}
	return set
}

func (w *world) auditFile(i int) string {
	return filepath.Join(w.dir, fmt.Sprintf("audit-%d.jsonl", i))
}

func (w *world) newNode(i int, o options, root keys.Root, live *policies.Live) *node {
	w.t.Helper()
	n := &node{redis: o.dial()}
	n.store = lease.New(n.redis, plainSealer{}).WaitReplicas(o.replicas)
	epochs := keys.NewEpochs(root, keys.NewRedisBoard(n.redis), keys.EpochOptions{URL: brokerURL})
	if err := epochs.Start(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	var err error
	if n.audit, err = audit.Open(w.auditFile(i), audit.Options{Sign: epochs.SignArchival}); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { errors.Join(n.audit.Close(), n.redis.Close()) })
	n.Broker, err = broker.New(&broker.Broker{
		URL: brokerURL, Issuers: w.issuers(), Policies: live, Leases: n.store, Audit: n.audit, Sessions: epochs, DataKeys: noDataKeys{},
		Targets: map[string]broker.Target{"database": {Kind: "test", Minter: w.target}, "registry": {Kind: "test", Minter: w.target}},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return n
}

// plainSealer seals nothing: that is tested elsewhere.
type plainSealer struct{}

func (plainSealer) Seal(_ context.Context, handle, name string) (string, error) {
	return name + ":" + handle, nil
}

func (plainSealer) Open(_ context.Context, sealed, name string) (string, error) {
	handle, ok := strings.CutPrefix(sealed, name+":")
	if !ok {
		return "", errors.New("sealed for another lease")
	}
	return handle, nil
}

func (plainSealer) KeyOf(string) (string, bool, error) { return "plain", true, nil }

// noDataKeys stands in for the ring, of which nothing is asked here.
type noDataKeys struct{}

func (noDataKeys) WrapKey(context.Context, *broker.DataKey) (string, error) {
	return "", broker.ErrUnavailable
}

func (noDataKeys) UnwrapKey(context.Context, string) (*broker.DataKey, error) {
	return nil, broker.ErrWrapped
}

// proof makes a DPoP proof for an exchange.
func proof(key *ecdsa.PrivateKey) (*broker.Proof, error) {
	point, err := key.PublicKey.Bytes()
	if err != nil {
		return nil, err
	}
	encode := base64.RawURLEncoding.EncodeToString
	url := brokerURL + api.PathToken
	token := jwt.NewWithClaims(jwt.SigningMethodES256, jwt.MapClaims{"jti": rand.Text(), "htm": "POST", "htu": url, "iat": time.Now().Unix()})
	token.Header["typ"] = "dpop+jwt"
	token.Header["jwk"] = map[string]any{"kty": "EC", "crv": "P-256", "x": encode(point[1:33]), "y": encode(point[33:])}
	signed, err := token.SignedString(key)
	if err != nil {
		return nil, err
	}
	return broker.VerifyProof(signed, "POST", url, time.Now())
}

// A job is what a workload does: it exchanges a token that it fetched, with a
// key of its own, and again if it is told to.
type job struct {
	world *world
	token api.Secret
	key   *ecdsa.PrivateKey
}

func (w *world) newJob() (*job, error) {
	token, err := w.lab.Mint(brokerURL, nil)
	if err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	return &job{w, api.NewSecret(token), key}, err
}

// exchange does what the server does. Without a key it is a thief's.
func (j *job) exchange(ctx context.Context, n *node, key *ecdsa.PrivateKey) (*broker.Issued, error) {
	req := &broker.Request{RequestID: rand.Text(), SubjectToken: j.token, Credentials: []string{"database", "registry"}}
	if key != nil {
		var err error
		if req.Proof, err = proof(key); err != nil {
			return nil, err
		}
	}
	ev := &broker.Event{Name: broker.EventExchange, RequestID: req.RequestID}
	issued, err := n.Exchange(ctx, req, ev)
	if err := n.Conclude(ctx, ev, issued, err); err != nil {
		return nil, err
	}
	return issued, nil
}
