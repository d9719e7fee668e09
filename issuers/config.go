package issuers

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/brevet-dev/brevet/issuers/presets"
)

// Config is one issuer of the configuration.
type Config struct {
	// Name is what policies and leases call the issuer. Unique.
	Name string `yaml:"name"`

	// Preset is the platform, one of docs/issuers.md, or generic.
	Preset string `yaml:"preset"`

	// URL is the exact iss of its tokens, compared byte for byte: no trailing
	// slash is added or removed. It must look like an issuer of the preset.
	// Default: the platform's public service, if all its customers share one.
	URL string `yaml:"url"`

	// Audience is the audience that tokens must carry. Default: the broker's
	// url. One that the platform gives to tokens by itself, or that others ask
	// for, makes every token usable here that was shown to anybody.
	Audience string `yaml:"audience"`

	// AllowDefaultAudience allows such an audience, for platforms on which a job
	// cannot choose.
	AllowDefaultAudience bool `yaml:"allow_default_audience"`

	// ExtraAudiences lists the audiences that a token may carry besides. Whoever
	// is one of them can show the tokens here. Default: none.
	ExtraAudiences []string `yaml:"extra_audiences"`

	// Skew is how far the platform's clock may be ahead: iat and nbf may lie so
	// far in the future. Nothing is added to exp. Default: 30s; at most 120s.
	Skew time.Duration `yaml:"skew"`

	// CAFile is a PEM bundle of the authorities that may certify the issuer's
	// TLS name. Default: the system's.
	CAFile string `yaml:"ca_file"`

	// InsecureHTTP allows an http:// URL, and then loopback addresses only.
	// Whoever can answer on that port can make any token: for development.
	InsecureHTTP bool `yaml:"insecure_http"`

	// AllowPrivateCIDRs lists the private networks (10.1.0.0/16) in which the
	// issuer may live. Default: none; an issuer whose name resolves to a
	// private, loopback or link-local address is not connected to.
	AllowPrivateCIDRs []string `yaml:"allow_private_cidrs"`

	// AllowedJWKSHosts lists the hosts (with the port, if it is not 443),
	// besides the issuer's own, that its discovery document may send us to for
	// the keys. Each of them can make any token.
	AllowedJWKSHosts []string `yaml:"allowed_jwks_hosts"`

	// MaxAge is the limit on a token's age (now - iat). Default: the preset's.
	// At most 7 days. A value above the preset's MaxLifetime raises that too.
	MaxAge time.Duration `yaml:"max_age"`

	// Claims declares claims that policies may use, by name, besides the
	// preset's: generic has none.
	Claims map[string]presets.Claim `yaml:"claims"`

	// The rest is for the preset generic only.

	// Algorithms lists the accepted "alg" values, of [Algorithms]. Default:
	// RS256.
	Algorithms []string `yaml:"algorithms"`

	// Replay says how often a token may be shown: once, bind or reuse.
	// Default: once.
	Replay presets.Replay `yaml:"replay"`

	// Names of the declared claims that make the workload, string or int.
	// Leases are found, and revoked together, by them. Default: none.
	OwnerID     string `yaml:"owner_id"`
	Owner       string `yaml:"owner"`
	ProjectID   string `yaml:"project_id"`
	Project     string `yaml:"project"`
	Run         string `yaml:"run"`
	Attempt     string `yaml:"attempt"`
	Job         string `yaml:"job"`
	Ref         string `yaml:"ref"`
	Environment string `yaml:"environment"`
	Actor       string `yaml:"actor"`
	ActorID     string `yaml:"actor_id"`
	Trigger     string `yaml:"trigger"`

	// Untrusted lists the values of the claim Trigger whose runs a stranger may
	// have started or written; a policy grants to them only by name.
	Untrusted []string `yaml:"untrusted"`

	// The network and the keys, of any preset (network.go, keyfile.go, keys.go).

	// AllowPrivate allows an issuer, or a proxy, in a network for private use:
	// RFC 1918, RFC 6598 and RFC 4193. Neither this nor AllowPrivateCIDRs allows
	// link-local, multicast and the clouds' metadata addresses.
	AllowPrivate bool `yaml:"allow_private"`

	// Proxy is http://host:port or https://host:port: what is asked for a
	// connection (CONNECT) to the issuer. Then the rules about addresses are for
	// the proxy's, and where it connects to is for the proxy to decide. TLS is
	// with the issuer all the same; an https proxy is certified by the same
	// authorities. Default: none; the environment's variables are not looked at.
	Proxy string `yaml:"proxy"`

	// JWKSFile is a file with the issuer's JWK Set, read every five seconds.
	// Nothing is connected to then. Whoever writes it can make any token.
	JWKSFile string `yaml:"jwks_file"`

	// StaleKeys is for how long keys are believed when they should be refreshed
	// and cannot be: from 1m to 24h. Default: 1h. A key that the issuer withdraws
	// meanwhile is believed for as long.
	StaleKeys *time.Duration `yaml:"stale_keys"`
}

