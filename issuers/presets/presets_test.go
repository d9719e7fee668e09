package presets_test

import (
	"encoding/json"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/brevet-dev/brevet/issuers/presets"
)

// each runs test for every preset.
func each(t *testing.T, test func(t *testing.T, p *presets.Preset)) {
	t.Helper()
	known := presets.Known()
	for _, name := range slices.Sorted(maps.Keys(known)) {
		t.Run(name, func(t *testing.T) { test(t, known[name]) })
	}
}

func TestPresetsAreComplete(t *testing.T) {
	algorithms := []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
	each(t, func(t *testing.T, p *presets.Preset) {
		if p.Title == "" || !strings.HasPrefix(p.Docs, "https://") || len(p.Types) == 0 || len(p.Algorithms) == 0 {
			t.Errorf("%+v is not complete", p)
		}
		if p.MaxAge <= 0 || p.MaxAge > p.MaxLifetime {
			t.Errorf("MaxAge %v, MaxLifetime %v", p.MaxAge, p.MaxLifetime)
		}
		if !slices.Contains([]presets.Replay{presets.Once, presets.Bind, presets.Reuse}, p.Replay) {
			t.Errorf("Replay = %q", p.Replay)
		}
		for _, alg := range p.Algorithms {
			if !slices.Contains(algorithms, alg) {
				t.Errorf("algorithm %q", alg)
			}
		}
		if p.Name != "generic" && (presets.Guides()[p.Name].Job == "" || presets.Guides()[p.Name].Config == "" || len(presets.Guides()[p.Name].Blind) == 0 || len(p.URLs) == 0 || len(p.Pins) == 0) {
			t.Error("no guide, no URLs or no pins")
		}
	})
}

func TestClaims(t *testing.T) {
	each(t, func(t *testing.T, p *presets.Preset) {
		places := map[string]string{}
		for name, c := range p.Claims {
			if c.Doc == "" || c.Kind == "" || c.Type == "" || c.Unverified && !c.Optional {
				t.Errorf("claim %s: %+v", name, c)
			}
			if strings.ContainsAny(c.Doc, "|\n") {
				t.Errorf("claim %s: its Doc breaks a table", name)
			}
			path := c.Path
			if len(path) == 0 {
				path = []string{name}
			}
			place := strings.Join(path, "\x00")
			if other, twice := places[place]; twice {
				t.Errorf("claims %s and %s are in the same place", name, other)
			}
			places[place] = name
			for _, never := range p.Never {
				if n := min(len(path), len(never)); slices.Equal(path[:n], never[:n]) {
					t.Errorf("claim %s is where nothing may be declared", name)
				}
			}
		}
	})
}

// used lists the claims that the preset's rules name, with what names them.
func used(p *presets.Preset) map[string]string {
	out := map[string]string{
		p.OwnerID: "OwnerID", p.Owner: "Owner", p.ProjectID: "ProjectID", p.Project: "Project", p.Run: "Run", p.Attempt: "Attempt",
		p.Job: "Job", p.Ref: "Ref", p.Environment: "Environment", p.Actor: "Actor", p.ActorID: "ActorID", p.Trigger: "Trigger",
	}
	delete(out, "")
	for _, pin := range p.Pins {
		for _, gate := range pin.AnyOf {
			for _, hold := range gate {
				out[hold.Claim] = "pin " + pin.Name
			}
		}
	}
	for _, r := range p.Risks {
		out[r.Claim] = "a risk"
	}
	for _, pair := range p.MustEqual {
		out[pair[0]], out[pair[1]] = "MustEqual", "MustEqual"
	}
	for _, group := range p.OneOf {
		for _, name := range group {
			out[name] = "OneOf"
		}
	}
	return out
}

func TestRulesNameDeclaredClaims(t *testing.T) {
	each(t, func(t *testing.T, p *presets.Preset) {
		for claim, by := range used(p) {
			if _, declared := p.Claims[claim]; !declared {
				t.Errorf("%s names %q, which is not declared", by, claim)
			}
		}
	})
}

// What nobody verified fills no pin by itself, and a project is pinned by what
// is never given to another.
func TestPins(t *testing.T) {
	each(t, func(t *testing.T, p *presets.Preset) {
		for i, pin := range p.Pins {
			if pin.Name == "" || len(pin.AnyOf) == 0 {
				t.Errorf("pin %+v", pin)
			}
			for _, gate := range pin.AnyOf {
				verified := func(h presets.Hold) bool { return !p.Claims[h.Claim].Unverified }
				if !slices.ContainsFunc(gate, verified) {
					t.Errorf("pin %q: the gate %v is of unverified claims only", pin.Name, gate)
				}
				immutable := func(h presets.Hold) bool { return p.Claims[h.Claim].Kind == presets.Immutable }
				if i == 0 && !slices.ContainsFunc(gate, immutable) {
					t.Errorf("pin %q: the gate %v has no immutable id", pin.Name, gate)
				}
			}
		}
	})
}

