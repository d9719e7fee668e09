package presets

import "strings"

// AnyRest, as the last segment of a glob, stands for one or more.
const AnyRest = "**"

// FitsGlob reports whether s is one of the texts that pattern stands for: * is
// any text within one segment, also none; segments end at a slash or colon, and
// none is empty; ** as the last segment is one or more. It takes time in
// proportion to the length of s, as strings.Index does, and no memory.
func FitsGlob(pattern, s string) bool {
	for {
		if pattern == AnyRest {
			return s != ""
		}
		one, restOfPattern, more := CutSegment(pattern)
		other, restOfText, moreText := CutSegment(s)
		if other == "" || more != moreText || !FitsSegment(one, other) {
			return false
		}
		if more == 0 {
			return true
		}
		pattern, s = restOfPattern, restOfText
	}
}

// CutSegment cuts s after its first segment; end is what ended it, 0 at the end
// of s.
func CutSegment(s string) (segment, rest string, end byte) {
	i := strings.IndexAny(s, "/:")
	if i < 0 {
		return s, "", 0
	}
	return s[:i], s[i+1:], s[i]
}

// FitsSegment matches one segment: what is before the first * and after the last
// is at its ends, and what is between them is found one after the other, each at
// the first place. Trying other places could not help, and would let a long
// claim take a second.
func FitsSegment(pattern, s string) bool {
	first, rest, hasStar := strings.Cut(pattern, "*")
	s, ok := strings.CutPrefix(s, first)
	if !hasStar {
		return ok && s == ""
	}
	for ok {
		first, rest, hasStar = strings.Cut(rest, "*")
		if !hasStar {
			return strings.HasSuffix(s, first)
		}
		_, s, ok = strings.Cut(s, first)
	}
	return false
}
