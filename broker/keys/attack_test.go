package keys

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/brevet-dev/brevet/broker/keys/trust"
)

// TestNeededTooLate: a time that somebody wrote to Redis, so late that it wraps
// around, does not free a KEK whose need is on record in the ring.
func TestNeededTooLate(t *testing.T) {
	a := founder(t)
	first := c1(a)
	k := testDataKey()
	k.Expires = time.Now().Add(90 * 24 * time.Hour)
	wrapped, err := a.WrapKey(t.Context(), k)
	must(t, err)
	_, err = a.Rotate(t.Context())
	must(t, err)
	for _, seconds := range []int64{math.MaxInt64, math.MaxInt64 - 62135596800 + 1, math.MinInt64} {
		a.redis.HSet(neededKey, first, fmt.Sprint(seconds))
		if c, err := a.Destroy(t.Context(), first, nil, time.Now().Add(2*settle)); err == nil {
			_, lost := a.UnwrapKey(t.Context(), wrapped)
			t.Fatalf("needed %d: Destroy = %+v; the data key: %v", seconds, c, lost)
		}
	}
}

// TestNeededIsGarbage: what somebody wrote over the times keeps neither data
// keys from being wrapped nor a broker from being removed.
func TestNeededIsGarbage(t *testing.T) {
	a, b := fleet(t)
	first := c1(a)
	a.redis.HSet(neededKey, first, "garbage")
	if _, err := a.WrapKey(t.Context(), testDataKey()); err != nil {
		t.Errorf("WrapKey = %v", err)
	}
	a.redis.HSet(neededKey, first, "garbage")
	if _, err := a.Remove(t.Context(), b.name); err != nil {
		t.Errorf("Remove = %v", err)
	}
}

// TestNeededIsLost: Redis lost all its data, and another broker, or a command,
// put the ring back. The data keys that this one wrapped before are still
// counted.
func TestNeededIsLost(t *testing.T) {
	a, b := fleet(t)
	first := c1(a)
	k := testDataKey()
	k.Expires = time.Now().Add(90 * 24 * time.Hour)
	wrapped, err := b.WrapKey(t.Context(), k)
	must(t, err)
	a.redis.FlushAll()
	must(t, a.again(t)) // puts the ring back
	must(t, b.again(t))
	must(t, b.promises.keep(t.Context()))                // as Run does every minute
	if _, err := b.WrapKey(t.Context(), k); err != nil { // goes on as before
		t.Fatal(err)
	}
	_, err = a.Rotate(t.Context())
	must(t, err)
	if _, err := a.Destroy(t.Context(), first, nil, time.Now().Add(2*settle)); !errors.Is(err, ErrNeeded) {
		must(t, b.again(t))
		_, lost := b.UnwrapKey(t.Context(), wrapped)
		t.Errorf("Destroy = %v; the data key: %v", err, lost)
	}
}

// forgeAny is forge without the checks that honest brokers make of what they
// sign.
func (n *node) forgeAny(t *testing.T, edit func(*ringDocument)) map[string]string {
	t.Helper()
	d := n.state.Load().next(ringURL, "forged", time.Now())
	edit(d)
	token, err := signByRoot(n.root, typeRing, d)
	must(t, err)
	signed, _, _ := strings.Cut(token, ".")
	payload, _, _ := strings.Cut(token[len(signed)+1:], ".")
	e := &edition{ringDocument: *d, token: token, digest: digest(signed + "." + payload)}
	return map[string]string{"head": e.head(), "ring": e.token}
}

// TestVersionAtItsEnd: a member signs the last version there can be, so that no
// other can follow and it can never be removed.
func TestVersionAtItsEnd(t *testing.T) {
	a, b := fleet(t)
	for _, last := range []uint64{math.MaxUint64, 1 << 53, 1 << 40} {
		a.restore(b.forgeAny(t, func(d *ringDocument) { d.Version, d.Previous = last, "sha256:x" }))
		a.again(t)
		if v := a.Status().Version; v == last {
			t.Errorf("version %d was taken over", v)
		}
		a.redis.Del(ringKey) // the operator's part
		must(t, a.again(t))
	}
	if _, err := a.Remove(t.Context(), b.name); err != nil {
		t.Errorf("Remove = %v", err)
	}
}

