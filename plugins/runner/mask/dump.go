package mask

import "bytes"

const (
	// minRun is the least length of what is read as a dump: six bytes in groups
	// of two, "6875 6e74 6572".
	minRun = 14

	// maxRow in bytes is the longest row of a dump.
	maxRow = 1024

	// maxGroup is the most digits that are written together, 16 bytes of od -tx8
	// or hexdump. Longer hex is looked for as such.
	maxGroup = 16
)

// A dump is the output as one reads a dump of bytes in it: of xxd, hexdump and
// od, with the columns of offsets and of characters or without; of debuggers;
// arrays as in C or Go; and bytes with colons between them, as of openssl.
type dump struct {
	text  []byte
	cells []cell // where each byte of text comes from
	ended func() // is called with each text that something else ends
	row   row    // the one being read
	keep  int    // the output from here on must be read again with what follows
	hold  int    // the output from here on may be part of a byte
	least int    // bytes that any pattern has
}

// A cell is the place of a byte in the output. What is kept begins at its keep, so
// that it is read in the same way again.
type cell struct{ from, to, keep, row int }

// A row is a line that begins with an offset.
type row struct {
	start  int // in the output; -1: what is read is no row
	style  style
	groups int // read so far
}

// A style says how a tool writes its rows.
type style uint8

const (
	noRow style = iota
	od          // od and hexdump: words in the machine's order, and | or > before the characters
	xxd         // a colon after the offset, bytes in their order, two spaces before the characters
	curl        // of curl --trace, strace and openssl: 16 bytes, then the characters
)

// read calls ended with each text that b shows, which comes after prev. One that
// may go on after b is left in text.
func (d *dump) read(b []byte, prev byte) {
	d.text, d.cells = d.text[:0], d.cells[:0]
	d.keep, d.hold = len(b), len(b)
	atLine := prev == '\n'
	row, first := nextRow(b, 0, prev), 0
	if isHex[prev] {
		first = digitsAt(b, 0) // the rest of a group
	}
	for i := first; i < len(b); {
		if row < i {
			row = nextRow(b, i, prev)
		}
		if i = min(row, nextRun(b, i)); i == len(b) {
			break
		}
		if end, ok := d.enough(b[:row], i); !ok {
			i = end
			continue
		}
		d.row.start = -1
		if i = d.run(b, i, atLine); i < len(b) {
			d.other()
		}
	}
	if i := bytes.LastIndexByte(b, '\n') + 1; i > 0 || atLine {
		d.begun(b, i)
	}
}

// nextRow returns where in b, at or after i, the first line begins that begins with
// an offset, or len(b). Before b comes prev.
func nextRow(b []byte, i int, prev byte) int {
	if i > 0 {
		prev = b[i-1]
	}
	for i < len(b) {
		if n, _ := offset(b[i:]); n > 0 && prev == '\n' {
			return i
		}
		n := bytes.IndexByte(b[i:], '\n')
		if n < 0 {
			break
		}
		i, prev = i+n+1, '\n'
	}
	return len(b)
}

// offset returns the length of the offset with which a row of some style begins,
// or 0.
func offset(line []byte) (int, style) {
	start := 0
	for start < len(line) && start < 8 && (line[start] == ' ' || line[start] == '|') {
		start++
	}
	n := digitsAt(line[:min(len(line), start+maxGroup+1)], start)
	after := line[start+n:]
	is := func(text string) bool { return bytes.HasPrefix(after, []byte(text)) }
	switch {
	case n < 4:
	case n < 6 && (is(": ") || is(" - ")):
		return start + n + 2, curl
	case n < 6 && is("  "):
		return start + n, curl
	case n < 6 || start > 0:
	case is(":"):
		return n + 1, xxd
	case is(" "):
		return n, od
	}
	return 0, noRow
}

// begun reports whether an offset may begin at b[i] that the end cuts off. It may
// be bytes as well.
func (d *dump) begun(b []byte, i int) bool {
	const longest = 8 + maxGroup + 3
	if len(b)-i > longest {
		return false
	}
	number := bytes.TrimLeft(b[i:], " |")
	after := number[digitsAt(number, 0):]
	if len(bytes.Trim(after, ": -")) > 0 {
		return false
	}
	d.keep, d.hold = min(d.keep, i), min(d.hold, len(b)-len(number))
	return true
}

// nextRun returns where in b, at or after i, a run of bytes begins that dumps
// consist of, of at least minRun or up to the end of b; or len(b).
func nextRun(b []byte, i int) int {
	for at := i + minRun/2 - 1; at < len(b); at += minRun / 2 {
		if !ofDump[b[at]] {
			continue
		}
		if next := at + minRun/2; next < len(b) && !ofDump[b[next]] {
			at = next
			continue
		}
		start, end := at, at+1
		for start > i && ofDump[b[start-1]] {
			start--
		}
		for end < len(b) && end-start < minRun && ofDump[b[end]] {
			end++
		}
		if end-start >= minRun || end == len(b) {
			return start
		}
		at = end
	}
	start := len(b)
	for start > i && ofDump[b[start-1]] {
		start--
	}
	return start
}

// enough reports whether what begins at b[i] may be a dump of the shortest text
// that is looked for; if not, where it ends. What reaches the end of b may be one.
func (d *dump) enough(b []byte, i int) (end int, ok bool) {
	bytes := 0
	for i < len(b) && bytes < d.least {
		n := digitsAt(b, i)
		i += n
		switch {
		case n == 0 && !ofDump[b[i]]:
			return i, false
		case n == 0:
			i++
		case n == 1 && b[i-1] == '0' && i < len(b) && b[i]|0x20 == 'x':
			i++
		case n%2 == 0 && n <= maxGroup:
			bytes += n / 2
		default:
			bytes = 0
		}
	}
	return i, true
}

