package mask_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"html"
	"io"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/brevet-dev/brevet/plugins/runner/mask"
)

// A decoded byte, and where in the output it comes from.
type decoded struct {
	c          byte
	start, end int
}

// asIs is the output itself.
func asIs(text string) []decoded {
	var out []decoded
	for i := range len(text) {
		out = append(out, decoded{text[i], i, i + 1})
	}
	return out
}

// apply decodes a layer until its end: next returns what the start of the rest
// means and how long it is, or 0 if the end cuts it off. No more than so much is
// dropped in a row.
func apply(layer []decoded, next func(rest string) (string, int)) []decoded {
	var out []decoded
	text := textOf(layer)
	gap := 0
	for at := 0; at < len(text); {
		means, n := next(text[at:])
		if n == 0 {
			break
		}
		gap += n
		if means != "" {
			gap = 0
		}
		if gap > mask.MaxGap {
			out, gap = append(out, layer[at:at+n]...), 0
		}
		for i := range len(means) {
			out = append(out, decoded{means[i], layer[at].start, layer[at+n-1].end})
		}
		at += n
	}
	return out
}

func textOf(layer []decoded) string {
	var b strings.Builder
	for _, d := range layer {
		b.WriteByte(d.c)
	}
	return b.String()
}

// A modelHit is a place of a form, which may extend beyond its last byte.
type modelHit struct{ start, end int }

// model masks text slowly and obviously: in each layer it looks for every form
// at every place.
func model(text string, forms []mask.Form) string {
	covered := make([]bool, len(text))
	cover := func(start, end int) {
		for i := start; i < end; i++ {
			covered[i] = true
		}
	}
	layer := apply(asIs(text), mask.Drop)
	for range mask.Depth + 1 {
		for _, h := range places(textOf(layer), forms) {
			cover(layer[h.start].start, layer[h.end-1].end)
		}
		unescaped := apply(layer, mask.Escape)
		if textOf(unescaped) == textOf(layer) {
			break
		}
		layer = apply(unescaped, mask.Drop)
	}
	for _, d := range mask.Dump(text) {
		layer := apply(asIs(d.Text), mask.Drop)
		for _, h := range places(textOf(layer), forms) {
			cover(d.Places[layer[h.start].start][0], d.Places[layer[h.end-1].end-1][2])
		}
	}
	var out strings.Builder
	for i := range covered {
		switch {
		case !covered[i]:
			out.WriteByte(text[i])
		case i == 0 || !covered[i-1]:
			out.WriteString(mask.Replacement)
		}
	}
	return out.String()
}

// places returns where the forms are in text.
func places(text string, forms []mask.Form) []modelHit {
	var out []modelHit
	for _, f := range forms {
		for i := 0; i+len(f.Text) <= len(text); i++ {
			start, end := i, i+len(f.Text)
			if text[i:end] != f.Text {
				continue
			}
			if f.Trails != nil {
				if end == len(text) || !f.Trails(text[end]) {
					continue
				}
				end++
			}
			if start > 0 && f.Leads(text[start-1]) {
				start--
			}
			out = append(out, modelHit{start, end})
		}
	}
	return out
}

