package mask

import "sort"

// A span is a range of bytes, end excluded.
type span struct{ start, end int }

// spans are sorted and do not touch each other.
type spans []span

// add makes b[start:end] part of s.
func (s *spans) add(start, end int) {
	first := sort.Search(len(*s), func(i int) bool { return (*s)[i].end >= start })
	last := first
	for ; last < len(*s) && (*s)[last].start <= end; last++ {
		start, end = min(start, (*s)[last].start), max(end, (*s)[last].end)
	}
	rest := append(spans(nil), (*s)[last:]...) // a copy: the new one may stand where it begins
	*s = append(append((*s)[:first], span{start, end}), rest...)
}

// after drops the first n bytes, in place.
func (s spans) after(n int) spans {
	rest := s[:0]
	for _, c := range s {
		if c.end > n {
			rest = append(rest, span{max(0, c.start-n), c.end - n})
		}
	}
	return rest
}
