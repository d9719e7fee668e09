package cloud

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/brevet-dev/brevet/broker"
	"github.com/brevet-dev/brevet/broker/audit"
	"github.com/brevet-dev/brevet/broker/keys"
	"github.com/brevet-dev/brevet/broker/lease"
	"github.com/brevet-dev/brevet/broker/mint"
	"github.com/brevet-dev/brevet/broker/server"
	"github.com/brevet-dev/brevet/issuers"
	"github.com/brevet-dev/brevet/issuers/presets"
	"github.com/brevet-dev/brevet/policies"
	"github.com/brevet-dev/brevet/test/servers"
)

// A Broker is a whole broker of real parts in this process: its HTTP surface on
// loopback, a redis-server, an audit log. It has the credentials database and
// queue, of kind jwt.
type Broker struct {
	URL   string
	Lease *lease.Store
	Redis *redis.Client

	t    testing.TB
	file string // the audit log
	log  locked

	down atomic.Bool
}

// Down makes the broker answer nothing: connections end. Down(false) ends that.
func (b *Broker) Down(down bool) { b.down.Store(down) }

func (b *Broker) unlessDown(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if b.down.Load() {
			panic(http.ErrAbortHandler)
		}
		h.ServeHTTP(w, r)
	})
}

// locked is a buffer for many.
type locked struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *locked) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *locked) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// An Issuer is a platform that the broker believes.
type Issuer struct {
	Preset, URL string
	Audience    string // "": the broker's URL
	Match       string // of the policy: YAML, such as {app_id: "1"}
	TTL         string // of what the policy grants; "": 5m, and 10m of the queue
}

// StartBroker starts a broker that grants both credentials to whom the issuers'
// tokens match.
func StartBroker(t testing.TB, from ...Issuer) *Broker {
	t.Helper()
	var handler http.Handler
	public := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { handler.ServeHTTP(w, r) }))
	t.Cleanup(public.Close)
	client := redis.NewClient(&redis.Options{Addr: servers.Redis(t), MaxRetries: -1})
	b := &Broker{t: t, URL: public.URL, Redis: client}
	t.Cleanup(func() { client.Close() })
	dir := t.TempDir()
	root, err := keys.NewSoftware(time.Now())
	b.must(err)
	b.must(keys.InitRing(t.Context(), filepath.Join(dir, "ring"), root))
	ring, err := keys.OpenRing(t.Context(), client, keys.RingOptions{URL: b.URL, Root: root, State: filepath.Join(dir, "ring")})
	b.must(err)
	epochs := keys.NewEpochs(root, keys.NewRedisBoard(client), keys.EpochOptions{URL: b.URL})
	b.must(epochs.Start(t.Context()))
	b.file = filepath.Join(dir, "audit.jsonl")
	log, err := audit.Open(b.file, audit.Options{Sign: epochs.SignArchival})
	b.must(err)
	t.Cleanup(func() { log.Close() })
	targets := map[string]broker.Target{}
	for _, name := range []string{"database", "queue"} {
		targets[name], err = mint.New(mint.Config{Name: name, Kind: mint.KindJWT, Audience: "https://" + name + ".example.com", Subject: "credential:{credential}"}, mint.Deps{URL: b.URL, Sign: epochs.Sign})
		b.must(err)
	}
	set := b.issuers(from)
	b.Lease = lease.New(client, ring)
	core, err := broker.New(&broker.Broker{
		URL: b.URL, Issuers: set, Policies: policies.NewLive(b.policies(set, from, dir)), Leases: b.Lease, Audit: log,
		Sessions: epochs, DataKeys: ring, Targets: targets,
	})
	b.must(err)
	s := &server.Server{
		Broker: core, Log: slog.New(slog.NewJSONHandler(&b.log, &slog.HandlerOptions{Level: slog.LevelDebug})), Metrics: server.NewMetrics(),
		JWKS: epochs.JWKS, Trust: func() ([]byte, error) { return nil, errors.New("no bundle") },
		Ready: func(context.Context) (error, error) { return nil, nil }, Policies: func() any { return nil },
	}
	handler = b.unlessDown(s.Handler())
	b.watch(core)
	return b
}

// watch lets functions listen, until the test ends.
func (b *Broker) watch(core *broker.Broker) {
	ctx, cancel := context.WithCancel(context.Background())
	var watching sync.WaitGroup
	watching.Go(func() { core.Watch(ctx) })
	b.t.Cleanup(func() {
		cancel()
		watching.Wait()
	})
}

func (b *Broker) must(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

func (b *Broker) issuers(from []Issuer) *issuers.Set {
	b.t.Helper()
	var configs []issuers.Config
	for _, i := range from {
		if i.Audience == "" {
			i.Audience = b.URL
		}
		configs = append(configs, issuers.Config{Name: i.Preset, Preset: i.Preset, URL: i.URL, Audience: i.Audience, InsecureHTTP: true})
	}
	set, err := issuers.New(configs)
	b.must(err)
	return set
}

func (b *Broker) policies(set *issuers.Set, from []Issuer, dir string) *policies.Set {
	b.t.Helper()
	folder := filepath.Join(dir, "policies")
	b.must(os.Mkdir(folder, 0o700))
	known := map[string]*presets.Preset{}
	for _, i := range from {
		preset, _ := set.Preset(i.Preset)
		known[i.Preset] = preset
		text := "policy: shop-" + i.Preset + "\nissuer: " + i.Preset + "\nmatch: " + i.Match +
			"\ngrant:\n  - {credential: database, ttl: " + cmp.Or(i.TTL, "5m") + "}\n  - {credential: queue, ttl: " + cmp.Or(i.TTL, "10m") + "}\n"
		b.must(os.WriteFile(filepath.Join(folder, i.Preset+".yaml"), []byte(text), 0o600))
	}
	out, err := policies.Load(folder, policies.Options{Issuers: known, Credentials: map[string]policies.Credential{"database": {}, "queue": {}}})
	b.must(err)
	return out
}

// Revoke ends what is of a credential, as an operator does, and blocks it for a
// while if block is not 0.
func (b *Broker) Revoke(credential string, block time.Duration) {
	b.t.Helper()
	o := broker.NewOrder(broker.OrderRevoke, "alice@laptop", broker.Selector{Match: map[broker.Attribute]string{broker.ByCredential: credential}})
	if block > 0 {
		o.Until = o.Time.Add(block)
	}
	b.must(b.Lease.Revoke(b.t.Context(), &o, func([]string) {}))
}

// Events returns the events of a name in the audit log with an outcome; intents
// have none.
func (b *Broker) Events(name, outcome string) (out []map[string]any) {
	b.t.Helper()
	data, err := os.ReadFile(b.file)
	b.must(err)
	for line := range strings.Lines(string(data)) {
		var e map[string]any
		b.must(json.Unmarshal([]byte(line), &e))
		if e["event"] == name && e["outcome"] == outcome {
			out = append(out, e)
		}
	}
	return out
}

// Told returns all that the broker has written: its log and its audit log.
func (b *Broker) Told() string {
	b.t.Helper()
	data, err := os.ReadFile(b.file)
	b.must(err)
	return b.log.String() + string(data)
}
