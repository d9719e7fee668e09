package runner

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"github.com/brevet-dev/brevet/plugins/runner/mask"
)

// idleTime is how long the output of a command is read on after its end while
// nothing comes, when processes that it left behind hold it open.
const idleTime = 5 * time.Second

// leftTime is how long what a command has left in its pipes may take to go through
// the mask before its leases are revoked: what is found in it can be reported then.
const leftTime = 500 * time.Millisecond

// ErrHeldOpen says that processes which the command left behind still held its
// output open, but wrote nothing, when brevet stopped waiting for them.
var ErrHeldOpen = errors.New("processes that the command left behind held its output open; what they would have printed is lost")

// A stream carries one of the command's outputs through the mask.
type stream struct {
	child *os.File // the command's end
	r     *os.File // brevet's end
	idle  time.Duration
	done  chan error    // gets one value when all was passed on, or cannot be
	over  chan struct{} // closed before that

	mu     sync.Mutex
	ended  bool // the command has
	closed bool // r is

	masks *masks
}

func newStream(m *mask.Masker, w io.Writer, idle time.Duration, hits hitFunc) (*stream, error) {
	r, child, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	return &stream{child: child, r: r, masks: newMasks(m, w, hits), idle: idle, done: make(chan error, 1), over: make(chan struct{})}, nil
}

// newTTYStream is of the command's terminal.
func newTTYStream(m *mask.Masker, w io.Writer, idle time.Duration, t *terminal, hits hitFunc) *stream {
	return &stream{child: t.slave, r: t.master, masks: newMasks(m, w, hits), idle: idle, done: make(chan error, 1), over: make(chan struct{})}
}

// masks are the Writers that output goes through: that of the Masker in force,
// and after it those of Maskers before which are in the middle of what may be a
// value. In this order, since what they would make of a value that is new to
// them might leave a part of that.
type masks struct {
	mu    sync.Mutex // held while output is passed on, or a mask changed
	first *layer
	hits  hitFunc // nil: nobody hears of what is found
	lines int     // that went in
}

// A hitFunc returns what hears of the values that a Masker finds.
type hitFunc func(*mask.Masker) func(mask.Hit)

// A layer is one Writer, and where its output goes.
type layer struct {
	*mask.Writer

	mu sync.Mutex
	to io.Writer // another layer, or where it all goes
}

func newLayer(m *mask.Masker, to io.Writer) *layer {
	l := &layer{to: to}
	l.Writer = m.Writer(writerFunc(l.pass))
	return l
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

// pass takes what the Writer passes on, at any time.
func (l *layer) pass(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.to.Write(b)
}

// next returns the layer after l, nil if it is the last, and skips those that
// are in the middle of nothing. l passes on nothing meanwhile.
func (l *layer) next() *layer {
	l.mu.Lock()
	defer l.mu.Unlock()
	for {
		next, ok := l.to.(*layer)
		if !ok {
			return nil
		}
		if !next.Idle() {
			return next
		}
		l.to = next.to // nobody else changes it
	}
}

func newMasks(m *mask.Masker, w io.Writer, hits hitFunc) *masks {
	out := &masks{hits: hits}
	out.first = out.newLayer(m, w)
	return out
}

// newLayer makes a layer for what goes in from now on.
func (m *masks) newLayer(of *mask.Masker, to io.Writer) *layer {
	l := newLayer(of, to)
	if m.hits != nil {
		tell, before := m.hits(of), m.lines
		l.OnHit = func(h mask.Hit) {
			h.Line += before
			tell(h)
		}
	}
	return l
}

// Write passes b on, masked.
func (m *masks) Write(b []byte) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lines += bytes.Count(b, []byte("\n"))
	return m.first.Write(b)
}

// extend adds what next masks, which must be all that was masked before and
// more, to all that is written from now on.
func (m *masks) extend(next *mask.Masker) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.first = m.newLayer(next, m.first)
	for l := m.first; l != nil; l = l.next() {
	}
}

// Close passes on what was held back.
func (m *masks) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	var problems []error
	for l := m.first; l != nil; l = l.next() {
		problems = append(problems, l.Close()) // into the next
	}
	return errors.Join(problems...)
}

// copy passes everything on, until the last process that holds the other end
// has closed it. Only the time in which nothing comes counts towards idle, not
// that in which whoever reads brevet's output makes it wait.
func (s *stream) copy() {
	err := s.copySafely()
	s.close() // who still writes gets SIGPIPE
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		err = ErrHeldOpen
	case errors.Is(err, syscall.EPIPE):
		err = nil // whoever read brevet's output has enough
	}
	close(s.over)
	s.done <- err
}

// settle waits, for leftTime in all, until the streams are over.
func settle(streams []*stream) {
	timer := time.NewTimer(leftTime)
	defer timer.Stop()
	for _, s := range streams {
		select {
		case <-s.over:
		case <-timer.C:
			return
		}
	}
}

// copySafely turns a fault in what output goes through into an error: it must not
// keep brevet from revoking.
func (s *stream) copySafely() (err error) {
	defer func() {
		if fault := recover(); fault != nil {
			err = fmt.Errorf("a fault in brevet, the rest of the output is lost: %v\n%s", fault, debug.Stack())
		}
	}()
	err = s.copyAll()
	if closed := s.masks.Close(); err == nil {
		err = closed
	}
	return err
}

func (s *stream) copyAll() error {
	buf := make([]byte, 32<<10)
	for {
		if err := s.setDeadline(); err != nil {
			return err
		}
		n, err := s.r.Read(buf)
		if _, err := s.masks.Write(buf[:n]); err != nil {
			return err
		}
		if err == io.EOF || errors.Is(err, syscall.EIO) { // the latter of a terminal: pts(4)
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// setDeadline begins the time in which something must come, if the command has
// ended.
func (s *stream) setDeadline() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.ended || s.closed {
		return nil
	}
	err := s.r.SetReadDeadline(time.Now().Add(s.idle))
	if errors.Is(err, os.ErrNoDeadline) {
		return nil // a terminal of macOS, which ends with the command
	}
	return err
}

// end tells s that the command has ended.
func (s *stream) end() error {
	s.mu.Lock()
	s.ended = true
	s.mu.Unlock()
	return s.setDeadline() // for a Read that has begun
}

func (s *stream) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.r.Close()
}

// drain waits until the streams of a command that has ended are passed on, or a
// signal comes that ends a program: then it returns an [Interrupted].
func drain(ctx context.Context, signals *Signals, streams []*stream) error {
	ctx, release := signals.Context(ctx)
	defer release()
	var problem error
	for _, s := range streams {
		problem = worse(problem, s.end())
	}
	for _, s := range streams {
		select {
		case err := <-s.done:
			problem = worse(problem, err)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return problem
}

// worse returns the error that says more: any says more than ErrHeldOpen.
func worse(a, b error) error {
	if a == nil || errors.Is(a, ErrHeldOpen) && b != nil {
		return b
	}
	return a
}
