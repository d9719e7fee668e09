package lambda

import (
	"context"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"
)

// runtimeName is the runtime in the log and in [Exit].
const runtimeName = "runtime"

// The states of the runtime and of extensions, by the emulator's names, which its
// errors show.
const (
	started      = "Started"
	registered   = "Registered" // an extension only
	ready        = "Ready"      // it waits for an event
	running      = "Running"
	responseSent = "RuntimeResponseSentState" // the runtime only
	initError    = "InitError"
	exitError    = "ExitError" // an extension only
)

// The events that extensions register for.
const (
	eventInvoke   = "INVOKE"
	eventShutdown = "SHUTDOWN"
)

// A party is the runtime or an extension.
type party struct {
	name    string
	id      string   // of an extension
	events  []string // that it registered for
	process *process // nil: not started, or an extension within the runtime

	internal bool // an extension within the runtime
	state    string
	next     *event // what an extension gets when it asks; nil: it waits
	error    *Error // what the runtime said of its init; nil: nothing
}

// An event is what an extension gets. What the runtime gets is in the invocation.
type event struct {
	Type           string   `json:"eventType"`
	Deadline       int64    `json:"deadlineMs"` // in milliseconds since 1970
	RequestID      string   `json:"requestId,omitempty"`
	ARN            string   `json:"invokedFunctionArn,omitempty"`
	Tracing        *tracing `json:"tracing,omitempty"`
	ShutdownReason Reason   `json:"shutdownReason,omitempty"`
}

type tracing struct {
	Type  string `json:"type"`
	Value string `json:"value"`
}

// A generation is the processes between an init and the reset that ends them.
type generation struct {
	sandbox *Sandbox

	mu         sync.Mutex
	changed    chan struct{} // closed, and replaced, when something below changes
	runtime    *party
	extensions []*party
	closed     bool // to more extensions
	ending     bool // ends of processes are no failures
	invocation *invocation
	failure    *Error // the first; nil: all is well
}

// update makes a change that others may wait for.
func (g *generation) update(change func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	change()
	g.announceLocked()
}

func (g *generation) announceLocked() {
	close(g.changed)
	g.changed = make(chan struct{})
}

// until waits until done, which is called with g.mu held. It returns why that will
// not be: a failure, or the end of ctx.
func (g *generation) until(ctx context.Context, done func() bool) error {
	var failure *Error
	err := g.await(ctx, func() bool {
		if done() {
			return true
		}
		failure = g.failure
		return failure != nil
	})
	if failure != nil {
		return failure
	}
	return err
}

