package mask

import (
	"io"
	"sync"
	"time"
)

const (
	// quietTime is how long a Writer waits for the rest of what may be a value
	// before it shows a harmless beginning: too short for a person to notice,
	// far longer than a program needs between two writes of one line.
	quietTime = 50 * time.Millisecond

	// mostShown is how many characters of what may be a value are shown when the
	// rest does not come: less than half of it, and in any case no more than
	// these, since the first half of a long value would be worth having.
	mostShown = 4

	// maxPiece bounds the copy of the input that a Writer makes when it holds
	// something back. 32 KiB is what io.Copy writes at a time.
	maxPiece = 32 << 10
)

// A Writer masks what is written to it and passes the rest on. It may be used
// from several goroutines; the bytes of one Write stay together.
type Writer struct {
	// OnHit, if it is set before the first Write, is called for each secret in
	// each run of covered bytes, when it is certain where the run ends. It must
	// not use the Writer.
	OnHit func(Hit)

	mu      sync.Mutex
	w       io.Writer
	err     error       // the first error of w; nothing is written after it
	scan    *scan       // of held and what was written last
	held    []byte      // the last bytes written: they are needed when more comes
	prev    byte        // the one before held
	done    int         // bytes of held that are out already, masked or not
	covered spans       // the parts of held that belong to a value
	masked  bool        // the last byte passed on was covered
	out     []byte      // scratch for one write to w
	quiet   *time.Timer // runs release
	last    time.Time   // when Write was last called
	report  report
}

// Writer returns a Writer that passes what it is given on to w, masked. Close
// it, or its last bytes may be missing.
func (m *Masker) Writer(w io.Writer) *Writer {
	out := &Writer{w: w, scan: newScan(&m.index), prev: '\n', report: report{line: 1}}
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
	if w.done < len(w.held) && !w.scan.telling {
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
	w.tell(len(w.held))
	w.hold(w.held, len(w.held))
	w.prev = '\n'
	return w.err
}

// Idle reports whether no value can have begun in what was written so far, and
// so whether another Writer could go on from here.
func (w *Writer) Idle() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.held) == 0
}

// release shows what was held back for quietTime, if it tells too little of a
// value to matter. It stays in held: should the rest of the value come after
// all, the rest is masked.
func (w *Writer) release() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if time.Since(w.last) < quietTime || w.scan.telling {
		return // a Write came between the timer and the lock
	}
	w.pass(w.held, len(w.held))
}

// feed looks for values in p and passes on what is decided.
func (w *Writer) feed(p []byte) {
	b := p
	if len(w.held) > 0 {
		w.held = append(w.held, p...)
		b = w.held
	}
	w.scan.look(b, w.prev)
	for _, h := range w.scan.hits {
		w.covered.add(h.start, h.end)
		if w.OnHit != nil {
			w.report.add(b, h)
		}
	}
	end := w.scan.hold
	for _, c := range w.covered {
		if c.start <= end {
			end = max(end, c.end) // covered already, whatever follows
		}
	}
	w.pass(b, end)
	w.hold(b, w.scan.keep)
}

// pass writes b[w.done:end], with the covered parts replaced.
func (w *Writer) pass(b []byte, end int) {
	if end <= w.done {
		return
	}
	if len(w.covered) == 0 {
		w.tell(end - 1)
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
		w.tell(end - 1)
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
	if keep > 0 {
		w.prev = b[keep-1]
		if w.OnHit != nil {
			w.report.move(b[:keep])
		}
	}
	w.held = append(w.held[:0], b[keep:]...)
	w.done = max(0, w.done-keep)
	w.covered = w.covered.after(keep)
}

// tell reports the hits before end.
func (w *Writer) tell(end int) {
	if w.OnHit != nil {
		w.report.tell(w.OnHit, end)
	}
}
