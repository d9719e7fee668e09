package runner

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// A companion is a small shell that runs beside the command. What it does could
// not be done by brevet itself:
//
//   - Without a terminal the command and what it starts have a process group of
//     their own: what a CI system sends to brevet's group then reaches them
//     once, through brevet, and what is sent to brevet alone reaches all of
//     them. But a SIGKILL to brevet's group would leave them behind, with the
//     credentials. The companion leads their group, and kills it when brevet
//     dies.
//   - With a terminal they must be in brevet's group, or they could not read
//     from it, and the kernel sends them Ctrl-C itself. The companion is in the
//     group, too, and tells brevet which signals came to all of it; brevet
//     passes on those that came to brevet alone. A second interrupt makes many
//     programs give up at once and leave their work half done.
//
// Where there is no /bin/sh there is no companion, and all methods do what
// little can be done without.
type companion struct {
	cmd  *exec.Cmd // nil: no companion
	in   *os.File  // closed by the kernel when brevet dies
	ends func()    // how to end it

	reading sync.WaitGroup

	mu   sync.Mutex
	seen map[syscall.Signal]int // signals that came to the whole group, less those asked for
	news chan struct{}          // one may be new in seen
}

const shell = "/bin/sh"

// guardScript survives all signals that are passed on, and at the end of its
// input, unless a line comes first, kills its process group, itself included.
const guardScript = `trap "" %[1]s; echo; read -r _ || kill -KILL 0`

// witnessScript prints the signals that it gets. A signal ends "read" in some
// shells, and not in others.
const witnessScript = `for n in %[1]s; do trap "echo $n" $n; done; echo; while kill -0 $PPID; do read -r _; done 2>/dev/null`

// newCompanion returns when the companion is ready for signals.
func newCompanion(terminal bool) (*companion, error) {
	c := &companion{seen: map[syscall.Signal]int{}, news: make(chan struct{}, 1)}
	if _, err := os.Stat(shell); err != nil {
		return c, nil
	}
	script, attr := guardScript, &syscall.SysProcAttr{Setpgid: true}
	if terminal {
		script, attr = witnessScript, childAttr(0, false)
	}
	if err := c.start(fmt.Sprintf(script, signalNumbers()), attr); err != nil {
		return nil, fmt.Errorf("starting %s to look after the command: %w", shell, err)
	}
	c.ends = func() { fmt.Fprintln(c.in) } // one that is gone already needs no farewell
	if terminal {
		c.ends = func() { kill(c.cmd.Process.Pid, syscall.SIGKILL) }
	}
	return c, nil
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

// start runs script and waits for its first line. It gets nothing of the job's:
// no environment, no folder to keep busy.
func (c *companion) start(script string, attr *syscall.SysProcAttr) error {
	inRead, inWrite, err := os.Pipe()
	if err != nil {
		return err
	}
	defer inRead.Close()
	c.in = inWrite
	cmd := exec.Command(shell, "-c", script)
	cmd.Env, cmd.Dir, cmd.Stdin, cmd.SysProcAttr = []string{}, "/", inRead, attr
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		inWrite.Close()
		return err
	}
	c.cmd = cmd
	lines := bufio.NewScanner(out)
	if !lines.Scan() {
		return errors.Join(errors.New("it ended at once"), inWrite.Close(), cmd.Wait())
	}
	c.reading.Go(func() { c.read(lines) })
	return nil
}

// read notes the signals that the companion tells of.
func (c *companion) read(lines *bufio.Scanner) {
	for lines.Scan() {
		n, err := strconv.Atoi(lines.Text())
		if err != nil {
			continue
		}
		c.mu.Lock()
		c.seen[syscall.Signal(n)]++
		c.mu.Unlock()
		select {
		case c.news <- struct{}{}:
		default:
		}
	}
}

// group returns the process group that the command shall join; 0: one of its
// own.
func (c *companion) group() int {
	if c.cmd == nil {
		return 0
	}
	return c.cmd.Process.Pid
}

// newsTime is how long the companion may take to tell of a signal; if that was
// not long enough the command gets it twice.
const newsTime = 500 * time.Millisecond

// saw reports whether n, which came to brevet, came to the whole group. Without
// a companion it goes by what the terminal itself sends.
func (c *companion) saw(n syscall.Signal) bool {
	if c.cmd == nil {
		return n == syscall.SIGINT || n == syscall.SIGQUIT || n == syscall.SIGWINCH
	}
	timeout := time.After(newsTime)
	for {
		if c.take(n) {
			return true
		}
		select {
		case <-c.news:
		case <-timeout:
			return false
		}
	}
}

func (c *companion) take(n syscall.Signal) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.seen[n] == 0 {
		return false
	}
	c.seen[n]--
	return true
}

// dismiss ends the companion.
func (c *companion) dismiss() {
	if c.cmd == nil {
		return
	}
	c.ends()
	c.in.Close()
	c.reading.Wait()
	if err := c.cmd.Wait(); err != nil {
		return // how it ended does not matter
	}
}

// forward passes signals on to command until stop is called.
func (c *companion) forward(signals *Signals, command int) (stop func()) {
	if signals.terminal {
		return signals.each(func(n syscall.Signal) {
			if !c.saw(n) {
				kill(command, n)
			}
		})
	}
	group := command
	if c.cmd != nil {
		group = c.group()
	}
	return signals.each(func(n syscall.Signal) { kill(-group, n) })
}
