package policies

import "github.com/brevet-dev/brevet/policies/strictyaml"

// Limits bound how much is granted. 0 is no limit.
type Limits struct {
	Live      int // leases that live at once
	PerMinute int // exchanges within any minute
}

const (
	// maxLive bounds limits.live: when it is reached, every lease that was counted
	// is looked at.
	maxLive = 1000

	// maxPerMinute bounds limits.per_minute: each exchange is remembered for a
	// minute.
	maxPerMinute = 10_000
)

// A limitsEntry is limits as they are written.
type limitsEntry struct {
	Live      int `yaml:"live"`
	PerMinute int `yaml:"per_minute"`
}

// limits compiles limits at path; none were written if in is nil.
func (r *reader) limits(path strictyaml.Path, in *limitsEntry) Limits {
	if in == nil {
		if r.doc.Has(path) {
			r.fail(path, "limits is empty; say live, per_minute or both")
		}
		return Limits{}
	}
	if !r.doc.Has(path.With("live")) && !r.doc.Has(path.With("per_minute")) {
		r.fail(path, "limits is empty; say live, per_minute or both")
	}
	r.between(path.With("live"), in.Live, maxLive)
	r.between(path.With("per_minute"), in.PerMinute, maxPerMinute)
	return Limits{in.Live, in.PerMinute}
}

func (r *reader) between(path strictyaml.Path, n, most int) {
	if r.doc.Has(path) && (n < 1 || n > most) {
		r.fail(path, "%s must be 1 to %d; leave it out for no limit", path[len(path)-1], most)
	}
}
