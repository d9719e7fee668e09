package policies

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// A Diff is what one set grants and another does not. Policies are compared by
// what they mean: one that was renamed or moved is none of its changes.
type Diff struct {
	Old     string       `json:"old"` // digests
	New     string       `json:"new"`
	Same    int          `json:"same"` // policies that mean what one of the old set meant
	Changes []Difference `json:"changes"`

	// Unsearched counts the changes of policies that were not looked at to the
	// end, as there is too much to compare. What they do cannot be ruled out.
	Unsearched int `json:"unsearched"`
}

// A Difference is what became of one document.
type Difference struct {
	Kind    ChangeKind `json:"kind"`
	Policy  string     `json:"policy"` // the full name; of guardrails theirs
	Place   string     `json:"place"`  // "file:line" in the new set, or in the old one if it is not in the new one
	Details []string   `json:"details"`
	Effects []Effect   `json:"effects"`

	// About are the claims that it hangs on: those of a token that are worth
	// showing.
	About []string `json:"about"`
}

// A ChangeKind says what became of a document.
type ChangeKind string

// The kinds of change.
const (
	Added      ChangeKind = "added"
	Removed    ChangeKind = "removed"
	Loosened   ChangeKind = "loosened"   // somebody gains by it, and nobody loses
	Tightened  ChangeKind = "tightened"  // somebody loses by it, and nobody gains
	Changed    ChangeKind = "changed"    // both, or neither
	Guardrails ChangeKind = "guardrails" // what no policy may go beyond is another
)

// An Effect is what a change does to those who ask for one credential.
type Effect struct {
	Credential string     `json:"credential,omitempty"` // "": of guardrails, which are for all
	Kind       EffectKind `json:"kind"`
	Terms      []string   `json:"terms,omitempty"` // in which the grants differ
	Issuer     string     `json:"issuer,omitempty"`

	// Claims are of a token to which it happens, tried with both sets. Nil: none
	// was found, and that there is none could not be shown.
	Claims map[string]any `json:"claims"`
}

// An EffectKind says for whom an effect is good.
type EffectKind string

// The effects.
const (
	Gained EffectKind = "gained" // the old set does not grant it
	Lost   EffectKind = "lost"   // the new set does not
	More   EffectKind = "more"   // it is granted on wider terms: longer, more often …
	Less   EffectKind = "less"   // on narrower ones
)

// IsGain reports whether somebody can do more than before.
func (e EffectKind) IsGain() bool { return e == Gained || e == More }

// Gains counts the effects by which somebody can do more than before, those
// included that could not be shown.
func (d *Diff) Gains() int {
	n := 0
	for _, c := range d.Changes {
		for _, e := range c.Effects {
			if e.Kind.IsGain() {
				n++
			}
		}
	}
	return n
}

// Compare returns what b grants and a does not, and the other way round, as far
// as their documents differ. It ends early, with an error, if ctx does, and takes
// a few seconds at most for the search: of changes beyond that it says that
// somebody may gain and lose.
//
// Each policy that means something new is asked for a token to which it grants
// what the other set, as a whole, does not: a policy that was split in two, or
// that others cover, changes nothing.
func Compare(ctx context.Context, a, b *Set) (*Diff, error) { return compare(ctx, a, b, newEffort()) }

func compare(ctx context.Context, a, b *Set, search *effort) (*Diff, error) {
	if a == nil || b == nil {
		return nil, errors.New("comparing policies: there are not two sets")
	}
	d := &Diff{Old: a.Digest(), New: b.Digest(), Changes: []Difference{}}
	olds, news := onlyIn(a.policies, b.policies), onlyIn(b.policies, a.policies)
	d.Same = len(b.policies) - len(news)
	was := map[string]*policy{}
	for _, q := range olds {
		was[q.name] = q
	}
	forward, backward := newComparer(a, b, search), newComparer(b, a, search)
	for _, p := range news {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		q := was[p.name]
		delete(was, p.name)
		d.add(difference(q, p, forward, backward), search)
	}
	for _, q := range olds {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if was[q.name] == q {
			d.add(difference(q, nil, forward, backward), search)
		}
	}
	d.Changes = append(d.Changes, guardrailChanges(a.guardrails, b.guardrails)...)
	slices.SortStableFunc(d.Changes, func(x, y Difference) int { return cmp.Compare(x.Policy, y.Policy) })
	return d, nil
}

