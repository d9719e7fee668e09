package pkcs11

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"time"

	"github.com/brevet-dev/brevet/broker/keys/pkcs11/wire"
)

const (
	// answerTime is how long a signature, an agreement or a check may take.
	// Network HSMs take some milliseconds, smart cards up to a second.
	answerTime = 5 * time.Second

	// openTime is for loading a library, which may connect to a cluster of
	// HSMs, and for logging in.
	openTime = 15 * time.Second

	// generateTime is for two key pairs.
	generateTime = time.Minute

	// endTime is how long the helper may take to end by itself, and then to be
	// dead: a process that hangs in a driver is not at once.
	endTime = time.Second
)

// timeout returns how long an answer may take.
func (c *Config) timeout(op wire.Op) time.Duration {
	switch {
	case c.answer != 0:
		return c.answer
	case op == wire.Open, op == wire.Login, op == wire.Destroy:
		return openTime
	case op == wire.Generate:
		return generateTime
	}
	return answerTime
}

// A process is a running helper.
type process struct {
	cmd    *exec.Cmd
	to     *os.File // its standard input
	from   *os.File // its standard output
	stderr *head    // to be read after exited
	exited chan struct{}
}

// start starts the helper with an environment that has nothing of brevetd's but
// what the library needs.
func (c *Config) start() (*process, error) {
	path, err := c.helper()
	if err != nil {
		return nil, err
	}
	stdin, to, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("starting %s: %w", path, err)
	}
	defer stdin.Close()
	from, stdout, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("starting %s: %w", path, err), to.Close())
	}
	defer stdout.Close()
	p := &process{exec.Command(path), to, from, &head{}, make(chan struct{})}
	p.cmd.Dir, p.cmd.Env = "/", c.environment()
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = stdin, stdout, p.stderr
	p.cmd.WaitDelay = endTime // a child of the library may keep stderr open
	if err := p.cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("starting %s: %v", path, err), to.Close(), from.Close())
	}
	go func() {
		_ = p.cmd.Wait() // how it ended is in cmd.ProcessState
		close(p.exited)
	}()
	return p, nil
}

// ask sends one request and reads the response. After an error the process is
// dead.
func (p *process) ask(q *wire.Request, within time.Duration) (*wire.Response, error) {
	response, err := p.exchange(q, time.Now().Add(within))
	switch {
	case err == nil:
		return response, nil
	case errors.Is(err, os.ErrDeadlineExceeded):
		p.kill()
		return nil, fmt.Errorf("%w: %s took more than %v; its process was killed", ErrTimeout, q.Op, within)
	case errors.Is(err, wire.ErrVersion):
		p.kill()
		return nil, fmt.Errorf("%s is not of the same build as this program; install both of one: %w", p.cmd.Path, err)
	}
	p.kill()
	return nil, fmt.Errorf("%w before it answered %s: %s", ErrEnded, q.Op, p.last(err))
}

func (p *process) exchange(q *wire.Request, deadline time.Time) (*wire.Response, error) {
	if err := errors.Join(p.to.SetDeadline(deadline), p.from.SetDeadline(deadline)); err != nil {
		return nil, err
	}
	if err := wire.WriteRequest(p.to, q); err != nil {
		return nil, err
	}
	return wire.ReadResponse(p.from)
}

// last says how the process ended, and what it said before the library could.
func (p *process) last(err error) string {
	select {
	case <-p.exited:
		return p.cmd.ProcessState.String() + p.stderr.String()
	default:
		return err.Error()
	}
}

// kill ends the process at once.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // an error says that it ended before
	p.wait()
	_ = errors.Join(p.to.Close(), p.from.Close()) // pipes to nobody, perhaps closed before
}

// stop lets the helper end its session, for a moment.
func (p *process) stop() {
	_ = p.to.Close()
	p.wait()
	p.kill()
}

func (p *process) wait() {
	select {
	case <-p.exited:
	case <-time.After(endTime):
	}
}

// A head keeps the first of what is written to it.
type head struct{ kept []byte }

const maxStderr = 1 << 10 // bytes; a line of our own

// Write implements [io.Writer].
func (h *head) Write(p []byte) (int, error) {
	h.kept = append(h.kept, p[:min(len(p), maxStderr-len(h.kept))]...)
	return len(p), nil
}

// String returns what was written, behind a colon.
func (h *head) String() string {
	if len(h.kept) == 0 {
		return ""
	}
	return ": " + plain(string(h.kept))
}
