package docs

import (
	"encoding/json"
	"flag"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/brevet-dev/brevet/broker"
	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/broker/keys/trust"
	"github.com/brevet-dev/brevet/broker/mint"
	"github.com/brevet-dev/brevet/issuers"
	"github.com/brevet-dev/brevet/issuers/presets"
)

var update = flag.Bool("update", false, "write what is generated into the documents")

// TestKeysAreDocumented holds the reference tables to the code: every key,
// field, event and metric that the code has must begin a row of its table.
func TestKeysAreDocumented(t *testing.T) {
	config := structs(t, "cmd/brevetd")
	policy := structs(t, "policies")
	for _, tt := range []struct {
		file, section string
		want          []string
	}{
		{"configuration.md", "### Server", paths(config, "config", "")},
		{"configuration.md", "### Issuers", append(tags[issuers.Config]("yaml"), tags[presets.Claim]("yaml")...)},
		{"configuration.md", "### Credentials", tags[mint.Config]("yaml")},
		{"configuration.md", "## Health and metrics", metrics(t, "cmd/brevetd", "broker/server")},
		{"policies.md", "## One policy", slices.Concat(keys(policy["document"]), keys(policy["grantEntry"]), keys(policy["limitsEntry"]), keys(policy["testEntry"]), keys(policy["unsafeEntry"]))},
		{"policies.md", "## Defaults", slices.Concat(keys(policy["defaultsDocument"]), keys(policy["limitsEntry"]))},
		{"policies.md", "## Guardrails", slices.Concat(keys(policy["guardrailsDocument"]), keys(policy["denyEntry"]), keys(policy["allowEntry"]))},
		{"http.md", "## Errors", stringConstants(t, "broker/api", "Code")},
		{"http.md", "### The answer", tags[leaseAnswer]("json")},
		{"http.md", "## One lease", tags[api.LeaseStatus]("json")},
		{"http.md", "## Introspect", tags[api.Introspection]("json")},
		{"audit.md", "### Fields", slices.Concat(tags[broker.Event]("json"), tags[broker.Who]("json"), tags[broker.EventLease]("json"), tags[broker.Order]("json"), tags[issuers.Workload]("json"))},
		{"audit.md", "### Events", append(stringConstants(t, "broker", "Event"), stringConstants(t, "broker/audit", "event")...)},
		{"trust.md", "### Bundle", tags[trust.Bundle]("json")},
		{"trust.md", "### Broker", tags[trust.Broker]("json")},
		{"trust.md", "### Attestation", tags[trust.Attestation]("json")},
		{"trust.md", "### Key", tags[trust.Certified]("json")},
		{"audit.md", "### Reasons", append(stringConstants(t, "broker", "Why"), stringConstants(t, "broker", "why")...)},
		{"audit.md", "### Why a token was refused", issuers.Reasons()},
	} {
		if len(tt.want) == 0 {
			t.Fatalf("%s, %s: nothing found in the code", tt.file, tt.section)
		}
		rows := firstCells(section(t, tt.file, tt.section))
		for _, key := range tt.want {
			if !slices.Contains(rows, key) {
				t.Errorf("docs/%s: the tables under %q have no row for `%s`", tt.file, tt.section, key)
			}
		}
	}
}

// leaseAnswer has the members of a lease on the wire; api.Lease itself has no
// tags, so that encoding it is a deliberate act.
type leaseAnswer struct {
	LeaseID    string `json:"lease_id"`
	Credential string `json:"credential"`
	Kind       string `json:"kind"`
	ExpiresAt  string `json:"expires_at"`
	Renewable  bool   `json:"renewable"`
	Revocable  bool   `json:"revocable"`
	Scope      string `json:"scope"`
	Heartbeat  int64  `json:"heartbeat"`
	Values     string `json:"values"`
	Env        string `json:"env"`
	Sensitive  string `json:"sensitive"`
}

// TestLeaseAnswer keeps leaseAnswer true to what the broker writes.
func TestLeaseAnswer(t *testing.T) {
	data, err := (&api.Lease{Scope: api.ScopeRun, Heartbeat: time.Second}).Encode()
	if err != nil {
		t.Fatal(err)
	}
	var members map[string]any
	if err := json.Unmarshal(data, &members); err != nil {
		t.Fatal(err)
	}
	want := slices.Sorted(slices.Values(tags[leaseAnswer]("json")))
	if got := slices.Sorted(maps.Keys(members)); !slices.Equal(got, want) {
		t.Errorf("members of a lease = %v, want %v", got, want)
	}
}

// TestErrorDescriptionsAreDocumented: what a client is told is what it looks up.
func TestErrorDescriptionsAreDocumented(t *testing.T) {
	text := section(t, "http.md", "## Errors")
	for _, description := range refusalDescriptions(t) {
		if !strings.Contains(text, "| "+description+" |") {
			t.Errorf("docs/http.md does not have the description %q", description)
		}
	}
}

// TestJSONFiles: a JSON file that a document shows must be JSON.
func TestJSONFiles(t *testing.T) {
	for _, file := range documents(t) {
		data, err := os.ReadFile(filepath.Join(root, file))
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range blocks(string(data)) {
			if strings.HasPrefix(b.info, "json ") && !json.Valid([]byte(b.text)) {
				t.Errorf("%s:%d: not JSON", file, b.line)
			}
		}
	}
}