// add leaves out what is nothing but another order or description.
func (d *Diff) add(c Difference, search *effort) {
	if search.isSpent() {
		d.Unsearched++
	}
	if len(c.Details)+len(c.Effects) > 0 {
		d.Changes = append(d.Changes, c)
	}
}

// onlyIn returns the policies of list for each of which others has none that
// means the same.
func onlyIn(list, others []*policy) []*policy {
	count := map[string]int{}
	for _, p := range others {
		count[p.meaning()]++
	}
	var out []*policy
	for _, p := range list {
		if m := p.meaning(); count[m] > 0 {
			count[m]--
		} else {
			out = append(out, p)
		}
	}
	return out
}

// difference describes what became of a policy; q is nil if it is new, p if it is
// gone.
func difference(q, p *policy, forward, backward *comparer) Difference {
	c := Difference{Kind: Changed, Details: []string{}, Effects: []Effect{}, About: []string{}}
	switch {
	case q == nil:
		c.Kind, c.Policy, c.Place, c.Details = Added, p.name, p.place, p.says()
	case p == nil:
		c.Kind, c.Policy, c.Place, c.Details = Removed, q.name, q.place, q.says()
	default:
		c.Policy, c.Place, c.Details = p.name, p.place, differences(q, p)
	}
	if p != nil && p.unsafe != "" && len(c.Details) > 0 {
		c.Details = append(c.Details, p.warning())
	}
	for _, version := range []*policy{q, p} {
		if version != nil {
			c.About = append(c.About, version.asksAbout()...)
		}
	}
	slices.Sort(c.About)
	c.About = slices.Compact(c.About)
	if p != nil {
		c.note(forward.effects(p, Gained, More))
		c.note(backward.byWay(p, forward.related(p), Less))
	}
	if q != nil {
		c.note(backward.effects(q, Lost, Less))
		c.note(forward.byWay(q, backward.related(q), More))
	}
	if c.Kind == Changed {
		c.Kind = direction(c.Effects)
	}
	return c
}

// note adds effects, of each kind one for a credential.
func (c *Difference) note(list []Effect) {
	for _, e := range list {
		if !slices.ContainsFunc(c.Effects, func(other Effect) bool { return other.Credential == e.Credential && other.Kind == e.Kind }) {
			c.Effects = append(c.Effects, e)
		}
	}
}

func direction(effects []Effect) ChangeKind {
	var gains, losses bool
	for _, e := range effects {
		gains, losses = gains || e.Kind.IsGain(), losses || !e.Kind.IsGain()
	}
	switch {
	case gains && !losses:
		return Loosened
	case losses && !gains:
		return Tightened
	}
	return Changed
}

// A comparer looks for tokens to which one set grants more than another.
type comparer struct {
	than, of *Set
	search   *effort
	weights  map[*policy]weight

	// Policies of than by issuer: those that the index has by project, and by
	// owner.
	byProject, byOwner map[string][]*policy
}

func newComparer(than, of *Set, search *effort) *comparer {
	c := &comparer{than, of, search, map[*policy]weight{}, map[string][]*policy{}, map[string][]*policy{}}
	for _, p := range slices.Concat(than.policies, of.policies) {
		c.weights[p] = p.weight()
	}
	for _, q := range than.policies {
		if q.pin(q.preset.ProjectID).isExact() {
			c.byProject[q.issuer] = append(c.byProject[q.issuer], q)
		} else if q.pin(q.preset.OwnerID).isExact() {
			c.byOwner[q.issuer] = append(c.byOwner[q.issuer], q)
		}
	}
	return c
}

// related returns the policies of the other set that may hold for a token that
// p holds for: some of them, if the search is spent.
func (c *comparer) related(p *policy) []*policy {
	list := slices.Concat(c.than.index.rest[p.issuer], c.byOwner[p.issuer])
	if pin := p.pin(p.preset.ProjectID); pin.isExact() {
		for _, id := range pin.values {
			list = append(list, c.than.index.projects[key{p.issuer, id}]...)
		}
	} else {
		list = append(list, c.byProject[p.issuer]...)
	}
	seen := map[*policy]bool{}
	return slices.DeleteFunc(list, func(q *policy) bool {
		twice := seen[q]
		seen[q] = true
		return twice || !c.search.spend(c.weights[p].beside(c.weights[q])) || !blocksMeet(p.match, q.match)
	})
}

