package mask

import (
	"bytes"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// maxControl in bytes is the longest control sequence of a terminal that is
// dropped. Titles and links are longer than colours.
const maxControl = 256

// dropped drops what a reader of a value skips or does not see: line breaks, with
// a backslash before them and indentation after them; the carriage return; the
// NUL, so that UTF-16 of ASCII is ASCII; and control sequences of terminals, as
// for colours.
func dropped(dst, src []byte) ([]byte, int) {
	switch src[0] {
	case '\r':
		return dst, 1
	case '\n':
		return newLine(dst, src, 1)
	case '\\':
		if len(src) == 1 {
			return dst, 0
		}
		if src[1] == '\n' {
			return newLine(dst, src, 2)
		}
	case 0:
		return dst, 1
	case '\x1b':
		return control(dst, src)
	}
	return append(dst, src[0]), 1
}

// newLine drops the start of src, a line break of n bytes, and what is before the
// text of the next line: spaces and tabs, within reason, or an offset as
// curl --trace-ascii writes it.
func newLine(dst, src []byte, n int) ([]byte, int) {
	line := src[n:min(len(src), n+maxGap/2)]
	if digits := digitsAt(line, 0); digits > 0 {
		after := line[digits:]
		switch {
		case digits == 4 && bytes.HasPrefix(after, []byte(": ")):
			n += 6
		case digits < 4 && len(after) == 0 || digits == 4 && (len(after) == 0 || string(after) == ":"):
			return dst, 0
		}
		return dst, n
	}
	for _, c := range line {
		if c != ' ' && c != '\t' {
			break
		}
		n++
	}
	return dst, n
}

// control drops a control sequence (ECMA-48, sections 5.3 to 5.6).
func control(dst, src []byte) ([]byte, int) {
	if len(src) == 1 {
		return dst, 0
	}
	end := 0
	switch c := src[1]; {
	case c == '[':
		end = until(src, 2, func(c byte) bool { return c < 0x20 || c >= 0x40 })
		if end > 0 && src[end-1] < 0x20 {
			end = -1
		}
	case c == ']':
		end = until(src, 2, func(c byte) bool { return c == '\a' || c == '\\' })
	case c >= 0x30 && c < 0x7f:
		end = 2
	case c >= 0x20 && c < 0x30:
		end = until(src, 2, func(c byte) bool { return c >= 0x30 })
	default:
		end = -1
	}
	if end < 0 {
		return append(dst, src[0]), 1
	}
	return dst, end
}

// until returns the length of the sequence at the start of src, of which the
// bytes from at on belong to it up to the first that is last; 0 if src cuts it
// off, and -1 if it is too long to be one.
func until(src []byte, at int, last func(byte) bool) int {
	for i := at; i < min(len(src), maxControl); i++ {
		if last(src[i]) {
			return i + 1
		}
	}
	if len(src) < maxControl {
		return 0
	}
	return -1
}

// escape decodes one escape of any kind. A text has seldom more than one kind in
// it; if a value has what looks like another kind, the same is done to it.
func escape(dst, src []byte) ([]byte, int) {
	switch src[0] {
	case '%':
		return percent(dst, src)
	case '&':
		return entity(dst, src)
	}
	return backslash(dst, src)
}

// percent decodes RFC 3986, section 2.1.
func percent(dst, src []byte) ([]byte, int) {
	value, n := digits(src[1:min(len(src), 3)], 16)
	switch {
	case n == 2:
		return append(dst, byte(value)), 3
	case n == len(src)-1:
		return dst, 0
	}
	return append(dst, src[0]), 1
}

// maxEntity is the length of the longest entity that is decoded: &#x0010ffff;
const maxEntity = 12

// entity decodes an entity of XML or HTML.
func entity(dst, src []byte) ([]byte, int) {
	end := bytes.IndexByte(src[:min(len(src), maxEntity)], ';')
	if end < 0 {
		if len(src) < maxEntity && isEntityStart(src[1:]) {
			return dst, 0
		}
		return append(dst, src[0]), 1
	}
	name := src[1:end]
	if r, ok := numbered(name); ok {
		return utf8.AppendRune(dst, r), end + 1
	}
	if c := named(string(name)); c != 0 {
		return append(dst, c), end + 1
	}
	return append(dst, src[0]), 1
}

// isEntityStart reports whether b has only what an entity may have.
func isEntityStart(b []byte) bool {
	for i, c := range b {
		letter := 'a' <= c|0x20 && c|0x20 <= 'z'
		if !letter && !('0' <= c && c <= '9' && i > 0) && !(c == '#' && i == 0) {
			return false
		}
	}
	return true
}

// numbered returns what an entity of this name, as #39 or #x27, means.
func numbered(name []byte) (rune, bool) {
	if len(name) < 2 || name[0] != '#' {
		return 0, false
	}
	name, base := name[1:], 10
	if name[0]|0x20 == 'x' {
		name, base = name[1:], 16
	}
	r, n := digits(name, base)
	return r, n > 0 && n == len(name)
}

// named returns the ASCII character of an HTML entity of this name, or 0.
func named(name string) byte {
	switch name {
	case "amp", "AMP":
		return '&'
	case "lt", "LT":
		return '<'
	case "gt", "GT":
		return '>'
	case "quot", "QUOT":
		return '"'
	}
	i := strings.Index(entityNames, " "+name+" ")
	if i < 0 || name == "" || !isEntityStart([]byte(name)) {
		return 0
	}
	return entityNames[i-1]
}

// entityNames are the other names of HTML (section 13.5) for ASCII characters,
// each after its character.
const entityNames = "' apos ! excl # num $ dollar % percnt ( lpar ) rpar * ast + plus , comma . period / sol : colon ; semi = equals " +
	"? quest @ commat [ lsqb [ lbrack \\ bsol ] rsqb ] rbrack ^ Hat _ lowbar ` grave { lcub { lbrace | verbar | vert } rcub } rbrace " +
	"\t Tab \n NewLine "

// backslash decodes the escapes of JSON (RFC 8259, section 7), Go, JavaScript,
// Python, C and the $'…' of shells. Any other character after a backslash means
// itself, as it does to a shell.
func backslash(dst, src []byte) ([]byte, int) {
	if len(src) < 2 {
		return dst, 0
	}
	c := src[1]
	switch {
	case c == 'u' || c == 'U':
		return codePoint(dst, src)
	case c == 'x':
		return numeric(dst, src, 2, 2, 16)
	case '0' <= c && c <= '7':
		return numeric(dst, src, 1, 3, 8)
	}
	if i := bytes.IndexByte([]byte("abefnrtvE"), c); i >= 0 {
		c = "\a\b\x1b\f\n\r\t\v\x1b"[i]
	}
	return append(dst, c), 2
}

// numeric decodes a byte written with up to most digits, which begin at src[at].
func numeric(dst, src []byte, at, most, base int) ([]byte, int) {
	value, n := digits(src[at:min(len(src), at+most)], base)
	switch {
	case n < most && at+n == len(src):
		return dst, 0
	case n == 0:
		return append(dst, src[1]), 2
	}
	return append(dst, byte(value)), at + n
}

// codePoint decodes \uXXXX, or two of them that make a surrogate pair, \u{X…}
// and \UXXXXXXXX.
func codePoint(dst, src []byte) ([]byte, int) {
	first, n := codeUnit(src)
	second, m := rune(0), 0
	if n > 0 && utf16.IsSurrogate(first) {
		second, m = codeUnit(src[n:])
	}
	switch {
	case n == 0 || n > 0 && m == 0 && utf16.IsSurrogate(first):
		return dst, 0
	case n < 0:
		return append(dst, src[1]), 2
	case m > 0 && utf16.DecodeRune(first, second) != utf8.RuneError:
		return utf8.AppendRune(dst, utf16.DecodeRune(first, second)), n + m
	}
	return utf8.AppendRune(dst, first), n
}

// codeUnit reads one such escape at the start of src and returns its length; 0
// if src cuts it off, and -1 if there is none.
func codeUnit(src []byte) (rune, int) {
	switch {
	case len(src) == 0 || len(src) == 1 && src[0] == '\\':
		return 0, 0
	case src[0] != '\\' || src[1]|0x20 != 'u':
		return 0, -1
	case src[1] == 'U':
		return hexRune(src, 2, 8)
	case len(src) > 2 && src[2] == '{':
		r, n := digits(src[3:min(len(src), 9)], 16)
		switch {
		case 3+n == len(src):
			return 0, 0
		case n == 0 || src[3+n] != '}':
			return 0, -1
		}
		return r, 3 + n + 1
	}
	return hexRune(src, 2, 4)
}

// hexRune reads a number of exactly count digits at src[at:].
func hexRune(src []byte, at, count int) (rune, int) {
	r, n := digits(src[at:min(len(src), at+count)], 16)
	switch {
	case n == count:
		return r, at + n
	case at+n == len(src):
		return 0, 0
	}
	return 0, -1
}

// digits returns the value and number of the digits that b begins with. A value
// that is no code point is the largest.
func digits(b []byte, base int) (value rune, n int) {
	for _, c := range b {
		d := digit(c)
		if d < 0 || d >= base {
			break
		}
		value, n = min(value*rune(base)+rune(d), utf8.MaxRune+1), n+1
	}
	return value, n
}

// digit returns the value of a hexadecimal digit, or -1.
func digit(c byte) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'a' <= c && c <= 'f':
		return int(c-'a') + 10
	case 'A' <= c && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}
