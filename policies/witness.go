package policies

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/brevet-dev/brevet/issuers/presets"
)

// A witness is a token, made up, for which something is so: that a policy
// grants to it, or one policy and not another. It has all claims that such a
// token must have. None is ever shown that was not tried: candidates are
// gathered from what the policies are about, and evaluated as a token of a job
// would be.

// maxTries is how many tokens are tried for one witness: about 5 ms.
const maxTries = 4_000

// absent is the candidate that stands for a claim that the token does not have.
type absent struct{}

// gives reports whether p grants to a token with these claims, or would if it
// were not in mode shadow.
func (p *policy) gives(claims map[string]any) bool {
	return !p.expired() && p.holds(claims) && len(p.drift(claims)) == 0
}

// witness returns the claims of a token to which p grants; nil if none was
// found. That is proof only if proven is true.
func (p *policy) witness() (claims map[string]any, proven bool) {
	return p.unlike(func(map[string]any) bool { return true })
}

// beyond returns the claims of a token to which p grants and none of others
// does; nil if none was found. That is proof only if proven is true.
func (p *policy) beyond(others ...*policy) (claims map[string]any, proven bool) {
	return p.unlike(func(claims map[string]any) bool {
		return !slices.ContainsFunc(others, func(q *policy) bool { return q.issuer == p.issuer && q.gives(claims) })
	}, others...)
}

// unlike returns the claims of a token to which p grants and for which good is
// true, looking at what others are about too.
func (p *policy) unlike(good func(map[string]any) bool, others ...*policy) (claims map[string]any, proven bool) {
	h := newHunt(p, others...)
	return h.find(func(claims map[string]any) bool { return p.gives(claims) && good(claims) })
}

// A hunt is the search for one witness.
type hunt struct {
	base  map[string]any   // a plausible token
	order []string         // claims with candidates, sorted
	lists map[string][]any // their candidates, the likeliest first
	whole bool             // any token that is different in what matters is among the products of lists
	left  int              // tokens that may still be tried
}

func newHunt(p *policy, others ...*policy) *hunt {
	h := &hunt{base: plausible(p), lists: map[string][]any{}, whole: true, left: maxTries}
	own, all := p.conditions(), p.conditions()
	literals := p.when.literals()
	for _, q := range others {
		all = append(all, q.conditions()...)
		literals.add(q.when.literals())
	}
	for _, r := range p.risks {
		all = append(all, r.condition)
	}
	for _, q := range slices.Concat(others, []*policy{p}) {
		for _, d := range q.denyRules() {
			all = append(all, d.match...)
		}
	}
	for _, c := range all {
		h.lists[c.claim] = nil
	}
	for claim := range literals.claims {
		h.lists[claim] = nil
	}
	for claim := range literals.items {
		h.lists[claim] = nil
	}
	h.order, h.whole = slices.Sorted(maps.Keys(h.lists)), !literals.open
	for _, claim := range h.order {
		h.lists[claim] = h.candidates(p.preset.Claims[claim], claim, on(own, claim), on(all, claim), literals)
		h.whole = h.whole && withGlobs(on(own, claim)) < 2
	}
	return h
}

// withGlobs counts the conditions that have globs. A text that fits those of
// two is among the candidates, and one of each kind that fits them may not be.
func withGlobs(list []*condition) int {
	n := 0
	for _, c := range list {
		n += min(1, len(c.globs))
	}
	return n
}

// find tries the products of the candidates: first those that are the
// likeliest but for one claim, then all.
func (h *hunt) find(good func(map[string]any) bool) (claims map[string]any, proven bool) {
	token := maps.Clone(h.base)
	for _, claim := range h.order {
		if len(h.lists[claim]) == 0 {
			return nil, h.whole // no value is what p wants
		}
		set(token, claim, h.lists[claim][0])
	}
	for _, claim := range h.order {
		for _, v := range h.lists[claim] {
			set(token, claim, v)
			if h.try(token, good) {
				return token, true
			}
		}
		set(token, claim, h.lists[claim][0])
	}
	if h.product(token, h.order, good) {
		return token, true
	}
	return nil, h.whole && h.left > 0
}

func (h *hunt) product(token map[string]any, claims []string, good func(map[string]any) bool) bool {
	if len(claims) == 0 {
		return h.try(token, good)
	}
	for _, v := range h.lists[claims[0]] {
		set(token, claims[0], v)
		if h.product(token, claims[1:], good) {
			return true
		}
		if h.left <= 0 {
			return false
		}
	}
	return false
}

func (h *hunt) try(token map[string]any, good func(map[string]any) bool) bool {
	h.left--
	return h.left > 0 && good(token)
}

func set(token map[string]any, claim string, v any) {
	if v == (any)(absent{}) {
		delete(token, claim)
		return
	}
	token[claim] = v
}

// candidates returns values of one claim, of which own, what the policy wants
// of it, holds for each: those that all, the conditions of all policies, and
// the literals name, and one that none of them has ever heard of.
func (h *hunt) candidates(decl presets.Claim, claim string, own, all []*condition, l *literals) []any {
	var list []any
	seen := map[any]bool{} // of lists their text
	add := func(values ...any) {
		for _, v := range values {
			key := v
			if list, isList := v.([]string); isList {
				key = fmt.Sprintf("%q", list)
			}
			if !hasType(v, decl.Type) || seen[key] {
				continue
			}
			if seen[key] = true; admitted(own, v) {
				list = append(list, v)
			}
		}
	}
	add(l.claims[claim]...)
	add(h.base[claim])
	if v, _ := meet(own...); len(own) > 0 {
		add(v)
	}
	unheard := unheard(decl, all, l.claims[claim])
	for _, c := range all {
		add(c.values...)
		for _, g := range c.globs {
			add(g.with(fmt.Sprint(unheard[0])))
		}
	}
	if decl.Type == presets.StringList {
		add(h.listsOf(all, l.items[claim])...)
	}
	add(unheard...)
	if len(own) == 0 && decl.Optional {
		list = append(list, absent{})
	}
	return list
}

