package policies

import (
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/brevet-dev/brevet/issuers/presets"
	"github.com/brevet-dev/brevet/policies/strictyaml"
)

// A guardrailsDocument is what no policy may go beyond, as it is written. It is
// for the policies of its folder and below, or of the folder that it names. Of
// several, all count.
type guardrailsDocument struct {
	Guardrails  string         `yaml:"guardrails"`  // its name
	Description string         `yaml:"description"` // for people
	Folder      string         `yaml:"folder"`      // below its own, which it is for; left out: its own
	Issuer      string         `yaml:"issuer"`      // policies of this one only; left out: of all
	Deny        []denyEntry    `yaml:"deny"`        // tokens that get nothing
	MaxTTL      time.Duration  `yaml:"max_ttl"`     // the most that a grant may have
	Require     map[string]any `yaml:"require"`     // claim: what the match of each policy must keep within
	Credentials []allowEntry   `yaml:"credentials"` // which may be granted, and to whom; left out: all
	Unsafe      string         `yaml:"unsafe"`      // refuse: no policy may be unsafe
}

type denyEntry struct {
	Reason string         `yaml:"reason"`
	Match  map[string]any `yaml:"match"`
}

type allowEntry struct {
	Match map[string]any `yaml:"match"` // for policies whose match keeps within this; left out: for all
	Allow []string       `yaml:"allow"` // names of credentials, or patterns with *
}

// guardrails are one document, compiled.
type guardrails struct {
	name, place, folder string
	issuer              string // "" for all

	maxTTL       time.Duration // 0: no limit
	refuseUnsafe bool
	guards       map[string]*guard // by issuer
}

// A guard is the part of guardrails that names claims, as it reads for the
// tokens of one issuer.
type guard struct {
	*guardrails
	preset  *presets.Preset
	denies  []deny
	require []condition
	allowed []allowed // nil: every credential
	size    weight    // of denies
}

// A deny is a rule by which a token gets nothing.
type deny struct {
	guard  *guardrails
	reason string
	place  string
	match  []condition
}

// fits reports whether the rule is for a token. A claim that it does not have
// might be any: then it is.
func (d *deny) fits(claims map[string]any) bool {
	for i := range d.match {
		c := &d.match[i]
		if _, said := claims[c.claim]; said && !c.holds(claims) {
			return false
		}
	}
	return true
}

// String says why, for operators.
func (d *deny) String() string {
	return fmt.Sprintf("guardrails %s deny it: %s", d.guard.name, d.reason)
}

// allowed are credentials that policies within match may grant.
type allowed struct {
	match []condition
	names []glob
}

// String names the guardrails and where they are, for problems of policies.
func (g *guardrails) String() string { return fmt.Sprintf("guardrails %s (%s)", g.name, g.place) }

func (l *loader) compileGuardrails() []*guardrails {
	var list []*guardrails
	for _, s := range l.guardrails {
		var in guardrailsDocument
		problems := s.doc.Decode(&in)
		r := reader{loader: l, doc: s.doc, folder: s.folder, issuer: in.Issuer}
		g := r.guardrails(&in)
		if problems = problems.And(r.problems.Limit()); len(problems) == 0 {
			list = append(list, g) // policies are not held to what may not be meant
		}
		l.add(problems...)
	}
	return list
}

func (r *reader) guardrails(in *guardrailsDocument) *guardrails {
	r.name("guardrails", in.Guardrails)
	g := &guardrails{
		name: fullName(r.folder, in.Guardrails), place: r.place(strictyaml.Path{"guardrails"}),
		folder: r.scopeFolder(in.Folder), issuer: in.Issuer, maxTTL: in.MaxTTL,
		refuseUnsafe: in.Unsafe == "refuse", guards: map[string]*guard{},
	}
	if path := (strictyaml.Path{"max_ttl"}); r.doc.Has(path) && !wholeSeconds(in.MaxTTL) {
		r.fail(path, "max_ttl must be whole seconds, one or more")
	}
	if path := (strictyaml.Path{"unsafe"}); r.doc.Has(path) && !g.refuseUnsafe {
		r.fail(path, "unsafe must be refuse; leave it out to let policies say unsafe")
	}
	r.guards(in)
	if !r.most(strictyaml.Path{"deny"}, len(in.Deny), maxRules) || !r.most(strictyaml.Path{"credentials"}, len(in.Credentials), maxRules) {
		return g
	}
	namesClaims := len(in.Deny)+len(in.Require)+len(in.Credentials) > 0
	r.eachIssuer(in.Issuer, namesClaims, func(p *presets.Preset) { g.guards[r.issuer] = r.guard(g, in, p) })
	return g
}

// guards checks that there is something to guard.
func (r *reader) guards(in *guardrailsDocument) {
	sizes := map[string]int{"deny": len(in.Deny), "require": len(in.Require), "credentials": len(in.Credentials)}
	some := r.doc.Has(strictyaml.Path{"max_ttl"}) || r.doc.Has(strictyaml.Path{"unsafe"})
	for field, n := range sizes {
		path := strictyaml.Path{field}
		if some = some || r.doc.Has(path); r.doc.Has(path) && n == 0 {
			r.fail(path, "%s is empty; leave it out if there is none", field)
		}
	}
	if !some {
		r.fail(strictyaml.Path{"guardrails"}, "the guardrails guard nothing; give them deny, max_ttl, require, credentials or unsafe")
	}
}

