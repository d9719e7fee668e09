package policies

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// This file says what policies mean in one way each, so that two texts are the
// same exactly if two policies grant the same.

// meaning is all of p that matters to a decision: not its name, its place, its
// order, nor why it is unsafe.
func (p *policy) meaning() string { return fmt.Sprintf("%q", p.says()) }

// says lists what p says, a line each.
func (p *policy) says() []string {
	list := append([]string{"issuer " + p.issuer}, sentences("match", p.match)...)
	list = append(list, sentences("names", p.names)...)
	if p.when != nil {
		list = append(list, "when "+p.when.source)
	}
	for _, g := range p.sortedGrants() {
		list = append(list, "grants "+g.says())
	}
	if p.shadow {
		list = append(list, "mode shadow")
	}
	if !p.expires.IsZero() {
		list = append(list, "expires "+p.end())
	}
	return append(list, p.guarded()...)
}

// guarded lists what guardrails deny p, each once.
func (p *policy) guarded() []string {
	var list []string
	for _, d := range p.denyRules() {
		list = append(list, "denied where "+sentence(d.match))
	}
	slices.Sort(list)
	return slices.Compact(list)
}

func (p *policy) sortedGrants() []*Grant {
	list := make([]*Grant, len(p.grants))
	for i := range p.grants {
		list[i] = &p.grants[i]
	}
	slices.SortFunc(list, func(a, b *Grant) int { return strings.Compare(a.Credential, b.Credential) })
	return list
}

// end says until when p holds.
func (p *policy) end() string {
	if p.expires.IsZero() {
		return "never"
	}
	return p.expires.UTC().Format(time.RFC3339)
}

// sentences says what each of some conditions wants, sorted.
func sentences(of string, list []condition) []string {
	said := make([]string, len(list))
	for i := range list {
		said[i] = of + " " + list[i].claim + " is " + list[i].wants()
	}
	slices.Sort(said)
	return said
}

// sentence is all of them as one.
func sentence(list []condition) string {
	if len(list) == 0 {
		return "anything"
	}
	return strings.Join(sentences("claim", list), " and ")
}

// asksAbout returns the claims that a decision of p hangs on, sorted.
func (p *policy) asksAbout() []string {
	names := map[string]bool{}
	for _, c := range p.conditions() {
		names[c.claim] = true
	}
	for _, d := range p.denyRules() {
		for _, c := range d.match {
			names[c.claim] = true
		}
	}
	for claim := range p.preset.Claims {
		if p.when != nil && strings.Contains(p.when.source, claim) {
			names[claim] = true
		}
	}
	return slices.Sorted(maps.Keys(names))
}

// wants is [condition.wanted], sorted.
func (c *condition) wants() string {
	var list []string
	for _, v := range c.values {
		list = append(list, quoted(v))
	}
	for _, g := range c.globs {
		list = append(list, "like "+quoted(string(g)))
	}
	for _, h := range c.has {
		list = append(list, "a list with "+quoted(h))
	}
	slices.Sort(list)
	return strings.Join(list, " or ")
}

// says is a grant with all its terms.
func (g *Grant) says() string {
	list := []string{g.Credential}
	for _, t := range g.terms() {
		if t.said != "" {
			list = append(list, t.name+" "+t.said)
		}
	}
	if g.KeyUse != nil {
		for _, name := range slices.Sorted(maps.Keys(g.KeyUse.Context)) {
			list = append(list, fmt.Sprintf("context %s: %q", name, g.KeyUse.Context[name]))
		}
	}
	return strings.Join(list, ", ")
}

// A term is one of a grant's, with what it says and how much that allows: of
// two values the higher allows more.
type term struct {
	name, said string // said is "" if the grant does not say
	allows     int64
}

// unlimited is how much no limit allows.
const unlimited = 1<<63 - 1

func (g *Grant) terms() []term {
	list := []term{
		{"ttl", short(g.TTL), int64(g.TTL)}, {"max_ttl", short(g.MaxTTL), int64(g.MaxTTL)},
		lengthTerm("dead_man", g.DeadMan), scopeTerm(g.Scope), leakTerm(g.OnLeak),
		countTerm("live", g.OfWorkload.Live), countTerm("per_minute", g.OfWorkload.PerMinute),
		countTerm("live of the policy", g.OfPolicy.Live), countTerm("per_minute of the policy", g.OfPolicy.PerMinute),
	}
	if u := g.KeyUse; u != nil {
		for _, op := range operations {
			list = append(list, allowTerm(op, u.Allows(Operation(op))))
		}
		list = append(list, countTerm("max_uses", u.MaxUses), lengthTerm("max_age", u.MaxAge))
	}
	return list
}

func lengthTerm(name string, d time.Duration) term {
	if d == 0 {
		return term{name, "", unlimited}
	}
	return term{name, short(d), int64(d)}
}

func countTerm(name string, n int) term {
	if n == 0 {
		return term{name, "", unlimited}
	}
	return term{name, fmt.Sprint(n), int64(n)}
}

func scopeTerm(s Scope) term {
	if s == ScopeRun {
		return term{"scope", "run", 1}
	}
	return term{"scope", "", 0}
}

func leakTerm(o OnLeak) term {
	if o == RevokeOnLeak {
		return term{"on_leak", "revoke", 0}
	}
	return term{"on_leak", "", 1}
}

func allowTerm(op string, allowed bool) term {
	if allowed {
		return term{"allow", op, 1}
	}
	return term{"allow", "", 0}
}

// beyond lists the terms in which g allows more than other, a grant of the same
// credential. With [More] g is the newer one, with [Less] the older.
func (g *Grant) beyond(other *Grant, kind EffectKind) []string {
	var list []string
	theirs := other.terms()
	for i, t := range g.terms() {
		if i < len(theirs) && t.allows > theirs[i].allows {
			list = append(list, t.name+" "+kind.insteadOf(orNone(t.said), orNone(theirs[i].said)))
		}
	}
	if g.KeyUse != nil && other.KeyUse != nil {
		for _, name := range slices.Sorted(maps.Keys(other.KeyUse.Context)) {
			if want := other.KeyUse.Context[name]; g.KeyUse.Context[name] != want {
				list = append(list, fmt.Sprintf("context %s: %s", name, kind.insteadOf("another", quoted(want))))
			}
		}
	}
	return list
}

// insteadOf says what is new and what was, of which the wider comes first.
func (e EffectKind) insteadOf(wide, narrow string) string {
	if e == Less {
		wide, narrow = narrow, wide
	}
	return wide + " instead of " + narrow
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

// differences says what of q another version of it, p, says otherwise.
func differences(q, p *policy) []string {
	old, now := q.says(), p.says()
	list := []string{}
	for _, line := range old {
		if !slices.Contains(now, line) {
			list = append(list, "was: "+line)
		}
	}
	for _, line := range now {
		if !slices.Contains(old, line) {
			list = append(list, "now: "+line)
		}
	}
	return list
}
