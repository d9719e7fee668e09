package api_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/brevet-dev/brevet/broker/api"
)

// canonical is RFC 8785 read once more, by another way: package encoding/json
// writes the strings, and names are sorted by the bytes of UTF-16, big end
// first.
func canonical(t *testing.T, c api.Context) string {
	t.Helper()
	text := func(s string) string {
		var buf bytes.Buffer
		enc := json.NewEncoder(&buf)
		enc.SetEscapeHTML(false)
		if err := enc.Encode(s); err != nil {
			t.Fatal(err)
		}
		// It escapes these two for JavaScript, and section 3.2.2.2 does not.
		out := strings.TrimSuffix(buf.String(), "\n")
		var b strings.Builder
		for i := 0; i < len(out); i++ {
			switch rest := out[i:]; {
			case strings.HasPrefix(rest, `\\`):
				b.WriteString(`\\`)
				i++
			case strings.HasPrefix(rest, `\u2028`), strings.HasPrefix(rest, `\u2029`):
				b.WriteRune(rune(0x2020 + int(rest[5]-'0')))
				i += 5
			default:
				b.WriteByte(out[i])
			}
		}
		return b.String()
	}
	order := func(s string) string {
		var b []byte
		for _, u := range utf16.Encode([]rune(s)) {
			b = append(b, byte(u>>8), byte(u))
		}
		return string(b)
	}
	var names, members []string
	for name := range c {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int { return strings.Compare(order(a), order(b)) })
	for _, name := range names {
		members = append(members, text(name)+":"+text(c[name]))
	}
	return "{" + strings.Join(members, ",") + "}"
}

// The forms that keys are bound to never change. Each line of the file is a
// context as somebody may write it, a tab, and its canonical form.
func TestCanonicalGolden(t *testing.T) {
	data, err := os.ReadFile("testdata/contexts.tsv")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		given, want, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
		c, err := api.ParseContext(given)
		if err != nil {
			t.Errorf("ParseContext(%s) = %v", given, err)
			continue
		}
		if got := c.Canonical(); got != want || got != canonical(t, c) {
			t.Errorf("%s is\n%s\nwant\n%s\nand by the other way\n%s", given, got, want, canonical(t, c))
		}
		if again, err := api.ParseContext(want); err != nil || again.Canonical() != want {
			t.Errorf("the canonical form %s is read as %v, %v", want, again, err)
		}
	}
	var none api.Context
	if none.Canonical() != "{}" || (api.Context{}).Canonical() != "{}" {
		t.Error("no context is not the empty one")
	}
}

func TestParseContextRefuses(t *testing.T) {
	many := func(n int) string {
		var members []string
		for i := range n {
			members = append(members, fmt.Sprintf(`"n%d":""`, i))
		}
		return "{" + strings.Join(members, ",") + "}"
	}
	member := func(name, value int) string {
		return `{"` + strings.Repeat("n", name) + `":"` + strings.Repeat("v", value) + `"}`
	}
	for name, s := range map[string]string{
		"sixteen entries": many(16), "the longest": member(64, 256), "an empty value": member(1, 0), "spaces": " {\t\"a\" : \"b\"\r\n} ",
	} {
		if _, err := api.ParseContext(s); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, s := range map[string]string{
		"nothing": "", "a space": " ", "null": "null", "a list": `["a"]`, "a string": `"a"`, "half": `{"a":"b"`, "an open name": `{"a`,
		"a name only": `{"a"}`, "a name and a colon": `{"a":}`, "a trailing comma": `{"a":"b",}`, "no comma": `{"a":"b" "c":"d"}`,
		"a number": `{"a":1}`, "true": `{"a":true}`, "a null": `{"a":null}`, "an object": `{"a":{}}`, "an object with a member": `{"a":{"b":"c"}}`,
		"a list within": `{"a":["b"]}`, "a name without quotes": `{a:"b"}`, "single quotes": `{'a':'b'}`, "a comment": `{/**/"a":"b"}`,
		"a name twice": `{"a":"b","a":"b"}`, "a name twice, escaped": `{"a":"b","\u0061":"c"}`,
		"something after": `{"a":"b"}x`, "another after": `{"a":"b"}{"c":"d"}`, "a bracket after": `{"a":"b"}}`, "a no-break space after": "{}\u00a0",
		"a byte order mark": "\ufeff{}", "no UTF-8": "{\"a\":\"\xff\"}", "no UTF-8 after": "{}\xff", "half a surrogate pair": `{"a":"\ud83d"}`,
		"the other half": `{"\udc00":"a"}`, "a surrogate in UTF-8": "{\"a\":\"\xed\xa0\x80\"}",
		"a control character": "{\"a\":\"\x01\"}", "one that is escaped": `{"a":"\u0001"}`, "a line break": `{"a":"\n"}`, "a line break in a name": `{"a\n":""}`,
		"DEL": "{\"a\":\"\x7f\"}", "NUL": `{"a":"\u0000"}`, "C1": `{"a":"\u009b"}`,
		"the replacement character": "{\"a\":\"\ufffd\"}",
		"an empty name":             `{"":"a"}`, "a long name": member(65, 0), "a long value": member(1, 257), "seventeen entries": many(17), "very many entries": many(5000),
		"a bad escape": `{"a":"\x"}`, "deep": strings.Repeat(`{"a":`, 5000),
	} {
		c, err := api.ParseContext(s)
		if err == nil || c != nil {
			t.Errorf("%s: ParseContext = %v, %v; want nil and an error", name, c, err)
			continue
		}
		if strings.ContainsAny(err.Error(), "\"\\") {
			t.Errorf("%s: the error %q is not fit for RFC 6749, section 5.2", name, err)
		}
	}
}

// What is accepted is within the limits, and there is one form of it.
func FuzzParseContext(f *testing.F) {
	data, err := os.ReadFile("testdata/contexts.tsv")
	if err != nil {
		f.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		given, _, _ := strings.Cut(line, "\t")
		f.Add(given)
	}
	f.Add(`{"a":"b","\u0061":"c"}`)
	f.Add("{\"a\":\"\xed\xa0\x80\"}")
	f.Fuzz(func(t *testing.T, s string) {
		c, err := api.ParseContext(s)
		if err != nil {
			if c != nil {
				t.Errorf("ParseContext(%q) = %v beside %v", s, c, err)
			}
			return
		}
		if err := c.Validate(); err != nil {
			t.Errorf("ParseContext(%q) accepts what Validate refuses: %v", s, err)
		}
		want := c.Canonical()
		if other := canonical(t, c); want != other || !utf8.ValidString(want) {
			t.Errorf("the canonical form of %q is %s, and by another way %s", s, want, other)
		}
		again, err := api.ParseContext(want)
		if err != nil || again.Canonical() != want || len(again) != len(c) {
			t.Errorf("the canonical form %s is read as %v, %v", want, again, err)
		}
		var plain map[string]string // as any reader of JSON has it
		if err := json.Unmarshal([]byte(s), &plain); err != nil || api.Context(plain).Canonical() != want {
			t.Errorf("%q is another context to encoding/json: %v, %v", s, plain, err)
		}
	})
}
