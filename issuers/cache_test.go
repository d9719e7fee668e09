package issuers_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/brevet-dev/brevet/issuers"
	"github.com/brevet-dev/brevet/issuers/lab"
)

// expectHits fails unless f takes n answers from the cache.
func expectHits(t *testing.T, set *issuers.Set, n uint64, f func()) {
	t.Helper()
	before := set.CacheStatus().Hits
	f()
	if got := set.CacheStatus().Hits - before; got != n {
		t.Errorf("%d tokens were not verified again, want %d", got, n)
	}
}

// newCaching returns a set with keys at hand, and its platform, whose tokens are
// shown more than once.
func newCaching(t testing.TB) (*platform, *issuers.Set) {
	t.Helper()
	p := start(t, lab.Options{Preset: "gitlab"})
	set := newSet(t, p.config("gitlab"))
	check(t, set, p.mint(t, nil), "") // fetches the keys
	return p, set
}

// The same bytes give the same identity, and cost one verification.
func TestCache(t *testing.T) {
	p, set := newCaching(t)
	raw := p.mint(t, map[string]any{"strange": "claim"})
	first, err := set.Verify(t.Context(), raw)
	if err != nil {
		t.Fatal(err)
	}
	want := *first
	want.Claims = maps.Clone(first.Claims)
	first.Claims["project_id"] = "changed"
	expectHits(t, set, 2, func() {
		for range 2 {
			again, err := set.Verify(t.Context(), raw)
			if err != nil || !reflect.DeepEqual(again, &want) {
				t.Fatalf("Verify = %+v, %v; want %+v", again, err, want)
			}
			again.Claims["project_id"], again.Undeclared = "changed", nil
		}
	})
	if status := set.CacheStatus(); status.Entries != 1 || status.Misses != 1 {
		t.Errorf("CacheStatus = %+v, want one entry: the first token came before the keys", status)
	}
}

// nbf is optional, and a token without it is remembered as others are.
func TestCacheWithoutNotBefore(t *testing.T) {
	p, set := newCaching(t)
	raw := p.mint(t, map[string]any{"nbf": nil})
	check(t, set, raw, "")
	expectHits(t, set, 1, func() { check(t, set, raw, "") })
}

// A token that differs in any byte is another.
func TestCacheIsOfWholeTokens(t *testing.T) {
	p, set := newCaching(t)
	raw := p.mint(t, nil)
	check(t, set, raw, "")
	expectHits(t, set, 0, func() {
		for range 200 {
			at := rand.IntN(len(raw))
			other := raw[:at] + string(raw[at]^1) + raw[at+1:]
			if _, err := set.Verify(t.Context(), other); err == nil {
				t.Fatalf("accepted with another byte at %d", at)
			}
		}
		for _, other := range []string{"", raw + "=", raw + " ", raw[:len(raw)-1], strings.Repeat(raw, 20)} {
			if _, err := set.Verify(t.Context(), other); err == nil {
				t.Fatalf("accepted %d of %d bytes", len(other), len(raw))
			}
		}
	})
}

// What a job has once is not kept, nor what was refused, nor what was verified
// while there were no keys that are known to be believed.
func TestNotCached(t *testing.T) {
	p := start(t, lab.Options{})
	set := newSet(t, p.config("github"))
	raw := p.mint(t, nil)
	for range 3 {
		check(t, set, raw, "")
	}
	gitlab, caching := newCaching(t)
	expectHits(t, caching, 0, func() {
		for range 3 {
			check(t, caching, gitlab.forge(t, lab.Forgery{StrangeKey: true}), issuers.ReasonSignature)
		}
	})
	for _, s := range []*issuers.Set{set, caching} {
		if status := s.CacheStatus(); status != (issuers.CacheStatus{}) {
			t.Errorf("CacheStatus = %+v, want nothing", status)
		}
	}
}

// What depends on time is checked again, by the same rules: exp, max_age, and a
// clock that was set back behind iat or nbf.
func TestCacheChecksTimes(t *testing.T) {
	p := start(t, lab.Options{Preset: "gitlab"})
	config := p.config("gitlab")
	config.MaxAge = 30 * time.Minute
	set := newSet(t, config)
	check(t, set, p.mint(t, nil), "")
	now := time.Now().Truncate(time.Second)
	for _, c := range []struct {
		name         string
		iat, exp     time.Duration // from now
		before, from time.Duration // it counts before the one, and not from the other
	}{
		{"exp", -time.Minute, 5 * time.Minute, 5*time.Minute - 1, 5 * time.Minute},
		{"max_age", -10 * time.Minute, time.Hour, 20 * time.Minute, 20*time.Minute + 1},
		{"iat ahead", 0, time.Hour, -issuers.DefaultSkew, -issuers.DefaultSkew - 1},
	} {
		raw := p.mint(t, map[string]any{"iat": now.Add(c.iat).Unix(), "nbf": now.Add(c.iat).Unix(), "exp": now.Add(c.exp).Unix()})
		check(t, set, raw, "")
		if !set.Remembers(raw, now) || !set.Remembers(raw, now.Add(c.before)) {
			t.Errorf("%s: the token is not known %s from now", c.name, c.before)
		}
		if set.Remembers(raw, now.Add(c.from)) || set.Remembers(raw, now) {
			t.Errorf("%s: the token is still known %s from now", c.name, c.from)
		}
	}
}

