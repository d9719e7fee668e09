package policies

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/brevet-dev/brevet/issuers"
	"github.com/brevet-dev/brevet/issuers/presets"
)

// An author writes conditions of lab at random, and tokens for them.
type author struct {
	*rand.Rand
	plain bool // compares claims with values only
}

func (a author) one(list ...string) string { return list[a.IntN(len(list))] }

func (a author) text() string {
	return a.one("claims.ref", "claims.env", "claims.name", "claims.env", `"a"`, `"b"`, `""`, `(claims.fork ? claims.ref : claims.env)`)
}

// condition returns a condition of at most depth operators that join others.
// Much of it does not load; what does is what the tests are about.
func (a author) condition(depth int) string {
	if depth == 0 {
		return a.comparison()
	}
	x, y, z := a.condition(depth-1), a.condition(a.IntN(depth)), a.condition(a.IntN(depth))
	switch a.IntN(9) {
	case 0, 1, 2:
		return fmt.Sprintf("(%s) && (%s)", x, y)
	case 3, 4, 5:
		return fmt.Sprintf("(%s) || (%s)", x, y)
	case 6:
		return fmt.Sprintf("!(%s)", x)
	case 7:
		return fmt.Sprintf("((%s) %s (%s))", x, a.one("==", "!="), y)
	}
	return fmt.Sprintf("((%s) ? (%s) : (%s))", x, y, z)
}

func (a author) comparison() string {
	if a.plain {
		return a.plainComparison()
	}
	switch a.IntN(10) {
	case 0:
		return "claims.fork"
	case 1:
		return fmt.Sprintf("claims.count %s %d", a.one("<", "<=", "==", "!=", ">", ">="), a.IntN(3))
	case 2:
		return fmt.Sprintf("size(claims.groups) %s %d", a.one("<", "==", "!=", ">"), a.IntN(3))
	case 3:
		return fmt.Sprintf("%s in claims.groups", a.text())
	case 4:
		return fmt.Sprintf("%s in [%s, %s]", a.text(), a.text(), a.text())
	case 5:
		return fmt.Sprintf("%s.%s(%s)", a.text(), a.one("startsWith", "endsWith", "contains"), a.text())
	case 6:
		return fmt.Sprintf(`%s.matches("^(a|b)*$")`, a.text())
	case 7:
		return fmt.Sprintf("has(%s)", a.text())
	}
	return fmt.Sprintf("%s %s %s", a.text(), a.one("==", "!="), a.text())
}

func (a author) plainComparison() string {
	claim, value := a.one("claims.ref", "claims.env", "claims.name"), a.one(`"a"`, `"b"`, `""`)
	switch a.IntN(6) {
	case 0:
		return "claims.fork"
	case 1, 2:
		return fmt.Sprintf("claims.count %s %d", a.one("<", "<=", "==", "!=", ">", ">="), a.IntN(3))
	case 3:
		return fmt.Sprintf("%s in claims.groups", value)
	case 4:
		return fmt.Sprintf(`%s in [%s, "b"]`, claim, value)
	}
	return fmt.Sprintf("%s %s %s", claim, a.one("==", "!="), value)
}

func (a author) token() map[string]any {
	claims := map[string]any{
		"ref": a.one("a", "b", ""), "env": a.one("a", "b", ""), "name": a.one("a", "b"),
		"count": int64(a.IntN(3)), "fork": a.IntN(2) == 0, "groups": []string{a.one("a", "b", "")}[a.IntN(2):],
		"id": "7", "twin": "7", "event": a.one("push", "request"),
	}
	for _, name := range slices.Sorted(maps.Keys(claims)) {
		if a.IntN(5) == 0 {
			delete(claims, name)
		}
	}
	return claims
}

// subsets calls f with every way to take claims away from the token.
func subsets(claims map[string]any, names []string, f func(map[string]any)) {
	if len(names) == 0 {
		f(claims)
		return
	}
	subsets(claims, names[1:], f)
	without := maps.Clone(claims)
	delete(without, names[0])
	subsets(without, names[1:], f)
}

// checkAbsence fails if p grants to the token without some claims and not to
// the token as it is.
func checkAbsence(t *testing.T, p *policy, claims map[string]any) (granted bool) {
	t.Helper()
	with := p.gives(claims)
	subsets(claims, slices.Sorted(maps.Keys(claims)), func(without map[string]any) {
		if p.gives(without) && !with {
			t.Errorf("%s\ngrants to %v\nand not to %v", p.when.source, without, claims)
		}
	})
	return with
}

// An absent claim never makes a condition true: taking claims away from a token
// never turns a no into a yes, whatever condition loads.
func TestAbsentClaims(t *testing.T) {
	a := author{Rand: rand.New(rand.NewPCG(1, 2))}
	l, err := newLanguage(lab())
	if err != nil {
		t.Fatal(err)
	}
	p := made(t, "", is("id", "7"))
	loaded, granted := 0, 0
	for range 1_500 {
		w, flaws := l.compile(a.condition(a.IntN(4)))
		if len(flaws) > 0 {
			continue
		}
		loaded, p.when = loaded+1, w
		for range 4 {
			if checkAbsence(t, p, a.token()) {
				granted++
			}
		}
	}
	if loaded < 150 || granted < 75 {
		t.Errorf("of the conditions %d load and %d tokens are granted to: too few to say something", loaded, granted)
	}
}

