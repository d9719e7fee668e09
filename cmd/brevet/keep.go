package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/plugins/runner"
	"github.com/brevet-dev/brevet/plugins/runner/mask"
)

// A keeper keeps a command's credentials alive. New values reach it in its files
// only: an environment cannot be changed from outside.
type keeper struct {
	p       *program
	o       *execOptions
	command *runner.Command
	signals *runner.Signals
	leases  []api.Lease        // with the values of now
	values  []runner.Sensitive // all that the command ever had
	leaks   *runner.Leaks      // where the command printed one
	untold  error              // why the broker does not know of all leaks; nil: it does

	mu     sync.Mutex
	failed error // what the command's status must tell of; nil: nothing
}

// prepare gives the command its environment and the content of its files, and
// returns the masks for it.
func (k *keeper) prepare() (*mask.Masker, error) {
	if err := k.command.Files.Fill(k.leases); err != nil {
		return nil, err
	}
	var err error
	k.command.Env, err = k.p.env.ForChild(k.leases, runner.Wishes{Files: k.command.Files, Pass: k.o.pass})
	if err != nil {
		return nil, err
	}
	tells, err := leased(k.command.Env, k.leases, k.o.files)
	if err != nil {
		return nil, err
	}
	k.command.Env = append(k.command.Env, tells)
	return k.masker(k.leases)
}

// masker returns the masks for all values so far, and those of leases.
func (k *keeper) masker(leases []api.Lease) (*mask.Masker, error) {
	k.values = append(k.values, runner.SensitiveValues(leases)...)
	masker, err := newMasker(k.values, k.o.short)
	if err == nil {
		k.leaks.Know(masker, k.values)
	}
	return masker, err
}

// reportLeaks tells the broker what the command printed, before it gives the leases
// back. That it could not is not the job's fault, and is told after that: whoever
// reads stderr may not.
func (k *keeper) reportLeaks(ctx context.Context, session *runner.Session) {
	_, k.untold = k.leaks.Report(ctx, session)
}

// start begins heartbeats, renewals, and the reports of what a policy wants to hear
// of at once. They end with rest, which waits for that,
// but not longer than it is told to.
func (k *keeper) start(ctx context.Context, session *runner.Session) (rest func(time.Duration)) {
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	running.Go(func() {
		session.KeepAlive(ctx, func(err error) { k.p.report("warning", err.Error()) })
	})
	running.Go(func() {
		k.leaks.Watch(ctx, func() []*runner.Session { return []*runner.Session{session} }, func(err error) { k.p.report("warning", err.Error()) })
	})
	if !k.o.noRenew {
		running.Go(func() {
			session.Keep(ctx, runner.Renewals{Again: k.command.Files.Uses, Changed: k.changed, Failed: k.tell})
		})
	}
	done := make(chan struct{})
	go func() { running.Wait(); close(done) }()
	return func(within time.Duration) {
		cancel()
		select {
		case <-done:
		case <-time.After(within): // it is telling, and nobody reads stderr
		}
	}
}

// changed masks the new values of a lease, and then puts them into the files.
func (k *keeper) changed(l api.Lease) error {
	i := slices.IndexFunc(k.leases, func(old api.Lease) bool { return old.Credential == l.Credential })
	same := maps.EqualFunc(k.leases[i].Values, l.Values, func(a, b api.Secret) bool { return a.Reveal() == b.Reveal() })
	if !same && !k.command.Files.Uses(l.Credential) {
		return &runner.Failure{Kind: runner.Misconfigured, Err: errors.New("the command has the old value in its environment, which cannot be changed; let a file hold it (--file)")}
	}
	leases := slices.Clone(k.leases)
	leases[i] = l
	if !same {
		masker, err := k.masker([]api.Lease{l})
		if err == nil {
			k.command.Extend(masker)
			err = k.command.Files.Fill(leases)
		}
		if err != nil {
			return err
		}
	}
	k.leases = leases
	return nil
}

// tell tells of a renewal that failed, and sees to it if the lease is lost.
func (k *keeper) tell(l api.Lease, err error, lost bool) {
	if !lost {
		k.p.report("warning", err.Error()+"; it is tried again")
		return
	}
	left := time.Until(l.ExpiresAt)
	end := "what the command has of it has ended"
	if left > 0 {
		end = "what the command has of it ends at " + l.ExpiresAt.UTC().Format(time.RFC3339)
	}
	k.p.report("warning", err.Error()+"; "+end)
	if k.o.onRenewFailure == "warn" {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.failed = err
	if k.o.onRenewFailure == "kill" {
		time.AfterFunc(max(0, left), k.signals.End)
	}
}

// judge makes exec fail where the command did not, but lost a credential.
func (k *keeper) judge(status int, err error) (int, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.failed == nil || err != nil {
		return status, err
	}
	switch {
	case status != 0:
	case errors.Is(k.failed, runner.ErrNoMore): // the policies' word
		status = exitDenied
	default:
		status = statusOf(k.failed)
	}
	return status, fmt.Errorf("a credential ended while the command ran: %w", k.failed)
}

// newMasker makes the masks for values. It refuses one that cannot be masked,
// unless short names it.
func newMasker(sensitive []runner.Sensitive, short []string) (*mask.Masker, error) {
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
