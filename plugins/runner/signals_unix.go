//go:build unix

package runner

import (
	"os"
	"os/signal"
	"syscall"
	"time"
)

const windowChanged = syscall.SIGWINCH

// catchable lists what is passed on: all signals but those that cannot be
// caught, that tell of a fault in the process itself, or that are about it
// (SIGCHLD, SIGPIPE, SIGXFSZ, SIGURG of Go's scheduler, SIGPROF). Those that stop and
// continue a job are left to the kernel, or to who looks after a terminal.
func catchable() []os.Signal {
	return []os.Signal{
		syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM, syscall.SIGUSR1, syscall.SIGUSR2,
		syscall.SIGALRM, syscall.SIGWINCH, syscall.SIGIO, syscall.SIGXCPU, syscall.SIGVTALRM,
	}
}

// isTyped reports whether n is one that a terminal sends to all of its
// foreground.
func isTyped(n syscall.Signal) bool {
	return n == syscall.SIGINT || n == syscall.SIGQUIT || n == syscall.SIGWINCH
}

// catchPipe makes a write to a closed pipe, or beyond the size that a file may
// have, an error, for good.
func catchPipe() { signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE, syscall.SIGXFSZ) }

// hasTerminal reports whether the process has a controlling terminal.
func hasTerminal() bool {
	tty, err := os.Open("/dev/tty")
	return err == nil && tty.Close() == nil
}

// dieTime is how long the kernel may take: another thread may get the signal.
const dieTime = time.Second

// Die ends this process by a signal as one who started it, a shell with a loop
// say, has to see: only then does Ctrl-C end the loop, too. It returns where the
// process cannot die so: as the first of a container, or of a signal for which
// Go's runtime does something else.
func Die(n syscall.Signal) {
	if n != syscall.SIGHUP && n != syscall.SIGINT && n != syscall.SIGTERM {
		return
	}
	signal.Reset(n)
	if os.Getpid() == 1 {
		return
	}
	kill(os.Getpid(), n)
	<-time.After(dieTime)
}
