// Package claims holds the drafts of brevet claims against what brevetd takes.
package claims

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/brevet-dev/brevet/issuers"
	"github.com/brevet-dev/brevet/issuers/presets"
	"github.com/brevet-dev/brevet/plugins/runner/draft"
	"github.com/brevet-dev/brevet/policies"
	"github.com/brevet-dev/brevet/policies/strictyaml"
)

const broker = "https://broker.example.com"

// TestDrafts pastes what is drafted for every recorded token of every preset: the
// issuer's entry must be valid, the policy must load, its tests must pass, and
// the broker must decide about the token as the test "this run" says.
func TestDrafts(t *testing.T) {
	for name := range presets.Known() {
		for _, variant := range append(presets.Variants(name), "") {
			t.Run(name+"/"+variant, func(t *testing.T) {
				token, err := presets.Example(name, variant)
				if err != nil {
					t.Fatal(err)
				}
				d := draft.New(token, draft.Options{Broker: broker, Asked: broker, Credentials: []string{"registry"}})
				if d.Preset.Name != name {
					t.Errorf("the draft is for preset %s, not %s", d.Preset.Name, name)
				}
				preset := checkIssuer(t, d)
				set := load(t, d, preset)
				checkLint(t, set, d)
				claims, err := issuers.ReadClaims(preset, token)
				if err != nil {
					if !strings.Contains(strings.Join(d.Warnings, "\n"), "the broker would refuse this token") {
						t.Errorf("the broker refuses the token, and no warning says so: %v", err)
					}
					return
				}
				_, err = set.Decide(&issuers.Identity{Issuer: name, Preset: preset, Claims: claims}, "registry")
				if promised := strings.Contains(d.Policy, "  - name: this run\n"); promised != (err == nil) {
					t.Errorf("the policy's test promises %v, and the broker decides %v:\n%s", promised, err, d.Policy)
				}
			})
		}
	}
}

// checkLint checks that lint has nothing to say of a draft but what the run is to
// blame for, and what is worth a thought only.
func checkLint(t *testing.T, set *policies.Set, d *draft.Draft) {
	t.Helper()
	protected := strings.Contains(d.Policy, "ref_protected: \"true\"")
	for _, f := range set.Lint(nil) {
		expected := f.Severity == policies.SeverityInfo ||
			f.Rule == "unprotected-ref" && !protected || // the run's ref is not
			f.Rule == "attacker-gate" && d.Certainty == presets.Unknown || // nobody said what the claims are worth
			f.Rule == "person-gate" && d.Preset.Name == "google" // of a service account, which is no person
		if !expected {
			t.Errorf("lint: %s %s: %s\n%s", f.ID, f.Rule, f.Message, d.Policy)
		}
	}
}

// TestHostileDrafts puts what a stranger might choose in the place of every claim
// that a policy speaks of, one by one: the draft must still load and mean what it
// says.
func TestHostileDrafts(t *testing.T) {
	values := []any{
		"x: {\n  grant: [all]}", `"; }, {credential: root`, "##[x]", "\u200b", "", "\x1b[2J", "*", "null", "~",
		strings.Repeat("é\"", 3000), []any{"x: {", "'"}, slices.Repeat([]any{"1"}, 2000), json.Number("1e400"), true, nil,
	}
	for name, preset := range presets.Known() {
		spoken := draft.New(example(t, name), draft.Options{}).Policy
		for claim, c := range preset.Claims {
			if !strings.Contains(spoken, " "+claim+": ") {
				continue
			}
			for _, v := range values {
				token := example(t, name)
				set(token, claim, c, v)
				d := draft.New(token, draft.Options{Broker: broker, Asked: broker, Credentials: []string{"registry"}})
				if _, isText := token["sub"].(string); !isText && d.Certainty == presets.Unknown {
					continue // of an unknown platform, and a broker refuses tokens whose sub is no text
				}
				load(t, d, checkIssuer(t, d))
			}
		}
	}
}

func example(t *testing.T, name string) map[string]any {
	t.Helper()
	token, err := presets.Example(name, "")
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// set puts v where the claim is in a token.
func set(token map[string]any, claim string, c presets.Claim, v any) {
	path := append(slices.Clone(c.Path), claim)
	if len(c.Path) > 0 {
		path = c.Path
	}
	for _, step := range path[:len(path)-1] {
		inner, ok := token[step].(map[string]any)
		if !ok {
			inner = map[string]any{}
			token[step] = inner
		}
		token = inner
	}
	token[path[len(path)-1]] = v
}

// checkIssuer checks the issuer's entry and returns the preset that it makes.
func checkIssuer(t *testing.T, d *draft.Draft) *presets.Preset {
	t.Helper()
	var config struct {
		Issuers []issuers.Config `yaml:"issuers"`
	}
	if err := strictyaml.Decode("brevetd.yaml", []byte(d.Issuer), &config); err != nil {
		t.Fatalf("%v:\n%s", err, d.Issuer)
	}
	is := &config.Issuers[0]
	if is.Audience == "" {
		is.Audience = broker
	}
	preset, err := is.Resolve()
	if err != nil {
		t.Fatalf("%v:\n%s", err, d.Issuer)
	}
	return preset
}

// load loads the policy and runs its tests. Only where the policy says that it
// must be is its credential of class read.
func load(t *testing.T, d *draft.Draft, preset *presets.Preset) *policies.Set {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, d.Name+".yaml"), []byte(d.Policy), 0o600); err != nil {
		t.Fatal(err)
	}
	read := strings.Contains(d.Policy, "must be of class: read")
	set, err := policies.Load(dir, policies.Options{
		Issuers:     map[string]*presets.Preset{d.Preset.Name: preset},
		Credentials: map[string]policies.Credential{"registry": {MaxTTL: 15 * time.Minute, Read: read}},
		Sources:     true,
	})
	if err != nil {
		t.Fatalf("%v:\n%s", err, d.Policy)
	}
	results := set.Test()
	if len(results) < 2 {
		t.Errorf("the policy has %d tests, want one that allows and one that denies", len(results))
	}
	for _, r := range results {
		if !r.Passed {
			t.Errorf("test %q: %s\n%s", r.Name, r.Message, d.Policy)
		}
	}
	if warnings := set.Warnings(); len(warnings) > 0 {
		t.Errorf("the policy has warnings: %v", warnings)
	}
	return set
}

// TestReadAsTheBroker checks that a job reads claims as the broker does.
func TestReadAsTheBroker(t *testing.T) {
	for name, preset := range presets.Known() {
		for _, variant := range append(presets.Variants(name), "") {
			token, err := presets.Example(name, variant)
			if err != nil {
				t.Fatal(err)
			}
			want, refused := issuers.ReadClaims(preset, token)
			got, wrong := preset.Read(token)
			if (refused != nil) != (len(wrong) > 0) || refused == nil && !reflect.DeepEqual(got, want) {
				t.Errorf("%s %s: Read = %v, %q; the broker reads %v, %v", name, variant, got, wrong, want, refused)
			}
		}
	}
}
