package runner_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/plugins/runner"
	"github.com/brevet-dev/brevet/plugins/runner/mask"
)

// idle is the time in which nothing comes that Run waits here for.
const idle = 100 * time.Millisecond

// shell is a command that runs script.
func shell(script string) *runner.Command {
	c := &runner.Command{Args: []string{"/bin/sh", "-c", script}, Env: os.Environ(), Stdout: new(bytes.Buffer), Stderr: new(bytes.Buffer)}
	c.SetIdleTime(idle)
	return c
}

// run runs c with the value hunter2! masked.
func run(t *testing.T, c *runner.Command, ended func()) (int, error) {
	t.Helper()
	m, refused := mask.New([]api.Secret{api.NewSecret("hunter2!")})
	if len(refused) > 0 {
		t.Fatal(refused)
	}
	signals := runner.Catch()
	defer signals.Stop()
	return c.Run(t.Context(), m, signals, ended)
}

// A slowWriter writes only after wait returned.
type slowWriter struct {
	bytes.Buffer
	wait func()
}

func (w *slowWriter) Write(p []byte) (int, error) {
	w.wait()
	return w.Buffer.Write(p)
}

// TestSlowReader makes whoever reads brevet's output pause for longer than Run
// waits for a silent command: nothing may be lost.
func TestSlowReader(t *testing.T) {
	const lines = 20000
	c := shell("i=0; while [ $i -lt 20000 ]; do echo hunter2!; i=$((i+1)); done")
	ended := make(chan struct{})
	pause := sync.OnceFunc(func() { <-time.After(4 * idle) })
	begin := sync.OnceFunc(func() { <-time.After(idle / 10) }) // lets the pipe fill
	out := &slowWriter{wait: func() {
		begin()
		select {
		case <-ended:
			pause()
		default:
		}
	}}
	c.Stdout = out
	status, err := run(t, c, func() { close(ended) })
	if got := strings.Count(out.String(), "***\n"); status != 0 || err != nil || got != lines {
		t.Errorf("Run = %d, %v with %d lines; want 0, nil, %d", status, err, got, lines)
	}
}

// TestHeldOpen leaves a process behind that holds the output and says nothing: it
// is ended.
func TestHeldOpen(t *testing.T) {
	c := shell("echo out; sleep 600 & echo $! >&2")
	errs := new(bytes.Buffer)
	c.Stderr = errs
	status, err := run(t, c, func() {})
	if status != 0 || !errors.Is(err, runner.ErrHeldOpen) || !c.LeftBehind() {
		t.Errorf("Run = %d, %v, left behind %v; want 0, ErrHeldOpen, true", status, err, c.LeftBehind())
	}
	pid, err := strconv.Atoi(strings.TrimSpace(errs.String()))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("the process that was left behind is there: %v", err)
	}
}

// TestBlockedReader has a reader that reads nothing: the end of the command is
// told all the same, and a signal then ends Run.
func TestBlockedReader(t *testing.T) {
	c := shell("echo text; exit 3")
	release := make(chan struct{})
	defer close(release)
	c.Stdout = &slowWriter{wait: func() { <-release }}
	told := false
	status, err := run(t, c, func() {
		told = true
		if err := syscall.Kill(os.Getpid(), syscall.SIGTERM); err != nil {
			t.Error(err)
		}
	})
	if i, ok := errors.AsType[runner.Interrupted](err); status != 3 || !ok || i.Signal != syscall.SIGTERM || !told {
		t.Errorf("Run = %d, %v, told %v; want 3, interrupted by SIGTERM, true", status, err, told)
	}
}

// TestFault has a fault where the output goes: it is told, and not Run's end.
func TestFault(t *testing.T) {
	c := shell("echo text; exit 3")
	c.Stdout = &slowWriter{wait: func() { panic("a fault") }}
	told := false
	status, err := run(t, c, func() { told = true })
	if status != 3 || err == nil || !strings.Contains(err.Error(), "a fault") || !told {
		t.Errorf("Run = %d, %v, told %v; want 3, a fault, true", status, err, told)
	}
}

// TestExtend adds values while the command is in the middle of another, after any
// of its bytes, and once more after any later one. Then what is new is masked,
// too, also where the old value is in it.
func TestExtend(t *testing.T) {
	const old, rest = "hunter2!", " correct-horse hunter2!-and-more 42 another-one."
	for first := range len(old) + 1 {
		for second := first; second <= len(old); second++ {
			c := shell(fmt.Sprintf("printf %%s '%s'; read x; printf %%s '%s'; read x; printf '%%s\n' '%s'", old[:first], old[first:second], old[second:]+rest))
			testExtend(t, c, old, "*** *** *** 42 ***.\n")
		}
	}
}

func testExtend(t *testing.T, c *runner.Command, old, want string) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	c.Stdin = r
	var running sync.WaitGroup
	running.Go(func() {
		values := []api.Secret{api.NewSecret(old), api.NewSecret("correct-horse"), api.NewSecret("hunter2!-and-more")}
		for _, more := range []string{"nothing-of-it", "another-one"} {
			<-time.After(2 * time.Millisecond) // for what is printed to come
			values = append(values, api.NewSecret(more))
			m, _ := mask.New(values)
			c.Extend(m)
			fmt.Fprintln(w)
		}
		w.Close()
	})
	status, err := run(t, c, func() {})
	running.Wait()
	if got := c.Stdout.(*bytes.Buffer).String(); got != want || status != 0 || err != nil {
		t.Errorf("%q prints %q, want %q; %d, %v", c.Args, got, want, status, err)
	}
}

// TestFullDisk passes on the error of whoever takes the output.
func TestFullDisk(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	c := shell("echo text")
	c.Stdout = full
	if _, err := run(t, c, func() {}); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("Run = %v, want %v", err, syscall.ENOSPC)
	}
}

// TestLeavesGroup has a command that makes itself the leader of another process
// group than that which signals are sent to.
func TestLeavesGroup(t *testing.T) {
	for name, ignore := range map[string]string{"SIGTERM": "", "KillAfter": `$SIG{TERM} = "IGNORE";`} {
		c := shell("")
		ready := filepath.Join(t.TempDir(), "ready")
		c.Args = []string{"perl", "-e", `setpgrp(0, 0); ` + ignore + ` open(F, ">", $ARGV[0]); close(F); sleep 600`, ready}
		c.KillAfter = 10 * time.Millisecond
		if ignore == "" {
			c.KillAfter = 0
		}
		go func() {
			for {
				if _, err := os.Stat(ready); err == nil {
					break
				}
				<-time.After(time.Millisecond)
			}
			if err := syscall.Kill(os.Getpid(), syscall.SIGTERM); err != nil {
				t.Error(err)
			}
		}()
		ended := make(chan struct{})
		go func() { run(t, c, func() {}); close(ended) }()
		select {
		case <-ended:
		case <-time.After(3 * time.Second):
			t.Fatalf("%s does not reach a command in a group of its own", name)
		}
	}
}
