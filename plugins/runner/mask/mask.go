// Package mask takes secret values out of a stream of output, also where a tool
// prints them encoded, and whatever the chunks in which it prints them.
//
// A value is masked as it is, line by line if it has several, in base64, however
// that is broken into lines, and with percent-encoding or the escapes of JSON
// (patterns.go and view.go say exactly how). Every byte that belongs to any
// occurrence of any form is covered; each unbroken run of covered bytes becomes
// one [Replacement]. So two values that overlap are both hidden, and the length
// of neither shows.
//
// An automaton (Aho and Corasick, 1975) looks for all values at once, and
// another for their base64. Bytes that cannot be part of a value are passed on
// at once, so that a prompt appears before its answer is typed; a Writer holds
// back only what may be the beginning of a value.
package mask

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/brevet-dev/brevet/broker/api"
)

// Replacement stands in the output where a value stood. It is what GitHub's
// runner prints, so readers of logs know it.
const Replacement = "***"

const (
	// MinLength is the length in bytes below which a value is not masked: it
	// would be found by chance in ordinary output, and what is left around the
	// replacements would give it away.
	MinLength = 6

	// MaxLength is the length in bytes above which a value is not masked. A
	// kubeconfig, the longest a job usually gets, has 10 KiB.
	MaxLength = 64 << 10

	// MaxNodes bounds the automatons of a Masker, in nodes of 24 bytes: 96 MiB.
	// A long value takes up to 14 nodes for each of its bytes, so five of
	// MaxLength fit; one of up to 32 bytes takes 300 to 1,400 nodes, so 3,000
	// of them fit. Further values are not masked.
	MaxNodes = 4 << 20

	// minDigits is the length below which a value of digits only is not masked:
	// times, sizes and process ids would be.
	minDigits = 8

	// quietTime is how long a Writer waits for the rest of what may be a value
	// before it shows a harmless beginning: too short for a person to notice,
	// far longer than a program needs between two writes of one line.
	quietTime = 50 * time.Millisecond

	// maxPiece bounds the copy of the input that a Writer makes when it holds
	// something back. 32 KiB is what io.Copy writes at a time.
	maxPiece = 32 << 10
)

// A Refusal tells of a value that is not masked, and why.
type Refusal struct {
	Index  int    // into the values given to New
	Reason string // for people; says nothing of the value but its kind
}

// A Masker knows the values to mask. It is made once and never changes; any
// number of Writers may share it.
type Masker struct{ plain, base64 *automaton }

// New returns a Masker for values. Those that are too short, too long or too
// common to mask are left out and reported, in the order given: whoever shows
// output through the Masker must not show it while a refused value matters.
func New(values []api.Secret) (*Masker, []Refusal) {
	var plain, base64 []pattern
	var refused []Refusal
	nodes := 0
	for i, v := range values {
		if reason := unfit(v.Reveal()); reason != "" {
			refused = append(refused, Refusal{i, reason})
			continue
		}
		p, b := plainPatterns(v.Reveal()), base64Patterns(v.Reveal())
		cost := sortForTrie(p) + sortForTrie(b)
		if nodes+cost > MaxNodes {
			refused = append(refused, Refusal{i, "with the values before it more than fits into the memory for masks"})
			continue
		}
		nodes += cost
		plain, base64 = append(plain, p...), append(base64, b...)
	}
	return &Masker{newAutomaton(plain), newAutomaton(base64)}, refused
}

// unfit says why value cannot be masked, or "" if it can.
func unfit(value string) string {
	v := strings.TrimSpace(value)
	switch {
	case len(v) < MinLength:
		return fmt.Sprintf("shorter than %d bytes", MinLength)
	case len(value) > MaxLength:
		return fmt.Sprintf("longer than %d KiB", MaxLength>>10)
	case len(v) < minDigits && strings.Trim(v, "0123456789") == "":
		return fmt.Sprintf("digits only, and fewer than %d", minDigits)
	case strings.Count(v, v[:1]) == len(v):
		return "one character repeated"
	case isCommon(v):
		return "a common word"
	}
	return ""
}

// isCommon reports whether v is a word that every other log contains. Shorter
// words than MinLength need no mention.
func isCommon(v string) bool {
	switch strings.ToLower(v) {
	case "default", "develop", "development", "disable", "disabled", "docker",
		"enable", "enabled", "github", "gitlab", "localhost", "master", "password",
		"postgres", "private", "production", "public", "release", "secret",
		"staging", "success", "testing", "undefined", "username":
		return true
	}
	return false
}

