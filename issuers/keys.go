package issuers

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
)

// When keys are fetched. An issuer rotates its keys within days and announces
// them before it uses them; a flood of tokens must not turn into a flood of
// requests to it.
const (
	minRefresh  = 5 * time.Minute  // even if the issuer allows no caching
	maxRefresh  = time.Hour        // so long a withdrawn key may live on
	retryAfter  = time.Minute      // between failed refreshes in the background
	maxStale    = 24 * time.Hour   // keys older than this are not believed
	newKidPause = 30 * time.Second // between fetches that unknown kids cause
	firstPause  = 5 * time.Second  // the same while there are no keys at all
	unknownFor  = time.Minute      // how long a kid stays known as unknown
	maxUnknown  = 1024             // such kids per issuer, 256 bytes each
)

// A keyring holds the keys of one issuer.
type keyring struct {
	url        string
	algorithms []string
	jwksHosts  []string // hosts, besides the url's, that may serve the keys
	client     *http.Client
	flight     singleflight.Group

	mu      sync.Mutex
	current *keySet // the last good one, nil before the first
	tried   time.Time
	err     error                // of the last try
	unknown map[string]time.Time // kid → when a good set did not have it
}

// A keySet is what one fetch brought. It is never changed.
type keySet struct {
	keys    map[string]verificationKey // by kid
	fetched time.Time
	refresh time.Duration // how long the issuer lets it be cached
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
	if now.Sub(k.current.fetched) >= newKidPause {
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
	return k.current != nil && now.Sub(k.current.fetched) <= maxStale
}

// dueLocked reports whether the last try is long enough ago for another.
func (k *keyring) dueLocked(now time.Time) bool {
	pause := newKidPause
	if !k.usableLocked(now) {
		pause = firstPause
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
	set, err := k.fetch(ctx)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.tried, k.err = time.Now(), err
	if err == nil {
		k.current, k.tried = set, set.fetched
	}
	return err
}

// run refreshes the keys until ctx ends.
func (k *keyring) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
			timer.Reset(k.nextRefresh(k.refresh(ctx)))
		case <-ctx.Done():
			return
		}
	}
}

// nextRefresh returns when to refresh again after a refresh that gave err. It
// varies by a tenth so that many brokers do not ask at the same moment.
func (k *keyring) nextRefresh(err error) time.Duration {
	pause := retryAfter
	if err == nil {
		k.mu.Lock()
		pause = max(minRefresh, min(k.current.refresh, maxRefresh))
		k.mu.Unlock()
	}
	return pause - rand.N(pause/10)
}

func (k *keyring) status() Status {
	k.mu.Lock()
	defer k.mu.Unlock()
	status := Status{Err: k.err}
	if k.current != nil {
		status.Keys, status.Fetched = len(k.current.keys), k.current.fetched
	}
	return status
}
