package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/brevet-dev/brevet/plugins/exchange"
	"github.com/brevet-dev/brevet/plugins/runner"
)

const (
	// restTime bounds the wait for a heartbeat or a renewal that is told to
	// stop; patience that for an exchange on its way.
	restTime = time.Second
	patience = 10 * time.Second

	// noticeTime is how long brevet waits for an exchange before it says so.
	noticeTime = time.Second
)

// exec runs a command with credentials: find it, make one exchange, prepare its
// environment, files and masks, run it, with renewals and heartbeats meanwhile,
// revoke. What ends with the run only is left to it, once the command has had it.
func (p *program) exec(ctx context.Context, args []string) (status int, err error) {
	o, err := p.execFlags(args)
	if err != nil {
		return statusOf(err), err
	}
	command := &runner.Command{Args: o.argv, Stdin: p.stdin, Stdout: p.stdout, Stderr: p.stderr, KillAfter: o.killAfter}
	if err := command.Find(); err != nil {
		return runner.FindStatus(err), err
	}
	if command.Files, err = runner.OpenFiles(o.files, p.env); err != nil {
		return statusOf(err), err
	}
	defer func() { p.tellRemoved(command.Files.Remove()) }()
	signals := runner.Catch()
	defer signals.Stop()
	session, err := p.open(ctx, signals, o.Options)
	if err != nil {
		return p.dying(err), err
	}
	since := time.Now()
	giveBack, kept := session.Revoke, []string(nil) // nobody had what the command did not have
	revoke := sync.OnceValue(func() error { return giveBack(ctx) })
	defer func() { p.tellRevoked(revoke()) }()

	k := &keeper{p: p, o: o, command: command, signals: signals, leases: session.Answer.Leases, leaks: runner.NewLeaks()}
	command.Hits = k.leaks.Hits
	masker, err := k.prepare()
	if err != nil {
		return statusOf(err), err
	}
	p.raw.Store(command.OwnsTerminal())
	rest := k.start(ctx, session)
	defer rest(restTime)
	status, err = command.Run(ctx, masker, signals, func() {
		rest(restTime)
		k.reportLeaks(ctx, session)
		giveBack, kept = session.End, session.OfRun()
		revoke()
	})
	p.raw.Store(false)
	signals.Stop() // whoever reads stderr may have stopped: a signal then ends brevet
	rest(patience) // an exchange that was on its way has to be given back
	p.summarize(session.Answer.Leases, since, revoke())
	k.tellEnd(kept)
	p.died = command.Died()
	return k.judge(p.judge(status, err))
}

// tellEnd tells what a command did that has ended, and of the credentials whose
// leases were kept.
func (k *keeper) tellEnd(kept []string) {
	k.p.tellLeaks(k.leaks, k.untold)
	if len(kept) > 0 {
		k.p.report("note", "the leases of "+strings.Join(kept, ", ")+" are of scope run: they end by their TTL, or by brevet revoke --run")
	}
	if k.command.LeftBehind() {
		k.p.report("note", "processes that the command left behind were ended, as their credentials are")
	}
}

// tellLeaks tells what a command printed, and why the broker was not told of it.
func (p *program) tellLeaks(leaks *runner.Leaks, untold error) {
	if untold != nil {
		p.report("warning", untold.Error())
	}
	for _, line := range leaks.Describe() {
		p.report("warning", line)
	}
}

// dying returns the exit status for an error, and lets brevet die of a signal if
// that is what it tells of.
func (p *program) dying(err error) int {
	if i, ok := errors.AsType[runner.Interrupted](err); ok {
		p.died = i.Signal
	}
	return statusOf(err)
}

// tellRemoved tells that files with values are still there.
func (p *program) tellRemoved(err error) {
	if err != nil {
		p.report("warning", "removing files with values, which may still be there: "+err.Error())
	}
}