// What is refused although CEL would take it: ways to turn an absent claim
// around.
func TestAbsenceIsNoCondition(t *testing.T) {
	l, err := newLanguage(lab())
	if err != nil {
		t.Fatal(err)
	}
	for _, source := range []string{
		`claims.env != "a"`,
		`!(claims.env == "a")`,
		`!(claims.fork && claims.env == "a")`,
		`(claims.env == "a") == false`,
		`(claims.env == "a") != true`,
		`(claims.env == "a") == claims.fork`,
		`(claims.env == "a") in [false]`,
		`false in [claims.env == "a"]`,
		`claims.env == "a" ? claims.fork : !claims.fork`,
		`(claims.env == "a" ? "x" : "y") == "y"`,
		`!("a" in claims.groups)`,
		`!(size(claims.groups) > 0)`,
		`size(claims.groups) != 1`,
		`!(claims.env in ["a"])`,
		`!claims.env.startsWith("a")`,
		`claims.ref == "a" || true`,
		`claims.fork ? true : claims.ref == "a"`,
		`has(claims.env)`,
		`!has(claims.env)`,
		`claims.?env.orValue("a") == "a"`,
		`claims.groups.all(g, g != "a")`,
		`claims.groups.exists(g, g == "a")`,
		`{"a": claims.env}.b == "x"`,
		`[claims.env][0] != "a"`,
		`type(claims.env) == string`,
		`dyn(claims.env) != "a"`,
		`claims.env == null`,
	} {
		if w, flaws := l.compile(source); len(flaws) == 0 || w != nil {
			t.Errorf("%s loads", source)
		}
	}
}

// The same of whole policies, those of these tests, as [Set.Decide] has it, and
// with guardrails: for tokens as platforms make them, less one or two claims.
func TestAbsentClaimsOfPolicies(t *testing.T) {
	const rails = "guardrails: g\nissuer: github\ndeny:\n- {reason: no, match: {actor_id: \"66\"}}\n- {reason: no, match: {ref: {glob: \"refs/heads/*\"}, runner_environment: self-hosted}}\n"
	docs := []string{exemplary}
	for _, w := range wrongs() {
		docs = append(docs, w.doc)
	}
	for _, l := range lessons() {
		docs = append(docs, l.doc)
	}
	granted := 0
	for _, doc := range docs {
		set, _, err := lintFiles(t, map[string]string{"a.yaml": doc, "g.yaml": rails, "filler.yaml": filler})
		if err != nil {
			continue // does not load, which is what it is there for
		}
		for _, claims := range platformTokens(t, set.policies[0]) {
			granted += checkDecisions(t, set, claims)
		}
	}
	if granted < 30 {
		t.Errorf("only %d tokens are granted to: too few to say something", granted)
	}
}

// platformTokens returns the examples of the policy's preset, and what the
// policy grants to.
func platformTokens(t *testing.T, p *policy) []map[string]any {
	t.Helper()
	var list []map[string]any
	for _, variant := range append(presets.Variants(p.preset.Name), "") {
		raw, err := presets.Example(p.preset.Name, variant)
		if err != nil {
			t.Fatal(err)
		}
		claims, _, err := Claims(p.preset, raw)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, claims)
	}
	if claims, _ := p.witness(); claims != nil {
		list = append(list, claims)
	}
	return list
}

// checkDecisions fails if the first policy's credential is granted to the token
// less one or two claims, and not to the token as it is.
func checkDecisions(t *testing.T, set *Set, claims map[string]any) (granted int) {
	t.Helper()
	p := set.policies[0]
	decide := func(claims map[string]any) bool {
		_, err := set.Decide(&issuers.Identity{Issuer: p.issuer, Claims: claims}, p.grants[0].Credential)
		return err == nil
	}
	if decide(claims) {
		return 1
	}
	names := slices.Sorted(maps.Keys(claims))
	for i, a := range names {
		for _, b := range names[i:] {
			without := maps.Clone(claims)
			delete(without, a)
			delete(without, b)
			if decide(without) {
				t.Errorf("policy at %s: granted without %s and %s, and not to %v", p.place, a, b, claims)
			}
		}
	}
	return 0
}

func FuzzAbsentClaims(f *testing.F) {
	f.Add(`claims.env == "a" || claims.ref == "b"`, uint64(1))
	f.Add(`!(claims.fork && claims.ref == "a")`, uint64(2))
	f.Add(`(claims.fork ? claims.env : claims.ref) in [claims.name, "a"]`, uint64(3))
	l, err := newLanguage(lab())
	if err != nil {
		f.Fatal(err)
	}
	p := made(f, "", is("id", "7"))
	f.Fuzz(func(t *testing.T, source string, seed uint64) {
		w, flaws := l.compile(source)
		if len(flaws) > 0 {
			if w != nil {
				t.Errorf("%q has flaws and is there", source)
			}
			return
		}
		p.when = w
		a := author{Rand: rand.New(rand.NewPCG(seed, 0))}
		checkAbsence(t, p, a.token())
	})
}

// The costs of what loads are bounded, whatever the token.
func TestCostBounds(t *testing.T) {
	l, err := newLanguage(lab())
	if err != nil {
		t.Fatal(err)
	}
	for name, source := range map[string]string{
		"long":      `claims.ref == "` + strings.Repeat("a", maxSource) + `"`,
		"nodes":     strings.Repeat(`claims.fork && `, maxNodes) + `claims.fork`,
		"nested":    strings.Repeat("(", maxNested+5) + "claims.fork" + strings.Repeat(")", maxNested+5),
		"regexp":    `claims.ref.matches("^(a{1,100}){1,100}$")`,
		"expensive": strings.Repeat(`claims.ref.matches("^[a-z]*[a-z]*[a-z]*$") && `, 5) + `claims.fork`,
	} {
		t.Run(name, func(t *testing.T) {
			if _, flaws := l.compile(source); len(flaws) == 0 {
				t.Errorf("%.60s… loads", source)
			}
		})
	}
}
