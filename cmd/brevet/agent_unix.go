//go:build unix

package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"
)

// startTime bounds the start of an agent: it asks nobody for anything.
const startTime = 10 * time.Second

// isAlive reports whether a process lives. That it is another user's says that
// it does.
func isAlive(process *os.Process) bool {
	err := process.Signal(syscall.Signal(0))
	return err == nil || errors.Is(err, syscall.EPERM)
}

// A background is a brevet that outlives this one.
type background struct {
	cmd      *exec.Cmd
	out, err *os.File // what it prints
}

// background starts brevet again, in a session of its own and with none of this
// process's files: who waits for the end of its output does not wait for the
// other's. A SIGHUP, as of a terminal that is closed, is not for it.
func (p *program) background(args []string) (*background, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	out, outChild, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer outChild.Close()
	errs, errsChild, err := os.Pipe()
	if err != nil {
		out.Close()
		return nil, err
	}
	defer errsChild.Close()
	signal.Ignore(syscall.SIGHUP) // inherited; runner.Catch then does not end with its parent
	cmd := exec.Command(exe, args...)
	cmd.Args[0], cmd.Env, cmd.Stdout, cmd.Stderr = programName, p.env, outChild, errsChild
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	deadline := time.Now().Add(startTime)
	err = errors.Join(cmd.Start(), out.SetReadDeadline(deadline), errs.SetReadDeadline(deadline))
	return &background{cmd, out, errs}, err
}

// failed passes on why the child ended, and returns its exit status.
func (c *background) failed(stderr io.Writer) int {
	if _, err := io.Copy(stderr, io.LimitReader(c.err, 64<<10)); err != nil {
		fmt.Fprintf(stderr, "%s: error: the agent did not start within %s\n", programName, startTime)
	}
	c.cmd.Process.Kill() // if it hangs: it has no leases yet
	c.cmd.Wait()         // its status is what counts
	if status := c.cmd.ProcessState.ExitCode(); status > 0 {
		return status
	}
	return exitInternal
}

// end ends the child.
func (c *background) end() error {
	return errors.Join(c.cmd.Process.Signal(syscall.SIGTERM), c.cmd.Wait())
}

// release lets the child live on. What it prints from now on, nobody reads.
func (c *background) release() error {
	return errors.Join(c.out.Close(), c.err.Close(), c.cmd.Process.Release())
}