// maxItems bounds of how many items all lists are tried, which are 2^maxItems.
const maxItems = 4

// listsOf returns lists of what conditions and literals look for in a list: all
// there are, the longest first, or some if there are too many.
func (h *hunt) listsOf(conditions []*condition, items []string) []any {
	for _, c := range conditions {
		items = append(items, c.has...)
	}
	slices.Sort(items)
	items = slices.Compact(items)
	made := []any{items}
	if len(items) > maxItems {
		h.whole = false
		for _, item := range items[:maxItems] {
			made = append(made, []string{item})
		}
		return made
	}
	for set := 1<<len(items) - 1; set >= 0; set-- {
		list := []string{}
		for i, item := range items {
			if set&(1<<i) != 0 {
				list = append(list, item)
			}
		}
		made = append(made, list)
	}
	return made
}

// unheard returns values of the claim's type of which none of the conditions
// and literals names one; the first is text for a * too.
func unheard(decl presets.Claim, conditions []*condition, literals []any) []any {
	var known strings.Builder
	fmt.Fprint(&known, literals)
	for _, c := range conditions {
		fmt.Fprint(&known, c.values, c.globs, c.has)
	}
	switch decl.Type {
	case presets.Bool:
		return []any{true, false}
	case presets.Int:
		n := int64(1_000_001)
		for strings.Contains(known.String(), fmt.Sprint(n)) {
			n++
		}
		return []any{n}
	case presets.StringList:
		return []any{[]string{fresh(known.String())}}
	}
	text := fresh(known.String())
	if decl.Kind == presets.Immutable {
		return []any{strings.Repeat(freshOf("9876543210", known.String(), text), 4)}
	}
	return []any{text, "refs/heads/" + text}
}

// fresh returns one letter or digit that is not in known: a glob fits a text
// with it only if it has a * there.
func fresh(known string) string {
	r := '\u3400' // some character; there are thousands more
	for strings.ContainsRune(known, r) {
		r++
	}
	return freshOf("x9yz7qjkvw8bpfgcm65dulnh4rsoi3tae210", known, string(r))
}

// freshOf returns the first of the signs that is not in known, or else.
func freshOf(signs, known, or string) string {
	for _, r := range signs {
		if !strings.ContainsRune(known, r) {
			return string(r)
		}
	}
	return or
}

// plausible returns the claims of a token that a job may well have: all that
// are required, and what p wants of the others, so far as one value at a time
// can say.
func plausible(p *policy) map[string]any {
	var claims map[string]any
	if p.written != nil {
		claims = maps.Clone(p.written.example)
	} else {
		claims = exampleClaims(p.preset)
	}
	for name, decl := range p.preset.Claims {
		if _, there := claims[name]; !there && !decl.Optional {
			claims[name] = usual(p, name, decl)
		}
	}
	for _, c := range p.conditions() {
		if v, _ := meet(on(p.conditions(), c.claim)...); v != nil {
			claims[c.claim] = v
		}
	}
	equalise(p, claims)
	return claims
}

// exampleClaims returns those of the token that was recorded for the preset:
// none if there is no such token, or it is not of the claims' types.
func exampleClaims(p *presets.Preset) map[string]any {
	raw, err := presets.Example(p.Name, "")
	if err != nil {
		return map[string]any{}
	}
	claims, _, err := Claims(p, raw)
	if err != nil {
		return map[string]any{}
	}
	return claims
}

// usual returns a value of the claim that is no risk.
func usual(p *policy, name string, decl presets.Claim) any {
	var list []any
	for _, v := range decl.Values {
		list = append(list, v)
	}
	list = append(list, byType(name, decl), "push", "unknown")
	for _, v := range list {
		risky := slices.ContainsFunc(p.risks, func(r risk) bool { return r.claim == name && r.admits(v) })
		if hasType(v, decl.Type) && !risky {
			return v
		}
	}
	return byType(name, decl)
}

func byType(name string, decl presets.Claim) any {
	switch {
	case decl.Type == presets.Int:
		return int64(1001)
	case decl.Type == presets.Bool:
		return false
	case decl.Type == presets.StringList:
		return []string{}
	case decl.Kind == presets.Immutable:
		return "1001"
	}
	return "some-" + strings.ReplaceAll(name, "_", "-")
}

// equalise makes claims that must be equal so, where p leaves one of them open,
// and leaves one of those of which there must be one.
func equalise(p *policy, claims map[string]any) {
	for _, pair := range p.preset.MustEqual {
		a, b := pair[0], pair[1]
		if claims[a] == nil || claims[b] == nil {
			continue
		}
		if p.pin(a) != nil {
			a, b = b, a
		}
		claims[a] = claims[b]
	}
	for _, group := range p.preset.OneOf {
		pinned := slices.ContainsFunc(group, func(claim string) bool { return p.pin(claim) != nil })
		for _, claim := range group {
			if pinned && p.pin(claim) == nil {
				delete(claims, claim)
			}
		}
	}
}
