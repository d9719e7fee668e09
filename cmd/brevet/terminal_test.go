package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// onTerminal runs a command on a terminal of 100 columns and 30 lines and does
// meanwhile what it is told to: "onterminal [ACTION]... -- command args...". At
// the end it prints what came to the terminal, whether that is as it was, and
// ends with the command's status. Actions:
//
//	wait=REGEXP  until what came since the last wait matches
//	type=TEXT    with Go's escapes
//	size=COLSxLINES
//	signal=N     to the command
func onTerminal() {
	at := 1
	for os.Args[at] != "--" {
		at++
	}
	t := newTestTerminal()
	cmd := exec.Command(os.Args[at+1], os.Args[at+2:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = t.slave, t.slave, t.slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	before := t.state()
	must(cmd.Start())
	go t.read()
	for _, action := range os.Args[1:at] {
		t.do(action, cmd.Process)
	}
	err := cmd.Wait()
	for i := 0; !reflect.DeepEqual(before, t.state()); i++ {
		if i > 200 { // the guard may still be at it
			fmt.Println("the terminal is not as it was")
			os.Exit(1)
		}
		<-time.After(10 * time.Millisecond)
	}
	t.slave.Close()
	<-t.done
	fmt.Print(strings.ReplaceAll(t.text.String(), "\r", ""))
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		fmt.Println("killed by", int(status.Signal()))
	}
	if _, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
		panic(err)
	}
	os.Exit(max(0, cmd.ProcessState.ExitCode()))
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

type testTerminal struct {
	master, slave *os.File
	done          chan struct{}

	mu   sync.Mutex
	text strings.Builder
	seen int // up to the last wait
}

func newTestTerminal() *testTerminal {
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	must(err)
	number, err := unix.IoctlGetUint32(int(master.Fd()), unix.TIOCGPTN)
	must(err)
	must(unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0))
	slave, err := os.OpenFile("/dev/pts/"+strconv.Itoa(int(number)), os.O_RDWR|syscall.O_NOCTTY, 0)
	must(err)
	t := &testTerminal{master: master, slave: slave, done: make(chan struct{})}
	t.do("size=100x30", nil)
	return t
}

func (t *testTerminal) state() *unix.Termios {
	state, err := unix.IoctlGetTermios(int(t.slave.Fd()), unix.TCGETS)
	must(err)
	return state
}

func (t *testTerminal) read() {
	defer close(t.done)
	buf := make([]byte, 4096)
	for {
		n, err := t.master.Read(buf)
		t.mu.Lock()
		t.text.Write(buf[:n])
		t.mu.Unlock()
		if err != nil { // EIO: nobody has it open any more
			return
		}
	}
}

func (t *testTerminal) do(action string, command *os.Process) {
	what, arg, _ := strings.Cut(action, "=")
	switch what {
	case "wait":
		t.wait(regexp.MustCompile(arg))
	case "type":
		text, err := strconv.Unquote(`"` + arg + `"`)
		must(err)
		_, err = t.master.WriteString(text)
		must(err)
	case "size":
		cols, lines, _ := strings.Cut(arg, "x")
		c, err := strconv.Atoi(cols)
		must(err)
		l, err := strconv.Atoi(lines)
		must(err)
		must(unix.IoctlSetWinsize(int(t.master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: uint16(l), Col: uint16(c)}))
	case "signal":
		n, err := strconv.Atoi(arg)
		must(err)
		must(command.Signal(syscall.Signal(n)))
	default:
		panic("no action " + action)
	}
}

func (t *testTerminal) wait(want *regexp.Regexp) {
	for range 1000 {
		t.mu.Lock()
		text := t.text.String()
		at := want.FindStringIndex(text[t.seen:])
		if at != nil {
			t.seen += at[1]
		}
		t.mu.Unlock()
		if at != nil {
			return
		}
		<-time.After(10 * time.Millisecond)
	}
	panic(fmt.Sprintf("nothing matches %s in %q", want, t.text.String()))
}
