package function

import (
	"sync/atomic"
	"time"
)

// An instant is one moment by both clocks of a machine. The steady one never goes
// back, and stands still while a sandbox is frozen; the wall clock goes on, and
// can be set.
type instant struct {
	steady time.Duration // since the program started
	wall   time.Duration // since 1970
}

// started is where the steady clock counts from. It is never changed.
var started = time.Now()

func systemClock() instant {
	now := time.Now()
	return instant{now.Sub(started), time.Duration(now.UnixNano())}
}

const (
	// setBack is how far the wall clock may fall behind the steady one before
	// what it says is doubted: far more than clocks are slewed by.
	setBack = 2 * time.Second

	// thawGap is how far the wall clock must run ahead of the steady one before
	// the sandbox is taken to have been frozen, and its connections for dead.
	thawGap = 2 * time.Second
)

func (i instant) add(d time.Duration) instant { return instant{i.steady + d, i.wall + d} }

// time returns i by the wall clock, to the second.
func (i instant) time() time.Time { return time.Unix(0, int64(i.wall)).Truncate(time.Second) }

// elapsed returns how much time has passed since i, at the most: by whichever
// clock saw more of it. It is not sure when the wall clock was set back, for
// then neither clock can tell how long the sandbox was frozen.
func (i instant) elapsed(now instant) (d time.Duration, sure bool) {
	steady, wall := now.steady-i.steady, now.wall-i.wall
	return max(steady, wall), wall >= steady-setBack
}

// within reports whether surely less than d has passed since i.
func (i instant) within(d time.Duration, now instant) bool {
	elapsed, sure := i.elapsed(now)
	return sure && elapsed < d
}

// frozen reports whether the sandbox stood still between i and now.
func (i instant) frozen(now instant) bool {
	return (now.wall-i.wall)-(now.steady-i.steady) > thawGap
}

// A window is a time with one beginning and, by each clock, an end.
type window struct{ begin, end instant }

// has reports whether now is surely in w.
func (w *window) has(now instant) bool {
	return now.steady < w.end.steady && now.wall < w.end.wall && now.wall-w.begin.wall >= now.steady-w.begin.steady-setBack
}

// shorten ends w at i, if it does not end earlier.
func (w *window) shorten(i instant) {
	w.end.steady, w.end.wall = min(w.end.steady, i.steady), min(w.end.wall, i.wall)
}

// A gauge knows how far ahead of the steady clock the wall clock was seen, in
// nanoseconds. A freeze adds to that; what takes from it is a clock that was set back.
type gauge struct{ most atomic.Int64 }

// gaugeStep is how much more a gauge must see before it notes that: it is read far more
// often than written.
const gaugeStep = 100 * time.Millisecond

func (i instant) ahead() int64 { return int64(i.wall - i.steady) }

// sees notes the clocks of now. It reports false if the wall clock was set back since
// the gauge was set, before or after freezes: then nobody can tell how long those were.
func (g *gauge) sees(now instant) bool {
	most, ahead := g.most.Load(), now.ahead()
	if ahead > most+int64(gaugeStep) {
		g.most.CompareAndSwap(most, ahead) // or somebody else has noted as much
	}
	return ahead >= most-int64(setBack)
}
