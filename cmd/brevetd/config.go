package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/brevet-dev/brevet/broker"
	"github.com/brevet-dev/brevet/broker/mint"
	"github.com/brevet-dev/brevet/issuers"
	"github.com/brevet-dev/brevet/policies/strictyaml"
)

// config is brevetd.yaml. Paths in it are relative to its folder. Secrets are
// not written into it: they stand in files, or in the environment.
type config struct {
	// URL is the broker's issuer identifier, and the one audience that subject
	// tokens must carry: https, or http on loopback; no path, no trailing slash.
	// Changing it makes every token and epoch certificate invalid. Required.
	URL string `yaml:"url"`

	// Listen is the address of the public surface, such as ":8443". Without tls
	// it must be a loopback address. Required.
	Listen string `yaml:"listen"`

	// TLS is the certificate of the public surface.
	TLS *tlsConfig `yaml:"tls"`

	// AdminListen is the address of /metrics, /healthz and /readyz, which ask
	// nobody for a password. Default: not served.
	AdminListen string `yaml:"admin_listen"`

	// Redis keeps the leases. Required.
	Redis redisConfig `yaml:"redis"`

	// Root is the key that certifies all others: exactly one kind. Required.
	Root rootConfig `yaml:"root"`

	// Issuers vouch for jobs. A token of anyone else is refused unread.
	// Required.
	Issuers []issuers.Config `yaml:"issuers"`

	// Credentials are what jobs can get. Required.
	Credentials []mint.Config `yaml:"credentials"`

	// Policies is the folder of policy documents, or says where it is. Required.
	Policies policiesConfig `yaml:"policies"`

	// Audit says where the audit log is written. Required.
	Audit auditConfig `yaml:"audit"`

	dir   string // of the file
	isDev bool   // Redis is an imitation in this process, which cannot be inspected
}

type tlsConfig struct {
	Cert string `yaml:"cert"` // PEM file: the certificate and its chain
	Key  string `yaml:"key"`  // PEM file: its private key
}

type auditConfig struct {
	File string `yaml:"file"`
}

// A place adds problems to those of a document.
type place struct {
	doc      *strictyaml.Document
	problems strictyaml.Problems
	opaque   bool // issuers or credentials are wrong: policies cannot be judged by them
}

func (p *place) bad(path strictyaml.Path, format string, args ...any) {
	p.problems = append(p.problems, p.doc.Problem(path, format, args...))
}

// readConfig reads and validates the file by itself. Its error is a
// [strictyaml.Problems] with every problem.
func readConfig(file string) (*config, *place, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, nil, noConfig(err)
	}
	doc, problems := strictyaml.Parse(file, data)
	if doc == nil {
		return nil, nil, problems.Err()
	}
	c := &config{dir: filepath.Dir(file)}
	p := &place{doc: doc, problems: doc.Decode(c)}
	if p.opaque = len(p.problems) > 0; !p.opaque { // else the values are not what the file says
		c.validate(p)
	}
	return c, p, nil
}

func noConfig(err error) error {
	return hint{fmt.Errorf("reading the configuration: %w", err), "give its place with --config, or run: brevetd dev"}
}

// path makes a path of the configuration absolute or relative to where brevetd
// was started.
func (c *config) path(p string) string {
	if p == "" || filepath.IsAbs(p) {
		return p
	}
	return filepath.Join(c.dir, p)
}

func (c *config) validate(p *place) {
	c.validateURL(p)
	c.validateIssuers(p)
	if c.URL != "" { // without it no credential can be judged
		c.validateCredentials(p)
	}
	p.opaque = len(p.problems) > 0
	c.validateListen(p)
	c.validateRedis(p)
	c.validateRoot(p)
	c.validatePolicies(p)
	if c.Audit.File == "" {
		p.bad(strictyaml.Path{"audit"}, "audit.file is missing: nothing is minted that is not recorded")
	}
}

func (c *config) validateURL(p *place) {
	u, err := url.Parse(c.URL)
	switch at := (strictyaml.Path{"url"}); {
	case c.URL == "":
		p.bad(at, "url is missing: the https address that jobs reach the broker at")
	case err != nil || u.Host == "" || u.User != nil || u.Path != "" || u.RawQuery != "" || u.Fragment != "" || u.String() != c.URL:
		p.bad(at, "url must be https://host[:port] with nothing after it, not even a slash")
	case u.Scheme == "http" && !isLoopback(u.Host):
		p.bad(at, "url is http, which only a loopback address may be; use https")
	case u.Scheme != "https" && u.Scheme != "http":
		p.bad(at, "url must begin with https://")
	}
}

func (c *config) validateListen(p *place) {
	switch {
	case c.Listen == "":
		p.bad(strictyaml.Path{}, "listen is missing: the address of the broker, such as :8443")
	case c.TLS == nil && !isLoopback(c.Listen):
		p.bad(strictyaml.Path{"listen"}, "without tls only a loopback address may be listened on; add tls: {cert: …, key: …}")
	}
	// The files are read by serve only: see validateRedis.
	if c.TLS != nil && (c.TLS.Cert == "" || c.TLS.Key == "") {
		p.bad(strictyaml.Path{"tls"}, "tls needs cert and key")
	}
}

