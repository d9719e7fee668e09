package runner

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/term"

	"github.com/brevet-dev/brevet/plugins/runner/mask"
)

// Exit statuses that shells give a command that did not run: POSIX.1-2017,
// XCU section 2.8.2; 128 is added to the number of a signal that killed it.
const (
	StatusCannotRun = 126
	StatusNotFound  = 127
	statusSignal    = 128
)

// A Command is a program to run with masked output.
type Command struct {
	Args           []string // program and arguments
	Env            Env
	Stdin          *os.File  // nil: nothing to read
	Stdout, Stderr io.Writer // masked on the way, and kept apart unless both are terminals
	Files          *Files    // made before it starts, and wiped after it; nil: none

	// KillAfter is how long the command may live on after a signal that ends a
	// program was passed on to it. 0: as long as it wants.
	KillAfter time.Duration

	// Hits returns what hears of the values that m finds in an output, "stdout" or
	// "stderr". Of a terminal that has both, all is stdout. nil: nobody.
	Hits func(m *mask.Masker, output string) func(mask.Hit)

	idle time.Duration // 0: idleTime

	mu      sync.Mutex
	masker  *mask.Masker // that Extend gave; nil: none
	streams []*stream

	died syscall.Signal
	left bool
}

// Find fails, with a Failure, if there is no such program. Ask before an
// exchange: a mistyped name should not cost a token.
func (c *Command) Find() error {
	if _, err := exec.LookPath(c.Args[0]); err != nil {
		return failf(Misconfigured, "", "looking for the command: %w", err)
	}
	return nil
}

// FindStatus returns the exit status that a shell would give for an error of
// Find or Run.
func FindStatus(err error) int {
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
		return StatusNotFound
	}
	return StatusCannotRun
}

// Run runs the command and returns its exit status, 128+n if signal n killed
// it; what it left behind is ended then. Signals are passed on to it, and to the
// processes that it started. If brevet is killed they are, too.
//
// If Stdout is a terminal it gets one of its own. If not, and there is one
// nevertheless, it shares brevet's process group, so that it can read from it;
// the kernel then sends it what is typed (Ctrl-C), and brevet does not. If
// brevet is killed only the command itself is, and that on Linux only.
//
// ended is called when the command itself has ended, before Run waits for the
// rest of its output: for what must not wait with it. Most often, when nothing
// else holds the output open, all of it has gone through the mask by then.
//
// An error means that the command did not run, or that its output could not be
// passed on whole: [ErrHeldOpen], an [Interrupted] if a signal ended the
// waiting, or that of Stdout or Stderr. A closed pipe is none: the command was
// told.
func (c *Command) Run(ctx context.Context, m *mask.Masker, signals *Signals, ended func()) (int, error) {
	// The kernel ties the death signal of tieToBrevet to the thread that starts
	// the child, so that thread must live on.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	tty := newTerminal(c.Stdin, c.Stdout)
	if tty != nil {
		defer tty.close()
	}
	family, err := newFamily(tty == nil && signals.terminal, tty, c.Files.paths())
	if err != nil {
		return StatusCannotRun, err
	}
	defer family.dismiss()
	defer c.Files.Remove() // exec tells of an error, when it has the last word
	if err := c.Files.write(); err != nil {
		return StatusCannotRun, err
	}
	streams, err := c.open(m, tty)
	if err != nil {
		return StatusCannotRun, fmt.Errorf("making pipes for the command's output: %w", err)
	}
	cmd, err := c.start(ctx, family, tty, streams)
	if err != nil {
		return FindStatus(err), fmt.Errorf("starting the command: %w", err)
	}
	stop := c.forward(signals, family, tty)
	err = cmd.Wait()
	stop()
	signals.forget() // they were for the command
	if tty != nil {
		tty.close()
	}
	settle(streams)
	ended()
	if _, ok := errors.AsType[*exec.ExitError](err); ok {
		err = nil // its own status
	}
	err = errors.Join(err, drain(ctx, signals, streams))
	c.left = family.end()
	return c.exitStatus(cmd.ProcessState), err
}

