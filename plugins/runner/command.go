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

// drainTime is how long the output of a command is read on after its end,
// when processes that it left behind hold it open.
const drainTime = 5 * time.Second

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
	Stdin          io.Reader
	Stdout, Stderr io.Writer // masked on the way, and kept apart
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
// it. Signals are passed on to it, and to the processes it started. An error
// means that it did not run, or that its output could not be passed on whole.
//
// Without a terminal the command is the leader of a process group of its own:
// what a CI system sends to brevet's group then reaches it once, through
// brevet. A second interrupt makes many programs give up at once and leave
// their work half done. On Linux it is killed if brevet is.
func (c *Command) Run(ctx context.Context, m *mask.Masker, signals *Signals) (int, error) {
	stdout, stderr := m.Writer(c.Stdout), m.Writer(c.Stderr)
	cmd := exec.CommandContext(ctx, c.Args[0], c.Args[1:]...)
	cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr = c.Env, c.Stdin, stdout, stderr
	cmd.WaitDelay = drainTime
	cmd.SysProcAttr = childAttr(!signals.terminal)

	// The kernel ties the death signal of childAttr to the thread that starts
	// the child, so that thread must live on.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := cmd.Start(); err != nil {
		return FindStatus(err), fmt.Errorf("starting the command: %w", err)
	}
	stop := signals.forward(cmd.Process.Pid)
	err := cmd.Wait()
	stop()
	err = errors.Join(outputError(err), stdout.Close(), stderr.Close())
	if errors.Is(err, syscall.EPIPE) {
		err = nil // whoever read brevet's output has enough, and the command was told
	}
	return exitStatus(cmd.ProcessState), err
}

// outputError returns of an error of Wait what is not the command's own status.
func outputError(err error) error {
	if _, ok := errors.AsType[*exec.ExitError](err); ok || errors.Is(err, exec.ErrWaitDelay) {
		return nil
	}
	return err
}

func exitStatus(state *os.ProcessState) int {
	if ws, ok := state.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return statusSignal + int(ws.Signal())
	}
	return state.ExitCode()
}
