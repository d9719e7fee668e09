package presets_test

import (
	"maps"
	"strings"
	"testing"

	"github.com/brevet-dev/brevet/issuers/presets"
)

func TestFit(t *testing.T) {
	parts := func(pairs ...string) map[string]string {
		m := map[string]string{}
		for i := 0; i < len(pairs); i += 2 {
			m[pairs[i]] = pairs[i+1]
		}
		return m
	}
	for _, test := range []struct {
		pattern, s string
		want       map[string]string // nil: does not fit
	}{
		{"https://a.example", "https://a.example", parts()},
		{"https://a.example", "https://a.example/", nil},
		{"https://a.example", "https://a.exampl", nil},
		{"https://a.example", "HTTPS://a.example", nil},
		{"https://a.example/{x}", "https://a.example/b", parts("x", "b")},
		{"https://a.example/{x}", "https://a.example/", nil},
		{"https://a.example/{x}", "https://a.example/b/c", nil},
		{"https://a.example/{x}", "https://a.example/b:c", nil},
		{"https://a.example/{x}", "https://a.example/b/", nil},
		{"https://a.{x}.ghe.com", "https://a.b.ghe.com", parts("x", "b")},
		{"https://a.{x}.ghe.com", "https://a.b.c.ghe.com", nil},
		{"https://a.{x}.ghe.com", "https://a.evil.com/.ghe.com", nil},
		{"https://a.{x}.ghe.com", "https://a..ghe.com", nil},
		{"https://{host}/_services/token", "https://h.example:8443/_services/token", parts("host", "h.example:8443")},
		{"https://{host}/_services/token", "https://h.example/x/_services/token", nil},
		{"https://{host}", "https://h.example/x", nil},
		{"https://{host}/{path...}", "https://h.example/x/y", parts("host", "h.example", "path", "x/y")},
		{"https://{host}/{path...}", "https://h.example/", nil},
		{"arn:{p}:iam::{account}:role/{role...}", "arn:aws:iam::111122223333:role/a/b", parts("p", "aws", "account", "111122223333", "role", "a/b")},
		{"arn:{p}:iam::{account}:role/{role...}", "arn:aws:sts::111122223333:assumed-role/a/b", nil},
		{"p://{a}/{b}/{c}", "p://acme/my shop/deploy", parts("a", "acme", "b", "my shop", "c", "deploy")},
		{"p://{a}/{b}/{c}", "sc://acme/my shop/deploy", nil},
		{"{x.y/z}", "uuid", parts("x.y/z", "uuid")},
		{"", "", parts()},
		{"", "x", nil},
	} {
		got, ok := presets.Fit(test.pattern, test.s)
		if ok != (test.want != nil) || !maps.Equal(got, test.want) {
			t.Errorf("Fit(%q, %q) = %v, %v; want %v", test.pattern, test.s, got, ok, test.want)
		}
	}
}

func TestFill(t *testing.T) {
	got := presets.Fill("https://{host}/{owner}", map[string]string{"host": "{owner}.example", "other": "x"})
	if got != "https://{owner}.example/{owner}" {
		t.Errorf("Fill = %q", got)
	}
}

// A part ends where what follows it begins, so that there is one way to read a
// text: patterns are held to that.
func TestPatterns(t *testing.T) {
	each(t, func(t *testing.T, p *presets.Preset) {
		for _, list := range [][]string{p.URLs, p.DefaultAudiences, p.Subjects} {
			for _, pattern := range list {
				checkPattern(t, pattern)
			}
		}
		for _, url := range p.URLs {
			if !strings.HasPrefix(url, "https://") {
				t.Errorf("the URL %s", url)
			}
		}
	})
}

func checkPattern(t *testing.T, pattern string) {
	t.Helper()
	for rest, more := pattern, true; more; {
		_, rest, more = strings.Cut(rest, "{")
		if !more {
			return
		}
		name, after, closed := strings.Cut(rest, "}")
		last := after == ""
		if !closed || name == "" || !last && !strings.Contains("/:.", after[:1]) || !last && strings.HasSuffix(name, "...") {
			t.Errorf("the pattern %s", pattern)
		}
		rest = after
	}
}

func FuzzFit(f *testing.F) {
	for _, p := range presets.Known() {
		for _, pattern := range append(p.URLs, p.Subjects...) {
			f.Add(pattern, "https://token.actions.githubusercontent.com/acme")
		}
	}
	f.Fuzz(func(t *testing.T, pattern, s string) {
		parts, ok := presets.Fit(pattern, s)
		if !ok && parts != nil {
			t.Errorf("Fit(%q, %q) = %v without fitting", pattern, s, parts)
		}
		for name, part := range parts {
			if part == "" || !strings.Contains(s, part) {
				t.Errorf("Fit(%q, %q): %s is %q", pattern, s, name, part)
			}
		}
	})
}
