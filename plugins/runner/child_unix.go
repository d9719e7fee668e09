//go:build unix

package runner

import (
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"sync"
	"syscall"
	"time"
)

const (
	// settleTime is how long what the command started may take to end by
	// itself: as what it was piped into does.
	settleTime = 100 * time.Millisecond

	// leaveTime is how long what it left behind has after a SIGTERM.
	leaveTime = 2 * time.Second

	lookTime = 5 * time.Millisecond
	reapTime = time.Second
)

// A family is the command with all that it starts. Those that outlive their
// parents are brevet's children then (on Linux): it waits for them, as init
// does, and ends them at the end.
type family struct {
	process *os.Process // the command
	group   int         // its process group, unless shared
	shared  bool
	tty     bool // the command leads a session
	guard   *guard

	ended   chan os.Signal // SIGCHLD
	done    chan struct{}
	running sync.WaitGroup
}

// newFamily makes what looks after the command, before it is started. shared says
// that the command is to be in brevet's process group, from which alone it can
// read from brevet's terminal. With tty it gets a session, else a group.
func newFamily(shared bool, tty *terminal, files []string) (*family, error) {
	if err := adoptOrphans(); err != nil {
		return nil, err
	}
	guard, err := newGuard(tty, files)
	if err != nil {
		return nil, fmt.Errorf("starting %s to look after the command: %w", shell, err)
	}
	f := &family{shared: shared, tty: tty != nil, guard: guard, ended: make(chan os.Signal, 1), done: make(chan struct{})}
	if !shared && !f.tty {
		f.group = guard.pid()
	}
	return f, nil
}

// prepare says how the command is started.
func (f *family) prepare(cmd *exec.Cmd) {
	attr := &syscall.SysProcAttr{Setpgid: !f.shared, Pgid: f.group}
	if f.tty {
		attr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 1} // stdout is the terminal
	}
	tieToBrevet(attr)
	cmd.SysProcAttr = attr
}

// started begins to look after the command.
func (f *family) started(p *os.Process) error {
	f.process = p
	if !f.shared && f.group == 0 {
		f.group = p.Pid
		f.guard.watch(f.group)
	}
	signal.Notify(f.ended, syscall.SIGCHLD)
	f.running.Go(f.reapAll)
	return nil
}

// reapAll reaps until done. The kernel's list of children may miss one while
// another ends: hence the ticker.
func (f *family) reapAll() {
	ticker := time.NewTicker(reapTime)
	defer ticker.Stop()
	for {
		select {
		case <-f.ended:
		case <-ticker.C:
		case <-f.done:
			return
		}
		f.reap()
	}
}

// reap waits for the orphans that have ended, and returns those that have not.
func (f *family) reap() (alive []int) {
	for _, pid := range orphans([]int{f.process.Pid, f.guard.pid()}) {
		if got, err := syscall.Wait4(pid, nil, syscall.WNOHANG, nil); got == 0 && err == nil {
			alive = append(alive, pid)
		}
	}
	return alive
}

// signal sends n to the command and, unless brevet shares its group with it, to
// all that it started and that did not leave the group. The command gets it also
// where it has left the group itself.
func (f *family) signal(n syscall.Signal) {
	if f.shared {
		f.process.Signal(n) // it may have ended
		return
	}
	group, err := syscall.Getpgid(f.process.Pid)
	kill(-f.group, n)
	if err == nil && group != f.group {
		f.process.Signal(n)
	}
}

// kill ends the command as nothing can prevent, and the guard, if that leads the
// group.
func (f *family) kill() { f.signal(syscall.SIGKILL) }

// end ends what the command, which has ended, left behind: as asked to, and if
// that does not help at once. It reports whether there was anything.
func (f *family) end() (left bool) {
	close(f.done)
	f.running.Wait()
	if !knowsOrphans {
		f.guard.dismiss() // then who is in the group was left behind
	}
	if left = !f.endWith(0, settleTime); left && !f.endWith(syscall.SIGTERM, leaveTime) {
		f.endWith(syscall.SIGKILL, leaveTime) // else it is stuck in the kernel
	}
	return left
}

// endWith sends n, if it is not 0, to all that is left, and to what that leaves.
// It reports whether nothing was there any more within a time.
func (f *family) endWith(n syscall.Signal, within time.Duration) bool {
	deadline := time.After(within)
	told := map[int]bool{}
	if n != 0 && !f.shared {
		kill(-f.group, n)
	}
	for {
		alive := f.reap()
		if len(alive) == 0 && !f.groupLives() {
			return true
		}
		for _, pid := range alive {
			if n != 0 && !told[pid] {
				kill(pid, n)
				kill(pid, syscall.SIGCONT) // a stopped one does not hear a SIGTERM
				told[pid] = true
			}
		}
		select {
		case <-f.ended:
		case <-time.After(lookTime): // who is another's child
		case <-deadline:
			return false
		}
	}
}

// groupLives reports whether there is a process in the command's group, where
// only that tells.
func (f *family) groupLives() bool {
	return !knowsOrphans && !f.shared && syscall.Kill(-f.group, 0) == nil
}

// dismiss ends the looking after.
func (f *family) dismiss() {
	signal.Stop(f.ended)
	f.guard.dismiss()
}

// kill sends n. That the process has ended meanwhile, the only error there can
// be for one's own child, leaves nothing to do.
func kill(pid int, n syscall.Signal) {
	if err := syscall.Kill(pid, n); err != nil {
		return
	}
}
