package mint

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sts/types"

	"github.com/brevet-dev/brevet/broker"
	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/policies/strictyaml"
)

// The modes of aws-role.
const (
	modeWebIdentity = "web_identity"
	modeAssumeRole  = "assume_role"
)

// AWSAudience is the default audience of the token that the broker shows to
// STS. Whoever holds a token for it can try to assume roles himself.
const AWSAudience = "sts.amazonaws.com"

const (
	defaultAWSSubject = "credential:{credential}"
	defaultRegion     = "us-east-1" // what MinIO and Ceph answer to unless told otherwise
)

// Limits of STS: API reference, AssumeRole and AssumeRoleWithWebIdentity.
const (
	awsMinTTL = 15 * time.Minute // DurationSeconds, at least 900
	awsMaxTTL = 12 * time.Hour   // DurationSeconds, at most 43200; a role allows 1 h unless told otherwise
	maxTags   = 50
	maxPolicy = 2048 // characters of the session policy
)

// Limits of ours.
const (
	maxPolicyFile = 64 << 10         // bytes; white space that goes away before AWS counts
	maxResponse   = 64 << 10         // bytes of an answer of STS; they are 2 to 5 KiB
	maxCredential = 16 << 10         // bytes of one value; session tokens are 1 to 2 KiB, AWS promises no limit
	callTimeout   = 25 * time.Second // of one mint, retries included: the broker gives it 30
	awsSlack      = time.Minute      // callTimeout, and the rest for Redis, the audit log and whole seconds
	webTokenTTL   = 5 * time.Minute  // of the token that the broker shows to STS; outlasts callTimeout
)

// The values of aws-role.
const (
	valueKeyID     = "access_key_id"
	valueSecretKey = "secret_access_key"
	valueSession   = "session_token"
	valueRegion    = "region"
)

// awsEnv is what the AWS SDKs read. AWS_DEFAULT_REGION is for boto3, which does
// not know AWS_REGION.
func awsEnv() map[string]string {
	return map[string]string{
		"AWS_ACCESS_KEY_ID": valueKeyID, "AWS_SECRET_ACCESS_KEY": valueSecretKey, "AWS_SESSION_TOKEN": valueSession,
		"AWS_REGION": valueRegion, "AWS_DEFAULT_REGION": valueRegion,
	}
}

var (
	// IAM: 12 digits of account, then a path and a name of [\w+=,.@-].
	awsARN = regexp.MustCompile(`^arn:aws[a-z-]*:iam::[0-9]{12}:role/[A-Za-z0-9_+=,.@/-]{1,576}$`)
	// Other services have partitions and accounts of their own, such as
	// arn:minio:iam:::role/… of MinIO.
	otherARN = regexp.MustCompile(`^arn:[a-z0-9-]+:iam::[A-Za-z0-9]{0,64}:role/[A-Za-z0-9_+=,.@/-]{1,576}$`)

	regionForm     = regexp.MustCompile(`^[a-z][a-z0-9-]{1,31}$`)
	tagKeyForm     = regexp.MustCompile(`^[A-Za-z0-9 _.:/=+@-]{1,128}$`) // STS: Tag
	externalIDForm = regexp.MustCompile(`^[A-Za-z0-9_+=,.@:/-]+$`)       // STS: AssumeRole
)

func (c *Config) mode() string {
	if c.Mode == "" {
		return modeWebIdentity
	}
	return c.Mode
}

func (c *Config) region() string {
	if c.Region == "" {
		return defaultRegion
	}
	return c.Region
}

func (c *Config) validateAWSRole() []FieldError {
	bad := c.validateTTL(awsMinTTL, awsMaxTTL)
	bad = append(bad, c.validateEnv(awsEnv())...)
	bad = append(bad, validateAudience(c.Audience)...)
	if m := c.mode(); m != modeWebIdentity && m != modeAssumeRole {
		modes := []string{modeWebIdentity, modeAssumeRole}
		bad = append(bad, fieldErrorf("mode", "mode %.80q is unknown; there are %s and %s%s", m, modes[0], modes[1], strictyaml.DidYouMean(m, modes)))
	}
	bad = append(bad, c.validatePlace()...)
	bad = append(bad, c.validateTags()...)
	if n := len(c.ExternalID); n > 0 && (n < 2 || n > 1224 || !externalIDForm.MatchString(c.ExternalID)) {
		bad = append(bad, fieldErrorf("external_id", "external_id must be 2 to 1224 letters, digits and _+=,.@:/-"))
	}
	if _, err := c.sessionPolicy(); err != nil {
		bad = append(bad, fieldErrorf("session_policy_file", "session_policy_file: %v", err))
	}
	return append(bad, c.validateTemplates()...)
}

