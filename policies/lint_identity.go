package policies

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/brevet-dev/brevet/issuers/presets"
)

// identityRules are about who a policy is for.
func identityRules() []Rule {
	return []Rule{
		{"L001", "no-immutable-id", SeverityError, "A policy that pins neither the project nor its owner by an id is for whoever has the name, also for who takes it next.", (*linter).noID},
		{"L005", "name-without-id", SeverityWarning, "A name is pinned without the id that goes with it. Names are renamed, deleted and registered again by someone else.", (*linter).nameWithoutID},
		{"L009", "owner-only", SeverityWarning, "Only the owner is pinned: every project of it, of today and of tomorrow, is let in.", (*linter).ownerOnly},
		{"L023", "across-owners", SeverityError, "A pattern whose first segment has a * is for names of other owners.", (*linter).acrossOwners},
		{"L022", "mutable-gate", SeverityInfo, "A name stands in match. In names a mismatch denies as well, and is reported as drift, so that a rename is seen.", (*linter).mutableGate},
		{"L024", "person-gate", SeverityWarning, "A person's name, login or e-mail address decides. It can be given to someone else.", (*linter).personGate},
		{"L037", "environment-without-owner", SeverityWarning, "An environment is trusted and its owner is not pinned: after a transfer the new owner decides who may use it.", (*linter).environmentWithoutOwner},
	}
}

const ofClaims = "with the value that brevet claims shows in the job"

// stranger returns a token with other values of the claims, which the policy
// grants to all the same; nil if there is none.
func (l *linter) stranger(claims ...string) map[string]any {
	changes := map[string]any{}
	for _, claim := range claims {
		if claim != "" {
			changes[claim] = l.other(claim)
		}
	}
	for _, pair := range l.p.preset.MustEqual {
		if v, ok := changes[pair[1]]; ok && l.usual[pair[0]] != nil {
			changes[pair[0]] = v
		}
	}
	return l.like(changes)
}

// id returns an id to fill in.
func (l *linter) id(claim string) any {
	if v, ok := l.usual[claim]; ok {
		return v
	}
	return byType(claim, l.p.preset.Claims[claim])
}

func (l *linter) noID() {
	p := l.p.preset
	id, owner := p.ProjectID, p.OwnerID
	if id == "" {
		id = owner
	}
	if id == "" || l.p.pin(p.ProjectID).isExact() || l.p.pin(p.OwnerID).isExact() {
		return
	}
	if token := l.stranger(p.ProjectID, p.OwnerID); token != nil {
		l.find(l.at("match"), token, l.fill(id, l.id(id)), "match pins no id: tokens of any project get it, whatever the name of the project says by then")
	}
}

// fill adds an entry to match, and takes unsafe away if nothing is lacking then.
func (l *linter) fill(claim string, v any) []Edit {
	edits := []Edit{l.entry(claim, v, ofClaims)}
	if l.p.unsafe == "" {
		return edits
	}
	filled := *l.p
	filled.match = slices.DeleteFunc(slices.Clone(l.p.match), func(c condition) bool { return c.claim == claim })
	filled.match = append(filled.match, condition{claim: claim, values: []any{v}})
	if len(filled.lacks()) == 0 {
		edits = append(edits, l.without("unsafe"))
	}
	return edits
}

func (l *linter) nameWithoutID() {
	p := l.p.preset
	for _, pair := range [][2]string{{p.Project, p.ProjectID}, {p.Owner, p.OwnerID}} {
		name, id := pair[0], pair[1]
		pinnedByProject := name == p.Owner && l.p.pin(p.ProjectID) != nil // the project has one owner
		if name == "" || id == "" || len(on(l.p.conditions(), name)) == 0 || l.p.pin(id) != nil || pinnedByProject {
			continue
		}
		field := "match"
		if l.p.pin(name) == nil {
			field = "names"
		}
		if token := l.stranger(id); token != nil {
			l.find(l.at(field, name), token, l.fill(id, l.id(id)), "%s is pinned and %s is not: whoever has the name next is let in", name, id)
		}
	}
}

func (l *linter) ownerOnly() {
	p := l.p.preset
	if p.ProjectID == "" || l.p.pin(p.ProjectID) != nil || l.p.pin(p.OwnerID) == nil {
		return
	}
	if token := l.stranger(p.ProjectID); token != nil {
		l.find(l.at("match", p.OwnerID), token, l.fill(p.ProjectID, l.id(p.ProjectID)), "every project of the owner is let in, also those that are made later")
	}
}

