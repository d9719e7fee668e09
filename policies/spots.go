package policies

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/brevet-dev/brevet/policies/strictyaml"
)

// A spot is where a part of a policy stands: an entry of match, one value of
// it, a name, when or one line of it.
type spot struct {
	field, claim string
	option       string // as condition.wanted has it; "" for the entry
	line         int    // in the policy's file
	from         string // "file:line" in another: of the defaults that it is from
}

// at returns "file:line" of a part, or of the policy if it has no place of its
// own.
func (p *policy) at(field, claim string) string { return p.optionAt(field, claim, "") }

func (p *policy) optionAt(field, claim, option string) string {
	place := p.place
	for _, s := range p.spots {
		if s.field != field || s.claim != claim || s.option != "" && s.option != option {
			continue
		}
		place = s.from
		if place == "" {
			file, _, _ := cutLast(p.place, ":")
			place = fmt.Sprintf("%s:%d", file, s.line)
		}
		if s.option == option {
			break
		}
	}
	return place
}

// cutLast cuts s around the last sep.
func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

// spots notes where the parts of p stand.
func (c *compiler) spots(p *policy) []spot {
	var list []spot
	add := func(field, claim, option string, path strictyaml.Path) {
		list = append(list, spot{field: field, claim: claim, option: option, line: c.doc.Line(path)})
	}
	if !p.expires.IsZero() {
		add(PartExpires, "", "", strictyaml.Path{PartExpires})
	}
	for i := range p.names {
		add(PartNames, p.names[i].claim, "", strictyaml.Path{PartNames, p.names[i].claim})
	}
	for i := range p.match {
		claim := p.match[i].claim
		value, own := c.in.Match[claim]
		if !own {
			list = append(list, c.inheritedSpot(p, claim))
			continue
		}
		add(PartMatch, claim, "", strictyaml.Path{PartMatch, claim})
		values, _ := value.([]any)
		for j, v := range values {
			add(PartMatch, claim, optionText(v), strictyaml.Path{PartMatch, claim, j})
		}
	}
	if p.when != nil {
		list = append(list, c.whenSpots()...)
	}
	return list
}

// inheritedSpot is where the nearest defaults with an entry for claim stand.
func (c *compiler) inheritedSpot(p *policy, claim string) spot {
	for _, d := range c.defaults {
		if slices.ContainsFunc(d.match[p.issuer], func(c condition) bool { return c.claim == claim }) {
			return spot{field: PartMatch, claim: claim, from: d.place}
		}
	}
	return spot{field: PartMatch, claim: claim, from: p.place}
}

// whenSpots notes the line of the condition, and of each line within it.
func (c *compiler) whenSpots() []spot {
	path := strictyaml.Path{PartWhen}
	list := []spot{{field: PartWhen, line: c.doc.Line(path)}}
	for n := range strings.Count(strings.TrimSpace(c.in.When), "\n") + 1 {
		line := c.doc.TextProblem(path, n+1, 1, "").Line
		list = append(list, spot{field: PartWhen, claim: strconv.Itoa(n + 1), line: line})
	}
	return list
}

// optionText returns what condition.wanted says of one value of a list.
func optionText(v any) string {
	form, _ := v.(map[string]any)
	if g, ok := form["glob"].(string); ok {
		return (&condition{globs: []glob{glob(g)}}).wanted()
	}
	if h, ok := form["contains"].(string); ok {
		return (&condition{has: []string{h}}).wanted()
	}
	return (&condition{values: []any{v}}).wanted()
}
