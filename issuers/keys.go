package issuers

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/brevet-dev/brevet/issuers/presets"
)

// A pace says when keys are asked for. What it asks may be far away and used by
// many: a flood of tokens must not turn into a flood of requests to it.
type pace struct {
	least, most time.Duration // between refreshes that go well, whatever the issuer lets be cached
	retry       time.Duration // after a refresh that did not
	kid         time.Duration // least time between fetches that unknown kids cause
	first       time.Duration // the same while there are no keys to believe
}

// networkPace fits issuers, which rotate their keys within days and announce
// them before they use them. most is also how long a withdrawn key can live on.
func networkPace() pace {
	return pace{least: 5 * time.Minute, most: time.Hour, retry: time.Minute, kid: 30 * time.Second, first: 5 * time.Second}
}

const (
	defaultStale = time.Hour
	maxStale     = 24 * time.Hour
	unknownFor   = time.Minute // how long a kid stays known as unknown
	maxUnknown   = 1024        // such kids per issuer, 256 bytes each
)

// A keyring holds the keys of one issuer.
//
// A set of keys is believed until its next refresh is due, and if that does not
// work, for the time stale after that: an issuer that cannot be reached can
// neither withdraw a key.
type keyring struct {
	name       string // the issuer's, for the log
	algorithms []string
	fetch      func(context.Context) (document, error)
	pace       pace
	stale      time.Duration
	flight     singleflight.Group

	mu      sync.Mutex
	current *keySet // the last good one, nil before the first
	tried   time.Time
	err     error                // of the last try
	unknown map[string]time.Time // kid → when a good set did not have it
}

// A document is a JWK Set as it came.
type document struct {
	text    []byte
	refresh time.Duration // how long the issuer lets it be cached
}

// A keySet is what one fetch brought. It is never changed.
type keySet struct {
	keys    map[string]verificationKey // by kid
	fetched time.Time
	due     time.Duration     // from fetched until the next refresh
	digest  [sha256.Size]byte // of the document
	version uint64            // 1, and one more whenever the document is another
}

// newKeyring makes the keyring of c, which must be valid.
func newKeyring(c *Config, p *presets.Preset) (*keyring, error) {
	k := &keyring{
		name: c.Name, algorithms: p.Algorithms, stale: c.staleKeys(), unknown: make(map[string]time.Time),
	}
	if c.JWKSFile != "" {
		k.fetch, k.pace = keyFile(c.JWKSFile).fetch, filePace()
		return k, nil
	}
	site, err := c.site(p)
	if err != nil {
		return nil, err
	}
	k.fetch, k.pace = site.fetch, networkPace()
	return k, nil
}

// errFetch is look's answer when only a fetch can tell.
var errFetch = fmt.Errorf("%w: not fetched", ErrUnavailable)

