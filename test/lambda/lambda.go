// Package lambda is an execution environment of AWS Lambda on this machine: a
// Runtime API, an Extensions API, and the life that Lambda gives the processes
// which use them.
//
//	s, err := lambda.New(lambda.Function{Command: []string{"/…/bootstrap"}, Extensions: "/…/extensions"})
//	…
//	answer, err := s.Invoke(ctx, []byte(`{}`)) // a cold start, and an invocation
//	answer, err = s.Invoke(ctx, []byte(`{}`))  // thawed, and warm
//	s.Shutdown()
//	err = s.Close()
//
// What it does is from AWS's own documentation and from the source of its Runtime
// Interface Emulator, which is the code that runs in Lambda but for what surrounds
// it: errors have the same types and texts, and what the emulator refuses is
// refused. Where the two differ the documentation counts (shutdown.go).
//
//   - Init: each file of the folder of extensions is started, and must register;
//     then the runtime is started. Init ends when all have asked for the next event.
//     One that does not succeed within ten seconds is tried again by the first
//     invocation, within the function's timeout.
//   - Invoke: ends when the runtime has answered and asked for the next event, and so
//     has each extension that registered for INVOKE.
//   - Freeze: afterwards no process runs. Each is stopped with its process group, and
//     goes on with the next invocation: SIGSTOP and SIGCONT.
//   - Reset: after a timeout or a crash all processes are ended as by a shutdown. The
//     next invocation starts them anew, with what is in /tmp.
//   - Shutdown: the runtime gets SIGTERM if there is an extension, then each extension
//     that registered for it the event SHUTDOWN, then what is left SIGKILL.
//
// What it does not have: /tmp of its own, for which a process needs a mount
// namespace; processes get a folder as TMPDIR, and must use that. The clocks run on
// while a process is stopped, both of them: a real sandbox's monotonic clock may
// stand still. A process that leaves its process group is not frozen. Runtimes are
// those of the kind provided.al2023: a program of the function's own. SnapStart, the
// Telemetry API, and payloads that are streamed to the caller are not there.
//
// https://docs.aws.amazon.com/lambda/latest/dg/lambda-runtime-environment.html,
// https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html and
// https://docs.aws.amazon.com/lambda/latest/dg/runtimes-extensions-api.html
package lambda

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// A Function is what somebody deployed.
type Function struct {
	// Command is the runtime with the function in it: a program and its arguments.
	Command []string

	// Root is the folder of its code, LAMBDA_TASK_ROOT, in which it starts. "": that
	// of the program.
	Root string

	// Extensions is the folder that is /opt/extensions on Lambda: each file in it is
	// started, without arguments. "": none.
	Extensions string

	// Environment is the function's own variables. Those that Lambda sets are refused,
	// as Lambda does.
	Environment map[string]string

	// Role is the session of the function's role, and reaches all processes.
	Role Session

	Name    string        // "": shop
	Version string        // "": $LATEST
	Handler string        // "": bootstrap
	Region  string        // "": eu-west-1
	Account string        // "": 111122223333
	Timeout time.Duration // of an invocation; 0: 3 s, as on Lambda
	Init    time.Duration // how long Init may take; 0: 10 s, as on Lambda
	Grace   time.Duration // what a shutdown may take more than on Lambda, where the machine is busy

	// Log gets what the processes write, and lines of the platform such as REPORT:
	// what is in CloudWatch Logs. It is used by one goroutine at a time. nil: nobody.
	Log io.Writer
}

// A Session is credentials of a role.
type Session struct{ AccessKeyID, SecretAccessKey, SessionToken string }

func (f Function) withDefaults() Function {
	f.Name, f.Version, f.Handler = cmp.Or(f.Name, "shop"), cmp.Or(f.Version, "$LATEST"), cmp.Or(f.Handler, "bootstrap")
	f.Region, f.Account = cmp.Or(f.Region, "eu-west-1"), cmp.Or(f.Account, "111122223333")
	f.Timeout, f.Init = cmp.Or(f.Timeout, 3*time.Second), cmp.Or(f.Init, 10*time.Second)
	if f.Root == "" && len(f.Command) > 0 {
		f.Root = filepath.Dir(f.Command[0])
	}
	if f.Log == nil {
		f.Log = io.Discard
	}
	return f
}

