package policies

import (
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/brevet-dev/brevet/issuers/presets"
)

// texts returns all texts of at most n of the letters. The last letter is in no
// glob that these tests have, as there is always one in what tokens may say.
func texts(letters string, n int) []string {
	all := []string{""}
	for from := 0; n > 0; n-- {
		next := len(all)
		for _, s := range all[from:] {
			for _, r := range letters {
				all = append(all, s+string(r))
			}
		}
		from = next
	}
	return all
}

// checkGlobs compares what is said of two globs with all short texts.
func checkGlobs(t *testing.T, a, b glob, all []string) {
	t.Helper()
	within, meets := true, false
	for _, s := range all {
		within = within && (!a.fits(s) || b.fits(s))
		meets = meets || a.fits(s) && b.fits(s)
	}
	if got := b.covers(a); got != within {
		t.Errorf("%q.covers(%q) = %v, want %v", b, a, got, within)
	}
	text, got := common(a, b)
	if got != meets {
		t.Errorf("common(%q, %q) = %q, %v, want %v", a, b, text, got, meets)
	}
	if got && (!a.fits(text) || !b.fits(text)) {
		t.Errorf("common(%q, %q) = %q, which does not fit both", a, b, text)
	}
}

// All globs of at most three signs, each with each, against all texts that can
// tell two of them apart.
func TestGlobsAgainstBruteForce(t *testing.T) {
	all := texts("a/bz", 6)
	globs := texts("a*/b", 3)
	for _, a := range globs {
		for _, b := range globs {
			if plain(a) && plain(b) {
				checkGlobs(t, glob(a), glob(b), all)
			}
		}
	}
}

// plain reports whether a glob is one that loads: no empty segment, no **.
func plain(g string) bool {
	return !strings.Contains("/"+g+"/", "//") && !strings.Contains(g, "**")
}

func FuzzGlobs(f *testing.F) {
	f.Add("refs/heads/*", "refs/heads/release-*", "refs/heads/release-1")
	f.Add("*a*b*", "*b*a*", "abab")
	f.Add("a:*/b", "a:b/*", "a:b/b")
	f.Fuzz(func(t *testing.T, a, b, s string) {
		if !plain(a) || !plain(b) || !utf8.ValidString(a+b+s) {
			return // such a glob does not load, such a token is refused
		}
		x, y := glob(a), glob(b)
		if y.covers(x) && x.fits(s) && !y.fits(s) {
			t.Errorf("%q.covers(%q), and %q fits only the second", y, x, s)
		}
		text, meets := common(x, y)
		if !meets && x.fits(s) && y.fits(s) {
			t.Errorf("common(%q, %q) has none, and %q is one", x, y, s)
		}
		if meets && (!x.fits(text) || !y.fits(text)) {
			t.Errorf("common(%q, %q) = %q, which does not fit both", x, y, text)
		}
	})
}

func TestConditionWithin(t *testing.T) {
	refs := func(globs ...glob) condition { return condition{claim: "ref", globs: globs} }
	are := func(values ...any) condition { return condition{claim: "ref", values: values} }
	have := func(items ...string) condition { return condition{claim: "ref", has: items} }
	tests := []struct {
		name          string
		a, b          condition
		within, meets bool
	}{
		{"a value in a list", are("x"), are("x", "y"), true, true},
		{"a list and a value", are("x", "y"), are("x"), false, true},
		{"another type", are(int64(1)), are("1"), false, false},
		{"true and false", are(true), are(false), false, false},
		{"a value that fits", are("v/x"), refs("v/*"), true, true},
		{"a value of another depth", are("v/x/y"), refs("v/*"), false, false},
		{"a glob in one of two", refs("v/a*"), refs("w/*", "v/*"), true, true},
		{"a glob is more than values", refs("v/*"), are("v/a", "v/b"), false, true},
		{"two globs in one", refs("v/a", "v/*b"), refs("v/*"), true, true},
		{"globs with a text in common", refs("v/a*"), refs("v/*b"), false, true},
		{"globs with none", refs("v/a*"), refs("v/b*"), false, false},
		{"an item of two", have("x"), have("x", "y"), true, true},
		{"two items of which one", have("x", "y"), have("x"), false, true},
		{"a list can have both", have("x"), have("y"), false, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.a.within(&tt.b); got != tt.within {
				t.Errorf("within = %v, want %v", got, tt.within)
			}
			v, sure := meet(&tt.a, &tt.b)
			if got := v != nil; got != tt.meets || !sure {
				t.Errorf("meet = %v, %v, want one: %v", v, sure, tt.meets)
			}
			if v != nil && (!tt.a.admits(v) || !tt.b.admits(v)) {
				t.Errorf("meet = %v, which is not admitted by both", v)
			}
		})
	}
}