func isLoopback(hostport string) bool {
	host, _, err := net.SplitHostPort(hostport)
	if err != nil {
		host = hostport
	}
	addr, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return host == "localhost" || err == nil && addr.IsLoopback()
}

func (c *config) validateIssuers(p *place) {
	if len(c.Issuers) == 0 {
		p.bad(strictyaml.Path{"issuers"}, "issuers is missing: nobody could get in")
	}
	seen := map[string]bool{}
	for i := range c.Issuers {
		iss := &c.Issuers[i]
		iss.Audience = cmp.Or(iss.Audience, c.URL)
		iss.CAFile, iss.JWKSFile = c.path(iss.CAFile), c.path(iss.JWKSFile)
		for _, err := range iss.Validate() {
			field, message, _ := strings.Cut(err.Error(), ": ")
			if iss.Audience != "" || field != "audience" { // else it is url, which has its own problem
				p.bad(strictyaml.Path{"issuers", i, field}, "%s: %s", field, message)
			}
		}
		if seen[iss.Name] {
			p.bad(strictyaml.Path{"issuers", i, "name"}, "name: there is an issuer %s already", iss.Name)
		}
		seen[iss.Name] = true
	}
}

func (c *config) validateCredentials(p *place) {
	if len(c.Credentials) == 0 {
		p.bad(strictyaml.Path{"credentials"}, "credentials is missing: there would be nothing to get")
	}
	seen := map[string]bool{}
	for i := range c.Credentials {
		cred := &c.Credentials[i]
		cred.SessionPolicyFile = c.path(cred.SessionPolicyFile)
		cred.PasswordFile, cred.CAFile = c.path(cred.PasswordFile), c.path(cred.CAFile)
		if _, err := mint.New(*cred, c.mintDeps(signNothing{})); err != nil {
			c.credentialProblems(p, i, err)
		}
		if c.opensRoles(cred) {
			p.bad(strictyaml.Path{"credentials", i, "audience"}, "a job with this token could assume AWS roles by itself, without its lease; give it another audience")
		}
		if seen[cred.Name] {
			p.bad(strictyaml.Path{"credentials", i, "name"}, "name: there is a credential %s already", cred.Name)
		}
		seen[cred.Name] = true
	}
}

// opensRoles reports whether the token of a jwt credential is one that the
// broker itself shows to AWS for an aws-role.
func (c *config) opensRoles(cred *mint.Config) bool {
	if cred.Kind != mint.KindJWT {
		return false
	}
	for _, other := range c.Credentials {
		if other.Kind == mint.KindAWSRole && cmp.Or(other.Audience, mint.AWSAudience) == cred.Audience {
			return true
		}
	}
	return cred.Audience == mint.AWSAudience
}

// credentialProblems places the problems that mint.New joined.
func (c *config) credentialProblems(p *place, i int, err error) {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, err := range joined.Unwrap() {
			c.credentialProblems(p, i, err)
		}
		return
	}
	at := strictyaml.Path{"credentials", i}
	if field, ok := errors.AsType[mint.FieldError](err); ok {
		at = append(at, field.Field)
	}
	p.bad(at, "%v", err)
}

// A signer is what minters need of a running broker.
type signer interface {
	Sign(ctx context.Context, typ string, claims any) (string, error)
	SignArchival(ctx context.Context, typ string, claims any) (string, error)
	WrapKey(ctx context.Context, k *broker.DataKey) (string, error)
}

// signNothing stands in for the keys where nothing is signed.
type signNothing struct{}

var errNotRunning = errors.New("only a running broker signs")

func (signNothing) Sign(context.Context, string, any) (string, error) { return "", errNotRunning }
func (signNothing) SignArchival(context.Context, string, any) (string, error) {
	return "", errNotRunning
}
func (signNothing) WrapKey(context.Context, *broker.DataKey) (string, error) {
	return "", errNotRunning
}

func (c *config) mintDeps(s signer) mint.Deps {
	claims := map[string]bool{}
	for i := range c.Issuers {
		preset, err := c.Issuers[i].Resolve()
		if err != nil {
			continue // Validate has told of it
		}
		for name := range preset.Claims {
			claims[name] = true
		}
	}
	names := make([]string, 0, len(claims))
	for name := range claims {
		names = append(names, name)
	}
	return mint.Deps{URL: c.URL, Claims: names, Sign: s.Sign, SignArchival: s.SignArchival, WrapKey: s.WrapKey}
}

// targets makes the minters. The configuration was validated.
func (c *config) targets(s signer) (map[string]broker.Target, error) {
	out := make(map[string]broker.Target, len(c.Credentials))
	for _, cred := range c.Credentials {
		t, err := mint.New(cred, c.mintDeps(s))
		if err != nil {
			return nil, fmt.Errorf("credential %s: %w", cred.Name, err)
		}
		out[cred.Name] = t
	}
	return out, nil
}

// loadConfig reads the configuration for a command that needs it valid, but
// neither the policies nor their tests.
func loadConfig(file string) (*config, error) {
	c, p, err := readConfig(file)
	if err != nil {
		return nil, err
	}
	if err := p.problems.Err(); err != nil {
		return nil, fmt.Errorf("reading the configuration:\n%w", err)
	}
	return c, nil
}
