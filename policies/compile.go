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

// A document is a policy as it is written.
type document struct {
	Policy      string            `yaml:"policy"`      // its name, unique among all files
	Description string            `yaml:"description"` // for people
	Issuer      string            `yaml:"issuer"`      // a configured issuer's name
	Match       map[string]any    `yaml:"match"`       // claim: value, {glob: pattern}, {contains: value}, or a list of them of which one must hold
	Names       map[string]string `yaml:"names"`       // claim: value; a mismatch denies and is reported as drift
	When        string            `yaml:"when"`        // a condition in CEL
	Grant       []grantEntry      `yaml:"grant"`
	Limits      *limitsEntry      `yaml:"limits"` // of all workloads together; nil: none
	Mode        string            `yaml:"mode"`   // enforce (the default) or shadow
	Tests       []testEntry       `yaml:"tests"`
}

type grantEntry struct {
	Credential string        `yaml:"credential"` // a configured credential's name
	TTL        time.Duration `yaml:"ttl"`        // life of a lease, required
	MaxTTL     time.Duration `yaml:"max_ttl"`    // its life with renewals; left out: ttl, so that it cannot be renewed
	Scope      string        `yaml:"scope"`      // with what a lease ends: job (the default) or run
	DeadMan    time.Duration `yaml:"dead_man"`   // ends a lease that hears no heartbeat for that long; left out: none does
	Limits     *limitsEntry  `yaml:"limits"`     // of each workload; nil: none

	// For data keys only: see KeyUse.
	Allow   []string          `yaml:"allow"`
	MaxUses int               `yaml:"max_uses"`
	MaxAge  time.Duration     `yaml:"max_age"`
	Context map[string]string `yaml:"context"`
}

// A compiler turns one document into a policy and notes what is wrong with it.
// It goes on after a problem, so the policy is of use only if there is none.
type compiler struct {
	loader   *loader
	doc      *strictyaml.Document
	in       *document
	digest   string
	problems strictyaml.Problems
}

func (c *compiler) fail(path strictyaml.Path, format string, args ...any) {
	c.problems = append(c.problems, c.doc.Problem(path, format, args...))
}

func (c *compiler) failKey(path strictyaml.Path, format string, args ...any) {
	c.problems = append(c.problems, c.doc.KeyProblem(path, format, args...))
}

func (c *compiler) compile() *policy {
	c.name()
	p := &policy{
		name:   c.in.Policy,
		issuer: c.in.Issuer,
		shadow: c.mode(),
		grants: c.grants(),
	}
	if p.preset = c.preset(); p.preset == nil {
		return p // without its claims nothing below can be judged
	}
	p.match = c.match(p.preset)
	p.names = c.names(p.preset)
	p.when = c.when(p.preset)
	p.risks = risks(p)
	p.tests = c.tests(p)
	p.source, p.file, p.spots = c.in.When, c.doc.Problem(nil, "").File, c.spots(p)
	return p
}

// name checks the policy's name. One alphabet, one case: two names that look
// alike to people are never two policies.
func (c *compiler) name() {
	const longest = 64 // fits a label of a metric and a column of a terminal
	switch name := c.in.Policy; {
	case name == "":
		c.fail(strictyaml.Path{"policy"}, "policy is missing: the policy's name")
	case len(name) > longest:
		c.fail(strictyaml.Path{"policy"}, "the name is longer than %d characters", longest)
	case strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-") != "":
		c.fail(strictyaml.Path{"policy"}, "the name %q may hold a-z, 0-9 and - only", name)
	}
}

// unique reports a name that another file has too.
func (c *compiler) unique(file string) {
	path := strictyaml.Path{"policy"}
	if c.in.Policy == "" {
		return
	}
	if other, taken := c.loader.named[c.in.Policy]; taken {
		c.fail(path, "the policy in %s has the name %q too; give one of them another", other, c.in.Policy)
		return
	}
	c.loader.named[c.in.Policy] = fmt.Sprintf("%s:%d", file, c.doc.Line(path))
}

// mode reports whether the policy is in shadow mode.
func (c *compiler) mode() bool {
	modes := []string{"enforce", "shadow"}
	if path := (strictyaml.Path{"mode"}); c.doc.Has(path) && !slices.Contains(modes, c.in.Mode) {
		c.fail(path, "mode must be enforce or shadow, not %q%s", c.in.Mode, strictyaml.DidYouMean(c.in.Mode, modes))
	}
	return c.in.Mode == "shadow"
}

