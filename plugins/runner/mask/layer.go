package mask

import (
	"bytes"
	"encoding/binary"
	"math/bits"
	"sort"
)

// depth is how many kinds of escapes may lie on top of each other: percent-
// encoding of JSON within JSON is 3. What looks like an escape in a value adds
// one.
const depth = 4

// maxGap in bytes bounds what is dropped in a row, so that little has to be held
// back: 12 colour codes between two characters.
const maxGap = 64

// A layer is a text decoded once, and where in its source each byte comes from.
//
// To decode the output and to look for the value costs a few lines and little
// memory, whatever encoder made it. To look for all that encoders make of the
// value would take a pattern for each, and encoders differ in what they escape.
type layer struct {
	text   []byte  // the source itself if there are no tokens
	tokens []token // what was decoded, in order
	buf    []byte  // scratch for text
	small  []byte  // scratch for one token
}

// A token is a part of the source that means something else: source[from:to]
// means text[at:at+n].
type token struct{ from, to, at, n int }

// A reader decodes what is at the start of src: it appends what it means to dst,
// and returns how many bytes it has. 0 says that the end of src cuts it off.
// What needs no decoding means itself.
type reader func(dst, src []byte) ([]byte, int)

// decode makes l the text that src means, when read decodes what mark finds. It
// returns how far src could be decoded: a token that begins there is cut off.
func (l *layer) decode(src []byte, mark func([]byte) int, read reader) int {
	l.buf, l.tokens = l.buf[:0], l.tokens[:0]
	at, copied, gap := 0, 0, 0
	for at < len(src) {
		n := mark(src[at:])
		if n > 0 {
			gap = 0
		}
		if at += n; at == len(src) {
			break
		}
		l.small, n = read(l.small[:0], src[at:])
		if n == 0 {
			break
		}
		drop := len(l.small) == 0
		if gap += n; !drop {
			gap = 0
		}
		if itself := n == 1 && !drop && l.small[0] == src[at]; !itself && gap <= maxGap {
			l.buf = append(l.buf, src[copied:at]...)
			l.tokens = append(l.tokens, token{at, at + n, len(l.buf), len(l.small)})
			l.buf = append(l.buf, l.small...)
			copied = at + n
		}
		if gap > maxGap {
			gap = 0
		}
		at += n
	}
	if l.text = src[:at]; copied > 0 {
		l.buf = append(l.buf, src[copied:at]...)
		l.text = l.buf
	}
	return at
}

// startOf returns where in the source the byte text[at] begins.
func (l *layer) startOf(at int) int {
	n := sort.Search(len(l.tokens), func(i int) bool { return l.tokens[i].at > at })
	if n == 0 {
		return at
	}
	t := l.tokens[n-1]
	if at < t.at+t.n {
		return t.from
	}
	return t.to + at - t.at - t.n
}

// endOf returns where in the source the byte before text[at] ends.
func (l *layer) endOf(at int) int {
	n := sort.Search(len(l.tokens), func(i int) bool { return l.tokens[i].at > at-1 })
	if n > 0 && at <= l.tokens[n-1].at+l.tokens[n-1].n {
		return l.tokens[n-1].to
	}
	return l.startOf(at-1) + 1
}

// strip returns b without what the first layer drops, and what its end cuts off.
func strip(b []byte) (known, begun []byte) { return decoded(b, findControl, dropped) }

// unescape returns b with its escapes decoded, once, and what its end cuts off.
func unescape(b []byte) (known, begun []byte) { return decoded(b, findEscape, escape) }

func decoded(b []byte, mark func([]byte) int, read reader) (known, begun []byte) {
	var l layer
	end := l.decode(b, mark, read)
	return l.text, b[end:]
}

const (
	ones  = 0x0101010101010101
	highs = 0x8080808080808080
)

// findControl returns how many bytes of b come before the first that is below
// the space, or a backslash.
func findControl(b []byte) int {
	at := 0
	for ; at+8 <= len(b); at += 8 {
		x := binary.LittleEndian.Uint64(b[at:])
		if found := (x-0x20*ones)&^x&highs | zeros(x^'\\'*ones); found != 0 {
			return at + bits.TrailingZeros64(found)/8
		}
	}
	for at < len(b) && b[at] >= 0x20 && b[at] != '\\' {
		at++
	}
	return at
}

// hasEscape reports whether findEscape finds any; it is quicker where there is
// none.
func hasEscape(b []byte) bool {
	return bytes.IndexByte(b, '%') >= 0 || bytes.IndexByte(b, '\\') >= 0 || bytes.IndexByte(b, '&') >= 0
}

// findEscape returns how many bytes of b come before the first '%', '&' or '\'.
func findEscape(b []byte) int {
	at := 0
	for ; at+8 <= len(b); at += 8 {
		x := binary.LittleEndian.Uint64(b[at:])
		if found := zeros(x^'%'*ones) | zeros(x^'&'*ones) | zeros(x^'\\'*ones); found != 0 {
			return at + bits.TrailingZeros64(found)/8
		}
	}
	for at < len(b) && b[at] != '%' && b[at] != '&' && b[at] != '\\' {
		at++
	}
	return at
}

// zeros has the high bit of the lowest byte of x that is zero, and perhaps of
// some above it.
func zeros(x uint64) uint64 { return (x - ones) & ^x & highs }
