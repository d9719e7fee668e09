package runner

import (
	"bufio"
	"bytes"
	"cmp"
	"compress/flate"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/brevet-dev/brevet/plugins/runner/mask"
)

const (
	// maxDepth is how many archives within each other are opened: an image in a tar
	// has a layer in gzip in which is a tar with an application in zip with libraries
	// in zip, which makes six.
	maxDepth = 8

	// maxRatio and freeUnpacked bound what a file may unpack to, with all that is
	// in it: that many times its size, or freeUnpacked if that is more. Logs take a
	// twentieth in gzip; a bomb a thousandth, in each of its layers.
	maxRatio     = 200
	freeUnpacked = 64 << 20

	// maxHeld bounds the zip files within other archives that are held in memory
	// for one file: they are read from the end.
	maxHeld = 64 << 20

	// maxMembers bounds the members of all archives in one file.
	maxMembers = 1 << 20
)

// What ends the unpacking of a file.
var (
	errBomb    = fmt.Errorf("unpacks to more than %d times its size", maxRatio)
	errMembers = fmt.Errorf("more than %d members", maxMembers)
	errHeld    = fmt.Errorf("a zip file of more than %d MiB within another archive; unpack that one first", maxHeld>>20)
	errDeep    = fmt.Errorf("archives within archives, more than %d deep", maxDepth)
)

// A pass looks through one file of a Scan, and all that is packed in it.
type pass struct {
	scan    *Scan
	over    func() error // why all ends; nil while it does not
	left    int64        // bytes that may be unpacked yet
	held    int64        // bytes that may be held yet
	members int
	stopped bool         // one of its bounds was met
	namer   *mask.Writer // for names
	naming  tally

	found   []*Finding
	gaps    []*Gap
	skipped []*Gap
	more    int // that there was no room for
}

func (s *Scan) pass(ctx context.Context, size int64) *pass {
	return &pass{scan: s, over: ctx.Err, left: max(cmp.Or(s.free, freeUnpacked), size*maxRatio), held: maxHeld}
}

func (p *pass) gap(path, why string) { p.more += appended(&p.gaps, &Gap{p.short(path), why}) }

// short returns path, or what is shown of it where that is less: names in archives
// may be long, and many.
func (p *pass) short(path string) string {
	if len(path) > 4*maxPath {
		return p.scan.shown(path)
	}
	return path
}

// stop notes that err kept name from being looked through whole. What ends more
// than name is told once.
func (p *pass) stop(name string, err error) {
	if err == nil || p.over() != nil || p.stopped {
		return
	}
	p.stopped = errors.Is(err, errBomb) || errors.Is(err, errMembers)
	p.gap(name, reason(err))
}

// name looks at a text that names path, or is the target of a link.
func (p *pass) name(path, text string) {
	if p.namer == nil {
		p.namer = p.scan.Masker.Writer(io.Discard)
		p.namer.OnHit = func(h mask.Hit) {
			h.Line, h.Offset = 0, 0
			p.hit(&p.naming, h)
		}
	}
	p.naming.name = path
	io.WriteString(p.namer, text)
	p.namer.Close() // neither fails: it writes to nowhere
	p.keep(&p.naming, "")
}

// keep adds what t has to the findings. What is in an archive, and was found in one
// of its members, is left out: within is how the names of those begin.
func (p *pass) keep(t *tally, within string) {
	for _, f := range t.found {
		inside := func(other *Finding) bool { return other.Value == f.Value && strings.HasPrefix(other.Path, within) }
		if within == "" || !slices.ContainsFunc(p.found, inside) {
			f.Path = p.short(f.Path)
			p.more += appended(&p.found, f)
		}
	}
	t.found = nil
}

// A format is one of files.
type format int

const (
	plainFile format = iota
	gzipFile
	zlibFile
	tarFile
	zipFile
)

// formatOf tells by its beginning what a file is. opaque names the format if it
// cannot be opened.
func formatOf(head []byte) (k format, opaque string) {
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		return gzipFile, ""
	case len(head) > 2 && head[0] == 0x78 && (head[1] == 0x01 || head[1] == 0x9c || head[1] == 0xda), // RFC 1950, section 2.2
		bytes.HasPrefix(head, []byte("x^")) && !utf8.Valid(head): // a text may begin so, too
		return zlibFile, ""
	case bytes.HasPrefix(head, []byte("PK\x03\x04")), bytes.HasPrefix(head, []byte("PK\x05\x06")), bytes.HasPrefix(head, []byte("PK\x07\x08")):
		return zipFile, ""
	case isTar(head):
		return tarFile, ""
	case len(head) > 4 && bytes.HasPrefix(head, []byte("BZh")) && bytes.HasPrefix(head[4:], []byte("1AY&SY")): // after its level
		return plainFile, "bzip2"
	case len(head) > 4 && head[0]&0xf0 == 0x50 && bytes.HasPrefix(head[1:], []byte("\x2a\x4d\x18")): // RFC 8878, section 3.1.2
		return plainFile, "zstd"
	}
	for _, f := range [...]struct{ begin, name string }{
		{"\xfd7zXZ\x00", "xz"}, {"\x28\xb5\x2f\xfd", "zstd"}, {"\x5d\x00\x00", "lzma"}, {"7z\xbc\xaf\x27\x1c", "7z"}, {"Rar!\x1a\x07", "rar"},
		{"\x04\x22\x4d\x18", "lz4"}, {"LZIP\x01", "lzip"}, {"MSCF\x00\x00\x00\x00", "cab"}, {"\x1f\x9d", "compress"}, {"\xed\xab\xee\xdb", "rpm"},
		{"!<arch>\ndebian-binary", "deb"}, {"hsqs", "squashfs"}, {"PACK\x00\x00\x00", "pack of git"},
	} {
		if bytes.HasPrefix(head, []byte(f.begin)) {
			return plainFile, f.name
		}
	}
	return plainFile, ""
}