// await is until, whatever fails: what a process waits for may be its end.
func (g *generation) await(ctx context.Context, done func() bool) error {
	for {
		g.mu.Lock()
		ok, changed := done(), g.changed
		g.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// all reports whether f is true of all extensions.
func (g *generation) all(f func(*party) bool) bool {
	return !slices.ContainsFunc(g.extensions, func(p *party) bool { return !f(p) })
}

// start makes a new generation: the Init phase.
func (s *Sandbox) start(ctx context.Context) error {
	g := &generation{sandbox: s, changed: make(chan struct{}), runtime: &party{name: runtimeName, state: started}}
	s.mu.Lock()
	s.now = g
	s.inits++
	s.mu.Unlock()
	if err := g.startExtensions(ctx); err != nil {
		return err
	}
	if err := g.launch(g.runtime, s.function.Command, s.function.Root, s.env.runtime); err != nil {
		return &Error{Type: "Runtime.InvalidEntrypoint", Message: "Error: " + err.Error()}
	}
	if err := g.until(ctx, func() bool { return g.runtime.state == ready }); err != nil {
		return err
	}
	g.update(func() { g.closed = true })
	defer g.logExtensions()
	return g.until(ctx, func() bool { return g.all(func(p *party) bool { return p.state == ready }) })
}

// startExtensions starts each file of the folder, and waits until they have
// registered.
func (g *generation) startExtensions(ctx context.Context) error {
	if g.sandbox.function.Extensions == "" {
		return nil
	}
	files, err := os.ReadDir(g.sandbox.function.Extensions)
	if err != nil {
		return fmt.Errorf("listing extensions: %w", err)
	}
	var external []*party
	for _, file := range files {
		if !file.IsDir() {
			external = append(external, &party{name: file.Name(), id: newUUID(), state: started})
		}
	}
	if len(external) > maxExtensions {
		return &Error{Type: "Extension.LaunchError", Message: "Error: ErrTooManyExtensions"}
	}
	g.update(func() { g.extensions = external })
	for _, p := range external {
		if err := g.launch(p, []string{filepath.Join(g.sandbox.function.Extensions, p.name)}, "/", g.sandbox.env.extensions); err != nil {
			return &Error{Type: "Extension.LaunchError", Message: "Error: " + err.Error()}
		}
	}
	return g.until(ctx, func() bool { return g.all(func(p *party) bool { return p.state != started }) })
}

func (g *generation) launch(p *party, command []string, dir string, env []string) error {
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Dir, cmd.Env = dir, env
	process, err := startProcess(p.name, cmd, g.sandbox.log, func(it *process) { g.ended(p, it) })
	if err != nil {
		return fmt.Errorf("starting %s: %w", p.name, err)
	}
	g.update(func() { p.process = process })
	return nil
}

// ended notes the end of a process, which is a failure but in a shutdown.
func (g *generation) ended(p *party, it *process) {
	g.sandbox.mu.Lock()
	g.sandbox.exits = append(g.sandbox.exits, it.exit())
	g.sandbox.mu.Unlock()
	g.update(func() {
		if !g.ending && g.failure == nil {
			g.failure = p.failure(it)
		}
	})
}

// failure returns what Lambda calls the end of p's process.
func (p *party) failure(it *process) *Error {
	status := it.exit().Status
	switch {
	case p.error != nil:
		return p.error
	case p.name == runtimeName && it.code == 0:
		return &Error{Type: "Runtime.ExitError", Message: "Error: Runtime exited without providing a reason"}
	case p.name == runtimeName:
		return &Error{Type: "Runtime.ExitError", Message: "Error: Runtime exited with error: " + status}
	case p.state == initError:
		return &Error{Type: "Extension.InitError", Message: "Error: " + status}
	case p.state == exitError:
		return &Error{Type: "Extension.ExitError", Message: "Error: " + status}
	case it.code == 0:
		return &Error{Type: "Extension.Crash", Message: "Error: exit code 0"}
	}
	return &Error{Type: "Extension.Crash", Message: "Error: " + status}
}

func (g *generation) logExtensions() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, p := range g.extensions {
		g.sandbox.log.printf("EXTENSION Name: %s State: %s Events: %s", p.name, p.state, p.events)
	}
}

// run is an invocation: from the event to the moment when all wait for the next.
func (g *generation) run(ctx context.Context, in *invocation) error {
	g.update(func() {
		g.invocation = in
		for _, p := range g.extensions {
			if slices.Contains(p.events, eventInvoke) {
				p.next = &event{Type: eventInvoke, Deadline: in.deadline.UnixMilli(), RequestID: in.id, ARN: in.arn, Tracing: &tracing{"X-Amzn-Trace-Id", in.trace}}
			}
		}
	})
	defer g.update(func() { g.invocation = nil })
	return g.until(ctx, func() bool {
		waits := func(p *party) bool {
			return p.next == nil && (p.state == ready || !slices.Contains(p.events, eventInvoke))
		}
		return in.answered() && g.runtime.state == ready && g.all(waits)
	})
}

// signal sends sig to all processes.
func (g *generation) signal(sig syscall.Signal) {
	for _, p := range g.processes() {
		p.signal(sig)
	}
}

func (g *generation) freeze() { g.signal(syscall.SIGSTOP) }
func (g *generation) thaw()   { g.signal(syscall.SIGCONT) }

func (g *generation) processes() []*process {
	g.mu.Lock()
	defer g.mu.Unlock()
	var out []*process
	for _, p := range append([]*party{g.runtime}, g.extensions...) {
		if p.process != nil {
			out = append(out, p.process)
		}
	}
	return out
}

func (g *generation) pid(name string) int {
	for _, p := range g.processes() {
		if p.name == name && p.exit().Status == "" {
			return p.pid
		}
	}
	return 0
}

// newUUID returns a random one: RFC 9562, section 5.4.
func newUUID() string {
	b := random(16)
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	text := hex.EncodeToString(b)
	return text[:8] + "-" + text[8:12] + "-" + text[12:16] + "-" + text[16:20] + "-" + text[20:]
}

// newTrace returns a header of X-Ray for what is not sampled.
func newTrace(now time.Time) string {
	return fmt.Sprintf("Root=1-%08x-%x;Parent=%x;Sampled=0", now.Unix(), random(12), random(8))
}
