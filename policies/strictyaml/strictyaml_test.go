package strictyaml_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/brevet-dev/brevet/policies/strictyaml"
)

type limits struct {
	TTL time.Duration `yaml:"ttl"`
	Max uint8
}

type embedded struct {
	Kind string `yaml:"kind,omitempty"`
}

type config struct {
	URL     string           `yaml:"url"`
	Debug   bool             `yaml:"debug"`
	Port    int              `yaml:"port"`
	Limits  *limits          `yaml:"limits"`
	Nets    []netip.Prefix   `yaml:"nets"`
	Named   map[string]level `yaml:"named"`
	Free    map[string]any   `yaml:"free"`
	Skipped string           `yaml:"-"`
	Inlined limits           `yaml:",inline"`
	Exported
	embedded
}

type level string

type Exported struct{ Note string }

const good = `# a comment
url: https://example.com   # another
debug: true
port: 8443
limits: {ttl: 1h30m, max: 255}
ttl: 15m
max: 7
nets: [10.0.0.0/8, "2001:db8::/32"]
note: |
  two
  lines
named:
  ü: gold
  "b": 'it''s'
free:
  text: "456"
  number: -456
  flag: false
  list:
  - a
  - {b: 2}
`

func TestDecode(t *testing.T) {
	var got config
	if err := strictyaml.Decode("c.yaml", []byte(good), &got); err != nil {
		t.Fatal(err)
	}
	want := config{
		URL: "https://example.com", Debug: true, Port: 8443,
		Limits:   &limits{90 * time.Minute, 255},
		Inlined:  limits{15 * time.Minute, 7},
		Nets:     []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8::/32")},
		Named:    map[string]level{"ü": "gold", "b": "it's"},
		Exported: Exported{"two\nlines\n"},
		Free: map[string]any{
			"text": "456", "number": int64(-456), "flag": false,
			"list": []any{"a", map[string]any{"b": int64(2)}},
		},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("Decode(good) = %+v, want %+v", got, want)
	}
	crlf := bytes.ReplaceAll([]byte(good), []byte("\n"), []byte("\r\n"))
	if err := strictyaml.Decode("c.yaml", crlf, &config{}); err != nil {
		t.Errorf("Decode(good with CRLF) = %v, want nil", err)
	}
}