// maxMaxAge bounds max_age. The longest job that GitHub lets run, on one's own
// runner, takes five days.
const maxMaxAge = 7 * 24 * time.Hour

// The clocks of issuer and broker may differ by so much, and as Skew at most.
// Two minutes are what a machine without any time service drifts in months.
const (
	defaultSkew = 30 * time.Second
	maxSkew     = 120 * time.Second
)

// maxExtraAudiences is what Bitbucket, which allows most, lets a job ask for.
const maxExtraAudiences = 10

// Validate returns every problem of c at once, sorted, each with the field's
// name and the way out; nil if there is none. It reads CAFile and JWKSFile, and
// touches no network.
func (c *Config) Validate() []error {
	v := &validation{}
	v.check(c.Name != "", "name: missing; give the issuer the name that policies use")
	v.check(c.MaxAge >= 0 && c.MaxAge <= maxMaxAge, "max_age: must be between 0 (the preset's) and %v", maxMaxAge)
	v.check(c.Skew >= 0 && c.Skew <= maxSkew, "skew: must be between 0 (the default, %v) and %v; mend the clocks instead", defaultSkew, maxSkew)
	c.validateURL(v)
	c.validateNetwork(v)
	if p := presets.Known()[c.Preset]; p == nil {
		v.add("preset: unknown; use %s", strings.Join(slices.Sorted(maps.Keys(presets.Known())), ", "))
	} else {
		c.validateAudience(v, p)
		c.validateClaims(v, p)
		c.validateGeneric(v)
	}
	slices.SortFunc(v.problems, func(a, b error) int { return cmp.Compare(a.Error(), b.Error()) })
	return v.problems
}

// A validation collects problems.
type validation struct{ problems []error }

func (v *validation) add(format string, args ...any) {
	v.problems = append(v.problems, fmt.Errorf(format, args...))
}

func (v *validation) check(ok bool, format string, args ...any) {
	if !ok {
		v.add(format, args...)
	}
}

// issuerURL returns the exact iss.
func (c *Config) issuerURL() string {
	if p := presets.Known()[c.Preset]; c.URL == "" && p != nil {
		return p.DefaultURL()
	}
	return c.URL
}

func (c *Config) validateURL(v *validation) {
	raw := c.issuerURL()
	p := presets.Known()[c.Preset]
	if raw == "" { // of an unknown preset only the preset is reported
		v.check(p == nil, "url: missing; write the exact iss of the tokens")
		return
	}
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.ForceQuery || strings.ContainsAny(raw, "#{} ") {
		v.add("url: must be an absolute URL without user, query, fragment and braces, such as https://gitlab.example.com")
		return
	}
	switch {
	case u.Scheme == "https":
		v.check(!c.InsecureHTTP, "insecure_http: is for an http:// url; remove it")
		if p != nil && len(p.URLs) > 0 {
			_, fits := p.FitURL(raw)
			v.check(fits, "url: is no issuer of %s; theirs look like %s", p.Title, strings.Join(p.URLs, ", "))
		}
	case u.Scheme != "http":
		v.add("url: must begin with https://")
	case !c.InsecureHTTP:
		v.add("url: must begin with https://; for development on this machine set insecure_http")
	default:
		v.check(isLoopback(u.Hostname()), "url: http:// is allowed for 127.0.0.1, [::1] and localhost only; use https://")
	}
}

