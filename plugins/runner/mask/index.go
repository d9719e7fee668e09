package mask

import (
	"encoding/binary"
	"math/bits"
	"slices"
)

const (
	// maxWindow is how many of a pattern's first bytes the filter knows at most.
	// Beyond 24 longer steps gain nothing.
	maxWindow = 24

	// maxGram is how many bytes the filter tests at a time: what one load gets.
	maxGram = 8

	// maxKey is how many of a pattern's first bytes choose its list.
	maxKey = 7

	// maxFilter bounds the filter in words of 64 bits: 1 MiB, which stays in a
	// processor's second-level cache.
	maxFilter = 1 << 17

	// mixer spreads the bits of what is hashed: 2^64 divided by the golden ratio
	// (Knuth, The Art of Computer Programming, section 6.4).
	mixer = 0x9e3779b97f4a7c15
)

// A pattern is a text to look for.
type pattern struct {
	offset, length uint32 // of the text, in the index's texts
	next           uint32 // the next pattern with the same key, or 0
	secret         uint32 // index of the secret that the text shows
	value          uint32 // length in bytes of the secret, or of its line
	encoding       encoding
	edges          edges
}

// Edges are the characters of base64 before and after a text that belong to the
// value with some of their bits: the last ones of the lead, the first ones of the
// trail.
type edges struct{ lead, trail edge }

// An edge is how many bits, 0, 2 or 4, must have which value.
type edge struct{ bits, want uint8 }

// leads reports whether c may be the lead.
func (e edges) leads(c byte) bool {
	n := digit64(c)
	return n >= 0 && e.lead.bits > 0 && uint8(n)&(1<<e.lead.bits-1) == e.lead.want
}

// trails reports whether c may be the trail.
func (e edges) trails(c byte) bool {
	n := digit64(c)
	return n >= 0 && uint8(n)>>(6-e.trail.bits) == e.trail.want
}

// An index finds every occurrence of many patterns in one pass. It is built
// once and never changes.
//
// All patterns have at least window bytes. Of the first window bytes of each the
// filter knows every gram, a run of a few bytes. So it is enough to test one
// gram in each stride of the text: whatever begins there has one that the filter
// knows. Only then the lists are asked, by the first bytes of what may begin.
type index struct {
	texts    []byte
	patterns []pattern // the first is none
	window   int
	stride   int
	grams    uint64    // mask of the bytes of a gram in eight bytes
	filter   []uint64  // two bits for each gram, in one word (a blocked Bloom filter)
	narrow   uint      // how far a hash is shifted to number a word of filter
	key      int       // bytes that choose a list
	lists    []uint32  // hash of the key → the first pattern
	sparse   uint      // how far a hash is shifted to number a list
	keys     []uint64  // of all patterns, sorted; see keyOf
	leads    [256]bool // the characters that may be the lead of a pattern
}

// add makes text part of the index, before it is built.
func (x *index) add(p pattern, text string) {
	p.offset, p.length = uint32(len(x.texts)), uint32(len(text))
	x.texts = append(x.texts, text...)
	x.patterns = append(x.patterns, p)
}

func (x *index) text(p *pattern) []byte { return x.texts[p.offset : p.offset+p.length] }

// build prepares the search for what was added.
func (x *index) build() {
	x.window = maxWindow
	for i := range x.patterns[1:] {
		x.window = min(x.window, int(x.patterns[i+1].length))
	}
	gram := min(maxGram, max(4, x.window/2))
	x.stride, x.key = x.window-gram+1, min(maxKey, x.window)
	x.grams = lowBytes(gram)
	x.texts = append(x.texts, make([]byte, maxGram)...) // so that eight bytes can be read anywhere
	x.filter = make([]uint64, min(maxFilter, powerOf2(len(x.patterns)*x.stride/3)))
	x.narrow = 64 - uint(bits.TrailingZeros(uint(len(x.filter))))
	x.lists = make([]uint32, powerOf2(2*len(x.patterns)))
	x.sparse = 64 - uint(bits.TrailingZeros(uint(len(x.lists))))
	x.keys = make([]uint64, 0, len(x.patterns))
	for i := 1; i < len(x.patterns); i++ {
		x.enter(uint32(i))
	}
	slices.Sort(x.keys)
}

// enter makes the search know one pattern.
func (x *index) enter(number uint32) {
	p := &x.patterns[number]
	for i := range x.stride {
		h := x.gram(x.texts, int(p.offset)+i)
		x.filter[h>>x.narrow] |= 1<<(h&63) | 1<<(h>>6&63)
	}
	list := &x.lists[x.list(x.text(p))]
	p.next, *list = *list, number
	x.keys = append(x.keys, keyOf(x.text(p), p.value))
	if p.edges.lead.bits > 0 {
		for c := range x.leads {
			x.leads[c] = x.leads[c] || p.edges.leads(byte(c))
		}
	}
}