func TestDecodeProblems(t *testing.T) {
	tests := []struct{ name, data, want string }{
		{"unknown field", "prot: 1", `f:1:1: unknown field "prot"; did you mean "port"?`},
		{"unknown and far", "zebra: 1", `f:1:1: unknown field "zebra"`},
		{"unknown in another case", "URL: x", `f:1:1: unknown field "URL"; did you mean "url"?`},
		{"the field of an embedded struct that is not exported", "kind: x", `f:1:1: unknown field "kind"`},
		{"the name that a skipped field has", `"-": x`, `f:1:1: unknown field "-"`},
		{"number for text", "nets: [10]", `f:1:8: nets[0] must be a string ("10", with the quotes), not 10`},
		{"a skipped field", "skipped: x", `f:1:1: unknown field "skipped"`},
		{"unknown and nested", "limits: {ttl: 1m, maxx: 1}", `f:1:19: unknown field "maxx"; did you mean "max"?`},
		{"every problem", "port: x\n\nurl: 1\nfoo: 1\n", "f:1:7: port must be a whole number within the range of int, not a string\n" +
			"f:3:6: url must be a string (\"1\", with the quotes), not 1\nf:4:1: unknown field \"foo\""},
		{"duplicate", "url: a\nport: 1\nurl: b\n", `f:3:1: duplicate key "url", first given in line 1`},
		{"duplicate in a map", "free: {a: 1, \"a\": 2}", `f:1:14: duplicate key "a", first given in line 1`},
		{"number for string", "url: 456", `f:1:6: url must be a string ("456", with the quotes), not 456`},
		{"boolean for string", "url: true", `f:1:6: url must be a string ("true", with the quotes), not true`},
		{"list for string", "url: [a]", `f:1:6: url must be a string, not a list`},
		{"no value", "url:\nport: 1\n", `f:1:5: url has no value; give it one or remove the key`},
		{"null", "free: {a: ~, b: null}", "f:1:11: free.a has no value; give it one or remove the key\nf:1:17: free.b has no value; give it one or remove the key"},
		{"string for boolean", `debug: "true"`, `f:1:8: debug must be true or false, not a string`},
		{"another true", `debug: TRUE`, `f:1:8: debug must be true or false, not TRUE`},
		{"yes", `debug: yes`, `f:1:8: debug must be true or false, not a string`},
		{"duration without unit", "limits: {ttl: 900}", `f:1:15: limits.ttl must be a duration with its unit, such as 15m, not 900`},
		{"not a duration", "limits: {ttl: 15 minutes}", `f:1:15: limits.ttl must be a duration such as 90s, 15m or 1h30m, not "15 minutes"`},
		{"too large", "max: 256", `f:1:6: max must be a whole number within the range of uint8, not 256`},
		{"negative", "max: -1", `f:1:6: max must be a whole number within the range of uint8, not -1`},
		{"beyond int64", "port: 9223372036854775808", `f:1:7: port must be a whole number within the range of int, not 9223372036854775808`},
		{"hexadecimal", "port: 0x50", `f:1:7: port must be a whole number within the range of int, not 0x50`},
		{"octal", "port: 017", `f:1:7: port must be a whole number within the range of int, not 017`},
		{"underscore", "port: 8_443", `f:1:7: port must be a whole number within the range of int, not 8_443`},
		{"float", "free: {a: 1.5}", `f:1:11: free.a must be a string, a whole number, true or false ("1.5", with the quotes), not 1.5`},
		{"mapping for list", "nets: {a: b}", `f:1:7: nets must be a list, not a mapping`},
		{"list for mapping", "named: [a]", `f:1:8: named must be a mapping, not a list`},
		{"string for struct", "limits: a", `f:1:9: limits must be a mapping, not a string`},
		{"text that does not parse", "nets:\n- 10.0.0.0\n", `f:2:3: nets[0] is not valid: netip.ParsePrefix("10.0.0.0"): no '/'`},
		{"number as key", "free: {1: a}", `f:1:8: a key must be a string, not 1; quote it`},
		{"null as key", "free: {~: a}", `f:1:8: a key must be a string, not nothing; quote it`},
		{"document is a list", "- a", `f:1:1: the document must be a mapping, not a list`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var c config
			err := strictyaml.Decode("f", []byte(tt.data), &c)
			if got := fmt.Sprint(err); got != tt.want {
				t.Errorf("Decode(%q):\n%s\nwant:\n%s", tt.data, got, tt.want)
			}
		})
	}
}

func TestParseProblems(t *testing.T) {
	tests := []struct{ name, data, want string }{
		{"empty", "", "f:1:1: the document is empty"},
		{"only a comment", "# hi\n", "f:1:1: the document is empty"},
		{"null", "~", "f:1:1: the document is empty"},
		{"two documents", "url: a\n---\nurl: b\n", "f:2:1: a second document starts here; give it a file of its own"},
		{"an empty second document", "url: a\n---\n", "f:2:1: a second document starts here; give it a file of its own"},
		{"anchor and alias", "url: &x a\nport: *x\n", "f:1:6: anchors (&) are not allowed\nf:2:7: aliases (*) are not allowed; if this is a string, quote it"},
		{"merge key", "<<: {a: 1}", "f:1:1: merge keys (<<) are not allowed"},
		{"tag", "url: !!str 1", "f:1:6: tags (!) are not allowed; if this is a string, quote it"},
		{"directive", "%YAML 1.1\n---\nurl: a\n", "f:1:1: directives (%) are not allowed"},
		{"complex key", "? a\n: b\n", "f:1:1: complex keys (?) are not allowed"},
		{"tab as indentation", "a:\n\tb: c\n", "f:2:1: a tab stands where spaces must"},
		{"a colon in a string", "a: b: c\n", "f:1:4: a second colon follows this; quote the whole if it is a string, or indent the next line like this one"},
		{"an indent too far", "a:\n  b: \"c\"\n   d: e\n", "f:3:4: this stands further in, or further out, than what it belongs to"},
		{"unclosed list", "a: [1", "f:1:4: sequence end token ']' not found"},
		{"not UTF-8", "a: x\nb: \xff\n", "f:2:4: this byte is not UTF-8"},
		{"control character", "a: \x00", "f:1:4: the invisible character U+0000 is not allowed"},
		{"bidirectional override", "a: x\u202ey", "f:1:5: the invisible character U+202E is not allowed"},
		{"byte order mark", "\ufeffa: x", "f:1:1: the invisible character U+FEFF is not allowed"},
		{"no-break space", "ä: \u00a0x", "f:1:4: the invisible character U+00A0 is not allowed"},
		{"lone carriage return", "a: x\rb: y", "f:1:5: the invisible character U+000D is not allowed"},
		{"carriage return at the end", "a: x\r", "f:1:5: the invisible character U+000D is not allowed"},
		{"invisible at the end of a line", "a: x\u200b\nb: y", "f:1:5: the invisible character U+200B is not allowed"},
		{"escaped control character", `a: "x\ey"`, "f:1:4: an escape in this string makes an invisible character"},
		{"escaped bidirectional override", `a: "\u202e"`, "f:1:4: an escape in this string makes an invisible character"},
		{"what the lexer drops", "a: 1\n!!!!", `f:2:1: this cannot be read for certain; quote it, or write the character itself if it is an escape such as \u263A`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			doc, problems := strictyaml.Parse("f", []byte(tt.data))
			if got := problems.Error(); doc != nil || got != tt.want {
				t.Errorf("Parse(%q) = %v:\n%s\nwant:\n%s", tt.data, doc, got, tt.want)
			}
		})
	}
}