func (l *linter) acrossOwners() {
	p := l.p.preset
	if l.p.pin(p.ProjectID) != nil || l.p.pin(p.OwnerID) != nil {
		return // the ids say whose it is
	}
	for i := range l.p.match {
		c := &l.p.match[i]
		for _, g := range c.globs {
			first, rest, _ := presets.CutSegment(string(g))
			if !strings.Contains(first, "*") || rest == "" && c.claim != p.Owner {
				continue
			}
			token := l.like(map[string]any{c.claim: g.with("x")})
			if token == nil {
				continue
			}
			exact := fmt.Sprint(g.with("x"))
			l.find(l.at("match", c.claim), token, []Edit{l.entry(c.claim, exact, "with the name that you mean")},
				"the pattern %q is for names of any owner that begin like it", string(g))
		}
	}
}

func (l *linter) mutableGate() {
	for i := 0; l.usual != nil && i < len(l.p.match); i++ {
		c := &l.p.match[i]
		v := append(slices.Clone(c.values), nil)[0]
		text, isText := v.(string)
		if l.kindOf(c.claim) != presets.Mutable || len(c.values) != 1 || !isText || len(c.globs) > 0 || l.isPerson(c.claim) || len(l.p.match) == 1 {
			continue
		}
		if _, own := l.p.written.in.Match[c.claim]; !own || l.pins(c.claim) {
			continue // of defaults, or asked for
		}
		edits := []Edit{l.without("match", c.claim), l.field(c.claim+": "+yamlText(text), "", "names", c.claim)}
		l.find(l.at("match", c.claim), l.refusedWith(c.claim), edits, "%s is a name; in names a rename denies too, and is told of", c.claim)
	}
}

// refusedWith returns a token that is refused for the claim alone.
func (l *linter) refusedWith(claim string) map[string]any {
	claims := maps.Clone(l.usual)
	claims[claim] = l.other(claim)
	if l.p.gives(claims) {
		return nil
	}
	return claims
}

// pins reports whether the claim is part of what the preset asks for.
func (l *linter) pins(claim string) bool {
	return slices.ContainsFunc(pinsOf(l.p.preset), func(pin presets.Pin) bool {
		return slices.ContainsFunc(pin.AnyOf, func(gate presets.Gate) bool {
			return slices.ContainsFunc(gate, func(h presets.Hold) bool { return h.Claim == claim })
		})
	})
}

// isPerson reports whether a claim names somebody.
func (l *linter) isPerson(claim string) bool {
	named := claim == l.p.preset.Actor || strings.Contains(claim, "email") || strings.Contains(claim, "login")
	return named && l.kindOf(claim) != presets.Immutable
}

func (l *linter) personGate() {
	for _, claim := range l.claims() {
		if !l.isPerson(claim.name) || claim.field == "names" && (claim.name == l.p.preset.Project || claim.name == l.p.preset.Owner) {
			continue // in names an account's address stands for its id, as a path for a project's
		}
		id := l.p.preset.ActorID
		token := l.usual
		if id != "" {
			token = l.stranger(id)
		}
		if token == nil {
			continue
		}
		l.find(claim.place, token, l.personMend(claim, id), "%s names a person; the name can be given to someone else, and says nothing of what the job runs", claim.name)
	}
}

func (l *linter) personMend(claim mention, id string) []Edit {
	if claim.field == "when" {
		return l.replaceClaim(claim.name)
	}
	edits := []Edit{l.without(claim.field, claim.name)}
	if id != "" && l.p.pin(id) == nil {
		edits = append(edits, l.entry(id, l.id(id), ofClaims))
	}
	return edits
}

func (l *linter) environmentWithoutOwner() {
	p := l.p.preset
	if p.Environment == "" || p.OwnerID == "" || l.p.pin(p.Environment) == nil || l.p.pin(p.OwnerID) != nil {
		return
	}
	if token := l.stranger(p.OwnerID); token != nil {
		l.find(l.at("match", p.Environment), token, []Edit{l.entry(p.OwnerID, l.id(p.OwnerID), ofClaims)},
			"%s is trusted and %s is not pinned: after a transfer the new owner decides who may use it", p.Environment, p.OwnerID)
	}
}
