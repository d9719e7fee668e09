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
	Limits      *limitsEntry      `yaml:"limits"`  // of all workloads together; nil: none
	Mode        string            `yaml:"mode"`    // enforce (the default) or shadow
	Unsafe      *unsafeEntry      `yaml:"unsafe"`  // why match need not fill the pins; nil: it must
	Expires     string            `yaml:"expires"` // the last day (2027-03-01), or a time (RFC 3339) from which on it does not hold; "": it has no end
	Tests       []testEntry       `yaml:"tests"`
}

type grantEntry struct {
	Credential string        `yaml:"credential"` // a configured credential's name
	TTL        time.Duration `yaml:"ttl"`        // life of a lease, required
	MaxTTL     time.Duration `yaml:"max_ttl"`    // its life with renewals; left out: ttl, so that it cannot be renewed
	Scope      string        `yaml:"scope"`      // with what a lease ends: job (the default) or run
	DeadMan    time.Duration `yaml:"dead_man"`   // ends a lease that hears no heartbeat for that long; left out: none does
	OnLeak     string        `yaml:"on_leak"`    // what is done when its job prints a value: report (the default) or revoke
	Limits     *limitsEntry  `yaml:"limits"`     // of each workload; nil: none

	// For data keys only: see KeyUse.
	Allow   []string          `yaml:"allow"`
	MaxUses int               `yaml:"max_uses"`
	MaxAge  time.Duration     `yaml:"max_age"`
	Context map[string]string `yaml:"context"`
}

// Limits on one document: more is a mistake, or meant to hurt.
const (
	maxName   = 64 // bytes of a name: fits a label of a metric and a column of a terminal
	maxGrants = 100
	maxTests  = 1_000
	maxRules  = 100   // entries of deny, and of credentials, of guardrails
	maxValues = 1_000 // of one entry of match
	maxGlobs  = 100   // of one entry of match
	maxGlob   = 256   // bytes of one
)

const nameLetters = "abcdefghijklmnopqrstuvwxyz0123456789-"

// A reader compiles what documents of all kinds have, and notes what is wrong.
// It goes on after a problem, so what it made is of use only if there is none.
type reader struct {
	loader   *loader
	doc      *strictyaml.Document
	folder   string // of the file, from the root
	issuer   string // whose claims are looked at
	problems strictyaml.Problems
}

func (r *reader) fail(path strictyaml.Path, format string, args ...any) {
	r.problems = append(r.problems, r.doc.Problem(path, format, args...))
}

func (r *reader) failKey(path strictyaml.Path, format string, args ...any) {
	r.problems = append(r.problems, r.doc.KeyProblem(path, format, args...))
}

// place returns "file:line" of what is at path.
func (r *reader) place(path strictyaml.Path) string {
	p := r.doc.Problem(path, "")
	return fmt.Sprintf("%s:%d", p.File, p.Line)
}

// most reports a list that is too long.
func (r *reader) most(path strictyaml.Path, n, limit int) bool {
	if n > limit {
		r.failKey(path, "%s has %d entries, the limit is %d", path, n, limit)
	}
	return n <= limit
}

// A compiler turns one document into a policy.
type compiler struct {
	reader
	in       *document
	digest   string
	defaults []*defaults // those that are for it, the nearest first
}

func (c *compiler) compile() *policy {
	c.name("policy", c.in.Policy)
	if c.in.Policy != "" && c.doc.FirstKey() != "policy" {
		c.failKey(strictyaml.Path{"policy"}, "policy must be the first key: it says what kind of document this is")
	}
	p := &policy{
		name: fullName(c.folder, c.in.Policy), tenant: tenantOf(c.folder), place: c.place(strictyaml.Path{"policy"}),
		issuer: c.issuerName(), shadow: c.shadow(), expires: c.expires(),
	}
	if p.preset = c.preset(p.issuer); p.preset == nil {
		p.grants = c.grants(p)
		return p // without its claims nothing below can be judged
	}
	p.match = inherit(c.conditions(p.preset, strictyaml.Path{"match"}, c.in.Match), c.defaults, p.issuer)
	p.names = c.names(p.preset)
	p.when = c.when(p.preset)
	p.risks = risks(p)
	c.pins(p)
	p.grants = c.grants(p)
	c.named(p)
	p.tests = c.tests(p)
	p.source, p.spots = c.in.When, c.spots(p)
	return p
}

// fullName returns a name with its tenant's before it.
func fullName(folder, name string) string {
	if tenant := tenantOf(folder); tenant != "" {
		return tenant + "/" + name
	}
	return name
}

// name checks the name of a document of some kind. One alphabet, one case: two
// names that look alike to people are never two policies.
func (r *reader) name(kind, name string) {
	path := strictyaml.Path{kind}
	switch {
	case name == "":
		r.fail(path, "%s is missing: the document's name", kind)
		return
	case len(name) > maxName:
		r.fail(path, "the name is longer than %d characters", maxName)
	case strings.Trim(name, nameLetters) != "":
		r.fail(path, "the name %q may hold a-z, 0-9 and - only", name)
	}
	key := kind + " " + fullName(r.folder, name)
	if other, taken := r.loader.named[key]; taken {
		r.fail(path, "%s %q is in %s too; give one of them another name", kind, fullName(r.folder, name), other)
		return
	}
	r.loader.named[key] = r.place(path)
}

