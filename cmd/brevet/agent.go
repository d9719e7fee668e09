package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/plugins/runner"
	"github.com/brevet-dev/brevet/plugins/runner/agent"
)

// agentFlags are those of all forms of brevet agent that run one.
type agentFlags struct {
	o        runner.Options
	aws, dir string
	format   string
	parent   int           // process with whose end the agent ends; 0: none
	lifetime time.Duration // after which it ends; 0: without end
	volume   volume        // of agent serve
}

// agent runs the job's agent, or ends it.
func (p *program) agent(ctx context.Context, args []string) (int, error) {
	if len(args) > 0 {
		switch args[0] {
		case "start":
			return p.agentStart(args[1:])
		case "serve":
			return p.agentServe(ctx, args[1:])
		case "stop":
			return p.agentStop(ctx, args[1:])
		case "ready":
			return p.agentReady(args[1:])
		}
	}
	return p.agentRun(ctx, args)
}

// agentFlags reads flags, and returns the arguments after them.
func (p *program) agentFlags(name string, args []string) (a agentFlags, rest []string, err error) {
	f := flags(name)
	p.connection(f, &a.o)
	ttl := p.wanted(f)
	credentials := f.String("credential", p.env.Get("BREVET_CREDENTIALS"), "")
	f.StringVar(&a.aws, "aws", "", "")
	f.StringVar(&a.dir, "dir", "", "")
	f.StringVar(&a.format, "format", "env", "")
	f.IntVar(&a.parent, "parent", 0, "")
	f.DurationVar(&a.lifetime, "lifetime", 0, "")
	keyFile := f.String("key-file", p.env.Get(runner.KeyFileVariable), "")
	if name == serveName {
		a.volume.declare(f)
	}
	if err := f.Parse(args); err != nil {
		return a, nil, usagef("%s: %w", name, err)
	}
	if *keyFile != "" {
		p.env = append(slices.Clip(p.env), runner.KeyFileVariable+"="+*keyFile)
	}
	a.o.Credentials = splitNames(*credentials)
	a.o.TTL, err = parseTTL(*ttl)
	if err == nil {
		err = a.check(name)
	}
	return a, f.Args(), err
}

// serveName is the form of brevet agent that files are for.
const serveName = "agent serve"

func (a *agentFlags) check(name string) error {
	if _, err := formatVariables(nil, a.format); err != nil {
		return err
	}
	if err := runner.CheckNames(a.o.Credentials); err != nil {
		return err
	}
	if a.parent < 0 || a.lifetime < 0 {
		return usagef("%s: --parent and --lifetime must be above 0", name)
	}
	return a.volume.check(a)
}

// listen makes the agent. Nothing is asked of the broker before a tool needs it.
// w hears of what is handed out; nil: nobody.
func (p *program) listen(a agentFlags, files *runner.Files, w *witness) (*agent.Agent, error) {
	if err := runner.CheckBroker(a.o.Broker); err != nil {
		return nil, err
	}
	return agent.Listen(agent.Options{
		Credentials: a.o.Credentials, AWS: a.aws, Dir: a.dir, Env: p.env, Files: files, Ready: a.volume.ready,
		Listen: a.volume.listen, TokenFile: a.volume.tokenFile, TokenMode: a.volume.mode,
		Learn: w.learn, Wait: a.o.Timeout + 2*time.Second,
		Open: func(ctx context.Context, credential string) (*api.Lease, agent.Session, error) {
			o := a.o
			o.Credentials = []string{credential}
			session, err := runner.Open(ctx, o, p.env)
			if session == nil {
				return nil, nil, err
			}
			w.meet(session)
			return &session.Answer.Leases[0], session, err
		},
		Tell: func(err error) { p.report("warning", err.Error()) },
	})
}

