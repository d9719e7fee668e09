package mint_test

import (
	"fmt"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/broker/mint"
)

const roleARN = "arn:aws:iam::111122223333:role/deploy"

func secret(s string) api.Secret { return api.NewSecret(s) }

func jwtConfig(change func(*mint.Config)) mint.Config {
	c := mint.Config{Name: "registry", Kind: "jwt", Audience: "https://registry.example.com"}
	change(&c)
	return c
}

func awsConfig(change func(*mint.Config)) mint.Config {
	c := mint.Config{Name: "deploy", Kind: "aws-role", RoleARN: roleARN, Region: "eu-west-1"}
	change(&c)
	return c
}

func pgConfig(change func(*mint.Config)) mint.Config {
	c := mint.Config{Name: "db", Kind: "postgres", URL: "postgres://brevet@db.example.com/app", PasswordFile: "password", Roles: []string{"app_readonly"}}
	change(&c)
	return c
}

func manyTags(n int) map[string]string {
	tags := map[string]string{}
	for i := range n {
		tags[fmt.Sprintf("tag%d", i)] = "x"
	}
	return tags
}

func TestValidate(t *testing.T) {
	tests := []struct {
		name   string
		config mint.Config
		want   []string // field: part of the message
	}{
		{"jwt", jwtConfig(func(*mint.Config) {}), nil},
		{"aws-role", awsConfig(func(*mint.Config) {}), nil},
		{"a name for people", jwtConfig(func(c *mint.Config) { c.Name = "Registry One" }), []string{"name: lower-case"}},
		{"no name", jwtConfig(func(c *mint.Config) { c.Name = "" }), []string{"name: must be"}},
		{"a kind misspelt", mint.Config{Name: "a", Kind: "aws_role"}, []string{"kind: did you mean \"aws-role\"?"}},
		{"a data key that is too young", mint.Config{Name: "a", Kind: "data-key", MaxAge: time.Second}, []string{"max_age: max_age 1s must be within"}},
		{"a data key that is too old", mint.Config{Name: "a", Kind: "data-key", MaxAge: 87601 * time.Hour}, []string{"max_age: max_age"}},
		{"a shredded data key with an age", mint.Config{Name: "a", Kind: "data-key", Shred: true, MaxAge: time.Hour}, []string{"max_age: max_age and shred do not go together"}},
		{"a data key with an audience", mint.Config{Name: "a", Kind: "data-key", Audience: "x"}, []string{"audience: audience is not a field of kind data-key"}},
		{"a jwt that is shredded", mint.Config{Name: "a", Kind: "jwt", Audience: "x", Shred: true}, []string{"shred: shred is not a field of kind jwt"}},
		{"postgres", pgConfig(func(*mint.Config) {}), nil},
		{"postgres without anything", mint.Config{Name: "db", Kind: "postgres"}, []string{"url: missing", "password_file: missing", "roles: missing"}},
		{"postgres on loopback, in clear", pgConfig(func(c *mint.Config) { c.URL = "postgresql://brevet@[::1]:5433/app?sslmode=disable" }), nil},
		{"postgres in clear", pgConfig(func(c *mint.Config) { c.URL += "?sslmode=disable" }), []string{"url: loopback only"}},
		{"postgres with any certificate", pgConfig(func(c *mint.Config) { c.URL += "?sslmode=require" }), []string{"url: does not know whom"}},
		{"postgres with options", pgConfig(func(c *mint.Config) { c.URL += "?options=-csuperuser" }), []string{"url: must be"}},
		{"postgres with two hosts", pgConfig(func(c *mint.Config) { c.URL = "postgres://brevet@a,b/app" }), []string{"url: must be"}},
		{"postgres with a password", pgConfig(func(c *mint.Config) { c.URL = "postgres://brevet:x@db.example.com/app" }), []string{"url: holds a password"}},
		{"postgres with an empty password", pgConfig(func(c *mint.Config) { c.URL = "postgres://brevet:@db.example.com/app" }), []string{"url: holds a password"}},
		{"postgres without a user", pgConfig(func(c *mint.Config) { c.URL = "postgres://db.example.com/app" }), []string{"url: must be"}},
		{"postgres without a database", pgConfig(func(c *mint.Config) { c.URL = "postgres://brevet@db.example.com" }), []string{"url: must be"}},
		{"postgres on port 0", pgConfig(func(c *mint.Config) { c.URL = "postgres://brevet@db.example.com:0/app" }), []string{"url: must be"}},
		{"another database", pgConfig(func(c *mint.Config) { c.URL = "mysql://brevet@db.example.com/app" }), []string{"url: must be"}},
		{"the broker's own role", pgConfig(func(c *mint.Config) { c.Roles = []string{"brevet"} }), []string{"roles: broker's own role"}},
		{"an heir who may do more", pgConfig(func(c *mint.Config) { c.Owner = "app_owner" }), []string{"owner: none of roles"}},
		{"the broker's own role as heir", pgConfig(func(c *mint.Config) { c.Owner, c.Roles = "brevet", []string{"brevet"} }), []string{"owner: broker's own role", "roles: broker's own role"}},
		{"the server's shell", pgConfig(func(c *mint.Config) { c.Roles = []string{"pg_execute_server_program"} }), []string{"roles: the shell of"}},
		{"roles twice, and none", pgConfig(func(c *mint.Config) { c.Roles = []string{"a", "a", "", "a\x00b"} }), []string{"roles: twice", "roles: \"\" is not", "roles: not the name"}},
		{"a role whose name is cut off", pgConfig(func(c *mint.Config) { c.Roles, c.Owner = []string{strings.Repeat("a", 64)}, strings.Repeat("b", 64) }), []string{"owner: not the name", "roles: not the name"}},
		{"connections without end", pgConfig(func(c *mint.Config) { c.ConnectionLimit = -1 }), []string{"connection_limit: within 1 and 1000"}},
		{"timeouts that are no milliseconds", pgConfig(func(c *mint.Config) { c.StatementTimeout, c.LockTimeout = 1, -1 }), []string{"statement_timeout: whole", "lock_timeout: whole"}},
		{"a CA that is not there", pgConfig(func(c *mint.Config) { c.CAFile = "testdata/none.pem" }), []string{"ca_file: cannot be read"}},
		{"a CA that is none", pgConfig(func(c *mint.Config) { c.CAFile = "config_test.go" }), []string{"ca_file: no certificate"}},
		{"postgres for two days", pgConfig(func(c *mint.Config) { c.MaxTTL = 48 * time.Hour }), []string{"max_ttl: within 1s and 12h"}},
		{"postgres with a role_arn", pgConfig(func(c *mint.Config) { c.RoleARN = roleARN }), []string{"role_arn: not a field of kind postgres"}},
		{"an unknown kind", mint.Config{Name: "a", Kind: "database"}, []string{"kind: there are jwt, aws-role, data-key"}},
		{"audience with a space", jwtConfig(func(c *mint.Config) { c.Audience = "a b" }), []string{"audience: printable"}},
		{"jwt for two days", jwtConfig(func(c *mint.Config) { c.MaxTTL = 48 * time.Hour }), []string{"max_ttl: within 1s and 12h"}},
		{"another class", jwtConfig(func(c *mint.Config) { c.Class = "raed" }), []string{"class: not \"raed\"; did you mean \"read\"?"}},
		{"negative ttl", jwtConfig(func(c *mint.Config) { c.MaxTTL = -1 }), []string{"max_ttl: within"}},
		{"aws for five minutes", awsConfig(func(c *mint.Config) { c.MaxTTL = 5 * time.Minute }), []string{"max_ttl: within 15m0s and 12h"}},
		{"env of an unknown value", jwtConfig(func(c *mint.Config) { c.Env = map[string]string{"tokn": "T"} }), []string{"env: did you mean \"token\"?"}},
		{"env with a bad name", jwtConfig(func(c *mint.Config) { c.Env = map[string]string{"token": "A-B"} }), []string{"env: not the name"}},
		{"env that takes a default's place", awsConfig(func(c *mint.Config) { c.Env = map[string]string{"region": "AWS_SESSION_TOKEN"} }), []string{"env: cannot hold both session_token and region"}},
		{"env twice", awsConfig(func(c *mint.Config) { c.Env = map[string]string{"region": "X", "session_token": "X"} }), []string{"env: cannot hold both"}},
		{"env swapped", awsConfig(func(c *mint.Config) {
			c.Env = map[string]string{"access_key_id": "AWS_SECRET_ACCESS_KEY", "secret_access_key": "AWS_ACCESS_KEY_ID"}
		}), nil},
		{"a claim of the broker's", jwtConfig(func(c *mint.Config) { c.Claims = map[string]string{"exp": "1", "project_id": "7", "fine": "x"} }), []string{"claims: exp is set", "claims: project_id is set"}},
		{"a claim's name", jwtConfig(func(c *mint.Config) { c.Claims = map[string]string{"a b": "1"} }), []string{"claims: must be"}},
		{"two bad templates", jwtConfig(func(c *mint.Config) { c.Subject, c.Claims = "{reff}", map[string]string{"x": "{"} }), []string{"subject: did you mean \"ref\"?", "claims: x: a '{' without '}'"}},
		{"fields of another kind", jwtConfig(func(c *mint.Config) { c.RoleARN, c.Region = roleARN, "eu-west-1" }), []string{"role_arn: is not a field of kind jwt", "region: is not a field of kind jwt"}},
		{"fields of another mode", awsConfig(func(c *mint.Config) { c.ExternalID = "x1" }), []string{"external_id: is not a field of kind aws-role with mode web_identity"}},
		{"fields of the other mode", awsConfig(func(c *mint.Config) { c.Mode, c.Audience, c.Subject = "assume_role", "x", "y" }), []string{"audience: with mode assume_role", "subject: with mode assume_role"}},
		{"mode misspelt", awsConfig(func(c *mint.Config) { c.Mode = "web-identity" }), []string{"mode: did you mean \"web_identity\"?"}},
		{"no role, no region", mint.Config{Name: "deploy", Kind: "aws-role"}, []string{"role_arn: missing", "region: missing"}},
		{"a user instead of a role", awsConfig(func(c *mint.Config) { c.RoleARN = "arn:aws:iam::111122223333:user/x" }), []string{"role_arn: must look like"}},
		{"a region in capitals", awsConfig(func(c *mint.Config) { c.Region = "EU" }), []string{"region: must look like"}},
		{"a region that is a host", awsConfig(func(c *mint.Config) { c.Region = "evil.example/" }), []string{"region: must look like"}},
		{"endpoint in clear", awsConfig(func(c *mint.Config) { c.Endpoint = "http://sts.example.com" }), []string{"endpoint: must be https"}},
		{"endpoint in clear on loopback", awsConfig(func(c *mint.Config) { c.Endpoint = "http://127.0.0.1:9000" }), nil},
		{"endpoint in clear on localhost", awsConfig(func(c *mint.Config) { c.Endpoint = "http://localhost:9000" }), nil},
		{"endpoint that only looks like loopback", awsConfig(func(c *mint.Config) { c.Endpoint = "http://127.0.0.1.example.com" }), []string{"endpoint: must be https"}},
		{"endpoint with a password", awsConfig(func(c *mint.Config) { c.Endpoint = "https://a:b@sts.example.com" }), []string{"endpoint: without user"}},
		{"endpoint without scheme", awsConfig(func(c *mint.Config) { c.Endpoint = "sts.example.com" }), []string{"endpoint: must be a URL"}},
		{"a role of MinIO", awsConfig(func(c *mint.Config) {
			c.Endpoint, c.RoleARN, c.Region = "https://minio.example.com", "arn:minio:iam:::role/nOybJqMNzNmroqEKq5D0EUsRZw0", ""
		}), nil},
		{"too many tags", awsConfig(func(c *mint.Config) { c.SessionTags = manyTags(51) }), []string{"session_tags: AWS allows 50"}},
		{"tags that differ in case", awsConfig(func(c *mint.Config) { c.SessionTags = map[string]string{"Team": "a", "team": "b"} }), []string{"session_tags: Team and team"}},
		{"a tag of AWS", awsConfig(func(c *mint.Config) { c.SessionTags = map[string]string{"AWS:x": "a"} }), []string{"session_tags: keeps for itself"}},
		{"a tag that AWS cannot hold", awsConfig(func(c *mint.Config) { c.SessionTags = map[string]string{"a*": "a", "b": "a*b"} }), []string{"session_tags: the key", "session_tags: b: the character '*'"}},
		{"source identity with a colon", awsConfig(func(c *mint.Config) { c.SourceIdentity = "{owner}:{project_id}" }), []string{"source_identity: the character ':'"}},
		{"external id", awsConfig(func(c *mint.Config) { c.Mode, c.ExternalID = "assume_role", "?" }), []string{"external_id: must be"}},
		{"no such policy file", awsConfig(func(c *mint.Config) { c.SessionPolicyFile = "testdata/none.json" }), []string{"session_policy_file: reading the policy"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { checkProblems(t, tt.config.Validate(), tt.want) })
	}
}

// checkProblems compares problems with "field: part of the message".
func checkProblems(t *testing.T, got []mint.FieldError, want []string) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("Validate = %q, want %q", got, want)
	}
	for i, w := range want {
		field, part, _ := strings.Cut(w, ": ")
		if got[i].Field != field || !strings.Contains(got[i].Message, part) || !strings.Contains(got[i].Error(), field) {
			t.Errorf("problem %d is %s: %q, want %s: …%s…", i, got[i].Field, got[i].Message, field, part)
		}
	}
}