// judge turns what Run says into exec's exit status and error. Output that is
// lost makes exec fail where the command did not.
func (p *program) judge(status int, err error) (int, error) {
	interrupted, ok := errors.AsType[runner.Interrupted](err)
	_, failed := errors.AsType[*runner.Failure](err)
	switch {
	case err == nil:
		return status, nil
	case failed: // it did not run
		return statusOf(err), err
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

// execOptions are what exec is asked for.
type execOptions struct {
	runner.Options
	argv, short, pass []string
	files             []runner.FileWish
	killAfter         time.Duration
	noRenew           bool
	onRenewFailure    string // warn, fail or kill
}

// execFlags reads exec's flags and environment.
func (p *program) execFlags(args []string) (*execOptions, error) {
	o := &execOptions{}
	f := flags("exec")
	p.connection(f, &o.Options)
	ttl := p.wanted(f)
	credentials := f.String("credential", p.env.Get("BREVET_CREDENTIALS"), "")
	names(f, "allow-short", &o.short)
	names(f, "pass", &o.pass)
	declareContext(f, &o.Context)
	f.Func("file", "", func(s string) error { return o.addFile(s, "") })
	f.Func("format", "", func(s string) error { return o.addFormat(s) })
	f.DurationVar(&o.killAfter, "kill-after", 0, "")
	f.BoolVar(&o.noRenew, "no-renew", false, "")
	f.StringVar(&o.onRenewFailure, "on-renew-failure", "warn", "")
	if err := f.Parse(args); err != nil {
		return nil, usagef("exec: %w", err)
	}
	o.argv, o.Credentials = f.Args(), splitNames(*credentials)
	var err error
	if o.TTL, err = parseTTL(*ttl); err != nil {
		return nil, err
	}
	return o, o.check()
}

// names declares a flag with names, which may be repeated.
func names(f *flag.FlagSet, name string, to *[]string) {
	f.Func(name, "", func(s string) error { *to = append(*to, splitNames(s)...); return nil })
}

// addFormat reads NAME=TEMPLATE.
func (o *execOptions) addFormat(s string) error {
	_, template, ok := strings.Cut(s, "=")
	if !ok || template == "" {
		return errors.New("it is not NAME=TEMPLATE")
	}
	return o.addFile(s, template)
}

// addFile reads NAME=PATH; with a template the file gets its name.
func (o *execOptions) addFile(s, template string) error {
	name, path, ok := strings.Cut(s, "=")
	if !ok || path == "" {
		return errors.New("it is not NAME=PATH")
	}
	if template != "" {
		path = filepath.Base(template)
	}
	if slices.ContainsFunc(o.files, func(w runner.FileWish) bool { return w.Variable == name }) {
		return fmt.Errorf("%s is given twice", name)
	}
	o.files = append(o.files, runner.FileWish{Variable: name, Path: path, Template: template})
	return nil
}

func (o *execOptions) check() error {
	switch {
	case len(o.argv) == 0:
		return usagef("exec: no command; write it after --")
	case o.killAfter < 0:
		return usagef("exec: --kill-after must be a duration above 0, such as 10s")
	case !slices.Contains([]string{"warn", "fail", "kill"}, o.onRenewFailure):
		return usagef("exec: --on-renew-failure is warn, fail or kill")
	}
	for _, credential := range o.Credentials {
		if slices.ContainsFunc(o.argv, func(arg string) bool { return refersTo(arg, credential) }) {
			return &runner.Failure{
				Kind: runner.Misconfigured,
				Err:  fmt.Errorf("an argument of the command has {{%s.…}} in it, which is never replaced there: every process of the machine can read arguments", runner.Printable(credential)),
				Hint: "let the command read the value from its environment, or from a file: --file, --format",
			}
		}
	}
	return nil
}

// refersTo reports whether arg has a reference to a value of credential, as
// templates have them.
func refersTo(arg, credential string) bool {
	for _, part := range strings.Split(arg, "{{")[1:] {
		if strings.HasPrefix(strings.TrimLeft(part, " \t"), credential+".") {
			return true
		}
	}
	return false
}

// open makes the exchange, unless a signal that ends a program comes first.
func (p *program) open(ctx context.Context, signals *runner.Signals, o runner.Options) (*runner.Session, error) {
	ctx, release := signals.Context(ctx)
	defer release()
	return p.openWithin(ctx, o)
}

// openWithin makes the exchange, unless a signal ends ctx first.
func (p *program) openWithin(ctx context.Context, o runner.Options) (*runner.Session, error) {
	notice := time.AfterFunc(noticeTime, func() {
		p.report("note", fmt.Sprintf("no answer yet; it is tried for %s in all", o.Timeout))
	})
	session, err := runner.Open(ctx, o, p.env)
	notice.Stop()
	interrupted, ok := errors.AsType[runner.Interrupted](context.Cause(ctx))
	if !ok {
		return session, err
	}
	if session != nil {
		p.tellRevoked(session.Revoke(ctx))
	}
	if errors.Is(err, exchange.ErrUnanswered) {
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
