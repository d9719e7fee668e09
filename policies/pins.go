package policies

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/brevet-dev/brevet/issuers/presets"
	"github.com/brevet-dev/brevet/policies/strictyaml"
)

// maxReason is the longest reason, in bytes: it stands in each audit line of
// what the policy grants.
const maxReason = 200

// An unsafeEntry says why a policy may lack pins.
type unsafeEntry struct {
	Reason string `yaml:"reason"`
}

// pinsOf returns what a policy must say about the tokens of a preset. Where the
// preset says nothing, as one whose claims the configuration declares, it is a
// project or an owner, or, where there is neither, some claim as it is.
func pinsOf(p *presets.Preset) []presets.Pin {
	if len(p.Pins) > 0 {
		return p.Pins
	}
	var ids []presets.Gate
	for _, claim := range []string{p.ProjectID, p.OwnerID} {
		if claim != "" {
			ids = append(ids, presets.Gate{{Claim: claim}})
		}
	}
	if len(ids) == 0 {
		return []presets.Pin{{Name: "whom the token is about", AnyOf: exactly(p)}}
	}
	return []presets.Pin{{Name: "a project or an owner by its id", AnyOf: ids}}
}

// exactly returns a gate for each claim that can tell one workload from others.
func exactly(p *presets.Preset) []presets.Gate {
	var gates []presets.Gate
	for _, name := range slices.Sorted(maps.Keys(p.Claims)) {
		if t := p.Claims[name].Type; t == presets.String || t == presets.Int {
			gates = append(gates, presets.Gate{{Claim: name, Exact: true}})
		}
	}
	return gates
}

// lacks returns the pins that the match of p does not fill.
func (p *policy) lacks() []presets.Pin {
	return slices.DeleteFunc(slices.Clone(pinsOf(p.preset)), func(pin presets.Pin) bool {
		return slices.ContainsFunc(pin.AnyOf, p.passes)
	})
}

// passes reports whether match has all of a gate.
func (p *policy) passes(gate presets.Gate) bool {
	return len(gate) > 0 && !slices.ContainsFunc(gate, func(h presets.Hold) bool {
		pin := p.pin(h.Claim)
		return pin == nil || !pin.fills(h)
	})
}

// fills reports whether the entry is what the preset asks for. A pattern that
// stands for every value says nothing.
func (c *condition) fills(h presets.Hold) bool {
	switch {
	case h.Value != "":
		only := riskCondition(presets.Risk{Claim: h.Claim, Values: []string{h.Value}})
		return c.within(&only)
	case h.Exact && len(c.globs) > 0:
		return false
	}
	return !slices.ContainsFunc(c.globs, func(g glob) bool { return strings.Trim(string(g), "*/:") == "" })
}

// pins checks that match fills the pins of the preset, or that the document
// says why not.
func (c *compiler) pins(p *policy) {
	at := strictyaml.Path{"unsafe"}
	lacks := p.lacks()
	for _, pin := range lacks {
		p.missing = append(p.missing, pin.Name)
	}
	switch {
	case len(p.match) == 0 && len(c.in.Match) > 0:
		c.fail(strictyaml.Path{"match"}, "nothing in match can be used: the policy would grant to everyone whom the issuer vouches for")
	case len(p.match) == 0:
		c.fail(strictyaml.Path{"match"}, "match is empty: the policy would grant to everyone whom the issuer vouches for")
	case !c.doc.Has(at):
		for _, pin := range lacks {
			c.fail(strictyaml.Path{"match"}, "match does not pin %s; add %s", pin.Name, ways(pin))
		}
	case len(lacks) == 0:
		c.failKey(at, "match pins all that it must; remove unsafe, or a later change could take a pin away unseen")
	}
	c.unsafe(p, at)
}

func (c *compiler) unsafe(p *policy, at strictyaml.Path) {
	switch reason := at.With("reason"); {
	case !c.doc.Has(at):
		return
	case c.in.Unsafe == nil || strings.TrimSpace(c.in.Unsafe.Reason) == "":
		c.fail(reason, "unsafe needs its reason: why it may be so")
		return
	case len(c.in.Unsafe.Reason) > maxReason:
		c.fail(reason, "the reason is longer than %d bytes", maxReason)
	}
	p.unsafe = strings.TrimSpace(c.in.Unsafe.Reason)
}

// lacking says what match would need to be safe.
func (c *compiler) lacking(p *policy) string {
	var list []string
	for _, pin := range p.lacks() {
		list = append(list, ways(pin))
	}
	return strings.Join(list, "; and ")
}

// ways says how a pin can be filled.
func ways(pin presets.Pin) string {
	var list []string
	for _, gate := range pin.AnyOf {
		var holds []string
		for _, h := range gate {
			switch {
			case h.Value != "":
				holds = append(holds, fmt.Sprintf("%s: %q", h.Claim, h.Value))
			case h.Exact:
				holds = append(holds, h.Claim+" without a glob")
			default:
				holds = append(holds, h.Claim)
			}
		}
		list = append(list, strings.Join(holds, " with "))
	}
	return strings.Join(list, ", or ")
}

// named checks that runs which may be a stranger's get nothing that can change
// something.
func (c *compiler) named(p *policy) {
	for _, r := range p.risks {
		if len(r.named.values)+len(r.named.globs) == 0 {
			continue
		}
		for i, g := range p.grants {
			if credential, ok := c.loader.options.Credentials[g.Credential]; ok && !credential.Read {
				c.fail(strictyaml.Path{"grant", i, "credential"},
					"match names %s %s: %s; that gets credentials of class read only, and %q is not one; leave the value out, or grant one that can only read", r.claim, r.named.wanted(), r.why, g.Credential)
			}
		}
	}
}

// expires compiles until when the policy holds; zero: for ever. A day is one of
// UTC, and the policy holds to its end.
func (c *compiler) expires() time.Time {
	at := strictyaml.Path{"expires"}
	if !c.doc.Has(at) {
		return time.Time{}
	}
	day, err := time.Parse(time.DateOnly, c.in.Expires)
	end := day.AddDate(0, 0, 1)
	if err != nil {
		end, err = time.Parse(time.RFC3339, c.in.Expires)
	}
	if err != nil || end.IsZero() { // the zero time would be no end
		c.fail(at, "expires must be a day such as 2027-03-01 or a time such as 2027-03-01T12:00:00Z, not %.64q", c.in.Expires)
	}
	return end
}

// expired reports whether the time of the policy is over.
func (p *policy) expired() bool {
	return !p.expires.IsZero() && !time.Now().Before(p.expires)
}
