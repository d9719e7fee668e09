package runner

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"unicode"

	"github.com/brevet-dev/brevet/plugins/runner/mask"
)

// maxListed bounds each list of a [ScanReport]: whoever has more knows enough.
const maxListed = 10000

// A Scan looks through files and archives for values, before they are uploaded.
type Scan struct {
	Masker *mask.Masker
	Names  []string // of the values that Masker was made for: "credential.value"

	files, bytes atomic.Int64
	buffers      sync.Pool // of *[copySize]byte
	free         int64     // what each file may unpack to in any case; 0: freeUnpacked

	mu     sync.Mutex
	report ScanReport
	roots  []string // what is looked through, without links in it
}

// A ScanReport is what a [Scan] found. It holds nothing of a value.
type ScanReport struct {
	Findings []*Finding `json:"findings"`
	Gaps     []*Gap     `json:"gaps"`    // what could not be looked through whole
	Skipped  []*Gap     `json:"skipped"` // what has no content to look through
	More     int        `json:"more"`    // of all of these, that are not listed for their number
	Files    int64      `json:"files"`
	Bytes    int64      `json:"bytes"` // with what was unpacked
}

// A Finding says where a value is.
type Finding struct {
	Path     string `json:"path"`     // members of archives after "!"; masked itself
	Value    string `json:"value"`    // its name
	Encoding string `json:"encoding"` // as package mask names it
	Line     int64  `json:"line"`     // of the first, from 1; 0: in the name
	Offset   int64  `json:"offset"`   // of the first
	Count    int    `json:"count"`    // how often it is there in this encoding
	Binary   bool   `json:"binary"`   // lines tell little of it
}

// A Gap is a place, and why it was not looked through.
type Gap struct {
	Path   string `json:"path"` // as of a Finding
	Reason string `json:"reason"`
}

// Progress tells how much was looked through so far.
func (s *Scan) Progress() (files, bytes int64) { return s.files.Load(), s.bytes.Load() }

// Run looks through the files and folders at paths, on all processors, until ctx
// ends. What it could not look through for any reason is among the report's Gaps.
// It is called once.
func (s *Scan) Run(ctx context.Context, paths []string) *ScanReport {
	jobs := make(chan [2]string)
	var workers sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			for job := range jobs {
				s.file(ctx, job[0], job[1])
			}
		})
	}
	for _, path := range paths {
		if root, err := filepath.EvalSymlinks(path); err == nil {
			if root, err = filepath.Abs(root); err == nil {
				s.roots = append(s.roots, root)
			}
		}
	}
	for _, path := range paths {
		s.walk(ctx, path, jobs)
	}
	close(jobs)
	workers.Wait()
	return s.finish(ctx)
}

func (s *Scan) finish(ctx context.Context) *ScanReport {
	if err := ctx.Err(); err != nil {
		s.gap("all the rest", because(context.Cause(ctx)))
	}
	r := &s.report
	r.Files, r.Bytes = s.Progress()
	slices.SortFunc(r.Findings, (*Finding).compare)
	slices.SortFunc(r.Gaps, (*Gap).compare)
	slices.SortFunc(r.Skipped, (*Gap).compare)
	return r
}

func (f *Finding) compare(other *Finding) int {
	return cmp.Or(cmp.Compare(f.Path, other.Path), cmp.Compare(f.Offset, other.Offset), cmp.Compare(f.Value, other.Value), cmp.Compare(f.Encoding, other.Encoding))
}

func (g *Gap) compare(other *Gap) int {
	return cmp.Or(cmp.Compare(g.Path, other.Path), cmp.Compare(g.Reason, other.Reason))
}

// because says why not everything was looked through.
func because(err error) string {
	if errors.Is(err, context.DeadlineExceeded) {
		return "the time is up, and not all was looked through"
	}
	return "ended before all was looked through: " + err.Error()
}

// walk sends the regular files at and below path to jobs: where they are, and how
// to name them.
func (s *Scan) walk(ctx context.Context, path string, jobs chan<- [2]string) {
	root, err := filepath.EvalSymlinks(path)
	if err != nil {
		s.gap(path, reason(err))
		return
	}
	err = filepath.WalkDir(root, func(at string, e fs.DirEntry, err error) error {
		shown := path + strings.TrimPrefix(at, root)
		switch {
		case ctx.Err() != nil:
			return fs.SkipAll
		case err != nil:
			s.gap(shown, reason(err))
		case e.Type()&fs.ModeSymlink != 0:
			s.link(at, shown)
		case e.Type().IsRegular():
			select {
			case jobs <- [2]string{at, shown}:
			case <-ctx.Done():
			}
		case e.IsDir():
			s.named(shown)
		default:
			s.named(shown)
			s.skip(shown, "a device, pipe or socket")
		}
		return nil
	})
	if err != nil {
		s.gap(path, reason(err))
	}
}