func TestSessionPolicyFile(t *testing.T) {
	long := `{"Statement":[{"Sid":"` + strings.Repeat("x", 2048) + `"}]}`
	for name, tt := range map[string]struct{ text, want string }{
		"policy":         {`{"Version":"2012-10-17","Statement":[]}`, ""},
		"not JSON":       {`Statement: all`, "must hold an IAM policy"},
		"two documents":  {`{"Statement":[]} {}`, "must hold an IAM policy"},
		"no statement":   {`{}`, "must hold an IAM policy"},
		"too long":       {long, "AWS allows 2048"},
		"far too long":   {strings.Repeat(" ", 70_000), "too large"},
		"long by spaces": {strings.Repeat(" ", 9_000) + `{"Statement":[]}`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "policy.json")
			if err := os.WriteFile(file, []byte(tt.text), 0o600); err != nil {
				t.Fatal(err)
			}
			c := awsConfig(func(c *mint.Config) { c.SessionPolicyFile = file })
			got := c.Validate()
			if tt.want == "" && got != nil || tt.want != "" && (len(got) != 1 || !strings.Contains(got[0].Message, tt.want)) {
				t.Errorf("Validate = %q, want %q", got, tt.want)
			}
		})
	}
}

// Every field that is not for all kinds must be refused for some kind, else a
// field added later would be ignored in silence where it has no meaning.
func TestEveryFieldBelongsToItsKinds(t *testing.T) {
	common := []string{"name", "kind", "class", "max_ttl", "env"}
	fields := reflect.TypeFor[mint.Config]()
	for i := range fields.NumField() {
		tag := fields.Field(i).Tag.Get("yaml")
		refused := 0
		for _, form := range []mint.Config{{Kind: "jwt"}, {Kind: "aws-role"}, {Kind: "aws-role", Mode: "assume_role"}, {Kind: "data-key"}, {Kind: "postgres"}} {
			fill(reflect.ValueOf(&form).Elem().Field(i))
			if slices.ContainsFunc(form.Validate(), func(e mint.FieldError) bool {
				return e.Field == tag && strings.Contains(e.Message, "is not a field of")
			}) {
				refused++
			}
		}
		if (refused > 0) == slices.Contains(common, tag) {
			t.Errorf("%s is refused in %d of 5 forms", tag, refused)
		}
	}
}