// open makes the streams of stdout and stderr; of a terminal, there is one for
// both.
func (c *Command) open(m *mask.Masker, tty *terminal) ([]*stream, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.masker != nil {
		m = c.masker
	}
	idle := c.idle
	if idle == 0 {
		idle = idleTime
	}
	var streams []*stream
	outputs := []output{{c.Stdout, "stdout"}, {c.Stderr, "stderr"}}
	if tty != nil {
		streams = append(streams, newTTYStream(m, c.Stdout, idle, tty, c.hits("stdout")))
		if outputs = outputs[1:]; isTerminal(c.Stderr) {
			outputs = nil
		}
	}
	for _, o := range outputs {
		s, err := newStream(m, o.Writer, idle, c.hits(o.name))
		if err != nil {
			for _, s := range streams {
				s.child.Close()
				s.close()
			}
			return nil, err
		}
		streams = append(streams, s)
	}
	c.streams = streams
	return streams, nil
}

// An output is where one of the command's goes.
type output struct {
	io.Writer
	name string
}

// hits returns what hears of an output; nil: nothing.
func (c *Command) hits(output string) hitFunc {
	if c.Hits == nil {
		return nil
	}
	return func(m *mask.Masker) func(mask.Hit) { return c.Hits(m, output) }
}

// start starts the command, and the copying of its output.
func (c *Command) start(ctx context.Context, f *family, tty *terminal, streams []*stream) (*exec.Cmd, error) {
	cmd := exec.CommandContext(ctx, c.Args[0], c.Args[1:]...)
	cmd.Env, cmd.Stdout, cmd.Stderr = c.Env, streams[0].child, streams[len(streams)-1].child
	if c.Stdin != nil {
		cmd.Stdin = c.Stdin
	}
	if tty != nil && tty.in != nil {
		cmd.Stdin = tty.slave
	}
	f.prepare(cmd)
	err := cmd.Start()
	if err == nil {
		err = f.started(cmd.Process)
	}
	for _, s := range streams {
		s.child.Close()
		if err != nil {
			s.close()
		} else {
			go s.copy() // drain waits for it
		}
	}
	if err != nil {
		return cmd, err
	}
	if tty != nil {
		tty.attach(f)
	}
	return cmd, nil
}

// forward passes signals on to the command until stop is called.
func (c *Command) forward(signals *Signals, f *family, tty *terminal) (stop func()) {
	var last *time.Timer // before its end
	quit := signals.each(func(n syscall.Signal) {
		switch {
		case tty != nil && n == windowChanged: // it sees to that
		case f.shared && isTyped(n): // the kernel sent it to the whole group
		default:
			f.signal(n)
		}
		if c.KillAfter > 0 && endsProgram(n) && last == nil {
			last = time.AfterFunc(c.KillAfter, f.kill)
		}
	})
	return func() {
		quit()
		if last != nil {
			last.Stop()
		}
	}
}

// Extend masks more values from now on, in what a command prints that runs or
// will. m must mask all that was masked before, too.
func (c *Command) Extend(m *mask.Masker) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.masker = m
	for _, s := range c.streams {
		s.masks.extend(m)
	}
}

// OwnsTerminal reports whether the command gets a terminal of its own when it
// runs, and brevet's passes on each byte.
func (c *Command) OwnsTerminal() bool {
	return c.Stdin != nil && isTerminal(c.Stdin) && isTerminal(c.Stdout)
}

func isTerminal(w any) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

func (c *Command) exitStatus(state *os.ProcessState) int {
	if ws, ok := state.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		c.died = ws.Signal()
		return statusSignal + int(ws.Signal())
	}
	return state.ExitCode()
}

// Died returns the signal that killed the command; 0 if none did.
func (c *Command) Died() syscall.Signal { return c.died }

// LeftBehind reports whether processes that the command had left were ended.
func (c *Command) LeftBehind() bool { return c.left }
