package presets_test

import (
	"encoding/json"
	"reflect"
	"slices"
	"testing"

	"github.com/brevet-dev/brevet/issuers/presets"
)

// example returns the recorded claims of a platform with changes; nil removes one.
func example(t *testing.T, name string, changes map[string]any) map[string]any {
	t.Helper()
	token, err := presets.Example(name, "")
	if err != nil {
		t.Fatal(err)
	}
	for claim, v := range changes {
		token[claim] = v
		if v == nil {
			delete(token, claim)
		}
	}
	return token
}

func TestGuesses(t *testing.T) {
	for _, tt := range []struct {
		name, example string
		changes       map[string]any
		want          string
		certainty     presets.Certainty
		wrong         []string
	}{
		{"github.com", "github", nil, "github", presets.ByIssuer, nil},
		{"an enterprise", "github", map[string]any{"iss": "https://token.actions.githubusercontent.com/acme", "enterprise": "acme"}, "github", presets.ByIssuer, nil},
		{"another enterprise", "github", map[string]any{"iss": "https://token.actions.githubusercontent.com/acme", "enterprise": "evil"}, "github", presets.ByIssuer, []string{"a claim is not what iss says"}},
		{"GHE.com", "github", map[string]any{"iss": "https://token.actions.acme.ghe.com"}, "github", presets.ByIssuer, nil},
		{"an old server", "github", map[string]any{"iss": "https://git.example.com/_services/token"}, "github", presets.ByClaims, nil},
		{"a claim less", "github", map[string]any{"actor_id": nil}, "github", presets.ByIssuer, []string{"actor_id is missing"}},
		{"a wrong type", "github", map[string]any{"actor_id": json.Number("1")}, "github", presets.ByIssuer, []string{"actor_id is not of type string"}},
		{"gitlab.com", "gitlab", nil, "gitlab", presets.ByIssuer, nil},
		{"a fork", "gitlab", map[string]any{"job_project_id": "4"}, "gitlab", presets.ByIssuer, []string{"job_project_id and project_id differ"}},
		{"a GitLab of one's own", "gitlab", map[string]any{"iss": "https://git.example.com:8443"}, "gitlab", presets.ByClaims, nil},
		{"a GitLab that does not say all", "gitlab", map[string]any{"iss": "https://git.example.com", "ref": nil}, "generic", presets.Unknown, nil},
		{"this machine", "gitlab", map[string]any{"iss": "http://127.0.0.1:8000"}, "gitlab", presets.ByClaims, nil},
		{"not this machine", "github", map[string]any{"iss": "http://git.example.com"}, "generic", presets.Unknown, nil},
		{"almost github.com", "github", map[string]any{"iss": "https://token.actions.githubusercontent.com.evil.example/"}, "generic", presets.Unknown, nil},
		{"no issuer", "github", map[string]any{"iss": nil}, "generic", presets.Unknown, nil},
		{"an issuer that is a number", "github", map[string]any{"iss": json.Number("1")}, "generic", presets.Unknown, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			guesses, certainty := presets.Guesses(example(t, tt.example, tt.changes))
			best := guesses[0]
			if best.Preset.Name != tt.want || certainty != tt.certainty || !slices.Equal(best.Wrong, tt.wrong) {
				t.Errorf("Guesses = %s, %s, wrong: %q; want %s, %s, %q", best.Preset.Name, certainty, best.Wrong, tt.want, tt.certainty, tt.wrong)
			}
		})
	}
}

// TestGuessesAmbiguous makes a token that has as many claims of two platforms,
// and an issuer that says nothing.
func TestGuessesAmbiguous(t *testing.T) {
	token := map[string]any{"iss": "http://127.0.0.1:8000", "sub": "x"}
	github, gitlab := presets.Known()["github"], presets.Known()["gitlab"]
	fill := func(p, other *presets.Preset, optional bool, most int) {
		for name, c := range p.Claims {
			if _, shared := other.Claims[name]; c.Optional != optional || optional && (shared || c.Type != presets.String) || most == 0 {
				continue
			}
			token[name] = "1"
			if c.Type == presets.Int {
				token[name] = json.Number("1")
			}
			most--
		}
	}
	fill(github, gitlab, false, -1)
	fill(gitlab, github, false, -1)
	one, _ := github.Read(token)
	two, _ := gitlab.Read(token)
	fill(github, gitlab, true, max(0, len(two)-len(one)))
	fill(gitlab, github, true, max(0, len(one)-len(two)))
	guesses, certainty := presets.Guesses(token)
	if certainty != presets.Ambiguous || guesses[0].Preset.Name != "github" || guesses[1].Preset.Name != "gitlab" {
		t.Errorf("Guesses = %s, the first %s and %s", certainty, guesses[0].Preset.Name, guesses[1].Preset.Name)
	}
}

func TestReadTypes(t *testing.T) {
	p := &presets.Preset{Claims: map[string]presets.Claim{
		"s": {Type: presets.String}, "i": {Type: presets.Int}, "b": {Type: presets.Bool}, "l": {Type: presets.StringList},
		"in": {Type: presets.String, Path: []string{"o", "p"}, Optional: true},
	}, OneOf: [][]string{{"s", "in"}}}
	good := map[string]any{"s": "x", "i": json.Number("9007199254740993"), "b": true, "l": []any{"y"}, "o": map[string]any{"q": "z", "r": map[string]any{}}, "u": nil}
	claims, wrong := p.Read(good)
	want := map[string]any{"s": "x", "i": int64(9007199254740993), "b": true, "l": []string{"y"}}
	if !reflect.DeepEqual(claims, want) || wrong != nil {
		t.Errorf("Read = %v, %q, want %v", claims, wrong, want)
	}
	undeclared := []presets.Member{{[]string{"o", "q"}, "z"}, {[]string{"o", "r"}, map[string]any{}}, {[]string{"u"}, nil}}
	if got := p.Undeclared(good); !reflect.DeepEqual(got, undeclared) {
		t.Errorf("Undeclared = %v, want %v", got, undeclared)
	}
	claims, wrong = p.Read(map[string]any{"s": json.Number("1"), "i": "1", "b": "true", "l": []any{"y", true}, "o": map[string]any{"p": "z"}})
	if want := []string{"b is not of type bool", "i is not of type int", "l is not of type string_list", "s is not of type string"}; !slices.Equal(wrong, want) || claims["in"] != "z" {
		t.Errorf("Read = %v, %q, want %q", claims, wrong, want)
	}
	_, wrong = p.Read(map[string]any{"s": "x", "i": json.Number("1.5"), "b": nil, "l": []any{}, "o": map[string]any{"p": "z"}})
	if want := []string{"b is not of type bool", "i is not of type int", "there must be exactly one of s, in"}; !slices.Equal(wrong, want) {
		t.Errorf("Read: %q, want %q", wrong, want)
	}
	if _, wrong = p.Read(map[string]any{"o": "no object"}); len(wrong) != 5 {
		t.Errorf("Read: %q, want 4 that are missing, and no one of two", wrong)
	}
}

func TestFitAudience(t *testing.T) {
	p := presets.Known()["github"]
	for audience, want := range map[string]bool{
		"https://github.com/acme": true, "https://github.com/acme/shop": false, "https://broker.example.com": false, "https://github.com/": false,
	} {
		if got := p.FitAudience(audience, "https://token.actions.githubusercontent.com"); got != want {
			t.Errorf("FitAudience(%q) = %v, want %v", audience, got, want)
		}
	}
}