// ofDump are the hex digits, and what stands between them in dumps. Like isHex it
// is never changed.
var ofDump = set("0123456789abcdefABCDEFxX ,:-\t\r\n")
var isHex = set("0123456789abcdefABCDEF")

func set(chars string) (in [256]bool) {
	for _, c := range []byte(chars) {
		in[c] = true
	}
	return in
}

// digitsAt returns how many hex digits there are at b[i:].
func digitsAt(b []byte, i int) int {
	n := i
	for n < len(b) && isHex[b[n]] {
		n++
	}
	return n - i
}

// run reads b from i on, as long as it is a dump, and returns where that ends.
func (d *dump) run(b []byte, i int, atLine bool) int {
	for i < len(b) {
		if i > 0 && b[i-1] == '\n' || i == 0 && atLine {
			if d.begun(b, i) {
				break
			}
			if i = d.begin(b, i); i == len(b) {
				break
			}
		}
		c := b[i]
		switch {
		case c == '\n':
			d.row.start = -1
			i++
		case d.row.start >= 0 && d.row.ends(b[i:]):
			i = d.skip(b, i)
		case isHex[c]:
			i = d.group(b, i)
		case d.row.start >= 0 && c != ' ' && c != '-' && c != '\r':
			d.row.start = -1 // it is none
			d.other()
		case !ofDump[c]:
			return i
		default:
			i++
		}
	}
	d.unfinished(len(b))
	return len(b)
}

// ends reports whether the bytes of a row end here, and the column of characters
// begins.
func (r row) ends(b []byte) bool {
	switch r.style {
	case xxd:
		return bytes.HasPrefix(b, []byte("  "))
	case curl:
		return r.groups == 16 || bytes.HasPrefix(b, []byte("   "))
	}
	return b[0] == '|' || b[0] == '>'
}

// begin reads the offset with which a row begins, if the line at i is one.
func (d *dump) begin(b []byte, i int) int {
	n, style := offset(b[i:])
	if n == 0 {
		return i
	}
	d.row = row{start: i, style: style}
	if style == od {
		return d.characters(b, i+n)
	}
	return i + n
}

// characters reads the cells of od -c and od -b: four bytes each.
func (d *dump) characters(b []byte, i int) int {
	for ; i+4 < len(b); i += 4 {
		c, ok := character(b[i:i+4], b[i+4])
		if !ok {
			return i
		}
		d.emit(c, cell{i, i + 4, d.row.start, d.row.start})
	}
	if i == len(b) || b[i] != ' ' {
		return i
	}
	d.hold = min(d.hold, i)
	return len(b)
}

// character returns what a cell of od means.
func character(cell []byte, next byte) (byte, bool) {
	if cell[0] != ' ' || next != ' ' && next != '\n' {
		return 0, false
	}
	if value, n := digits(cell[1:], 8); n == 3 {
		return byte(value), value < 256
	}
	switch {
	case cell[1] == ' ' && cell[2] == ' ':
		return cell[3], true
	case cell[1] == ' ' && cell[2] == '\\':
		i := bytes.IndexByte([]byte("0abfnrtv"), cell[3])
		return "?\x00\a\b\f\n\r\t\v"[i+1], i >= 0
	}
	return 0, false
}

// group reads the digits at b[i], and returns where they end.
func (d *dump) group(b []byte, i int) int {
	n := digitsAt(b, i)
	end := i + n
	d.row.groups++
	switch {
	case end == len(b) && n <= maxGroup:
		d.keep, d.hold = min(d.keep, i), min(d.hold, i)
	case n == 1 && b[i] == '0' && b[end]|0x20 == 'x':
		return end + 1
	case n == 6 && d.row.start >= 0 && d.row.style == od:
		d.octal(b[i:end], i)
	case n%2 == 0 && n <= maxGroup:
		d.hex(b[i:end], i)
	default:
		d.other()
	}
	return end
}

// octal adds a word of two bytes as od writes it, the low one first.
func (d *dump) octal(group []byte, at int) {
	value, n := digits(group, 8)
	if n < len(group) {
		d.other()
		return
	}
	c := cell{at, at + n, d.row.start, d.row.start}
	d.emit(byte(value), c)
	d.emit(byte(value>>8), c)
}

// hex adds the bytes of a group, the last one first if it is a word of a machine.
func (d *dump) hex(group []byte, at int) {
	keep := at
	if d.row.start >= 0 {
		keep = d.row.start
	}
	for i := 0; i < len(group); i += 2 {
		c := cell{at + i, at + i + 2, keep, d.row.start}
		pair := group[i : i+2]
		if d.row.start >= 0 && d.row.style == od && len(group) > 2 {
			c.from, c.to = at, at+len(group)
			pair = group[len(group)-i-2 : len(group)-i]
		}
		value, _ := digits(pair, 16)
		d.emit(byte(value), c)
	}
}

func (d *dump) emit(c byte, from cell) { d.text, d.cells = append(d.text, c), append(d.cells, from) }

// other notes that the text ends.
func (d *dump) other() {
	if len(d.text) >= d.least {
		d.ended()
	}
	d.text, d.cells = d.text[:0], d.cells[:0]
}

// skip goes to the end of a row, past its column of characters.
func (d *dump) skip(b []byte, i int) int {
	end := len(b)
	if n := bytes.IndexByte(b[i:], '\n'); n >= 0 {
		end = i + n
	}
	if end-d.row.start > maxRow {
		d.row.start = -1 // it is none
		d.other()
		return i + 1
	}
	return end
}

// unfinished sees to it that a row of which the end is missing is read again.
func (d *dump) unfinished(end int) {
	if d.row.start >= 0 && end-d.row.start <= maxRow {
		d.keep = min(d.keep, d.row.start)
	}
}