// fill gives a field a value, if it has none.
func fill(v reflect.Value) {
	switch {
	case !v.IsZero():
	case v.Kind() == reflect.String:
		v.SetString("x")
	case v.Kind() == reflect.Bool:
		v.SetBool(true)
	case v.CanInt():
		v.SetInt(1)
	case v.Kind() == reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
	case v.Kind() == reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
	}
}

func TestConfigFromYAML(t *testing.T) {
	const text = `
name: deploy
kind: aws-role
max_ttl: 1h
env: {region: MY_REGION}
mode: assume_role
role_arn: arn:aws:iam::111122223333:role/deploy
region: eu-west-1
endpoint: https://sts.example.com
session_tags: {Project: "{project_id}"}
source_identity: "{issuer}@{project_id}"
external_id: abc
`
	var c mint.Config
	if err := yaml.UnmarshalWithOptions([]byte(text), &c, yaml.Strict()); err != nil {
		t.Fatal(err)
	}
	if bad := c.Validate(); bad != nil {
		t.Errorf("Validate = %q", bad)
	}
	if c.Limit() != time.Hour || c.SessionTags["Project"] != "{project_id}" || c.ExternalID != "abc" {
		t.Errorf("decoded %+v", c)
	}
	if (&mint.Config{}).Limit() != mint.DefaultMaxTTL {
		t.Errorf("Limit without max_ttl = %s", (&mint.Config{}).Limit())
	}
}

