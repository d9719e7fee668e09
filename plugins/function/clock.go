package function

import "time"

// An instant is one moment by both clocks of a machine. The steady one never goes
// back, and stands still while a sandbox is frozen; the wall clock goes on, and
// can be set.
type instant struct{ steady, wall time.Time }

func systemClock() instant { return at(time.Now()) }

// at returns the instant t, which was made by time.Now.
func at(t time.Time) instant { return instant{t, t.Round(0)} }

const (
	// setBack is how far the wall clock may fall behind the steady one before
	// what it says is doubted: far more than clocks are slewed by.
	setBack = 2 * time.Second

	// thawGap is how far the wall clock must run ahead of the steady one before
	// the sandbox is taken to have been frozen, and its connections for dead.
	thawGap = 2 * time.Second
)

// elapsed returns how much time has passed since i, at the most: by whichever
// clock saw more of it. It is not sure when the wall clock was set back, for
// then neither clock can tell how long the sandbox was frozen.
func (i instant) elapsed(now instant) (d time.Duration, sure bool) {
	steady, wall := now.steady.Sub(i.steady), now.wall.Sub(i.wall)
	return max(steady, wall), wall >= steady-setBack
}

// within reports whether surely less than d has passed since i.
func (i instant) within(d time.Duration, now instant) bool {
	elapsed, sure := i.elapsed(now)
	return sure && elapsed < d
}

// frozen reports whether the sandbox stood still between i and now.
func (i instant) frozen(now instant) bool {
	return now.wall.Sub(i.wall)-now.steady.Sub(i.steady) > thawGap
}
