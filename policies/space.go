package policies

import (
	"slices"
	"strings"
)

// This file reasons about what conditions hold for: which tokens one lets in
// that another does not. It is exact, because values and globs are all that a
// condition has. What a policy holds for as a whole, with its condition in CEL,
// is in witness.go, which does not reason but looks for a token and tries it.

// with returns g with text for each *. It fits g if text has no / and no :, and
// if no segment becomes empty.
func (g glob) with(text string) string {
	return strings.ReplaceAll(string(g), "*", text)
}

// common returns a text that all globs fit, false if there is none. It takes
// time in proportion to their length.
func common(globs ...glob) (string, bool) {
	rest := even(globs)
	var text strings.Builder
	for {
		segments, ends := make([]string, len(rest)), make([]byte, len(rest))
		for i := range rest {
			segments[i], rest[i], ends[i] = cutSegment(rest[i])
		}
		segment, ok := commonSegment(segments)
		if len(slices.Compact(ends)) != 1 || !ok {
			return "", false
		}
		text.WriteString(segment)
		if ends[0] == 0 {
			return text.String(), true
		}
		text.WriteByte(ends[0])
	}
}

// even returns the globs, those that end in ** with as many segments as the
// longest has, if they have fewer.
func even(globs []glob) []string {
	out, most := make([]string, len(globs)), 0
	for _, g := range globs {
		most = max(most, g.segments())
	}
	for i, g := range globs {
		begin, open := strings.CutSuffix(string(g), anyRest)
		if out[i] = string(g); open {
			out[i] = begin + "*" + strings.Repeat("/*", most-g.segments())
		}
	}
	return out
}

func (g glob) segments() int {
	return 1 + strings.Count(string(g), "/") + strings.Count(string(g), ":")
}

// commonSegment is [common] for one segment of each glob. Those with a * have
// a text in common if the one with the longest text before its first * fits the
// others there, and likewise at the end: what they have between their stars can
// stand one after the other, since each has a * for that of the rest.
func commonSegment(patterns []string) (string, bool) {
	var head, middle, tail string
	for _, p := range patterns {
		first, last := strings.Index(p, "*"), strings.LastIndex(p, "*")
		if first < 0 {
			return p, p != "" && fitsAll(patterns, p)
		}
		head, tail = longer(head, p[:first]), longer(tail, p[last+1:])
		middle += strings.ReplaceAll(p[first:last+1], "*", "")
	}
	text := head + middle + tail
	if text == "" {
		text = "x"
	}
	return text, fitsAll(patterns, text)
}

func fitsAll(patterns []string, text string) bool {
	return !slices.ContainsFunc(patterns, func(p string) bool { return !fitsSegment(p, text) })
}

func longer(a, b string) string {
	if len(a) < len(b) {
		return b
	}
	return a
}

// admits reports whether c holds for a token whose claim is v.
func (c *condition) admits(v any) bool {
	list, isList := v.([]string)
	if !isList {
		return v != nil && c.takes(v)
	}
	return slices.ContainsFunc(list, func(item string) bool { return slices.Contains(c.has, item) })
}

// maxPairs bounds how many pairs of globs are looked at for a common value. Two
// lists of 100 patterns stay below it.
const maxPairs = 10_000

// meet returns a value of the claim that all conditions, which are of the same
// claim, hold for. Where there are so many globs that it gives up, it returns
// none and sure is false.
func meet(conditions ...*condition) (v any, sure bool) {
	for _, c := range conditions {
		for _, v := range c.values {
			if admitted(conditions, v) {
				return v, true
			}
		}
	}
	if list := items(conditions); admitted(conditions, list) {
		return list, true
	}
	budget := maxPairs
	text, ok := meetGlobs(conditions, nil, &budget)
	if !ok {
		return nil, budget > 0
	}
	return text, true
}

// meetGlobs looks for one glob of each condition that have a text in common
// with those chosen already.
func meetGlobs(conditions []*condition, chosen []glob, budget *int) (string, bool) {
	if len(conditions) == 0 {
		return common(chosen...)
	}
	for _, g := range conditions[0].globs {
		if *budget--; *budget <= 0 {
			return "", false
		}
		with := append(slices.Clone(chosen), g)
		if _, ok := common(with...); !ok {
			continue
		}
		if text, ok := meetGlobs(conditions[1:], with, budget); ok {
			return text, true
		}
	}
	return "", false
}

// items returns a list that has what each condition wants of lists.
func items(conditions []*condition) []string {
	var list []string
	for _, c := range conditions {
		if len(c.has) > 0 && !slices.Contains(list, c.has[0]) {
			list = append(list, c.has[0])
		}
	}
	return list
}

func admitted(conditions []*condition, v any) bool {
	return !slices.ContainsFunc(conditions, func(c *condition) bool { return !c.admits(v) })
}

// on returns what the conditions say of the claim.
func on(conditions []condition, claim string) []*condition {
	var list []*condition
	for i := range conditions {
		if conditions[i].claim == claim {
			list = append(list, &conditions[i])
		}
	}
	return list
}

// blockWithin reports whether every token that all of block hold for, all of
// other hold for too. It is exact if block has one condition a claim, and else
// true only if it is so.
func blockWithin(block, other []condition) bool {
	return !slices.ContainsFunc(other, func(o condition) bool {
		return !slices.ContainsFunc(on(block, o.claim), func(c *condition) bool { return c.within(&o) })
	})
}

// blocksMeet reports whether there may be a token that all conditions of both
// blocks hold for; false is certain.
func blocksMeet(block, other []condition) bool {
	all := append(slices.Clone(block), other...)
	return !slices.ContainsFunc(all, func(c condition) bool {
		v, sure := meet(on(all, c.claim)...)
		return v == nil && sure
	})
}

// conditions returns all that p asks of the claims, but for when and risks.
func (p *policy) conditions() []condition {
	return append(slices.Clone(p.match), p.names...)
}

// within reports whether q holds for every token that p holds for. True is
// certain; it is false where that hangs on two conditions in CEL that are not
// the same text.
func (p *policy) within(q *policy) bool {
	refuses := func(r risk) bool { return !q.tolerates(r) }
	lets := func(d *deny) bool { return !p.denies(d) }
	return p.issuer == q.issuer && len(p.risks) == len(q.risks) && !slices.ContainsFunc(p.risks, refuses) &&
		!slices.ContainsFunc(q.denyRules(), lets) && q.when.impliedBy(p.when) && blockWithin(p.conditions(), q.conditions())
}

// denyRules returns the rules by which guardrails deny what p would grant.
func (p *policy) denyRules() []*deny {
	var list []*deny
	for _, g := range p.guards {
		for i := range g.denies {
			list = append(list, &g.denies[i])
		}
	}
	return list
}

// denies reports whether all that d denies is denied to p, by one rule.
func (p *policy) denies(d *deny) bool {
	return slices.ContainsFunc(p.denyRules(), func(other *deny) bool { return blockWithin(d.match, other.match) })
}

// tolerates reports whether q names all values of the risk that r names.
func (q *policy) tolerates(r risk) bool {
	return slices.ContainsFunc(q.risks, func(other risk) bool {
		return other.claim == r.claim && (r.named.isEmpty() || r.named.within(&other.named))
	})
}

func (c *condition) isEmpty() bool { return len(c.values)+len(c.globs)+len(c.has) == 0 }

// impliedBy reports whether w is true wherever other is. True is certain.
func (w *when) impliedBy(other *when) bool {
	return w == nil || other != nil && w.source == other.source
}
