package policies

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/brevet-dev/brevet/issuers"
	"github.com/brevet-dev/brevet/issuers/presets"
	"github.com/brevet-dev/brevet/policies/strictyaml"
)

// testSuffix is how the names of files end that hold tests, not policies.
const testSuffix = "_test.yaml"

// isTestFile reports whether the file holds tests.
func isTestFile(name string) bool { return strings.HasSuffix(name, testSuffix) }

// A Suite is all tests of a set: those that stand in its policies and those of
// files beside them. It never changes and is safe for concurrent use.
type Suite struct {
	set   *Set
	cases []fileTest
}

// A fileTest plays its token to all policies, as the broker would.
type fileTest struct {
	test
	issuer string
	policy *policy // that the test is about; nil: none by name
}

// A testFile is a file of tests as it is written: tests is the name of a
// policy, and cases are its tests.
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

// LoadTests reads the tests of s, and those in every file below dir whose name
// ends in _test.yaml. It is all or nothing, like [Load].
func LoadTests(dir string, s *Set) (*Suite, error) {
	if s == nil {
		return nil, errors.New("reading tests: there are no policies")
	}
	l := suiteLoader{
		loader: loader{dir: dir, options: Options{Issuers: s.issuers, Credentials: s.credentials}},
		suite:  &Suite{set: s}, policies: map[string]*policy{},
	}
	for _, p := range s.policies {
		l.policies[p.name] = p
	}
	fsys := os.DirFS(dir)
	for _, name := range l.find(fsys) {
		if !isTestFile(name) {
			continue
		}
		data, err := read(fsys, name)
		if err != nil {
			l.report(name, "%v", err)
			continue
		}
		l.parse(filepath.Join(dir, name), data)
	}
	if err := l.problems.Err(); err != nil {
		return nil, err
	}
	return l.suite, nil
}

// A suiteLoader gathers the tests and problems of one folder.
type suiteLoader struct {
	loader
	suite    *Suite
	policies map[string]*policy // by name
}

// parse adds the tests of one file.
func (l *suiteLoader) parse(file string, data []byte) {
	doc, problems := strictyaml.Parse(file, data)
	if doc == nil {
		l.problems = append(l.problems, problems...)
		return
	}
	var one testFile
	var list testList
	at := strictyaml.Path{"cases"}
	if doc.Has(strictyaml.Path{"tests", 0}) {
		problems, at = doc.Decode(&list), strictyaml.Path{"tests"}
		one.Cases = list.Tests
	} else {
		problems = doc.Decode(&one)
	}
	c := compiler{loader: &l.loader, doc: doc, in: &document{}}
	if len(one.Cases) == 0 {
		c.fail(nil, "the file holds no tests: tests is the name of a policy, with cases, or a list of tests")
	}
	for i := range one.Cases {
		if one.Tests != "" && one.Cases[i].Policy == "" {
			one.Cases[i].Policy = one.Tests
		}
		l.add(&c, at.With(i), &one.Cases[i])
	}
	l.problems = append(l.problems, problems.And(c.problems)...)
}

// add compiles one test.
func (l *suiteLoader) add(c *compiler, path strictyaml.Path, entry *fileCase) {
	t := fileTest{issuer: entry.Issuer}
	if entry.Policy != "" || entry.Issuer == "" {
		if t.policy = l.about(c, path, entry); t.policy == nil {
			return
		}
		t.issuer = t.policy.issuer
	}
	preset := l.options.Issuers[t.issuer]
	if preset == nil {
		c.fail(path.With("issuer"), "issuer %q is not configured%s", t.issuer,
			strictyaml.DidYouMean(t.issuer, slices.Collect(maps.Keys(l.options.Issuers))))
		return
	}
	c.in.Issuer = t.issuer
	t.test = c.test(path, &entry.Entry, preset)
	l.suite.cases = append(l.suite.cases, t)
}

// about returns the policy that a test is about; nil after a problem.
func (l *suiteLoader) about(c *compiler, path strictyaml.Path, entry *fileCase) *policy {
	at := path.With("policy")
	if !c.doc.Has(at) {
		at = strictyaml.Path{"tests"}
	}
	p := l.policies[entry.Policy]
	switch {
	case entry.Policy == "":
		c.fail(path, "the test is about nothing; name a policy, or the issuer of the token")
	case p == nil:
		c.fail(at, "there is no policy %q%s", entry.Policy,
			strictyaml.DidYouMean(entry.Policy, slices.Collect(maps.Keys(l.policies))))
	case entry.Issuer != "" && entry.Issuer != p.issuer:
		c.fail(path.With("issuer"), "policy %s is for issuer %q; leave issuer out", p.name, p.issuer)
	}
	return p
}

// Len returns the number of tests.
func (t *Suite) Len() int {
	n := len(t.cases)
	for _, p := range t.set.policies {
		n += len(p.tests)
	}
	return n
}

// Run runs all tests: those in policies, each against its policy alone, as
// [Set.Test] does, then those of files, each against all policies.
func (t *Suite) Run() []TestResult {
	results := t.set.Test()
	for i := range t.cases {
		c := &t.cases[i]
		about := ""
		if c.policy != nil {
			about = c.policy.name
		}
		message := c.run(t.set)
		results = append(results, TestResult{about, c.name, c.place, message == "", message})
	}
	return results
}

func (t *fileTest) identity() *issuers.Identity {
	return &issuers.Identity{Issuer: t.issuer, Claims: t.claims}
}

// run returns what is wrong with the decisions of s, or "".
func (t *fileTest) run(s *Set) string {
	return t.compare(func(credential string) string {
		d, err := s.Decide(t.identity(), credential)
		switch {
		case err == nil:
			return ""
		case t.policy == nil || slices.Contains(d.Shadow, t.policy.name):
			return strings.TrimPrefix(err.Error(), ErrNoGrant.Error()+": ")
		}
		return fmt.Sprintf("policy %s: %s", t.policy.name, t.policy.why(t.claims))
	})
}

// Fixtures returns the names of the example tokens of a preset, sorted.
func Fixtures(p *presets.Preset) []string {
	return nil
}

// Fixture returns the claims of one of them.
func Fixture(p *presets.Preset, variant string) (map[string]any, error) {
	return nil, errors.New("there are no examples")
}
