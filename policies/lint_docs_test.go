package policies

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
)

// The tables of docs/lint.md are those of the rules and of the lessons.
func TestLintDocs(t *testing.T) {
	const file = "../docs/lint.md"
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	text := string(data)
	for mark, table := range map[string]string{"<!-- rules -->\n": rulesTable(), "<!-- lessons -->\n": lessonsTable()} {
		before, rest, ok := strings.Cut(text, mark)
		_, after, closed := strings.Cut(rest, "<!-- end -->\n")
		if !ok || !closed {
			t.Fatalf("%s has no %s", file, mark)
		}
		text = before + mark + table + "<!-- end -->\n" + after
	}
	if text == string(data) {
		return
	}
	if flag.Lookup("update").Value.String() != "true" {
		t.Fatalf("%s is not what the code says; run: go test ./policies -run TestLintDocs -update", file)
	}
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func rulesTable() string {
	var b strings.Builder
	fmt.Fprint(&b, "| id | name | severity | what is wrong with it |\n| --- | --- | --- | --- |\n")
	for _, r := range Rules() {
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", r.ID, r.Name, r.Severity, r.About)
	}
	return b.String()
}

func lessonsTable() string {
	var b strings.Builder
	fmt.Fprint(&b, "| the wrong policy | where it stops |\n| --- | --- |\n")
	for _, l := range lessons() {
		stop := "does not load: " + strings.ReplaceAll(l.load, "|", "\\|") + " …"
		if l.load == "" {
			stop = "lint: " + strings.ReplaceAll(l.lint, " ", ", ")
		}
		fmt.Fprintf(&b, "| %s | %s |\n", strings.NewReplacer("|", "\\|", "*", "\\*").Replace(l.name), stop)
	}
	return b.String()
}
