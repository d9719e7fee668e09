//go:build unix

package runner

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
)

const shell = "/bin/sh"

// guardScript survives all signals that are passed on. It takes the process group
// of a command that has another than its own in a line. At the end of its input,
// unless one more came, it kills that group, removes the files that are its
// arguments, and gives the terminal back as it was. In any case it ends with
// its own group, where what the command left behind may still be.
const guardScript = `trap "" TTOU %s; [ -t 3 ] && t=$(stty -g <&3); echo; read -r g; read -r _ || {
[ "$g" ] && kill -KILL "-$g"; rm -rf -- "$@"; [ "$t" ] && stty "$t" <&3; }; kill -KILL 0`

// A guard is a small shell that outlives brevet. A SIGKILL to brevet, or a fault
// in it, would leave behind what the command started, with the credentials, and
// the files that hold them. It leads the process group that the command joins,
// so that there is no moment in which it does not know it; on a terminal of its
// own the command has another. Where there is no /bin/sh there is no guard.
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
	script := fmt.Sprintf(guardScript, signalNumbers())
	cmd := exec.Command(shell, append([]string{"-c", script, shell}, files...)...)
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

// signalNumbers lists what is passed on, for a shell.
func signalNumbers() string {
	var numbers []string
	for _, s := range catchable() {
		if n, ok := s.(syscall.Signal); ok {
			numbers = append(numbers, strconv.Itoa(int(n)))
		}
	}
	return strings.Join(numbers, " ")
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

// watch makes another process group end with brevet, too.
func (g *guard) watch(group int) { g.tell(fmt.Sprintln(group)) }

// dismiss ends the guard.
func (g *guard) dismiss() {
	if g.cmd == nil {
		return
	}
	g.tell("\n\n")
	g.in.Close()
	defer func() { g.cmd = nil }()
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