// printers print a text as tools do. What is taken out of any is less than half
// of what it prints, so that the rest shows what is left of the text.
func printers() map[string]func(string) string {
	each := func(format string) func(string) string { // byte
		return func(s string) string {
			var b strings.Builder
			for i := range len(s) {
				fmt.Fprintf(&b, format, s[i])
			}
			return b.String()
		}
	}
	between := func(sep string) func(string) string {
		return func(s string) string {
			var b strings.Builder
			for i := range len(s) {
				b.WriteString(s[i:i+1] + sep)
			}
			return b.String()
		}
	}
	runes := func(format string) func(string) string {
		return func(s string) string {
			var b strings.Builder
			for _, r := range s {
				fmt.Fprintf(&b, format, r)
			}
			return b.String()
		}
	}
	return map[string]func(string) string{
		"as it is":          func(s string) string { return s },
		"query":             url.QueryEscape,
		"path":              url.PathEscape,
		"percent":           each("%%%02x"),
		"json":              marshalJSON,
		"json plain":        plainJSON,
		"json in json":      func(s string) string { return marshalJSON(`{"a":"` + marshalJSON(s) + `"}`) },
		"three times":       func(s string) string { return marshalJSON(marshalJSON(marshalJSON(s))) },
		"Go":                func(s string) string { q := strconv.Quote(s); return q[1 : len(q)-1] },
		"Go, ASCII":         func(s string) string { q := strconv.QuoteToASCII(s); return q[1 : len(q)-1] },
		"html":              html.EscapeString,
		"xml decimal":       runes("&#%d;"),
		"xml hex":           runes("&#x%X;"),
		"octal":             each(`\%03o`),
		"hex escapes":       each(`\x%02x`),
		"shell":             func(s string) string { return strings.ReplaceAll(s, "'", `'\''`) },
		"dash":              func(s string) string { return strings.ReplaceAll(s, "'", `'"'"'`) },
		"colours":           between("\x1b[1;32m"),
		"carriage returns":  between("\r"),
		"UTF-16":            utf16LE,
		"base64 of UTF-16":  func(s string) string { return encode64(utf16LE(s)) },
		"hex":               func(s string) string { return hex.EncodeToString([]byte(s)) },
		"HEX":               func(s string) string { return strings.ToUpper(hex.EncodeToString([]byte(s))) },
		"hexdump -C":        func(s string) string { return "\n" + hex.Dump([]byte(s)) },
		"with spaces":       each("%02x "),
		"with colons":       each("%02X:"),
		"an array":          each("0x%02x, "),
		"base64":            func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) },
		"base64 url":        func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) },
		"base64 of base64":  func(s string) string { return encode64(encode64(s)) },
		"base64 of json":    func(s string) string { return encode64(marshalJSON(s)) },
		"base64 of hex":     func(s string) string { return encode64(hex.EncodeToString([]byte(s))) },
		"percent of base64": func(s string) string { return url.QueryEscape(encode64(s)) },
		"json of base64":    func(s string) string { return strings.ReplaceAll(encode64(s), "/", `\/`) },
		"base64 in lines":   func(s string) string { return broken(encode64(s), 8, "\r\n ") },
		"hex in lines":      func(s string) string { return broken(hex.EncodeToString([]byte(s)), 10, "\n") },
	}
}