// effects returns what p, a policy of the one set, gives beyond the other: all,
// or on wider terms.
func (c *comparer) effects(p *policy, all, wider EffectKind) []Effect {
	if p.shadow || p.expired() {
		return nil
	}
	others := c.related(p)
	var list []Effect
	for i := range p.grants {
		if e, found := c.beyond(p, &p.grants[i], others, all); found {
			list = append(list, e)
		}
		if e, found := c.wider(p, &p.grants[i], others, wider); found {
			list = append(list, e)
		}
		if e, found := c.later(p, &p.grants[i], others, wider); found {
			list = append(list, e)
		}
	}
	return list
}

// beyond looks for a token to which p gives what the other set does not.
func (c *comparer) beyond(p *policy, g *Grant, others []*policy, kind EffectKind) (Effect, bool) {
	covers := func(q *policy) bool {
		return q.gave(g) && c.search.spend(c.weights[p].beside(c.weights[q])) && p.within(q)
	}
	if slices.ContainsFunc(others, covers) {
		return Effect{}, false
	}
	claims, proven := c.unlike(p, func(claims map[string]any) bool {
		_, granted := c.asks(c.than, p.issuer, claims, g.Credential)
		return !granted
	}, others)
	return Effect{Credential: g.Credential, Kind: kind, Issuer: p.issuer, Claims: claims}, claims != nil || !proven || !exhaustive(p, others)
}

// unlike is [policy.unlike] as far as the search is not spent.
func (c *comparer) unlike(p *policy, good func(map[string]any) bool, others []*policy) (claims map[string]any, proven bool) {
	size := c.weights[p].beside(c.weights[p])
	for _, q := range others {
		size += c.weights[p].beside(c.weights[q])
	}
	if !c.search.spend(size) {
		return nil, false
	}
	h := newHunt(p, others...)
	claims, proven = h.find(func(claims map[string]any) bool {
		return c.search.spend(c.weights[p].once()) && p.gives(claims) && good(claims) && !c.search.isSpent()
	})
	return claims, proven && !c.search.isSpent()
}

// asks is [Set.asks]. Its answer means nothing once the search is spent.
func (c *comparer) asks(s *Set, issuer string, claims map[string]any, credential string) (Grant, bool) {
	d := &Decision{}
	for _, bucket := range s.index.candidates(issuer, s.issuers[issuer], claims) {
		for _, p := range bucket {
			if c.search.spend(c.weights[p].once()) {
				d.consider(p, claims, credential)
			}
		}
	}
	return d.Grant, d.Grant.Policy != ""
}

// exhaustive reports whether no claim is held against more than one glob. Of tokens
// that fit several the search does not try one of each kind: then that it finds
// none is no proof.
func exhaustive(p *policy, others []*policy) bool {
	globs := map[string]glob{} // by claim
	for _, q := range append(slices.Clone(others), p) {
		for _, c := range q.conditions() {
			for _, g := range c.globs {
				if other, ok := globs[c.claim]; ok && other != g {
					return false
				}
				globs[c.claim] = g
			}
		}
	}
	return true
}

// byWay returns what a change of p does by way of other policies: of several
// that grant, one is chosen, and with p there or gone it may be another.
func (c *comparer) byWay(p *policy, others []*policy, kind EffectKind) []Effect {
	if p.shadow || p.expired() {
		return nil
	}
	var list []Effect
	for i := range p.grants {
		if e, _ := c.terms(p, &p.grants[i], others, kind); e.Claims != nil || c.search.isSpent() {
			list = append(list, e)
		}
	}
	return list
}

// gave reports whether q grants what g does to some token.
func (q *policy) gave(g *Grant) bool {
	return !q.shadow && !q.expired() && q.grant(g.Credential) != nil
}

// wider looks for a token that p holds for, to which both sets give the
// credential, this one on wider terms. If the search is no proof the terms
// themselves are compared.
func (c *comparer) wider(p *policy, g *Grant, others []*policy, kind EffectKind) (Effect, bool) {
	e, proven := c.terms(p, g, others, kind)
	if e.Claims != nil || proven {
		return e, e.Claims != nil
	}
	for _, q := range others {
		if e.Terms = nil; q.gave(g) {
			e.Terms = g.beyond(q.grant(g.Credential), kind)
		}
		if len(e.Terms) > 0 {
			return e, true
		}
	}
	return e, false
}

