package policies

import (
	"cmp"
	"slices"
)

// Coverage says what tests have seen of the policies. Every entry of match and
// names, every value of a list, every risk and every part of a condition can
// go two ways, hold and not; tests should have seen both.
type Coverage struct {
	Ways     int              `json:"ways"`
	Seen     int              `json:"seen"`
	Policies []PolicyCoverage `json:"policies"` // by name
	Unseen   []Unseen         `json:"unseen"`   // in the order of files and policies
}

// PolicyCoverage is the coverage of one policy.
type PolicyCoverage struct {
	Policy string `json:"policy"`
	Tests  int    `json:"tests"` // that had anything to do with it
	Ways   int    `json:"ways"`
	Seen   int    `json:"seen"`
}

// An Unseen is a part of a policy that no test has seen both ways.
type Unseen struct {
	Policy string `json:"policy"`
	Place  string `json:"place"`
	Path   string `json:"path"`
	Want   string `json:"want"`
	Held   bool   `json:"held"`   // a test has seen it hold
	Failed bool   `json:"failed"` // a test has seen it not hold
}

// Percent returns how much of ways was seen, rounded down: 100 is all of it.
func Percent(seen, ways int) int {
	if ways == 0 {
		return 100
	}
	return seen * 100 / ways
}

// Coverage plays all tests again and notes what they see. A test that stands
// in a policy sees that one; one of a file sees its policy and all that the
// index finds for its token.
func (t *Suite) Coverage() *Coverage {
	w := watcher{judge: newJudge(), seen: map[*policy]*sight{}}
	for _, p := range t.set.policies {
		for i := range p.tests {
			w.watch(p, p.tests[i].claims)
		}
	}
	for i := range t.cases {
		c := &t.cases[i]
		touched := t.set.relevant(c.identity(), "")
		if c.policy != nil && !slices.Contains(touched, c.policy) {
			touched = append(touched, c.policy)
		}
		for _, p := range touched {
			w.watch(p, c.claims)
		}
	}
	return w.coverage(t.set.policies)
}

// A watcher notes what tests see.
type watcher struct {
	judge *judge
	seen  map[*policy]*sight
}

// A sight is what tests have seen of one policy.
type sight struct {
	tests        int
	held, failed map[string]bool // by what unit.key says
}

func (w *watcher) watch(p *policy, claims map[string]any) {
	s := w.sight(p)
	s.tests++
	for _, part := range flatten(w.judge.parts(p, claims)) {
		if part.Holds {
			s.held[part.key()] = true
		} else {
			s.failed[part.key()] = true
		}
	}
}

func (w *watcher) sight(p *policy) *sight {
	if w.seen[p] == nil {
		w.seen[p] = &sight{held: map[string]bool{}, failed: map[string]bool{}}
	}
	return w.seen[p]
}

// key tells the parts of one policy apart. Two that say the same are one.
func (p *Part) key() string { return p.Kind + "\x00" + p.Path + "\x00" + p.Want }

// flatten returns parts and those within them.
func flatten(parts []Part) []Part {
	var list []Part
	for _, p := range parts {
		list = append(append(list, p), flatten(p.Parts)...)
	}
	return list
}

func (w *watcher) coverage(all []*policy) *Coverage {
	c := &Coverage{Policies: []PolicyCoverage{}, Unseen: []Unseen{}}
	for _, p := range all {
		one, unseen := w.of(p)
		c.Ways, c.Seen = c.Ways+one.Ways, c.Seen+one.Seen
		c.Policies = append(c.Policies, one)
		c.Unseen = append(c.Unseen, unseen...)
	}
	slices.SortFunc(c.Policies, func(a, b PolicyCoverage) int { return cmp.Compare(a.Policy, b.Policy) })
	return c
}

// of returns what was seen of p.
func (w *watcher) of(p *policy) (PolicyCoverage, []Unseen) {
	s, counted := w.sight(p), map[string]bool{}
	c := PolicyCoverage{Policy: p.name, Tests: s.tests}
	var unseen []Unseen
	for _, part := range flatten(w.judge.parts(p, nil)) {
		key := part.key()
		if counted[key] {
			continue
		}
		counted[key] = true
		u := Unseen{p.name, part.Place, part.Path, part.Want, s.held[key], s.failed[key]}
		c.Ways += 2
		for _, seen := range []bool{u.Held, u.Failed} {
			if seen {
				c.Seen++
			}
		}
		if !u.Held || !u.Failed {
			unseen = append(unseen, u)
		}
	}
	return c, unseen
}
