package function

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/plugins/exchange"
)

const (
	// leastLeft is for how long at least what is handed out will work, so that a
	// request can be made with it; of short lives a tenth will do.
	leastLeft = 5 * time.Second

	// dateError is how far the second in an HTTP date may lie back.
	dateError = time.Second
)

// A Credential is one credential as it was when it was asked for. It never
// changes; after ExpiresAt it does not work any more, so ask [Set.Get] each time.
type Credential struct {
	Name      string
	Kind      string    // "jwt", "aws-role", …
	LeaseID   string    // names it in the broker's audit log
	ExpiresAt time.Time // by this machine's clock, whatever the broker's says

	values map[string]Secret
	left   time.Duration // how long it may be handed out, from state.got
	beat   time.Duration // how long without a word to the broker; 0: as long as it likes
}

// Value returns one of the credential's values. The values of one Credential
// belong together.
func (c *Credential) Value(name string) (Secret, error) {
	v, ok := c.values[name]
	if !ok {
		return Secret{}, fmt.Errorf("function: the credential %s has no value %q; it has %s",
			exchange.Printable(c.Name), exchange.Printable(name), exchange.Printable(strings.Join(c.Names(), ", ")))
	}
	return v, nil
}

// Names returns the names of its values, sorted.
func (c *Credential) Names() []string { return slices.Sorted(maps.Keys(c.values)) }

// A state is what one exchange gave. It never changes, but for the times of the
// last questions.
type state struct {
	session     api.Secret
	credentials map[string]*Credential
	got         instant       // when it was asked for
	refresh     time.Duration // from got: when to ask anew
	beat        time.Duration // the shortest of its credentials; 0: none needs it

	confirmed atomic.Pointer[instant] // when the broker last said that it is in force
	asked     atomic.Pointer[instant] // when it was last asked, answered or not
	silent    atomic.Pointer[instant] // when it was last asked and did not answer; nil: it did since
	clocks    gauge                   // since got
	calm      atomic.Pointer[window]  // while nothing is to be done; nil: something is
}

// newState reads an answer. got is when it was asked for, and maxStale that of the
// options.
func newState(a *exchange.Answer, got instant, maxStale time.Duration) (*state, error) {
	st := &state{session: a.AccessToken, got: got, credentials: map[string]*Credential{}}
	st.asked.Store(&got)
	st.clocks.most.Store(got.ahead())
	shortest := time.Duration(0)
	for _, l := range a.Leases {
		life := lifeOf(l, a, got)
		if life <= 0 {
			return nil, exchange.Failf(exchange.Protocol, "", "the broker's answer has a lease of %s that is over", exchange.Printable(l.Credential))
		}
		st.credentials[l.Credential] = &Credential{
			Name: l.Credential, Kind: l.Kind, LeaseID: l.LeaseID, ExpiresAt: got.add(life).time(),
			values: maps.Clone(l.Values), left: life - margin(life), beat: l.Heartbeat - margin(l.Heartbeat),
		}
		shortest, st.beat = shorter(shortest, life), shorter(st.beat, l.Heartbeat)
	}
	st.refresh = shortest*2/3 - rand.N(shortest/10+1)
	st.confirm(got, maxStale)
	return st, nil
}

// confirm notes that at now all of st is in force.
func (st *state) confirm(now instant, maxStale time.Duration) {
	st.confirmed.Store(&now)
	w := &window{st.got, st.got.add(st.refresh)} // which is before any of its credentials ends
	if maxStale >= 0 {
		w.shorten(now.add(maxStale))
	}
	for _, c := range st.credentials {
		if c.beat > 0 {
			w.shorten(now.add(c.beat))
		}
	}
	st.calm.Store(w)
}

// lifeOf returns how long l works from got on. Both ends of that time are the
// broker's: its own clock's, if it tells it, so that this machine's may be wrong.
func lifeOf(l api.Lease, a *exchange.Answer, got instant) time.Duration {
	from := a.Date
	if from.IsZero() {
		from = got.time()
	}
	life := max(-maxLife, min(l.ExpiresAt.Sub(from), maxLife)) - dateError // without the bounds, what ended long ago would be far ahead
	if a.ExpiresIn != 0 {
		life = min(life, time.Duration(max(0, min(a.ExpiresIn, int64(maxLife/time.Second))))*time.Second)
	}
	return life
}

// maxLife is far beyond what any lease has; it keeps sums of times in range.
const maxLife = 10 * 365 * 24 * time.Hour

func margin(life time.Duration) time.Duration { return min(leastLeft, life/10) }

// shorter returns the smaller of two times of which 0 is none.
func shorter(a, b time.Duration) time.Duration {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}

// usable returns a credential if it is surely in force.
func (st *state) usable(name string, now instant) *Credential {
	c := st.credentials[name]
	if c == nil || !st.clocks.sees(now) || !st.got.within(c.left, now) || c.beat > 0 && !st.confirmed.Load().within(c.beat, now) {
		return nil
	}
	return c
}

// due reports whether it is time to ask for new ones.
func (st *state) due(now instant) bool {
	return !st.clocks.sees(now) || !st.got.within(st.refresh, now)
}

// without returns st without the dead, and due.
func (st *state) without(dead func(*Credential) bool) *state {
	out := &state{session: st.session, got: st.got, beat: st.beat, credentials: maps.Clone(st.credentials)} // refresh is now, and it is not calm
	out.clocks.most.Store(st.clocks.most.Load())
	out.confirmed.Store(st.confirmed.Load())
	out.asked.Store(st.asked.Load())
	out.silent.Store(st.silent.Load())
	maps.DeleteFunc(out.credentials, func(_ string, c *Credential) bool { return dead(c) })
	return out
}
