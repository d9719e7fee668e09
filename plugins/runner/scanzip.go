package runner

import (
	"bufio"
	"bytes"
	"cmp"
	"compress/flate"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"slices"
)

// Of a zip file its directory is read, which is at the end, and each member where
// that says it is: APPNOTE.TXT 6.3.10, the sections named below.
const (
	zipEnd       = 22              // of the last record: section 4.3.16
	zipTail      = zipEnd + 64<<10 // with a comment
	zipHeader    = 46              // of a record of the directory: section 4.3.12
	zipLocal     = 30              // of what is before a member, without names: section 4.3.7
	zip64Locator = 20              // section 4.3.15
	zip64End     = 56              // section 4.3.14

	zipLocalMark = "PK\x03\x04" // begins what is before a member

	// maxZipDirectory bounds a directory in bytes, which is held in memory.
	maxZipDirectory = 64 << 20
)

var errZip = errors.New("zip: not a valid zip file")

// A zipMember is one record of the directory.
type zipMember struct {
	name, comment string
	flags, method uint16
	sum           uint32
	packed, size  uint64
	at            uint64 // of what is before it
}

// A zipArchive is a zip file and its directory.
type zipArchive struct {
	file    io.ReaderAt
	size    int64
	records []byte // of the directory
	count   uint64 // how many they are; of a file without zip64 its 16 last bits
	at      int64  // where the directory is
	base    int64  // where the places begin that it names
}

// unzip looks through the members of a zip file, of which something else may be at
// the beginning.
func (p *pass) unzip(name string, file io.ReaderAt, size int64, depth int) error {
	z, err := openZip(file, size)
	if err != nil {
		return err
	}
	seen := []*extent{{z.at, z.at, z.at + int64(len(z.records))}}
	for records := z.records; len(records) > 0; z.count-- {
		m, n, err := parseZip(records)
		if err != nil {
			return err
		}
		records = records[n:]
		if err := p.member(); err != nil {
			return err
		}
		member := name + "!" + m.name
		p.name(member, m.name)
		p.name(member, m.comment)
		where, err := z.locate(m)
		if where != nil {
			seen = append(seen, where)
		}
		if err == nil {
			err = p.zipContent(member, m, z, where, depth)
		}
		p.stop(member, err)
	}
	if z.count&math.MaxUint16 != 0 { // all bits are there in a zip64 only
		return errZip
	}
	return p.between(z, seen)
}

// An extent is where a member is, or the directory.
type extent struct{ begin, content, end int64 }

// locate returns where m is, also with an error; nil: nowhere. What is before its content must say the same of it as
// the directory does: some read that only.
func (z *zipArchive) locate(m *zipMember) (*extent, error) {
	local, size := make([]byte, zipLocal), uint64(z.size)
	if m.at > size || m.packed > size {
		return nil, errZip
	}
	begin := z.base + int64(m.at)
	if _, err := z.file.ReadAt(local, begin); err != nil || !bytes.HasPrefix(local, []byte(zipLocalMark)) {
		return nil, errZip
	}
	content := begin + zipLocal + int64(le16(local[26:])) + int64(le16(local[28:]))
	where, packed := &extent{begin, content, content + int64(m.packed)}, le32(local[18:])
	if le16(local[8:]) != m.method || m.flags&8 == 0 && packed != math.MaxUint32 && uint64(packed) != m.packed {
		return where, errors.New("zip: what is before it says otherwise than the directory")
	}
	return where, nil
}

// zipContent looks through the content of a member.
func (p *pass) zipContent(name string, m *zipMember, z *zipArchive, where *extent, depth int) error {
	if m.flags&1 != 0 {
		return errors.New("encrypted")
	}
	packed := bufio.NewReader(io.NewSectionReader(z.file, where.content, where.end-where.content))
	r := io.Reader(packed)
	switch m.method {
	case 0:
	case 8:
		r = flate.NewReader(packed)
	default:
		return fmt.Errorf("zip: packed in a way that cannot be opened, number %d", m.method)
	}
	sum := &summed{r: &unpacked{p, r}}
	p.content(name, sum, nil, 0, depth+1)
	if _, err := packed.Peek(1); sum.ended && (sum.sum != m.sum || sum.size != m.size || err != io.EOF) {
		return errors.New("zip: it is not what was packed")
	}
	return nil
}

// between looks at what is in none of seen for a member that the directory does not
// have, as of a zip file with another one after it: some read all that they come by.
func (p *pass) between(z *zipArchive, seen []*extent) error {
	slices.SortFunc(seen, func(a, b *extent) int { return cmp.Compare(a.begin, b.begin) })
	buf := make([]byte, copySize)
	at := int64(0)
	for _, e := range append(seen, &extent{begin: z.size}) {
		if err := p.hidden(z.file, at, e.begin, buf); err != nil {
			return err
		}
		at = max(at, e.end)
	}
	return nil
}

// hidden returns an error if there is the beginning of a member between two places.
func (p *pass) hidden(file io.ReaderAt, at, end int64, buf []byte) error {
	for end-at >= zipLocal {
		if err := p.over(); err != nil {
			return err
		}
		part := buf[:min(int64(len(buf)), end-at)]
		if _, err := file.ReadAt(part, at); err != nil && err != io.EOF {
			return err
		}
		for rest := part; len(rest) >= zipLocal; rest = rest[1:] {
			i := bytes.Index(rest, []byte(zipLocalMark))
			if i < 0 {
				break
			}
			if rest = rest[i:]; isZipLocal(rest) {
				return errors.New("zip: a member that is not in the directory; unpack the file first, with what finds it")
			}
		}
		at += int64(len(part) - zipLocal + 1)
	}
	return nil
}

