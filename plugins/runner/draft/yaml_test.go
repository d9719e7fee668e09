package draft_test

import (
	"strings"
	"testing"
	"unicode"

	"github.com/brevet-dev/brevet/plugins/runner/draft"
	"github.com/brevet-dev/brevet/policies/strictyaml"
)

func scalars() []string {
	return []string{
		"", " ", "x", "a b", " a", "a ", "true", "Yes", "y", "null", "~", "123", "1e3", "0x1f", ".5", "-", "--- ", "...", "x: {", "a #b", "#", "a:", "a: b",
		"'", `"`, `\`, `\n`, "\n", "\t", "a\n\nb\n", "{}", "[]", "*x", "&x", "!x", "%x", "@x", "`x`", "|", ">", "?", "<<", "é", "😀", "a, b", "refs/heads/main", "::x", "a##b", "\x1b[0m", "\u202e", "\u00a0",
	}
}

func TestScalar(t *testing.T) {
	for _, s := range scalars() {
		checkScalar(t, s)
	}
}

func FuzzScalar(f *testing.F) {
	for _, s := range scalars() {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if strings.ToValidUTF8(s, "") == s && len(s) < 1<<12 {
			checkScalar(t, s)
		}
	})
}

// checkScalar checks that s is one printable line that strictyaml reads as s
// wherever a policy has a value; what it cannot read is told from that.
func checkScalar(t *testing.T, s string) {
	t.Helper()
	text := draft.Scalar(s)
	if strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) || strings.Contains(text, "##") {
		t.Errorf("Scalar(%q) = %q, which is not harmless", s, text)
	}
	if !draft.Writable(s) {
		return
	}
	var got struct {
		Plain string
		List  []string
		Map   map[string]string
	}
	source := "plain: " + text + "  # " + text + "\nlist: [" + text + ", " + text + "]\nmap: {contains: " + text + "}\n"
	err := strictyaml.Decode("scalar", []byte(source), &got)
	if err != nil || got.Plain != s || len(got.List) != 2 || got.List[0] != s || got.List[1] != s || got.Map["contains"] != s {
		t.Errorf("Scalar(%q) is read as %q, %v:\n%s", s, got, err, source)
	}
}
