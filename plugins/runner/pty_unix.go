//go:build linux || darwin

package runner

import (
	"errors"
	"io"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// A terminal is the one that the command gets where brevet's stdout is one:
// programs print colours and progress then, and what they print still goes
// through the mask. What is typed at brevet's own, the outer one, is passed on
// to it byte by byte, Ctrl-C too; its kernel side makes signals of that.
type terminal struct {
	out    *os.File // the outer one
	in     *os.File // the outer one to type at; nil: the command's stdin is another
	master *os.File
	slave  *os.File // the command's end

	mu     sync.Mutex
	before *term.State // of in, while it is raw
	closed bool

	signals chan os.Signal
	done    chan struct{}
	running sync.WaitGroup
}

// newTerminal returns a terminal for a command; nil if stdout is none, or the
// machine gives no other.
func newTerminal(stdin *os.File, stdout io.Writer) *terminal {
	out, ok := stdout.(*os.File)
	if !ok || !term.IsTerminal(int(out.Fd())) {
		return nil
	}
	master, slave, err := openPTY()
	if err != nil {
		return nil
	}
	t := &terminal{out: out, master: master, slave: slave, signals: make(chan os.Signal, 4), done: make(chan struct{})}
	if stdin != nil && term.IsTerminal(int(stdin.Fd())) {
		t.in = stdin
	}
	t.resize()
	return t
}

// outer returns the terminal whose state is changed while the command runs.
func (t *terminal) outer() *os.File {
	if t.in != nil {
		return t.in
	}
	return t.out
}

// attach connects the outer terminal with the command's, until close is called.
func (t *terminal) attach(f *family) {
	// First, so that brevet is never stopped by the kernel in raw mode.
	signal.Notify(t.signals, syscall.SIGWINCH, syscall.SIGTSTP, syscall.SIGCONT)
	t.raw()
	t.running.Go(func() { t.follow(f) })
	if t.in != nil {
		t.running.Go(t.typeIn)
	}
}

// follow does what signals about the outer terminal ask for.
func (t *terminal) follow(f *family) {
	for {
		select {
		case n := <-t.signals:
			switch n {
			case syscall.SIGTSTP:
				t.cook()
				f.signal(syscall.SIGSTOP)
				kill(os.Getpid(), syscall.SIGSTOP) // goes on with a SIGCONT, which follows
			case syscall.SIGCONT:
				t.raw()
				t.resize()
				f.signal(syscall.SIGCONT)
			default:
				t.resize()
			}
		case <-t.done:
			return
		}
	}
}

// raw makes the outer terminal pass on each byte, if brevet is in its
// foreground: from the background, to set it would stop brevet.
func (t *terminal) raw() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.in == nil || t.closed || !t.isForeground() {
		return
	}
	before, err := term.MakeRaw(int(t.in.Fd()))
	if err == nil && t.before == nil {
		t.before = before
	}
}

func (t *terminal) isForeground() bool {
	group, err := unix.IoctlGetInt(int(t.in.Fd()), unix.TIOCGPGRP)
	return err == nil && group == unix.Getpgrp()
}

// cook gives the outer terminal back as it was.
func (t *terminal) cook() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.before != nil {
		term.Restore(int(t.in.Fd()), t.before) // if it is gone, so is its state
		t.before = nil
	}
}

// resize gives the command's terminal the size of the outer one.
func (t *terminal) resize() {
	size, err := unix.IoctlGetWinsize(int(t.out.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return
	}
	control(t.master, func(fd int) error { return unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, size) })
}

// typeTime is how long typeIn waits at a time. What is typed after the command's
// end is the shell's to read.
const typeTime = 50 * time.Millisecond

// typeIn passes on what is typed.
func (t *terminal) typeIn() {
	buf := make([]byte, 4<<10)
	fd := int(t.in.Fd())
	for {
		select {
		case <-t.done:
			return
		default:
		}
		if !t.isForeground() { // to read would stop brevet
			select {
			case <-t.done:
				return
			case <-time.After(typeTime):
			}
			continue
		}
		var set unix.FdSet
		set.Set(fd)
		timeout := unix.NsecToTimeval(int64(typeTime))
		n, err := unix.Select(fd+1, &set, nil, nil, &timeout)
		if n <= 0 && (err == nil || errors.Is(err, unix.EINTR)) {
			continue
		}
		n, err = unix.Read(fd, buf)
		if n <= 0 && errors.Is(err, unix.EINTR) {
			continue
		}
		if n <= 0 {
			return // it was hung up
		}
		if _, err := t.master.Write(buf[:n]); err != nil {
			return
		}
	}
}

// close ends what attach began and restores the outer terminal.
func (t *terminal) close() {
	t.mu.Lock()
	already := t.closed
	t.closed = true
	t.mu.Unlock()
	if already {
		return
	}
	signal.Stop(t.signals)
	close(t.done)
	t.cook()
	t.master.SetWriteDeadline(time.Now()) // nobody may read what was typed
	t.running.Wait()
}

// control calls f with the descriptor of file, which stays one of Go's poller.
func control(file *os.File, f func(fd int) error) error {
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var problem error
	if err := raw.Control(func(fd uintptr) { problem = f(int(fd)) }); err != nil {
		return err
	}
	return problem
}