// terms is [comparer.wider] as far as tokens show it.
func (c *comparer) terms(p *policy, g *Grant, others []*policy, kind EffectKind) (e Effect, proven bool) {
	e = Effect{Credential: g.Credential, Kind: kind, Issuer: p.issuer}
	e.Claims, proven = c.unlike(p, func(claims map[string]any) bool {
		old, granted := c.asks(c.than, p.issuer, claims, g.Credential)
		now, given := c.asks(c.of, p.issuer, claims, g.Credential)
		if !granted || !given {
			return false
		}
		e.Terms = now.beyond(&old, kind)
		return len(e.Terms) > 0
	}, others)
	return e, proven && exhaustive(p, others)
}

// later compares until when p holds with how long those hold that give the
// same now: no token of today shows it.
func (c *comparer) later(p *policy, g *Grant, others []*policy, kind EffectKind) (Effect, bool) {
	e := Effect{Credential: g.Credential, Kind: kind, Issuer: p.issuer}
	for _, q := range others {
		switch {
		case !q.gave(g):
		case !p.outlasts(q):
			if c.search.spend(c.weights[p].beside(c.weights[q])) && p.within(q) {
				return Effect{}, false
			}
		default:
			e.Terms = []string{"expires " + kind.insteadOf(p.end(), q.end())}
		}
	}
	if len(e.Terms) > 0 {
		e.Claims, _ = c.unlike(p, func(map[string]any) bool { return true }, nil)
	}
	return e, len(e.Terms) > 0
}

// outlasts reports whether p holds when q does not any more.
func (p *policy) outlasts(q *policy) bool {
	return !q.expires.IsZero() && (p.expires.IsZero() || p.expires.After(q.expires))
}

// asks returns what a set grants of a credential to a token, as [Set.Decide]
// does, and does not say why if it is nothing.
func (s *Set) asks(issuer string, claims map[string]any, credential string) (Grant, bool) {
	d := &Decision{}
	for _, bucket := range s.index.candidates(issuer, s.issuers[issuer], claims) {
		for _, p := range bucket {
			d.consider(p, claims, credential)
		}
	}
	return d.Grant, d.Grant.Policy != ""
}

// guardrailChanges tells of guardrails that are others. Whether what they allow
// policies to become is more or less, nobody can say in general: it counts as
// a gain, unless they are new.
func guardrailChanges(olds, news []*guardrails) []Difference {
	was := map[string]*guardrails{}
	for _, g := range olds {
		was[g.name+" "+g.folder] = g
	}
	var list []Difference
	for _, g := range news {
		q := was[g.name+" "+g.folder]
		delete(was, g.name+" "+g.folder)
		if q == nil {
			list = append(list, guardrailChange(g, "added", Less))
		} else if q.meaning() != g.meaning() {
			list = append(list, guardrailChange(g, "changed", More))
		}
	}
	for _, key := range slices.Sorted(maps.Keys(was)) {
		list = append(list, guardrailChange(was[key], "removed", More))
	}
	return list
}

func guardrailChange(g *guardrails, what string, kind EffectKind) Difference {
	return Difference{
		Kind: Guardrails, Policy: g.name, Place: g.place, Details: []string{what + ": " + g.meaning()},
		Effects: []Effect{{Kind: kind, Terms: []string{"what policies may become"}}}, About: []string{},
	}
}

// meaning is all that guardrails say, in one way of saying it.
func (g *guardrails) meaning() string {
	parts := []string{"for " + cmp.Or(g.issuer, "every issuer") + " in folder " + g.folder}
	if g.maxTTL > 0 {
		parts = append(parts, "max_ttl "+short(g.maxTTL))
	}
	if g.refuseUnsafe {
		parts = append(parts, "no unsafe policies")
	}
	for _, issuer := range slices.Sorted(maps.Keys(g.guards)) {
		for _, rule := range g.guards[issuer].rules() {
			if text := issuer + ": " + rule; g.issuer == "" {
				parts = append(parts, text)
			} else {
				parts = append(parts, rule)
			}
		}
	}
	return strings.Join(parts, "; ")
}

func (g *guard) rules() []string {
	var list []string
	for _, d := range g.denies {
		list = append(list, fmt.Sprintf("deny %s", sentence(d.match)))
	}
	if len(g.require) > 0 {
		list = append(list, "require "+sentence(g.require))
	}
	for _, a := range g.allowed {
		list = append(list, fmt.Sprintf("allow %q where %s", a.names, sentence(a.match)))
	}
	slices.Sort(list)
	return list
}
