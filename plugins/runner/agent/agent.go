// Package agent keeps a job's leases for the tools that the job runs, as long as
// it runs: a tool that asks in the fifth hour gets a credential that works in the
// fifth hour.
//
// One agent gets each credential when it is first asked for (holder.go), renews
// it, and hands it out over a socket that only its user can open (socket.go), and
// to AWS SDKs over loopback (container.go). What a lease is in the words of a
// tool is in forms.go. Beside the containers of a pod it keeps all credentials in
// files (shelf.go) and says when they are there (ready.go). At its end it gives
// everything back.
package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/plugins/runner"
)

// Variable names the socket of the job's agent.
const Variable = "BREVET_AGENT"

// Those by which AWS SDKs find the endpoint for containers, and what they must
// send to it.
const (
	awsURI       = "AWS_CONTAINER_CREDENTIALS_FULL_URI"
	awsTokenFile = "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"
)

// A Session is a [runner.Session] with one lease.
type Session interface {
	Keep(context.Context, runner.Renewals)
	KeepAlive(context.Context, func(error))
	End(context.Context) error
}

// Options say what an agent hands out, and where.
type Options struct {
	Credentials []string // what may be asked for
	AWS         string   // the one of them that AWS SDKs get by themselves; "": none

	// Dir is the folder for the socket: this user's, of mode 0700, made if it
	// is not there. "": a new one, under XDG_RUNTIME_DIR or TMPDIR.
	Dir string
	Env runner.Env

	// Listen is the address for AWS SDKs, on loopback. "": 127.0.0.1, any port.
	// TokenFile is where that is which they must send, with the mode TokenMode; "":
	// in Dir, with mode 0600.
	Listen    string
	TokenFile string
	TokenMode fs.FileMode

	// Files have the values of all Credentials, which are leased when the agent is
	// served and not when a tool asks. nil: none.
	Files *runner.Files

	// Ready is the path of a file that is there as long as all Credentials are, in
	// Files, too; they are leased as with Files. "": none.
	Ready string

	// Open makes an exchange for one credential. Its errors are Failures. If
	// ctx ends meanwhile it may return a session, which the agent ends.
	Open func(ctx context.Context, credential string) (*api.Lease, Session, error)

	// Learn is told of each lease, and each renewed one, before it is handed
	// out; if it returns an error nobody gets it. nil: nothing is to be learned.
	// It is called by several goroutines.
	Learn func(api.Lease) error

	// Wait bounds the time in which a tool gets an answer; more than Open takes.
	Wait time.Duration

	// Tell hears of trouble that nobody may be waiting for. It may block.
	Tell func(error)
}

// An Agent is a running agent. Make it with [Listen].
type Agent struct {
	o       Options
	dir     string
	made    bool // dir, by this agent
	socket  net.Listener
	web     net.Listener // nil: no endpoint for AWS
	bearer  api.Secret   // what web wants to see
	holders map[string]*holder
	changed chan struct{} // has one when a holder has something else

	news    chan error     // for o.Tell; what does not fit is only kept
	running sync.WaitGroup // exchanges, and what looks after their leases
	stop    chan struct{}  // closed when the agent shall end
	stopped func()         // closes stop
	ended   chan struct{}  // closed when all is given back, or cannot be

	mu       sync.Mutex
	ending   bool // nothing begins any more
	sessions []Session
	told     []string // the latest of what Tell was told
	problem  error    // of the end; set before ended is closed
	failed   error    // why it ended by itself
}

// maxTold bounds what is kept for [Stop] to tell.
const maxTold = 20

// Listen makes an agent that can be asked, and is not served yet. Its errors are
// Failures.
func Listen(o Options) (*Agent, error) {
	a := &Agent{
		o: o, holders: map[string]*holder{}, changed: make(chan struct{}, 1), news: make(chan error, maxTold), stop: make(chan struct{}), ended: make(chan struct{}),
	}
	if o.Learn == nil {
		a.o.Learn = func(api.Lease) error { return nil }
	}
	a.stopped = sync.OnceFunc(func() { close(a.stop) })
	for _, name := range o.Credentials {
		a.holders[name] = &holder{agent: a, name: name}
	}
	if o.AWS != "" && a.holders[o.AWS] == nil {
		return nil, failf(runner.Misconfigured, "", "the credential %s for AWS is not among those that the agent hands out", o.AWS)
	}
	if err := checkLoopback(o.Listen); err != nil {
		return nil, err
	}
	err := a.open()
	if err == nil {
		return a, nil
	}
	a.Close()
	if _, ok := errors.AsType[*runner.Failure](err); ok {
		return nil, err
	}
	return nil, failf(runner.Misconfigured, "give --dir a folder of this user's own, of mode 0700, with a short path", "%w", err)
}

