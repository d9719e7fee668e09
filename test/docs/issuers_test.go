package docs

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/brevet-dev/brevet/issuers"
	"github.com/brevet-dev/brevet/issuers/presets"
	"github.com/brevet-dev/brevet/policies"
)

// platforms lists the presets in the document's order.
func platforms() []*presets.Preset {
	known := presets.Known()
	delete(known, "generic")
	var out []*presets.Preset
	for _, name := range []string{"github", "gitlab"} { // what most people look for
		out = append(out, known[name])
		delete(known, name)
	}
	for _, name := range slices.Sorted(maps.Keys(known)) {
		out = append(out, known[name])
	}
	return out
}

// TestIssuersDocument compares what stands between "<!-- presets -->" and
// "<!-- end -->" in docs/issuers.md with the presets; -update writes it.
func TestIssuersDocument(t *testing.T) {
	file := filepath.Join(root, "docs", "issuers.md")
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	marked := regexp.MustCompile(`(?s)<!-- presets -->\n.*?<!-- end -->`)
	if !marked.Match(data) {
		t.Fatal("issuers.md has no place for the presets")
	}
	text := overview()
	for _, p := range platforms() {
		text += platform(t, p)
	}
	want := marked.ReplaceAllLiteral(data, []byte("<!-- presets -->\n"+text+"<!-- end -->"))
	if bytes.Equal(data, want) {
		return
	}
	if !*update {
		t.Fatal("docs/issuers.md is not what the presets say; run: go test ./test/docs -run TestIssuersDocument -update")
	}
	if err := os.WriteFile(file, want, 0o644); err != nil {
		t.Fatal(err)
	}
}

func overview() string {
	out := "\n| preset | platform | age, life at most | replay | `jti` |\n|---|---|---|---|---|\n"
	for _, p := range platforms() {
		jti := "its hash stands in"
		if p.RequireJTI {
			jti = "required"
		}
		out += fmt.Sprintf("| [`%s`](#%s) | %s | %s, %s | `%s` | %s |\n", p.Name, p.Name, p.Title, short(p.MaxAge), short(p.MaxLifetime), p.Replay, jti)
	}
	return out
}

// short writes a duration as the configuration does.
func short(d time.Duration) string {
	text := strings.TrimSuffix(d.String(), "m0s") + "m"
	if hours, whole := strings.CutSuffix(text, "h0m"); whole {
		return hours + "h"
	}
	return text
}

// platform is the section of one preset.
func platform(t *testing.T, p *presets.Preset) string {
	t.Helper()
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("\n## %s\n", p.Name)
	line("%s: [documentation](%s).\n", p.Title, p.Docs)
	line("%s\n", wrap("**The token.** "+presets.Guides()[p.Name].Job, ""))
	line("```yaml %s/issuer.yaml\n%s\n```\n", p.Name, presets.Guides()[p.Name].Config)
	line("```yaml %s/policies/shop.yaml\n%s```\n", p.Name, leastPolicy(t, p))
	line("| | |\n|---|---|")
	line("| issuers | %s |", code(p.URLs))
	line("| default audience | %s |", cmp.Or(code(p.DefaultAudiences), "none: a job must ask for one"))
	if len(p.KeysHosts) > 0 {
		line("| keys also on | %s |", code(p.KeysHosts))
	}
	line("| `alg` | %s |", code(p.Algorithms))
	if len(p.Subjects) > 0 {
		line("| `sub` | %s |", code(p.Subjects))
	}
	for _, pair := range p.MustEqual {
		line("| refused | `%s` and `%s` differ |", pair[0], pair[1])
	}
	for _, group := range p.OneOf {
		line("| refused | not exactly one of %s |", code(group))
	}
	for _, pin := range p.Pins {
		line("| pin | %s: %s |", pin.Name, gates(pin))
	}
	for _, r := range p.Risks {
		line("| risk | `%s` %s: %s |", r.Claim, code(r.Values), r.Why)
	}
	line("\nWhat its tokens do not tell, and what else to know:\n")
	for _, blind := range presets.Guides()[p.Name].Blind {
		line("%s", wrap("- "+blind, "  "))
	}
	line("\n%s", claimTable(p))
	return strings.TrimSuffix(b.String(), "\n")
}

// wrap breaks text into lines of at most 140 characters, but nowhere within a
// code span; all lines after the first are indented.
func wrap(text, indent string) string {
	var out, span strings.Builder
	length := 0
	flush := func() {
		if length > 0 && length+1+span.Len() > 140 {
			out.WriteString("\n" + indent)
			length = len(indent)
		} else if length > 0 {
			out.WriteByte(' ')
			length++
		}
		out.WriteString(span.String())
		length += span.Len()
		span.Reset()
	}
	for _, word := range strings.Split(text, " ") {
		if span.Len() > 0 {
			span.WriteByte(' ')
		}
		span.WriteString(word)
		if strings.Count(span.String(), "`")%2 == 0 {
			flush()
		}
	}
	return out.String()
}