// validatePlace checks what says where the role is.
func (c *Config) validatePlace() []FieldError {
	var bad []FieldError
	switch {
	case c.RoleARN == "":
		bad = append(bad, fieldErrorf("role_arn", "role_arn is missing; name the role to assume"))
	case c.Endpoint == "" && !awsARN.MatchString(c.RoleARN):
		bad = append(bad, fieldErrorf("role_arn", "role_arn must look like arn:aws:iam::111122223333:role/deploy"))
	case c.Endpoint != "" && !otherARN.MatchString(c.RoleARN):
		bad = append(bad, fieldErrorf("role_arn", "role_arn must look like arn:PARTITION:iam::ACCOUNT:role/NAME"))
	}
	switch {
	case c.Region == "" && c.Endpoint == "":
		bad = append(bad, fieldErrorf("region", "region is missing; name the region whose STS is to be called"))
	case c.Region != "" && !regionForm.MatchString(c.Region):
		bad = append(bad, fieldErrorf("region", "region %.80q must look like eu-west-1", c.Region))
	}
	if c.Endpoint != "" {
		if err := checkEndpoint(c.Endpoint); err != nil {
			bad = append(bad, fieldErrorf("endpoint", "endpoint %v", err))
		}
	}
	return bad
}

// checkEndpoint accepts https, and http to loopback: an answer in clear is a
// credential in clear.
func checkEndpoint(endpoint string) error {
	u, err := url.Parse(endpoint)
	switch {
	case err != nil || u.Hostname() == "" || u.Opaque != "":
		return errors.New("must be a URL such as https://sts.example.com")
	case u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return errors.New("must be a URL without user, query and fragment")
	case u.Scheme == "https", u.Scheme == "http" && isLoopback(u.Hostname()):
		return nil
	}
	return errors.New("must be https, or http to a loopback address: the answer is the credential")
}

func isLoopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.IsLoopback()
}

func (c *Config) validateTags() []FieldError {
	var bad []FieldError
	if len(c.SessionTags) > maxTags {
		bad = append(bad, fieldErrorf("session_tags", "session_tags has %d tags; AWS allows %d", len(c.SessionTags), maxTags))
	}
	seen := map[string]string{}
	for _, key := range slices.Sorted(maps.Keys(c.SessionTags)) {
		folded := strings.ToLower(key) // AWS: keys that differ in case only are the same
		switch other, taken := seen[folded]; {
		case !tagKeyForm.MatchString(key):
			bad = append(bad, fieldErrorf("session_tags", "session_tags: the key %.80q must be 1 to 128 letters, digits, spaces and _.:/=+@-", key))
		case strings.HasPrefix(folded, "aws:"):
			bad = append(bad, fieldErrorf("session_tags", "session_tags: %s begins with aws:, which AWS keeps for itself", key))
		case taken:
			bad = append(bad, fieldErrorf("session_tags", "session_tags: AWS takes %s and %s for the same key", other, key))
		}
		seen[folded] = key
	}
	return bad
}

// sessionPolicy returns the session policy without white space, "" if there is
// none.
func (c *Config) sessionPolicy() (string, error) {
	if c.SessionPolicyFile == "" {
		return "", nil
	}
	raw, err := os.ReadFile(c.SessionPolicyFile)
	if err != nil {
		return "", fmt.Errorf("reading the policy: %w", err)
	}
	var doc struct {
		Statement json.RawMessage
	}
	var out bytes.Buffer
	switch {
	case len(raw) > maxPolicyFile:
		return "", errors.New("the file is too large for a policy")
	case json.Unmarshal(raw, &doc) != nil || json.Compact(&out, raw) != nil || len(doc.Statement) == 0:
		return "", errors.New("the file must hold an IAM policy: a JSON object with Version and Statement")
	case out.Len() > maxPolicy:
		return "", fmt.Errorf("the policy has %d characters without white space; AWS allows %d", out.Len(), maxPolicy)
	}
	return out.String(), nil
}

// An awsMinter assumes one role.
type awsMinter struct {
	config  Config
	env     map[string]string
	policy  string
	subject *template // nil in mode assume_role
	source  *template // nil: no source identity
	tags    map[string]*template
	assume  func(ctx context.Context, a *assumption) (*types.Credentials, error)
}

// An assumption is what is asked of STS for one lease.
type assumption struct {
	role, session, policy  string
	subject, source, jwtID string // subject and jwtID in mode web_identity only
	tags                   map[string]string
	seconds                int32
}

