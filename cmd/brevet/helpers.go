package main

import (
	"context"
	"flag"
	"fmt"
	"time"

	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/plugins/runner"
	"github.com/brevet-dev/brevet/plugins/runner/agent"
)

// programName is brevet's own.
const programName = "brevet"

// The names under which docker and git start brevet.
const (
	dockerName = "docker-credential-brevet"
	gitName    = "git-credential-brevet"
)

// helperCommand returns what a command does that tools run to get a credential; nil:
// there is none of that name.
func (p *program) helperCommand(name string) func(context.Context, []string) (int, error) {
	switch name {
	case "aws-credential-process":
		return p.awsProcess
	case "docker-credential":
		return p.dockerCredential
	case "git-credential":
		return p.gitCredential
	case "kube-credential":
		return p.kubeCredential
	case "gcp-credential":
		return p.gcpCredential
	}
	return nil
}

// helperOf returns the command that name, which brevet was called by, stands for.
func helperOf(name string) (command string, ok bool) {
	switch name {
	case dockerName:
		return "docker-credential", true
	case gitName:
		return "git-credential", true
	}
	return "", false
}

// answerWait is what is added to the time of an exchange for the agent's answer.
const answerWait = 5 * time.Second

// A helper is one call by a tool.
type helper struct {
	*program
	o runner.Options
}

// helper reads the flags of a helper's call.
func (p *program) helper(name string, args []string) (*helper, *flag.FlagSet, error) {
	h := &helper{program: p}
	f := flags(name)
	p.connection(f, &h.o)
	ttl := p.wanted(f)
	if err := f.Parse(args); err != nil {
		return nil, nil, usagef("%s: %w", name, err)
	}
	var err error
	h.o.TTL, err = parseTTL(*ttl)
	return h, f, err
}

// give gets a lease of credential and prints it as form says: from the job's
// agent, or without one by an exchange of this call's own. Such a lease lives
// until its end, as one of brevet get does: the tool is about to use it. It is
// revoked if the tool cannot.
func (h *helper) give(ctx context.Context, credential string, form func(api.Lease) ([]byte, error)) error {
	if socket := h.env.Get(agent.Variable); socket != "" {
		ctx, cancel := context.WithTimeout(ctx, h.o.Timeout+answerWait)
		defer cancel()
		lease, err := agent.Ask(ctx, socket, credential)
		if err != nil {
			return err
		}
		return h.printForm(*lease, form)
	}
	h.o.Credentials = []string{credential}
	signals := runner.Catch()
	defer signals.Stop()
	session, err := h.open(ctx, signals, h.o)
	if err != nil {
		return err
	}
	lease := session.Answer.Leases[0]
	if lease.Heartbeat > 0 {
		err = &runner.Failure{
			Kind: runner.Misconfigured, Err: fmt.Errorf("the lease of %s ends unless heartbeats are sent", runner.Printable(credential)),
			Hint: "run an agent, which sends them: brevet agent start",
		}
	} else {
		err = h.printForm(lease, form)
	}
	if err != nil {
		h.tellRevoked(session.Revoke(ctx))
	}
	return err
}

func (h *helper) printForm(lease api.Lease, form func(api.Lease) ([]byte, error)) error {
	text, err := form(lease)
	if err != nil {
		return err
	}
	if _, err := h.stdout.Write(append(text, '\n')); err != nil {
		return outputError{fmt.Errorf("printing the credential: %w", err)}
	}
	return nil
}

// giveNamed is the whole of a helper whose one argument is a credential.
func (p *program) giveNamed(ctx context.Context, name string, args []string, form func(api.Lease) ([]byte, error)) error {
	h, f, err := p.helper(name, args)
	if err == nil && f.NArg() != 1 {
		err = usagef("%s: write  brevet %s [flags] CREDENTIAL", name, name)
	}
	if err != nil {
		return err
	}
	return h.give(ctx, f.Arg(0), form)
}

// awsProcess is a credential_process of AWS SDKs.
func (p *program) awsProcess(ctx context.Context, args []string) (int, error) {
	err := p.giveNamed(ctx, "aws-credential-process", args, agent.AWSProcess)
	return statusOf(err), err
}

// kubeCredential is a command of a kubeconfig's exec.
func (p *program) kubeCredential(ctx context.Context, args []string) (int, error) {
	err := p.giveNamed(ctx, "kube-credential", args, func(l api.Lease) ([]byte, error) {
		return agent.Kubernetes(l, p.env.Get("KUBERNETES_EXEC_INFO"))
	})
	return statusOf(err), err
}

// gcpCredential is an executable of an external account of Google's. What goes
// wrong is told in its output, and with status 0: its caller shows it only so.
func (p *program) gcpCredential(ctx context.Context, args []string) (int, error) {
	err := p.giveNamed(ctx, "gcp-credential", args, func(l api.Lease) ([]byte, error) {
		return agent.Google(l, p.env.Get("GOOGLE_EXTERNAL_ACCOUNT_TOKEN_TYPE"))
	})
	if err == nil || statusOf(err) == exitUsage || statusOf(err) == exitOutput {
		return statusOf(err), err
	}
	text, encoding := agent.GoogleError(err)
	if encoding == nil {
		_, encoding = p.stdout.Write(append(text, '\n'))
	}
	p.report("error", err.Error())
	p.report("hint", hint(err))
	return statusOf(encoding), encoding
}

// maxAsked in bytes bounds what docker and git say they want.
const maxAsked = 64 << 10
