package runner

import (
	"context"
	"errors"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/brevet-dev/brevet/plugins/runner/mask"
)

// idleTime is how long the output of a command is read on after its end while
// nothing comes, when processes that it left behind hold it open.
const idleTime = 5 * time.Second

// ErrHeldOpen says that processes which the command left behind still held its
// output open, but wrote nothing, when brevet stopped waiting for them.
var ErrHeldOpen = errors.New("processes that the command left behind hold its output open; what they print from now on is lost")

// A stream carries one of the command's outputs through the mask.
type stream struct {
	child *os.File // the command's end
	r     *os.File // brevet's end
	w     *mask.Writer
	idle  time.Duration
	done  chan error // gets one value when all was passed on, or cannot be

	mu     sync.Mutex
	ended  bool // the command has
	closed bool // r is
}

func newStream(w *mask.Writer, idle time.Duration) (*stream, error) {
	r, child, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	return &stream{child: child, r: r, w: w, idle: idle, done: make(chan error, 1)}, nil
}

// copy passes everything on, until the last process that holds the other end
// has closed it. Only the time in which nothing comes counts towards idle, not
// that in which whoever reads brevet's output makes it wait.
func (s *stream) copy() {
	err := s.copyAll()
	if closed := s.w.Close(); err == nil {
		err = closed
	}
	s.close() // who still writes gets SIGPIPE
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		err = ErrHeldOpen
	case errors.Is(err, syscall.EPIPE):
		err = nil // whoever read brevet's output has enough
	}
	s.done <- err
}

func (s *stream) copyAll() error {
	buf := make([]byte, 32<<10)
	for {
		if err := s.setDeadline(); err != nil {
			return err
		}
		n, err := s.r.Read(buf)
		if _, err := s.w.Write(buf[:n]); err != nil {
			return err
		}
		if err == io.EOF {
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
	return s.r.SetReadDeadline(time.Now().Add(s.idle))
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
