package keys

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/brevet-dev/brevet/broker"
	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/broker/keys/trust"
)

const ringURL = "https://broker.example.com"

// A node is a broker as far as the ring goes: a root, a state, one Redis.
type node struct {
	*Ring
	name    string
	root    *countingRoot
	file    string
	redis   *miniredis.Miniredis
	client  redis.UniversalClient
	changes []RingChange
	log     strings.Builder
}

// A countingRoot is a software root with a counter, as chips have one.
type countingRoot struct {
	*Software
	counter atomic.Uint64
	counts  atomic.Uint64 // how often it was read
	broken  atomic.Bool
}

var errCounter = errors.New("the counter is broken")

func (c *countingRoot) Count(context.Context) (uint64, error) {
	c.counts.Add(1)
	return c.counter.Load(), nil
}

func (c *countingRoot) Increment(context.Context) (uint64, error) {
	if c.broken.Load() {
		return 0, errCounter
	}
	return c.counter.Add(1), nil
}

// newNode makes a broker that has not opened the ring yet.
func newNode(t testing.TB, server *miniredis.Miniredis) *node {
	t.Helper()
	soft, err := NewSoftware(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	n := &node{
		name: trust.Fingerprint(soft.Certificate()), root: &countingRoot{Software: soft},
		file: filepath.Join(t.TempDir(), "ring"), redis: server,
	}
	n.root.counter.Store(41) // a chip's counter does not begin at 0
	n.client = redis.NewClient(&redis.Options{Addr: server.Addr(), MaxRetries: -1})
	t.Cleanup(func() { n.client.Close() })
	if err := InitRing(t.Context(), n.file, n.root); err != nil {
		t.Fatal(err)
	}
	return n
}

func (n *node) options() RingOptions {
	return RingOptions{
		URL: ringURL, Root: n.root, State: n.file, Log: slog.New(slog.NewTextHandler(&n.log, nil)),
		Record: func(_ context.Context, c RingChange) error { n.changes = append(n.changes, c); return nil },
	}
}

func (n *node) open(t testing.TB) error {
	r, err := OpenRing(t.Context(), n.client, n.options())
	if err == nil {
		n.Ring = r
	}
	return err
}

// founder returns a broker that has founded a fleet.
func founder(t testing.TB) *node {
	t.Helper()
	n := newNode(t, miniredis.RunT(t))
	must(t, n.open(t))
	return n
}

// fleet returns two brokers of one fleet.
func fleet(t testing.TB) (a, b *node) {
	t.Helper()
	a = founder(t)
	b = newNode(t, a.redis)
	join(t, a, b)
	must(t, b.open(t))
	return a, b
}

// join lets b into a's fleet.
func join(t testing.TB, a, b *node) {
	t.Helper()
	joined := make(chan error, 1)
	go func() { joined <- Join(context.WithoutCancel(t.Context()), b.client, b.options(), a.name) }()
	for {
		_, err := a.Enroll(t.Context(), b.name, EnrollOptions{})
		if err == nil {
			break
		}
		if !errors.Is(err, ErrNoApplicant) {
			t.Fatal(err)
		}
	}
	must(t, <-joined)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// again makes the broker look although it did so just now.
func (n *node) again(t testing.TB) error {
	must(t, n.begin(t.Context()))
	defer n.end()
	return n.report(n.look(t.Context()))
}

func (n *node) wrap(t testing.TB) string {
	t.Helper()
	wrapped, err := n.WrapKey(t.Context(), testDataKey())
	must(t, err)
	return wrapped
}

func testDataKey() *broker.DataKey {
	now := time.Now().Truncate(time.Second)
	return &broker.DataKey{
		ID: "dk-x", Credential: "artifacts", Lease: "l1-x", Bound: boundTo("{}"), Issued: now, Expires: now.Add(time.Hour),
		Key: api.NewSecret(strings.Repeat("k", api.DataKeySize)),
	}
}

func (n *node) unwraps(t testing.TB, wrapped string) {
	t.Helper()
	k, err := n.UnwrapKey(t.Context(), wrapped)
	if err != nil || k.Key.Reveal() != testDataKey().Key.Reveal() {
		t.Errorf("UnwrapKey = %+v, %v", k, err)
	}
}

// dump is the ring as Redis has it.
func (n *node) dump() map[string]string {
	return map[string]string{"head": n.redis.HGet(ringKey, "head"), "ring": n.redis.HGet(ringKey, "ring")}
}

func (n *node) restore(dump map[string]string) {
	n.redis.Del(ringKey)
	for field, value := range dump {
		n.redis.HSet(ringKey, field, value)
	}
}

func TestRingOfOne(t *testing.T) {
	a := founder(t)
	wrapped := a.wrap(t)
	a.unwraps(t, wrapped)
	sealed, err := a.Seal(t.Context(), "handle", "l1-x/db")
	must(t, err)
	if got, err := a.Open(t.Context(), sealed, "l1-x/db"); err != nil || got != "handle" {
		t.Errorf("Open = %q, %v", got, err)
	}
	if _, err := a.Open(t.Context(), sealed, "l1-y/db"); !errors.Is(err, broker.ErrWrapped) {
		t.Errorf("Open under another name = %v", err)
	}
	if _, err := a.UnwrapKey(t.Context(), sealed); !errors.Is(err, broker.ErrWrapped) {
		t.Errorf("UnwrapKey of a handle = %v", err)
	}
	must(t, a.open(t)) // a restart
	a.unwraps(t, wrapped)
	if len(a.changes) != 2 || a.changes[0].Version != 1 || a.changes[0].By != a.name {
		t.Errorf("recorded %+v", a.changes)
	}
}

func TestRingOfTwo(t *testing.T) {
	a, b := fleet(t)
	b.unwraps(t, a.wrap(t))
	a.unwraps(t, b.wrap(t))
	if got := b.Status(); len(got.Members) != 2 || got.Version != 2 || got.Err != nil {
		t.Errorf("Status of the one that joined = %+v", got)
	}
	if len(a.Roots()) != 2 || !slices.ContainsFunc(a.Roots(), b.root.Certificate().Equal) {
		t.Errorf("Roots = %d certificates", len(a.Roots()))
	}
	before := a.wrap(t)
	sealed, err := a.Seal(t.Context(), "handle", "l1-x")
	must(t, err)
	c, err := b.Rotate(t.Context())
	must(t, err)
	a.unwraps(t, b.wrap(t)) // a meets a KEK that it does not know, and looks
	if got := a.Status(); got.Version != 3 || got.KEKs[1].ID != c.KEK || !got.KEKs[1].Newest {
		t.Errorf("Status after the other's rotation = %+v", got)
	}
	b.unwraps(t, before)
	if id, newest, err := a.KeyOf(sealed); newest || err != nil || id == c.KEK {
		t.Errorf("KeyOf what was sealed before a rotation = %s, %v, %v", id, newest, err)
	}
	a.root.Software = nil // one is lost, with its chip
	must(t, b.open(t))
	b.unwraps(t, before)
}

func TestKnownRoots(t *testing.T) {
	a, b := fleet(t)
	roots, err := KnownRoots(b.options())
	if err != nil || len(roots) != 2 || !roots[0].Equal(b.root.cert) || !roots[1].Equal(a.root.cert) {
		t.Errorf("KnownRoots = %d, %v", len(roots), err)
	}
	c := newNode(t, a.redis)
	if roots, err := KnownRoots(c.options()); err != nil || len(roots) != 1 {
		t.Errorf("KnownRoots without a fleet = %d, %v", len(roots), err)
	}
}

func TestRingIsRolledBack(t *testing.T) {
	for name, damage := range map[string]func(n *node, old map[string]string){
		"an older one":   func(n *node, old map[string]string) { n.restore(old) },
		"Redis is empty": func(n *node, _ map[string]string) { n.redis.FlushAll() },
		"garbage":        func(n *node, _ map[string]string) { n.restore(map[string]string{"head": "x", "ring": "x.y.z"}) },
		"one bit": func(n *node, _ map[string]string) {
			n.restore(map[string]string{"head": "x", "ring": flip(n.dump()["ring"])})
		},
		"a head of nothing":        func(n *node, _ map[string]string) { n.redis.HSet(ringKey, "head", "9 sha256:00") },
		"no head":                  func(n *node, _ map[string]string) { n.redis.HDel(ringKey, "head") },
		"one bit, noticed by none": func(n *node, _ map[string]string) { n.redis.HSet(ringKey, "ring", flip(n.dump()["ring"])) },
	} {
		t.Run(name, func(t *testing.T) {
			a := founder(t)
			old := a.dump()
			_, err := a.Rotate(t.Context())
			must(t, err)
			want, wrapped := a.dump(), a.wrap(t)
			damage(a, old)
			must(t, a.again(t))
			a.unwraps(t, wrapped)
			must(t, a.open(t)) // a restart finds it too
			if got := a.dump(); got["head"] != want["head"] || got["ring"] != want["ring"] {
				t.Errorf("the ring in Redis is not the newest: %.60q", got)
			}
			a.unwraps(t, wrapped)
			if _, err := a.Rotate(t.Context()); err != nil {
				t.Errorf("Rotate afterwards = %v", err)
			}
		})
	}
	a := founder(t)
	a.wrap(t)
	needed := a.redis.HGet(neededKey, a.Status().KEKs[0].ID)
	a.redis.FlushAll()
	must(t, a.again(t))
	if got := a.redis.HGet(neededKey, a.Status().KEKs[0].ID); got != needed || got == "" {
		t.Errorf("until when the KEK is needed: %q, want %q", got, needed)
	}
	if a.Status().Rollbacks != 1 || !strings.Contains(a.log.String(), "putting back") {
		t.Errorf("a rollback was not told: %+v\n%s", a.Status(), a.log.String())
	}
}

// flip changes one bit in the middle of a token's payload.
func flip(token string) string {
	b := []byte(token)
	i := strings.Index(token, ".") + len(token)/3
	if b[i]++; !strings.ContainsRune("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_", rune(b[i])) {
		b[i] = 'A'
	}
	return string(b)
}

// A ring that someone else signed, or that forks from the known one, is never
// used, and what is in use goes on.
func TestRingIsForged(t *testing.T) {
	a := founder(t)
	start := a.dump()
	stranger := founder(t)
	for range 3 {
		_, err := stranger.Rotate(t.Context())
		must(t, err)
	}
	forged := stranger.dump()
	withUs := stranger.forge(t, func(d *ringDocument) {
		d.Members = append(d.Members, a.state.Load().Members[0])
		for i := range d.KEKs {
			d.KEKs[i].Wrapped[a.name] = []byte("x")
		}
	})
	for name, dump := range map[string]map[string]string{"a stranger's": forged, "a stranger's with this broker in it": withUs} {
		a.restore(dump)
		if err := a.again(t); !errors.Is(err, ErrRing) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := a.WrapKey(t.Context(), testDataKey()); err != nil {
			t.Errorf("%s: what is in use does not go on: %v", name, err)
		}
		if err := a.open(t); !errors.Is(err, ErrRing) {
			t.Errorf("%s: at a restart: %v", name, err)
		}
	}
	a.restore(start)
	must(t, a.again(t))
}

// forge is what Redis has after n signed whatever edit makes of the next
// edition.
func (n *node) forge(t testing.TB, edit func(*ringDocument)) map[string]string {
	t.Helper()
	d := n.state.Load().next(ringURL, "forged", time.Now())
	edit(d)
	e, err := d.sign(n.root, time.Now())
	must(t, err)
	return map[string]string{"head": e.head(), "ring": e.token}
}

func TestRingForks(t *testing.T) {
	a, b := fleet(t)
	other := b.forge(t, func(d *ringDocument) { d.Change = "one side" })
	_, err := a.Rotate(t.Context())
	must(t, err)
	must(t, b.again(t))
	b.restore(other)
	if err := a.again(t); !errors.Is(err, ErrRing) || !strings.Contains(err.Error(), "two fleets") {
		t.Errorf("another edition of the same version = %v", err)
	}
}

func TestRemovedBroker(t *testing.T) {
	a, b := fleet(t)
	wrapped := a.wrap(t)
	back := b.forge(t, func(d *ringDocument) { d.Version += 2; d.Previous = "x" })
	if _, err := a.Remove(t.Context(), a.name); err == nil {
		t.Error("a broker removes itself")
	}
	if _, err := a.Remove(t.Context(), "sha256:00"); err == nil {
		t.Error("a stranger is removed")
	}
	c, err := a.Remove(t.Context(), b.name)
	must(t, err)
	if !slices.Equal(c.Members, []string{a.name}) {
		t.Errorf("members afterwards: %v", c.Members)
	}
	a.unwraps(t, wrapped)
	if err := b.again(t); !errors.Is(err, ErrRemoved) {
		t.Errorf("the removed one looks: %v", err)
	}
	if err := b.again(t); !errors.Is(err, ErrNotMember) {
		t.Errorf("the removed one looks once more: %v", err)
	}
	for what, try := range map[string]func() error{
		"wraps":   func() error { _, err := b.WrapKey(t.Context(), testDataKey()); return err },
		"unwraps": func() error { _, err := b.UnwrapKey(t.Context(), wrapped); return err },
		"seals":   func() error { _, err := b.Seal(t.Context(), "handle", "l1-x"); return err },
	} {
		if err := try(); !errors.Is(err, broker.ErrUnavailable) {
			t.Errorf("the removed one %s: %v", what, err)
		}
	}
	if err := b.open(t); !errors.Is(err, ErrNotMember) {
		t.Errorf("the removed one starts: %v", err)
	}
	a.restore(back) // it signs a later edition with itself in it
	if err := a.again(t); !errors.Is(err, ErrRing) || !strings.Contains(err.Error(), "removed") {
		t.Errorf("the removed one comes back: %v", err)
	}
}

func TestNotMember(t *testing.T) {
	a := founder(t)
	b := newNode(t, a.redis)
	if err := b.open(t); !errors.Is(err, ErrNotMember) {
		t.Errorf("OpenRing of a stranger = %v", err)
	}
}

// Two that found a fleet at once become one fleet of one.
func TestFoundedAtOnce(t *testing.T) {
	server := miniredis.RunT(t)
	nodes := []*node{newNode(t, server), newNode(t, server), newNode(t, server)}
	errs := make([]error, len(nodes))
	var all sync.WaitGroup
	for i, n := range nodes {
		all.Go(func() { errs[i] = n.open(t) })
	}
	all.Wait()
	founded := 0
	for _, err := range errs {
		if err == nil {
			founded++
		} else if !errors.Is(err, ErrNotMember) {
			t.Error(err)
		}
	}
	if founded != 1 {
		t.Errorf("%d fleets were founded", founded)
	}
}

func TestRotateAtOnce(t *testing.T) {
	a, b := fleet(t)
	var all sync.WaitGroup
	for range 4 {
		for _, n := range []*node{a, b} {
			all.Go(func() {
				if _, err := n.Rotate(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
	}
	all.Wait()
	must(t, a.again(t))
	must(t, b.again(t))
	sa, sb := a.Status(), b.Status()
	if sa.Version != 10 || len(sa.KEKs) != 9 || sa.Digest != sb.Digest {
		t.Errorf("after eight rotations by two: version %d with %d KEKs, and version %d", sa.Version, len(sa.KEKs), sb.Version)
	}
	b.unwraps(t, a.wrap(t))
}

func TestDestroy(t *testing.T) {
	a := founder(t)
	old, later := a.Status().KEKs[0].ID, time.Now().Add(24*time.Hour)
	refused := func(id string, sealed map[string]int, now time.Time, want string) {
		t.Helper()
		if _, err := a.Destroy(t.Context(), id, sealed, now); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Destroy = %v, want %q", err, want)
		}
	}
	wrapped := a.wrap(t)
	refused("no such", nil, later, "no KEK")
	refused(old, nil, later, "newest")
	_, err := a.Rotate(t.Context())
	must(t, err)
	refused(old, nil, time.Now(), "notice")
	refused(old, map[string]int{old: 3}, later, "3 leases")
	refused(old, map[string]int{"": 1}, later, "cannot be read")
	refused(old, nil, time.Now().Add(time.Hour), "may be unwrapped until")
	a.redis.Del(neededKey) // the ring itself remembers, too
	refused(old, nil, time.Now().Add(time.Hour), "may be unwrapped until")
	key := a.state.Load().keks[old].key.reveal()
	c, err := a.Destroy(t.Context(), old, map[string]int{c1(a): 5}, later)
	must(t, err)
	if c.Change != "destroyed KEK "+old || len(a.Status().KEKs) != 1 {
		t.Errorf("destroyed: %+v", c)
	}
	if _, err := a.UnwrapKey(t.Context(), wrapped); !errors.Is(err, broker.ErrWrapped) || !strings.Contains(err.Error(), "destroyed") {
		t.Errorf("UnwrapKey under a KEK that was destroyed = %v", err)
	}
	if strings.Trim(string(key), "\x00") != "" {
		t.Error("the KEK's bytes were not wiped")
	}
}

func c1(n *node) string { return n.Status().KEKs[len(n.Status().KEKs)-1].ID }

// What a broker knows cannot be turned back, where its chip counts.
func TestStateIsRolledBack(t *testing.T) {
	a := founder(t)
	old, err := os.ReadFile(a.file)
	must(t, err)
	oldRing := a.dump()
	_, err = a.Rotate(t.Context())
	must(t, err)
	a.restore(oldRing) // Redis and disk from one backup: nothing contradicts
	must(t, os.WriteFile(a.file, old, 0o600))
	if err := a.open(t); !errors.Is(err, ErrRolledBack) {
		t.Fatalf("OpenRing with an old state = %v", err)
	}
	if s, _, err := ReadRing(t.Context(), a.client, a.options()); err != nil || !errors.Is(s.Err, ErrRolledBack) {
		t.Errorf("ReadRing with an old state = %v, %v", s.Err, err)
	}
	digest := strings.Fields(oldRing["head"])[1]
	if err := Recover(t.Context(), a.client, a.options(), "sha256:0"); !errors.Is(err, ErrRing) {
		t.Errorf("Recover of another digest = %v", err)
	}
	must(t, Recover(t.Context(), a.client, a.options(), digest))
	must(t, a.open(t))
	must(t, os.Remove(a.file))
	if err := a.open(t); !errors.Is(err, ErrNoState) {
		t.Errorf("OpenRing without a state = %v", err)
	}
	must(t, os.WriteFile(a.file, []byte("{"), 0o600))
	if err := a.open(t); !errors.Is(err, ErrNoState) {
		t.Errorf("OpenRing with half a state = %v", err)
	}
	if err := InitRing(t.Context(), a.file, a.root); !errors.Is(err, fs.ErrExist) {
		t.Errorf("InitRing over a state = %v", err)
	}
}

// Between what is written and what the chip counts, anything may break.
func TestCrashWhileCounting(t *testing.T) {
	a := founder(t)
	a.root.broken.Store(true)
	if _, err := a.Rotate(t.Context()); !errors.Is(err, errCounter) {
		t.Fatalf("Rotate = %v", err)
	}
	if err := a.open(t); !errors.Is(err, errCounter) {
		t.Errorf("OpenRing while the counter is broken = %v", err)
	}
	a.root.broken.Store(false)
	must(t, a.open(t))
	if a.Status().Version != 2 {
		t.Errorf("version %d after the crash", a.Status().Version)
	}
	must(t, a.open(t))
}

func TestCrashWhileFounding(t *testing.T) {
	a := newNode(t, miniredis.RunT(t))
	a.root.broken.Store(true)
	if err := a.open(t); !errors.Is(err, errCounter) {
		t.Fatalf("OpenRing = %v", err)
	}
	a.root.broken.Store(false)
	must(t, a.open(t))
	wrapped := a.wrap(t)
	b := newNode(t, miniredis.RunT(t))
	o := b.options()
	o.Record = func(context.Context, RingChange) error { return errCounter }
	if _, err := OpenRing(t.Context(), b.client, o); !errors.Is(err, errCounter) {
		t.Fatalf("OpenRing that cannot be recorded = %v", err)
	}
	must(t, b.open(t)) // it goes on with what it put into Redis
	a.unwraps(t, wrapped)
}

// What cannot be recorded is not used.
func TestRecordFails(t *testing.T) {
	a, b := fleet(t)
	full := errors.New("the disk is full")
	b.o.Record = func(context.Context, RingChange) error { return full }
	_, err := a.Rotate(t.Context())
	must(t, err)
	wrapped := a.wrap(t)
	if err := b.again(t); !errors.Is(err, full) {
		t.Errorf("a look = %v", err)
	}
	if _, err := b.UnwrapKey(t.Context(), wrapped); !errors.Is(err, broker.ErrUnavailable) {
		t.Errorf("UnwrapKey = %v", err)
	}
	b.o.Record = func(context.Context, RingChange) error { return nil }
	must(t, b.again(t))
	b.unwraps(t, wrapped)
}

// A broker that cannot see the ring does not wrap with what may be superseded.
func TestStaleRing(t *testing.T) {
	a := founder(t)
	wrapped := a.wrap(t)
	s := *a.state.Load()
	s.seen = s.seen.Add(-ringFresh - time.Second)
	a.state.Store(&s)
	if _, err := a.WrapKey(t.Context(), testDataKey()); !errors.Is(err, broker.ErrUnavailable) {
		t.Errorf("WrapKey = %v", err)
	}
	a.unwraps(t, wrapped)
	if a.Status().Err == nil {
		t.Error("Status tells nothing")
	}
	a.redis.Close()
	if err := a.again(t); !errors.Is(err, broker.ErrUnavailable) {
		t.Errorf("a look without Redis = %v", err)
	}
}

func TestEnrollRefuses(t *testing.T) {
	a := founder(t)
	if _, err := a.Enroll(t.Context(), "sha256:00", EnrollOptions{}); !errors.Is(err, ErrNoApplicant) {
		t.Errorf("Enroll of nobody = %v", err)
	}
	b := newNode(t, a.redis)
	request := func(as *node, url, kind string) string {
		q := joinRequest{url, a.name, trust.Broker{Kind: kind, Root: b.root.Certificate().Raw, Agreement: b.root.Agreement().Raw}}
		token, err := signByRoot(as.root, typeJoin, q)
		must(t, err)
		return token
	}
	for name, token := range map[string]string{
		"of another url":          request(b, "https://elsewhere.example.com", "software"),
		"signed by another":       request(a, ringURL, "software"),
		"a TPM without a proof":   request(b, ringURL, "tpm"),
		"no request":              "x",
		"a request with a change": flip(request(b, ringURL, "software")),
	} {
		a.redis.HSet(joinKey+b.name, "request", token)
		if _, err := a.Enroll(t.Context(), b.name, EnrollOptions{}); !errors.Is(err, ErrApplicant) {
			t.Errorf("Enroll of %s = %v", name, err)
		}
	}
	a.redis.HSet(joinKey+"sha256:00", "request", request(b, ringURL, "software"))
	if _, err := a.Enroll(t.Context(), "sha256:00", EnrollOptions{}); !errors.Is(err, ErrApplicant) {
		t.Errorf("Enroll under another fingerprint = %v", err)
	}
	if a.Status().Version != 1 {
		t.Error("the ring changed")
	}
	a.redis.Del(joinKey + b.name)
	join(t, a, b)
	if _, err := a.Enroll(t.Context(), b.name, EnrollOptions{}); !errors.Is(err, ErrApplicant) {
		t.Errorf("Enroll twice = %v", err)
	}
	if err := Join(t.Context(), b.client, b.options(), a.name); err == nil {
		t.Error("Join twice succeeds")
	}
}

// A broker believes only the fleet that it was told of, and asks nobody else.
func TestJoinRefuses(t *testing.T) {
	a := founder(t)
	b := newNode(t, a.redis)
	joined := make(chan error, 1)
	for name, fleet := range map[string]string{"another fleet": "sha256:00", "itself": b.name} {
		if err := Join(t.Context(), b.client, b.options(), fleet); !errors.Is(err, ErrApplicant) {
			t.Errorf("Join of %s = %v", name, err)
		}
	}
	if _, err := a.Enroll(t.Context(), b.name, EnrollOptions{}); !errors.Is(err, ErrNoApplicant) {
		t.Errorf("Enroll of one that was refused at once = %v", err)
	}
	request, err := signByRoot(b.root, typeJoin, joinRequest{ringURL, "sha256:00", trust.Broker{Kind: "software", Root: b.root.cert.Raw, Agreement: b.root.agreement.Raw}})
	must(t, err)
	a.redis.HSet(joinKey+b.name, "request", request)
	if _, err := a.Enroll(t.Context(), b.name, EnrollOptions{}); !errors.Is(err, ErrApplicant) || !strings.Contains(err.Error(), "another member") {
		t.Errorf("Enroll of one that asked another = %v", err)
	}
	if err := b.open(t); !errors.Is(err, ErrNotMember) {
		t.Errorf("OpenRing afterwards = %v", err)
	}
	c := newNode(t, a.redis)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { joined <- Join(ctx, c.client, c.options(), a.name) }()
	cancel()
	if err := <-joined; !errors.Is(err, context.Canceled) {
		t.Errorf("Join that was given up = %v", err)
	}
}

func TestReadRing(t *testing.T) {
	n := newNode(t, miniredis.RunT(t))
	if _, known, err := ReadRing(t.Context(), n.client, n.options()); known || err != nil {
		t.Errorf("ReadRing before there is one = %v, %v", known, err)
	}
	must(t, n.open(t))
	stranger := newNode(t, n.redis)
	if _, known, err := ReadRing(t.Context(), stranger.client, stranger.options()); known || !errors.Is(err, ErrNotMember) {
		t.Errorf("ReadRing of a stranger = %v, %v", known, err)
	}
	n.wrap(t)
	s, known, err := ReadRing(t.Context(), n.client, n.options())
	if !known || err != nil || s.Err != nil || s.Digest != n.Status().Digest || !s.KEKs[0].Needed.After(time.Now()) || !s.Members[0].Self {
		t.Errorf("ReadRing = %+v, %v, %v", s, known, err)
	}
	n.redis.FlushAll()
	if s, _, err := ReadRing(t.Context(), n.client, n.options()); err != nil || s.Err == nil {
		t.Errorf("ReadRing of an empty Redis = %+v, %v", s, err)
	}
}

// The first form of the ring is read for ever.
func TestRingGolden(t *testing.T) {
	data, err := os.ReadFile("testdata/ring.json")
	must(t, err)
	golden := struct{ Root, Ring, KEK string }{}
	must(t, json.Unmarshal(data, &golden))
	soft, err := parseSoftware([]byte(golden.Root))
	must(t, err)
	e, err := parseEdition(golden.Ring, ringURL, soft.cert.NotBefore.Add(time.Hour))
	must(t, err)
	name := trust.Fingerprint(soft.cert)
	k, err := unwrapKEK(e.KEKs[0].ID, e.KEKs[0].Wrapped[name], soft.exchange, ringURL, name)
	must(t, err)
	if got := fmt.Sprintf("%x", k.key.reveal()); got != golden.KEK {
		t.Errorf("the KEK is another: %s", e.KEKs[0].ID)
	}
}

// What strangers write to Redis is an error or an edition whole.
func FuzzParseEdition(f *testing.F) {
	a := founder(f)
	f.Add(a.state.Load().token)
	f.Add(flip(a.state.Load().token))
	f.Fuzz(func(t *testing.T, token string) {
		e, err := parseEdition(token, ringURL, time.Now())
		if (e == nil) != (err != nil) || err != nil && !errors.Is(err, ErrRing) {
			t.Errorf("parseEdition = %v, %v", e, err)
		}
	})
}

func FuzzParseRequest(f *testing.F) {
	a := founder(f)
	token, err := signByRoot(a.root, typeJoin, joinRequest{ringURL, a.name, a.state.Load().Members[0].Broker})
	must(f, err)
	f.Add(token)
	f.Fuzz(func(t *testing.T, token string) {
		if b, root, err := parseRequest(token, ringURL, a.name); (b == nil) != (err != nil) || (root == nil) != (err != nil) {
			t.Errorf("parseRequest = %v, %v, %v", b, root, err)
		}
	})
}

// manyKEKs is a ring with a hundred versions.
func manyKEKs(b *testing.B) *node {
	n := founder(b)
	for range 99 {
		_, err := n.Rotate(b.Context())
		must(b, err)
	}
	return n
}

func BenchmarkOpenRingWith100KEKs(b *testing.B) {
	n := manyKEKs(b)
	for b.Loop() {
		must(b, n.open(b))
	}
}

func BenchmarkWrapKey(b *testing.B) {
	n := founder(b)
	k := testDataKey()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := n.WrapKey(b.Context(), k); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkGenerateAndWrapKey is what an exchange does for a data key, but for
// its statement: see BenchmarkSign.
func BenchmarkGenerateAndWrapKey(b *testing.B) {
	n := founder(b)
	session, lease := &broker.Session{Context: api.Context{"artifact": "app.tar"}}, &broker.Lease{ID: "l1-x", Credential: "artifacts"}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := n.WrapKey(b.Context(), broker.NewDataKey(session, lease, time.Hour)); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkUnwrapKey(b *testing.B) {
	n := founder(b)
	wrapped := n.wrap(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := n.UnwrapKey(b.Context(), wrapped); err != nil {
			b.Fatal(err)
		}
	}
}

// No member can date a KEK so that it is never old enough to be destroyed.
func TestEditionOfTheFuture(t *testing.T) {
	a, b := fleet(t)
	far := time.Now().Add(100 * 365 * 24 * time.Hour).Unix()
	for name, edit := range map[string]func(*ringDocument){
		"an edition": func(d *ringDocument) { d.Made = far },
		"a KEK":      func(d *ringDocument) { d.KEKs[0].Made = far },
		"a need":     func(d *ringDocument) { d.KEKs[0].Needed = far },
	} {
		forged := b.forgeAny(t, edit)
		if _, err := parseEdition(forged["ring"], ringURL, time.Now()); !errors.Is(err, ErrRing) {
			t.Errorf("%s of the future: %v", name, err)
		}
	}
	must(t, a.again(t))
}

// Who has a session and asks for keys that nobody knows does not have a ring
// that was refused judged again and again: that may take the chip.
func TestUnknownKEKsWhileTheRingIsForeign(t *testing.T) {
	a, stranger := founder(t), founder(t)
	wrapped := a.wrap(t)
	unknown := stranger.wrap(t)
	a.restore(stranger.dump())
	_, err := a.UnwrapKey(t.Context(), unknown)
	if !errors.Is(err, broker.ErrUnavailable) {
		t.Fatalf("UnwrapKey = %v", err)
	}
	counted := a.root.counts.Load()
	for range 100 {
		if _, err := a.UnwrapKey(t.Context(), unknown); !errors.Is(err, broker.ErrUnavailable) {
			t.Fatalf("UnwrapKey = %v", err)
		}
	}
	if n := a.root.counts.Load() - counted; n > 5 { // one a second
		t.Errorf("100 unknown keys had the counter read %d times", n)
	}
	a.unwraps(t, wrapped)
}
