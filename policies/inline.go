package policies

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/brevet-dev/brevet/policies/strictyaml"
)

// A TestResult is the outcome of one test that stands in a policy.
type TestResult struct {
	Policy  string
	Name    string // the test's
	Pos     string // "file:line" of the test
	Passed  bool
	Message string // what was wrong; "" if it passed
}

// Test runs the tests of all policies, in the order of files and lines. Each
// runs its own policy only, as if it were in enforce mode, so that a policy can
// be tested while it is still in shadow mode.
func (s *Set) Test() []TestResult {
	if s == nil {
		return nil
	}
	var results []TestResult
	for _, p := range s.policies {
		for _, t := range p.tests {
			message := t.run(p)
			results = append(results, TestResult{p.name, t.name, t.place, message == "", message})
		}
	}
	return results
}

// A test plays one token to one policy.
type test struct {
	name, place string
	claims      map[string]any
	allow, deny []string
}

// run returns what is wrong, or "".
func (t *test) run(p *policy) string {
	why := p.why(t.claims)
	var wrong []string
	if why != "" {
		for _, credential := range t.allow {
			wrong = append(wrong, fmt.Sprintf("%s is not granted: %s", credential, why))
		}
		return strings.Join(wrong, "; ")
	}
	for _, credential := range t.deny {
		if p.grant(credential) != nil {
			wrong = append(wrong, credential+" is granted")
		}
	}
	return strings.Join(wrong, "; ")
}

// why says what first kept p from granting, or "" if nothing did: the verdict
// of [Decision.consider] in words.
func (p *policy) why(claims map[string]any) string {
	for _, c := range p.match {
		if !c.holds(claims) {
			return fmt.Sprintf("claim %s is %s, match wants %s", c.claim, said(claims, c.claim), c.wanted())
		}
	}
	if r := p.risky(claims); r != nil {
		return fmt.Sprintf("claim %s is %s, which is granted to only if match names it", r.claim, said(claims, r.claim))
	}
	if d := p.denied(claims); d != nil {
		return d.String()
	}
	if holds, err := p.when.eval(claims); err != nil {
		return fmt.Sprintf("when cannot be decided: %v", err)
	} else if !holds {
		return "when is false"
	}
	for _, d := range p.drift(claims) {
		return fmt.Sprintf("claim %s is %s, names wants %q", d.Claim, said(claims, d.Claim), d.Want)
	}
	return ""
}

func said(claims map[string]any, claim string) string {
	v, ok := claims[claim]
	if !ok {
		return "absent"
	}
	return quoted(v)
}

func quoted(v any) string {
	if s, ok := v.(string); ok {
		return fmt.Sprintf("%q", s)
	}
	return fmt.Sprint(v)
}

func (c *compiler) tests(p *policy) []test {
	var list []test
	if !c.most(strictyaml.Path{"tests"}, len(c.in.Tests), maxTests) {
		return nil
	}
	for i, entry := range c.in.Tests {
		path := strictyaml.Path{"tests", i}
		if entry.Name == "" {
			c.fail(path.With("name"), "the test has no name")
		}
		if len(entry.Allow)+len(entry.Deny) == 0 {
			c.fail(path, "the test expects nothing; give it a credential to allow or to deny")
		}
		c.expected(path, entry, p)
		list = append(list, test{
			name:   entry.Name,
			place:  c.place(path),
			claims: c.testClaims(path, entry, p),
			allow:  entry.Allow,
			deny:   entry.Deny,
		})
	}
	return list
}

// expected checks the credentials that a test names: one that the policy does
// not grant can never be allowed, and a misspelt one would be denied for ever.
func (c *compiler) expected(path strictyaml.Path, entry testEntry, p *policy) {
	for i, name := range entry.Allow {
		at := path.With("allow", i)
		switch {
		case !c.credential(at, name):
		case p.grant(name) == nil:
			c.fail(at, "the policy does not grant %q", name)
		case slices.Contains(entry.Deny, name):
			c.fail(at, "%q is in allow and in deny", name)
		}
	}
	for i, name := range entry.Deny {
		c.credential(path.With("deny", i), name)
	}
}

func (c *compiler) testClaims(path strictyaml.Path, entry testEntry, p *policy) map[string]any {
	claims := map[string]any{}
	for _, name := range slices.Sorted(maps.Keys(entry.Claims)) {
		at := path.With("claims", name)
		decl, ok := c.claim(p.preset, at)
		if !ok {
			continue
		}
		if v, ok := c.typed(at, decl, entry.Claims[name]); ok {
			claims[name] = v
		}
	}
	return claims
}
