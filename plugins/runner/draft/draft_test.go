package draft_test

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode"

	"github.com/brevet-dev/brevet/issuers/presets"
	"github.com/brevet-dev/brevet/issuers/strictjson"
	"github.com/brevet-dev/brevet/plugins/runner/draft"
	"github.com/brevet-dev/brevet/policies/strictyaml"
)

var update = flag.Bool("update", false, "write the golden files")

func read(t testing.TB, text string) map[string]any {
	t.Helper()
	token, err := strictjson.Object(text, strictjson.Limits{Depth: 16, Members: 200})
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// example returns the recorded claims of a platform with changes; nil removes one.
func example(t testing.TB, name string, changes map[string]any) map[string]any {
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

// hostile are claims with which a stranger would write lines of their own.
func hostile() map[string]any {
	return map[string]any{
		"ref":         "refs/heads/x: {\n  grant: [all]}\n::set-output name=x::y",
		"head_ref":    "\x1b]0;owned\x07\x1b[31m\u202e\u200b😀\U000e0041##[add-mask]x ##vso[task.setvariable]y ###",
		"environment": `"; }, {credential: root` + " #",
		"workflow":    "::error::pwned",
		"repository":  "acme/sh'op\t- \\u0041",
		"::stop-commands::x": []any{
			"\n::add-mask::", map[string]any{"##[command]": "\x00", "\x1b[2J": nil},
		},
		"nested": map[string]any{"::warning::": "\r\n::debug::z", "deep": map[string]any{}},
		"half":   json.Number("1.50"),
	}
}

func TestText(t *testing.T) {
	const broker = "https://broker.example.com"
	for _, tt := range []struct {
		name    string
		token   map[string]any
		options draft.Options
	}{
		{"github", example(t, "github", nil), draft.Options{Broker: broker, Asked: broker, Credentials: []string{"registry", "deploy"}}},
		{"pull-request", example(t, "github", map[string]any{
			"event_name": "pull_request", "ref": "refs/pull/7/merge", "environment": nil, "ref_protected": "false", "base_ref": "main", "head_ref": "x: {",
		}), draft.Options{Asked: "brevet-claims"}},
		{"unprotected", example(t, "gitlab", map[string]any{"ref": "topic", "ref_protected": "false", "environment": nil, "environment_protected": nil}), draft.Options{Broker: broker}},
		{"own-gitlab", example(t, "gitlab", map[string]any{"iss": "https://git.example.com", "aud": "https://git.example.com"}), draft.Options{Broker: broker, IssuerURL: "https://git.example.com/"}},
		{"invisible", example(t, "github", map[string]any{"environment": "prod\u200buction", "repository": "acme/##[x]"}), draft.Options{}},
		{"hostile", example(t, "github", hostile()), draft.Options{}},
		{"unknown", read(t, `{"iss": "https://ci.example.com", "sub": "job:7", "aud": ["a", "b"], "team": "red", "level": 3, "main": true, "roles": ["x"], "more": {"y": 1}, "odd name": "z"}`), draft.Options{}},
		{"bitbucket", example(t, "bitbucket", nil), draft.Options{Broker: broker}},
		{"nothing", map[string]any{}, draft.Options{IssuerURL: broker}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := draft.New(tt.token, tt.options)
			checkHarmless(t, d)
			golden := filepath.Join("testdata", tt.name+".golden")
			if *update {
				if err := os.WriteFile(golden, []byte(d.Text()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if d.Text() != string(want) {
				t.Errorf("Text is\n%s\nwant\n%s", d.Text(), want)
			}
		})
	}
}

// checkHarmless checks that nothing of a draft is a command to a terminal or to
// a platform that reads the log, and that what is to be pasted says what the
// token says.
func checkHarmless(t *testing.T, d *draft.Draft) {
	t.Helper()
	asJSON, err := d.JSON()
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{d.Text(), asJSON} {
		for line := range strings.Lines(text) {
			line = strings.TrimSuffix(line, "\n")
			if strings.Contains(line, "##") || strings.HasPrefix(strings.TrimSpace(line), "::") || strings.ContainsFunc(line, func(r rune) bool { return !unicode.IsPrint(r) }) {
				t.Errorf("a line is not harmless: %q", line)
			}
		}
	}
	var back map[string]any
	decoder := json.NewDecoder(strings.NewReader(asJSON))
	decoder.UseNumber()
	if err := decoder.Decode(&back); err != nil {
		t.Errorf("JSON is none: %v", err)
	}
	var issuer struct {
		Issuers []map[string]any `yaml:"issuers"`
	}
	if err := strictyaml.Decode("issuer", []byte(d.Issuer), &issuer); err != nil || len(issuer.Issuers) != 1 {
		t.Errorf("the issuer's entry is %v, %v:\n%s", issuer, err, d.Issuer)
	}
	checkPolicy(t, d)
}

// checkPolicy checks that a policy has the keys of one, and that its claims are
// those of the token, as far as they are in the test "this run".
func checkPolicy(t *testing.T, d *draft.Draft) {
	t.Helper()
	var policy struct {
		Policy, Issuer string
		Match          map[string]any
		Names          map[string]string
		Grant          []struct{ Credential, TTL string }
		Tests          []struct {
			Name        string
			Claims      map[string]any
			Allow, Deny []string
		}
	}
	if err := strictyaml.Decode("policy", []byte(d.Policy), &policy); err != nil {
		t.Fatalf("%v:\n%s", err, d.Policy)
	}
	if policy.Policy != d.Name || len(policy.Match) == 0 || len(policy.Grant) == 0 || len(policy.Tests) == 0 {
		t.Errorf("the policy lacks a part:\n%s", d.Policy)
	}
	got := map[string]any{}
	for _, c := range d.Claims {
		if c.Standing == draft.Usable {
			got[c.Name] = c.Value
		}
	}
	for name, v := range policy.Tests[0].Claims {
		if list, ok := v.([]any); ok {
			v = strings.Join(texts(list), "\x00")
		}
		want := got[name]
		if list, ok := want.([]string); ok {
			want = strings.Join(list[:min(8, len(list))], "\x00")
		}
		if v != want {
			t.Errorf("claim %s is %q in the test and %q in the token", name, v, want)
		}
	}
}

func texts(list []any) (out []string) {
	for _, v := range list {
		s, _ := v.(string)
		out = append(out, s)
	}
	return out
}

// TestWidth checks that what is not a value, or one word, fits a terminal.
func TestWidth(t *testing.T) {
	for name := range presets.Known() {
		for line := range strings.Lines(draft.New(example(t, name, nil), draft.Options{}).Text()) {
			if len([]rune(line)) > 81 && strings.Contains(line, "# ") && len(strings.Fields(line)) > 2 {
				t.Errorf("%s: a line of %d characters: %s", name, len([]rune(line)), line)
			}
		}
	}
}

func FuzzNew(f *testing.F) {
	for name := range presets.Known() {
		for _, token := range []map[string]any{example(f, name, nil), example(f, name, hostile())} {
			text, err := json.Marshal(token)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(string(text), "registry")
		}
	}
	f.Add(`{"iss":"https://ci.example.com","sub":"::x","n":1e400,"a b":["\n"],"null":null,"y":"yes"}`, "a: b")
	f.Fuzz(func(t *testing.T, text, credential string) {
		token, err := strictjson.Object(text, strictjson.Limits{Depth: 16, Members: 200})
		if err != nil || len(text) > 16<<10 || credential == "" || !draft.Writable(credential) {
			return
		}
		checkHarmless(t, draft.New(token, draft.Options{Credentials: []string{credential}}))
	})
}
