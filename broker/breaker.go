package broker

import (
	"sync"
	"time"
)

const (
	// breakAfter failures of a target in a row it counts as down. Fewer are
	// usually those of single credentials.
	breakAfter = 5

	// probeEvery is how often a target that is down is asked whether it is back:
	// by the revocation of one lease.
	probeEvery = 5 * time.Second
)

// A breaker keeps a target that is down from being asked by everyone who waits
// for it: each of them would cost both sides a place for as long as a request
// may take. The zero value is closed: the target is up.
type breaker struct {
	mu       sync.Mutex
	failures int       // in a row
	next     time.Time // probe, once they are breakAfter
	probing  bool
}

// allow reports whether the target may be asked at now. Whoever was allowed to
// calls done in the end, whether or not it asked.
func (k *breaker) allow(now time.Time) (done func(), ok bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.failures < breakAfter {
		return func() {}, true
	}
	if k.probing || now.Before(k.next) {
		return nil, false
	}
	k.probing = true
	return k.probed, true
}

func (k *breaker) probed() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.probing = false
}

// note counts an answer of the target, that came at now.
func (k *breaker) note(now time.Time, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err == nil {
		k.failures = 0
		return
	}
	k.failures++
	k.next = now.Add(probeEvery)
}

func (k *breaker) up() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.failures < breakAfter
}