// isZipLocal reports whether what begins as a member does can be one, and is no
// constant of a program: sections 4.4.3 and 4.4.5.
func isZipLocal(b []byte) bool {
	return len(b) >= zipLocal && b[4] <= 63 && le16(b[8:]) < 100 && le16(b[26:]) > 0
}

// A summed reader sums up what is read.
type summed struct {
	r     io.Reader
	sum   uint32
	size  uint64
	ended bool
}

func (s *summed) Read(b []byte) (int, error) {
	n, err := s.r.Read(b)
	s.sum, s.size = crc32.Update(s.sum, crc32.IEEETable, b[:n]), s.size+uint64(n)
	s.ended = s.ended || err == io.EOF
	return n, err
}

func le16(b []byte) uint16 { return binary.LittleEndian.Uint16(b) }
func le32(b []byte) uint32 { return binary.LittleEndian.Uint32(b) }
func le64(b []byte) uint64 { return binary.LittleEndian.Uint64(b) }

// openZip finds the directory of a zip file.
func openZip(file io.ReaderAt, size int64) (*zipArchive, error) {
	tail := make([]byte, min(size, zipTail))
	if _, err := file.ReadAt(tail, size-int64(len(tail))); err != nil && err != io.EOF {
		return nil, err
	}
	i := lastRecord(tail)
	if i < 0 {
		return nil, errZip
	}
	end := tail[i:]
	endAt := size - int64(len(end))
	count, length, at := uint64(le16(end[10:])), uint64(le32(end[12:])), uint64(le32(end[16:]))
	if c, l, a, where, ok := zip64(file, endAt); ok { // some write it though it is not needed
		count, length, at, endAt = c, l, a, where
	}
	if length > maxZipDirectory {
		return nil, fmt.Errorf("zip: a directory of more than %d MiB", maxZipDirectory>>20)
	}
	begin := endAt - int64(length)
	base := begin - int64(at)
	if begin < 0 || at > math.MaxInt64/2 || base < 0 {
		return nil, errZip
	}
	z := &zipArchive{file: file, size: size, records: make([]byte, length), count: count, at: begin, base: base}
	_, err := file.ReadAt(z.records, begin)
	return z, err
}

// lastRecord returns where in the end of a file the last record of a zip file is;
// less than 0: there is none.
func lastRecord(tail []byte) int {
	i := bytes.LastIndex(tail, []byte("PK\x05\x06"))
	for i >= 0 && (len(tail)-i < zipEnd || i+zipEnd+int(le16(tail[i+20:])) != len(tail)) {
		i = bytes.LastIndex(tail[:i], []byte("PK\x05\x06")) // it was in the comment
	}
	return i
}

// A zipTailer keeps the end of what is written to it.
type zipTailer struct{ end []byte }

func (z *zipTailer) Write(b []byte) (int, error) {
	z.end = append(z.end, b[max(0, len(b)-zipTail):]...)
	if len(z.end) > 4*zipTail {
		z.end = append(z.end[:0], z.end[len(z.end)-zipTail:]...)
	}
	return len(b), nil
}

// isZip reports whether what was written is a zip file, or ends with one.
func (z *zipTailer) isZip() bool { return lastRecord(z.end[max(0, len(z.end)-zipTail):]) >= 0 }

// zip64 reads what a large file has before its last record, which is at end, and
// where that is.
func zip64(file io.ReaderAt, end int64) (count, length, at uint64, where int64, ok bool) {
	locator, record := make([]byte, zip64Locator), make([]byte, zip64End)
	if end < zip64Locator {
		return 0, 0, 0, 0, false
	}
	if _, err := file.ReadAt(locator, end-zip64Locator); err != nil || !bytes.HasPrefix(locator, []byte("PK\x06\x07")) {
		return 0, 0, 0, 0, false
	}
	where = end - zip64Locator - zip64End // nothing is between them: section 4.3.14.1 reserves that
	if _, err := file.ReadAt(record, where); err != nil || !bytes.HasPrefix(record, []byte("PK\x06\x06")) {
		return 0, 0, 0, 0, false
	}
	return le64(record[32:]), le64(record[40:]), le64(record[48:]), where, true
}

// parseZip reads the first record of a directory, of n bytes.
func parseZip(b []byte) (m *zipMember, n int, err error) {
	if len(b) < zipHeader || !bytes.HasPrefix(b, []byte("PK\x01\x02")) {
		return nil, 0, errZip
	}
	name, extra, comment := int(le16(b[28:])), int(le16(b[30:])), int(le16(b[32:]))
	n = zipHeader + name + extra + comment
	if len(b) < n {
		return nil, 0, errZip
	}
	m = &zipMember{
		flags: le16(b[8:]), method: le16(b[10:]), sum: le32(b[16:]), packed: uint64(le32(b[20:])), size: uint64(le32(b[24:])), at: uint64(le32(b[42:])),
		name: string(b[zipHeader : zipHeader+name]), comment: string(b[n-comment : n]),
	}
	return m, n, m.extend(b[zipHeader+name : n-comment])
}

// extend reads the numbers that need 64 bits: section 4.5.3. Those that do are all
// ones in the record.
func (m *zipMember) extend(extra []byte) error {
	for len(extra) >= 4 {
		id, n := le16(extra), int(le16(extra[2:]))
		if extra = extra[4:]; n > len(extra) {
			return nil // of no interest what is wrong there
		}
		field := extra[:n]
		extra = extra[n:]
		for _, number := range []*uint64{&m.size, &m.packed, &m.at} {
			if id != 1 || *number != math.MaxUint32 {
				continue
			}
			if len(field) < 8 {
				return errZip
			}
			*number, field = le64(field), field[8:]
		}
	}
	return nil
}
