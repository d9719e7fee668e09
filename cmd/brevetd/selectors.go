package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/brevet-dev/brevet/broker"
)

// selectorFlags are the flags that say which leases are meant.
type selectorFlags struct {
	cmd    *cobra.Command
	values map[broker.Attribute]*string
	since  *string
	all    *bool
}

// selectorUsage says what the flags select by.
func selectorUsage() map[broker.Attribute]string {
	return map[broker.Attribute]string{
		broker.ByIssuer:      "of this issuer: its `name` in the configuration",
		broker.ByRepository:  "of the repository or project with this `id`; ids are unique within an issuer only",
		broker.ByOwner:       "of the organization, user or group with this `id`",
		broker.ByRun:         "of the run or pipeline with this `id`",
		broker.ByJob:         "of the job with this `id`",
		broker.ByActor:       "of runs that the account with this `login` started",
		broker.ByActorID:     "of runs that the account with this `id` started",
		broker.ByEnvironment: "of this deployment environment: its `name`",
		broker.ByRef:         "of this `ref`, as the platform writes it: refs/heads/main",
		broker.ByCredential:  "of this credential: its `name` in the configuration",
		broker.ByPolicy:      "granted by the policy of this `name`",
		broker.ByDigest:      "granted by the policy file of this `digest`, sha256:…",
		broker.ByEpoch:       "whose session token the broker key of this `kid` signed",
		broker.BySession:     "of the session with this `id`",
		broker.ByLease:       "the lease with this `id`",
	}
}

func addSelectors(cmd *cobra.Command) *selectorFlags {
	f := &selectorFlags{cmd: cmd, values: map[broker.Attribute]*string{}}
	for a, usage := range selectorUsage() {
		f.values[a] = cmd.Flags().String(string(a), "", usage)
	}
	f.since = cmd.Flags().String("since", "", "issued since then: a `time` as 2026-11-25T16:00:00Z, or how long ago: 2h")
	return f
}

// withAll adds --all, for commands that must not take nothing for everything.
func (f *selectorFlags) withAll() *selectorFlags {
	f.all = f.cmd.Flags().Bool("all", false, "every lease of every workload")
	return f
}

// selector reads the flags. One that was given counts, also when it is empty: a
// variable that was not set must not make a selector wider.
func (f *selectorFlags) selector(now time.Time) (broker.Selector, error) {
	sel := broker.Selector{Match: map[broker.Attribute]string{}}
	for a, value := range f.values {
		if f.cmd.Flags().Changed(string(a)) {
			sel.Match[a] = *value
		}
	}
	if f.cmd.Flags().Changed("since") {
		var err error
		if sel.Since, err = parseSince(*f.since, now); err != nil {
			return broker.Selector{}, usageError{err}
		}
	}
	switch {
	case f.all != nil:
		sel.All = *f.all
	case len(sel.Match) == 0 && sel.Since.IsZero():
		sel.All = true // only to look at
	}
	if err := sel.Validate(); err != nil {
		return broker.Selector{}, usageError{hint{err, "see: " + f.cmd.CommandPath() + " --help"}}
	}
	return sel, nil
}

// warnOfUnknown tells of names that the configuration does not have: misspelt,
// most likely, so that nothing is selected. It is no error, since there may be
// leases of what was taken out of the configuration.
func (c *config) warnOfUnknown(cmd *cobra.Command, sel *broker.Selector) {
	if sel == nil {
		return
	}
	var credentials, issuers []string
	for i := range c.Credentials {
		credentials = append(credentials, c.Credentials[i].Name)
	}
	for i := range c.Issuers {
		issuers = append(issuers, c.Issuers[i].Name)
	}
	for a, known := range map[broker.Attribute][]string{broker.ByCredential: credentials, broker.ByIssuer: issuers} {
		if name, given := sel.Match[a]; given && !slices.Contains(known, name) {
			fmt.Fprintf(cmd.ErrOrStderr(), "brevetd: warning: the configuration has no %s %q; it has %s\n", a, name, strings.Join(known, ", "))
		}
	}
}

func parseSince(text string, now time.Time) (time.Time, error) {
	if t, err := time.Parse(time.RFC3339, text); err == nil {
		return t, nil
	}
	ago, err := time.ParseDuration(text)
	if err != nil || ago <= 0 {
		return time.Time{}, fmt.Errorf("--since %q is neither a time (2026-11-25T16:00:00Z) nor how long ago (2h, 90m)", text)
	}
	return now.Add(-ago).Truncate(time.Millisecond), nil
}

// blockUntil returns the end of a block of this length.
func blockUntil(length time.Duration, sel *broker.Selector, now time.Time) (time.Time, error) {
	const longest = 366 * 24 * time.Hour
	switch {
	case length <= 0 || length > longest:
		return time.Time{}, usageError{fmt.Errorf("--block must be more than 0 and at most %s", longest)}
	case !sel.Blockable():
		return time.Time{}, usageError{errors.New("--block: a session or a lease is issued once, so there is nothing to block; select by what its next one has in common with it")}
	}
	return now.Add(length).UTC().Truncate(time.Millisecond), nil
}
