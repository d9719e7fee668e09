package policies

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/brevet-dev/brevet/issuers"
	"github.com/brevet-dev/brevet/issuers/presets"
)

// What [Set.Decide] refuses with.
var (
	// ErrNoGrant: no policy grants the credential to this workload.
	ErrNoGrant = errors.New("no policy grants this")
	// ErrUnknownCredential: the configuration has no credential of this name.
	ErrUnknownCredential = errors.New("unknown credential")
)

// A Grant is what a policy allows.
type Grant struct {
	Credential   string
	TTL          time.Duration // the first lease's life, whole seconds
	MaxTTL       time.Duration // its life with all renewals; TTL means that it cannot be renewed
	Policy       string        // the policy's name, with its tenant's: "payments/deploy"
	PolicyDigest string        // "sha256:" and the digest of the policy's file, byte for byte
	KeyUse       *KeyUse       // nil unless the credential is a data key
	Scope        Scope         // with what a lease ends; never of a data key
	DeadMan      time.Duration // ends a lease that hears no heartbeat for that long, whole seconds; 0: none does
	OnLeak       OnLeak        // what is done when a value is found in the job's output
	OfWorkload   Limits        // of this credential by this policy, for each workload
	OfPolicy     Limits        // of all that this policy grants, to all workloads
	Unsafe       string        // why the policy may lack pins; "" if it has them
}

// A Decision is the answer for one credential, with what operators should hear
// about it. Its claim values are not for strangers.
type Decision struct {
	Grant  Grant    // zero beside an error
	Shadow []string // policies in shadow mode that would have granted it, sorted
	Drift  []Drift  // what kept a policy from granting, in enforce and shadow mode, sorted
}

// A Drift is one entry of a policy's names that no longer holds while all else
// does: a repository was renamed or transferred, or the id is not the one that
// the policy's author meant.
type Drift struct {
	Policy, Claim string
	Want          string // what the policy says
	Got           string // what the token says; "" if it says nothing
}

// Decide returns what the policies grant of one credential to id.
//
// Of several policies that grant it the one with the longest MaxTTL counts,
// then the longest TTL, then the first by name. Without a grant the error is
// [ErrNoGrant] or [ErrUnknownCredential]; the decision is never nil.
func (s *Set) Decide(id *issuers.Identity, credential string) (*Decision, error) {
	d := &Decision{}
	if s == nil || id == nil {
		return d, fmt.Errorf("%w: no policies or no identity", ErrNoGrant)
	}
	if _, ok := s.credentials[credential]; !ok {
		return d, ErrUnknownCredential
	}
	for _, bucket := range s.index.candidates(id.Issuer, s.issuers[id.Issuer], id.Claims) {
		for _, p := range bucket {
			d.consider(p, id.Claims, credential)
		}
	}
	slices.Sort(d.Shadow)
	slices.SortFunc(d.Drift, func(a, b Drift) int {
		return cmp.Or(cmp.Compare(a.Policy, b.Policy), cmp.Compare(a.Claim, b.Claim))
	})
	if d.Grant.Policy == "" {
		return d, fmt.Errorf("%w: %s", ErrNoGrant, s.nearMisses(id, credential))
	}
	return d, nil
}

// maxMisses bounds what a refusal says: an owner's policies may be many.
const maxMisses = 3

// nearMisses says, for operators, what kept the policies of this workload's
// project or owner from granting the credential.
func (s *Set) nearMisses(id *issuers.Identity, credential string) string {
	var misses []string
	for _, bucket := range s.index.candidates(id.Issuer, s.issuers[id.Issuer], id.Claims) {
		for _, p := range bucket {
			switch why := p.why(id.Claims); {
			case p.grant(credential) == nil:
			case len(misses) == maxMisses:
				return strings.Join(misses, "; ") + "; …"
			case why == "" && p.expired():
				misses = append(misses, "policy "+p.name+" has expired")
			case why == "" && p.shadow:
				misses = append(misses, "policy "+p.name+" is in mode shadow")
			default:
				misses = append(misses, "policy "+p.name+": "+why)
			}
		}
	}
	if len(misses) == 0 {
		return "no policy for this project or owner has a grant for it"
	}
	return strings.Join(misses, "; ")
}

