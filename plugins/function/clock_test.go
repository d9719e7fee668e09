package function

import (
	"testing"
	"time"
)

// TestClocks: what two clocks say together.
func TestClocks(t *testing.T) {
	const life = time.Minute
	begin := instant{time.Hour, 400000 * time.Hour}
	for _, tt := range []struct {
		name           string
		steady, wall   time.Duration // since begin
		within, frozen bool
	}{
		{"at once", 0, 0, true, false},
		{"in time", 59 * time.Second, 59 * time.Second, true, false},
		{"over by both", time.Minute, time.Minute, false, false},
		{"frozen past the end", time.Millisecond, 5 * time.Hour, false, true},
		{"frozen, and in time", time.Second, 30 * time.Second, true, true},
		{"the wall clock slewed back", 59 * time.Second, 58 * time.Second, true, false},
		{"and over by the steady one", time.Minute, 59 * time.Second, false, false},
		{"set back while running", 30 * time.Second, -time.Hour, false, false},
		{"set back while frozen", 0, -3 * time.Second, false, false},
		{"set ahead", time.Second, 24 * time.Hour, false, true},
	} {
		now := instant{begin.steady + tt.steady, begin.wall + tt.wall}
		if got := begin.within(life, now); got != tt.within {
			t.Errorf("%s: within = %v, want %v", tt.name, got, tt.within)
		}
		if got := (&window{begin, begin.add(life)}).has(now); got != tt.within {
			t.Errorf("%s: a window has it: %v, want %v", tt.name, got, tt.within)
		}
		if got := begin.frozen(now); got != tt.frozen {
			t.Errorf("%s: frozen = %v, want %v", tt.name, got, tt.frozen)
		}
	}
	w := window{begin, begin.add(life)}
	w.shorten(instant{begin.steady + time.Second, begin.wall + time.Hour})
	if w.end != (instant{begin.steady + time.Second, begin.wall + life}) {
		t.Errorf("shortened to %+v", w.end)
	}
}