func (c *compiler) preset() *presets.Preset {
	path := strictyaml.Path{"issuer"}
	if c.in.Issuer == "" {
		c.fail(path, "issuer is missing: the name of a configured issuer")
		return nil
	}
	p := c.loader.options.Issuers[c.in.Issuer]
	if p == nil {
		c.fail(path, "issuer %q is not configured%s", c.in.Issuer,
			strictyaml.DidYouMean(c.in.Issuer, slices.Collect(maps.Keys(c.loader.options.Issuers))))
	}
	return p
}

// match compiles the match block. A policy must pin a project or an owner by
// its id: names are renamed, deleted and registered again by someone else.
func (c *compiler) match(p *presets.Preset) []condition {
	var list []condition
	for _, claim := range slices.Sorted(maps.Keys(c.in.Match)) {
		if cond, ok := c.condition(p, claim); ok {
			list = append(list, cond)
		}
	}
	ids := slices.DeleteFunc([]string{p.ProjectID, p.OwnerID}, func(s string) bool { return s == "" })
	pinned := func(id string) bool { _, ok := c.in.Match[id]; return ok }
	switch {
	case len(ids) > 0 && !slices.ContainsFunc(ids, pinned):
		c.fail(strictyaml.Path{"match"}, "match must pin %s: only an id is never given to someone else", strings.Join(ids, " or "))
	case len(c.in.Match) == 0:
		c.fail(strictyaml.Path{"match"}, "match is empty: the policy would grant to everyone whom the issuer vouches for")
	}
	return list
}

// claim returns the declaration of the claim that path ends in.
func (c *compiler) claim(p *presets.Preset, path strictyaml.Path) (presets.Claim, bool) {
	name, _ := path[len(path)-1].(string)
	decl, ok := p.Claims[name]
	if !ok {
		c.failKey(path, "tokens of issuer %q have no claim %q%s", c.in.Issuer, name,
			strictyaml.DidYouMean(name, slices.Collect(maps.Keys(p.Claims))))
	}
	return decl, ok
}

// typed checks that v, as read by strictyaml, is a value of the declared type
// and returns it as an identity has it.
func (c *compiler) typed(path strictyaml.Path, decl presets.Claim, v any) (any, bool) {
	if list, isList := v.([]any); isList && decl.Type == presets.StringList {
		return c.stringList(path, list)
	}
	if hasType(v, decl.Type) {
		return v, true
	}
	switch n := v.(type) {
	case int64, bool:
		if decl.Type == presets.String {
			c.fail(path, `%s is a string in these tokens; quote it: "%v"`, path, n)
			return nil, false
		}
	case nil:
		return nil, false // strictyaml has reported it
	}
	c.fail(path, "%s must be %s", path, typeName(decl.Type))
	return nil, false
}

func (c *compiler) stringList(path strictyaml.Path, list []any) (any, bool) {
	values, good := []string{}, true
	for i, v := range list {
		s, ok := c.typed(path.With(i), presets.Claim{Type: presets.String}, v)
		if !ok {
			good = false
			continue
		}
		values = append(values, s.(string))
	}
	return values, good
}

func typeName(t presets.Type) string {
	switch t {
	case presets.String:
		return "a string"
	case presets.Int:
		return "a whole number without quotes"
	case presets.Bool:
		return "true or false without quotes"
	case presets.StringList:
		return "a list of strings"
	}
	return fmt.Sprintf("of the type %q, which no policy can compare", t)
}

func (c *compiler) names(p *presets.Preset) []condition {
	var list []condition
	for _, claim := range slices.Sorted(maps.Keys(c.in.Names)) {
		path := strictyaml.Path{"names", claim}
		switch decl, ok := c.claim(p, path); {
		case !ok:
		case decl.Type != presets.String:
			c.failKey(path, "%s is not a name; move it to match", claim)
		case c.in.Names[claim] == "":
			c.fail(path, "%s is empty", path)
		default:
			list = append(list, condition{claim: claim, values: []any{c.in.Names[claim]}})
		}
	}
	return list
}

