package mask

import (
	"slices"
	"strings"
)

// root is the state in which nothing of any pattern has been seen.
const root = 0

// mostShown is how many characters of what may be a value are shown when the
// rest does not come: less than half of it, and in any case no more than these,
// since the first half of a long value would be worth having.
const mostShown = 4

// maxWindow bounds how far skip looks ahead. Beyond 16 bytes longer steps gain
// nothing: the patterns' pairs fill the table.
const maxWindow = 16

// An automaton finds every occurrence of many patterns in one pass: a trie of
// the patterns whose nodes know where to go on when the next byte does not fit.
//
// The children of a node are a list, not a table over all bytes: nearly every
// node has one child, and a table would take 60 times the memory (a PEM key
// has some 20,000 nodes) to speed up a path that skip hardly ever takes.
type automaton struct {
	nodes  []node
	first  [256]uint32 // the root's children, where the lists would be long
	window int         // bytes of a pattern that skip considers; 0: no patterns
	shift  []uint8     // pair of bytes → how far skip may go; see skip
}

type node struct {
	child, sibling uint32 // 0: none
	fail           uint32 // the longest proper suffix that is a node, too
	depth          uint32 // bytes from the root
	match          uint32 // length of the longest pattern that ends here; 0: none
	char           byte   // the byte that leads here
	telling        bool   // what leads here is too much of a value to be shown
}

func newAutomaton(patterns []pattern) *automaton {
	a := &automaton{nodes: make([]node, 1, 1+sortForTrie(patterns))}
	for _, p := range patterns {
		a.insert(p)
	}
	a.link()
	a.fillShift(patterns)
	return a
}

// sortForTrie sorts patterns and returns how many nodes they take besides the
// root.
func sortForTrie(patterns []pattern) int {
	slices.SortFunc(patterns, func(p, q pattern) int { return strings.Compare(p.text, q.text) })
	nodes, last := 0, ""
	for _, p := range patterns {
		nodes += len(p.text) - commonPrefix(p.text, last)
		last = p.text
	}
	return nodes
}

// commonPrefix returns how many bytes s and t have in common at the start.
func commonPrefix(s, t string) int {
	n := 0
	for n < min(len(s), len(t)) && s[n] == t[n] {
		n++
	}
	return n
}

// insert adds the path of p to the trie.
func (a *automaton) insert(p pattern) {
	at := uint32(root)
	for i := range len(p.text) {
		at = a.grow(at, p.text[i])
		if i+1 > mostShown || 2*(i+1) >= p.value {
			a.nodes[at].telling = true
		}
	}
	a.nodes[at].match = uint32(len(p.text))
}

// grow returns the child of at by c, and makes it if there is none.
func (a *automaton) grow(at uint32, c byte) uint32 {
	if n := a.childOf(at, c); n != 0 {
		return n
	}
	n := uint32(len(a.nodes))
	a.nodes = append(a.nodes, node{char: c, depth: a.nodes[at].depth + 1, sibling: a.nodes[at].child})
	a.nodes[at].child = n
	if at == root {
		a.first[c] = n
	}
	return n
}

// childOf returns the child of at by c, or 0.
func (a *automaton) childOf(at uint32, c byte) uint32 {
	if at == root {
		return a.first[c]
	}
	n := a.nodes[at].child
	for n != 0 && a.nodes[n].char != c {
		n = a.nodes[n].sibling
	}
	return n
}

// link sets fail in order of depth, since a fail is always shorter, and hands
// down what holds for a suffix: a match, and telling.
func (a *automaton) link() {
	queue := make([]uint32, 1, len(a.nodes)) // the root
	for i := 0; i < len(queue); i++ {
		at := queue[i]
		for n := a.nodes[at].child; n != 0; n = a.nodes[n].sibling {
			if at != root {
				a.nodes[n].fail = a.step(a.nodes[at].fail, a.nodes[n].char)
			}
			fail := &a.nodes[a.nodes[n].fail]
			a.nodes[n].match = max(a.nodes[n].match, fail.match)
			a.nodes[n].telling = a.nodes[n].telling || fail.telling
			queue = append(queue, n)
		}
	}
}

// step returns the state that follows s on c.
func (a *automaton) step(s uint32, c byte) uint32 {
	for {
		if n := a.childOf(s, c); n != 0 || s == root {
			return n
		}
		s = a.nodes[s].fail
	}
}

// fillShift prepares skip: for each pair of bytes, how far its last place among
// the first window bytes of any pattern is from their end.
func (a *automaton) fillShift(patterns []pattern) {
	if len(patterns) == 0 {
		return
	}
	a.window = maxWindow
	for _, p := range patterns {
		a.window = min(a.window, len(p.text))
	}
	a.shift = make([]uint8, 1<<16)
	for i := range a.shift {
		a.shift[i] = uint8(a.window - 1)
	}
	for _, p := range patterns {
		for i := range a.window - 1 {
			s := &a.shift[pair(p.text[i], p.text[i+1])]
			*s = min(*s, uint8(a.window-2-i))
		}
	}
}

func pair(x, y byte) uint16 { return uint16(x)<<8 | uint16(y) }

// skip returns the first place at or after i where a pattern can begin, going
// by the last two bytes of the window there (Wu and Manber, 1994). Near the end
// of b, where no whole window is left, it returns the next place.
func (a *automaton) skip(b []byte, i int) int {
	if a.window == 0 {
		return len(b)
	}
	last := i + a.window - 1
	for last < len(b) {
		s := a.shift[pair(b[last-1], b[last])]
		if s == 0 {
			break
		}
		last += int(s)
	}
	return last - a.window + 1
}
