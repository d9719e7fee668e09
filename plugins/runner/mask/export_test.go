package mask

import "strings"

// Texts returns what m looks for.
func Texts(m *Masker) []string {
	var out []string
	for i := range m.index.patterns[1:] {
		out = append(out, string(m.index.text(&m.index.patterns[i+1])))
	}
	return out
}

// Size returns the bytes of memory that m's index takes.
func Size(m *Masker) int {
	x := &m.index
	return cap(x.texts) + 32*cap(x.patterns) + 8*cap(x.filter) + 4*cap(x.lists) + 8*cap(x.keys)
}

// A Form is a text that a Masker looks for.
type Form struct {
	Text   string
	Leads  func(before byte) bool // what belongs to it, too
	Trails func(next byte) bool   // what must follow; nil: anything
}

// Forms returns what m looks for.
func Forms(m *Masker) []Form {
	var out []Form
	for i, text := range Texts(m) {
		e := m.index.patterns[i+1].edges
		f := Form{Text: text, Leads: e.leads}
		if e.trail.bits > 0 {
			f.Trails = e.trails
		}
		out = append(out, f)
	}
	return out
}

const (
	Depth  = depth
	MaxGap = maxGap
)

// Drop and Escape return what the start of text means, and how long it is; 0: the
// end of text cuts it off.
func Drop(text string) (string, int) {
	out, n := dropped(nil, []byte(text))
	return string(out), n
}

func Escape(text string) (string, int) {
	if findEscape([]byte(text[:1])) > 0 {
		return text[:1], 1
	}
	out, n := escape(nil, []byte(text))
	return string(out), n
}

// A Dumped is a text that a dump shows, and the place of each of its bytes: where
// it begins, where it ends, and where it ends if it is the last one of a secret.
type Dumped struct {
	Text   string
	Places [][3]int
}

// Dump returns the texts that output shows as dumps.
func Dump(output string) []Dumped {
	var out []Dumped
	d := dump{least: 1}
	d.ended = func() {
		places := make([][3]int, len(d.text))
		for i, c := range d.cells {
			places[i] = [3]int{c.from, c.to, d.endOf([]byte(output), i+1)}
		}
		out = append(out, Dumped{string(d.text), places})
	}
	d.read([]byte(output), '\n')
	d.ended()
	return out
}

// Bare returns what is left of a value when all that looks like escapes in it is
// decoded, or begins with what follows it.
func Bare(value string) string {
	text := []byte(strings.TrimSpace(value))
	for range depth {
		text, _ = strip(text)
		text, _ = unescape(text)
	}
	text, _ = strip(text)
	return string(text)
}