func code(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return "`" + strings.Join(list, "` `") + "`"
}

// gates says in words how a pin is filled.
func gates(pin presets.Pin) string {
	var ways []string
	for _, gate := range pin.AnyOf {
		var all []string
		for _, hold := range gate {
			text := "`" + hold.Claim + "`"
			if hold.Value != "" {
				text = fmt.Sprintf("`%s: %q`", hold.Claim, hold.Value)
			}
			if hold.Exact {
				text += " without a pattern"
			}
			all = append(all, text)
		}
		ways = append(ways, strings.Join(all, " with "))
	}
	return strings.Join(ways, ", or ")
}

func claimTable(p *presets.Preset) string {
	out := "| claim | type | kind | meaning |\n|---|---|---|---|\n"
	for _, name := range slices.Sorted(maps.Keys(p.Claims)) {
		c, mark, doc := p.Claims[name], "", p.Claims[name].Doc
		switch {
		case c.Unverified:
			mark = " ??"
		case c.Optional:
			mark = " ?"
		}
		if len(c.Values) > 0 {
			doc += ": " + code(c.Values)
		}
		if len(c.Path) > 0 {
			doc += "; at `" + strings.Join(c.Path, "` → `") + "`"
		}
		out += fmt.Sprintf("| `%s`%s | %s | %s | %s |\n", name, mark, c.Type, c.Kind, doc)
	}
	return out
}

// leastPolicy fills the first gate of each pin with the example's values.
func leastPolicy(t *testing.T, p *presets.Preset) string {
	t.Helper()
	claims := exampleClaims(t, p, "")
	out := fmt.Sprintf("policy: shop-deploy\nissuer: %s\nmatch:\n", p.Name)
	matched := map[string]bool{}
	for _, pin := range p.Pins {
		for _, hold := range pin.AnyOf[0] {
			if !matched[hold.Claim] {
				out += fmt.Sprintf("  %s: %s\n", hold.Claim, yamlValue(t, claims[hold.Claim]))
			}
			matched[hold.Claim] = true
		}
	}
	if name, ok := claims[p.Project].(string); ok && !matched[p.Project] && !p.Claims[p.Project].Unverified {
		out += fmt.Sprintf("names: {%s: %s}\n", p.Project, yamlValue(t, name))
	}
	return out + "grant:\n  - {credential: deploy, ttl: 15m}\n"
}

func yamlValue(t *testing.T, value any) string {
	t.Helper()
	if list, ok := value.([]string); ok {
		value = map[string]string{"contains": list[0]}
	}
	text, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return strings.ReplaceAll(string(text), `":"`, `": "`)
}

func exampleClaims(t *testing.T, p *presets.Preset, variant string) map[string]any {
	t.Helper()
	payload, err := presets.Example(p.Name, variant)
	if err != nil {
		t.Fatal(err)
	}
	claims, err := issuers.ReadClaims(p, payload)
	if err != nil {
		t.Fatalf("%s %s: %v", p.Name, variant, err)
	}
	return claims
}

// TestLeastPolicies: the policies that issuers.md shows let the example's job in,
// and no job of another's, of a pull request, or with another id.
func TestLeastPolicies(t *testing.T) {
	for _, p := range platforms() {
		t.Run(p.Name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "shop.yaml"), []byte(leastPolicy(t, p)), 0o600); err != nil {
				t.Fatal(err)
			}
			set, err := policies.Load(dir, policies.Options{
				Issuers:     map[string]*presets.Preset{p.Name: p},
				Credentials: map[string]policies.Credential{"deploy": {}},
			})
			if err != nil {
				t.Fatal(err)
			}
			for _, variant := range append(presets.Variants(p.Name), "") {
				id := &issuers.Identity{Issuer: p.Name, Preset: p, Subject: "sub", Claims: exampleClaims(t, p, variant)}
				_, err := set.Decide(id, "deploy")
				if err != nil && !errors.Is(err, policies.ErrNoGrant) {
					t.Fatal(err)
				}
				if granted := err == nil; granted && isHostile(variant) || !granted && variant == "" {
					t.Errorf("%q: granted %v", variant, granted)
				}
			}
		})
	}
}

// isHostile reports whether a policy for the first example must refuse the variant.
func isHostile(variant string) bool {
	return strings.HasPrefix(variant, "other") && variant != "other_image" || slices.Contains([]string{
		"fork", "pull_request", "pull_request_target", "merge_request", "workflow_run", "issue_comment", "parent_pipeline", "trigger_job",
		"plan", "preview", "development", "ssh_rerun", "recreated",
	}, variant)
}
