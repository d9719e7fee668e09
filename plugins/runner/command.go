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
	"syscall"
	"time"

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
	Stdout, Stderr io.Writer // masked on the way, and kept apart

	idle time.Duration // 0: idleTime
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
// it. Signals are passed on to it, and without a terminal also to the processes
// it started; see companion for how. If brevet is killed they are, too; with a
// terminal only the command itself, and that on Linux only.
//
// ended is called when the command itself has ended, before Run waits for the
// rest of its output: for what must not wait with it.
//
// An error means that the command did not run, or that its output could not be
// passed on whole: [ErrHeldOpen], an [Interrupted] if a signal ended the
// waiting, or that of Stdout or Stderr. A closed pipe is none: the command was
// told.
func (c *Command) Run(ctx context.Context, m *mask.Masker, signals *Signals, ended func()) (int, error) {
	// The kernel ties the death signal of childAttr to the thread that starts
	// the child, so that thread must live on.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	beside, err := newCompanion(signals.terminal)
	if err != nil {
		return StatusCannotRun, err
	}
	defer beside.dismiss()
	streams, err := c.streams(m)
	if err != nil {
		return StatusCannotRun, fmt.Errorf("making pipes for the command's output: %w", err)
	}
	cmd, err := c.start(ctx, beside, signals.terminal, streams)
	if err != nil {
		return FindStatus(err), fmt.Errorf("starting the command: %w", err)
	}
	stop := beside.forward(signals, cmd.Process.Pid)
	err = cmd.Wait()
	stop()
	signals.forget() // they were for the command
	ended()
	if _, ok := errors.AsType[*exec.ExitError](err); ok {
		err = nil // its own status
	}
	return exitStatus(cmd.ProcessState), errors.Join(err, drain(ctx, signals, streams))
}

// streams returns those of stdout and stderr.
func (c *Command) streams(m *mask.Masker) ([]*stream, error) {
	idle := c.idle
	if idle == 0 {
		idle = idleTime
	}
	stdout, err := newStream(m.Writer(c.Stdout), idle)
	if err != nil {
		return nil, err
	}
	stderr, err := newStream(m.Writer(c.Stderr), idle)
	if err != nil {
		stdout.child.Close()
		stdout.close()
		return nil, err
	}
	return []*stream{stdout, stderr}, nil
}

// start starts the command, and the copying of its output.
func (c *Command) start(ctx context.Context, beside *companion, terminal bool, streams []*stream) (*exec.Cmd, error) {
	cmd := exec.CommandContext(ctx, c.Args[0], c.Args[1:]...)
	cmd.Env, cmd.Stdout, cmd.Stderr = c.Env, streams[0].child, streams[1].child
	if c.Stdin != nil {
		cmd.Stdin = c.Stdin
	}
	cmd.SysProcAttr = childAttr(0, false)
	if !terminal {
		cmd.SysProcAttr = childAttr(beside.group(), true)
	}
	err := cmd.Start()
	for _, s := range streams {
		s.child.Close()
		if err != nil {
			s.close()
		} else {
			go s.copy() // drain waits for it
		}
	}
	return cmd, err
}

func exitStatus(state *os.ProcessState) int {
	if ws, ok := state.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return statusSignal + int(ws.Signal())
	}
	return state.ExitCode()
}
