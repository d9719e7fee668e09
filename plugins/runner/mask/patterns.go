package mask

import (
	"encoding/base64"
	"slices"
	"strings"
	"unicode/utf8"
)

// A pattern is a text to look for in a view.
type pattern struct {
	text  string
	value int // length in bytes of the value, or of the line, that text shows
}

// plainPatterns returns what is looked for as it is, and where escapes were
// decoded: the value, with and without the white space around it, and each of
// its lines in the same way, unless the line is unfit to be masked alone. All
// that also with '+' for the space, as HTML forms have it.
func plainPatterns(value string) []pattern {
	whole := strings.TrimSpace(value)
	out := asPatterns(len(whole), value, whole)
	if !utf8.ValidString(whole) {
		out = append(out, asPatterns(len(whole), string([]rune(whole)))...) // as JSON encoders see it
	}
	for line := range strings.Lines(value) {
		trimmed := strings.TrimSpace(line)
		if unfit(trimmed) == "" {
			out = append(out, asPatterns(len(trimmed), strings.TrimRight(line, "\r\n"), trimmed)...)
		}
	}
	return out
}

// asPatterns makes patterns that show a value of length bytes.
func asPatterns(length int, texts ...string) []pattern {
	for _, t := range texts {
		texts = append(texts, strings.ReplaceAll(t, " ", "+"))
	}
	slices.Sort(texts)
	var out []pattern
	for _, t := range slices.Compact(texts) {
		out = append(out, pattern{t, length})
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

// base64Patterns returns how value, without the white space around it, looks
// within a longer text in base64, for instance as the password of an HTTP basic
// credential: one form for each place among three bytes where it can begin.
// Padding tells nothing of the value and is left, as is the encoding of the
// white space.
func base64Patterns(value string) []pattern {
	v := strings.TrimSpace(value)
	var out []pattern
	for _, alphabet := range []string{base64Std, base64URL} {
		for before := range 3 {
			for _, text := range base64At(v, alphabet, before) {
				out = append(out, pattern{text, len(v)})
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
