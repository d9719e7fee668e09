package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/plugins/runner"
	"github.com/brevet-dev/brevet/plugins/runner/mask"
)

// restTime bounds the wait for a heartbeat that is told to stop.
const restTime = time.Second

// exec runs a command with credentials: find it, make one exchange, prepare its
// environment and the masks, run it, with heartbeats meanwhile, revoke. What ends
// with the run only is left to it, once the command has had it.
func (p *program) exec(ctx context.Context, args []string) (int, error) {
	o, short, argv, err := p.execFlags(args)
	if err != nil {
		return statusOf(err), err
	}
	command := &runner.Command{Args: argv, Stdin: p.stdin, Stdout: p.stdout, Stderr: p.stderr}
	if err := command.Find(); err != nil {
		return runner.FindStatus(err), err
	}
	signals := runner.Catch()
	defer signals.Stop()
	session, err := p.open(ctx, signals, o)
	if err != nil {
		return statusOf(err), err
	}
	giveBack, kept := session.Revoke, []string(nil) // nobody had what the command did not have
	revoke := sync.OnceValue(func() error { return giveBack(ctx) })
	defer func() { p.tellRevoked(revoke()) }()

	command.Env, err = p.env.ForChild(session.Answer.Leases)
	if err != nil {
		return statusOf(err), err
	}
	masker, err := newMasker(session.Answer.Leases, short)
	if err != nil {
		return statusOf(err), err
	}
	rest := p.keepAlive(ctx, session)
	defer rest()
	status, err := command.Run(ctx, masker, signals, func() {
		rest()
		giveBack, kept = session.End, session.OfRun()
		revoke()
	})
	signals.Stop() // whoever reads stderr may have stopped: a signal then ends brevet
	if len(kept) > 0 {
		p.report("note", "the leases of "+strings.Join(kept, ", ")+" are of scope run: they end by their TTL, or by brevet revoke --run")
	}
	return p.judge(status, err)
}

// keepAlive sends heartbeats beside the command, until rest is called. What goes
// wrong with them is told, and never the command's fault.
func (p *program) keepAlive(ctx context.Context, session *runner.Session) (rest func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		session.KeepAlive(ctx, func(err error) { p.report("warning", err.Error()) })
	}()
	return func() {
		cancel()
		select {
		case <-done:
		case <-time.After(restTime): // it is telling, and nobody reads stderr
		}
	}
}

// judge turns what Run says into exec's exit status and error. Output that is
// lost makes exec fail where the command did not.
func (p *program) judge(status int, err error) (int, error) {
	interrupted, ok := errors.AsType[runner.Interrupted](err)
	switch {
	case err == nil:
		return status, nil
	case errors.Is(err, runner.ErrHeldOpen):
		p.report("warning", err.Error())
		return status, nil
	case ok: // whoever reads stderr may be the one who does not read
		if status == 0 {
			status = interrupted.Status()
		}
		return status, nil
	case status == 0:
		status = exitOutput
	}
	return status, err
}

// execFlags reads exec's flags and environment.
func (p *program) execFlags(args []string) (o runner.Options, short, argv []string, err error) {
	f := flags("exec")
	p.connection(f, &o)
	ttl := p.wanted(f)
	credentials := f.String("credential", p.env.Get("BREVET_CREDENTIALS"), "")
	allowShort := f.String("allow-short", "", "")
	declareContext(f, &o.Context)
	if err := f.Parse(args); err != nil {
		return o, nil, nil, usagef("exec: %w", err)
	}
	if f.NArg() == 0 {
		return o, nil, nil, usagef("exec: no command; write it after --")
	}
	o.Credentials = splitNames(*credentials)
	o.TTL, err = parseTTL(*ttl)
	return o, splitNames(*allowShort), f.Args(), err
}

// open makes the exchange, unless a signal that ends a program comes first.
func (p *program) open(ctx context.Context, signals *runner.Signals, o runner.Options) (*runner.Session, error) {
	ctx, release := signals.Context(ctx)
	defer release()
	return p.openWithin(ctx, o)
}

// openWithin makes the exchange, unless a signal ends ctx first.
func (p *program) openWithin(ctx context.Context, o runner.Options) (*runner.Session, error) {
	session, err := runner.Open(ctx, o, p.env)
	interrupted, ok := errors.AsType[runner.Interrupted](context.Cause(ctx))
	if !ok {
		return session, err
	}
	if session != nil {
		p.tellRevoked(session.Revoke(ctx))
	}
	if errors.Is(err, runner.ErrUnanswered) {
		p.report("warning", err.Error())
	}
	return nil, interrupted
}

// tellRevoked tells that a revocation failed. That is not the job's fault, and
// the leases end by their TTL: a warning, never a failure.
func (p *program) tellRevoked(err error) {
	if err != nil {
		p.report("warning", "revoking the leases, which now end by their TTL: "+err.Error())
	}
}

// newMasker makes the masks for leases. It refuses a sensitive value that
// cannot be masked, unless short names it.
func newMasker(leases []api.Lease, short []string) (*mask.Masker, error) {
	sensitive := runner.SensitiveValues(leases)
	values := make([]api.Secret, len(sensitive))
	for i, s := range sensitive {
		values[i] = s.Value
	}
	masker, refused := mask.New(values)
	var problems, names []string
	for _, r := range refused {
		name := sensitive[r.Index].Name
		if !slices.Contains(short, name) {
			problems = append(problems, fmt.Sprintf("%s (%s)", name, r.Reason))
			names = append(names, name)
		}
	}
	if len(problems) > 0 {
		return nil, &runner.Failure{
			Kind: runner.Misconfigured,
			Err:  errors.New("cannot mask " + strings.Join(problems, ", ")),
			Hint: "to run with it in clear: --allow-short " + strings.Join(names, ","),
		}
	}
	return masker, nil
}