// FuzzPostgresURL: whatever is accepted has no password, and no way to talk in
// clear to another machine.
func FuzzPostgresURL(f *testing.F) {
	for _, seed := range []string{
		"postgres://brevet@db.example.com/app", "postgresql://brevet@[::1]:5433/app?sslmode=disable", "postgres://brevet:x@db/app", "postgres://a@b,c/d",
		"postgres://brevet@127.0.0.1/app?sslmode=disable&host=db.example.com", "postgres://brevet@%2Ftmp/app?sslmode=disable", "postgres:brevet@db/app",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		c := pgConfig(func(c *mint.Config) { c.URL = raw })
		if c.Validate() != nil {
			return
		}
		u, err := url.Parse(raw)
		if err != nil {
			t.Fatalf("accepted %q, which is no URL", raw)
		}
		if _, has := u.User.Password(); has {
			t.Errorf("accepted %q, with a password", raw)
		}
		addr, err := netip.ParseAddr(u.Hostname())
		loopback := u.Hostname() == "localhost" || err == nil && addr.IsLoopback()
		if q := u.Query(); len(q) > 1 || len(q) == 1 && !q.Has("sslmode") || q.Get("sslmode") == "disable" && !loopback {
			t.Errorf("accepted %q", raw)
		}
	})
}

func TestNeeds(t *testing.T) {
	for _, tt := range []struct {
		config mint.Config
		want   []mint.Need
	}{
		{mint.Config{Kind: mint.KindJWT}, []mint.Need{{"subject", "issuer"}, {"subject", "project_id"}}},
		{mint.Config{Kind: mint.KindJWT, Subject: "fixed", Claims: map[string]string{"team": "{claims.team}", "bad": "{"}}, []mint.Need{{"claims.team", "claims.team"}}},
		{mint.Config{Kind: mint.KindAWSRole, SessionTags: map[string]string{"who": "{owner_id}"}, SourceIdentity: "{run}"}, []mint.Need{{"session_tags.who", "owner_id"}, {"source_identity", "run"}}},
	} {
		if got := tt.config.Needs(); !slices.Equal(got, tt.want) {
			t.Errorf("Needs of %+v = %v, want %v", tt.config, got, tt.want)
		}
	}
}