// Many globs without a text in common end the search, and the answer is that
// nothing is known.
func TestMeetGivesUp(t *testing.T) {
	a, b := condition{claim: "ref"}, condition{claim: "ref"}
	for i := range 200 {
		a.globs = append(a.globs, glob(strings.Repeat("a", i+1)+"*x"))
		b.globs = append(b.globs, glob(strings.Repeat("b", i+1)+"*y"))
	}
	if v, sure := meet(&a, &b); v != nil || sure {
		t.Errorf("meet = %v, %v, want none and not sure", v, sure)
	}
	if !blocksMeet([]condition{a}, []condition{b}) {
		t.Error("blocksMeet is false, which nobody has found out")
	}
}

func TestBlocks(t *testing.T) {
	id := condition{claim: "id", values: []any{"1"}}
	ref := condition{claim: "ref", globs: []glob{"v/*"}}
	one := condition{claim: "ref", values: []any{"v/1"}}
	two := condition{claim: "ref", values: []any{"w/1"}}
	tests := []struct {
		name          string
		a, b          []condition
		within, meets bool
	}{
		{"the same", []condition{id, ref}, []condition{id, ref}, true, true},
		{"more conditions hold for less", []condition{id, ref}, []condition{id}, true, true},
		{"less conditions hold for more", []condition{id}, []condition{id, ref}, false, true},
		{"narrower", []condition{id, one}, []condition{id, ref}, true, true},
		{"apart", []condition{id, two}, []condition{id, ref}, false, false},
		{"in one of two of the same claim", []condition{ref, one}, []condition{one}, true, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := blockWithin(tt.a, tt.b); got != tt.within {
				t.Errorf("blockWithin = %v, want %v", got, tt.within)
			}
			if got := blocksMeet(tt.a, tt.b); got != tt.meets {
				t.Errorf("blocksMeet = %v, want %v", got, tt.meets)
			}
		})
	}
}

// lab is a preset with a claim of each type and kind.
func lab() *presets.Preset {
	return &presets.Preset{
		Claims: map[string]presets.Claim{
			"id":    {Type: presets.String, Kind: presets.Immutable},
			"twin":  {Type: presets.String, Kind: presets.Immutable},
			"name":  {Type: presets.String, Kind: presets.Mutable},
			"ref":   {Type: presets.String, Kind: presets.Attacker},
			"event": {Type: presets.String, Kind: presets.Attacker, Values: []string{"request", "push", "schedule"}},
			"env":   {Type: presets.String, Kind: presets.Platform, Optional: true},
			"old":   {Type: presets.String, Optional: true}, "new": {Type: presets.String, Optional: true},
			"count": {Type: presets.Int}, "fork": {Type: presets.Bool},
			"groups": {Type: presets.StringList, Optional: true},
		},
		ProjectID: "id", Trigger: "event",
		MustEqual: [][2]string{{"twin", "id"}},
		OneOf:     [][]string{{"old", "new"}},
		Risks:     []presets.Risk{{Claim: "event", Values: []string{"request"}}},
	}
}

// made compiles a policy of lab from its conditions.
func made(t testing.TB, source string, match ...condition) *policy {
	t.Helper()
	p := &policy{name: "p", issuer: "lab", preset: lab(), match: match}
	p.risks = risks(p)
	if source == "" {
		return p
	}
	l, err := newLanguage(p.preset)
	if err != nil {
		t.Fatal(err)
	}
	w, flaws := l.compile(source)
	if len(flaws) > 0 {
		t.Fatal(flaws)
	}
	p.when = w
	return p
}

func is(claim string, values ...any) condition { return condition{claim: claim, values: values} }

func fits(claim string, globs ...glob) condition { return condition{claim: claim, globs: globs} }

