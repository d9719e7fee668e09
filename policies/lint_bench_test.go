package policies

import (
	"fmt"
	"strings"
	"testing"
)

// BenchmarkLint lints 10 000 policies: of as many projects, of one project, and
// of one owner.
func BenchmarkLint(b *testing.B) {
	for name, edit := range map[string]func(doc string, i int) string{
		"projects": func(doc string, i int) string {
			return strings.Replace(doc, `"456"`, fmt.Sprintf(`"%d"`, 1000+i), 1)
		},
		"project": func(doc string, i int) string {
			return strings.Replace(doc, "production", fmt.Sprintf("env-%d", i), 1)
		},
		"clones": func(doc string, _ int) string { return doc },
	} {
		b.Run(name, func(b *testing.B) {
			var all strings.Builder
			files := map[string]string{}
			for i := range 10_000 {
				doc := ofGitHub("  environment: production\n  event_name: [push, schedule]\n  ref: {glob: \"refs/heads/release/*\"}", `when: claims.run_attempt == "1"`)
				doc = edit(doc, i)
				fmt.Fprintf(&all, "---\n%s", strings.Replace(doc, "policy: a", fmt.Sprintf("policy: p%d", i), 1))
				if i%100 == 99 {
					files[fmt.Sprintf("%d.yaml", i)] = all.String()
					all.Reset()
				}
			}
			set, err := Load(folder(b, files), realOptions())
			if err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				if len(set.Lint(nil)) == 0 {
					b.Fatal("nothing found")
				}
			}
		})
	}
}
