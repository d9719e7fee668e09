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

	// Preset is the platform: github, gitlab or generic.
	Preset string `yaml:"preset"`

	// URL is the exact iss of its tokens, compared byte for byte: no trailing
	// slash is added or removed. Default: the preset's public service; generic
	// has none. An enterprise whose GitHub issuer ends in its slug, GitHub
	// Enterprise Server and a GitLab of one's own each need it.
	URL string `yaml:"url"`

	// Audience is the one audience that tokens must carry: the broker's url.
	Audience string `yaml:"-"`

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

	// The rest is for the preset generic only.

	// Algorithms lists the accepted "alg" values, of [Algorithms]. Default:
	// RS256.
	Algorithms []string `yaml:"algorithms"`

	// Claims declares the claims that policies may use, by name.
	Claims map[string]presets.Claim `yaml:"claims"`

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

// Validate returns every problem of c at once, sorted, each with the field's
// name and the way out; nil if there is none. It reads CAFile and JWKSFile, and
// touches no network.
func (c *Config) Validate() []error {
	v := &validation{}
	v.check(c.Name != "", "name: missing; give the issuer the name that policies use")
	v.check(c.Audience != "", "audience: missing; it is the broker's url")
	v.check(c.MaxAge >= 0 && c.MaxAge <= maxMaxAge, "max_age: must be between 0 (the preset's) and %v", maxMaxAge)
	c.validateURL(v)
	c.validateNetwork(v)
	switch {
	case presets.Known()[c.Preset] == nil:
		v.add("preset: unknown; use %s", strings.Join(slices.Sorted(maps.Keys(presets.Known())), ", "))
	case c.Preset == "generic":
		c.validateGeneric(v)
	default:
		c.validateNotGeneric(v)
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
	if raw == "" { // of an unknown preset only the preset is reported
		v.check(c.Preset != "generic", "url: missing; write the exact iss of the tokens")
		return
	}
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.ForceQuery || strings.Contains(raw, "#") {
		v.add("url: must be an absolute URL without user, query and fragment, such as https://gitlab.example.com")
		return
	}
	switch {
	case u.Scheme == "https":
		v.check(!c.InsecureHTTP, "insecure_http: is for an http:// url; remove it")
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

func (c *Config) validateNotGeneric(v *validation) {
	for _, r := range c.roles() {
		v.check(*r.claim == "", "%s: the preset %s sets it; remove it or use the preset generic", r.field, c.Preset)
	}
	for field, set := range map[string]bool{
		"algorithms": len(c.Algorithms) > 0, "claims": len(c.Claims) > 0,
		"replay": c.Replay != "", "untrusted": len(c.Untrusted) > 0,
	} {
		v.check(!set, "%s: the preset %s sets it; remove it or use the preset generic", field, c.Preset)
	}
}

func (c *Config) validateGeneric(v *validation) {
	for _, alg := range c.Algorithms {
		v.check(slices.Contains(Algorithms(), alg), "algorithms: %q is not supported; use %s", alg, strings.Join(Algorithms(), ", "))
	}
	v.check(slices.Contains([]presets.Replay{"", presets.Once, presets.Bind, presets.Reuse}, c.Replay), "replay: %q is unknown; use once, bind or reuse", c.Replay)
	v.check(len(c.Claims) > 0, "claims: missing; declare the claims that policies match, such as sub: {type: string, kind: mutable}")
	for _, name := range slices.Sorted(maps.Keys(c.Claims)) {
		c.validateClaim(v, name)
	}
	for _, r := range c.roles() {
		claim, declared := c.Claims[*r.claim]
		ok := *r.claim == "" || declared && (claim.Type == presets.String || claim.Type == presets.Int)
		v.check(ok, "%s: must name a declared claim of type string or int; declare %q under claims", r.field, *r.claim)
	}
	v.check(len(c.Untrusted) == 0 || c.Trigger != "", "untrusted: means nothing without trigger; name the claim that holds these values")
}

func (c *Config) validateClaim(v *validation, name string) {
	claim := c.Claims[name]
	v.check(name != "" && !slices.Contains(checkedClaims(), name), "claims: %q is checked by the broker and no fact about a job; remove it", name)
	v.check(slices.Contains([]presets.Type{presets.String, presets.Int, presets.Bool, presets.StringList}, claim.Type),
		"claims: type of %q is unknown; use string, int, bool or string_list", name)
	v.check(slices.Contains([]presets.Kind{presets.Immutable, presets.Mutable, presets.Attacker, presets.Platform}, claim.Kind),
		"claims: kind of %q is unknown; use immutable, mutable, attacker or platform", name)
}

// checkedClaims are the names that RFC 7519, section 4.1, gives to what every
// token is checked for. sub may be declared: some platforms say nothing else.
func checkedClaims() []string { return []string{"iss", "aud", "exp", "nbf", "iat", "jti"} }

// Resolve returns a new preset with c's overrides. The error joins the
// problems that [Config.Validate] reports.
func (c *Config) Resolve() (*presets.Preset, error) {
	if problems := c.Validate(); len(problems) > 0 {
		return nil, errors.Join(problems...)
	}
	p := presets.Known()[c.Preset]
	if c.Preset == "generic" {
		c.describe(p)
	}
	p.MaxAge = cmp.Or(c.MaxAge, p.MaxAge)
	p.MaxLifetime = max(p.MaxLifetime, p.MaxAge)
	return p, nil
}

// describe fills the generic preset p from c.
func (c *Config) describe(p *presets.Preset) {
	p.Claims = maps.Clone(c.Claims)
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