// link looks at a symbolic link. What uploads a folder may follow it, so it must
// lead to what is looked through anyway.
func (s *Scan) link(at, shown string) {
	p := &pass{scan: s}
	defer s.add(p)
	text, err := os.Readlink(at)
	if err != nil {
		p.gap(shown, reason(err))
		return
	}
	p.name(shown, shown)
	p.name(shown, text)
	target, err := filepath.EvalSymlinks(at)
	if err == nil {
		target, err = filepath.Abs(target)
	}
	switch {
	case err != nil:
		p.skipped = append(p.skipped, &Gap{shown, "a link to nothing"})
	case !slices.ContainsFunc(s.roots, func(root string) bool { return isWithin(root, target) }):
		p.gap(shown, "a link out of what is looked through; name what it leads to, too, or remove it")
	}
}

func isWithin(root, path string) bool {
	rel, err := filepath.Rel(root, path)
	return err == nil && rel != ".." && !strings.HasPrefix(rel, ".."+string(filepath.Separator))
}

// file looks through one file.
func (s *Scan) file(ctx context.Context, at, shown string) {
	defer s.files.Add(1)
	f, err := os.OpenFile(at, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a pipe may have come there
	if err != nil {
		s.gap(shown, reason(err))
		return
	}
	defer f.Close()
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("not a regular file any more")
	}
	if err != nil {
		s.gap(shown, reason(err))
		return
	}
	p := s.pass(ctx, info.Size())
	defer s.add(p)
	defer func() { // what a stranger packed must not keep the rest from being looked through
		if v := recover(); v != nil {
			p.gap(shown, "reading it ended in a panic")
		}
	}()
	p.name(shown, shown)
	p.top(shown, f, info.Size())
}

// reason says why something cannot be read, without its path, which is told beside.
func reason(err error) string {
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		err = e.Err
	}
	return Printable(err.Error())
}

func (s *Scan) gap(path, why string) { s.add(&pass{gaps: []*Gap{{path, why}}}) }

func (s *Scan) skip(path, why string) { s.add(&pass{skipped: []*Gap{{path, why}}}) }

// named looks at a path that has no content of its own.
func (s *Scan) named(path string) {
	p := &pass{scan: s}
	p.name(path, path)
	s.add(p)
}

// add adds what a pass found, with what it shows of names masked.
func (s *Scan) add(p *pass) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.report.More += p.more
	for _, f := range p.found {
		f.Path = s.shown(f.Path)
		s.report.More += appended(&s.report.Findings, f)
	}
	for _, g := range p.gaps {
		s.report.More += appended(&s.report.Gaps, &Gap{s.shown(g.Path), g.Reason})
	}
	for _, g := range p.skipped {
		s.report.More += appended(&s.report.Skipped, &Gap{s.shown(g.Path), g.Reason})
	}
}

// appended returns how many there was no room for.
func appended[T any](list *[]T, one T) int {
	if len(*list) >= maxListed {
		return 1
	}
	*list = append(*list, one)
	return 0
}

// shown returns a path for people: it may have a value in it.
func (s *Scan) shown(path string) string {
	var out bytes.Buffer
	w := s.Masker.Writer(&out)
	_, err := io.WriteString(w, path)
	if err := errors.Join(err, w.Close()); err != nil {
		return "" // a buffer takes all
	}
	return printablePath(out.String())
}

// maxPath bounds the end of a path that is shown, in bytes: they may be nested.
const maxPath = 1 << 10

// printablePath is like Printable, and keeps more, and the end. It may begin a
// line, and begins no command of GitHub's, before which there may be space.
func printablePath(path string) string {
	if len(path) > maxPath {
		path = "…" + strings.ToValidUTF8(path[len(path)-maxPath:], "")
	}
	path = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, path)
	if strings.HasPrefix(strings.TrimSpace(path), "::") {
		path = "./" + path
	}
	return Defused(path)
}

// A tally counts what one content has.
type tally struct {
	name   string
	binary bool
	found  map[string]*Finding // by value and encoding
}

// hit counts a hit of the Masker.
func (p *pass) hit(t *tally, h mask.Hit) {
	if t.found == nil {
		t.found = map[string]*Finding{}
	}
	key := fmt.Sprint(h.Secret, h.Encoding)
	if f, ok := t.found[key]; ok {
		f.Count++
		return
	}
	t.found[key] = &Finding{
		Path: t.name, Value: p.scan.Names[h.Secret], Encoding: h.Encoding, Line: int64(h.Line), Offset: h.Offset, Count: 1, Binary: t.binary,
	}
}