// TestRemovedJunk: a member fills the list of the removed, which nobody may
// shorten, until no edition fits any more.
func TestRemovedJunk(t *testing.T) {
	a, b := fleet(t)
	junk := func(n int) map[string]string {
		return b.forgeAny(t, func(d *ringDocument) {
			for i := range n {
				d.Removed = append(d.Removed, fmt.Sprintf("sha256:%064x", i))
			}
		})
	}
	const each = 74 // bytes in JSON
	n := 42000 + (maxRing-300-len(junk(42000)["ring"]))*3/4/each
	a.restore(junk(n))
	looked := a.again(t)
	a.redis.Del(ringKey)
	_, err := a.Remove(t.Context(), b.name)
	must(t, err)
	for range 8 { // what the removed one took up is used up soon
		if _, err := a.Rotate(t.Context()); err != nil {
			t.Fatalf("Rotate = %v; the look at the start = %v", err, looked)
		}
	}
}

// TestJoinIsCaptured: a broker that was removed, and can write to Redis, shows
// one that waits to join a ring of its own. The member whose fingerprint was
// given endorsed it once.
func TestJoinIsCaptured(t *testing.T) {
	a, x := fleet(t)
	_, err := a.Remove(t.Context(), x.name)
	must(t, err)
	n := newNode(t, a.redis)
	now := time.Now()
	me, err := newRing(n.client, n.options()).self(t.Context())
	must(t, err)
	evil := x.forge(t, func(d *ringDocument) { // x still has its own state, of before
		m := ringMember{Broker: *me, Joined: now.Unix(), By: a.name}
		must(t, x.wrapAll(d, &m, now))
		d.Members = append(d.Members, m)
	})
	a.restore(evil)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := Join(ctx, n.client, n.options(), a.name); err == nil {
		must(t, n.open(t))
		wrapped := n.wrap(t)
		k, err := x.UnwrapKey(t.Context(), wrapped)
		t.Errorf("joined %s's fleet, which never let it in; the removed broker opens its data keys: %v, %v", a.name, k != nil, err)
	}
}

// TestLockIsHeld: a command on the same machine was stopped (^Z) while it held
// the lock. The broker can still end, and says what it waits for.
func TestLockIsHeld(t *testing.T) {
	a := founder(t)
	f, err := os.OpenFile(a.file+".lock", os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	must(t, syscall.Flock(int(f.Fd()), syscall.LOCK_EX))
	a.redis.HSet(ringKey, "head", "another")
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- a.follow(ctx) }()
	select {
	case err := <-done:
		if err == nil {
			t.Error("follow = nil")
		}
	case <-time.After(2 * time.Second):
		t.Error("follow does not return after its context ended: Run does not, and neither does the daemon at SIGTERM")
		must(t, syscall.Flock(int(f.Fd()), syscall.LOCK_UN))
		<-done
	}
}

// TestRedisHoldsAnything: whatever somebody wrote where the ring was, the newest
// one known is put back.
func TestRedisHoldsAnything(t *testing.T) {
	for name, write := range map[string]func(*node){
		"a string":    func(n *node) { n.redis.Del(ringKey); n.redis.Set(ringKey, "x") },
		"a long ring": func(n *node) { n.redis.HSet(ringKey, "ring", strings.Repeat("x", maxRing+1), "head", "9 x") },
		"a long head": func(n *node) { n.redis.HSet(ringKey, "head", strings.Repeat("x", 1<<20)) },
	} {
		t.Run(name, func(t *testing.T) {
			a := founder(t)
			write(a)
			if err := a.again(t); err != nil {
				t.Errorf("look = %v", err)
			}
			if err := a.again(t); err != nil || a.Status().Rollbacks != 1 {
				t.Errorf("the second look = %v, rollbacks = %d", err, a.Status().Rollbacks)
			}
			must(t, a.open(t)) // after a restart
		})
	}
}

