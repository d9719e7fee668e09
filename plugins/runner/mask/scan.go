package mask

import (
	"bytes"
	"sort"
)

// A scan looks for secrets in a piece of output, in every layer of it:
//
//	the output → what a reader sees → escapes decoded → what a reader sees → …
//	           ↘ as a dump of bytes
//
// What a reader sees has no line breaks, colours and the like (see dropped). Of
// what one look finds nothing is needed for the next: the Writer keeps that much
// of the output that it can be decoded in the same way again.
type scan struct {
	index  *index
	layers [1 + 2*depth]layer
	used   int // layers that differ from those before them
	dump   dump
	dumped layer  // what a reader sees in the dump
	piece  []byte // of output, being looked at
	finds  []find // scratch
	result
}

func newScan(x *index) *scan {
	s := &scan{index: x}
	s.dump.ended = func() { s.searchDumped(false) }
	return s
}

// A result is what one look at a piece of output tells.
type result struct {
	hits    []hit
	keep    int  // from here on it is needed when it is known how it goes on
	hold    int  // from here on it may be the beginning of a secret
	telling bool // and too much of one to be shown
}

// A hit is a place in the piece where a secret stands.
type hit struct {
	span
	secret   int
	encoding encoding
	layer    int // the one in which it was found; -1: the dump
}

// look searches b, which comes after prev.
func (s *scan) look(b []byte, prev byte) {
	s.result = result{hits: s.hits[:0], keep: len(b), hold: len(b)}
	src := b
	for s.used = 0; s.used < len(s.layers); s.used++ {
		if s.used%2 == 1 && !hasEscape(src) {
			break
		}
		end, changed := s.decode(src)
		if s.used%2 == 1 && !changed {
			break
		}
		if end < len(src) {
			s.hold = min(s.hold, s.startOf(s.used-1, end))
		}
		src = s.layers[s.used].text
		if s.used%2 == 0 {
			s.search(s.used, src)
		}
	}
	s.keep = min(s.keep, s.hold)
	s.searchDump(b, prev)
	s.settle()
}

// decode makes the next layer, of the text of the one before. It reports whether
// it differs.
func (s *scan) decode(src []byte) (end int, changed bool) {
	l := &s.layers[s.used]
	if s.used%2 == 0 {
		end = l.decode(src, findControl, dropped)
	} else {
		end = l.decode(src, findEscape, escape)
	}
	return end, end < len(src) || len(l.tokens) > 0
}

// search looks for the patterns in the text of a layer.
func (s *scan) search(layer int, text []byte) {
	s.finds = s.index.search(s.finds[:0], text)
	for _, f := range s.finds {
		start := s.startOf(layer, f.start)
		if f.partial {
			s.begun(f, start)
			continue
		}
		s.found(f, span{start, s.endOf(layer, f.end)}, layer)
	}
}

// begun notes that at start a secret may begin that the end of the output cuts
// off.
func (s *scan) begun(f find, start int) {
	shown := f.end - f.start
	s.telling = s.telling || shown > mostShown || 2*shown >= f.value
	s.hold = min(s.hold, start)
}

func (s *scan) found(f find, where span, layer int) {
	p := &s.index.patterns[f.pattern]
	s.hits = append(s.hits, hit{where, int(p.secret), p.encoding, layer})
}

// startOf returns where in the output the byte at this place in the text of a
// layer begins.
func (s *scan) startOf(layer, at int) int {
	for ; layer >= 0; layer-- {
		at = s.layers[layer].startOf(at)
	}
	return at
}

// endOf returns where in the output the byte before this place ends.
func (s *scan) endOf(layer, at int) int {
	for ; layer >= 0; layer-- {
		at = s.layers[layer].endOf(at)
	}
	return at
}

// searchDump looks for the patterns in what b, which comes after prev, shows as
// dumps.
func (s *scan) searchDump(b []byte, prev byte) {
	d := &s.dump
	d.least = s.index.window
	s.piece = b
	d.read(b, prev)
	s.keep, s.hold = min(s.keep, d.keep), min(s.hold, d.hold)
	if end := s.searchDumped(true); end < len(d.text) {
		s.holdCell(d.cells[end])
	}
	s.keep = min(s.keep, s.hold)
}

// searchDumped looks for the patterns in the text of a dump. If that is the last
// one it may go on. It returns how far the text could be decoded.
func (s *scan) searchDumped(last bool) int {
	d := &s.dump
	end := s.dumped.decode(d.text, findControl, dropped)
	s.finds = s.index.search(s.finds[:0], s.dumped.text)
	for _, f := range s.finds {
		first := d.cells[s.dumped.startOf(f.start)]
		switch {
		case !f.partial:
			s.foundDumped(f, first)
		case last:
			s.begun(f, first.from)
			s.holdCell(first)
		}
	}
	return end
}

func (s *scan) foundDumped(f find, first cell) {
	end := s.dump.endOf(s.piece, s.dumped.endOf(f.end))
	if end == len(s.piece) {
		s.keep = min(s.keep, first.keep) // the rest of the row is covered, too
	}
	s.found(f, span{first.from, end}, -1)
}

// holdCell notes that a secret may begin with this byte of a dump.
func (s *scan) holdCell(c cell) {
	s.hold, s.keep = min(s.hold, c.from), min(s.keep, c.keep)
}

// endOf returns where in b the byte before text[at] ends; in a row that is the
// end of the line, which shows it once more as a character.
func (d *dump) endOf(b []byte, at int) int {
	last := d.cells[at-1]
	if last.row < 0 {
		return last.to
	}
	if n := bytes.IndexByte(b[last.to:], '\n'); n >= 0 {
		return last.to + n
	}
	return len(b)
}

// settle moves keep back to where no token of any layer is torn.
func (s *scan) settle() {
	for moved := true; moved; {
		moved = false
		for i := s.used - 1; i >= 0; i-- {
			tokens := s.layers[i].tokens
			n := sort.Search(len(tokens), func(n int) bool { return s.endOf(i-1, tokens[n].to) > s.keep })
			if n < len(tokens) {
				if start := s.startOf(i-1, tokens[n].from); start < s.keep {
					s.keep, moved = start, true
				}
			}
		}
	}
}
