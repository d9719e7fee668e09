package runner

import (
	"context"
	"os"
	"os/signal"
	"sync"
	"syscall"
)

// An Interrupted is the cause of a context that a signal ended.
type Interrupted struct{ Signal syscall.Signal }

func (i Interrupted) Error() string { return "interrupted: " + i.Signal.String() }

// Status is what a shell gives for a program that died of the signal.
func (i Interrupted) Status() int { return statusSignal + int(i.Signal) }

// Signals are those sent to this process from Catch on.
type Signals struct {
	ch       chan os.Signal
	terminal bool // there is one, and it sends its signals to the command itself
}

// catchable lists what is passed on: all signals but those that cannot be
// caught, that tell of a fault in the process itself, or that are about it
// (SIGCHLD, SIGPIPE, SIGURG of Go's scheduler, SIGPROF). Those that stop and
// continue a job are left to the kernel; without a terminal nobody sends them.
func catchable() []os.Signal {
	return []os.Signal{
		syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM, syscall.SIGUSR1, syscall.SIGUSR2,
		syscall.SIGALRM, syscall.SIGWINCH, syscall.SIGIO, syscall.SIGXCPU, syscall.SIGXFSZ, syscall.SIGVTALRM,
	}
}

// Catch begins to receive signals, instead of dying of them.
func Catch() *Signals {
	s := &Signals{ch: make(chan os.Signal, 16)}
	if tty, err := os.Open("/dev/tty"); err == nil {
		s.terminal = tty.Close() == nil
	}
	// A write to a closed pipe must give an error, not end brevet before it has
	// revoked; so SIGPIPE is received, too, and forgotten.
	signal.Notify(s.ch, append(catchable(), syscall.SIGPIPE)...)
	return s
}

// Stop ends what Catch began.
func (s *Signals) Stop() { signal.Stop(s.ch) }

// Context returns a context that ends with the first signal that ends a
// program, which is then its cause, an [Interrupted]. Call release when the
// context has done its work; later signals are kept for the command.
func (s *Signals) Context(parent context.Context) (ctx context.Context, release func()) {
	ctx, cancel := context.WithCancelCause(parent)
	stop := s.each(func(n syscall.Signal) {
		switch n {
		case syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM:
			cancel(Interrupted{n})
		}
	})
	return ctx, stop
}

// forward passes signals on to the process group that child leads or, with a
// terminal, to child alone, but for those that the terminal sends it itself.
func (s *Signals) forward(child int) (stop func()) {
	if s.terminal {
		return s.each(func(n syscall.Signal) {
			if n != syscall.SIGINT && n != syscall.SIGQUIT && n != syscall.SIGWINCH {
				kill(child, n)
			}
		})
	}
	return s.each(func(n syscall.Signal) { kill(-child, n) })
}

// kill sends n. That the process has ended meanwhile, the only error there can
// be for one's own child, leaves nothing to do.
func kill(pid int, n syscall.Signal) {
	if err := syscall.Kill(pid, n); err != nil {
		return
	}
}

// each calls f for each signal until stop is called, which waits for f.
func (s *Signals) each(f func(syscall.Signal)) (stop func()) {
	done := make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() {
		for {
			select {
			case got := <-s.ch:
				if n, ok := got.(syscall.Signal); ok && n != syscall.SIGPIPE {
					f(n)
				}
			case <-done:
				return
			}
		}
	})
	return sync.OnceFunc(func() { close(done); running.Wait() })
}
