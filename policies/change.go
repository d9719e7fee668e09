package policies

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// A Change would make one part hold: of the policy, if YAML is not empty, or
// of the token. That it would do so is no advice to make it.
type Change struct {
	Path  string `json:"path"`
	Place string `json:"place"`
	YAML  string `json:"yaml,omitempty"`  // the entry as it would have to be
	Token string `json:"token,omitempty"` // what the token would have to have
	Note  string `json:"note,omitempty"`
}

// change says what would make a part hold. There is nothing to say of a risk
// where the entry of match for the same claim has its own change.
func (p *policy) change(part Part, claims map[string]any) (Change, bool) {
	c := Change{Path: part.Path, Place: part.Place}
	switch part.Kind {
	case PartMatch:
		p.matchChange(&c, part, claims)
	case PartRisk:
		if pin := p.pin(part.claim); pin != nil && !pin.holds(claims) {
			return c, false
		}
		p.riskChange(&c, part.claim, claims)
	case PartNames:
		c.Token = part.claim + ": " + part.Want
		if v, ok := claims[part.claim].(string); ok {
			c.YAML = part.claim + ": " + flow(v)
			c.Note = "names only say what the ids stand for: change it if the rename is meant"
		}
	case PartWhen:
		c.Token = whenWants(part)
	case PartGuardrails:
		c.Note = "guardrails deny it, and no policy can change that"
	case PartExpires:
		c.Note = "it has ended: give it a later expires if it is still meant"
	}
	return c, true
}

// matchChange adds the token's value to an entry of match. An id is another
// workload: the policy is not for this one.
func (p *policy) matchChange(c *Change, part Part, claims map[string]any) {
	pin := p.pin(part.claim)
	c.Token = part.claim + ": " + part.Want
	v, there := claims[part.claim]
	switch {
	case p.isID(part) && there:
		c.Note = fmt.Sprintf("the policy is for another %s; write one for %s", part.claim, quoted(v))
	case p.riskOf(part.claim, v):
		p.riskChange(c, part.claim, claims)
	case there && isPlain(v):
		c.YAML = part.claim + ": " + flowList(pin, v)
	}
}

// isPlain reports whether match takes v as a value: it refuses those that look
// like patterns.
func isPlain(v any) bool {
	s, isText := v.(string)
	list, isList := v.([]string)
	return !isText && !isList || isText && s != "" && !strings.ContainsAny(s, "*?|") && !looksRegular(s) || len(list) > 0
}

// riskOf reports whether v is a value of the claim that the preset distrusts.
func (p *policy) riskOf(claim string, v any) bool {
	return slices.ContainsFunc(p.risks, func(r risk) bool {
		return r.claim == claim && r.holds(map[string]any{claim: v})
	})
}

// whyRisky says why the preset distrusts a value that it distrusts.
func (p *policy) whyRisky(claim string, v any) string {
	for _, r := range p.risks {
		if r.claim == claim && r.why != "" && r.holds(map[string]any{claim: v}) {
			return r.why
		}
	}
	return "may be a stranger's"
}

// riskChange names the value in match.
func (p *policy) riskChange(c *Change, claim string, claims map[string]any) {
	v, there := claims[claim]
	if !there {
		c.Token = "a value of " + claim
		return
	}
	pin := p.pin(claim)
	if pin == nil {
		pin = &condition{claim: claim}
	}
	c.YAML = claim + ": " + flowList(pin, v)
	c.Note = "such a run " + p.whyRisky(claim, v) + ": name it only in a policy for credentials of class read"
}

// flowList writes a condition with one more value as it stands in match. Of a
// claim that is a list, which is not empty, one item will do.
func flowList(c *condition, v any) string {
	var list []string
	for _, have := range c.values {
		list = append(list, flow(have))
	}
	for _, g := range c.globs {
		list = append(list, "{glob: "+flow(string(g))+"}")
	}
	for _, h := range c.has {
		list = append(list, "{contains: "+flow(h)+"}")
	}
	switch v := v.(type) {
	case []string:
		list = append(list, "{contains: "+flow(v[0])+"}") // one will do
	default:
		list = append(list, flow(v))
	}
	if len(list) == 1 {
		return list[0]
	}
	return "[" + strings.Join(list, ", ") + "]"
}

// flow writes a value of a claim as YAML and JSON both have it.
func flow(v any) string {
	if s, ok := v.(string); ok {
		return strconv.Quote(s)
	}
	return fmt.Sprint(v)
}
