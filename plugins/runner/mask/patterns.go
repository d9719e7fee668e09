package mask

import (
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// A pattern is one form in which a value may be printed.
type pattern struct {
	text  string
	value int // length in bytes of the value, or of the line, that text shows
}

// patterns returns every form of value that is masked, each once:
//
//   - the value, with and without the white space around it, and each of its
//     lines in the same way, unless the line is unfit to be masked alone;
//   - base64, percent-encoding and JSON of the value without that white space:
//     what the encoding of the white space adds tells nothing.
func patterns(value string) []pattern {
	whole := strings.TrimSpace(value)
	texts := []string{value, whole}
	texts = append(texts, base64Forms(whole)...)
	texts = append(texts, percentForms(whole)...)
	texts = append(texts, jsonForms(whole)...)
	out := asPatterns(texts, len(whole))
	for line := range strings.Lines(value) {
		trimmed := strings.TrimSpace(line)
		if unfit(trimmed) == "" {
			out = append(out, asPatterns([]string{strings.TrimRight(line, "\r\n"), trimmed}, len(trimmed))...)
		}
	}
	return out
}

func asPatterns(texts []string, value int) []pattern {
	slices.Sort(texts)
	var out []pattern
	for _, t := range slices.Compact(texts) {
		out = append(out, pattern{t, value})
	}
	return out
}

// The alphabets of RFC 4648, sections 4 and 5.
const (
	base64Std = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
	base64URL = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
)

// maxEdge is the length of a value in bytes up to which the base64 character
// before it is masked, too (see base64At). That takes up to 17 copies of the
// pattern; of a longer value the 2 or 4 bits are no loss.
const maxEdge = 32

// base64Forms returns how v looks within a longer text in base64, for instance
// as the password of an HTTP basic credential: one form for each place among
// three bytes where it can begin. Padding tells nothing of v and is left.
//
// A text that begins with v is often broken into lines, of 64 characters by
// openssl and PEM, of 76 by base64(1) and MIME (RFC 2045, section 6.8).
func base64Forms(v string) []string {
	var out []string
	for _, alphabet := range []string{base64Std, base64URL} {
		for before := range 3 {
			out = append(out, base64At(v, alphabet, before)...)
		}
		text := base64.NewEncoding(alphabet).WithPadding(base64.NoPadding).EncodeToString([]byte(v))
		for _, width := range []int{64, 76} {
			if len(text) > width {
				out = append(out, chunks(text, width)...)
			}
		}
	}
	return out
}

// base64At returns the forms of v after before bytes (0, 1 or 2) of something
// else. The core are the characters that depend on v alone. The characters at
// the edges also depend on the neighbours, and give 2 or 4 bits of v away; each
// of the 4 or 16 that are possible there makes one more form.
func base64At(v, alphabet string, before int) []string {
	enc := base64.NewEncoding(alphabet).WithPadding(base64.NoPadding)
	text := enc.EncodeToString([]byte(strings.Repeat("\x00", before) + v + "\x00"))
	firstBit, endBit := 8*before, 8*(before+len(v))
	first, end := (firstBit+5)/6, endBit/6
	leads, trails := []string{""}, []string{""}
	if foreign := firstBit % 6; foreign > 0 && len(v) <= maxEdge {
		known := strings.IndexByte(alphabet, text[first-1])
		for x := range 1 << foreign {
			leads = append(leads, alphabet[known|x<<(6-foreign):][:1])
		}
	}
	if own := endBit % 6; own > 0 {
		known := strings.IndexByte(alphabet, text[end])
		for x := range 1 << (6 - own) {
			trails = append(trails, alphabet[known|x:][:1])
		}
	}
	var out []string
	for _, l := range leads {
		for _, t := range trails {
			out = append(out, l+text[first:end]+t)
		}
	}
	return out
}

// chunks cuts text into pieces of width bytes. A last piece too short to be
// masked alone is left out.
func chunks(text string, width int) []string {
	var out []string
	for piece := range slices.Chunk([]byte(text), width) {
		if len(piece) >= MinLength {
			out = append(out, string(piece))
		}
	}
	return out
}

// percentForms returns v percent-encoded (RFC 3986, section 2.1) as different
// tools do it. They differ in which characters they leave alone besides letters,
// digits, '-', '.' and '_', in the case of the digits, and in the space.
func percentForms(v string) []string {
	var out []string
	for _, safe := range []string{
		"~",                 // RFC 3986: curl, Go's QueryEscape
		"",                  // form encoding as browsers and Java do it
		"*",                 // the same, newer
		"~/",                // Python's quote
		"~!'()*",            // JavaScript's encodeURIComponent
		"~$&+=:@",           // Go's PathEscape
		"~!'()*;,/?:@&=+$#", // JavaScript's encodeURI
	} {
		for _, digits := range []string{"0123456789ABCDEF", "0123456789abcdef"} {
			for _, space := range []string{"%20", "+"} {
				out = append(out, percent(v, safe, digits, space))
			}
		}
	}
	return out
}

func percent(v, safe, digits, space string) string {
	var b strings.Builder
	for i := range len(v) {
		switch c := v[i]; {
		case c == ' ':
			b.WriteString(space)
		case 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' ||
			c == '-' || c == '.' || c == '_' || strings.IndexByte(safe, c) >= 0:
			b.WriteByte(c)
		default:
			b.Write([]byte{'%', digits[c>>4], digits[c&15]})
		}
	}
	return b.String()
}

// A jsonStyle is how an encoder writes what RFC 8259, section 7, leaves open.
type jsonStyle struct {
	html  bool   // '<', '>' and '&' escaped: Go, Ruby on Rails, .NET
	ascii bool   // nothing but printable ASCII in clear: Python
	slash bool   // '/' as '\/': PHP
	hex   string // the verb for an escape's digits: %04x or %04X
}

// jsonForms returns v as the inside of a JSON string.
func jsonForms(v string) []string {
	var out []string
	for _, html := range []bool{false, true} {
		for _, ascii := range []bool{false, true} {
			for _, slash := range []bool{false, true} {
				out = append(out,
					jsonEscape(v, jsonStyle{html, ascii, slash, `\u%04x`}),
					jsonEscape(v, jsonStyle{html, ascii, slash, `\u%04X`}))
			}
		}
	}
	return out
}

func jsonEscape(v string, style jsonStyle) string {
	var b strings.Builder
	for len(v) > 0 {
		r, size := utf8.DecodeRuneInString(v)
		b.WriteString(jsonRune(r, v[:size], style))
		v = v[size:]
	}
	return b.String()
}

// jsonRune returns one character as style writes it; text is its source.
func jsonRune(r rune, text string, style jsonStyle) string {
	if i := strings.IndexRune("\"\\\b\f\n\r\t", r); i >= 0 {
		return `\` + `"\bfnrt`[i:i+1]
	}
	switch {
	case r == '/' && style.slash:
		return `\/`
	case r < ' ', style.html && strings.ContainsRune("<>&\u2028\u2029", r),
		style.ascii && r > '~' && r <= 0xffff:
		return fmt.Sprintf(style.hex, r)
	case style.ascii && r > 0xffff:
		high, low := utf16.EncodeRune(r)
		return fmt.Sprintf(style.hex+style.hex, high, low)
	}
	return text
}