// scopeFolder returns the folder that guardrails are for. It must be there:
// guardrails of a misspelt folder would guard nothing.
func (r *reader) scopeFolder(named string) string {
	at := strictyaml.Path{"folder"}
	if !r.doc.Has(at) {
		return r.folder
	}
	folder := path.Join(r.folder, named)
	info, err := fs.Stat(r.loader.fsys, folder)
	switch {
	case !fs.ValidPath(named) || named == ".":
		r.fail(at, "folder must name one below this, such as payments or payments/eu")
	case err != nil || !info.IsDir():
		r.fail(at, "there is no folder %q, so nothing would be guarded", folder)
	}
	return folder
}

func (r *reader) guard(g *guardrails, in *guardrailsDocument, p *presets.Preset) *guard {
	made := &guard{guardrails: g, preset: p, require: r.conditions(p, strictyaml.Path{"require"}, in.Require)}
	for i, entry := range in.Deny {
		at := strictyaml.Path{"deny", i}
		if entry.Reason == "" {
			r.fail(at.With("reason"), "the rule has no reason: why it denies, for the audit log")
		}
		if len(entry.Match) == 0 {
			r.fail(at, "the rule has no match, so it would deny everyone")
		}
		match := r.conditions(p, at.With("match"), entry.Match)
		made.denies = append(made.denies, deny{g, entry.Reason, r.place(at), match})
		made.size.add(weightOf(match))
	}
	for i, entry := range in.Credentials {
		at := strictyaml.Path{"credentials", i}
		made.allowed = append(made.allowed, allowed{
			match: r.conditions(p, at.With("match"), entry.Match), names: r.allowedNames(at.With("allow"), entry.Allow),
		})
	}
	return made
}

// allowedNames compiles the names and patterns of credentials.
func (r *reader) allowedNames(at strictyaml.Path, list []string) []glob {
	if len(list) == 0 {
		r.fail(at, "allow is missing: the credentials that may be granted")
	}
	var names []glob
	for i, name := range list {
		switch g := glob(name); {
		case !strings.Contains(name, "*"):
			r.credential(at.With(i), name)
		case !slices.ContainsFunc(slices.Collect(maps.Keys(r.loader.options.Credentials)), g.fits):
			r.fail(at.With(i), "no configured credential is like %q", name)
		}
		names = append(names, glob(name))
	}
	return names
}

// hold keeps p, whose document c has, within those of rails that are for it.
func (p *policy) hold(rails []*guardrails, c *compiler) {
	for _, g := range rails {
		guard := g.guards[p.issuer]
		if guard == nil || p.preset == nil || !isWithin(c.folder, g.folder) {
			continue
		}
		p.guards = append(p.guards, guard)
		c.within(guard, p)
	}
}

// within reports where p goes beyond g.
func (c *compiler) within(g *guard, p *policy) {
	if g.refuseUnsafe && p.unsafe != "" {
		c.failKey(strictyaml.Path{"unsafe"}, "%s refuse unsafe policies; give match what it lacks: %s", g, c.lacking(p))
	}
	for i := range g.require {
		want := &g.require[i]
		if pin := p.pin(want.claim); pin == nil || !pin.within(want) {
			c.fail(strictyaml.Path{"match", want.claim}, "%s require that match keeps %s within %s", g, want.claim, want.wanted())
		}
	}
	for i, grant := range p.grants {
		at := strictyaml.Path{"grant", i}
		if g.maxTTL > 0 && grant.MaxTTL > g.maxTTL {
			c.fail(c.lifePath(at), "%s allow a max_ttl of %s at most, not %s; lower it", g, short(g.maxTTL), short(grant.MaxTTL))
		}
		if g.allowed != nil && !g.allows(p, grant.Credential) {
			c.fail(at.With("credential"), "%s do not allow to grant %q to what match holds for", g, grant.Credential)
		}
	}
}

// lifePath returns where a grant says how long it lives with renewals.
func (c *compiler) lifePath(grant strictyaml.Path) strictyaml.Path {
	if path := grant.With("max_ttl"); c.doc.Has(path) {
		return path
	}
	return grant.With("ttl")
}

// allows reports whether a policy may grant a credential.
func (g *guard) allows(p *policy, credential string) bool {
	for _, a := range g.allowed {
		isOf := func(name glob) bool { return name.fits(credential) }
		if p.isWithin(a.match) && slices.ContainsFunc(a.names, isOf) {
			return true
		}
	}
	return false
}

// isWithin reports whether every token that fits the match of p fits this one.
// What it cannot see, as in when, does not count.
func (p *policy) isWithin(match []condition) bool {
	for i := range match {
		if pin := p.pin(match[i].claim); pin == nil || !pin.within(&match[i]) {
			return false
		}
	}
	return true
}

// within reports whether all that c holds for, other holds for.
func (c *condition) within(other *condition) bool {
	for _, v := range c.values {
		if !other.takes(v) {
			return false
		}
	}
	for _, g := range c.globs {
		if !slices.ContainsFunc(other.globs, func(o glob) bool { return o.covers(g) }) {
			return false
		}
	}
	for _, h := range c.has {
		if !slices.Contains(other.has, h) {
			return false
		}
	}
	return len(c.values)+len(c.globs)+len(c.has) > 0
}

// denied returns the first rule of a guardrail that denies the token; nil if
// none does.
func (p *policy) denied(claims map[string]any) *deny {
	for _, g := range p.guards {
		for i := range g.denies {
			if g.denies[i].fits(claims) {
				return &g.denies[i]
			}
		}
	}
	return nil
}