// isLoopback reports whether host names this machine. The address behind
// "localhost" is checked again when it is connected to.
func isLoopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.IsLoopback()
}

// A role is a workload field with the claim that fills it.
type role struct {
	field string  // its name in the configuration
	claim *string // the claim's name, "" for none
}

// roles lists the workload fields of c.
func (c *Config) roles() []role {
	return []role{
		{"owner_id", &c.OwnerID}, {"owner", &c.Owner}, {"project_id", &c.ProjectID}, {"project", &c.Project},
		{"run", &c.Run}, {"attempt", &c.Attempt}, {"job", &c.Job}, {"ref", &c.Ref},
		{"environment", &c.Environment}, {"actor", &c.Actor}, {"actor_id", &c.ActorID}, {"trigger", &c.Trigger},
	}
}

// validateAudience refuses what the tokens of others carry, too.
func (c *Config) validateAudience(v *validation, p *presets.Preset) {
	if c.Audience == "" {
		v.add("audience: missing; it is the broker's url")
		return
	}
	v.check(c.AllowDefaultAudience == p.FitAudience(c.Audience, c.issuerURL()), "%s", c.audienceAdvice())
	for i, extra := range c.ExtraAudiences {
		v.check(extra != "" && extra != c.Audience && !slices.Contains(c.ExtraAudiences[:i], extra),
			"extra_audiences: %q is empty, there twice, or the audience itself; remove it", extra)
	}
	v.check(len(c.ExtraAudiences) <= maxExtraAudiences, "extra_audiences: are more than %d; each can show the tokens here", maxExtraAudiences)
}

func (c *Config) audienceAdvice() string {
	if c.AllowDefaultAudience {
		return "allow_default_audience: is for an audience that the platform gives by itself, and this is none; remove it"
	}
	return "audience: is one that the platform's tokens carry without being asked, or for others, so that whoever was shown one could show it here; " +
		"let jobs ask for the broker's url, or set allow_default_audience"
}

// validateGeneric checks what only the preset generic leaves open.
func (c *Config) validateGeneric(v *validation) {
	if c.Preset != "generic" {
		c.validateNotGeneric(v)
		return
	}
	for _, alg := range c.Algorithms {
		v.check(slices.Contains(Algorithms(), alg), "algorithms: %q is not supported; use %s", alg, strings.Join(Algorithms(), ", "))
	}
	v.check(slices.Contains([]presets.Replay{"", presets.Once, presets.Bind, presets.Reuse}, c.Replay), "replay: %q is unknown; use once, bind or reuse", c.Replay)
	v.check(len(c.Claims) > 0, "claims: missing; declare the claims that policies match, such as sub: {type: string, kind: mutable}")
	for _, r := range c.roles() {
		claim, declared := c.Claims[*r.claim]
		ok := *r.claim == "" || declared && (claim.Type == presets.String || claim.Type == presets.Int)
		v.check(ok, "%s: must name a declared claim of type string or int; declare %q under claims", r.field, *r.claim)
	}
	v.check(len(c.Untrusted) == 0 || c.Trigger != "", "untrusted: means nothing without trigger; name the claim that holds these values")
}

func (c *Config) validateNotGeneric(v *validation) {
	for _, r := range c.roles() {
		v.check(*r.claim == "", "%s: the preset %s sets it; remove it or use the preset generic", r.field, c.Preset)
	}
	for field, set := range map[string]bool{
		"algorithms": len(c.Algorithms) > 0, "replay": c.Replay != "", "untrusted": len(c.Untrusted) > 0,
	} {
		v.check(!set, "%s: the preset %s sets it; remove it or use the preset generic", field, c.Preset)
	}
}

