//go:build unix

package runner

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
)

const shell = "/bin/sh"

// guardScript takes the process group of the command in a line, and ends with
// another. At the end of its input, without that, it kills the group, removes
// the files that are its arguments, and gives the terminal back as it was.
const guardScript = `trap "" TTOU; [ -t 3 ] && t=$(stty -g <&3); echo; read -r g; read -r _ && exit
[ "$g" ] && kill -KILL "-$g"; rm -rf -- "$@"; [ "$t" ] && stty "$t" <&3`

// A guard is a small shell that outlives brevet. A SIGKILL to brevet, or a fault
// in it, would leave behind what the command started, with the credentials, and
// the files that hold them. Where there is no /bin/sh there is no guard.
type guard struct {
	cmd *exec.Cmd // nil: no guard
	in  *os.File  // closed by the kernel when brevet dies
}

// newGuard starts the guard, in a process group of its own, so that what ends
// brevet's does not end it. It gets nothing of the job's: no environment, no
// folder to keep busy.
func newGuard(tty *terminal, files []string) (*guard, error) {
	if _, err := os.Stat(shell); err != nil {
		return &guard{}, nil
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	cmd := exec.Command(shell, append([]string{"-c", guardScript, shell}, files...)...)
	cmd.Env, cmd.Dir, cmd.Stdin = []string{}, "/", r
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if tty != nil {
		cmd.ExtraFiles = []*os.File{tty.outer()}
	}
	g := &guard{cmd, w}
	if err := g.start(); err != nil {
		w.Close()
		return nil, err
	}
	return g, nil
}

// start waits until the guard is ready: it has to see the terminal as it is.
func (g *guard) start() error {
	out, err := g.cmd.StdoutPipe()
	if err == nil {
		err = g.cmd.Start()
	}
	if err != nil {
		return err
	}
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		return errors.Join(errors.New("it ended at once"), g.in.Close(), g.cmd.Wait())
	}
	return nil
}

// pid returns the guard's process id; 0: there is none.
func (g *guard) pid() int {
	if g.cmd == nil {
		return 0
	}
	return g.cmd.Process.Pid
}

// watch makes a process group end with brevet.
func (g *guard) watch(group int) { g.tell(fmt.Sprintln(group)) }

// dismiss ends the guard.
func (g *guard) dismiss() {
	if g.cmd == nil {
		return
	}
	g.tell("\n\n")
	g.in.Close()
	if err := g.cmd.Wait(); err != nil {
		return // how it ended does not matter
	}
}

// tell writes to the guard. One that is gone already needs nothing.
func (g *guard) tell(text string) {
	if g.cmd != nil {
		io.WriteString(g.in, text)
	}
}
