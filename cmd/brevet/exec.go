package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/plugins/runner"
	"github.com/brevet-dev/brevet/plugins/runner/mask"
)

// exec runs a command with credentials: find it, make one exchange, prepare its
// environment and the masks, run it, revoke.
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
	revoke := sync.OnceValue(func() error { return session.Revoke(ctx) })
	defer func() { p.tellRevoked(revoke()) }()

	command.Env, err = p.env.ForChild(session.Answer.Leases)
	if err != nil {
		return statusOf(err), err
	}
	masker, err := newMasker(session.Answer.Leases, short)
	if err != nil {
		return statusOf(err), err
	}
	status, err := command.Run(ctx, masker, signals, func() { revoke() })
	signals.Stop() // whoever reads stderr may have stopped: a signal then ends brevet
	return p.judge(status, err)
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