// agentServe runs an agent until it is told to end. When it can be asked it
// prints the variables that tell tools of it, and an empty line.
func (p *program) agentServe(ctx context.Context, args []string) (int, error) {
	a, rest, err := p.agentFlags(serveName, args)
	if err == nil && len(rest) > 0 {
		err = usagef("agent serve: it takes no arguments")
	}
	if err != nil {
		return statusOf(err), err
	}
	if a.volume.once {
		return p.agentOnce(ctx, a)
	}
	files, err := a.volume.open()
	if err != nil {
		return statusOf(err), err
	}
	defer func() { p.tellRemoved(files.Remove()) }()
	signals := runner.Catch()
	defer signals.Stop()
	ctx, release := signals.Context(ctx)
	defer release()
	ctx, cancel := a.bounded(ctx)
	defer cancel()
	served, err := p.listen(a, files, nil)
	if err != nil {
		return statusOf(err), err
	}
	text, err := formatVariables(served.Variables(), a.format)
	if err == nil {
		_, err = io.WriteString(p.stdout, text+"\n")
	}
	if err != nil {
		served.Close()
		return statusOf(err), err
	}
	p.tellRevoked(served.Serve(ctx))
	err = served.Failed()
	return statusOf(err), err
}

// bounded returns a context that ends with the process a.parent, or after
// a.lifetime.
func (a *agentFlags) bounded(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancel(ctx)
	var watching sync.WaitGroup
	if a.parent > 0 || a.lifetime > 0 {
		end := time.Now().Add(a.lifetime)
		watching.Go(func() {
			defer cancel()
			a.watch(ctx, end)
		})
	}
	return ctx, func() { cancel(); watching.Wait() }
}

