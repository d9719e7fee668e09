package mint_test

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	awssts "github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/brevet-dev/brevet/broker"
	"github.com/brevet-dev/brevet/broker/mint"
	"github.com/brevet-dev/brevet/test/sts"
)

const (
	brokerKeyID  = "AKIABROKERBROKERBROK"
	brokerSecret = "canary/broker/secret/key/0123456789abcde"
	brokerARN    = "arn:aws:iam::111122223333:user/brevet"
)

// A lab is a broker's stand-in and an STS that trusts it.
type lab struct {
	issuer *sts.Issuer
	sts    *sts.Server
	tokens []string // all that was signed
}

func newLab(t *testing.T) *lab {
	t.Helper()
	l := &lab{issuer: newIssuer(t)}
	web := []sts.WebTrust{{Issuer: l.issuer.URL, Audience: "sts.amazonaws.com", Subject: "credential:deploy"}}
	server, err := sts.Start(sts.Config{
		Providers: []sts.Provider{{Issuer: l.issuer.URL, Audiences: []string{"sts.amazonaws.com", "other"}}},
		Users:     []sts.User{{ARN: brokerARN, AccessKeyID: brokerKeyID, SecretAccessKey: brokerSecret}},
		Roles: []sts.Role{
			{ARN: roleARN, MaxSession: 2 * time.Hour, Web: web, TagSession: true, SetSourceIdentity: true,
				Principals: []string{brokerARN}, ExternalID: "brevet-1"},
			{ARN: "arn:aws:iam::111122223333:role/bare", Web: web, Principals: []string{brokerARN}},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Errorf("closing sts: %v", err)
		}
	})
	l.sts = server
	return l
}

func (l *lab) deps() mint.Deps {
	return mint.Deps{
		URL: l.issuer.URL, Claims: declared,
		Sign: func(ctx context.Context, typ string, claims any) (string, error) {
			token, err := l.issuer.Sign(ctx, typ, claims)
			l.tokens = append(l.tokens, token)
			return token, err
		},
		AWS: func(context.Context, string) (aws.CredentialsProvider, error) {
			return credentials.NewStaticCredentialsProvider(brokerKeyID, brokerSecret, ""), nil
		},
	}
}

func (l *lab) web(change func(*mint.Config)) mint.Config {
	c := awsConfig(func(c *mint.Config) { c.Endpoint = l.sts.URL })
	change(&c)
	return c
}

func (l *lab) own(change func(*mint.Config)) mint.Config {
	c := awsConfig(func(c *mint.Config) {
		c.Endpoint, c.Mode, c.ExternalID = l.sts.URL, "assume_role", "brevet-1"
	})
	change(&c)
	return c
}

// mint makes one credential of c for an hour.
func (l *lab) mint(t *testing.T, c mint.Config, s *broker.Session) (*broker.Credential, *broker.Lease, error) {
	t.Helper()
	target := mustNew(t, c, l.deps())
	lease := aLease(c.Name, time.Hour, target)
	cred, err := target.Minter.Mint(t.Context(), s, lease)
	if err != nil && cred != nil {
		t.Errorf("Mint returned a credential and the error %v", err)
	}
	return cred, lease, err
}

// whoami uses a credential as the job would.
func (l *lab) whoami(t *testing.T, cred *broker.Credential) string {
	t.Helper()
	client := awssts.New(awssts.Options{
		Region: cred.Values["region"].Reveal(), BaseEndpoint: &l.sts.URL,
		Credentials: credentials.NewStaticCredentialsProvider(cred.Values["access_key_id"].Reveal(),
			cred.Values["secret_access_key"].Reveal(), cred.Values["session_token"].Reveal()),
	})
	out, err := client.GetCallerIdentity(t.Context(), &awssts.GetCallerIdentityInput{})
	if err != nil {
		t.Fatalf("GetCallerIdentity with the credential: %v", err)
	}
	return aws.ToString(out.Arn)
}