// mode checks a mode that is written.
func (r *reader) mode(mode string) {
	modes := []string{"enforce", "shadow"}
	if path := (strictyaml.Path{"mode"}); r.doc.Has(path) && !slices.Contains(modes, mode) {
		r.fail(path, "mode must be enforce or shadow, not %q%s", mode, strictyaml.DidYouMean(mode, modes))
	}
}

// shadow reports whether the policy is in shadow mode.
func (c *compiler) shadow() bool {
	c.mode(c.in.Mode)
	mode := c.in.Mode
	if !c.doc.Has(strictyaml.Path{"mode"}) {
		mode, _ = inherited(c.defaults, func(d *defaults) string { return d.mode })
	}
	return mode == "shadow"
}

// issuerName sets the issuer whose claims the policy sees.
func (c *compiler) issuerName() string {
	if !c.doc.Has(strictyaml.Path{"issuer"}) {
		c.issuer, _ = inherited(c.defaults, func(d *defaults) string { return d.issuer })
	}
	return c.issuer
}

// preset returns what is known of the issuer of that name, which r looks at
// from now on.
func (r *reader) preset(issuer string) *presets.Preset {
	path := strictyaml.Path{"issuer"}
	if issuer == "" {
		r.fail(path, "issuer is missing: the name of a configured issuer")
		return nil
	}
	p := r.loader.options.Issuers[issuer]
	if p == nil {
		r.fail(path, "issuer %q is not configured%s", issuer, meant(issuer, r.loader.options.Issuers))
	}
	return p
}

// claim returns the declaration of the claim that path ends in.
func (r *reader) claim(p *presets.Preset, path strictyaml.Path) (presets.Claim, bool) {
	name, _ := path[len(path)-1].(string)
	decl, ok := p.Claims[name]
	if !ok {
		r.failKey(path, "tokens of issuer %q have no claim %q%s", r.issuer, name, claimMeant(name, p))
	}
	return decl, ok
}

// meant says what could have been meant by a name that is not configured.
func meant[T any](name string, known map[string]T) string {
	const few = 8
	names := slices.Sorted(maps.Keys(known))
	if near := strictyaml.DidYouMean(name, names); near != "" || len(names) == 0 || len(names) > few {
		return near
	}
	return "; the configuration has " + strings.Join(names, ", ")
}

// claimMeant says what could have been meant by a claim that tokens do not
// have, or have for the broker alone (RFC 7519, section 4.1).
func claimMeant(name string, p *presets.Preset) string {
	switch {
	case slices.Contains([]string{"iss", "aud", "exp", "iat", "nbf", "jti"}, name):
		return " for policies; the broker checks it itself"
	case name == "sub" && p.ProjectID != "":
		return " for policies; write what it is made of, such as " + p.ProjectID
	case name == "sub":
		return " for policies; write what it is made of"
	}
	return strictyaml.DidYouMean(name, slices.Collect(maps.Keys(p.Claims)))
}

// typed checks that v, as read by strictyaml, is a value of the declared type
// and returns it as an identity has it.
func (r *reader) typed(path strictyaml.Path, decl presets.Claim, v any) (any, bool) {
	if list, isList := v.([]any); isList && decl.Type == presets.StringList {
		return r.stringList(path, list)
	}
	if hasType(v, decl.Type) {
		return v, true
	}
	switch n := v.(type) {
	case int64, bool:
		if decl.Type == presets.String {
			r.fail(path, `%s is a string in these tokens; quote it: "%v"`, path, n)
			return nil, false
		}
	case nil:
		return nil, false // strictyaml has reported it
	}
	r.fail(path, "%s must be %s", path, typeName(decl.Type))
	return nil, false
}

func (r *reader) stringList(path strictyaml.Path, list []any) (any, bool) {
	values, good := []string{}, true
	for i, v := range list {
		s, ok := r.typed(path.With(i), presets.Claim{Type: presets.String}, v)
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
		case !c.literal(path, decl, c.in.Names[claim]):
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
		c.fail(path, "preparing conditions for issuer %q: %v", c.issuer, err)
		return nil
	}
	key := c.issuer + " " + c.in.When // an issuer's name has no space
	if w := c.loader.conditions[key]; w != nil {
		return w
	}
	w, flaws := lang.compile(c.in.When)
	for _, f := range flaws {
		c.problems = append(c.problems, c.doc.TextProblem(path, f.line, f.column, "%s", f.message))
	}
	c.loader.conditions[key] = w
	return w
}

func (c *compiler) language(p *presets.Preset) (*language, error) {
	if l := c.loader.languages[c.issuer]; l != nil {
		return l, nil
	}
	l, err := newLanguage(p)
	if err == nil {
		c.loader.languages[c.issuer] = l
	}
	return l, err
}