func sortedNames[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

func utf16LE(s string) string {
	var b strings.Builder
	for _, unit := range utf16.Encode([]rune(s)) {
		b.WriteString(string([]byte{byte(unit), byte(unit >> 8)}))
	}
	return b.String()
}

func encode64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

// FuzzMask compares with the model, whatever the values, the text, and the pieces
// in which it is written.
func FuzzMask(f *testing.F) {
	f.Add("hunter2!", "ter2!hun", "a hunter2!hunter2! b@@@", uint8(3), uint8(0))
	f.Add("abcdef\nghijkl", "cdefgh", "abcdefghijkl abcdef\\nghijkl", uint8(1), uint8(4))
	f.Add("ababab", "bababa", "abababababaXaHVudGVyMiE=", uint8(2), uint8(9))
	f.Add("\xff\xfe a+b/<c>", "%41%42", "%FF%FE+a%2Bb %ff\\u003cc\\u003e@", uint8(5), uint8(17))
	f.Add("111112", "1111111", "%3111111 \\u003111111%31@", uint8(0), uint8(23))
	f.Add("aaaaa\U0001f511", "\x00\x01\x02\x03\x04", "aaaaa\\ud83d\\udd11\\ud83d\\u0061", uint8(2), uint8(2))
	f.Add("hunter2!", "abcdef", "aHVu\ndGVy\r\n\nMiE YWJj\nZGVm@@", uint8(4), uint8(7))
	f.Add("hunter2!", "abcdef", "00000000: 6875 6e74 6572 3221  hunter2!\n0000000 75 74\n@", uint8(4), uint8(25))
	f.Add("'it''s\\n\"&amp;", "\\x41\\x42\\x43&lt;%25", "@%@&@\\@", uint8(1), uint8(11))
	f.Fuzz(func(t *testing.T, a, b, text string, size, printer uint8) {
		if len(a)+len(b) > 60 || len(text) > 500 {
			return
		}
		m, _ := mask.New(secrets(a, b))
		forms := mask.Forms(m)
		// Forms of the values make the text interesting.
		names := sortedNames(printers())
		for i := range min(3, strings.Count(text, "@")) {
			value, print := a, printers()[names[(int(printer)+i)%len(names)]]
			if i%2 == 1 {
				value = b
			}
			text += text[:min(i, len(text))] + print(value)
			if len(forms) > 0 {
				text += forms[(int(size)+i)*7919%len(forms)].Text
			}
		}
		if len(text) > 3000 {
			return
		}
		want := model(text, forms)
		if got := through(t, m, text, int(size)+1); got != want {
			t.Errorf("values %q, %q: %q in pieces of %d = %q, want %q", a, b, text, int(size)+1, got, want)
		}
	})
}

// FuzzPrinters prints a value as every tool does: whatever the value and the
// pieces, nothing of it may be left.
func FuzzPrinters(f *testing.F) {
	for _, v := range []string{"hunter2!", "correct horse battery staple", "p@ss/w0rd+<&>=\"'\\~*()", "пароль", "a\tb\nc d\r\ne\x01f", "&amp;%41\\x41'long"} {
		f.Add(v, "user:", uint8(3))
	}
	f.Fuzz(func(t *testing.T, value, before string, size uint8) {
		m, refused := mask.New(secrets(value))
		if strings.Contains(value, "\x1b") {
			return // a control sequence in the value may come apart
		}
		if len(value) > 200 || len(before) > 20 || strings.Trim(before, "user:@/= 1xA") != "" || len(refused) > 0 || !utf8.ValidString(value) {
			return // others may be the beginning of an escape
		}
		if utf8.RuneCountInString(mask.Bare(value)) < mask.MinLength {
			return // there is too little of it in UTF-16, or with its escapes decoded
		}
		for name, print := range printers() {
			text := print(before+value) + "\"\n"
			whole := through(t, m, text, len(text))
			if got := through(t, m, text, int(size)+1); got != whole {
				t.Errorf("%s: %q in pieces of %d = %q, want %q", name, text, int(size)+1, got, whole)
			}
			switch {
			case name == "three times" && mask.Bare(value) != strings.TrimSpace(value):
				continue // with the value's own there are more than Depth
			case name == "colours" && strings.ContainsAny(value, "\x00\r\n"):
				continue // with those more than MaxGap may come in a row
			}
			if !strings.Contains(whole, mask.Replacement) {
				t.Errorf("%s: %q leaves %q", name, text, whole)
			}
		}
	})
}

// FuzzFind expects the hits to be the same however the text is read.
func FuzzFind(f *testing.F) {
	f.Add("hunter2!", "hunter2!-and-more", "x hunter2!hunter2! hunter2!-and-more\naHVudGVyMiE=", uint8(1))
	f.Add("hunter2!", "abcdef", "00000000: 6875 6e74 6572 3221  hunter2!\n hunter2!\\u0021", uint8(3))
	f.Fuzz(func(t *testing.T, a, b, text string, size uint8) {
		if len(a)+len(b) > 60 || len(text) > 500 {
			return
		}
		m, _ := mask.New(secrets(a, b))
		var whole, pieces []mask.Hit
		if err := m.Find(strings.NewReader(text), func(h mask.Hit) { whole = append(whole, h) }); err != nil {
			t.Fatal(err)
		}
		r := slowReader{strings.NewReader(text), int(size) + 1}
		if err := m.Find(r, func(h mask.Hit) { pieces = append(pieces, h) }); err != nil {
			t.Fatal(err)
		}
		if got, want := fmt.Sprint(pieces), fmt.Sprint(whole); got != want {
			t.Errorf("values %q, %q: in pieces of %d of %q found %s, want %s", a, b, int(size)+1, text, got, want)
		}
		if masked := through(t, m, text, 10); len(whole) == 0 && bytes.Contains([]byte(masked), []byte("***")) && !strings.Contains(text, "*") {
			t.Errorf("%q was masked, and not found", text)
		}
	})
}

// A slowReader reads n bytes at a time.
type slowReader struct {
	r io.Reader
	n int
}

func (s slowReader) Read(p []byte) (int, error) { return s.r.Read(p[:min(len(p), s.n)]) }