// Each of these costs a lenient reader gigabytes, minutes or its stack.
func TestHostile(t *testing.T) {
	bomb := "a: &a [x]\n" + strings.Repeat("b: &b [*a, *a, *a, *a, *a, *a, *a, *a, *a]\n", 10)
	tests := []struct{ name, data, want string }{
		{"size", strings.Repeat("#", strictyaml.MaxSize+1), "f: the file has more than 1048576 bytes"},
		{"words", strings.Repeat("a: b\n", 100_000), "f: the document has more than 20000 words and signs"},
		{"brackets", strings.Repeat("[", 15_000), "f:1:21: more than 20 levels deep"},
		{"braces", strings.Repeat("{a: ", 4_000), "f:1:81: more than 20 levels deep"},
		{"dashes", strings.Repeat("- ", 15_000), "f:1:41: more than 20 levels deep"},
		{"mappings", deepMapping(100), "f:21:22: more than 20 levels deep"},
		{"aliases", bomb, "f:1:4: anchors (&) are not allowed"},
		{"problems", "free:\n" + strings.Repeat("  a: 1\n", 4000), "f:3:3: duplicate key \"a\", first given in line 2"},
		{"long key", strings.Repeat("k", 1<<19) + ": 1", "f:1:1: unknown field \"" + strings.Repeat("k", 64) + "…\""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			start := time.Now()
			err := strictyaml.Decode("f", []byte(tt.data), &config{})
			if took := time.Since(start); took > 10*time.Second {
				t.Errorf("Decode took %v", took) // 0.5 s at most; the rest is for -race on a busy machine
			}
			var problems strictyaml.Problems
			if !errors.As(err, &problems) || problems[0].String() != tt.want {
				t.Fatalf("Decode(%.20q…) = %.200v, want %s", tt.data, err, tt.want)
			}
			if len(problems) > 100 {
				t.Errorf("Decode(%.20q…) reports %d problems, want 100 at most", tt.data, len(problems))
			}
		})
	}
}

func deepMapping(levels int) string {
	var b strings.Builder
	for i := range levels {
		b.WriteString(strings.Repeat(" ", i) + "a:\n")
	}
	return b.String()
}

const places = `url: https://example.com
limits:
  ttl: 15m
nets:
- a
- |
   one
   two
free: {ü: x, folded: "in quotes", escaped: "a\nb"}
named:
  long: >-
    folded
    text
`

