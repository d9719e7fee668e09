package main

import (
	"context"
	"slices"
	"sync"

	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/plugins/runner"
)

// A witness sees to what the command of brevet agent prints: it masks the values
// that the agent hands out, and reports where they were found. nil: there is no
// command, as beside other containers.
type witness struct {
	command *runner.Command
	leaks   *runner.Leaks
	untold  error // why the broker does not know of all leaks, once it was told; nil: it does

	mu       sync.Mutex
	values   []runner.Sensitive // all that were handed out
	sessions []*runner.Session
}

func newWitness(command *runner.Command) *witness {
	w := &witness{command: command, leaks: runner.NewLeaks()}
	command.Hits = w.leaks.Hits
	return w
}

// learn masks the values of l, from then on, in what the command prints.
func (w *witness) learn(l api.Lease) error {
	if w == nil {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.values = append(w.values, runner.SensitiveValues([]api.Lease{l})...)
	masker, err := newMasker(w.values, nil)
	if err != nil {
		return &runner.Failure{Kind: runner.Misconfigured, Err: err} // without its hint, which is for exec
	}
	w.leaks.Know(masker, w.values)
	w.command.Extend(masker)
	return nil
}

// meet notes a session that the agent has opened.
func (w *witness) meet(s *runner.Session) {
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sessions = append(w.sessions, s)
}

func (w *witness) met() []*runner.Session {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.sessions)
}

// ended returns the credentials whose sessions the broker ended because of leaks.
func (w *witness) ended() (credentials []string) {
	for _, s := range w.met() {
		if s.Leaked() {
			for _, l := range s.Answer.Leases {
				credentials = append(credentials, l.Credential)
			}
		}
	}
	return credentials
}

// watch reports at once what a policy wants to hear of at once, until ctx ends.
func (w *witness) watch(ctx context.Context, tell func(error)) { w.leaks.Watch(ctx, w.met, tell) }

// report reports the rest.
func (w *witness) report(ctx context.Context) { _, w.untold = w.leaks.Report(ctx, w.met()...) }