// watch returns when ctx ends, or the time or the process that a names. Both
// clocks count: one stands still while the machine sleeps, the other may be set.
func (a *agentFlags) watch(ctx context.Context, end time.Time) {
	lives := lives(a.parent)
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for lives() && (a.lifetime == 0 || time.Until(end) > 0 && time.Until(end.Round(0)) > 0) {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// lives returns a function that reports whether a process lives; 0 always does.
// It keeps hold of the process, where the system can: another one of the same
// number is not taken for it.
func lives(pid int) func() bool {
	if pid == 0 {
		return func() bool { return true }
	}
	process, err := os.FindProcess(pid)
	if err != nil {
		return func() bool { return false }
	}
	return func() bool { return isAlive(process) }
}

// agentStart puts an agent into the background and prints the variables that
// tell tools of it.
func (p *program) agentStart(args []string) (int, error) {
	a, rest, err := p.agentFlags("agent start", args)
	switch {
	case err == nil && len(rest) > 0:
		err = usagef("agent start: it takes no arguments; to run a command with an agent write  brevet agent [flags] -- command")
	case err == nil && a.parent == 0 && a.lifetime == 0:
		err = usagef("agent start: say when it ends, if nobody ends it before: with this shell (--parent $$), or after a time (--lifetime 2h)")
	}
	if err != nil {
		return statusOf(err), err
	}
	child, err := p.background(append([]string{"agent", "serve"}, args...))
	if err != nil {
		return statusOf(err), fmt.Errorf("starting the agent: %w", err)
	}
	text, err := child.variables()
	if err != nil {
		return child.failed(p.stderr), nil // it has told why
	}
	if _, err := io.WriteString(p.stdout, text); err != nil {
		return exitOutput, errors.Join(outputError{fmt.Errorf("printing the agent's variables: %w", err)}, child.end())
	}
	return 0, child.release()
}

// variables returns what agent serve prints, up to the empty line.
func (c *background) variables() (string, error) {
	var text strings.Builder
	lines := bufio.NewScanner(c.out)
	for lines.Scan() && lines.Text() != "" {
		text.WriteString(lines.Text() + "\n")
	}
	if text.Len() == 0 {
		return "", errors.New("the agent did not start")
	}
	return text.String(), nil
}

// agentStop ends the job's agent. What went wrong in its time, or at its end, is
// told and fails no job.
func (p *program) agentStop(ctx context.Context, args []string) (int, error) {
	f := flags("agent stop")
	socket := f.String("socket", p.env.Get(agent.Variable), "")
	timeout := f.Duration("timeout", defaultTimeout, "")
	if err := f.Parse(args); err != nil || f.NArg() > 0 {
		err = usagef("agent stop: write  brevet agent stop [--socket PATH] [--timeout D]")
		return statusOf(err), err
	}
	if *socket == "" {
		err := &runner.Failure{Kind: runner.Misconfigured, Err: errors.New("no agent is named"), Hint: "set " + agent.Variable + ", as brevet agent start printed it, or give --socket PATH"}
		return statusOf(err), err
	}
	ctx, cancel := context.WithTimeout(ctx, *timeout)
	defer cancel()
	told, err := agent.Stop(ctx, *socket)
	for _, text := range told {
		p.report("warning", "the agent told: "+text)
	}
	if errors.Is(err, agent.ErrNoAgent) {
		p.report("note", "there was no agent to stop: what it had ends by its TTL, unless it gave it back")
		return 0, nil
	}
	p.tellRevoked(err)
	return 0, nil
}

// agentRun runs a command with an agent around it, and masks what that hands out.
func (p *program) agentRun(ctx context.Context, args []string) (status int, err error) {
	a, argv, err := p.agentFlags("agent", args)
	switch {
	case err == nil && len(argv) == 0:
		err = usagef("agent: no command; write it after --, or  brevet agent start")
	case err == nil && (a.parent != 0 || a.lifetime != 0):
		err = usagef("agent: with a command the agent ends when that does; leave out --parent and --lifetime")
	}
	if err != nil {
		return statusOf(err), err
	}
	command := &runner.Command{Args: argv, Stdin: p.stdin, Stdout: p.stdout, Stderr: p.stderr}
	if err := command.Find(); err != nil {
		return runner.FindStatus(err), err
	}
	if command.Env, err = p.env.ForChild(nil, runner.Wishes{}); err != nil {
		return statusOf(err), err
	}
	signals := runner.Catch()
	defer signals.Stop()
	w := newWitness(command)
	served, err := p.listen(a, nil, w)
	if err != nil {
		return statusOf(err), err
	}
	end := p.serveBeside(ctx, served, w)
	defer end()
	command.Env = append(command.Env, served.Variables()...)
	status, err = p.runMasked(ctx, command, signals, end)
	end()
	p.tellLeaks(w.leaks, w.untold)
	return status, err
}

// runMasked runs a command of which nothing is to be masked yet.
func (p *program) runMasked(ctx context.Context, command *runner.Command, signals *runner.Signals, end func()) (int, error) {
	masker, err := newMasker(nil, nil)
	if err != nil {
		return statusOf(err), err
	}
	p.raw.Store(command.OwnsTerminal())
	status, err := command.Run(ctx, masker, signals, end)
	p.raw.Store(false)
	signals.Stop()
	p.died = command.Died()
	return p.judge(status, err)
}

// serveBeside serves until end is called, which gives back what the agent has.
// Before that the broker is told of all leaks.
func (p *program) serveBeside(ctx context.Context, served *agent.Agent, w *witness) (end func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- served.Serve(ctx) }()
	go w.watch(ctx, func(err error) { // nobody waits for it: whoever reads stderr may not
		for _, credential := range w.ended() {
			served.Withdraw(credential, err)
		}
		p.report("warning", err.Error())
	})
	return sync.OnceFunc(func() {
		w.report(ctx)
		cancel()
		p.tellRevoked(<-done)
	})
}

// formatVariables returns variables as format says: env, for eval; dotenv; or
// github, for the file that GITHUB_ENV names.
func formatVariables(env runner.Env, format string) (string, error) {
	if !slices.Contains([]string{"env", "dotenv", "github"}, format) {
		return "", usagef("agent: no format %q; there are env, dotenv, github", format)
	}
	var out strings.Builder
	for _, entry := range env {
		name, value, _ := strings.Cut(entry, "=")
		if strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r == 0x7f || r == '\'' || r == '\\' }) {
			return "", &runner.Failure{Kind: runner.Misconfigured, Err: fmt.Errorf("the path in %s has a quote, a backslash or a control character", name), Hint: "give --dir a plainer path"}
		}
		switch format {
		case "env":
			fmt.Fprintf(&out, "export %s='%s'\n", name, value)
		case "dotenv":
			fmt.Fprintf(&out, "%s='%s'\n", name, value)
		case "github":
			fmt.Fprintf(&out, "%s=%s\n", name, value)
		}
	}
	return out.String(), nil
}
