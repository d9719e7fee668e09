package runner

import (
	"context"
	"os"
	"os/signal"
	"slices"
	"sync"
	"syscall"
	"time"
)

// An Interrupted is the cause of a context that a signal ended.
type Interrupted struct{ Signal syscall.Signal }

func (i Interrupted) Error() string { return "interrupted: " + i.Signal.String() }

// Status is what a shell gives for a program that died of the signal.
func (i Interrupted) Status() int { return statusSignal + int(i.Signal) }

// Signals are those sent to this process from Catch on. The death of the
// process that started it counts as a SIGTERM; see watchParent.
type Signals struct {
	ch       chan os.Signal
	terminal bool // the process has one
	stop     func()
}

// Catch begins to receive signals, instead of dying of them. Those that are
// ignored, as by nohup, stay so.
//
// From then on a write to a closed pipe gives an error, also after Stop: it must
// not end brevet before it has revoked.
func Catch() *Signals {
	s := &Signals{ch: make(chan os.Signal, 16)}
	s.terminal = hasTerminal()
	catchPipe()
	wanted := slices.DeleteFunc(catchable(), signal.Ignored)
	signal.Notify(s.ch, wanted...) // never all of them: Go tells of SIGHUP and SIGINT only that they are ignored
	s.stop = s.watchParent()
	return s
}

// Stop ends what Catch began: signals end the program again.
func (s *Signals) Stop() {
	signal.Stop(s.ch)
	s.stop()
}

// parentInterval is how often watchParent looks. GitHub's runner kills what is
// left of a cancelled step 2.5 seconds after its shell.
const parentInterval = time.Second

// watchParent sends a SIGTERM when the process that started this one has died.
// GitHub's runner signals only a step's shell, not what it runs: when the shell
// is gone, so must be the command and its leases. The kernel's own notice
// (PR_SET_PDEATHSIG) will not do: it comes with the end of the thread that
// started brevet. With nohup brevet lives on.
func (s *Signals) watchParent() (stop func()) {
	if signal.Ignored(syscall.SIGHUP) {
		return func() {}
	}
	parent := os.Getppid()
	done := make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() {
		ticker := time.NewTicker(parentInterval)
		defer ticker.Stop()
		for os.Getppid() == parent {
			select {
			case <-ticker.C:
			case <-done:
				return
			}
		}
		select {
		case s.ch <- syscall.SIGTERM:
		case <-done:
		}
	})
	return sync.OnceFunc(func() { close(done); running.Wait() })
}

// Context returns a context that ends with the first signal that ends a
// program, which is then its cause, an [Interrupted]. Call release when the
// context has done its work; later signals are kept for the command.
func (s *Signals) Context(parent context.Context) (ctx context.Context, release func()) {
	ctx, cancel := context.WithCancelCause(parent)
	stop := s.each(func(n syscall.Signal) {
		if endsProgram(n) {
			cancel(Interrupted{n})
		}
	})
	return ctx, func() { stop(); cancel(nil) }
}

// End sends a SIGTERM to whom signals are passed on.
func (s *Signals) End() {
	select {
	case s.ch <- syscall.SIGTERM:
	default: // others wait there: it is being ended already
	}
}

func endsProgram(n syscall.Signal) bool {
	switch n {
	case syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM:
		return true
	}
	return false
}

// forget drops the signals that have come and were not passed on.
func (s *Signals) forget() {
	for {
		select {
		case <-s.ch:
		default:
			return
		}
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
				if n, ok := got.(syscall.Signal); ok {
					f(n)
				}
			case <-done:
				return
			}
		}
	})
	return sync.OnceFunc(func() { close(done); running.Wait() })
}