func TestWitness(t *testing.T) {
	id := is("id", "7")
	tests := []struct {
		when   string
		match  []condition
		found  bool
		proven bool
	}{
		{"", []condition{id}, true, true},
		{"", []condition{id, is("event", "request")}, true, true},
		{"", []condition{id, is("new", "n")}, true, true},
		{"", []condition{id, fits("ref", "refs/heads/*"), fits("ref", "refs/*/x*")}, true, true},
		{"", []condition{id, is("ref", "a"), fits("ref", "b*")}, false, true},
		{"", []condition{id, fits("ref", "a*"), fits("ref", "b*")}, false, false},
		{`claims.ref == "a" && claims.name == "b" && claims.env in ["c", "d"] && claims.count > 41 && claims.fork`, []condition{id}, true, true},
		{`claims.ref == "a" && claims.ref == "b"`, []condition{id}, false, true},
		{`claims.ref == "a"`, []condition{id, fits("ref", "b*")}, false, true},
		{`claims.ref != "a"`, []condition{id, is("ref", "a")}, false, true},
		{`claims.count < 5 && claims.count > 5`, []condition{id}, false, true},
		{`claims.count > 10 && claims.count < 20 && claims.count != 11 && claims.count != 19`, []condition{id}, true, true},
		{`claims.count in [4, 5] && claims.count != 4 && claims.count != 5`, []condition{id}, false, true},
		{`claims.fork == false && claims.fork`, []condition{id}, false, true},
		{`claims.ref.startsWith("refs/") && claims.ref.endsWith("-prod") && claims.ref.contains("eu")`, []condition{id}, true, true},
		{`claims.ref.matches("^refs/tags/v[0-9]+(\\.[0-9]{2})*$")`, []condition{id}, true, true},
		{`claims.ref.startsWith("a") && claims.ref.startsWith("b")`, []condition{id}, false, false},
		{`claims.name == claims.ref`, []condition{id}, true, true},
		{`"a" in claims.groups && "b" in claims.groups`, []condition{id, {claim: "groups", has: []string{"c"}}}, true, true},
		{`"a" in claims.groups && "b" in claims.groups`, []condition{id, is("ref", "x")}, true, true},
		{`claims.name in ["a", "b"] && claims.name != "a" && claims.name != "b"`, []condition{id}, false, true},
		{`size(claims.groups) == 2`, []condition{id}, true, true},
		{`claims.event == "request"`, []condition{id}, false, true},
		{`(claims.fork ? claims.ref : claims.name) == "q"`, []condition{id}, true, true},
	}
	for _, tt := range tests {
		t.Run(tt.when, func(t *testing.T) {
			p := made(t, tt.when, tt.match...)
			claims, proven := p.witness()
			if found := claims != nil; found != tt.found || proven != tt.proven {
				t.Errorf("witness = %v, %v, want one: %v, proven: %v", claims, proven, tt.found, tt.proven)
			}
			if claims != nil {
				checkToken(t, p.preset, claims)
			}
		})
	}
}

// checkToken holds a witness against what the issuer would refuse.
func checkToken(t *testing.T, p *presets.Preset, claims map[string]any) {
	t.Helper()
	for name, decl := range p.Claims {
		v, there := claims[name]
		if !there && !decl.Optional || there && !hasType(v, decl.Type) {
			t.Errorf("claim %s is %v (%T), want one of type %s", name, v, v, decl.Type)
		}
	}
	if claims["twin"] != claims["id"] {
		t.Errorf("twin is %v and id %v; such a token is refused", claims["twin"], claims["id"])
	}
	if claims["old"] != nil && claims["new"] != nil {
		t.Error("the token has both of two claims of which it must have one")
	}
}

func TestBeyond(t *testing.T) {
	id := is("id", "7")
	p := made(t, "", id, fits("ref", "refs/heads/*"))
	tests := []struct {
		name   string
		others []*policy
		found  bool
		proven bool
	}{
		{"itself", []*policy{p}, false, true},
		{"all refs", []*policy{made(t, "", id)}, false, true},
		{"one ref", []*policy{made(t, "", id, is("ref", "refs/heads/main"))}, true, true},
		{"many refs", []*policy{made(t, "", id, fits("ref", "refs/heads/a*", "refs/heads/x*")), made(t, "", id, fits("ref", "refs/heads/*x"))}, true, true},
		{"another project", []*policy{made(t, "", is("id", "8"))}, true, true},
		{"an environment", []*policy{made(t, "", id, is("env", "prod"))}, true, true},
		{"both events", []*policy{made(t, "", id, is("event", "push", "request")), made(t, "", id, is("event", "schedule"))}, true, true},
		{"a condition", []*policy{made(t, `claims.count == 1`, id)}, true, true},
		{"conditions that are all there is", []*policy{made(t, `claims.fork`, id), made(t, `!claims.fork`, id)}, false, true},
		{"a pattern", []*policy{made(t, `claims.ref.startsWith("refs/")`, id)}, false, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			claims, proven := p.beyond(tt.others...)
			if found := claims != nil; found != tt.found || proven != tt.proven {
				t.Fatalf("beyond = %v, %v, want one: %v, proven: %v", claims, proven, tt.found, tt.proven)
			}
			if claims != nil && (!p.gives(claims) || slices.ContainsFunc(tt.others, func(q *policy) bool { return q.gives(claims) })) {
				t.Errorf("beyond = %v, which is none", claims)
			}
		})
	}
}

func TestPolicyWithin(t *testing.T) {
	id := is("id", "7")
	tests := []struct {
		name string
		a, b *policy
		want bool
	}{
		{"narrower", made(t, "", id, is("ref", "x")), made(t, "", id), true},
		{"the same condition", made(t, "claims.fork", id), made(t, "claims.fork", id), true},
		{"a condition more", made(t, "claims.fork", id), made(t, "", id), true},
		{"a condition less", made(t, "", id), made(t, "claims.fork", id), false},
		{"names a risk", made(t, "", id, is("event", "request")), made(t, "", id), false},
		{"both name it", made(t, "", id, is("event", "request")), made(t, "", id, is("event", "request", "push")), true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.a.within(tt.b); got != tt.want {
				t.Errorf("within = %v, want %v", got, tt.want)
			}
			if claims, _ := tt.a.beyond(tt.b); tt.want && claims != nil {
				t.Errorf("within, and yet %v is beyond", claims)
			}
		})
	}
}