func (c *compiler) grants(p *policy) []Grant {
	if len(c.in.Grant) == 0 {
		c.fail(strictyaml.Path{"grant"}, "grant is missing: what the policy allows")
	}
	if !c.most(strictyaml.Path{"grant"}, len(c.in.Grant), maxGrants) {
		return nil
	}
	var list []Grant
	ofPolicy := c.ofPolicy()
	for i, g := range c.in.Grant {
		path := strictyaml.Path{"grant", i}
		if slices.ContainsFunc(list, func(other Grant) bool { return other.Credential == g.Credential }) {
			c.fail(path.With("credential"), "%q is granted twice by this policy", g.Credential)
		}
		life := c.life(path, g)
		g.TTL, g.MaxTTL = life.ttl, life.maxTTL
		grant := Grant{Credential: g.Credential, TTL: g.TTL, MaxTTL: g.MaxTTL, Policy: p.name, PolicyDigest: c.digest, Unsafe: p.unsafe}
		grant.OfWorkload, grant.OfPolicy = c.limits(path.With("limits"), g.Limits), ofPolicy
		if c.credential(path.With("credential"), g.Credential) {
			limits := c.loader.options.Credentials[g.Credential]
			c.lives(path, life, g.Credential, limits)
			c.fillable(path.With("credential"), g.Credential, limits.Needs)
			grant.KeyUse = c.keyUse(path, g, limits)
			grant.Scope, grant.DeadMan = c.ending(path, g, limits)
			grant.OnLeak = c.onLeak(path, g.OnLeak)
		}
		list = append(list, grant)
	}
	return list
}

// ofPolicy returns the limits of all that the policy grants.
func (c *compiler) ofPolicy() Limits {
	path := strictyaml.Path{"limits"}
	if c.doc.Has(path) {
		return c.limits(path, c.in.Limits)
	}
	limits, _ := inherited(c.defaults, func(d *defaults) Limits { return d.limits })
	return limits
}

// credential reports whether there is a credential of that name.
func (r *reader) credential(path strictyaml.Path, name string) bool {
	if name == "" {
		r.fail(path, "credential is missing: the name of a configured credential")
		return false
	}
	_, ok := r.loader.options.Credentials[name]
	if !ok {
		r.fail(path, "credential %q is not configured%s", name, meant(name, r.loader.options.Credentials))
	}
	return ok
}

// A life is how long a grant's leases live, and what says so where the grant
// itself does not: "" or the words for it.
type life struct {
	ttl, maxTTL         time.Duration
	ttlFrom, maxTTLFrom string
	has, hasMax         bool
}

// life returns what the grant says, or else the defaults. Without a max_ttl a
// lease cannot be renewed.
func (c *compiler) life(path strictyaml.Path, g grantEntry) life {
	l := life{ttl: g.TTL, maxTTL: g.MaxTTL, has: c.doc.Has(path.With("ttl")), hasMax: c.doc.Has(path.With("max_ttl"))}
	if ttl, from := inherited(c.defaults, func(d *defaults) time.Duration { return d.ttl }); from != nil && !l.has {
		l.ttl, l.ttlFrom, l.has = ttl, from.String(), true
	}
	if maxTTL, from := inherited(c.defaults, func(d *defaults) time.Duration { return d.maxTTL }); from != nil && !l.hasMax {
		l.maxTTL, l.maxTTLFrom, l.hasMax = maxTTL, from.String(), true
	}
	if !l.hasMax {
		l.maxTTL = l.ttl
	}
	return l
}

// lives checks a life against the limits of the credential.
func (c *compiler) lives(path strictyaml.Path, l life, credential string, limits Credential) {
	ttl, maxTTL := path.With("ttl"), path.With("max_ttl")
	switch {
	case !l.has:
		c.fail(ttl, "ttl is missing: how long a lease of %q lives", credential)
	case !wholeSeconds(l.ttl):
		c.fail(ttl, "ttl must be whole seconds, one or more")
	case l.ttl < limits.MinTTL:
		c.fail(ttl, "ttl %s%s is below the least for credential %q, %s; raise it", short(l.ttl), l.ttlFrom, credential, short(limits.MinTTL))
	case l.ttl > limits.maxTTL():
		c.fail(ttl, "ttl %s%s exceeds the limit of credential %q, %s; lower it", short(l.ttl), l.ttlFrom, credential, short(limits.maxTTL()))
	}
	switch {
	case !l.hasMax:
	case !wholeSeconds(l.maxTTL):
		c.fail(maxTTL, "max_ttl must be whole seconds, one or more")
	case l.maxTTL < l.ttl:
		c.fail(maxTTL, "max_ttl %s%s is below ttl %s", short(l.maxTTL), l.maxTTLFrom, short(l.ttl))
	case l.maxTTL > limits.maxTTL():
		c.fail(maxTTL, "max_ttl %s%s exceeds the limit of credential %q, %s; lower it", short(l.maxTTL), l.maxTTLFrom, credential, short(limits.maxTTL()))
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
