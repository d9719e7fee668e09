package mask

import (
	"bytes"
	"sort"
	"unicode/utf16"
	"unicode/utf8"
)

// A view is the output as one kind of reader takes it, and how far the search
// for values has come in it: the output itself; the output without its line
// breaks, as base64(1) -d reads it; with percent-encoding decoded, as a server
// reads a URL; with backslash escapes decoded, as a JSON parser reads a string.
//
// To decode the output and to look for the value costs a few lines and little
// memory, whatever encoder made it. To look for all that encoders make of the
// value would take a pattern for each, and encoders differ in what they escape.
//
// Positions in the decoded text count from the beginning of the output, and
// those in the output itself from the first byte that the Writer holds.
type view struct {
	auto   *automaton
	marks  string   // the first bytes of what is decoded; "": nothing is
	decode unescape // for what begins with one of marks

	place
	count int    // bytes decoded so far
	turns []turn // where decoded text and output part, in order; the first is for all text before it
	text  []byte // scratch: what was decoded last
}

// A place is where a view's automaton is.
type place struct {
	state uint32
	start int // in the output, of what led to state
	read  int // in the output, of what is decoded next
}

// An unescape decodes the escape at the start of src: it appends what it means
// to dst, and returns how many bytes it has. 0 says that the end of src cuts it
// off. What is no escape means itself.
type unescape func(dst, src []byte) ([]byte, int)

// A turn says that the decoded byte at is at raw in the output, the ones after
// it follow there, and the one before it ends at end.
type turn struct{ at, raw, end int }

