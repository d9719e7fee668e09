package mint

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/brevet-dev/brevet/policies/strictyaml"
)

// Config is one entry of the list "credentials" in brevetd.yaml. The first five
// fields belong to every kind, the others to the kinds that they name; a field
// of another kind is an error.
type Config struct {
	// Name is what jobs ask for (the audience of RFC 8693) and policies grant:
	// lower-case letters, digits, '-' and '_', at most 64, starting with a
	// letter. Required.
	Name string `yaml:"name"`

	// Kind is "jwt", "aws-role", "data-key" or "postgres". Required.
	Kind string `yaml:"kind"`

	// Class is "write" or "read": whether whoever has the credential can change
	// something that matters. Only those of class read are granted to runs whose
	// code a stranger may have written, as those of pull requests, and only where
	// a policy names these. Default "write".
	Class string `yaml:"class"`

	// MaxTTL is the longest that a lease of this credential may live, renewals
	// included; a policy that grants more does not load. Written "15m". Default
	// and upper limit: see DefaultMaxTTL and the kind. What is minted cannot be
	// revoked, so this is how long a stolen credential works at worst.
	MaxTTL time.Duration `yaml:"max_ttl"`

	// Env renames environment variables: value name → variable. Values that it
	// does not name keep their defaults, which the kinds document.
	Env map[string]string `yaml:"env"`

	// Audience is the aud of the token that the broker signs.
	//
	// jwt: required; whoever is to accept the token. Danger: whatever else
	// accepts that audience from this broker accepts the token too. With
	// "sts.amazonaws.com" the job itself can assume every AWS role whose trust
	// policy fits the subject.
	//
	// aws-role with mode web_identity: a client id of the broker's OIDC
	// provider entry in IAM; default "sts.amazonaws.com".
	Audience string `yaml:"audience"`

	// Subject is the template of the sub of that token, at most 255 ASCII
	// characters (OpenID Connect Core, section 2).
	//
	// jwt: default "issuer:{issuer}:project:{project_id}". aws-role with mode
	// web_identity: default "credential:{credential}", so that a role's trust
	// policy names the one credential that may assume it, and brevet's policies
	// say who gets that.
	Subject string `yaml:"subject"`

	// Claims are further claims of a jwt: name → template. A name that the
	// broker sets itself is an error.
	Claims map[string]string `yaml:"claims"`

	// Mode says how an aws-role is assumed. "web_identity", the default: with a
	// token that the broker signs, so that there is no AWS key anywhere.
	// "assume_role": with the broker's own AWS identity. Danger: whoever takes
	// over the broker's machine then has that identity, too.
	Mode string `yaml:"mode"`

	// RoleARN is the role to assume. Required for aws-role.
	RoleARN string `yaml:"role_arn"`

	// Region is where STS is called, and the job's AWS_REGION. Required for
	// aws-role; with Endpoint the default is us-east-1.
	Region string `yaml:"region"`

	// Endpoint is the URL of another service that speaks the STS protocol.
	// https, or http to a loopback address only: the answer is the credential.
	// Its certificate is checked against the machine's trust store
	// (SSL_CERT_FILE adds a private CA). Default: AWS STS of Region.
	Endpoint string `yaml:"endpoint"`

	// SessionTags are the tags of the AWS session: key → template, at most 50.
	// The role must allow sts:TagSession. AWS packs tags and session policy into
	// a size of its own that cannot be computed in advance.
	SessionTags map[string]string `yaml:"session_tags"`

	// SourceIdentity is the template of the name that CloudTrail shows for all
	// that the session does, and that it cannot change. The role must allow
	// sts:SetSourceIdentity. Default: none.
	SourceIdentity string `yaml:"source_identity"`

	// SessionPolicyFile is a file with an IAM policy in JSON, at most 2048
	// characters without white space, that narrows what the session may do. Read
	// when the configuration is loaded. Default: the session may do all that the
	// role may.
	SessionPolicyFile string `yaml:"session_policy_file"`

	// ExternalID is the sts:ExternalId that the role's trust policy asks for, in
	// mode assume_role.
	ExternalID string `yaml:"external_id"`

	// MaxAge is for how long after it was made a data-key can be unwrapped,
	// written "2160h": within 1m and 87600h, default 2160h (90 days). Danger:
	// what is encrypted with a key that is too old is lost; and a KEK cannot be
	// destroyed while a key under it may still be unwrapped.
	MaxAge time.Duration `yaml:"max_age"`

	// Shred makes the wrapped form of a data-key useless, to everyone and for
	// ever, when its lease ends: revoked, or by its time. Danger: that is what
	// happens at the end of the job, unless the lease is kept.
	Shred bool `yaml:"shred"`

	// URL says where the database of kind postgres is, and as whom the broker
	// goes there: postgres://USER@HOST[:PORT]/DATABASE, without a password. TLS,
	// with the name checked, is always on; "?sslmode=disable" turns it off for a
	// loopback address only. Danger: the user may make and drop roles. Required.
	URL string `yaml:"url"`

	// PasswordFile holds the password of that user; a line break at its end is
	// ignored. Read for each new connection. Required.
	PasswordFile string `yaml:"password_file"`

	// CAFile is a PEM bundle of the authorities that may certify the database,
	// instead of the system's.
	CAFile string `yaml:"ca_file"`

	// Roles are granted to the role that is made for a lease: what the job may
	// do. Danger: the job can act as each of them (SET ROLE), and what it then
	// makes belongs to that role and stays. Required.
	Roles []string `yaml:"roles"`

	// Owner gets what a job's role owns when its lease ends. Default: it is
	// dropped.
	Owner string `yaml:"owner"`

	// ConnectionLimit is how many connections a job may have at once, within 1
	// and 1000. Default 10.
	ConnectionLimit int `yaml:"connection_limit"`

	// StatementTimeout and LockTimeout are what a job's sessions begin with; a
	// job can change them. Default: the database's.
	StatementTimeout time.Duration `yaml:"statement_timeout"`
	LockTimeout      time.Duration `yaml:"lock_timeout"`
}