// find returns the key with that kid. An error is a [*TokenError] if the issuer
// has no such key, else it matches [ErrUnavailable].
func (k *keyring) find(ctx context.Context, kid string, now time.Time) (verificationKey, error) {
	key, err := k.look(kid, now)
	if !errors.Is(err, errFetch) {
		return key, err
	}
	if err := k.refresh(ctx); err != nil {
		return verificationKey{}, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return k.look(kid, time.Now())
}

// look answers from memory, or with errFetch if a fetch is needed and allowed.
func (k *keyring) look(kid string, now time.Time) (verificationKey, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.usableLocked(now) {
		if key, known := k.current.keys[kid]; known {
			return key, nil
		}
		if k.missingLocked(kid, now) {
			return verificationKey{}, refuse(ReasonUnknownKey, "the issuer publishes no usable key with this kid")
		}
	}
	if k.dueLocked(now) {
		return verificationKey{}, errFetch
	}
	// The last try failed: the kid may be that of a new key.
	return verificationKey{}, fmt.Errorf("%w: %w", ErrUnavailable, k.err)
}

// missingLocked reports whether the issuer was just seen not to have kid. When
// the notes of that are full they are forgotten: it costs a fetch at most,
// which dueLocked still limits.
func (k *keyring) missingLocked(kid string, now time.Time) bool {
	if now.Sub(k.unknown[kid]) < unknownFor {
		return true
	}
	if now.Sub(k.current.fetched) >= k.pace.kid {
		return false
	}
	if len(k.unknown) >= maxUnknown {
		clear(k.unknown)
	}
	k.unknown[strings.Clone(kid)] = k.current.fetched // not the whole header with it
	return true
}

// usableLocked reports whether the current keys may still be believed.
func (k *keyring) usableLocked(now time.Time) bool {
	return k.current != nil && now.Before(k.untilLocked())
}

// untilLocked returns the moment after which the current keys, which must be
// there, are not believed any more.
func (k *keyring) untilLocked() time.Time {
	return k.current.fetched.Add(k.current.due + k.stale)
}

// dueLocked reports whether the last try is long enough ago for another.
func (k *keyring) dueLocked(now time.Time) bool {
	pause := k.pace.kid
	if !k.usableLocked(now) {
		pause = k.pace.first
	}
	return now.Sub(k.tried) >= pause
}

// refresh fetches the keys unless that was just tried. All callers at one time
// share one fetch, which goes on when ctx ends, for the others.
func (k *keyring) refresh(ctx context.Context) error {
	loading := context.WithoutCancel(ctx)
	result := k.flight.DoChan("", func() (any, error) { return nil, k.load(loading) })
	select {
	case r := <-result:
		return r.Err
	case <-ctx.Done():
		return fmt.Errorf("waiting for the issuer's keys: %w", ctx.Err())
	}
}

// load fetches and replaces the keys, all of them, so that a withdrawn key is
// gone. If the fetch fails the old keys stay.
func (k *keyring) load(ctx context.Context) error {
	k.mu.Lock()
	due, last := k.dueLocked(time.Now()), k.err
	k.mu.Unlock()
	if !due {
		return last
	}
	set, err := k.fetchSet(ctx)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.tried, k.err = time.Now(), err
	if err == nil {
		set.version = k.nextVersionLocked(set)
		k.current, k.tried = set, set.fetched
	}
	return err
}

func (k *keyring) fetchSet(ctx context.Context) (*keySet, error) {
	document, err := k.fetch(ctx)
	if err != nil {
		return nil, err
	}
	keys, err := parseJWKS(document.text, k.algorithms)
	if err != nil {
		return nil, err
	}
	due := max(k.pace.least, min(document.refresh, k.pace.most))
	return &keySet{keys: keys, fetched: time.Now(), due: due, digest: sha256.Sum256(document.text)}, nil
}

// nextVersionLocked returns the version that set gets in the current one's
// place.
func (k *keyring) nextVersionLocked(set *keySet) uint64 {
	switch {
	case k.current == nil:
		return 1
	case k.current.digest == set.digest:
		return k.current.version
	}
	return k.current.version + 1
}

// run refreshes the keys until ctx ends, and logs when that stops working,
// when the keys are lost over it, and when it works again.
func (k *keyring) run(ctx context.Context, log *slog.Logger) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	before := fresh
	for {
		select {
		case <-timer.C:
			err := k.refresh(ctx)
			if ctx.Err() != nil {
				return
			}
			before = k.status(time.Now()).report(log, before)
			timer.Reset(k.nextRefresh(err))
		case <-ctx.Done():
			return
		}
	}
}

// nextRefresh returns when to refresh again after a refresh that gave err. It
// varies by a tenth so that many brokers do not ask at the same moment.
func (k *keyring) nextRefresh(err error) time.Duration {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err == nil {
		return k.current.due - rand.N(k.current.due/10)
	}
	return k.pace.retry - rand.N(k.pace.retry/10)
}

func (k *keyring) status(now time.Time) Status {
	k.mu.Lock()
	defer k.mu.Unlock()
	status := Status{Issuer: k.name, Err: k.err}
	if k.current != nil {
		status.Fetched, status.Until = k.current.fetched, k.untilLocked()
	}
	if k.usableLocked(now) {
		status.Keys, status.Version = len(k.current.keys), k.current.version
	}
	return status
}
