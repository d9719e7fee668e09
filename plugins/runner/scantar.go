package runner

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// Reading archives is a few lines where nothing is unpacked to a disk, and the
// packages archive/tar and archive/zip would take a fiftieth of the program: they
// bring their writers, and the names of users.

// tarBlock is the size of a header in a tar file, and of all its parts.
const tarBlock = 512

// maxTarName bounds what a tar file says of one member beside its header, in bytes.
const maxTarName = 1 << 20

var (
	errTar      = errors.New("tar: not a valid header")
	errAfterTar = errors.New("tar: something else after its end")
)

// A tarMember is what is read of a header: pax(1), "ustar Interchange Format", and
// its extensions by pax and GNU.
type tarMember struct {
	name, link string
	size       int64 // of its content, as it is stored
	kind       byte
	more       bool // of a sparse one of GNU's: more blocks with its map follow
}

// isTar reports whether head is the header of a tar file of any age: its sum is
// right. An empty one, of zeros only, is none.
func isTar(head []byte) bool {
	if len(head) < tarBlock {
		return false
	}
	want, err := strconv.ParseInt(strings.Trim(string(head[148:156]), " \x00"), 8, 64)
	if err != nil {
		return false
	}
	var unsigned, signed int64 // old programs took bytes for signed
	for i, c := range head[:tarBlock] {
		if 148 <= i && i < 156 {
			c = ' '
		}
		unsigned, signed = unsigned+int64(c), signed+int64(int8(c))
	}
	return want == unsigned || want == signed
}

// untar looks through the members of a tar file.
func (p *pass) untar(name string, r io.Reader, depth int) error {
	var over tarMember // what was said of the next member before its header
	for {
		m, err := nextTar(r)
		if m == nil || err != nil {
			return err
		}
		if err := p.member(); err != nil {
			return err
		}
		switch m.kind {
		case 'x', 'L', 'K':
			if err := over.read(m, r); err != nil {
				return err
			}
			continue
		case 'g': // about all that follow: nothing that is needed
		default:
			m.take(over)
			over = tarMember{}
			member := name + "!" + m.name
			p.name(member, m.name)
			p.name(member, m.link)
			if err := p.tarContent(member, m, r, depth); err != nil {
				return err
			}
			continue
		}
		if err := skip(r, padded(m.size)); err != nil {
			return err
		}
	}
}

// tarContent looks through the content of a member, and moves r behind it. Of a
// sparse file that is what is stored, without its holes.
func (p *pass) tarContent(name string, m *tarMember, r io.Reader, depth int) error {
	block := make([]byte, tarBlock)
	for m.more {
		if _, err := io.ReadFull(r, block); err != nil {
			return cutOff(err)
		}
		m.more = block[504] != 0
	}
	content := &io.LimitedReader{R: r, N: m.size}
	if m.size > 0 {
		p.content(name, content, nil, 0, depth+1)
	}
	if content.N > 0 {
		return io.ErrUnexpectedEOF
	}
	return skip(r, padded(m.size)-m.size)
}

func padded(size int64) int64 { return (size + tarBlock - 1) / tarBlock * tarBlock }

func skip(r io.Reader, n int64) error {
	_, err := io.CopyN(io.Discard, r, n)
	return cutOff(err)
}

// cutOff returns err, where an end comes too early.
func cutOff(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// nextTar reads a header; nil at the end. Blocks of zeros end a tar file, but
// another may follow them: tar --ignore-zeros reads on.
func nextTar(r io.Reader) (*tarMember, error) {
	head, notTar := make([]byte, tarBlock), errTar
	for {
		_, err := io.ReadFull(r, head)
		if err == io.EOF {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		if bytes.Count(head, []byte{0}) < tarBlock {
			break
		}
		notTar = errAfterTar
	}
	if !isTar(head) {
		return nil, notTar
	}
	m := &tarMember{name: cString(head[:100]), link: cString(head[157:257]), kind: head[156]}
	if bytes.HasPrefix(head[257:], []byte("ustar\x00")) && head[345] != 0 {
		m.name = cString(head[345:500]) + "/" + m.name
	}
	m.more = m.kind == 'S' && head[482] != 0
	if '1' <= m.kind && m.kind <= '6' { // links, devices, folders: they have no content
		return m, nil
	}
	var err error
	m.size, err = tarNumber(head[124:136])
	return m, err
}

func cString(b []byte) string {
	s, _, _ := strings.Cut(string(b), "\x00")
	return s
}

// tarNumber reads a number, in octal or, if its first bit is set, in binary (GNU).
func tarNumber(b []byte) (int64, error) {
	if b[0]&0x80 == 0 {
		text := strings.Trim(string(b), " \x00")
		if text == "" {
			return 0, nil
		}
		n, err := strconv.ParseInt(text, 8, 63)
		if err != nil || n < 0 {
			return 0, errTar
		}
		return n, nil
	}
	n := int64(b[0] & 0x7f)
	for _, c := range b[1:] {
		if n >= 1<<47 { // more than there is
			return 0, errTar
		}
		n = n<<8 | int64(c)
	}
	return n, nil
}

// read reads what m, no member itself, says of the next one.
func (over *tarMember) read(m *tarMember, r io.Reader) error {
	if m.size > maxTarName {
		return fmt.Errorf("tar: a name of more than %d bytes", maxTarName)
	}
	text := make([]byte, padded(m.size))
	if _, err := io.ReadFull(r, text); err != nil {
		return cutOff(err)
	}
	text = text[:m.size]
	switch m.kind {
	case 'L':
		over.name = cString(text)
	case 'K':
		over.link = cString(text)
	default:
		return over.readPax(string(text))
	}
	return nil
}

// readPax reads records as "27 path=a name\n", whose length counts itself.
func (over *tarMember) readPax(text string) error {
	for text != "" {
		length, _, _ := strings.Cut(text, " ")
		n, err := strconv.Atoi(length)
		if err != nil || n <= len(length)+1 || n > len(text) || text[n-1] != '\n' {
			return errTar
		}
		key, value, _ := strings.Cut(text[len(length)+1:n-1], "=")
		text = text[n:]
		switch key {
		case "path", "GNU.sparse.name":
			over.name = value
		case "linkpath":
			over.link = value
		case "size":
			if over.size, err = strconv.ParseInt(value, 10, 63); err != nil || over.size < 0 {
				return errTar
			}
		}
	}
	return nil
}

// take takes what was said before.
func (m *tarMember) take(over tarMember) {
	if over.name != "" {
		m.name = over.name
	}
	if over.link != "" {
		m.link = over.link
	}
	if over.size > 0 && (m.kind < '1' || '6' < m.kind) {
		m.size = over.size
	}
}
