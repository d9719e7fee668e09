package mint_test

import (
	"encoding/json"
	"errors"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/brevet-dev/brevet/broker"
	"github.com/brevet-dev/brevet/broker/mint"
)

// subject mints a jwt with a subject template and returns its sub.
func subject(t testing.TB, template string, s *broker.Session) (string, error) {
	t.Helper()
	target, err := mint.New(jwtConfig(func(c *mint.Config) { c.Subject = template }), deps())
	if err != nil {
		return "", err
	}
	cred, err := target.Minter.Mint(t.Context(), s, aLease("registry", time.Minute, target))
	if err != nil {
		if cred != nil {
			t.Errorf("Mint returned a credential and the error %v", err)
		}
		return "", err
	}
	var claims struct {
		Subject string `json:"sub"`
	}
	if err := json.Unmarshal([]byte(cred.Values["token"].Reveal()), &claims); err != nil {
		t.Fatal(err)
	}
	return claims.Subject, nil
}

func TestTemplate(t *testing.T) {
	tests := []struct{ template, want string }{
		{"", "issuer:github:project:456"},
		{"constant", "constant"},
		{"{project}", "acme/shop"},
		{"repo:{project}:ref:{ref}", "repo:acme/shop:ref:refs/heads/main"},
		{"{{{issuer}}}", "{github}"},
		{"a{{b}}c", "a{b}c"},
		{"{claims.repository}:{claims.run_number}:{claims.ref_protected}", "acme/shop:7:true"},
		{"{workload_issuer}", "https%3A//token.actions.githubusercontent.com"},
		{"{credential}:{policy}:{lease}", "registry:shop:l17-nbswy3dpeb3w64tmmqqq2lkmfrggzdfm"},
		{"{owner_id}:{owner}:{run}:{attempt}:{job}", "123:acme:9001:1:77"},
		{"{actor}:{actor_id}:{trigger}", "mona:12:push"},
		{"{workload_subject}", "repo%3Aacme/shop%3Aref%3Arefs/heads/main"},
	}
	for _, tt := range tests {
		if got, err := subject(t, tt.template, aSession()); got != tt.want || err != nil {
			t.Errorf("subject(%s) = %q, %v, want %q", tt.template, got, err, tt.want)
		}
	}
}

func TestTemplateRefusedAtLoad(t *testing.T) {
	tests := []struct{ template, want string }{
		{"{", "'{' without '}'"},
		{"{issuer", "'{' without '}'"},
		{"issuer}", "'}' without '{'"},
		{"{}", "unknown placeholder {}"},
		{"{ issuer }", `did you mean "issuer"?`},
		{"{Issuer}", `did you mean "issuer"?`},
		{"{projectid}", `did you mean "project_id"?`},
		{"{claims.}", "unknown placeholder"},
		{"{claims.nothing}", "no configured issuer declares"},
		{"{owner}{project}", "before {project} there must be one of"},
		{"{owner}/{project}", "before {project} there must be one of"},
		{"a b", "the character ' '"},
		{"é", "the character 'é'"},
		{"a\nb", "the character '\\n'"},
	}
	for _, tt := range tests {
		_, err := subject(t, tt.template, aSession())
		if got := fieldErrors(err); len(got) != 1 || got[0].Field != "subject" || !strings.Contains(got[0].Message, tt.want) {
			t.Errorf("subject(%s) = %v, want …%s…", tt.template, err, tt.want)
		}
	}
}

// A workload that lacks a value gets nothing: with an empty default two
// different workloads would share a subject.
func TestTemplateNotApplicable(t *testing.T) {
	tests := []struct{ template, want string }{
		{"{project_id}:{environment}", "it needs {environment}"},
		{"{claims.base_ref}", "it needs {claims.base_ref}"},
		{"{claims.teams}", "it needs {claims.teams}"},
		{"{project}:" + strings.Repeat("x", 255), "longer than 255"},
	}
	for _, tt := range tests {
		_, err := subject(t, tt.template, aSession())
		if !errors.Is(err, broker.ErrNotApplicable) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("subject(%s) = %v, want ErrNotApplicable with %q", tt.template, err, tt.want)
		}
	}
}

// Claims come back from Redis as json.Number where they were int64.
func TestTemplateWithRecalledNumber(t *testing.T) {
	s := aSession()
	s.Who.Claims["run_number"] = json.Number("7")
	if got, err := subject(t, "{claims.run_number}", s); got != "7" || err != nil {
		t.Errorf("subject = %q, %v, want 7", got, err)
	}
	for _, v := range []any{json.Number("7.5"), 7.0, nil, map[string]any{}} {
		s.Who.Claims["run_number"] = v
		if got, err := subject(t, "{claims.run_number}", s); !errors.Is(err, broker.ErrNotApplicable) {
			t.Errorf("subject with %T = %q, %v, want ErrNotApplicable", v, got, err)
		}
	}
}

func FuzzTemplate(f *testing.F) {
	for _, s := range []string{"", "a", "{project}", "{{}}", "{claims.repository}:{ref}", "{", "}", "{a", "{{{issuer}", "\xff{issuer}", "{issuer}:{issuer}"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, template string) {
		got, err := subject(t, template, aSession())
		if err != nil {
			if got != "" {
				t.Errorf("subject(%q) = %q with the error %v", template, got, err)
			}
			return
		}
		if got == "" || len(got) > 255 || strings.ContainsFunc(got, func(r rune) bool { return r <= ' ' || r > '~' }) {
			t.Errorf("subject(%q) = %q", template, got)
		}
	})
}

// Whatever a job calls its branch, the subject can be taken apart into exactly
// the values that went into it.
func FuzzTemplateValues(f *testing.F) {
	for _, s := range []string{"main", "a:b", "a%3Ab", "é", "\x00", " ", "a/b{ref}", "\xff", "::", "%"} {
		f.Add(s, "x:"+s)
	}
	f.Fuzz(func(t *testing.T, project, ref string) {
		s := aSession()
		s.Who.Workload.Project, s.Who.Workload.Ref = project, ref
		got, err := subject(t, "p:{project}:r:{ref}", s)
		if err != nil {
			return
		}
		parts := strings.Split(got, ":")
		if len(parts) != 4 || parts[0] != "p" || parts[2] != "r" || unescape(t, parts[1]) != project || unescape(t, parts[3]) != ref {
			t.Errorf("project %q and ref %q became %q", project, ref, got)
		}
	})
}

func unescape(t *testing.T, s string) string {
	out, err := url.PathUnescape(s)
	if err != nil {
		t.Errorf("PathUnescape(%q) = %v", s, err)
	}
	return out
}