// DefaultMaxTTL is used where Config.MaxTTL is 0: as long as an AWS session can
// last, and twice the longest job that GitHub's own runners allow.
const DefaultMaxTTL = 12 * time.Hour

// jwtMaxTTL is for how long the key that signed a token stays in the JWKS after
// its last signature: keys.Verifiable.
const jwtMaxTTL = 12 * time.Hour

// Limit returns the longest that a lease of c may live, renewals included.
func (c *Config) Limit() time.Duration {
	if c.MaxTTL == 0 {
		return DefaultMaxTTL
	}
	return c.MaxTTL
}

// The classes of credentials.
const (
	ClassRead  = "read"
	ClassWrite = "write"
)

// A FieldError is one thing that is wrong with a [Config].
type FieldError struct {
	Field   string // key in the YAML, such as "session_tags"
	Message string // a whole sentence, which names the field and the way out
}

func (e FieldError) Error() string { return e.Message }

func fieldErrorf(field, format string, args ...any) FieldError {
	return FieldError{field, fmt.Sprintf(format, args...)}
}

func joined(problems []FieldError) error {
	errs := make([]error, len(problems))
	for i, p := range problems {
		errs[i] = p
	}
	return errors.Join(errs...)
}

var (
	nameForm = regexp.MustCompile(`^[a-z][a-z0-9_-]{0,63}$`)
	envForm  = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,127}$`)
)

// Validate returns everything that is wrong with c by itself; nil means valid.
// It reads SessionPolicyFile and CAFile.
func (c *Config) Validate() []FieldError {
	var bad []FieldError
	if !nameForm.MatchString(c.Name) {
		bad = append(bad, fieldErrorf("name", "name %.80q must be 1 to 64 lower-case letters, digits, '-' and '_', and start with a letter", c.Name))
	}
	if classes := []string{"", ClassRead, ClassWrite}; !slices.Contains(classes, c.Class) {
		bad = append(bad, fieldErrorf("class", "class must be read or write, not %.80q%s", c.Class, strictyaml.DidYouMean(c.Class, classes[1:])))
	}
	switch c.Kind {
	case KindJWT:
		bad = append(bad, c.validateJWT()...)
	case KindAWSRole:
		bad = append(bad, c.validateAWSRole()...)
	case KindDataKey:
		bad = append(bad, c.validateDataKey()...)
	case KindPostgres:
		bad = append(bad, c.validatePostgres()...)
	default:
		kinds := []string{KindJWT, KindAWSRole, KindDataKey, KindPostgres}
		return append(bad, fieldErrorf("kind", "kind %.80q is unknown; there are %s%s",
			c.Kind, strings.Join(kinds, ", "), strictyaml.DidYouMean(c.Kind, kinds)))
	}
	return append(bad, c.validateForeign()...)
}

// form names the kind and, where fields differ by mode, the mode.
func (c *Config) form() string {
	if c.Kind != KindAWSRole {
		return c.Kind
	}
	return KindAWSRole + " with mode " + c.mode()
}

// A kindField is a field that not every form has.
type kindField struct {
	name  string
	set   bool
	forms string // "jwt", "data-key", "postgres", "web_identity", "assume_role", separated by spaces
}

func (c *Config) kindFields() []kindField {
	return []kindField{
		{"audience", c.Audience != "", "jwt web_identity"},
		{"subject", c.Subject != "", "jwt web_identity"},
		{"claims", c.Claims != nil, "jwt"},
		{"mode", c.Mode != "", "web_identity assume_role"},
		{"role_arn", c.RoleARN != "", "web_identity assume_role"},
		{"region", c.Region != "", "web_identity assume_role"},
		{"endpoint", c.Endpoint != "", "web_identity assume_role"},
		{"session_tags", c.SessionTags != nil, "web_identity assume_role"},
		{"source_identity", c.SourceIdentity != "", "web_identity assume_role"},
		{"session_policy_file", c.SessionPolicyFile != "", "web_identity assume_role"},
		{"external_id", c.ExternalID != "", "assume_role"},
		{"max_age", c.MaxAge != 0, "data-key"},
		{"shred", c.Shred, "data-key"},
		{"url", c.URL != "", "postgres"},
		{"password_file", c.PasswordFile != "", "postgres"},
		{"ca_file", c.CAFile != "", "postgres"},
		{"roles", c.Roles != nil, "postgres"},
		{"owner", c.Owner != "", "postgres"},
		{"connection_limit", c.ConnectionLimit != 0, "postgres"},
		{"statement_timeout", c.StatementTimeout != 0, "postgres"},
		{"lock_timeout", c.LockTimeout != 0, "postgres"},
	}
}

// validateForeign finds the fields that belong to another kind or mode. Of an
// unknown mode nothing can be said.
func (c *Config) validateForeign() []FieldError {
	var bad []FieldError
	form := c.Kind
	if c.Kind == KindAWSRole {
		form = c.mode()
	}
	if !slices.Contains([]string{KindJWT, KindDataKey, KindPostgres, modeWebIdentity, modeAssumeRole}, form) {
		return nil
	}
	for _, f := range c.kindFields() {
		if f.set && !slices.Contains(strings.Fields(f.forms), form) {
			bad = append(bad, fieldErrorf(f.name, "%s is not a field of kind %s", f.name, c.form()))
		}
	}
	return bad
}

// validateTTL checks MaxTTL against what the kind can give.
func (c *Config) validateTTL(least, most time.Duration) []FieldError {
	if c.MaxTTL != 0 && (c.MaxTTL < least || c.MaxTTL > most) {
		return []FieldError{fieldErrorf("max_ttl", "max_ttl %s of kind %s must be within %s and %s", c.MaxTTL, c.Kind, least, most)}
	}
	return nil
}

// validateEnv checks the renamed variables. defaults is variable → value name.
func (c *Config) validateEnv(defaults map[string]string) []FieldError {
	var bad []FieldError
	values := slices.Compact(slices.Sorted(maps.Values(defaults)))
	used := c.keptEnv(defaults)
	for _, value := range slices.Sorted(maps.Keys(c.Env)) {
		variable := c.Env[value]
		switch other, taken := used[variable]; {
		case !slices.Contains(values, value):
			bad = append(bad, fieldErrorf("env", "env names the value %.80q, which kind %s does not have; there are: %s%s",
				value, c.Kind, strings.Join(values, ", "), strictyaml.DidYouMean(value, values)))
		case !envForm.MatchString(variable):
			bad = append(bad, fieldErrorf("env", "env: %.80q is not the name of an environment variable", variable))
		case taken:
			bad = append(bad, fieldErrorf("env", "env: %s cannot hold both %s and %s", variable, other, value))
		}
		used[variable] = value
	}
	return bad
}

// environment returns variable → value name: the defaults with c.Env applied.
func (c *Config) environment(defaults map[string]string) map[string]string {
	out := c.keptEnv(defaults)
	for value, variable := range c.Env {
		out[variable] = value
	}
	return out
}

// keptEnv returns the defaults of the values that c.Env does not rename.
func (c *Config) keptEnv(defaults map[string]string) map[string]string {
	out := map[string]string{}
	for variable, value := range defaults {
		if _, renamed := c.Env[value]; !renamed {
			out[variable] = value
		}
	}
	return out
}

// validateAgainst finds what only the broker around c shows to be wrong.
func (c *Config) validateAgainst(d Deps) []FieldError {
	var bad []FieldError
	if sameURL(c.Audience, d.URL) {
		bad = append(bad, fieldErrorf("audience", "audience is the broker's own url: such a token could be taken for one of its session tokens; name the service that is to accept it"))
	}
	for _, u := range c.templates() {
		t, err := parseTemplate(u.text, u.dialect)
		if err == nil {
			err = t.checkClaims(d.Claims)
		}
		if err != nil {
			bad = append(bad, fieldErrorf(u.field, "%s: %v", u.label, err))
		}
	}
	return bad
}

// sameURL reports whether two URLs are the same to someone careless: beside
// letter case and trailing slashes.
func sameURL(a, b string) bool {
	return strings.EqualFold(strings.TrimRight(a, "/"), strings.TrimRight(b, "/"))
}

// A use is a template of a Config with its place.
type use struct {
	field   string // "session_tags"
	key     string // "Project"; "" where the field is one template
	label   string // "session_tags.Project"
	text    string
	dialect dialect
}

// templates lists the templates of c in a fixed order.
func (c *Config) templates() []use {
	var out []use
	one := func(field, text string, d dialect) {
		if text != "" {
			out = append(out, use{field, "", field, text, d})
		}
	}
	many := func(field string, m map[string]string, d dialect) {
		for _, key := range slices.Sorted(maps.Keys(m)) {
			out = append(out, use{field, key, field + "." + key, m[key], d})
		}
	}
	one("subject", c.Subject, subjectDialect)
	many("claims", c.Claims, claimDialect)
	many("session_tags", c.SessionTags, tagDialect)
	one("source_identity", c.SourceIdentity, sourceDialect)
	return out
}

// A Need is a placeholder that a credential's templates cannot do without.
type Need struct{ Field, Placeholder string }

// Needs returns what a workload must have so that the credential can be made. Of
// templates that are wrong it tells nothing: [Config.Validate] does.
func (c *Config) Needs() []Need {
	full := *c
	if c.Kind == KindJWT && c.Subject == "" {
		full.Subject = defaultJWTSubject
	}
	var out []Need
	for _, u := range full.templates() {
		t, err := parseTemplate(u.text, u.dialect)
		if err != nil {
			continue
		}
		for _, p := range t.parts {
			if p.name != "" {
				out = append(out, Need{u.label, p.name})
			}
		}
	}
	return out
}

// validateTemplates checks the syntax of all templates of c.
func (c *Config) validateTemplates() []FieldError {
	var bad []FieldError
	for _, u := range c.templates() {
		if _, err := parseTemplate(u.text, u.dialect); err != nil {
			bad = append(bad, fieldErrorf(u.field, "%s: %v", u.label, err))
		}
	}
	return bad
}