func newAWSRole(c Config, d Deps) (broker.Target, error) {
	m := &awsMinter{config: c, env: c.environment(awsEnv())}
	var err error
	if m.policy, err = c.sessionPolicy(); err != nil {
		return broker.Target{}, fmt.Errorf("session_policy_file: %w", err)
	}
	if c.SourceIdentity != "" {
		if m.source, err = parseTemplate(c.SourceIdentity, sourceDialect); err != nil {
			return broker.Target{}, fmt.Errorf("source_identity: %w", err)
		}
	}
	if m.tags, err = parseAll("session_tags", c.SessionTags, tagDialect); err != nil {
		return broker.Target{}, err
	}
	if c.mode() == modeAssumeRole {
		m.assume = newOwnIdentity(c, d).assume
		return m.target(), nil
	}
	if c.Subject == "" {
		c.Subject = defaultAWSSubject
	}
	if m.subject, err = parseTemplate(c.Subject, subjectDialect); err != nil {
		return broker.Target{}, fmt.Errorf("subject: %w", err)
	}
	m.assume = newWebIdentity(c, d).assume
	return m.target(), nil
}

func (m *awsMinter) target() broker.Target {
	return broker.Target{Kind: KindAWSRole, Minter: m, MinTTL: awsMinTTL, Slack: awsSlack}
}

// Mint implements [broker.Minter]. The session is named after the lease, so
// that CloudTrail leads from any call back to the lease and its job.
func (m *awsMinter) Mint(ctx context.Context, s *broker.Session, l *broker.Lease) (*broker.Credential, error) {
	seconds, err := sessionSeconds(time.Now(), l)
	if err != nil {
		return nil, err
	}
	a, err := m.assumption(s, l, seconds)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	got, err := m.assume(ctx, a)
	if err != nil {
		return nil, err
	}
	return m.credential(got, l)
}

// sessionSeconds returns the DurationSeconds for a lease: its TTL, or what is
// left of the lease if that is less. STS counts from the moment it answers, so
// the time that the call may take is not given away.
func sessionSeconds(now time.Time, l *broker.Lease) (int32, error) {
	d := min(l.TTL, l.Expires.Sub(now)-callTimeout).Truncate(time.Second)
	if d < awsMinTTL || d > awsMaxTTL {
		return 0, fmt.Errorf("%w: an AWS session lasts %s to %s, and the lease leaves %s", broker.ErrLimit, awsMinTTL, awsMaxTTL, d)
	}
	return int32(d / time.Second), nil
}

func (m *awsMinter) assumption(s *broker.Session, l *broker.Lease, seconds int32) (*assumption, error) {
	a := &assumption{role: m.config.RoleARN, session: l.ID, policy: m.policy, jwtID: tokenID(l), seconds: seconds}
	var err error
	if m.subject != nil {
		if a.subject, err = m.subject.expand(s, l); err != nil {
			return nil, fmt.Errorf("filling in subject: %w", err)
		}
	}
	if m.source != nil {
		if a.source, err = m.source.expand(s, l); err != nil {
			return nil, fmt.Errorf("filling in source_identity: %w", err)
		}
	}
	if a.tags, err = expandAll("session_tags", m.tags, s, l); err != nil {
		return nil, err
	}
	return a, nil
}

// credential checks what STS answered. An answer that is incomplete, or that
// outlives its lease, is thrown away.
func (m *awsMinter) credential(got *types.Credentials, l *broker.Lease) (*broker.Credential, error) {
	if got == nil || got.Expiration == nil {
		return nil, fmt.Errorf("%w: the answer of sts has no credentials, or no end of them", broker.ErrTarget)
	}
	values := map[string]api.Secret{valueRegion: api.NewSecret(m.config.region())}
	for name, value := range map[string]*string{
		valueKeyID: got.AccessKeyId, valueSecretKey: got.SecretAccessKey, valueSession: got.SessionToken,
	} {
		if err := checkValue(aws.ToString(value)); err != nil {
			return nil, fmt.Errorf("%w: %s in the answer of sts %w", broker.ErrTarget, name, err)
		}
		values[name] = api.NewSecret(*value)
	}
	end := *got.Expiration
	if !end.After(time.Now()) || end.After(l.Expires.Add(clockSkew)) {
		return nil, fmt.Errorf("%w: the session of sts ends at %s, its lease at %s; are both clocks right?",
			broker.ErrTarget, end.UTC().Format(time.RFC3339), l.Expires.UTC().Format(time.RFC3339))
	}
	if end.After(l.Expires) {
		end = l.Expires
	}
	return &broker.Credential{
		Values: values, Env: maps.Clone(m.env), Expires: end,
		Sensitive: []string{valueKeyID, valueSecretKey, valueSession},
	}, nil
}

// checkValue accepts what can stand in an environment variable on one line.
func checkValue(v string) error {
	switch {
	case v == "":
		return errors.New("is missing")
	case len(v) > maxCredential:
		return errors.New("is too long")
	case strings.ContainsFunc(v, func(r rune) bool { return r <= ' ' || r >= 0x7f }):
		return errors.New("is not printable ASCII")
	}
	return nil
}

// Revoke implements [broker.Minter]. It is never called: no lease of an AWS
// session has a handle.
func (m *awsMinter) Revoke(context.Context, api.Secret) error {
	return errors.New("an AWS session cannot be revoked")
}
