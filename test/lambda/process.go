package lambda

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// A process is a program of the sandbox with its children: one process group.
type process struct {
	name string
	pid  int
	done chan struct{} // closed when it has ended

	mu     sync.Mutex
	ended  bool // its number may be another's
	killed bool
	status string // valid when done is closed
	code   int    // likewise; -1: a signal
}

// drain is how long after the end of a process its last words are waited for, if
// something else holds its output open.
const drain = time.Second

// startProcess starts cmd, as a group of its own. Its output goes to log. ended is
// called when it has ended.
func startProcess(name string, cmd *exec.Cmd, log *logWriter, ended func(*process)) (*process, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("making a pipe: %w", err)
	}
	cmd.Stdout, cmd.Stderr = w, w
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true
	err = cmd.Start()
	w.Close()
	if err != nil {
		r.Close()
		return nil, err
	}
	p := &process{name: name, pid: cmd.Process.Pid, done: make(chan struct{})}
	read := make(chan struct{})
	go func() {
		defer close(read)
		defer r.Close()
		log.copy(r)
	}()
	go func() {
		cmd.Wait() // what it was is in cmd.ProcessState
		p.end(cmd.ProcessState)
		r.SetReadDeadline(time.Now().Add(drain))
		<-read
		ended(p)
		close(p.done)
	}()
	return p, nil
}

// end notes the end of the first of the group, and ends the others: none of them
// would be frozen any more.
func (p *process) end(state *os.ProcessState) {
	p.mu.Lock()
	defer p.mu.Unlock()
	syscall.Kill(-p.pid, syscall.SIGKILL) // an error: there are no others
	p.ended, p.status, p.code = true, state.String(), state.ExitCode()
}

// signal sends sig to the group, unless it has ended.
func (p *process) signal(sig syscall.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		return
	}
	p.killed = p.killed || sig == syscall.SIGKILL
	syscall.Kill(-p.pid, sig) // an error: it ends just now
}

// signalFirst sends sig to the first of the group only, unless that has ended.
func (p *process) signalFirst(sig syscall.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.ended {
		syscall.Kill(p.pid, sig) // an error: it ends just now
	}
}

// endBy waits for the end of p, and kills it at deadline.
func (p *process) endBy(deadline time.Time) {
	timer := time.NewTimer(time.Until(deadline))
	defer timer.Stop()
	select {
	case <-p.done:
	case <-timer.C:
		p.signal(syscall.SIGKILL)
		<-p.done
	}
}

func (p *process) exit() Exit {
	p.mu.Lock()
	defer p.mu.Unlock()
	return Exit{Name: p.name, Status: p.status, Killed: p.killed}
}

// A logWriter writes whole lines of many to one.
type logWriter struct {
	mu sync.Mutex
	to io.Writer
}

func (l *logWriter) printf(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	fmt.Fprintf(l.to, format+"\n", args...) // a log that is full is the test's own business
}

// copy writes the lines of r until its end.
func (l *logWriter) copy(r io.Reader) {
	lines := bufio.NewReaderSize(r, 64<<10)
	for {
		line, err := lines.ReadSlice('\n')
		if len(line) > 0 {
			l.mu.Lock()
			l.to.Write(line) // likewise
			l.mu.Unlock()
		}
		if err != nil && err != bufio.ErrBufferFull {
			return
		}
	}
}
