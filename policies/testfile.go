package policies

import (
	"fmt"
	"slices"
	"strings"

	"github.com/brevet-dev/brevet/issuers"
	"github.com/brevet-dev/brevet/issuers/presets"
	"github.com/brevet-dev/brevet/policies/strictyaml"
)

// A fileTest plays its token to all policies, as the broker would.
type fileTest struct {
	test
	issuer string
	policy *policy // that the test is about; nil: none by name
}

// A testFile is a document of a file of tests as it is written: tests is the
// name of a policy, and cases are its tests.
type testFile struct {
	Tests string     `yaml:"tests"`
	Cases []fileCase `yaml:"cases"`
}

// A testList is the other form: tests for any policies.
type testList struct {
	Tests []fileCase `yaml:"tests"`
}

type fileCase struct {
	Policy string    `yaml:"policy"` // that it is about, for its issuer and for what is said if it fails
	Issuer string    `yaml:"issuer"` // or: the issuer of the token
	Entry  testEntry `yaml:",inline"`
}

// compileTests compiles the documents of files that hold tests.
func (l *loader) compileTests(list []*policy) []fileTest {
	named := map[string]*policy{}
	for _, p := range list {
		named[p.name] = p
	}
	var tests []fileTest
	for _, s := range l.tests {
		t := testReader{reader: reader{loader: l, doc: s.doc, folder: s.folder}, policies: named}
		tests = append(tests, t.read()...)
		l.add(t.decoded.And(t.problems.Limit())...)
	}
	return tests
}

// A testReader compiles one document of tests.
type testReader struct {
	reader
	policies map[string]*policy // by name
	decoded  strictyaml.Problems
}

func (t *testReader) read() []fileTest {
	var in testFile
	at := strictyaml.Path{"cases"}
	if t.doc.Has(strictyaml.Path{"tests", 0}) {
		var list testList
		t.decoded, at = t.doc.Decode(&list), strictyaml.Path{"tests"}
		in.Cases = list.Tests
	} else {
		t.decoded = t.doc.Decode(&in)
	}
	if len(in.Cases) == 0 {
		t.fail(nil, "there are no tests: tests is the name of a policy, with its cases, or a list of tests")
	}
	if !t.most(at, len(in.Cases), maxTests) {
		return nil
	}
	var tests []fileTest
	for i := range in.Cases {
		c := &in.Cases[i]
		if c.Policy == "" {
			c.Policy = in.Tests
		}
		if made, ok := t.fileTest(at.With(i), c); ok {
			tests = append(tests, made)
		}
	}
	return tests
}

// fileTest compiles one test.
func (t *testReader) fileTest(path strictyaml.Path, entry *fileCase) (fileTest, bool) {
	made := fileTest{issuer: entry.Issuer}
	if entry.Policy != "" || entry.Issuer == "" {
		if made.policy = t.about(path, entry); made.policy == nil {
			return made, false
		}
		made.issuer = made.policy.issuer
	}
	p := t.loader.options.Issuers[made.issuer]
	if p == nil {
		t.fail(path.With("issuer"), "issuer %q is not configured%s", made.issuer, meant(made.issuer, t.loader.options.Issuers))
		return made, false
	}
	t.issuer = made.issuer
	made.test = t.test(path, &entry.Entry, p)
	return made, true
}

// about returns the policy that a test is about; nil after a problem.
func (t *testReader) about(path strictyaml.Path, entry *fileCase) *policy {
	at := path.With("policy")
	if !t.doc.Has(at) {
		at = strictyaml.Path{"tests"}
	}
	p := t.named(entry.Policy)
	switch {
	case entry.Policy == "":
		t.fail(path, "the test is about nothing; name a policy, or the issuer of the token")
	case p == nil && t.policies[entry.Policy] != nil:
		t.fail(at, "policy %s is none of tenant %s, whose tests may name its own only: that is for the tests of its own folder, or of the root", entry.Policy, tenantOf(t.folder))
	case p == nil:
		t.fail(at, "there is no policy %q%s", entry.Policy,
			strictyaml.DidYouMean(entry.Policy, t.own()))
	case entry.Issuer != "" && entry.Issuer != p.issuer:
		t.fail(path.With("issuer"), "policy %s is for issuer %q; leave issuer out", p.name, p.issuer)
	}
	return p
}

// named returns the policy of that name, nil if there is none that the file may
// name: of a tenant's only the tenant's, with or without its name before it. Else
// one tenant's test would keep another from removing a policy. Files of the
// root name all.
func (t *testReader) named(name string) *policy {
	if p := t.policies[fullName(t.folder, name)]; p != nil {
		return p
	}
	if p := t.policies[name]; p != nil && t.mayName(p) {
		return p
	}
	return nil
}

func (t *testReader) mayName(p *policy) bool {
	tenant := tenantOf(t.folder)
	return tenant == "" || tenant == p.tenant
}

// own returns the names of the policies that the file may name.
func (t *testReader) own() []string {
	var names []string
	for name, p := range t.policies {
		if t.mayName(p) {
			names = append(names, name, strings.TrimPrefix(name, tenantOf(t.folder)+"/"))
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// about names the policy that the test is about.
func (t *fileTest) about() string {
	if t.policy == nil {
		return ""
	}
	return t.policy.name
}

func (t *fileTest) identity() *issuers.Identity {
	return &issuers.Identity{Issuer: t.issuer, Claims: t.claims}
}

// run returns what is wrong with the decisions of s, or "".
func (t *fileTest) run(s *Set) string {
	return t.compare(func(credential string) string {
		_, err := s.Decide(t.identity(), credential)
		if err == nil {
			return ""
		}
		if t.policy != nil && t.policy.grant(credential) != nil {
			if why := t.policy.fullWhy(t.claims); why != "" {
				return fmt.Sprintf("policy %s: %s", t.policy.name, why)
			}
		}
		return strings.TrimPrefix(err.Error(), ErrNoGrant.Error()+": ")
	})
}

// baseFixture is the name of a preset's example that is no variant: the job
// that deploys.
const baseFixture = "deploy"

// Fixtures returns the names of the example tokens of a preset, deploy first.
func Fixtures(p *presets.Preset) []string {
	if _, err := presets.Example(p.Name, ""); err != nil {
		return nil // the configuration declares its claims
	}
	variants := slices.DeleteFunc(presets.Variants(p.Name), func(v string) bool { return v == baseFixture })
	return append([]string{baseFixture}, variants...)
}

// Fixture returns the claims of one of them that p declares.
func Fixture(p *presets.Preset, name string) (map[string]any, error) {
	variant := name
	if name == baseFixture {
		variant = ""
	}
	raw, err := presets.Example(p.Name, variant)
	if err != nil {
		return nil, err
	}
	claims, _, err := Claims(p, raw)
	return claims, err
}
