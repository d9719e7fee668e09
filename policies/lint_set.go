package policies

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// setRules are about documents beside each other.
func setRules() []Rule {
	return []Rule{
		{"L017", "shadowed", SeverityWarning, "Another policy grants all that this one does, to all whom it is for: it is without effect.", (*linter).shadowed},
		{"L027", "idle-guardrail", SeverityWarning, "Guardrails, or one of their rules, are for no policy.", nil},
		{"L028", "idle-defaults", SeverityWarning, "Defaults are used by no policy.", nil},
		{"L040", "not-compared", SeverityInfo, "There is too much to compare: not all policies without effect, and idle rules of guardrails, were found.", nil},
	}
}

// neighbours finds the policies that may hold for all that another holds for,
// without comparing each with each: a policy that asks for a value can cover
// only those that ask for it too.
type neighbours struct {
	by   map[wanted][]*policy // each policy under all values of one of its claims
	open map[string][]*policy // by issuer: those that ask for no value
}

type wanted struct {
	issuer, claim string
	value         any
}

func newNeighbours(list []*policy) *neighbours {
	n := &neighbours{map[wanted][]*policy{}, map[string][]*policy{}}
	count := map[wanted]int{}
	for _, p := range list {
		each(p, func(w wanted) { count[w]++ })
	}
	for _, p := range list {
		claim := rarest(p, count)
		if claim == "" {
			n.open[p.issuer] = append(n.open[p.issuer], p)
		}
		each(p, func(w wanted) {
			if w.claim == claim {
				n.by[w] = append(n.by[w], p)
			}
		})
	}
	return n
}

// each calls f with every value that p asks for.
func each(p *policy, f func(wanted)) {
	for _, c := range p.conditions() {
		for _, v := range c.values {
			f(wanted{p.issuer, c.claim, v})
		}
	}
}

// rarest returns the claim of which p asks for the values that the fewest
// others ask for; "" if it asks for values of none.
func rarest(p *policy, count map[wanted]int) string {
	best, least := "", 0
	for _, c := range p.conditions() {
		sum := 0
		for _, v := range c.values {
			sum += count[wanted{p.issuer, c.claim, v}]
		}
		if len(c.globs) == 0 && sum > 0 && (best == "" || sum < least) {
			best, least = c.claim, sum
		}
	}
	return best
}

// maxCompared bounds how many policies one is compared with. So many of the
// same values are of one project.
const maxCompared = 1_000

// of returns the policies that may cover p, p not among them.
func (n *neighbours) of(p *policy) []*policy {
	list := slices.Clone(n.open[p.issuer])
	for _, c := range p.conditions() {
		if len(c.values) > 0 {
			list = append(list, n.by[wanted{p.issuer, c.claim, c.values[0]}]...)
		}
	}
	list = slices.DeleteFunc(list, func(q *policy) bool { return q == p })
	return list[:min(len(list), maxCompared)]
}

func (l *linter) shadowed() {
	for _, q := range l.neighbours.of(l.p) {
		if q.shadow && !l.p.shadow || q.expired() || !q.expires.IsZero() || !outdoes(q, l.p) {
			continue
		}
		if !l.search.spend(l.p.weight().beside(q.weight())) {
			return
		}
		if !l.p.within(q) {
			continue
		}
		l.find(l.at("policy"), l.usual, l.whole("it is without effect; or narrow "+q.name+" at "+q.place), "policy %s (%s) grants all of it to all whom this one is for", q.name, q.place)
		return
	}
}

// outdoes reports whether q's grants are chosen where p's stand beside them.
func outdoes(q, p *policy) bool {
	return !slices.ContainsFunc(p.grants, func(g Grant) bool {
		other := q.grant(g.Credential)
		return other == nil || !other.before(&g)
	})
}

// lintRules looks at guardrails and defaults.
func (s *Set) lintRules(search *effort) []Finding {
	var findings []Finding
	add := func(id string, place, format string, args ...any) {
		rule := setRules()[slices.IndexFunc(setRules(), func(r Rule) bool { return r.ID == id })]
		f := Finding{ID: id, Rule: rule.Name, Severity: rule.Severity, Column: 1, Message: fmt.Sprintf(format, args...)}
		f.File, f.Line = cutPlace(place)
		f.Mend = []Edit{{Action: "remove", Line: f.Line, Note: "it is without effect"}}
		findings = append(findings, f)
	}
	for _, g := range s.guardrails {
		if !slices.ContainsFunc(s.policies, func(p *policy) bool { return g.isFor(p) }) {
			add("L027", g.place, "guardrails %s are for no policy", g.name)
			continue
		}
		for _, d := range s.idleDenies(g, search) {
			add("L027", d.place, "this rule of guardrails %s denies nothing that a policy grants", g.name)
		}
	}
	for _, g := range s.guardrails {
		for _, f := range g.evasions() {
			rule := fenceRules()[0]
			f.Rule, f.Severity = rule.Name, rule.Severity
			findings = append(findings, f)
		}
	}
	for _, d := range s.defaults {
		if !slices.ContainsFunc(s.policies, d.isUsed) {
			add("L028", d.place, "defaults %s are used by no policy", d.name)
		}
	}
	if search.isSpent() {
		add("L040", s.policies[0].place, "there is too much to compare: patterns of %d policies and their guardrails; that none is reported here as without effect says nothing", len(s.policies))
		findings[len(findings)-1].Mend = []Edit{}
	}
	return findings
}

// cutPlace is for places of the form "file:line".
func cutPlace(place string) (file string, line int) {
	i := strings.LastIndex(place, ":")
	line, _ = strconv.Atoi(place[i+1:])
	return place[:max(i, 0)], line
}

func (g *guardrails) isFor(p *policy) bool {
	return slices.ContainsFunc(p.guards, func(guard *guard) bool { return guard.guardrails == g })
}

// idleDenies returns the rules that no policy's tokens fit. A rule is there
// once for each issuer.
func (s *Set) idleDenies(g *guardrails, search *effort) []deny {
	var idle []deny
	met := map[string]bool{}
	for _, p := range s.policies {
		i := slices.IndexFunc(p.guards, func(guard *guard) bool { return guard.guardrails == g })
		if i < 0 {
			continue
		}
		size, conditions := weightOf(p.match), p.conditions()
		for _, d := range p.guards[i].denies {
			if !met[d.place] && (!search.spend(size.beside(weightOf(d.match))) || blocksMeet(d.match, conditions)) {
				met[d.place] = true
			}
		}
	}
	for _, guard := range g.guards {
		for _, d := range guard.denies {
			if !met[d.place] {
				met[d.place] = true
				idle = append(idle, d)
			}
		}
	}
	return idle
}

// isUsed reports whether p leaves something out that d says.
func (d *defaults) isUsed(p *policy) bool {
	if p.written == nil || !isWithin(p.written.folder, d.folder) || d.issuer != "" && d.issuer != p.issuer {
		return false
	}
	in := p.written.in
	lacksTTL := slices.ContainsFunc(in.Grant, func(g grantEntry) bool { return g.TTL == 0 && d.ttl > 0 || g.MaxTTL == 0 && d.maxTTL > 0 })
	lacksClaim := slices.ContainsFunc(d.match[p.issuer], func(c condition) bool { _, own := in.Match[c.claim]; return !own })
	return in.Issuer == "" && d.issuer != "" || in.Mode == "" && d.mode != "" || lacksTTL || lacksClaim || in.Limits == nil && d.limits != (Limits{})
}