// consider adds to d what p has to say.
func (d *Decision) consider(p *policy, claims map[string]any, credential string) {
	grant := p.grant(credential)
	if grant == nil || p.expired() || !p.holds(claims) {
		return
	}
	drift := p.drift(claims)
	switch {
	case len(drift) > 0:
		d.Drift = append(d.Drift, drift...)
	case p.shadow:
		d.Shadow = append(d.Shadow, p.name)
	case d.Grant.Policy == "" || grant.before(&d.Grant):
		d.Grant = *grant
	}
}

func (g *Grant) before(other *Grant) bool {
	return cmp.Or(
		cmp.Compare(other.MaxTTL, g.MaxTTL),
		cmp.Compare(other.TTL, g.TTL),
		cmp.Compare(g.Policy, other.Policy),
	) < 0
}

// A policy is one document, compiled.
type policy struct {
	name    string // with its tenant's: "payments/deploy"
	tenant  string // "" for a file in the root
	place   string // "file:line"
	issuer  string
	preset  *presets.Preset
	match   []condition // its own entries, and those of defaults
	risks   []risk      // what the preset distrusts
	when    *when       // nil if there is none
	names   []condition
	grants  []Grant
	shadow  bool
	unsafe  string    // why it may lack pins; "" if it has them
	missing []string  // the names of the pins that it lacks
	expires time.Time // from then on it does not hold; zero: it has no end
	guards  []*guard  // of all guardrails that are for it
	tests   []test
	written *written // nil unless it was to be kept
	source  string   // of when
	spots   []spot   // where its parts stand
}

func (p *policy) grant(credential string) *Grant {
	for i := range p.grants {
		if p.grants[i].Credential == credential {
			return &p.grants[i]
		}
	}
	return nil
}

// holds reports whether all but names is as the policy wants it.
func (p *policy) holds(claims map[string]any) bool {
	for i := range p.match {
		if !p.match[i].holds(claims) {
			return false
		}
	}
	return p.risky(claims) == nil && p.denied(claims) == nil && p.when.holds(claims)
}

func (p *policy) drift(claims map[string]any) []Drift {
	var all []Drift
	for i := range p.names {
		c := &p.names[i]
		if c.holds(claims) {
			continue
		}
		got := ""
		if v, ok := claims[c.claim]; ok {
			got = fmt.Sprint(v)
		}
		all = append(all, Drift{Policy: p.name, Claim: c.claim, Want: fmt.Sprint(c.values[0]), Got: got})
	}
	return all
}

// An index finds the policies that may hold for a workload without looking at
// the others: by its project's id, else by its owner's, else, for policies that
// pin neither, by its issuer. Every policy is in exactly one of the maps.
type index struct {
	projects, owners map[key][]*policy
	rest             map[string][]*policy
}

type key struct {
	issuer string
	id     any // string or int64
}

func newIndex(policies []*policy) index {
	ix := index{map[key][]*policy{}, map[key][]*policy{}, map[string][]*policy{}}
	for _, p := range policies {
		if c := p.pin(p.preset.ProjectID); c.isExact() {
			add(ix.projects, p, c)
		} else if c := p.pin(p.preset.OwnerID); c.isExact() {
			add(ix.owners, p, c)
		} else {
			ix.rest[p.issuer] = append(ix.rest[p.issuer], p)
		}
	}
	return ix
}

// isExact reports whether the condition is a list of values and nothing else.
func (c *condition) isExact() bool { return c != nil && len(c.globs)+len(c.has) == 0 }

func add(m map[key][]*policy, p *policy, c *condition) {
	for _, id := range c.values {
		k := key{p.issuer, id}
		m[k] = append(m[k], p)
	}
}

// pin returns the condition of match on the claim, or nil if there is none.
func (p *policy) pin(claim string) *condition {
	i := slices.IndexFunc(p.match, func(c condition) bool { return c.claim == claim })
	if i < 0 || claim == "" {
		return nil
	}
	return &p.match[i]
}

func (ix *index) candidates(issuer string, preset *presets.Preset, claims map[string]any) [3][]*policy {
	if preset == nil {
		return [3][]*policy{}
	}
	return [3][]*policy{
		lookup(ix.projects, issuer, claims[preset.ProjectID]),
		lookup(ix.owners, issuer, claims[preset.OwnerID]),
		ix.rest[issuer],
	}
}

func lookup(m map[key][]*policy, issuer string, id any) []*policy {
	switch id.(type) {
	case string, int64:
		return m[key{issuer, id}]
	}
	return nil // absent, or a list, which cannot be a key of a map
}
