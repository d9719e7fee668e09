package policies_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/brevet-dev/brevet/policies"
	"github.com/brevet-dev/brevet/policies/strictyaml"
)

// bounds runs load and fails if it took longer or more memory than a hostile
// document may: less than a second and 100 MB are measured; the rest is for
// -race and a busy machine.
func bounds(t *testing.T, load func()) {
	t.Helper()
	const most, bytes = 10 * time.Second, 600 << 20
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	start := time.Now()
	load()
	took := time.Since(start)
	runtime.ReadMemStats(&after)
	if took > most {
		t.Errorf("it took %v", took)
	}
	if n := after.TotalAlloc - before.TotalAlloc; n > bytes {
		t.Errorf("it allocated %d MB", n>>20)
	}
	t.Logf("%v, %d MB", took.Round(time.Millisecond), (after.TotalAlloc-before.TotalAlloc)>>20)
}

// Each of these must be refused, quickly and with little memory, and leave the
// set that was in force as it was.
func TestHostileDocuments(t *testing.T) {
	const head = "policy: a\nissuer: github\nmatch: {repository_id: \"456\", ref: refs/heads/main, event_name: push}\ngrant: [{credential: other, ttl: 1m}]\n"
	matching := func(ref string) string {
		return "policy: a\nissuer: github\nmatch: {repository_id: \"456\", event_name: push, ref: " + ref + "}\ngrant: [{credential: other, ttl: 1m}]\n"
	}
	// The largest condition that is not refused for its size alone.
	costly := "when: '" + strings.Repeat(`claims.ref.matches("^refs/(heads|tags)/[a-z0-9._-]{1,30}$") && `, 12) + "claims.fork'\n"
	tests := []struct{ name, doc, want string }{
		{"huge", strings.Repeat("x", 1<<20), "a.yaml: a file has at most 131072 bytes"},
		{"a huge document", "policy: a\n" + strings.Repeat("# "+strings.Repeat("x", 98)+"\n", 700), "a.yaml:1:1: a document has at most 65536 bytes"},
		{"deep", strings.Repeat("[", 60_000), "a.yaml: the document has more than 20000 words and signs"},
		{"deep and short", strings.Repeat("[", 9_000), "a.yaml:1:21: more than 20 levels deep"},
		{"aliases", "a: &a [x]\nb: &b [*a, *a]\n", "a.yaml:1:4: anchors (&) are not allowed"},
		{"an alias bomb in the second document", head + "---\na: &a [x]\n" + strings.Repeat("b: &b [*a, *a, *a, *a, *a, *a, *a, *a, *a]\n", 10), "a.yaml:6:4: anchors (&) are not allowed"},
		{"many documents", strings.Repeat("---\n", 30_000), "a.yaml: the file has more than 200 documents; divide it"},
		{"many large documents", strings.Repeat("---\n"+head+"tests: ["+strings.Repeat("{a: b},", 3_000)+"]\n", 5), "a.yaml:6:1: tests has 3000 entries"},
		{"many expensive documents", strings.Repeat("---\n"+head+costly, 100), "a.yaml:6:8: the condition costs up to"},
		{"a long condition", head + "when: " + strings.Repeat("claims.fork && ", 3_000) + "claims.fork", "a.yaml:5:7: expression code point size exceeds limit: size: 45011, limit 4096"},
		{"a condition with many parts", head + "when: " + strings.Repeat("claims.fork && ", 250) + "claims.fork", "a.yaml:5:7: expression node count exceeds limit: count 752, limit 200"},
		{"a deep condition", head + "when: " + strings.Repeat("(", 500) + "claims.fork" + strings.Repeat(")", 500), "a.yaml:5:7: expression recursion limit exceeded: 50"},
		{"an expensive condition", head + "when: claims.ref.contains(claims.repository)", "a.yaml:5:7: the condition costs up to 10490, the limit is 1000"},
		{"a loop", head + "when: '[1,2].exists(i, [1,2].exists(j, claims.attempt == i))'", "a.yaml:5:20: undeclared reference to 'exists'"},
		{"a large regular expression", head + `when: claims.ref.matches("^((a{1,9}){1,9}){1,9}$")`, "a.yaml:5:26: regex program size 1641 exceeds limit of 1000"},
		{"many tests without anything", head + "tests: [" + strings.Repeat("{},", 900) + "]", "a.yaml:5:9: the test expects nothing; give it a credential to allow or to deny"},
		{"more tests", head + "tests: [" + strings.Repeat("{},", 4_000) + "]", "a.yaml:5:1: tests has 4000 entries, the limit is 1000"},
		{"many values", matching("[" + strings.Repeat("a,", 9_000) + "]"), "a.yaml:3:49: match.ref has 9000 entries, the limit is 1000"},
		{"a million values", matching("[" + strings.Repeat("a,", 60_000) + "]"), "a.yaml: the document has more than 20000 words and signs"},
		{"many patterns", matching("[" + listed("{glob: \"a%d*\"}", 800) + "]"), "a.yaml:3:8: match does not pin a ref or an environment"},
		{"a long pattern", matching(`{glob: "` + strings.Repeat("*a", 10_000) + `"}`), "a.yaml:3:61: the glob has more than 256 bytes"},
		{"many grants", "policy: a\ngrant: [" + strings.Repeat("{},", 4_000) + "]", "a.yaml:1:1: issuer is missing"},
		{"a name without end", "policy: " + strings.Repeat("a", 60_000), "a.yaml:1:1: grant is missing"},
		{"many unknown claims", "policy: a\nissuer: github\ngrant: [{credential: other, ttl: 1m}]\nmatch: {" + listed("repository%d: x", 3_000) + "}", "a.yaml:4:8: nothing in match can be used"},
		{"many denials", "guardrails: a\nissuer: github\ndeny: [" + strings.Repeat("{reason: a},", 2_000) + "]", "a.yaml:3:1: deny has 2000 entries, the limit is 100"},
		{"many guardrails", strings.Repeat("---\nguardrails: a\nmax_ttl: 1m\n", 199) + "---\n" + head, "a.yaml:5:13: guardrails \"a\" is in"},
	}
	live := policies.NewLive(mustLoad(t, shopPolicy))
	inForce := live.Current()
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			bounds(t, func() {
				if got := messages(t, tt.doc); len(got) == 0 || !strings.HasPrefix(got[0], tt.want) {
					t.Errorf("Load(%.60q…) = %.300q, want first %q", tt.doc, got, tt.want)
				}
			})
			if d, err := live.Current().Decide(github(nil), "other"); live.Current() != inForce || err != nil {
				t.Errorf("the set in force decides %+v, %v", d, err)
			}
		})
	}
}

