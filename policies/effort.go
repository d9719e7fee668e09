package policies

// An effort bounds how much is compared and tried in all, for those who ask
// about every pair of policies: what it takes grows with the square of what
// somebody wrote. Nil is without bound.
type effort struct{ left int }

// maxEffort is what comparing two sets, or the policies of one with each other,
// may take: a few seconds. A unit is about one look at a pattern, 20 ns.
const maxEffort = 200_000_000

func newEffort() *effort { return &effort{maxEffort} }

// spend takes n units and reports whether there were as many.
func (e *effort) spend(n int) bool {
	if e == nil {
		return true
	}
	e.left = max(e.left-n, -1)
	return e.left >= 0
}

func (e *effort) isSpent() bool { return e != nil && e.left < 0 }

// A weight is how large a policy is, for what it costs to look at it.
type weight struct{ claims, values, globs, when int }

func (p *policy) weight() weight {
	w := weightOf(p.match)
	w.claims += len(p.names) + len(p.risks)
	if p.when != nil {
		w.when = 10 + len(p.when.source)/16
	}
	for _, g := range p.guards {
		w.add(g.size)
	}
	return w
}

func (w *weight) add(other weight) {
	w.claims, w.values, w.globs = w.claims+other.claims, w.values+other.values, w.globs+other.globs
}

func weightOf(conditions []condition) weight {
	w := weight{claims: len(conditions)}
	for i := range conditions {
		c := &conditions[i]
		w.values, w.globs = w.values+len(c.values)+len(c.has), w.globs+len(c.globs)
	}
	return w
}

// once is what it costs to decide about one token.
func (w weight) once() int { return 1 + w.claims/8 + w.values/64 + w.globs + w.when }

// written is what it costs to say of each part what it makes of one token.
func (w weight) written() int { return 20 * (1 + w.claims + w.values + w.globs + w.when) }

// beside is what it costs to hold all conditions of one against those of
// another.
func (w weight) beside(other weight) int {
	claims := max(1, min(w.claims, other.claims))
	return 2 + (w.claims+other.claims)/2 + (4*w.globs*other.globs+w.values*other.values/16)/claims
}
