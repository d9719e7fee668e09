package broker

import (
	"sync"
	"time"
)

// Refusals of callers who did not show a token of a configured issuer can be
// made by anyone, as fast as the network carries them; each would be a line of
// the audit log, synced to disk, and a full disk stops all exchanges. Beyond a
// flow of strangerRate a second, with bursts of strangerBurst, they are counted
// and not recorded one by one: about 1 GB of log a day at worst. The next one
// that is recorded tells how many were not.
const (
	strangerRate  = 20
	strangerBurst = 200
)

// A flood is a token bucket. The zero value is full.
type flood struct {
	mu         sync.Mutex
	used       float64 // of strangerBurst
	at         time.Time
	suppressed int
}

// admit reports whether a refusal is to be recorded, and how many before it
// were not.
func (f *flood) admit(now time.Time) (suppressed int, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.used = max(0, f.used-now.Sub(f.at).Seconds()*strangerRate)
	f.at = now
	if f.used+1 > strangerBurst {
		f.suppressed++
		return 0, false
	}
	f.used++
	suppressed, f.suppressed = f.suppressed, 0
	return suppressed, true
}