// validateClaims checks the claims that c adds to those of p.
func (c *Config) validateClaims(v *validation, p *presets.Preset) {
	taken := make(map[string]string)
	for name, claim := range p.Claims {
		taken[place(name, claim)] = name
	}
	for _, name := range slices.Sorted(maps.Keys(c.Claims)) {
		c.validateClaim(v, name)
		claim := c.Claims[name]
		_, known := p.Claims[name]
		other, twice := taken[place(name, claim)]
		switch {
		case known:
			v.add("claims: %q is declared by the preset %s; remove it", name, c.Preset)
		case twice:
			v.add("claims: %q is where %q is; declare it once", name, other)
		case slices.ContainsFunc(p.Never, func(never []string) bool { return within(location(name, claim), never) }):
			v.add("claims: %q is what a job says of itself; no policy may use it", name)
		}
		taken[place(name, claim)] = name
	}
}

// location is where a claim is in a token.
func location(name string, claim presets.Claim) []string {
	if len(claim.Path) > 0 {
		return claim.Path
	}
	return []string{name}
}

// place is location as a key. No name of a claim has a NUL (see validateClaim).
func place(name string, claim presets.Claim) string {
	return strings.Join(location(name, claim), "\x00")
}

// within reports whether path is at or below top, or would take top with it.
func within(path, top []string) bool {
	n := min(len(path), len(top))
	return slices.Equal(path[:n], top[:n])
}

func (c *Config) validateClaim(v *validation, name string) {
	claim := c.Claims[name]
	path := location(name, claim)
	v.check(name != "" && !slices.Contains(checkedClaims(), name) && !slices.Contains(checkedClaims(), path[0]),
		"claims: %q is checked by the broker and no fact about a job; remove it", name)
	v.check(len(path) <= maxPath && !slices.ContainsFunc(path, func(part string) bool { return part == "" || !printable(part) }),
		"claims: path of %q must be 1 to %d names, from the outside in", name, maxPath)
	v.check(slices.Contains([]presets.Type{presets.String, presets.Int, presets.Bool, presets.StringList}, claim.Type),
		"claims: type of %q is unknown; use string, int, bool or string_list", name)
	v.check(slices.Contains([]presets.Kind{presets.Immutable, presets.Mutable, presets.Attacker, presets.Platform}, claim.Kind),
		"claims: kind of %q is unknown; use immutable, mutable, attacker or platform", name)
}

// maxPath bounds the depth of a claim. AWS's are at most three deep.
const maxPath = 8

// checkedClaims are the names that RFC 7519, section 4.1, gives to what every
// token is checked for. sub may be declared: some platforms say nothing else.
func checkedClaims() []string { return []string{"iss", "aud", "exp", "nbf", "iat", "jti"} }

// Resolve returns a new preset with what c adds and changes. The error joins the
// problems that [Config.Validate] reports.
func (c *Config) Resolve() (*presets.Preset, error) {
	if problems := c.Validate(); len(problems) > 0 {
		return nil, errors.Join(problems...)
	}
	p := presets.Known()[c.Preset]
	maps.Copy(p.Claims, c.Claims)
	if c.Preset == "generic" {
		c.describe(p)
	}
	p.MaxAge = cmp.Or(c.MaxAge, p.MaxAge)
	p.MaxLifetime = max(p.MaxLifetime, p.MaxAge)
	return p, nil
}

// describe fills the generic preset p from c.
func (c *Config) describe(p *presets.Preset) {
	if len(c.Algorithms) > 0 {
		p.Algorithms = slices.Clone(c.Algorithms)
	}
	p.Replay = cmp.Or(c.Replay, p.Replay)
	if len(c.Untrusted) > 0 {
		p.Risks = []presets.Risk{{Claim: c.Trigger, Values: slices.Clone(c.Untrusted), Why: "the configuration calls it untrusted"}}
	}
	p.OwnerID, p.Owner, p.ProjectID, p.Project = c.OwnerID, c.Owner, c.ProjectID, c.Project
	p.Run, p.Attempt, p.Job, p.Ref = c.Run, c.Attempt, c.Job, c.Ref
	p.Environment, p.Actor, p.ActorID, p.Trigger = c.Environment, c.Actor, c.ActorID, c.Trigger
}