// section returns a document's text from a heading to the next of its level.
func section(t *testing.T, file, heading string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(root, "docs", file))
	if err != nil {
		t.Fatal(err)
	}
	_, text, found := strings.Cut("\n"+string(data), "\n"+heading+"\n")
	if !found {
		t.Fatalf("docs/%s has no heading %q", file, heading)
	}
	level, _, _ := strings.Cut(heading, " ")
	next := regexp.MustCompile(`(?m)^#{1,` + strconv.Itoa(len(level)) + `} `)
	if at := next.FindStringIndex(text); at != nil {
		text = text[:at[0]]
	}
	return text
}

var (
	firstCell = regexp.MustCompile(`(?m)^\| ([^|]*) \|`)
	codeWord  = regexp.MustCompile("`([^`]+)`")
)

// firstCells returns the words in code font of the first cell of each row.
func firstCells(text string) []string {
	var out []string
	for _, cell := range firstCell.FindAllStringSubmatch(text, -1) {
		for _, word := range codeWord.FindAllStringSubmatch(cell[1], -1) {
			out = append(out, word[1])
		}
	}
	return out
}

// tags returns the names that the fields of T have in YAML or JSON.
func tags[T any](kind string) []string {
	var out []string
	for _, f := range reflect.VisibleFields(reflect.TypeFor[T]()) {
		if name, _, _ := strings.Cut(f.Tag.Get(kind), ","); name != "" && name != "-" {
			out = append(out, name)
		}
	}
	return out
}

// parse reads the Go files of a package of this repository, without its tests.
func parse(t *testing.T, pkg string) []*ast.File {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(root, pkg, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	var out []*ast.File
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, file)
	}
	return out
}

// structs returns the struct types that a package declares, by name. It is for
// those that cannot be imported.
func structs(t *testing.T, pkg string) map[string]*ast.StructType {
	t.Helper()
	out := map[string]*ast.StructType{}
	for _, file := range parse(t, pkg) {
		ast.Inspect(file, func(n ast.Node) bool {
			if spec, ok := n.(*ast.TypeSpec); ok {
				if s, ok := spec.Type.(*ast.StructType); ok {
					out[spec.Name.Name] = s
				}
			}
			return true
		})
	}
	return out
}

func yamlTag(f *ast.Field) string {
	if f.Tag == nil {
		return ""
	}
	tag, err := strconv.Unquote(f.Tag.Value)
	if err != nil {
		return ""
	}
	name, _, _ := strings.Cut(reflect.StructTag(tag).Get("yaml"), ",")
	return name
}

func keys(s *ast.StructType) []string {
	var out []string
	for _, f := range s.Fields.List {
		if name := yamlTag(f); name != "" {
			out = append(out, name)
		}
	}
	return out
}

// paths returns the keys of a struct and, with dots, those of the structs in it.
func paths(all map[string]*ast.StructType, name, prefix string) []string {
	var out []string
	for _, f := range all[name].Fields.List {
		key, typ := yamlTag(f), f.Type
		if star, ok := typ.(*ast.StarExpr); ok {
			typ = star.X
		}
		ident, ok := typ.(*ast.Ident)
		switch {
		case key == "":
		case ok && all[ident.Name] != nil:
			out = append(out, paths(all, ident.Name, prefix+key+".")...)
		default:
			out = append(out, prefix+key)
		}
	}
	return out
}

// stringConstants returns the values of a package's string constants whose
// names begin with prefix.
func stringConstants(t *testing.T, pkg, prefix string) []string {
	t.Helper()
	var out []string
	for _, file := range parse(t, pkg) {
		ast.Inspect(file, func(n ast.Node) bool {
			spec, ok := n.(*ast.ValueSpec)
			if !ok || len(spec.Values) != 1 || !strings.HasPrefix(spec.Names[0].Name, prefix) {
				return true
			}
			if value, ok := stringLiteral(spec.Values[0]); ok {
				out = append(out, value)
			}
			return true
		})
	}
	return out
}

// metrics returns the names of metrics in the packages.
func metrics(t *testing.T, pkgs ...string) []string {
	t.Helper()
	name := regexp.MustCompile(`^brevet_[a-z_]+$`)
	var out []string
	for _, pkg := range pkgs {
		for _, file := range parse(t, pkg) {
			ast.Inspect(file, func(n ast.Node) bool {
				if e, ok := n.(ast.Expr); ok {
					if value, ok := stringLiteral(e); ok && name.MatchString(value) {
						out = append(out, value)
					}
				}
				return true
			})
		}
	}
	return out
}

// refusalDescriptions returns the last element of each entry of broker's rules.
func refusalDescriptions(t *testing.T) []string {
	t.Helper()
	var out []string
	for _, file := range parse(t, "broker") {
		ast.Inspect(file, func(n ast.Node) bool {
			spec, ok := n.(*ast.ValueSpec)
			if !ok || spec.Names[0].Name != "rules" {
				return true
			}
			for _, rule := range spec.Values[0].(*ast.CompositeLit).Elts {
				fields := rule.(*ast.CompositeLit).Elts
				if text, ok := stringLiteral(fields[len(fields)-1]); ok {
					out = append(out, text)
				}
			}
			return false
		})
	}
	if len(out) == 0 {
		t.Fatal("no rules found in package broker")
	}
	return out
}

func stringLiteral(e ast.Expr) (string, bool) {
	lit, ok := e.(*ast.BasicLit)
	if !ok || lit.Kind != token.STRING {
		return "", false
	}
	value, err := strconv.Unquote(lit.Value)
	return value, err == nil
}