// ARN returns the function's name in full.
func (f Function) ARN() string {
	f = f.withDefaults()
	return "arn:aws:lambda:" + f.Region + ":" + f.Account + ":function:" + f.Name
}

// A Sandbox is one execution environment of a function. Lambda has one for each
// invocation that goes on at the same time; so one Sandbox has one at a time.
type Sandbox struct {
	// Tmp is what the processes have as TMPDIR. It outlives resets, and goes with Close.
	Tmp string

	function Function
	env      environment
	addr     string
	http     *http.Server
	served   chan error
	log      *logWriter

	turn   sync.Mutex // held by what changes the phase, and for
	over   bool       // after a shutdown
	closed bool

	mu    sync.Mutex
	now   *generation // nil: no processes
	inits int
	exits []Exit
}

// ErrBusy is the error of an invocation while another is under way.
var ErrBusy = errors.New("the sandbox is at work; Lambda would start another")

// New makes a Sandbox that has no processes yet. Close it.
func New(f Function) (*Sandbox, error) {
	f = f.withDefaults()
	if len(f.Command) == 0 {
		return nil, errors.New("a function needs a command")
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listening: %w", err)
	}
	s := &Sandbox{function: f, addr: listener.Addr().String(), served: make(chan error, 1), log: &logWriter{to: f.Log}}
	if s.Tmp, err = os.MkdirTemp("", "lambda-"); err != nil {
		listener.Close()
		return nil, fmt.Errorf("making /tmp: %w", err)
	}
	if s.env, err = newEnvironment(f, s.addr, s.Tmp); err != nil {
		listener.Close()
		return nil, errors.Join(err, os.RemoveAll(s.Tmp))
	}
	s.http = &http.Server{Handler: s.handler(), ReadHeaderTimeout: 10 * time.Second}
	go func() { s.served <- s.http.Serve(listener) }()
	return s, nil
}

// An Answer is what a function answered, and how long that took.
type Answer struct {
	RequestID string
	Payload   []byte
	Init      time.Duration // of the cold start; 0: it was warm
	Duration  time.Duration // until the function answered
}

// An Error is what the caller of a function gets instead of an answer. The types are
// Lambda's, such as Runtime.ExitError, or what the function gave.
type Error struct {
	Type, Message string
	RequestID     string
	Payload       []byte // as the caller sees it
}

func (e *Error) Error() string { return e.Type + ": " + e.Message }

// Init starts the processes ahead of the first invocation, as provisioned
// concurrency does. An error of the function is an [*Error].
func (s *Sandbox) Init(ctx context.Context) error {
	if !s.turn.TryLock() {
		return ErrBusy
	}
	defer s.turn.Unlock()
	if s.over || s.current() != nil {
		return errors.New("the sandbox was initialised before")
	}
	if err := s.coldStart(ctx); err != nil {
		return err
	}
	s.current().freeze()
	return nil
}

// coldStart is the Init phase before an invocation.
func (s *Sandbox) coldStart(ctx context.Context) error {
	limited, cancel := context.WithTimeout(ctx, s.function.Init)
	defer cancel()
	err := s.initialise(limited, "init")
	if err == nil {
		return nil
	}
	reason := Failure
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		reason, err = Timeout, timedOut("Init", s.function.Init)
	}
	s.reset(reason)
	return err
}

// initialise starts the processes. phase is what asked for it: init or invoke.
func (s *Sandbox) initialise(ctx context.Context, phase string) error {
	began := time.Now()
	err := s.start(ctx)
	if err != nil {
		status := "error"
		if errors.Is(err, context.DeadlineExceeded) {
			status = "timeout"
		}
		s.log.printf("INIT_REPORT Init Duration: %s\tPhase: %s\tStatus: %s", milliseconds(time.Since(began)), phase, status)
	}
	return err
}

