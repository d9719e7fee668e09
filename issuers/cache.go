package issuers

import (
	"container/list"
	"crypto/sha256"
	"maps"
	"sync"
	"time"

	"github.com/brevet-dev/brevet/issuers/presets"
)

// Limits of a cache. A token of a platform that hands out one for many
// exchanges lives for minutes to a day; what was forgotten is verified again.
const (
	maxCached      = 4096
	maxCachedBytes = 16 << 20
)

// A cache remembers tokens that were verified, so that showing the same bytes
// again costs no second verification. It holds the SHA-256 of each and the
// identity in it: not the token, nor its signature, so nothing in it could be
// shown to anybody.
//
// It only ever repeats an answer that a verification would give now: an entry
// counts for the version of the issuer's keys under which its token was
// verified, and what of the claims depends on time is checked again. In any
// doubt there is no entry, and the token is verified. Whether a token was used
// before is not for it to know.
type cache struct {
	mu      sync.Mutex
	entries map[[sha256.Size]byte]*list.Element
	recent  *list.List // of *cached, the last one used in front
	bytes   int
	status  CacheStatus
}

// A cached is one verified token.
type cached struct {
	digest  [sha256.Size]byte // of the whole token
	issuer  *issuer
	version uint64 // of its keys
	times   map[string]any
	id      *Identity // never changed
	size    int
}

// A CacheStatus counts what the cache of verified tokens does.
type CacheStatus struct {
	Entries int
	Bytes   int    // about
	Hits    uint64 // tokens that were not verified again
	Misses  uint64 // tokens that could have been cached, and were verified
}

func newCache() *cache {
	return &cache{entries: make(map[[sha256.Size]byte]*list.Element), recent: list.New()}
}

// CacheStatus returns the state of the cache of verified tokens.
func (s *Set) CacheStatus() CacheStatus {
	c := s.verified
	c.mu.Lock()
	defer c.mu.Unlock()
	status := c.status
	status.Entries, status.Bytes = len(c.entries), c.bytes
	return status
}

// find returns the identity of a token that was verified before and would be
// now; nil: verify it.
func (c *cache) find(raw string, now time.Time) *Identity {
	if len(raw) > maxToken || c.empty() {
		return nil
	}
	digest := sha256.Sum256([]byte(raw))
	c.mu.Lock()
	defer c.mu.Unlock()
	element, known := c.entries[digest]
	if !known {
		return nil
	}
	entry := element.Value.(*cached)
	if !entry.holds(now) {
		c.removeLocked(element)
		return nil
	}
	c.recent.MoveToFront(element)
	c.status.Hits++
	return entry.id.clone()
}

func (c *cache) empty() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.entries) == 0
}

// holds reports whether a verification at now would still accept the token: the
// keys are those that it was verified with, and its times are right.
func (e *cached) holds(now time.Time) bool {
	if e.issuer.keys.status(now).Version != e.version {
		return false
	}
	_, _, err := e.issuer.rules.checkTimes(e.times, now)
	return err == nil
}

// caches reports whether tokens of is are shown more than once. Where a job
// fetches one for each exchange they would only push out others.
func (is *issuer) caches() bool { return is.preset.Replay != presets.Once }

// keep remembers a token that was verified. version is that of the issuer's
// keys before: if they changed meanwhile, the entry must count for nothing. 0
// is the version of no keys.
func (c *cache) keep(is *issuer, t *token, id *Identity, version uint64) {
	if version == 0 || !is.caches() {
		return
	}
	entry := &cached{
		digest: sha256.Sum256([]byte(t.raw)), issuer: is, version: version, times: timesOf(t.claims),
		id: id.clone(), size: sizeOf(t),
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.status.Misses++
	if old, known := c.entries[entry.digest]; known {
		c.removeLocked(old)
	}
	c.entries[entry.digest] = c.recent.PushFront(entry)
	c.bytes += entry.size
	for len(c.entries) > maxCached || c.bytes > maxCachedBytes {
		c.removeLocked(c.recent.Back())
	}
}

func (c *cache) removeLocked(element *list.Element) {
	entry := c.recent.Remove(element).(*cached)
	delete(c.entries, entry.digest)
	c.bytes -= entry.size
}

// timesOf returns the claims that checkTimes reads.
func timesOf(claims map[string]any) map[string]any {
	times := make(map[string]any, 3)
	for _, name := range []string{"exp", "iat", "nbf"} {
		if value, present := claims[name]; present {
			times[name] = value
		}
	}
	return times
}

// sizeOf returns about what an entry holds, in bytes: the claims' text is kept
// whole, as their values are parts of it, and once more in maps and in what is
// kept of undeclared claims.
func sizeOf(t *token) int { return 2<<10 + 3*len(t.payload) }

// clone returns a copy whose maps may be changed.
func (id *Identity) clone() *Identity {
	out := *id
	out.Claims, out.Undeclared = maps.Clone(id.Claims), maps.Clone(id.Undeclared)
	return &out
}