func (c *compiler) when(p *presets.Preset) *when {
	path := strictyaml.Path{"when"}
	if !c.doc.Has(path) {
		return nil
	}
	lang, err := c.language(p)
	if err != nil {
		c.fail(path, "preparing conditions for issuer %q: %v", c.in.Issuer, err)
		return nil
	}
	w, flaws := lang.compile(c.in.When)
	for _, f := range flaws {
		c.problems = append(c.problems, c.doc.TextProblem(path, f.line, f.column, "%s", f.message))
	}
	return w
}

func (c *compiler) language(p *presets.Preset) (*language, error) {
	if l := c.loader.languages[c.in.Issuer]; l != nil {
		return l, nil
	}
	l, err := newLanguage(p)
	if err == nil {
		c.loader.languages[c.in.Issuer] = l
	}
	return l, err
}

func (c *compiler) grants() []Grant {
	if len(c.in.Grant) == 0 {
		c.fail(strictyaml.Path{"grant"}, "grant is missing: what the policy allows")
	}
	var list []Grant
	ofPolicy := c.limits(strictyaml.Path{"limits"}, c.in.Limits)
	for i, g := range c.in.Grant {
		path := strictyaml.Path{"grant", i}
		if slices.ContainsFunc(list, func(other Grant) bool { return other.Credential == g.Credential }) {
			c.fail(path.With("credential"), "%q is granted twice by this policy", g.Credential)
		}
		if g.MaxTTL == 0 && !c.doc.Has(path.With("max_ttl")) {
			g.MaxTTL = g.TTL
		}
		grant := Grant{Credential: g.Credential, TTL: g.TTL, MaxTTL: g.MaxTTL, Policy: c.in.Policy, PolicyDigest: c.digest}
		grant.OfWorkload, grant.OfPolicy = c.limits(path.With("limits"), g.Limits), ofPolicy
		if c.credential(path.With("credential"), g.Credential) {
			limits := c.loader.options.Credentials[g.Credential]
			c.ttl(path, g, limits)
			grant.KeyUse = c.keyUse(path, g, limits)
			grant.Scope, grant.DeadMan = c.ending(path, g, limits)
		}
		list = append(list, grant)
	}
	return list
}

// credential reports whether there is a credential of that name.
func (c *compiler) credential(path strictyaml.Path, name string) bool {
	if name == "" {
		c.fail(path, "credential is missing: the name of a configured credential")
		return false
	}
	_, ok := c.loader.options.Credentials[name]
	if !ok {
		c.fail(path, "credential %q is not configured%s", name,
			strictyaml.DidYouMean(name, slices.Collect(maps.Keys(c.loader.options.Credentials))))
	}
	return ok
}

func (c *compiler) ttl(path strictyaml.Path, g grantEntry, limits Credential) {
	ttl, maxTTL := path.With("ttl"), path.With("max_ttl")
	switch {
	case !c.doc.Has(ttl):
		c.fail(ttl, "ttl is missing: how long a lease of %q lives", g.Credential)
	case !wholeSeconds(g.TTL):
		c.fail(ttl, "ttl must be whole seconds, one or more")
	case g.TTL < limits.MinTTL:
		c.fail(ttl, "ttl %s is below the least for credential %q, %s; raise it", short(g.TTL), g.Credential, short(limits.MinTTL))
	case g.TTL > limits.maxTTL():
		c.fail(ttl, "ttl %s exceeds the limit of credential %q, %s; lower it", short(g.TTL), g.Credential, short(limits.maxTTL()))
	}
	switch {
	case !c.doc.Has(maxTTL):
	case !wholeSeconds(g.MaxTTL):
		c.fail(maxTTL, "max_ttl must be whole seconds, one or more")
	case g.MaxTTL < g.TTL:
		c.fail(maxTTL, "max_ttl %s is below ttl %s", short(g.MaxTTL), short(g.TTL))
	case g.MaxTTL > limits.maxTTL():
		c.fail(maxTTL, "max_ttl %s exceeds the limit of credential %q, %s; lower it", short(g.MaxTTL), g.Credential, short(limits.maxTTL()))
	}
}

// wholeSeconds: expires_in counts seconds (RFC 6749 section 5.1).
func wholeSeconds(d time.Duration) bool {
	return d >= time.Second && d%time.Second == 0
}

// short writes 26h0m0s as a person would, 26h.
func short(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