// A source is a file, which can be read from any place.
type source interface {
	io.Reader
	io.ReaderAt
}

// top looks through a file of the tree.
func (p *pass) top(name string, f source, size int64) {
	if p.content(name, f, f, size, 0) == zipFile {
		return
	}
	if _, err := openZip(f, size); err == nil { // a program with a zip file at its end, say
		p.stop(name, p.unzip(name, f, size, 0))
	}
}

// content looks through what r gives. at reads the same, of that size; nil: it must
// be held for that.
func (p *pass) content(name string, r io.Reader, at io.ReaderAt, size int64, depth int) format {
	in := bufio.NewReaderSize(&metered{p, r, &p.scan.bytes}, 4<<10)
	head, _ := in.Peek(tarBlock) // less at the end; an error comes again
	k, opaque := formatOf(head)
	t := &tally{name: name, binary: bytes.IndexByte(head, 0) >= 0}
	raw := p.scan.Masker.Writer(io.Discard)
	raw.OnHit = func(h mask.Hit) { p.hit(t, h) }
	if k != plainFile && depth == maxDepth {
		p.gap(name, errDeep.Error())
		k = plainFile
	}
	if opaque != "" {
		p.gap(name, "cannot be opened: "+opaque)
	}
	var end zipTailer
	tee := io.TeeReader(in, raw)
	if depth > 0 && k != zipFile {
		tee = io.TeeReader(tee, &end)
	}
	p.stop(name, p.unpack(name, k, tee, at, size, depth))
	p.stop(name, errors.Join(p.drain(tee), raw.Close()))
	if end.isZip() {
		p.gap(name, "a zip file after something else, within another archive; unpack that one first")
	}
	within := ""
	if k != plainFile {
		within = name + "!"
	}
	p.keep(t, within)
	return k
}

// unpack looks through what is packed in the content r, of a format k. at reads the
// same; nil: it must be held for that.
func (p *pass) unpack(name string, k format, r io.Reader, at io.ReaderAt, size int64, depth int) error {
	switch k {
	case gzipFile:
		return p.gunzip(name, r, depth)
	case zlibFile:
		return p.inflate(name, r, depth)
	case tarFile:
		return p.untar(name, r, depth)
	case zipFile:
		if at == nil {
			held, err := p.hold(r)
			defer func() { p.held += int64(len(held)) }()
			if err != nil {
				return err
			}
			at, size = bytes.NewReader(held), int64(len(held))
		}
		return p.unzip(name, at, size, depth)
	}
	return nil
}

// copySize is how much is read at a time.
const copySize = 64 << 10

// drain reads r to its end.
func (p *pass) drain(r io.Reader) error {
	buf, _ := p.scan.buffers.Get().(*[copySize]byte)
	if buf == nil {
		buf = new([copySize]byte)
	}
	defer p.scan.buffers.Put(buf)
	for {
		if _, err := r.Read(buf[:]); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// hold reads r to its end into memory, and takes what it returns from what may be held.
func (p *pass) hold(r io.Reader) ([]byte, error) {
	held, err := io.ReadAll(io.LimitReader(r, p.held+1))
	if err == nil && int64(len(held)) > p.held {
		return nil, errHeld
	}
	p.held -= int64(len(held))
	return held, err
}

// A metered reader ends with its pass's context, and counts.
type metered struct {
	p     *pass
	r     io.Reader
	total interface{ Add(int64) int64 }
}

func (m *metered) Read(b []byte) (int, error) {
	if err := m.p.over(); err != nil {
		return 0, err
	}
	n, err := m.r.Read(b)
	m.total.Add(int64(n))
	return n, err
}

// An unpacked reader is of what comes out of a packer.
type unpacked struct {
	p *pass
	r io.Reader
}

func (u *unpacked) Read(b []byte) (int, error) {
	n, err := u.r.Read(b)
	if u.p.left -= int64(n); u.p.left < 0 {
		return 0, errBomb
	}
	return n, err
}

// gunzip looks through the content of a gzip file.
func (p *pass) gunzip(name string, r io.Reader, depth int) error {
	z, err := gzip.NewReader(r)
	if err != nil {
		return err
	}
	member := name + "!"
	p.name(member, z.Name+"\n"+z.Comment)
	p.content(member, &unpacked{p, z}, nil, 0, depth+1)
	return nil
}

// inflate looks through the content of what begins as a zlib stream (RFC 1950), an
// object of git for one, and may be anything.
func (p *pass) inflate(name string, r io.Reader, depth int) error {
	if _, err := io.CopyN(io.Discard, r, 2); err != nil {
		return err
	}
	in := bufio.NewReader(&unpacked{p, flate.NewReader(r)})
	if _, err := in.Peek(1); err != nil && err != io.EOF {
		return nil // it is none
	}
	p.content(name+"!", in, nil, 0, depth+1)
	return nil
}

// member counts one more.
func (p *pass) member() error {
	if p.members++; p.members > maxMembers {
		return errMembers
	}
	if p.left < 0 {
		return errBomb
	}
	return p.over()
}