// TestHeadIsBounded: nobody makes a broker read megabytes every two seconds.
func TestHeadIsBounded(t *testing.T) {
	a := founder(t)
	a.redis.HSet(ringKey, "head", strings.Repeat("x", 16<<20))
	if head, err := a.store.head(t.Context()); len(head) > 1<<10 {
		t.Errorf("head = %d bytes, %v", len(head), err)
	}
}

// TestApplicantPoisonsBundle: what is let in may not make the whole fleet's trust
// bundle one that cannot be written or verified.
func TestApplicantPoisonsBundle(t *testing.T) {
	a := founder(t)
	for name, lie := range map[string]func(*node, *trust.Broker){
		"kind":      func(_ *node, b *trust.Broker) { b.Kind = "tpm\tits TPM, challenged\t2020-01-01\x1b[8m" },
		"agreement": func(n *node, b *trust.Broker) { b.Agreement = agreementFor(t, n, a) },
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, a.redis)
			me, err := newRing(n.client, n.options()).self(t.Context())
			must(t, err)
			lie(n, me)
			version := a.Status().Version
			request, err := signByRoot(n.root, typeJoin, joinRequest{ringURL, a.name, *me})
			must(t, err)
			must(t, a.store.putJoin(t.Context(), n.name, "request", []byte(request)))
			_, err = a.Enroll(t.Context(), n.name, EnrollOptions{})
			if !errors.Is(err, ErrApplicant) || a.Status().Version != version {
				data, encoded := a.Bundle(nil).Encode()
				t.Errorf("let in; the bundle: %v, %v", encoded, verifyBundle(data, a.name))
			}
		})
	}
}

// agreementFor certifies a's agreement key as that of n.
func agreementFor(t *testing.T, n, a *node) []byte {
	cert, err := trust.NewAgreement(n.root.Certificate(), n.root.Signer(), a.root.KeyExchanger().PublicKey())
	must(t, err)
	return cert.Raw
}

func verifyBundle(data []byte, pins ...string) error {
	b, err := trust.ParseBundle(data)
	if err != nil {
		return err
	}
	_, err = b.Verify(trust.VerifyOptions{Pins: pins, Now: time.Now()})
	return err
}

// TestBundleAfterRemoval: the founder let two others in, and is lost with its
// chip. Who pins the one
// that removed it can verify the fleet.
func TestBundleAfterRemoval(t *testing.T) {
	a, b := fleet(t)
	c := newNode(t, a.redis)
	join(t, a, c)
	must(t, c.open(t))
	_, err := b.Remove(t.Context(), a.name)
	must(t, err)
	must(t, c.again(t))
	data, err := b.Bundle(nil).Encode()
	must(t, err)
	if err := verifyBundle(data, b.name); err != nil {
		t.Errorf("pinned to the one that removed it: %v", err)
	}
}

// TestRemovalWhileNothingCanBeSaved: a broker whose chip is away, or whose disk
// is full, cannot take a new edition; those removed by it count no more all the
// same.
func TestRemovalWhileNothingCanBeSaved(t *testing.T) {
	a, b := fleet(t)
	c := newNode(t, a.redis)
	join(t, a, c)
	must(t, c.open(t))
	_, err := a.Remove(t.Context(), b.name)
	must(t, err)
	c.root.broken.Store(true)
	if err := c.again(t); err == nil {
		t.Fatal("the edition was taken over")
	}
	for _, root := range c.Roots() {
		if trust.Fingerprint(root) == b.name {
			t.Error("tokens of the removed broker still count here")
		}
	}
	c.root.broken.Store(false)
	must(t, c.again(t))
	if len(c.Roots()) != 2 || c.Status().Version != a.Status().Version {
		t.Errorf("afterwards: %+v", c.Status())
	}
}

