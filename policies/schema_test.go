package policies_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/goccy/go-yaml"

	"github.com/brevet-dev/brevet/policies"
)

// TestSchemaGolden: what editors are told is looked at when it changes.
func TestSchemaGolden(t *testing.T) {
	for _, tt := range []struct {
		kind, file string
		options    policies.Options
	}{
		{"", "any", policies.Options{}}, {"policy", "policy", policies.Options{}}, {"test", "test", policies.Options{}},
		{"guardrails", "guardrails", policies.Options{}}, {"defaults", "defaults", policies.Options{}},
		{"policy", "policy.configured", options()},
	} {
		got, err := policies.Schema(tt.kind, tt.options)
		if err != nil {
			t.Fatal(err)
		}
		golden := filepath.Join("testdata", "schema", tt.file+".json")
		if *update {
			if err := os.WriteFile(golden, got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("Schema(%q) is not %s; go test -update writes it", tt.kind, golden)
		}
	}
	if _, err := policies.Schema("polcy", policies.Options{}); err == nil {
		t.Error("Schema(polcy): no error")
	}
}

// TestSchemaExplains: every key has its line for people, and no line is of a
// key that is gone.
func TestSchemaExplains(t *testing.T) {
	for _, kind := range policies.SchemaKinds() {
		for _, path := range unexplained(schemaOf(t, kind, policies.Options{}), kind) {
			t.Errorf("the schema says nothing of %s: see schemaTexts", path)
		}
	}
}

func unexplained(s map[string]any, at string) []string {
	var list []string
	properties, _ := s["properties"].(map[string]any)
	for name, p := range properties {
		sub, _ := p.(map[string]any)
		path := at + "." + name
		if sub["description"] == nil && !strings.HasSuffix(path, ".glob") && !strings.HasSuffix(path, ".contains") {
			list = append(list, path)
		}
		list = append(list, unexplained(sub, path)...)
	}
	if items, ok := s["items"].(map[string]any); ok {
		list = append(list, unexplained(items, at+"[]")...)
	}
	forms, _ := s["anyOf"].([]any)
	for _, f := range forms {
		list = append(list, unexplained(f.(map[string]any), at)...)
	}
	return list
}

// TestSchemaTakesGood: what loads fits the schema, with and without a
// configuration.
func TestSchemaTakesGood(t *testing.T) {
	for _, o := range []policies.Options{{}, options()} {
		for file, docs := range documentsBelow(t, "testdata/good") {
			for i, doc := range docs {
				for _, kind := range []string{"", kindOf(file, doc)} {
					if kind == "" && kindOf(file, doc) == "test" {
						continue
					}
					if problems := validate(t, schemaOf(t, kind, o), doc); len(problems) > 0 {
						t.Errorf("%s, document %d, by the schema %q:\n%s", file, i, kind, strings.Join(problems, "\n"))
					}
				}
			}
		}
	}
}

// TestSchemaRefuses: what an editor can see is wrong it is told.
func TestSchemaRefuses(t *testing.T) {
	const good = "policy: shop\nissuer: github\nmatch: {repository_id: \"1\", ref: refs/heads/main}\ngrant: [{credential: deploy, ttl: 15m}]\n"
	for _, tt := range []struct{ name, old, new string }{
		{"an unknown key", "issuer:", "isuer:"},
		{"an unknown issuer", "issuer: github", "issuer: githib"},
		{"an unknown claim", "repository_id:", "repositry_id:"},
		{"a claim of another issuer", "repository_id:", "project_id:"},
		{"a claim of another type", `"1"`, "1"},
		{"a glob for an id", `"1"`, `{glob: "1*"}`},
		{"a glob without a star", "refs/heads/main", "{glob: refs/heads/main}"},
		{"an empty list", "refs/heads/main", "[]"},
		{"a map of something", "refs/heads/main", "{regexp: x}"},
		{"an unknown credential", "deploy", "deploi"},
		{"a number for a duration", "15m", "15"},
		{"a duration without a unit", "15m", `"15"`},
		{"no grant", "grant: [{credential: deploy, ttl: 15m}]", "mode: enforce"},
		{"an unknown mode", "match:", "mode: shade\nmatch:"},
		{"a name in capitals", "policy: shop", "policy: Shop"},
		{"no reason", "match:", "unsafe: {reason: \"\"}\nmatch:"},
		{"an end that is none", "match:", "expires: tomorrow\nmatch:"},
		{"limits of nothing", "match:", "limits: {live: 0}\nmatch:"},
		{"a test without a name", "match:", "tests: [{claims: {}}]\nmatch:"},
		{"a claim of a test", "match:", "tests: [{name: x, claims: {no: x}}]\nmatch:"},
		{"no kind", "policy: shop\n", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			text := strings.Replace(good, tt.old, tt.new, 1)
			if text == good {
				t.Fatal("nothing was changed")
			}
			if problems := validate(t, schemaOf(t, "", options()), decodeYAML(t, text)[0]); len(problems) == 0 {
				t.Errorf("taken:\n%s", text)
			}
		})
	}
	if problems := validate(t, schemaOf(t, "", options()), decodeYAML(t, good)[0]); len(problems) > 0 {
		t.Errorf("the good one: %q", problems)
	}
}

