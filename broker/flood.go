package broker

import (
	"cmp"
	"crypto/sha256"
	"sync"
	"time"
)

// Refusals cost a line of the audit log each, synced to disk, and a full disk
// stops all exchanges; and anyone can cause them: without a token, and on a
// shared issuer with a token of a repository of his own, which no policy knows.
// So what is refused before anything is reserved flows into the log at a bounded
// rate, and is counted beyond it; the next line that is recorded tells how many
// were not. At worst that is some GB of log a day.
const (
	strangerRate  = 20 // a second, of those who showed no token, together
	strangerBurst = 200

	// Those who did share buckets by their owner, so that one cannot crowd out
	// what is said of another but by chance.
	knownRate   = 5
	knownBurst  = 100
	knownOwners = 64
)

// floods are the buckets: the first is of those who showed no token.
type floods [1 + knownOwners]flood

// admit reports whether the refusal ev is to be recorded, and how many before it
// were not.
func (f *floods) admit(ev *Event) (suppressed int, ok bool) {
	if ev.Who == nil {
		return f[0].admit(ev.Time, strangerRate, strangerBurst)
	}
	sum := sha256.Sum256([]byte(ev.Who.URL + "\x00" + cmp.Or(ev.Who.Workload.OwnerID, ev.Who.Subject)))
	return f[1+int(sum[0])%knownOwners].admit(ev.Time, knownRate, knownBurst)
}

// A flood is a token bucket. The zero value is full.
type flood struct {
	mu         sync.Mutex
	used       float64 // of the burst
	at         time.Time
	suppressed int
}

func (f *flood) admit(now time.Time, rate, burst float64) (suppressed int, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.used = max(0, f.used-now.Sub(f.at).Seconds()*rate)
	f.at = now
	if f.used+1 > burst {
		f.suppressed++
		return 0, false
	}
	f.used++
	suppressed, f.suppressed = f.suppressed, 0
	return suppressed, true
}