// powerOf2 returns the smallest power of two that is at least n, and at least 2.
func powerOf2(n int) int { return 1 << max(1, bits.Len(uint(n-1))) }

// lowBytes masks the first n of eight bytes in a little-endian word.
func lowBytes(n int) uint64 { return 1<<(8*n-1)<<1 - 1 }

// gram hashes the gram at t[i:], of which eight bytes must be there.
func (x *index) gram(t []byte, i int) uint64 {
	h := (binary.LittleEndian.Uint64(t[i:]) & x.grams) * mixer
	return h ^ h>>29
}

// list returns the number of the list for what begins with the key at the start
// of t.
func (x *index) list(t []byte) uint64 { return first7(t[:x.key]) * mixer >> x.sparse }

// first7 returns the first seven bytes of t, or as many as there are, as the
// high bytes of a word.
func first7(t []byte) uint64 {
	var n uint64
	for i := range min(len(t), maxKey) {
		n |= uint64(t[i]) << (56 - 8*i)
	}
	return n
}

// keyOf puts into one word the first seven bytes of text and, in the last byte,
// the length of the value it shows.
func keyOf(text []byte, value uint32) uint64 { return first7(text) | uint64(min(value, 255)) }

// A find is a place in a text where a pattern is, or may begin.
type find struct {
	start, end int
	pattern    uint32 // 0: the text ends before it is known which it is
	partial    bool   // the text ends within the pattern
	value      int    // of a partial one: length of the shortest value that it may be
}

// search appends to found every occurrence of a pattern in t, and every place
// where one begins that t cuts off.
func (x *index) search(found []find, t []byte) []find {
	if len(x.patterns) == 1 {
		return found
	}
	at := x.stride - 1
	for ; at+maxGram <= len(t); at += x.stride {
		h := x.gram(t, at)
		if w := x.filter[h>>x.narrow]; w>>(h&63)&(w>>(h>>6&63))&1 != 0 {
			for i := at - x.stride + 1; i <= at; i++ {
				found = x.at(found, t, i)
			}
		}
	}
	for i := at - x.stride + 1; i < len(t); i++ {
		found = x.at(found, t, i)
	}
	if n := len(t); n > 0 && x.leads[t[n-1]] {
		found = append(found, find{start: n - 1, end: n, partial: true, value: MinLength})
	}
	return found
}

// at appends what begins at t[i].
func (x *index) at(found []find, t []byte, i int) []find {
	rest := t[i:]
	if len(rest) < x.key {
		return x.begun(found, t, i)
	}
	for n := x.lists[x.list(rest)]; n != 0; n = x.patterns[n].next {
		p := &x.patterns[n]
		end, whole := x.compare(p, rest)
		if end > 0 {
			start := i
			if i > 0 && p.edges.leads(t[i-1]) {
				start--
			}
			found = append(found, find{start, i + end, n, !whole, int(p.value)})
		}
	}
	return found
}

// compare returns how many bytes of p t begins with, and whether that is all of
// p; or 0 if t goes on differently.
func (x *index) compare(p *pattern, t []byte) (n int, whole bool) {
	text := x.text(p)
	if len(t) < len(text) {
		if string(t) == string(text[:len(t)]) {
			return len(t), false
		}
		return 0, false
	}
	n = len(text)
	switch {
	case string(t[:n]) != string(text):
		return 0, false
	case p.edges.trail.bits == 0:
		return n, true
	case len(t) == n:
		return n, false
	case p.edges.trails(t[n]):
		return n + 1, true
	}
	return 0, false
}

// begun appends t[i:], which is shorter than a key, if any pattern begins with it.
func (x *index) begun(found []find, t []byte, i int) []find {
	rest := t[i:]
	low := first7(rest)
	high := low | (1<<(64-8*len(rest)) - 1)
	n, _ := slices.BinarySearch(x.keys, low)
	value := 0
	for ; n < len(x.keys) && x.keys[n] <= high; n++ {
		if v := int(x.keys[n] & 0xff); value == 0 || v < value {
			value = v
		}
		if len(rest) < MinLength/2 {
			break // less than half of any value
		}
	}
	if value > 0 {
		start := i
		if i > 0 && x.leads[t[i-1]] {
			start--
		}
		found = append(found, find{start: start, end: len(t), partial: true, value: value})
	}
	return found
}
