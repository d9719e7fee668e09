package policies

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/brevet-dev/brevet/issuers/presets"
)

// fenceRules are about guardrails: what they let through, and where there are
// none.
func fenceRules() []Rule {
	return []Rule{
		{evadableID, "evadable-deny", SeverityInfo, "Guardrails deny a name or ref that one more segment evades: refs/heads/dev/* is not refs/heads/dev/a/b.", nil},
		{"L039", "open-tenant", SeverityWarning, "A tenant's folder may hold policies for projects of others: no guardrails say whose its projects are.", (*linter).openTenant},
	}
}

const evadableID = "L038"

// deeper is how many more segments a rule is asked about, and told to add.
const deeper = 3

// evasions reports the rules of g that a longer name evades.
func (g *guardrails) evasions() []Finding {
	var findings []Finding
	told := map[string]bool{} // a rule is there once for each issuer
	for _, issuer := range slices.Sorted(maps.Keys(g.guards)) {
		guard := g.guards[issuer]
		for i := range guard.denies {
			for j := range guard.denies[i].match {
				d, c := &guard.denies[i], &guard.denies[i].match[j]
				text, missing := c.evaded(guard.preset)
				if place := d.place + c.claim; text != "" && !told[place] {
					told[place] = true
					findings = append(findings, d.evasion(i, c, text, missing))
				}
			}
		}
	}
	return findings
}

func (d *deny) evasion(i int, c *condition, text string, missing []any) Finding {
	f := Finding{
		ID: evadableID, Column: 1,
		Message: fmt.Sprintf("guardrails %s deny by %s, and %q is another one: deny by an id or an environment instead, or require what is meant", d.guard.name, c.claim, text),
	}
	f.File, f.Line = cutPlace(d.place)
	list := slices.Clone(c.values)
	for _, g := range c.globs {
		list = append(list, g)
	}
	path := fmt.Sprintf("deny[%d].match", i)
	f.Mend = []Edit{{
		Action: "replace", Path: path + "." + c.claim, Into: path, Line: f.Line,
		YAML: c.claim + ": " + yamlList(append(list, missing...)), Note: fmt.Sprintf("up to %d more segments; if that is not enough, deny by an id or an environment", deeper),
	}}
	return f
}

// evaded returns a text that c does not take though it is one that c takes with
// more segments, and the patterns that c lacks; "" if there is none.
func (c *condition) evaded(p *presets.Preset) (text string, missing []any) {
	decl := p.Claims[c.claim]
	if decl.Type != presets.String || decl.Kind != presets.Mutable && decl.Kind != presets.Attacker || len(decl.Values) > 0 || c.claim == p.Trigger {
		return "", nil
	}
	for _, stem := range c.stems(c.claim == p.Ref) {
		for range deeper {
			stem += "/*"
			if longer := stem.with("x"); !c.takes(longer) {
				missing = append(missing, stem)
				if text == "" {
					text = longer
				}
			}
		}
	}
	return text, missing
}

// stems returns the patterns that are not others with more segments, and with
// exact the values.
func (c *condition) stems(exact bool) []glob {
	all := slices.Clone(c.globs)
	for _, v := range c.values {
		if s, ok := v.(string); ok && exact {
			all = append(all, glob(s))
		}
	}
	return slices.DeleteFunc(slices.Clone(all), func(g glob) bool {
		return slices.ContainsFunc(all, func(other glob) bool {
			rest, begins := strings.CutPrefix(string(g), string(other))
			return begins && rest != "" && strings.Trim(rest, "/*") == ""
		})
	})
}

// openTenants returns the first policy, for each issuer, of each tenant whose
// policies may be for projects of others.
func (s *Set) openTenants() map[*policy]bool {
	open, seen := map[*policy]bool{}, map[string]bool{}
	for _, p := range s.policies {
		if key := p.tenant + " " + p.issuer; p.tenant != "" && !seen[key] && !s.fenced(p) {
			seen[key], open[p] = true, true
		}
	}
	return open
}

// fenced reports whether guardrails that are not the tenant's own say for whose
// projects each credential of class write may be.
func (s *Set) fenced(p *policy) bool {
	outside := func(g *guard) bool { return !strings.Contains(g.name, "/") }
	return !slices.ContainsFunc(p.grants, func(grant Grant) bool {
		return !s.credentials[grant.Credential].Read && !slices.ContainsFunc(p.guards, func(g *guard) bool {
			return outside(g) && g.fences(grant.Credential)
		})
	})
}

// fences reports whether a policy that g is for may be of some projects or owners
// only, if it grants the credential.
func (g *guard) fences(credential string) bool {
	if namesID(g.require, g.preset) {
		return true
	}
	return g.allowed != nil && !slices.ContainsFunc(g.allowed, func(a allowed) bool {
		isOf := func(name glob) bool { return name.fits(credential) }
		return slices.ContainsFunc(a.names, isOf) && !namesID(a.match, g.preset)
	})
}

// namesID reports whether the conditions name a project or an owner by its id, or,
// where the preset has neither, anything.
func namesID(conditions []condition, p *presets.Preset) bool {
	return slices.ContainsFunc(conditions, func(c condition) bool {
		return p.ProjectID+p.OwnerID == "" || c.claim == p.ProjectID || c.claim == p.OwnerID
	})
}

func (l *linter) openTenant() {
	if !l.open[l.p] {
		return
	}
	claim, ids := l.tenantIDs()
	yaml := fmt.Sprintf("{guardrails: %s-%s, folder: %s, issuer: %s, require: {%s: %s}}", l.p.tenant, l.p.issuer, l.p.tenant, l.p.issuer, claim, yamlValue(ids))
	mend := Edit{Action: newDocument, Line: l.at("policy").Line, YAML: yaml, Note: "in a file of the root folder, with the ids that are " + l.p.tenant + "'s"}
	l.find(l.at("policy"), l.usual, []Edit{mend}, "whoever writes to the folder %s may write policies for projects of others of issuer %s, with a longer max_ttl than theirs: no guardrails require ids of its policies", l.p.tenant, l.p.issuer)
}

// newDocument is the action of an edit that adds a document of its own.
const newDocument = "add-document"

// tenantIDs returns the claim by which all policies of the tenant pin whose the
// projects are, and its values; if there is none, one to be filled in.
func (l *linter) tenantIDs() (claim string, ids []any) {
	for _, claim = range []string{l.p.preset.OwnerID, l.p.preset.ProjectID} {
		ids = nil
		for _, p := range l.set.policies {
			if p.tenant != l.p.tenant || p.issuer != l.p.issuer {
				continue
			}
			pin := p.pin(claim)
			if !pin.isExact() {
				ids = nil
				break
			}
			ids = append(ids, pin.values...)
		}
		if len(ids) > 0 {
			return claim, unique(ids)
		}
	}
	for _, claim = range []string{l.p.preset.OwnerID, l.p.preset.ProjectID, l.p.match[0].claim} {
		if claim != "" {
			return claim, []any{l.id(claim)}
		}
	}
	return claim, ids
}

// unique returns values in the order in which they come first.
func unique(values []any) []any {
	var list []any
	seen := map[any]bool{}
	for _, v := range values {
		if !seen[v] {
			seen[v] = true
			list = append(list, v)
		}
	}
	return list
}
