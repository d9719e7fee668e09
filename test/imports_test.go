// Package test holds what is true of the whole repository.
package test

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/brevet-dev/brevet/"

// mayImport is the direction of the arrows: which packages of ours a package
// may import, directly. A package that is not here may import none; a new one
// has to be written down.
var mayImport = map[string][]string{
	"broker/api":          {},
	"issuers/presets":     {},
	"issuers/strictjson":  {},
	"issuers":             {"issuers/presets", "issuers/strictjson"},
	"issuers/lab":         {"issuers/presets"},
	"policies/strictyaml": {},
	"policies/gitdir":     {},
	"policies":            {"issuers", "issuers/presets", "policies/strictyaml"},
	"broker":              {"broker/api", "issuers", "issuers/presets", "policies"},
	"broker/lease":        {"broker", "broker/api"},
	"broker/audit":        {"broker", "broker/api"},
	"broker/keys":         {"broker", "broker/api", "broker/keys/trust"},
	"broker/keys/trust":   {},
	"broker/keys/tpm":     {"broker/keys", "broker/keys/trust"},
	"broker/keys/pkcs11":  {"broker/keys", "broker/keys/pkcs11/wire", "broker/keys/trust"},
	"broker/mint":         {"broker", "broker/api", "broker/keys", "issuers", "policies/strictyaml"},
	"broker/server":       {"broker", "broker/api"},
	"plugins/runner/mask": {"broker/api"},
	"plugins/runner":      {"broker/api", "plugins/exchange", "plugins/function", "plugins/function/ststoken", "issuers/strictjson", "plugins/runner/mask"},
	"cmd/brevet":          {"broker/api", "broker/keys/trust", "plugins/exchange", "plugins/function", "plugins/function/extension", "plugins/runner", "plugins/runner/agent", "plugins/runner/draft", "plugins/runner/mask"},

	"plugins/runner/draft": {"issuers/presets"},
	"plugins/runner/agent": {"broker/api", "plugins/exchange", "plugins/runner"},

	"plugins/exchange":             {"broker/api"},
	"plugins/function":             {"broker/api", "plugins/exchange"},
	"plugins/function/awsidentity": {"broker/api", "plugins/exchange", "plugins/function"},
	"plugins/function/awscreds":    {"plugins/exchange", "plugins/function"},
	"plugins/function/ststoken":    {"broker/api", "plugins/exchange", "plugins/function"},
	"plugins/function/extension":   {"broker/api", "plugins/exchange", "plugins/function", "plugins/function/ststoken"},

	"examples/functions/lambda-go": {"plugins/function", "plugins/function/awsidentity"},

	"examples/functions/kubernetes/app": {},

	"broker/keys/pkcs11/wire": {},
	"cmd/brevetd-pkcs11":      {"broker/keys/pkcs11/wire"},

	"examples/functions/google-go":     {"plugins/function"},
	"examples/functions/google-go/cmd": {"examples/functions/google-go"},

	"cmd/brevetd": {
		"broker", "broker/audit", "broker/keys", "broker/keys/pkcs11", "broker/keys/tpm", "broker/keys/trust", "broker/lease", "broker/mint", "broker/server",
		"issuers", "issuers/lab", "issuers/presets", "policies", "policies/gitdir", "policies/strictyaml",
	},
}

// inTests may be imported by tests only, and by what is under test/.
var inTests = []string{"plugins/runner/runnertest", "test/"}

// mayLink are the only modules besides ours that end up in a program: in a job
// age, for files encrypted with data keys, and what age itself needs; beside an
// HSM vendor's library what loads it.
var mayLink = map[string][]string{
	"cmd/brevet":         {"filippo.io/age", "filippo.io/hpke", "golang.org/x/crypto", "golang.org/x/sys", "golang.org/x/term"},
	"cmd/brevetd-pkcs11": {"github.com/ebitengine/purego"},
	"plugins/function":   {}, // with what it links a function starts

	"plugins/function/awscreds": {"github.com/aws/aws-sdk-go-v2", "github.com/aws/smithy-go"},
	"plugins/function/awsidentity": { // what STS takes
		"github.com/aws/aws-sdk-go-v2", "github.com/aws/aws-sdk-go-v2/internal/configsources", "github.com/aws/aws-sdk-go-v2/internal/endpoints/v2",
		"github.com/aws/aws-sdk-go-v2/internal/v4a", "github.com/aws/aws-sdk-go-v2/service/internal/accept-encoding",
		"github.com/aws/aws-sdk-go-v2/service/internal/presigned-url", "github.com/aws/aws-sdk-go-v2/service/sts", "github.com/aws/smithy-go",
	},
}

func TestImports(t *testing.T) {
	for _, line := range goList(t, `{{.ImportPath}} {{join .Imports " "}}`, "./...") {
		path, imports, _ := strings.Cut(line, " ")
		path = strings.TrimPrefix(path, module)
		if testOnly(path) {
			continue
		}
		allowed, known := mayImport[path]
		if !known {
			t.Errorf("%s is a new package: write down in mayImport what it may import", path)
		}
		for imported := range strings.FieldsSeq(imports) {
			ours, ok := strings.CutPrefix(imported, module)
			if ok && !slices.Contains(allowed, ours) {
				t.Errorf("%s imports %s, which is against the direction of the arrows", path, ours)
			}
		}
	}
}

func testOnly(path string) bool {
	return slices.ContainsFunc(inTests, func(prefix string) bool { return strings.HasPrefix(path+"/", prefix) || path == prefix })
}

func TestImportsOfSmallPrograms(t *testing.T) {
	for program, allowed := range mayLink {
		linked := map[string]bool{}
		for _, dep := range goList(t, `{{with .Module}}{{.Path}}{{end}}`, "-deps", "./"+program) {
			linked[dep] = true
			if dep != "" && dep+"/" != module && !slices.Contains(allowed, dep) {
				t.Errorf("%s links %s: it runs in other people's jobs and functions, or beside other people's code, and stays small", program, dep)
			}
		}
		for _, dep := range allowed {
			if !linked[dep] {
				t.Errorf("%s does not link %s any more: strike it from mayLink", program, dep)
			}
		}
	}
}

func goList(t *testing.T, format string, args ...string) []string {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list", "-f", format}, args...)...)
	cmd.Dir = ".."
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	return strings.Split(strings.TrimSpace(string(out)), "\n")
}

// Each direct dependency earns a sentence.
func TestDependenciesAreExplained(t *testing.T) {
	explained, err := os.ReadFile("../CONTRIBUTING.md")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("go", "list", "-m", "-f", "{{if not .Indirect}}{{.Path}}{{end}}", "all")
	cmd.Dir = ".."
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	for path := range strings.FieldsSeq(string(out)) {
		if path != strings.TrimSuffix(module, "/") && !strings.Contains(string(explained), path) {
			t.Errorf("CONTRIBUTING.md does not say what %s is for", path)
		}
	}
}