// open makes the folder and listens.
func (a *Agent) open() (err error) {
	if a.dir, a.made, err = folder(a.o.Dir, a.o.Env); err != nil {
		return err
	}
	if a.socket, err = listenUnix(a.socketPath()); err != nil {
		return err
	}
	if a.o.AWS != "" {
		err = a.openWeb()
	}
	if err == nil && a.o.Ready != "" {
		err = ClearReady(a.o.Ready)
	}
	return err
}

// openWeb listens for AWS SDKs, and only then says what they must send: where
// another agent has the port, they go on sending what that one wants.
func (a *Agent) openWeb() (err error) {
	if a.web, err = net.Listen("tcp", cmp.Or(a.o.Listen, "127.0.0.1:0")); err != nil {
		return failf(runner.Misconfigured, "", "listening for AWS SDKs: %w", err)
	}
	a.bearer = newBearer()
	if err := writeWhole(a.bearerPath(), a.bearer.Reveal(), cmp.Or(a.o.TokenMode, 0o600)); err != nil {
		return fmt.Errorf("writing what AWS SDKs must send: %w", err)
	}
	return nil
}

func (a *Agent) socketPath() string { return filepath.Join(a.dir, "agent.sock") }
func (a *Agent) bearerPath() string { return cmp.Or(a.o.TokenFile, filepath.Join(a.dir, "aws-token")) }

// folder returns the folder for the socket, and whether it was made.
func folder(dir string, env runner.Env) (string, bool, error) {
	if dir == "" {
		base := env.Get("XDG_RUNTIME_DIR")
		if base == "" {
			base = env.Get("TMPDIR")
		}
		dir, err := os.MkdirTemp(base, "brevet-agent-") // of mode 0700
		if err != nil {
			return "", false, fmt.Errorf("making a folder for the agent: %w", err)
		}
		return dir, true, checkPrivate(dir)
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", false, fmt.Errorf("finding the agent's folder: %w", err)
	}
	err = os.Mkdir(dir, 0o700)
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return "", false, fmt.Errorf("making the agent's folder: %w", err)
	}
	return dir, err == nil, checkPrivate(dir)
}

// listenUnix listens at path. What an agent that was killed has left there is
// removed.
func listenUnix(path string) (net.Listener, error) {
	if conn, err := net.Dial("unix", path); err == nil {
		return nil, errors.Join(fmt.Errorf("an agent runs already at %s; brevet agent stop ends it", path), conn.Close())
	}
	if info, err := os.Lstat(path); err == nil && info.Mode().Type() == fs.ModeSocket {
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("removing what is left of another agent: %w", err)
		}
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listening for tools: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("closing the socket to others: %w", err), l.Close())
	}
	return l, nil
}

// Variables returns what tells tools of the agent.
func (a *Agent) Variables() runner.Env {
	env := runner.Env{Variable + "=" + a.socketPath()}
	if a.web != nil {
		env = append(env, awsURI+"=http://"+a.web.Addr().String()+awsPath+url.PathEscape(a.o.AWS), awsTokenFile+"="+a.bearerPath())
	}
	return env
}

// Serve hands out leases until ctx ends or [Stop] asks for the end; see [Agent.Failed],
// too. Then it revokes what ends with the job; the error tells that it could not.
func (a *Agent) Serve(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go a.pass()
	var serving sync.WaitGroup
	serving.Go(func() { a.accept(ctx, a.socket, a.answerTool) })
	if a.web != nil {
		serving.Go(func() { a.accept(ctx, a.web, a.answerAWS) })
	}
	var keeping sync.WaitGroup
	if a.o.Files != nil || a.o.Ready != "" {
		keeping.Go(func() { a.fail(newShelf(a).run(ctx)) })
	}
	select {
	case <-ctx.Done():
	case <-a.stop:
	}
	a.stopped()
	a.close()
	cancel()
	keeping.Wait()
	a.o.Files.Remove() // the caller's own call tells what went wrong
	err := a.giveBack(context.WithoutCancel(ctx))
	a.remove()
	a.mu.Lock()
	a.problem = err
	a.mu.Unlock()
	close(a.ended)
	serving.Wait()
	return err
}