// Invoke runs the function once, with a cold start if there are no processes. An
// error of the function is an [*Error]; another is of the surroundings.
func (s *Sandbox) Invoke(ctx context.Context, payload []byte) (*Answer, error) {
	if len(payload) > maxPayload {
		return nil, fmt.Errorf("the payload has %d bytes; Lambda takes %d", len(payload), maxPayload)
	}
	if !s.turn.TryLock() {
		return nil, ErrBusy
	}
	defer s.turn.Unlock()
	if s.over {
		return nil, errors.New("the sandbox was shut down")
	}
	cold, began := s.current() == nil, time.Now()
	if cold {
		s.coldStart(ctx) // one that does not succeed is tried again
	}
	init := time.Since(began)
	answer, err := s.invoke(ctx, s.newInvocation(payload))
	if answer != nil && cold {
		answer.Init = init
	}
	return answer, err
}

// invoke is the phase of that name, with an init in it if there was none that
// succeeded.
func (s *Sandbox) invoke(ctx context.Context, in *invocation) (*Answer, error) {
	limited, cancel := context.WithDeadline(ctx, in.deadline)
	defer cancel()
	s.log.printf("START RequestId: %s Version: %s", in.id, s.function.Version)
	err := s.run(limited, in)
	if err != nil {
		err = s.failed(in, err)
	}
	s.log.printf("END RequestId: %s", in.id)
	s.log.printf("REPORT RequestId: %s\tDuration: %s", in.id, milliseconds(time.Since(in.began)))
	answer, wrong := in.outcome()
	switch {
	case wrong != nil:
		return nil, wrong
	case answer != nil:
		return answer, nil // the caller had it, whatever went wrong then
	}
	return nil, err
}

func (s *Sandbox) run(ctx context.Context, in *invocation) error {
	if s.current() == nil {
		if err := s.initialise(ctx, "invoke"); err != nil {
			return err
		}
	}
	g := s.current()
	g.thaw()
	if err := g.run(ctx, in); err != nil {
		return err
	}
	g.freeze()
	return nil
}

// failed resets the sandbox after an invocation that did not succeed, and returns
// what its caller gets.
func (s *Sandbox) failed(in *invocation, err error) error {
	reason := Failure
	if errors.Is(err, context.DeadlineExceeded) && !time.Now().Before(in.deadline) {
		reason, err = Timeout, timedOut("Task", s.function.Timeout)
	}
	s.reset(reason)
	if e, ok := errors.AsType[*Error](err); ok {
		return e.of(in.id)
	}
	return err // of the surroundings
}

func timedOut(what string, limit time.Duration) *Error {
	return &Error{Type: "Sandbox.Timedout", Message: fmt.Sprintf("Error: %s timed out after %.2f seconds", what, limit.Seconds())}
}

func milliseconds(d time.Duration) string {
	return fmt.Sprintf("%.2f ms", float64(d)/float64(time.Millisecond))
}

func (s *Sandbox) current() *generation {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now
}

// Inits returns how many times the processes were started.
func (s *Sandbox) Inits() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.inits
}

// PID returns the process that is the runtime, as "runtime", or an extension by its
// file's name. 0: there is none.
func (s *Sandbox) PID(name string) int {
	if g := s.current(); g != nil {
		return g.pid(name)
	}
	return 0
}

// An Exit is the end of a process.
type Exit struct {
	Name   string // "runtime", or an extension's
	Status string // "exit status 1", "signal: killed", …
	Killed bool   // by the sandbox, with SIGKILL
}

// Exits returns the ends of all processes so far.
func (s *Sandbox) Exits() []Exit {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.exits)
}

// Close ends what still runs, without a shutdown, and removes Tmp.
func (s *Sandbox) Close() error {
	s.turn.Lock()
	defer s.turn.Unlock()
	if s.closed {
		return nil
	}
	s.closed, s.over = true, true
	if g := s.current(); g != nil {
		g.kill()
		s.gone()
	}
	err := s.http.Close()
	if served := <-s.served; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return errors.Join(err, os.RemoveAll(s.Tmp))
}
