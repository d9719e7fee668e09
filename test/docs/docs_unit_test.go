package docs

import "testing"

func TestMatches(t *testing.T) {
	for _, tt := range []struct {
		got, want string
		ok        bool
	}{
		{"a\n", "a\n", true}, {"a\n", "b\n", false}, {"a b c\n", "a … c\n", true}, {"a\nb\nc\n", "a\n…\nc\n", true},
		{"a\nb\n", "a\n", false}, {"l17-x\n", "l…\n", true}, {"", "…\n", true},
	} {
		if matches(tt.got, tt.want) != tt.ok {
			t.Errorf("matches(%q, %q) = %v", tt.got, tt.want, !tt.ok)
		}
	}
}

func TestCommands(t *testing.T) {
	got := commands("$ one \\\n  more\nout\n$ two # exit status 3\n")
	if len(got) != 2 || got[0].text != "one \\\n  more" || got[0].output != "out\n" || got[1].status != 3 || got[1].text != "two" {
		t.Errorf("commands = %+v", got)
	}
}