// A Writer masks what is written to it and passes the rest on. It may be used
// from several goroutines; the bytes of one Write stay together.
type Writer struct {
	mu      sync.Mutex
	w       io.Writer
	err     error       // the first error of w; nothing is written after it
	views   []view      // of everything written so far; the first is of the output itself
	held    []byte      // the last bytes written: a value may have begun there
	done    int         // bytes of held that are out already, masked or not
	covered spans       // the parts of held that belong to a value
	masked  bool        // the last byte passed on was covered
	out     []byte      // scratch for one write to w
	quiet   *time.Timer // runs release
	last    time.Time   // when Write was last called
}

// Writer returns a Writer that passes what it is given on to w, masked. Close
// it, or its last bytes may be missing.
func (m *Masker) Writer(w io.Writer) *Writer {
	out := &Writer{w: w, views: newViews(m)}
	out.quiet = time.AfterFunc(quietTime, out.release)
	out.quiet.Stop()
	return out
}

// Write masks p and passes on all that no later byte can make part of a value.
// An error is that of the underlying writer, and stays.
func (w *Writer) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.quiet.Stop()
	n := 0
	for n < len(p) && w.err == nil {
		piece := p[n:min(len(p), n+maxPiece)]
		w.feed(piece)
		if w.err == nil {
			n += len(piece)
		}
	}
	w.last = time.Now()
	if w.done < len(w.held) && !w.telling() {
		w.quiet.Reset(quietTime)
	}
	return n, w.err
}

// Close passes on what was held back and was not a value after all. It does
// not close the underlying writer. A Writer that was closed may be written to
// again: a value is then looked for from there on.
func (w *Writer) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.quiet.Stop()
	w.pass(w.held, len(w.held))
	w.held, w.done, w.covered = w.held[:0], 0, w.covered[:0]
	for i := range w.views {
		w.views[i].restart()
	}
	return w.err
}

// release shows what was held back for quietTime, if it tells too little of a
// value to matter. The views stay where they are: should the rest of the value
// come after all, the rest is masked.
func (w *Writer) release() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if time.Since(w.last) < quietTime || w.telling() {
		return // a Write came between the timer and the lock
	}
	w.pass(w.held, len(w.held))
}

// telling reports whether what is held would tell too much of a value.
func (w *Writer) telling() bool {
	for i := range w.views {
		if v := &w.views[i]; v.auto.nodes[v.state].telling {
			return true
		}
	}
	return false
}

// feed looks for values in p and passes on what is decided.
func (w *Writer) feed(p []byte) {
	b := p
	if len(w.held) > 0 {
		w.held = append(w.held, p...)
		b = w.held
	}
	w.search(b)
	keep := len(b) // a value that is not complete yet begins there or later
	for i := range w.views {
		keep = min(keep, w.views[i].start)
	}
	end := keep
	for _, c := range w.covered {
		if c.start <= end {
			end = max(end, c.end) // covered already, whatever follows
		}
	}
	w.pass(b, end)
	w.hold(b, keep)
}

// search moves all views to the end of b. One that would see what the output
// itself shows, since there is nothing to decode, need not look again.
func (w *Writer) search(b []byte) {
	raw := &w.views[0]
	was := raw.place
	raw.find(b, &w.covered)
	for i := 1; i < len(w.views); i++ {
		v := &w.views[i]
		if v.auto == raw.auto && v.place == was && !v.hasMark(b[v.read:]) {
			v.follow(raw)
		} else {
			v.find(b, &w.covered)
		}
	}
}

// pass writes b[w.done:end], with the covered parts replaced.
func (w *Writer) pass(b []byte, end int) {
	if end <= w.done {
		return
	}
	if len(w.covered) == 0 {
		w.masked = false
		w.write(b[w.done:end])
		w.done = end
		return
	}
	w.out = w.out[:0]
	for _, c := range w.covered {
		w.plain(b, min(c.start, end))
		if stop := min(c.end, end); stop > w.done {
			if !w.masked {
				w.out = append(w.out, Replacement...)
			}
			w.masked, w.done = true, stop
		}
	}
	w.plain(b, end)
	w.write(w.out)
}

// plain appends b[w.done:end] to the output as it is.
func (w *Writer) plain(b []byte, end int) {
	if end > w.done {
		w.out = append(w.out, b[w.done:end]...)
		w.masked, w.done = false, end
	}
}

func (w *Writer) write(p []byte) {
	if w.err == nil && len(p) > 0 {
		_, w.err = w.w.Write(p)
	}
}

// hold keeps b[keep:] for the next Write and forgets what lies before.
func (w *Writer) hold(b []byte, keep int) {
	w.held = append(w.held[:0], b[keep:]...)
	w.done = max(0, w.done-keep)
	w.covered = w.covered.after(keep)
	for i := range w.views {
		w.views[i].shift(keep)
	}
}