func newViews(m *Masker) []view {
	views := []view{
		{auto: m.plain},
		{auto: m.base64, marks: "\r\n", decode: skipBreak},
		{auto: m.plain, marks: "%", decode: percent},
		{auto: m.plain, marks: `\`, decode: backslash},
	}
	for i := range views {
		views[i].restart()
	}
	return views
}

// find decodes what is new in b and adds the place in b of each occurrence of a
// pattern to covered.
func (v *view) find(b []byte, covered *spans) {
	text, base := v.next(b), v.count
	s := v.state
	for i := 0; i < len(text); {
		if s == root {
			if i = v.auto.skip(text, i); i == len(text) {
				break
			}
		}
		s = v.auto.step(s, text[i])
		i++
		if n := v.auto.nodes[s].match; n > 0 {
			covered.add(v.startOf(base+i-int(n)), v.endOf(base+i))
		}
	}
	v.state, v.count = s, base+len(text)
	v.settle()
}

// follow is find for bytes in which nothing is decoded, after other, a view
// with the same automaton, went from where v is to the end of b.
func (v *view) follow(other *view) {
	v.count += other.read - v.read
	v.place = other.place
}

// hasMark reports whether something in b may have to be decoded.
func (v *view) hasMark(b []byte) bool {
	return len(b) > 0 && plainPrefix(b, v.marks) < len(b)
}

// settle works out where the text begins that led to state, and forgets the
// turns before it.
func (v *view) settle() {
	depth := int(v.auto.nodes[v.state].depth)
	v.start = v.read
	if depth > 0 {
		v.start = v.startOf(v.count - depth)
	}
	if n := v.lastTurn(v.count - depth); n > 0 {
		v.turns = append(v.turns[:0], v.turns[n:]...)
	}
}

// shift makes the output begin n bytes later.
func (v *view) shift(n int) {
	v.start, v.read = v.start-n, v.read-n
	for i := range v.turns {
		v.turns[i].raw -= n
		v.turns[i].end -= n
	}
}

// restart forgets all that was read.
func (v *view) restart() { v.place, v.count, v.turns = place{}, 0, append(v.turns[:0], turn{}) }

// next decodes b[v.read:], as far as it can.
func (v *view) next(b []byte) []byte {
	if v.marks == "" {
		text := b[v.read:]
		v.read = len(b)
		return text
	}
	v.text = v.text[:0]
	for v.read < len(b) {
		n := plainPrefix(b[v.read:], v.marks)
		v.text = append(v.text, b[v.read:v.read+n]...)
		v.read += n
		if v.read < len(b) && !v.unescape(b[v.read:]) {
			break
		}
	}
	return v.text
}

// unescape decodes what is at the start of src, and reports false if that is
// not all there yet.
func (v *view) unescape(src []byte) bool {
	before := len(v.text)
	text, n := v.decode(v.text, src)
	if n == 0 {
		return false
	}
	v.text = text
	end := v.read + n
	if n > 1 || len(text) == before {
		for i := before + 1; i < len(text); i++ {
			v.turn(turn{v.count + i, v.read, end})
		}
		past := turn{v.count + len(text), end, end}
		if len(text) == before {
			past.end = v.read // what is dropped belongs to no text
		}
		v.turn(past)
	}
	v.read = end
	return true
}

// turn adds t. Of two that are dropped in a row the first says where the text
// before them ends.
func (v *view) turn(t turn) {
	if n := len(v.turns); n > 0 && v.turns[n-1].at == t.at {
		v.turns[n-1].raw = t.raw
		return
	}
	v.turns = append(v.turns, t)
}

// lastTurn returns the index of the last turn at or before the decoded byte at,
// or -1.
func (v *view) lastTurn(at int) int {
	return sort.Search(len(v.turns), func(i int) bool { return v.turns[i].at > at }) - 1
}

// startOf returns where in the output the decoded byte at comes from.
func (v *view) startOf(at int) int {
	t := v.turns[v.lastTurn(at)]
	return t.raw + at - t.at
}

// endOf returns where in the output the decoded bytes before at end.
func (v *view) endOf(at int) int {
	t := v.turns[v.lastTurn(at)]
	if t.at == at {
		return t.end
	}
	return t.raw + at - t.at
}

// maxSearch in bytes bounds how far plainPrefix looks for one of several marks,
// so that it does not look for a rare one far beyond each of a frequent one.
const maxSearch = 512

// plainPrefix returns how many bytes of b come before the first of marks, or
// fewer. A byte after them that is no mark means itself.
func plainPrefix(b []byte, marks string) int {
	if len(marks) > 1 {
		b = b[:min(len(b), maxSearch)]
	}
	for i := range len(marks) {
		if n := bytes.IndexByte(b, marks[i]); n >= 0 {
			b = b[:n]
		}
	}
	return len(b)
}

// skipBreak drops line breaks.
func skipBreak(dst, src []byte) ([]byte, int) {
	if src[0] == '\n' || src[0] == '\r' {
		return dst, 1
	}
	return append(dst, src[0]), 1
}

// percent decodes RFC 3986, section 2.1.
func percent(dst, src []byte) ([]byte, int) {
	value, n := hexDigits(src[1:min(len(src), 3)])
	switch {
	case n == 2:
		return append(dst, byte(value)), 3
	case n == len(src)-1:
		return dst, 0
	}
	return append(dst, src[0]), 1
}

// backslash decodes the escapes of JSON (RFC 8259, section 7). Any other
// character after a backslash means itself, as it does to a shell.
func backslash(dst, src []byte) ([]byte, int) {
	if len(src) < 2 {
		return dst, 0
	}
	if src[1] == 'u' {
		return unicodeEscape(dst, src)
	}
	c := src[1]
	if i := bytes.IndexByte([]byte("bfnrt"), c); i >= 0 {
		c = "\b\f\n\r\t"[i]
	}
	return append(dst, c), 2
}

// unicodeEscape decodes \uXXXX, or two of them that make a surrogate pair.
func unicodeEscape(dst, src []byte) ([]byte, int) {
	first, n := codeUnit(src)
	if n < 6 || !utf16.IsSurrogate(first) {
		return appendRune(dst, first, src, n)
	}
	second, m := codeUnit(src[n:])
	if pair := utf16.DecodeRune(first, second); m == 6 && pair != utf8.RuneError {
		return utf8.AppendRune(dst, pair), n + m
	}
	if m < 6 && n+m == len(src) {
		return dst, 0
	}
	return utf8.AppendRune(dst, utf8.RuneError), n
}

// appendRune appends r if the escape at the start of src has all its n bytes.
func appendRune(dst []byte, r rune, src []byte, n int) ([]byte, int) {
	switch {
	case n == 6:
		return utf8.AppendRune(dst, r), n
	case n == len(src):
		return dst, 0
	}
	return append(dst, src[1]), 2
}

// codeUnit reads \uXXXX at the start of src, and returns how many of its six
// bytes are there.
func codeUnit(src []byte) (rune, int) {
	for i := range min(len(src), 2) {
		if src[i] != `\u`[i] {
			return 0, i
		}
	}
	if len(src) <= 2 {
		return 0, len(src)
	}
	value, n := hexDigits(src[2:min(len(src), 6)])
	return value, 2 + n
}

// hexDigits returns the value and number of the hexadecimal digits that b
// begins with.
func hexDigits(b []byte) (value rune, n int) {
	for _, c := range b {
		digit := bytes.IndexByte([]byte("0123456789abcdef"), c|0x20)
		if digit < 0 || c < '0' {
			break
		}
		value, n = value<<4|rune(digit), n+1
	}
	return value, n
}