// TestSchemaOfBad: of the bad documents those are refused
// that the schema can judge, and the reasons are written down.
func TestSchemaOfBad(t *testing.T) {
	var got strings.Builder
	bad := documentsBelow(t, "testdata/bad")
	for _, file := range slices.Sorted(maps.Keys(bad)) {
		for i, doc := range bad[file] {
			kind := kindOf(file, doc)
			if kind != "test" {
				kind = ""
			}
			problems := validate(t, schemaOf(t, kind, options()), doc)
			fmt.Fprintf(&got, "%s, document %d: %s\n", filepath.ToSlash(file), i, verdict(problems))
		}
	}
	const golden = "testdata/schema/bad.golden"
	if *update {
		if err := os.WriteFile(golden, []byte(got.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got.String() != string(want) {
		t.Errorf("got:\n%s\nwant (go test -update writes it):\n%s", got.String(), want)
	}
}

func verdict(problems []string) string {
	if len(problems) == 0 {
		return "fits; loading refuses it"
	}
	return "refused: " + strings.Join(problems, "; ")
}

func kindOf(file string, doc any) string {
	if strings.HasSuffix(strings.TrimSuffix(file, filepath.Ext(file)), "_test") {
		return "test"
	}
	m, _ := doc.(map[string]any)
	for _, kind := range []string{"guardrails", "defaults"} {
		if _, ok := m[kind]; ok {
			return kind
		}
	}
	return "policy"
}

func documentsBelow(t *testing.T, dir string) map[string][]any {
	t.Helper()
	out := map[string][]any{}
	err := filepath.WalkDir(dir, func(file string, e fs.DirEntry, err error) error {
		if ext := filepath.Ext(file); err != nil || ext != ".yaml" && ext != ".yml" {
			return err
		}
		data, err := os.ReadFile(file)
		out[file] = decodeYAML(t, string(data))
		return err
	})
	if err != nil || len(out) == 0 {
		t.Fatalf("%d files below %s, %v", len(out), dir, err)
	}
	return out
}

// decodeYAML reads documents as an editor does, which knows nothing of ours.
func decodeYAML(t *testing.T, text string) []any {
	t.Helper()
	var out []any
	d := yaml.NewDecoder(strings.NewReader(text), yaml.AllowDuplicateMapKey())
	for {
		var doc any
		if err := d.Decode(&doc); err != nil {
			return out // the end, or what no editor could read
		}
		if doc != nil {
			out = append(out, doc)
		}
	}
}

func schemaOf(t *testing.T, kind string, o policies.Options) map[string]any {
	t.Helper()
	data, err := policies.Schema(kind, o)
	if err != nil {
		t.Fatal(err)
	}
	var out map[string]any
	if err := json.Unmarshal(data, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// validate checks v by a schema that has no other keywords than ours: one that
// it does not know is an error of the test.
func validate(t *testing.T, root map[string]any, v any) []string {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		return []string{"not JSON"}
	}
	var plain any
	if err := json.Unmarshal(data, &plain); err != nil {
		t.Fatal(err)
	}
	c := checker{t: t, root: root}
	return c.check(root, plain, "")
}

type checker struct {
	t    *testing.T
	root map[string]any
}

func (c *checker) check(s map[string]any, v any, at string) []string {
	var problems []string
	for _, keyword := range slices.Sorted(maps.Keys(s)) {
		problems = append(problems, c.keyword(s, keyword, v, at)...)
	}
	return problems
}

func (c *checker) keyword(s map[string]any, keyword string, v any, at string) []string {
	arg := s[keyword]
	object, isObject := v.(map[string]any)
	list, isList := v.([]any)
	text, isText := v.(string)
	number, isNumber := v.(float64)
	fail := func(bad bool) []string {
		if bad {
			return []string{at + ": " + keyword}
		}
		return nil
	}
	var problems []string
	switch keyword {
	case "$schema", "$comment", "$defs", "title", "description", "then":
	case "$ref":
		name := strings.TrimPrefix(arg.(string), "#/$defs/")
		target, ok := c.root["$defs"].(map[string]any)[name].(map[string]any)
		if !ok {
			c.t.Fatalf("$ref %s leads nowhere", arg)
		}
		return c.check(target, v, at)
	case "type":
		return fail(!hasTypes(arg, v))
	case "const":
		return fail(arg != v)
	case "enum":
		return fail(!slices.Contains(arg.([]any), v))
	case "pattern":
		return fail(isText && !regexp.MustCompile(arg.(string)).MatchString(text))
	case "minLength":
		return fail(isText && utf8.RuneCountInString(text) < int(arg.(float64)))
	case "maxLength":
		return fail(isText && utf8.RuneCountInString(text) > int(arg.(float64)))
	case "minimum":
		return fail(isNumber && number < arg.(float64))
	case "maximum":
		return fail(isNumber && number > arg.(float64))
	case "minItems":
		return fail(isList && len(list) < int(arg.(float64)))
	case "maxItems":
		return fail(isList && len(list) > int(arg.(float64)))
	case "uniqueItems":
		seen := map[any]bool{}
		for _, item := range list {
			if seen[item] {
				return fail(true)
			}
			seen[item] = true
		}
	case "required":
		for _, name := range arg.([]any) {
			if _, ok := object[name.(string)]; isObject && !ok {
				return []string{fmt.Sprintf("%s: no %s", at, name)}
			}
		}
	case "items":
		for i, item := range list {
			problems = append(problems, c.check(arg.(map[string]any), item, fmt.Sprintf("%s[%d]", at, i))...)
		}
	case "propertyNames":
		for _, name := range slices.Sorted(maps.Keys(object)) {
			if len(c.check(arg.(map[string]any), name, at)) > 0 {
				problems = append(problems, at+"."+name+": propertyNames")
			}
		}
	case "properties":
		for _, name := range slices.Sorted(maps.Keys(object)) {
			if sub, ok := arg.(map[string]any)[name].(map[string]any); ok {
				problems = append(problems, c.check(sub, object[name], at+"."+name)...)
			}
		}
	case "additionalProperties":
		properties, _ := s["properties"].(map[string]any)
		for _, name := range slices.Sorted(maps.Keys(object)) {
			sub, isSchema := arg.(map[string]any)
			switch _, known := properties[name]; {
			case known:
			case isSchema:
				problems = append(problems, c.check(sub, object[name], at+"."+name)...)
			default:
				problems = append(problems, at+"."+name+": additionalProperties")
			}
		}
	case "anyOf":
		for _, form := range arg.([]any) {
			if len(c.check(form.(map[string]any), v, at)) == 0 {
				return nil
			}
		}
		return fail(true)
	case "allOf":
		for _, form := range arg.([]any) {
			problems = append(problems, c.check(form.(map[string]any), v, at)...)
		}
	case "if":
		if len(c.check(arg.(map[string]any), v, at)) == 0 {
			return c.check(s["then"].(map[string]any), v, at)
		}
	default:
		c.t.Fatalf("the schema has the keyword %s, which this test does not know", keyword)
	}
	return problems
}

func hasTypes(types, v any) bool {
	list, isList := types.([]any)
	if !isList {
		list = []any{types}
	}
	return slices.ContainsFunc(list, func(t any) bool {
		switch v := v.(type) {
		case map[string]any:
			return t == "object"
		case []any:
			return t == "array"
		case string:
			return t == "string"
		case bool:
			return t == "boolean"
		case float64:
			return t == "integer" && v == float64(int64(v))
		}
		return false
	})
}
