package mask

import (
	"bytes"
	"cmp"
	"io"
	"slices"
)

// A Hit says where a secret was found, and never what it is.
type Hit struct {
	Secret   int    // index into the values given to New
	Encoding string // for people: in which form; plain, base64, base64 of UTF-16, percent, hex dump …
	Offset   int64  // of its first byte in what was written, from 0
	Line     int    // from 1
}

// Find reads r to its end and calls hit for each secret in it, as a [Writer] does
// for what it masks. An error is that of r.
func (m *Masker) Find(r io.Reader, hit func(Hit)) error {
	w := m.Writer(io.Discard)
	w.OnHit = hit
	if _, err := io.Copy(struct{ io.Writer }{w}, r); err != nil {
		return err
	}
	return w.Close()
}

// A report collects hits until it is certain what they are part of.
type report struct {
	base    int64      // where in the output the Writer's held bytes begin
	line    int        // and in which line
	told    int64      // what ends there or before it was told
	pending []*pending // pointers: they are sorted, and Go makes the sort of a struct anew
}

// A pending hit may still grow. Its places count as report's do.
type pending struct {
	Hit
	end int64 // of the form that gave Encoding: the longest of the first
	to  int64
}

// add adds a hit in b, the held bytes. What touches a hit of the same secret is
// part of it.
func (r *report) add(b []byte, h hit) {
	end := r.base + int64(h.end)
	if end <= r.told {
		return
	}
	line := r.line + bytes.Count(b[:h.start], []byte("\n"))
	all := &pending{Hit{h.secret, h.name(b), r.base + int64(h.start), line}, end, end}
	r.pending = slices.DeleteFunc(r.pending, func(p *pending) bool {
		if p.Secret != all.Secret || p.to < all.Offset || all.to < p.Offset {
			return false
		}
		to := max(p.to, all.to)
		if p.Offset < all.Offset || p.Offset == all.Offset && p.end >= all.end {
			all = p
		}
		all.to = to
		return true
	})
	r.pending = append(r.pending, all)
}

// tell calls hit, in order, for what ends at or before end in the held bytes.
func (r *report) tell(hit func(Hit), end int) {
	r.told = r.base + int64(end)
	slices.SortFunc(r.pending, func(p, q *pending) int {
		return cmp.Or(cmp.Compare(p.Offset, q.Offset), cmp.Compare(p.Secret, q.Secret))
	})
	r.pending = slices.DeleteFunc(r.pending, func(p *pending) bool {
		if p.to <= r.told {
			hit(p.Hit)
		}
		return p.to <= r.told
	})
}

// move notes that gone is held no longer.
func (r *report) move(gone []byte) {
	r.base += int64(len(gone))
	r.line += bytes.Count(gone, []byte("\n"))
}

// name says for people in which form the secret is there in b.
func (h hit) name(b []byte) string {
	name := h.encoding.String()
	switch {
	case h.layer < 0:
		return "hex dump"
	case h.layer == 0:
		return name
	}
	kind := "escapes"
	if i := bytes.IndexAny(b[h.start:h.end], `%&\`); i >= 0 {
		switch b[h.start+i] {
		case '%':
			kind = "percent"
		case '&':
			kind = "entities"
		default:
			kind = "backslashes"
		}
	}
	if h.encoding == (encoding{}) {
		return kind
	}
	return name + " with " + kind
}