// listed formats the numbers below n, each with format.
func listed(format string, n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, format+", ", i)
	}
	return b.String()
}

// What is large and right loads, within the same bounds.
func TestLargeDocuments(t *testing.T) {
	when := "when: '" + strings.Repeat(`claims.ref.startsWith("refs/heads/") && `, 15) + "claims.fork'\n"
	dir := t.TempDir()
	var b strings.Builder
	for i := range 110 {
		fmt.Fprintf(&b, "---\npolicy: p%d\nissuer: github\nmatch: {repository_id: [%s\"456\"], ref: refs/heads/main, event_name: push}\ngrant: [{credential: other, ttl: 1m}]\n%s", i, listed("\"9%d\"", 20), strings.Replace(when, "heads", fmt.Sprint("heads", i), 1))
	}
	if err := os.WriteFile(filepath.Join(dir, "a.yaml"), []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	bounds(t, func() {
		if set, err := policies.Load(dir, options()); err != nil || set.Len() != 110 {
			t.Errorf("Load = %d policies, %v, want 110", set.Len(), err)
		}
	})
}

// Hundreds of broken files, each with the most problems that are told of one: a
// page of them is enough.
func TestManyProblems(t *testing.T) {
	files := fstest.MapFS{}
	for i := range 200 {
		doc := fmt.Sprintf("policy: p%d\nissuer: github\ngrant: [%s]\n", i, strings.Repeat("{credential: other, ttl: x}, ", 150))
		files[fmt.Sprintf("p%04d.yaml", i)] = &fstest.MapFile{Data: []byte(doc)}
	}
	bounds(t, func() {
		_, err := policies.LoadFS(files, "many", options())
		var problems strictyaml.Problems
		if !errors.As(err, &problems) || len(problems) != 201 {
			t.Fatalf("%d problems, want 201", len(problems))
		}
		if first := problems[0]; first.File != "many/p0000.yaml" {
			t.Errorf("first %s, want that of the first file", first)
		}
		if last := problems[200].String(); !regexp.MustCompile(`^many: and \d{5} more problems$`).MatchString(last) {
			t.Errorf("last %s, want how many more there are", last)
		}
	})
}