// fail ends the agent for err, if that is one.
func (a *Agent) fail(err error) {
	if err == nil {
		return
	}
	a.mu.Lock()
	a.failed = err
	a.mu.Unlock()
	a.stopped()
}

// Failed returns why Serve ended before it was told to: that its files, or a
// credential for them, cannot be. nil: it did not. Its errors are Failures.
func (a *Agent) Failed() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.failed
}

// Close ends an agent that is not served.
func (a *Agent) Close() {
	a.close()
	a.remove()
}

// close takes the agent out of reach.
func (a *Agent) close() {
	if a.socket != nil {
		a.socket.Close() // and removes it
	}
	if a.web != nil {
		a.web.Close()
	}
}

// remove removes what is left of the agent, when it has given back all it had.
// What cannot be removed does no harm.
func (a *Agent) remove() {
	if !a.bearer.IsZero() {
		os.Remove(a.bearerPath())
	}
	if a.made {
		os.Remove(a.dir) // if nothing of others is in it
	}
}

// giveBack revokes all sessions, those that are on their way as soon as they
// have come.
func (a *Agent) giveBack(ctx context.Context) error {
	a.mu.Lock()
	a.ending = true
	a.mu.Unlock()
	known := a.endAll(ctx, a.take())
	a.running.Wait()
	return errors.Join(known(), a.endAll(ctx, a.take())())
}

// endAll ends sessions, all at once; wait returns when they have.
func (a *Agent) endAll(ctx context.Context, sessions []Session) (wait func() error) {
	problems := make([]error, len(sessions))
	var ending sync.WaitGroup
	for i, s := range sessions {
		ending.Go(func() { problems[i] = s.End(ctx) })
	}
	return func() error { ending.Wait(); return errors.Join(problems...) }
}

// notice makes the shelf look.
func (a *Agent) notice() {
	select {
	case a.changed <- struct{}{}:
	default: // it will
	}
}

// begin runs f in a goroutine that the agent's end waits for. It reports false if
// that has come.
func (a *Agent) begin(f func()) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.ending {
		a.running.Go(f)
	}
	return !a.ending
}

// take returns the sessions to end.
func (a *Agent) take() []Session {
	a.mu.Lock()
	defer a.mu.Unlock()
	sessions := a.sessions
	a.sessions = nil
	return sessions
}

// adopt makes s end with the agent.
func (a *Agent) adopt(s Session) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.sessions = append(a.sessions, s)
}

// tell tells of trouble, and keeps it for Stop.
func (a *Agent) tell(err error) {
	a.mu.Lock()
	a.told = append(a.told, err.Error())
	if len(a.told) > maxTold {
		a.told = slices.Delete(a.told, 0, len(a.told)-maxTold)
	}
	a.mu.Unlock()
	select {
	case a.news <- err:
	default:
	}
}

// pass passes on what is told. It has a goroutine of its own, which nobody waits
// for: whoever reads stderr may not.
func (a *Agent) pass() {
	for {
		select {
		case err := <-a.news:
			a.o.Tell(err)
		case <-a.ended:
			return
		}
	}
}

// Withdraw has a credential not handed out any more, because of err, a Failure.
func (a *Agent) Withdraw(credential string, err error) {
	if h, ok := a.holders[credential]; ok {
		h.withdraw(err)
	}
}

// lease returns the lease of a credential, with time left.
func (a *Agent) lease(ctx context.Context, credential string) (*api.Lease, error) {
	h, ok := a.holders[credential]
	if !ok {
		return nil, failf(runner.Misconfigured, "name it in --credential where the agent is started",
			"the agent does not hand out %s, but %s", runner.Printable(credential), strings.Join(a.o.Credentials, ", "))
	}
	return h.get(ctx, a.o.Wait)
}

func failf(kind runner.Kind, hint, format string, args ...any) error {
	return &runner.Failure{Kind: kind, Err: fmt.Errorf(format, args...), Hint: hint}
}