func TestRisks(t *testing.T) {
	each(t, func(t *testing.T, p *presets.Preset) {
		for _, r := range p.Risks {
			c := p.Claims[r.Claim]
			if len(r.Values) == 0 || r.Why == "" || c.Unverified {
				t.Errorf("risk %+v", r)
			}
			for _, v := range r.Values {
				if c.Values != nil && !slices.Contains(c.Values, v) {
					t.Errorf("%s = %q is a risk, and none of its values", r.Claim, v)
				}
			}
		}
	})
}

// Each example has values that the preset knows, and every claim is in one.
func TestExamples(t *testing.T) {
	each(t, func(t *testing.T, p *presets.Preset) {
		missing := maps.Clone(p.Claims)
		for _, variant := range append(presets.Variants(p.Name), "") {
			payload, err := presets.Example(p.Name, variant)
			if err != nil {
				t.Fatal(err)
			}
			for name, c := range p.Claims {
				value := at(payload, name, c)
				if value == nil {
					continue
				}
				delete(missing, name)
				if text, _ := value.(string); c.Values != nil && !slices.Contains(c.Values, text) {
					t.Errorf("%s: %s is %q, which is none of its values", variant, name, text)
				}
			}
		}
		for name := range missing {
			t.Errorf("no example has the claim %s", name)
		}
	})
}

// at returns a claim of a payload, nil if it is absent.
func at(payload map[string]any, name string, c presets.Claim) any {
	path := c.Path
	if len(path) == 0 {
		path = []string{name}
	}
	for _, part := range path[:len(path)-1] {
		payload, _ = payload[part].(map[string]any)
	}
	return payload[path[len(path)-1]]
}

// The first example is a job that a policy would be written for: it has what
// the pins ask for, and is no risk.
func TestFirstExampleIsSafe(t *testing.T) {
	each(t, func(t *testing.T, p *presets.Preset) {
		payload, err := presets.Example(p.Name, "")
		if err != nil {
			t.Fatal(err)
		}
		for _, pin := range p.Pins {
			for _, hold := range pin.AnyOf[0] {
				got := at(payload, hold.Claim, p.Claims[hold.Claim])
				if got == nil || hold.Value != "" && got != any(hold.Value) {
					t.Errorf("pin %q: %s is %v", pin.Name, hold.Claim, got)
				}
			}
		}
		for _, r := range p.Risks {
			if text, _ := at(payload, r.Claim, p.Claims[r.Claim]).(string); slices.Contains(r.Values, text) {
				t.Errorf("%s is %q, a risk", r.Claim, text)
			}
		}
	})
}

// Every file is the example of a preset or one of its variants.
func TestExampleFiles(t *testing.T) {
	files, err := os.ReadDir("examples")
	if err != nil {
		t.Fatal(err)
	}
	count := 0
	for name := range presets.Known() {
		count += 1 + len(presets.Variants(name))
	}
	if count != len(files) {
		t.Errorf("%d files, and %d examples of presets", len(files), count)
	}
	for _, wrong := range [][2]string{{"github", "x"}, {"x", ""}, {"", ""}, {"../github", ""}} {
		if payload, err := presets.Example(wrong[0], wrong[1]); err == nil || payload != nil {
			t.Errorf("Example(%q) = %v", wrong, payload)
		}
	}
}

func TestExampleNumbersKeepTheirDigits(t *testing.T) {
	payload, err := presets.Example("google", "")
	if err != nil {
		t.Fatal(err)
	}
	got := at(payload, "project_number", presets.Known()["google"].Claims["project_number"])
	if got != json.Number("739284615203") {
		t.Errorf("project_number = %#v", got)
	}
}

func TestKnownMakesNewValues(t *testing.T) {
	known := presets.Known()
	delete(known["github"].Claims, "ref")
	if _, kept := presets.Known()["github"].Claims["ref"]; !kept {
		t.Error("a caller changed the known presets")
	}
}

func TestMerge(t *testing.T) {
	inner := map[string]any{"x": 1, "y": 2}
	object := map[string]any{"a": 1, "b": inner, "c": "text"}
	presets.Merge(object, map[string]any{"a": nil, "b": map[string]any{"x": nil, "z": 3}, "c": map[string]any{"d": 1}, "e": []any{1}})
	want := map[string]any{"b": map[string]any{"y": 2, "z": 3}, "c": map[string]any{"d": 1}, "e": []any{1}}
	if !reflect.DeepEqual(object, want) || len(inner) != 2 {
		t.Errorf("Merge = %v, want %v; the old object is %v", object, want, inner)
	}
}