func TestPlaces(t *testing.T) {
	doc, problems := strictyaml.Parse("f", []byte(places))
	if doc == nil {
		t.Fatal(problems)
	}
	tests := []struct {
		name string
		got  strictyaml.Problem
		want string
	}{
		{"value", doc.Problem(strictyaml.Path{"url"}, "%d", 1), "f:1:6: 1"},
		{"key", doc.KeyProblem(strictyaml.Path{"url"}, "x"), "f:1:1: x"},
		{"nested", doc.Problem(strictyaml.Path{"limits", "ttl"}, "x"), "f:3:8: x"},
		{"mapping starts at its first key", doc.Problem(strictyaml.Path{"limits"}, "x"), "f:3:3: x"},
		{"missing key: the mapping", doc.Problem(strictyaml.Path{"limits", "max"}, "x"), "f:3:3: x"},
		{"missing key of the document", doc.Problem(strictyaml.Path{"debug"}, "x"), "f:1:1: x"},
		{"item", doc.Problem(strictyaml.Path{"nets", 0}, "x"), "f:5:3: x"},
		{"missing item", doc.Problem(strictyaml.Path{"nets", 7}, "x"), "f:5:1: x"},
		{"in a plain string", doc.TextProblem(strictyaml.Path{"url"}, 1, 9, "x"), "f:1:14: x"},
		{"in a literal block", doc.TextProblem(strictyaml.Path{"nets", 1}, 2, 3, "x"), "f:8:6: x"},
		{"columns are characters", doc.TextProblem(strictyaml.Path{"free", "ü"}, 1, 1, "x"), "f:9:11: x"},
		{"in quotes", doc.TextProblem(strictyaml.Path{"free", "folded"}, 1, 4, "x"), "f:9:26: x"},
		{"with escapes: the string", doc.TextProblem(strictyaml.Path{"free", "escaped"}, 2, 1, "x"), "f:9:44: x"},
		{"folded: the string", doc.TextProblem(strictyaml.Path{"named", "long"}, 1, 8, "x"), "f:11:9: x"},
	}
	for _, tt := range tests {
		if got := tt.got.String(); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
	if got := doc.Line(strictyaml.Path{"nets", 1}); got != 6 {
		t.Errorf("Line(nets[1]) = %d, want 6", got)
	}
	if got, want := (strictyaml.Path{"grant", 0, "ttl"}).String(), "grant[0].ttl"; got != want {
		t.Errorf("Path.String() = %s, want %s", got, want)
	}
}

func TestProblemsErr(t *testing.T) {
	if err := (strictyaml.Problems{}).Err(); err != nil {
		t.Errorf("Problems{}.Err() = %v, want nil", err)
	}
	err := strictyaml.Problems{{File: "b", Line: 1, Column: 1, Message: "m"}, {File: "a", Line: 2, Column: 1, Message: "m"}, {File: "a", Message: "m"}}.Err()
	if got, want := err.Error(), "a: m\na:2:1: m\nb:1:1: m"; got != want {
		t.Errorf("Err() = %q, want %q", got, want)
	}
}

func TestUnsupportedType(t *testing.T) {
	var v struct{ F float64 }
	err := strictyaml.Decode("f", []byte("f: 1"), &v)
	if got, want := fmt.Sprint(err), "f:1:4: f cannot be read: strictyaml does not know the type float64"; got != want {
		t.Errorf("Decode = %s, want %s", got, want)
	}
}

// FuzzDecode checks that no bytes make the reader panic, and that a document
// that is accepted reads the same when it is written again as JSON, which is
// YAML too.
func FuzzDecode(f *testing.F) {
	for _, seed := range []string{good, places, "a: [1, {b: c}]", "? a", "a: &x *x", "- - - a", "a: |\n  x", "a: 'x", "\ta", "a: !!binary x", "{a: b", "a: \"\\u263A\""} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if doc, _ := strictyaml.Parse("f", data); doc != nil {
			doc.Decode(&config{})
		}
		var v any
		if err := strictyaml.Decode("f", data, &v); err != nil {
			return
		}
		var again any
		if err := strictyaml.Decode("f", toJSON(t, v), &again); err != nil {
			t.Fatalf("reading %q again: %v", toJSON(t, v), err)
		}
		if !reflect.DeepEqual(v, again) {
			t.Errorf("%q reads as %#v, and as %#v after encoding", data, v, again)
		}
	})
}

func toJSON(t *testing.T, v any) []byte {
	t.Helper()
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// A problem is one line, whatever is in it.
func TestProblemIsOneLine(t *testing.T) {
	p := strictyaml.Problem{File: "f", Line: 1, Column: 2, Message: "a\nb\u202ec"}
	if got, want := p.String(), "f:1:2: a b c"; got != want {
		t.Errorf("String = %q, want %q", got, want)
	}
}

// A place with a problem gets no second one; other places do.
func TestProblemsAnd(t *testing.T) {
	at := func(line, column int, message string) strictyaml.Problem {
		return strictyaml.Problem{File: "f", Line: line, Column: column, Message: message}
	}
	got := strictyaml.Problems{at(1, 1, "a")}.And(strictyaml.Problems{at(1, 1, "b"), at(1, 2, "c"), at(2, 1, "d")})
	if want := (strictyaml.Problems{at(1, 1, "a"), at(1, 2, "c"), at(2, 1, "d")}); !reflect.DeepEqual(got, want) {
		t.Errorf("And = %v, want %v", got, want)
	}
}
