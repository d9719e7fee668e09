package policies

import (
	"fmt"
	"slices"
	"strings"

	"github.com/brevet-dev/brevet/issuers/presets"
	"github.com/brevet-dev/brevet/policies/strictyaml"
)

// A Need is something that a credential cannot be made without.
type Need struct {
	Field       string // of the credential's configuration, with the placeholder
	Placeholder string // without its braces: project_id, claims.team
}

// A role is a placeholder, and the claim that fills it; "" if none does.
type role struct{ name, claim string }

// roles returns the placeholders for what makes a workload: issuers.Workload.
func roles(p *presets.Preset) []role {
	return []role{
		{"owner_id", p.OwnerID}, {"owner", p.Owner}, {"project_id", p.ProjectID}, {"project", p.Project}, {"run", p.Run}, {"attempt", p.Attempt},
		{"job", p.Job}, {"ref", p.Ref}, {"environment", p.Environment}, {"actor", p.Actor}, {"actor_id", p.ActorID}, {"trigger", p.Trigger},
	}
}

// fills reports whether tokens of p can fill a placeholder. What they may lack is
// found out with each token.
func fills(p *presets.Preset, placeholder string) bool {
	if claim, ok := strings.CutPrefix(placeholder, "claims."); ok {
		_, declared := p.Claims[claim]
		return declared
	}
	return !slices.Contains(roles(p), role{placeholder, ""})
}

// fillable checks that tokens of the policy's issuer have what a credential needs:
// else each exchange for it would be refused.
func (c *compiler) fillable(path strictyaml.Path, credential string, needs []Need) {
	p := c.loader.options.Issuers[c.issuer]
	for _, n := range needs {
		if p == nil || fills(p, n.Placeholder) { // an issuer that is not there is a problem of its own
			continue
		}
		c.fail(path, "credential %q needs {%s} for its %s, which tokens of issuer %q do not have; write a %s without it into its configuration%s",
			credential, n.Placeholder, n.Field, c.issuer, n.Field, instead(p, n))
	}
}

// instead says what can be written.
func instead(p *presets.Preset, n Need) string {
	var names []string
	for _, r := range roles(p) {
		if r.claim != "" {
			names = append(names, "{"+r.name+"}")
		}
	}
	if len(names) == 0 {
		return ", of {claims.NAME}"
	}
	if n == (Need{"subject", "project_id"}) && p.OwnerID != "" && p.Project != "" {
		return `: "issuer:{issuer}:owner:{owner_id}:project:{project}"`
	}
	return fmt.Sprintf(", of %s or {claims.NAME}", strings.Join(names, ", "))
}