// testPolicy writes a session policy and returns its path and its compact form.
func testPolicy(t *testing.T) (file, compact string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "policy.json")
	if err := os.WriteFile(file, []byte("{\n  \"Version\": \"2012-10-17\",\n  \"Statement\": []\n}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return file, `{"Version":"2012-10-17","Statement":[]}`
}

func TestAWSRole(t *testing.T) {
	file, compact := testPolicy(t)
	extras := func(c *mint.Config) {
		c.SessionTags = map[string]string{"Project": "{project_id}", "Ref": "{ref}", "Workflow": "{issuer}:{run}"}
		c.SourceIdentity, c.SessionPolicyFile = "{project_id}@{issuer}", file
	}
	for _, mode := range []string{"web_identity", "assume_role"} {
		t.Run(mode, func(t *testing.T) {
			lab := newLab(t)
			config := map[string]mint.Config{"web_identity": lab.web(extras), "assume_role": lab.own(extras)}[mode]
			cred, lease, err := lab.mint(t, config, aSession())
			if err != nil {
				t.Fatal(err)
			}
			issued := lab.sts.Issued()
			if len(issued) != 1 {
				t.Fatalf("%d sessions were issued, want 1", len(issued))
			}
			got := issued[0]
			if got.SessionName != lease.ID || got.SourceIdentity != "456@github" || got.Policy != compact || got.Duration != time.Hour {
				t.Errorf("issued %+v", got)
			}
			if want := map[string]string{"Project": "456", "Ref": "refs/heads/main", "Workflow": "github:9001"}; !maps.Equal(got.Tags, want) {
				t.Errorf("tags %v, want %v", got.Tags, want)
			}
			if cred.Expires.After(lease.Expires) || !cred.Expires.Equal(got.Expires) {
				t.Errorf("the credential ends at %s, the session at %s, the lease at %s", cred.Expires, got.Expires, lease.Expires)
			}
			if arn := lab.whoami(t, cred); arn != "arn:aws:sts::111122223333:assumed-role/deploy/"+lease.ID {
				t.Errorf("the credential is %s", arn)
			}
		})
	}
}

func TestAWSCredential(t *testing.T) {
	lab := newLab(t)
	cred, _, err := lab.mint(t, lab.web(func(*mint.Config) {}), aSession())
	if err != nil {
		t.Fatal(err)
	}
	wantEnv := map[string]string{
		"AWS_ACCESS_KEY_ID": "access_key_id", "AWS_SECRET_ACCESS_KEY": "secret_access_key", "AWS_SESSION_TOKEN": "session_token",
		"AWS_REGION": "region", "AWS_DEFAULT_REGION": "region",
	}
	if !maps.Equal(cred.Env, wantEnv) || cred.Values["region"].Reveal() != "eu-west-1" {
		t.Errorf("env %v, region %s", cred.Env, cred.Values["region"].Reveal())
	}
	if !slices.Equal(cred.Sensitive, []string{"access_key_id", "secret_access_key", "session_token"}) {
		t.Errorf("sensitive %v", cred.Sensitive)
	}
	if !cred.Handle.IsZero() {
		t.Error("an STS session has a handle, and so pretends to be revocable")
	}
}

// No AWS configuration of the machine may be looked at, let alone sent.
func TestWebIdentityNeedsNoAWSKey(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIASTRAY")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "stray")
	t.Setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
	lab := newLab(t)
	d := lab.deps()
	d.AWS = func(context.Context, string) (aws.CredentialsProvider, error) {
		t.Error("the broker's AWS identity was asked for")
		return nil, errors.New("none")
	}
	target := mustNew(t, lab.web(func(*mint.Config) {}), d)
	if _, err := target.Minter.Mint(t.Context(), aSession(), aLease("deploy", time.Hour, target)); err != nil {
		t.Errorf("Mint = %v", err)
	}
}

// With Deps.AWS nil the SDK's default chain finds the broker's identity.
func TestAssumeRoleByDefaultChain(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", brokerKeyID)
	t.Setenv("AWS_SECRET_ACCESS_KEY", brokerSecret)
	t.Setenv("AWS_CONFIG_FILE", filepath.Join(t.TempDir(), "none"))
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", filepath.Join(t.TempDir(), "none"))
	lab := newLab(t)
	d := lab.deps()
	d.AWS = nil
	target := mustNew(t, lab.own(func(*mint.Config) {}), d)
	if _, err := target.Minter.Mint(t.Context(), aSession(), aLease("deploy", time.Hour, target)); err != nil {
		t.Errorf("Mint = %v", err)
	}
}

// The identity is looked for when it is needed; a failure is not remembered.
func TestAssumeRoleFindsItsIdentityLate(t *testing.T) {
	lab := newLab(t)
	d, calls := lab.deps(), 0
	found := d.AWS
	d.AWS = func(ctx context.Context, region string) (aws.CredentialsProvider, error) {
		if calls++; calls == 1 {
			return nil, errors.New("no identity yet")
		}
		return found(ctx, region)
	}
	target := mustNew(t, lab.own(func(*mint.Config) {}), d)
	if calls != 0 {
		t.Error("New looked for the broker's AWS identity")
	}
	_, err := target.Minter.Mint(t.Context(), aSession(), aLease("deploy", time.Hour, target))
	if !errors.Is(err, broker.ErrTarget) || !strings.Contains(err.Error(), "no identity yet") {
		t.Errorf("Mint without identity = %v", err)
	}
	for range 2 {
		if _, err := target.Minter.Mint(t.Context(), aSession(), aLease("deploy", time.Hour, target)); err != nil {
			t.Errorf("Mint = %v", err)
		}
	}
	if calls != 2 {
		t.Errorf("the identity was looked for %d times, want 2", calls)
	}
}

// What AWS limits is hashed, and what it cannot hold is escaped.
func TestAWSTemplateLimits(t *testing.T) {
	lab := newLab(t)
	s := aSession()
	s.Who.Workload.Ref, s.Who.Workload.Job = "refs/heads/"+strings.Repeat("x", 300), "é b*c:d=e"
	config := lab.web(func(c *mint.Config) {
		c.SessionTags = map[string]string{"Ref": "{ref}", "Job": "job:{job}"}
		c.SourceIdentity = "{ref}"
	})
	if _, _, err := lab.mint(t, config, s); err != nil {
		t.Fatal(err)
	}
	hash := func(text string) string {
		sum := sha256.Sum256([]byte(text))
		return base64.RawURLEncoding.EncodeToString(sum[:])
	}
	got := lab.sts.Issued()[0]
	if want := "sha256:" + hash(s.Who.Workload.Ref); got.Tags["Ref"] != want {
		t.Errorf("tag Ref %s, want %s", got.Tags["Ref"], want)
	}
	if want := "job:=C3=A9 b=2Ac=3Ad=3De"; got.Tags["Job"] != want {
		t.Errorf("tag Job %s, want %s", got.Tags["Job"], want)
	}
	escaped := strings.ReplaceAll(s.Who.Workload.Ref, "/", "=2F")
	if want := "sha256@" + hash(escaped); got.SourceIdentity != want {
		t.Errorf("source identity %s, want %s", got.SourceIdentity, want)
	}
}

func TestAWSNotApplicable(t *testing.T) {
	lab := newLab(t)
	short := aSession()
	short.Who.Workload.Job = "7"
	for name, c := range map[string]mint.Config{
		"subject":             lab.web(func(c *mint.Config) { c.Subject = "{environment}" }),
		"session tag":         lab.web(func(c *mint.Config) { c.SessionTags = map[string]string{"e": "{environment}"} }),
		"source identity":     lab.own(func(c *mint.Config) { c.SourceIdentity = "{environment}" }),
		"source too short":    lab.own(func(c *mint.Config) { c.SourceIdentity = "{job}" }),
		"subject is too long": lab.web(func(c *mint.Config) { c.Subject = "{job}:" + strings.Repeat("x", 254) }),
	} {
		if _, _, err := lab.mint(t, c, short); !errors.Is(err, broker.ErrNotApplicable) {
			t.Errorf("%s: Mint = %v, want ErrNotApplicable", name, err)
		}
	}
	if n := lab.sts.Requests(); n != 0 {
		t.Errorf("sts was called %d times", n)
	}
}

// A session must fit into its lease, so one that could not is not asked for.
func TestAWSSessionFitsItsLease(t *testing.T) {
	lab := newLab(t)
	target := mustNew(t, lab.web(func(*mint.Config) {}), lab.deps())
	if target.MinTTL != 15*time.Minute || target.Slack < time.Minute {
		t.Errorf("target %+v", target)
	}
	tests := []struct {
		name       string
		ttl, left  time.Duration
		atLeast    time.Duration // of the session asked for; 0: refused
		atMost     time.Duration
		wantIssued int
	}{
		{"the whole ttl", 15 * time.Minute, 16 * time.Minute, 15 * time.Minute, 15 * time.Minute, 1},
		{"the rest before max_ttl", time.Hour, 20 * time.Minute, 19 * time.Minute, 20 * time.Minute, 2},
		{"no room for the call", 15 * time.Minute, 15 * time.Minute, 0, 0, 2},
		{"a short ttl", 5 * time.Minute, time.Hour, 0, 0, 2},
		{"half a day and a second", 12*time.Hour + time.Second, 13 * time.Hour, 0, 0, 2},
		{"an ended lease", time.Hour, -time.Second, 0, 0, 2},
	}
	for _, tt := range tests {
		l := aLease("deploy", tt.ttl, target)
		l.Expires = time.Now().Add(tt.left)
		cred, err := target.Minter.Mint(t.Context(), aSession(), l)
		issued := lab.sts.Issued()
		if len(issued) != tt.wantIssued {
			t.Fatalf("%s: %d sessions issued, want %d (%v)", tt.name, len(issued), tt.wantIssued, err)
		}
		if tt.atLeast == 0 {
			if !errors.Is(err, broker.ErrLimit) || cred != nil {
				t.Errorf("%s: Mint = %v, want ErrLimit", tt.name, err)
			}
			continue
		}
		if got := issued[len(issued)-1].Duration; err != nil || got < tt.atLeast || got > tt.atMost || cred.Expires.After(l.Expires) {
			t.Errorf("%s: a session of %s, %v", tt.name, got, err)
		}
	}
}

// Each way in which the role's owner, the clock or the service says no.
func TestAWSRefusals(t *testing.T) {
	lab := newLab(t)
	bare := "arn:aws:iam::111122223333:role/bare"
	tests := []struct {
		name   string
		config mint.Config
		code   string
	}{
		{"another subject", lab.web(func(c *mint.Config) { c.Subject = "credential:other" }), "AccessDenied (HTTP 403"},
		{"another credential", lab.web(func(c *mint.Config) { c.Name = "other" }), "AccessDenied"},
		{"another audience", lab.web(func(c *mint.Config) { c.Audience = "other" }), "AccessDenied"},
		{"an unknown audience", lab.web(func(c *mint.Config) { c.Audience = "third" }), "InvalidIdentityToken (HTTP 400"},
		{"no such role", lab.web(func(c *mint.Config) { c.RoleARN += "x" }), "AccessDenied"},
		{"tags not allowed", lab.web(func(c *mint.Config) { c.RoleARN, c.SessionTags = bare, map[string]string{"a": "b"} }), "AccessDenied"},
		{"source identity not allowed", lab.web(func(c *mint.Config) { c.RoleARN, c.SourceIdentity = bare, "abc" }), "AccessDenied"},
		{"too much to pack", lab.web(func(c *mint.Config) { c.SessionTags = fatTags() }), "PackedPolicyTooLarge"},
		{"no external id", lab.own(func(c *mint.Config) { c.ExternalID = "" }), "AccessDenied"},
		{"another external id", lab.own(func(c *mint.Config) { c.ExternalID = "brevet-2" }), "AccessDenied"},
		{"tags not allowed to a user", lab.own(func(c *mint.Config) { c.RoleARN, c.SessionTags = bare, map[string]string{"a": "b"} }), "AccessDenied"},
	}
	for _, tt := range tests {
		_, _, err := lab.mint(t, tt.config, aSession())
		if !errors.Is(err, broker.ErrTarget) || errors.Is(err, broker.ErrUnavailable) || !strings.Contains(err.Error(), tt.code) {
			t.Errorf("%s: Mint = %v, want ErrTarget with %s", tt.name, err, tt.code)
		} else if !strings.Contains(err.Error(), `request id "`) || strings.Contains(err.Error(), `request id ""`) {
			t.Errorf("%s: %v does not name the request", tt.name, err)
		}
	}
	if n := len(lab.sts.Issued()); n != 0 {
		t.Errorf("%d sessions were issued", n)
	}
}

func fatTags() map[string]string {
	tags := map[string]string{}
	for _, key := range strings.Split("abcdefghijklmnopqrst", "") {
		tags[key] = strings.Repeat("x", 250)
	}
	return tags
}

func TestAssumeRoleWithAWrongKey(t *testing.T) {
	lab := newLab(t)
	d := lab.deps()
	d.AWS = func(context.Context, string) (aws.CredentialsProvider, error) {
		return credentials.NewStaticCredentialsProvider(brokerKeyID, brokerSecret+"x", ""), nil
	}
	target := mustNew(t, lab.own(func(*mint.Config) {}), d)
	_, err := target.Minter.Mint(t.Context(), aSession(), aLease("deploy", time.Hour, target))
	if !errors.Is(err, broker.ErrTarget) || !strings.Contains(err.Error(), "SignatureDoesNotMatch") {
		t.Errorf("Mint = %v, want SignatureDoesNotMatch", err)
	}
}

// The token is worth nothing once STS cannot check it any more.
func TestWebIdentityWithBrokerOutOfReach(t *testing.T) {
	lab := newLab(t)
	lab.issuer.Close()
	_, _, err := lab.mint(t, lab.web(func(*mint.Config) {}), aSession())
	if !errors.Is(err, broker.ErrUnavailable) || !strings.Contains(err.Error(), "IDPCommunicationError") {
		t.Errorf("Mint = %v, want IDPCommunicationError, to be tried again", err)
	}
	if n := lab.sts.Requests(); n != 3 {
		t.Errorf("sts was called %d times, want 3", n)
	}
}

// The token for STS is of no use to anyone who finds it later.
func TestWebIdentityTokenIsShortLived(t *testing.T) {
	lab := newLab(t)
	if _, _, err := lab.mint(t, lab.web(func(*mint.Config) {}), aSession()); err != nil {
		t.Fatal(err)
	}
	var claims struct{ Exp, Iat int64 }
	decodePart(t, lab.tokens[0], 1, &claims)
	if d := claims.Exp - claims.Iat; d <= 0 || d > 300 {
		t.Errorf("the token lives %d s, want at most 300", d)
	}
}

func TestAWSSignerFails(t *testing.T) {
	lab := newLab(t)
	d, broken := lab.deps(), errors.New("no epoch key")
	d.Sign = func(context.Context, string, any) (string, error) { return "", broken }
	target := mustNew(t, lab.web(func(*mint.Config) {}), d)
	_, err := target.Minter.Mint(t.Context(), aSession(), aLease("deploy", time.Hour, target))
	if !errors.Is(err, broken) || lab.sts.Requests() != 0 {
		t.Errorf("Mint = %v after %d requests", err, lab.sts.Requests())
	}
}