// TestManyEpochs: the trust bundle has room for the epochs of a day of crashes.
func TestManyEpochs(t *testing.T) {
	root, err := NewSoftware(time.Now())
	must(t, err)
	e := NewEpochs(root, nil, EpochOptions{URL: ringURL})
	known := map[string]*certificate{}
	for i := range 1100 {
		c := &certificate{kid: fmt.Sprint(i), x509: root.Certificate(), root: root.Certificate()}
		known[c.kid] = c
	}
	e.state.Store(newState(nil, known, time.Now()))
	me := trust.Broker{Kind: "software", Root: root.Certificate().Raw, Agreement: root.Agreement().Raw}
	if _, err := trust.NewBundle(ringURL, []trust.Broker{me}, e.Certificates()).Encode(); err != nil {
		t.Error(err)
	}
}

// TestRecordedOnce: an edition that cannot be used for hours is on record once,
// not every two seconds.
func TestRecordedOnce(t *testing.T) {
	a, b := fleet(t)
	_, err := a.Rotate(t.Context())
	must(t, err)
	must(t, os.MkdirAll(b.file+".new/full", 0o700)) // as a full disk
	before := len(b.changes)
	for range 5 {
		if err := b.again(t); err == nil {
			t.Fatal("the edition was taken over")
		}
	}
	if n := len(b.changes) - before; n != 1 {
		t.Errorf("recorded %d times", n)
	}
}

// TestKindOfMember: a member's kind is printed to terminals as it is.
func TestKindOfMember(t *testing.T) {
	a, b := fleet(t)
	a.restore(b.forgeAny(t, func(d *ringDocument) { d.Members[0].Kind = "tpm\x1b[8m" }))
	a.again(t)
	for _, m := range a.Status().Members {
		if m.Kind != "software" {
			t.Errorf("kind %q", m.Kind)
		}
	}
}

// TestOtherTypes: what somebody put in the place of the times, or of the board,
// is replaced: it hides what was there, and that is all.
func TestOtherTypes(t *testing.T) {
	a, b := fleet(t)
	a.redis.Del(neededKey)
	must(t, a.redis.Set(neededKey, "x"))
	if _, err := a.Remove(t.Context(), b.name); err != nil {
		t.Errorf("Remove = %v", err)
	}
	if _, err := a.WrapKey(t.Context(), testDataKey()); err != nil {
		t.Errorf("WrapKey = %v", err)
	}
	must(t, a.redis.Set(boardKey, "x"))
	board := NewRedisBoard(a.client)
	if _, err := board.All(t.Context()); err != nil {
		t.Errorf("All = %v", err)
	}
	must(t, board.Publish(t.Context(), "kid", []byte("cert"), time.Now().Add(time.Hour)))
	if all, err := board.All(t.Context()); err != nil || string(all["kid"]) != "cert" {
		t.Errorf("All = %v, %v", all, err)
	}
}

// TestUnusedKEKsAreWiped: an edition that could not be taken over leaves no KEK
// in memory.
func TestUnusedKEKsAreWiped(t *testing.T) {
	a, b := fleet(t)
	_, err := a.Rotate(t.Context())
	must(t, err)
	must(t, os.MkdirAll(b.file+".new/full", 0o700)) // as a full disk
	e, err := b.fetch(t.Context())
	must(t, err)
	known, err := b.known(t.Context())
	must(t, err)
	s := &ringState{edition: e}
	if err := b.takeWhole(t.Context(), s, known); err == nil {
		t.Fatal("taken over")
	}
	b.wipeUnused(s)
	for id, k := range s.keks {
		if used := b.state.Load().keks[id] != nil; used == (strings.Trim(string(k.key.reveal()), "\x00") == "") {
			t.Errorf("KEK %s, in use: %t", id, used)
		}
	}
}
