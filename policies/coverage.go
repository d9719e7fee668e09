package policies

import (
	"cmp"
	"slices"
)

// Coverage says what tests have seen of the policies. Every entry of match and
// names, every value of a list, every risk, every part of a condition and every
// rule by which guardrails deny can go two ways, hold and not; tests should
// have seen both. Rules of guardrails count once, whatever they are for.
type Coverage struct {
	Ways     int              `json:"ways"`
	Seen     int              `json:"seen"`
	Policies []PolicyCoverage `json:"policies"` // by name
	Unseen   []Unseen         `json:"unseen"`   // in the order of files and policies

	// Unplayed counts the tests of which it is not known what they see of all
	// policies, as that is too much to look at: a few seconds at most.
	Unplayed int `json:"unplayed"`
}

// PolicyCoverage is the coverage of one policy, or of one guardrails document.
type PolicyCoverage struct {
	Policy string `json:"policy"` // its name, or "guardrails" and theirs
	Tests  int    `json:"tests"`  // that had anything to do with it
	Ways   int    `json:"ways"`
	Seen   int    `json:"seen"`
}

// An Unseen is a part of a policy that no test has seen both ways.
type Unseen struct {
	Policy string `json:"policy"` // as of PolicyCoverage
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
func (s *Set) Coverage() *Coverage { return s.coverage(newEffort()) }

func (s *Set) coverage(search *effort) *Coverage {
	w := watcher{judge: newJudge(), sights: map[string]*sight{}, search: search}
	if s == nil {
		return w.coverage()
	}
	for _, p := range s.policies {
		w.expect(p)
	}
	for _, p := range s.policies {
		for i := range p.tests {
			w.play([]*policy{p}, p.tests[i].claims)
		}
	}
	for i := range s.cases {
		c := &s.cases[i]
		touched := s.relevant(c.identity(), "")
		if c.policy != nil && !slices.Contains(touched, c.policy) {
			touched = append(touched, c.policy)
		}
		w.play(touched, c.claims)
	}
	return w.coverage()
}

// A watcher notes what tests see.
type watcher struct {
	judge  *judge
	sights map[string]*sight // by owner
	owners []string          // in the order of files
	tests  int               // played so far

	search   *effort
	unplayed int // tests for which it was spent
}

// A sight is what there is to see of one policy or guardrails, and what of it
// tests have seen.
type sight struct {
	units []*Unseen
	byKey map[string]*Unseen
	tests int
	last  int // the test that was counted last
}

// owner names what a part belongs to.
func (p *Part) owner(of *policy) string {
	if p.Kind == PartGuardrails {
		return p.Path
	}
	return of.name
}

// key tells the parts of one owner apart. Two that say the same are one.
func (p *Part) key() string { return p.Path + "\x00" + p.Want }

// watched returns the parts of p that tests can see both ways: time they
// cannot change.
func (w *watcher) watched(p *policy, claims map[string]any) []Part {
	return slices.DeleteFunc(flatten(w.judge.parts(p, claims)), func(part Part) bool { return part.Kind == PartExpires })
}

// flatten returns parts and those within them.
func flatten(parts []Part) []Part {
	var list []Part
	for _, p := range parts {
		list = append(append(list, p), flatten(p.Parts)...)
	}
	return list
}

// expect notes what there is to see of p.
func (w *watcher) expect(p *policy) {
	for _, part := range w.watched(p, nil) {
		owner, key := part.owner(p), part.key()
		s := w.sights[owner]
		if s == nil {
			s = &sight{byKey: map[string]*Unseen{}}
			w.sights[owner] = s
			w.owners = append(w.owners, owner)
		}
		if s.byKey[key] == nil {
			s.byKey[key] = &Unseen{Policy: owner, Place: part.Place, Path: part.Path, Want: part.Want}
			s.units = append(s.units, s.byKey[key])
		}
	}
}

// play notes what one test sees of some policies.
func (w *watcher) play(list []*policy, claims map[string]any) {
	w.tests++
	for _, p := range list {
		if !w.search.spend(p.weight().written()) {
			w.unplayed++
			return
		}
		for _, part := range w.watched(p, claims) {
			s := w.sights[part.owner(p)]
			if s.last != w.tests {
				s.last, s.tests = w.tests, s.tests+1
			}
			u := s.byKey[part.key()]
			u.Held, u.Failed = u.Held || part.Holds, u.Failed || !part.Holds
		}
	}
}

func (w *watcher) coverage() *Coverage {
	c := &Coverage{Policies: []PolicyCoverage{}, Unseen: []Unseen{}, Unplayed: w.unplayed}
	for _, owner := range w.owners {
		s := w.sights[owner]
		one := PolicyCoverage{Policy: owner, Tests: s.tests, Ways: 2 * len(s.units)}
		for _, u := range s.units {
			if one.Seen += u.ways(); u.ways() < 2 {
				c.Unseen = append(c.Unseen, *u)
			}
		}
		c.Ways, c.Seen = c.Ways+one.Ways, c.Seen+one.Seen
		c.Policies = append(c.Policies, one)
	}
	slices.SortFunc(c.Policies, func(a, b PolicyCoverage) int { return cmp.Compare(a.Policy, b.Policy) })
	return c
}

// ways counts those that tests have seen.
func (u *Unseen) ways() int {
	n := 0
	for _, seen := range []bool{u.Held, u.Failed} {
		if seen {
			n++
		}
	}
	return n
}
