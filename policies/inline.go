package policies

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/brevet-dev/brevet/issuers/presets"
	"github.com/brevet-dev/brevet/policies/strictyaml"
)

// A TestResult is the outcome of one test.
type TestResult struct {
	Policy  string // that the test is about; "" for one of a file that names none
	Name    string // the test's
	Pos     string // "file:line" of the test
	Passed  bool
	Message string // what was wrong; "" if it passed
}

// Test runs the tests of all policies, in the order of files and lines, and
// then those of files that hold tests. One that stands in a policy runs its own
// policy only, as if it were in enforce mode and without its end, so that a
// policy can be tested while it is still in shadow mode. One of a file gets the
// answers of [Set.Decide].
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
	for i := range s.cases {
		c := &s.cases[i]
		message := c.run(s)
		results = append(results, TestResult{c.about(), c.name, c.place, message == "", message})
	}
	return results
}

// A test plays one token.
type test struct {
	name, place string
	claims      map[string]any
	allow, deny []string
}

// run returns what is wrong with the answer of the one policy p, or "".
func (t *test) run(p *policy) string {
	why := p.fullWhy(t.claims)
	return t.compare(func(credential string) string {
		if why == "" && p.grant(credential) == nil {
			return "no grant"
		}
		return why
	})
}

// compare returns what is wrong with answers, or "". refused says why a
// credential is not granted; "" if it is.
func (t *test) compare(refused func(credential string) string) string {
	var wrong []string
	for _, credential := range t.allow {
		if why := refused(credential); why != "" {
			wrong = append(wrong, fmt.Sprintf("%s is not granted: %s", credential, why))
		}
	}
	for _, credential := range t.deny {
		if refused(credential) == "" {
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

// fullWhy is [policy.why] with the parts of a condition that do not hold. It
// compiles the condition once more, which a refusal must not wait for.
func (p *policy) fullWhy(claims map[string]any) string {
	why := p.why(claims)
	if !strings.HasPrefix(why, PartWhen+" ") {
		return why
	}
	return why + newJudge().whenPart(p, claims).failures()
}

func said(claims map[string]any, claim string) string {
	v, ok := claims[claim]
	if !ok {
		return "absent"
	}
	return quoted(v)
}

func quoted(v any) string {
	switch v.(type) {
	case string, []string:
		return fmt.Sprintf("%q", v)
	}
	return fmt.Sprint(v)
}

// A testEntry is a test as it is written.
type testEntry struct {
	Name    string         `yaml:"name"`
	Claims  map[string]any `yaml:"claims"`  // all claims of the token that the test plays
	Fixture string         `yaml:"fixture"` // or: those of a token that the platform's preset has as an example,
	With    map[string]any `yaml:"with"`    // with other values,
	Without []string       `yaml:"without"` // and without these
	Allow   []string       `yaml:"allow"`   // credentials that must be granted to it
	Deny    []string       `yaml:"deny"`    // credentials that must not
}

func (c *compiler) tests(p *policy) []test {
	var list []test
	if !c.most(strictyaml.Path{"tests"}, len(c.in.Tests), maxTests) {
		return nil
	}
	for i := range c.in.Tests {
		path, entry := strictyaml.Path{"tests", i}, &c.in.Tests[i]
		list = append(list, c.test(path, entry, p.preset))
		for j, name := range entry.Allow {
			if p.grant(name) == nil && c.loader.knows(name) {
				c.fail(path.With("allow", j), "the policy does not grant %q", name)
			}
		}
	}
	return list
}

// test compiles one test.
func (r *reader) test(path strictyaml.Path, entry *testEntry, p *presets.Preset) test {
	if entry.Name == "" {
		r.fail(path.With("name"), "the test has no name")
	}
	if len(entry.Allow)+len(entry.Deny) == 0 {
		r.fail(path, "the test expects nothing; give it a credential to allow or to deny")
	}
	r.expected(path, entry)
	return test{
		name: entry.Name, place: r.place(path), claims: r.token(path, entry, p),
		allow: entry.Allow, deny: entry.Deny,
	}
}

// expected checks the credentials that a test names: a misspelt one would be
// denied for ever.
func (r *reader) expected(path strictyaml.Path, entry *testEntry) {
	for i, name := range entry.Allow {
		at := path.With("allow", i)
		if r.credential(at, name) && slices.Contains(entry.Deny, name) {
			r.fail(at, "%q is in allow and in deny", name)
		}
	}
	for i, name := range entry.Deny {
		r.credential(path.With("deny", i), name)
	}
}

// knows reports whether there is a credential of that name.
func (l *loader) knows(credential string) bool {
	_, ok := l.options.Credentials[credential]
	return ok
}

// token returns the claims that a test plays: those it lists, or those of a
// fixture with its changes.
func (r *reader) token(path strictyaml.Path, entry *testEntry, p *presets.Preset) map[string]any {
	switch at := path.With("fixture"); {
	case !r.doc.Has(at):
		r.onlyWithFixture(path)
		return r.claims(path.With("claims"), entry.Claims, p)
	case r.doc.Has(path.With("claims")):
		r.fail(at, "give claims or a fixture; with changes claims of a fixture")
	}
	claims := r.fixture(path.With("fixture"), entry.Fixture, p)
	if claims == nil {
		return nil
	}
	maps.Copy(claims, r.claims(path.With("with"), entry.With, p))
	r.remove(claims, path.With("without"), entry, p)
	return claims
}

func (r *reader) onlyWithFixture(path strictyaml.Path) {
	for _, key := range []string{"with", "without"} {
		if r.doc.Has(path.With(key)) {
			r.failKey(path.With(key), "%s changes a fixture, and there is none", key)
		}
	}
}

// fixture returns the claims of a preset's example, nil if there is none of
// that name.
func (r *reader) fixture(path strictyaml.Path, name string, p *presets.Preset) map[string]any {
	key := r.issuer + " " + name
	if claims, ok := r.loader.fixtures[key]; ok {
		return maps.Clone(claims)
	}
	known := Fixtures(p)
	if !slices.Contains(known, name) {
		r.fail(path, "preset %s has no fixture %q%s; it has: %s", p.Name, name,
			strictyaml.DidYouMean(name, known), cmp.Or(strings.Join(known, ", "), "none"))
		return nil
	}
	claims, err := Fixture(p, name)
	if err != nil {
		r.fail(path, "reading the fixture %s of preset %s: %v", name, p.Name, err)
		return nil
	}
	r.loader.fixtures[key] = claims
	return maps.Clone(claims)
}

// remove takes away the claims that a test wants absent.
func (r *reader) remove(claims map[string]any, path strictyaml.Path, entry *testEntry, p *presets.Preset) {
	for i, name := range entry.Without {
		at := path.With(i)
		_, declared := p.Claims[name]
		_, changed := entry.With[name]
		switch {
		case !declared:
			r.fail(at, "tokens of issuer %q have no claim %q%s", r.issuer, name, claimMeant(name, p))
		case changed:
			r.fail(at, "%q is in with and in without", name)
		}
		delete(claims, name)
	}
}

// claims checks claims that a test gives.
func (r *reader) claims(path strictyaml.Path, in map[string]any, p *presets.Preset) map[string]any {
	claims := map[string]any{}
	for _, name := range slices.Sorted(maps.Keys(in)) {
		at := path.With(name)
		decl, ok := r.claim(p, at)
		if !ok {
			continue
		}
		if v, ok := r.typed(at, decl, in[name]); ok {
			claims[name] = v
		}
	}
	return claims
}