// A key that its issuer withdraws, and one that nobody can ask about any more,
// end what was verified with them.
func TestCacheEndsWithKeys(t *testing.T) {
	p := start(t, lab.Options{Preset: "gitlab"})
	synctest.Test(t, func(t *testing.T) {
		set := newSet(t, p.config("gitlab"))
		running(t, set)
		time.Sleep(time.Second)
		raw := p.mint(t, map[string]any{"exp": time.Now().Add(20 * time.Hour).Unix()})
		check(t, set, raw, "")
		time.Sleep(time.Hour) // the same keys were fetched again
		expectHits(t, set, 1, func() { check(t, set, raw, "") })
		p.Break(lab.Down)
		time.Sleep(150 * time.Minute)
		expectHits(t, set, 0, func() { check(t, set, raw, "unavailable") })
		p.Break(lab.Healthy)
		time.Sleep(time.Minute)
		expectHits(t, set, 0, func() { check(t, set, raw, "") })
		expectHits(t, set, 1, func() { check(t, set, raw, "") })
		if err := p.Rotate(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour) // both keys
		expectHits(t, set, 0, func() { check(t, set, raw, "") })
		expectHits(t, set, 1, func() { check(t, set, raw, "") })
		p.Withdraw()
		time.Sleep(time.Hour)
		expectHits(t, set, 0, func() { check(t, set, raw, issuers.ReasonUnknownKey) })
	})
}

// Nothing in the cache is a token, or what makes one of its claims.
func TestCacheKeepsNoToken(t *testing.T) {
	p, set := newCaching(t)
	raw := p.mint(t, map[string]any{"strange": "claim"})
	check(t, set, raw, "")
	texts, size := set.Cached(raw)
	if len(texts) < 20 || size < len(raw) {
		t.Fatalf("%d texts of %d bytes are remembered of a token of %d", len(texts), size, len(raw))
	}
	for _, secret := range append(strings.Split(raw, "."), raw, string(signatureOf(t, raw))) {
		for _, text := range texts {
			if strings.Contains(text, secret) {
				t.Errorf("a part of the token is remembered in %q", text)
			}
		}
	}
}

// However many tokens, and however large, there are never more than the limits
// say; those used last stay.
func TestCacheIsBounded(t *testing.T) {
	f := newForge(t)
	config := f.config()
	config.Replay = "reuse"
	set := newSet(t, config)
	check(t, set, f.token(t, "ES256", nil, nil), "")
	kept := f.token(t, "ES256", nil, map[string]any{"jti": "kept"})
	check(t, set, kept, "")
	large := strings.Repeat("x", 11<<10)
	for i := range 800 {
		check(t, set, f.token(t, "ES256", nil, map[string]any{"jti": fmt.Sprint(i), "large": large}), "")
		check(t, set, kept, "")
		if status := set.CacheStatus(); status.Entries > issuers.MaxCached || status.Bytes > issuers.MaxCachedBytes {
			t.Fatalf("CacheStatus = %+v", status)
		}
	}
	if status := set.CacheStatus(); status.Hits != 800 || status.Entries >= 800 {
		t.Errorf("CacheStatus = %+v, want 800 hits, and room for less than that many large ones", status)
	}
}

// Many goroutines show tokens while the keys change: none is accepted under keys
// that do not verify it.
func TestCacheUnderRotation(t *testing.T) {
	p := start(t, lab.Options{Preset: "gitlab", Algorithm: "RS256"})
	synctest.Test(t, func(t *testing.T) {
		set := newSet(t, p.config("gitlab"))
		running(t, set)
		time.Sleep(time.Second)
		for range 5 {
			raw := p.mint(t, map[string]any{"exp": time.Now().Add(10 * time.Hour).Unix()})
			verifyAtOnce(t, set, raw)
			if err := p.Rotate(); err != nil {
				t.Fatal(err)
			}
			p.Withdraw()
			go verifyAtOnce(t, set, raw)
			time.Sleep(time.Hour)
			check(t, set, raw, issuers.ReasonUnknownKey)
			verifyAtOnce(t, set, p.mint(t, nil))
		}
	})
}

func verifyAtOnce(t *testing.T, set *issuers.Set, raw string) {
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			if _, err := set.Verify(t.Context(), raw); err != nil {
				t.Errorf("Verify = %v", err)
			}
		})
	}
	all.Wait()
}
