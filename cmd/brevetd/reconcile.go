package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"sync/atomic"
	"text/tabwriter"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"

	"github.com/brevet-dev/brevet/broker"
	"github.com/brevet-dev/brevet/broker/lease"
	"github.com/brevet-dev/brevet/broker/server"
)

// A reconciled is what the metrics say of reconciling.
type reconciled struct {
	orphans, missing, repaired prometheus.Counter
	last                       atomic.Int64 // seconds since 1970; 0: never
}

func newReconciled(m *server.Metrics) *reconciled {
	r := &reconciled{
		orphans:  m.Counter("brevet_reconcile_orphans_total", "Credentials found at a target without a live lease."),
		missing:  m.Counter("brevet_reconcile_missing_total", "Active leases found without a credential at their target."),
		repaired: m.Counter("brevet_reconcile_repaired_total", "Of both, how many were mended."),
	}
	m.Gauge("brevet_reconcile_last_timestamp_seconds", "When this broker last compared leases with all targets, since 1970; 0: never.", nil, func() float64 {
		return float64(r.last.Load())
	})
	return r
}

func (r *reconciled) count(report *broker.Report) {
	r.orphans.Add(float64(len(report.Orphans)))
	r.missing.Add(float64(len(report.Missing)))
	for _, f := range slices.Concat(report.Orphans, report.Missing) {
		if f.Repaired {
			r.repaired.Inc()
		}
	}
	if len(report.Problems) == 0 {
		r.last.Store(report.Time.Unix())
	}
}

// reconcile compares leases with targets until ctx ends.
func (d *daemon) reconcile(ctx context.Context) {
	d.broker.KeepReconciled(ctx, func(r *broker.Report, err error) {
		if err != nil {
			d.log.Error("reconciling leases with their targets", "error", err)
		}
		if r != nil {
			d.reconciled.count(r)
			logReport(d.log, r)
		}
	})
}

func logReport(log *slog.Logger, r *broker.Report) {
	for _, f := range r.Orphans {
		log.Warn("a credential without a lease", "credential", f.Credential, "lease", f.Lease, "name", f.Name, "repaired", f.Repaired, "problem", f.Problem)
	}
	for _, f := range r.Missing {
		log.Warn("a lease without a credential", "credential", f.Credential, "lease", f.Lease, "repaired", f.Repaired, "problem", f.Problem)
	}
	for _, p := range r.Problems {
		log.Error("reconciling leases with their targets", "problem", p)
	}
}

// askPoll is how often the store is asked for a report.
const askPoll = 200 * time.Millisecond

func leasesReconcileCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "reconcile",
		Short: "Compare leases with what exists at their targets",
		Long: "reconcile asks a running broker to list the credentials at the targets that can be\n" +
			"listed (kind postgres), and to compare them with the leases. It tells of credentials\n" +
			"without a live lease, and of leases without a credential. With --repair the broker\n" +
			"revokes the former and ends the latter, and records it in its audit log. Brokers do\n" +
			"that by themselves every few minutes.\n\n" +
			"The exit status is 1 if something is left to look at.",
		Args: noArgs,
	}
	file, asJSON := configFlag(cmd), jsonFlag(cmd)
	repair := cmd.Flags().Bool("repair", false, "revoke what has no lease, and end leases that have no credential")
	patience := cmd.Flags().Duration("timeout", 2*time.Minute, "how long to wait for a broker's report")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := loadConfig(*file)
		if err != nil {
			return err
		}
		r, err := c.askReconcile(cmd.Context(), *repair, *patience)
		if err != nil {
			return err
		}
		if *asJSON {
			err = writeJSON(cmd.OutOrStdout(), r)
		} else {
			err = printReport(cmd.OutOrStdout(), r)
		}
		if err == nil && !r.Clean() {
			err = unreconciled(r, *repair)
		}
		return err
	}
	return cmd
}

func unreconciled(r *broker.Report, repair bool) error {
	differ := errors.New("leases and targets differ")
	switch {
	case len(r.Problems) > 0:
		return hint{errors.New("not everything could be compared"), "mend the problems that are told above; a repair would not"}
	case repair:
		return hint{differ, "the broker tries again in a few minutes; what stays needs you"}
	}
	return hint{differ, "to mend it now: brevetd leases reconcile --repair"}
}

// askReconcile asks the brokers, and waits for the report of the one that did
// it.
func (c *config) askReconcile(ctx context.Context, repair bool, patience time.Duration) (*broker.Report, error) {
	targets, err := c.targets(signNothing{})
	if err != nil {
		return nil, err
	}
	listed := func(t broker.Target) bool { _, ok := t.Minter.(broker.Lister); return ok }
	if !slices.ContainsFunc(slices.Collect(maps.Values(targets)), listed) {
		return nil, errors.New("no credential of the configuration has a target that can be listed")
	}
	client, err := c.openRedis(ctx, &roundTrips{})
	if err != nil {
		return nil, err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	store := lease.New(client, nil)
	id, err := store.AskReconcile(ctx, repair)
	if err != nil {
		return nil, err
	}
	return awaitReport(ctx, store, id)
}

func awaitReport(ctx context.Context, store *lease.Store, id string) (*broker.Report, error) {
	tick := time.NewTicker(askPoll)
	defer tick.Stop()
	for {
		r, err := store.ReadReport(ctx, id)
		if err == nil || !errors.Is(err, broker.ErrNotFound) && ctx.Err() == nil {
			return r, err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, hint{errors.New("no broker reported in time"), "is one running with this configuration? Its log says what it does; --timeout waits longer"}
		}
	}
}

func printReport(out io.Writer, r *broker.Report) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, f := range r.Orphans {
		fmt.Fprintf(w, "orphan\t%s\t%s\tlease %s\t%s\n", plain(f.Credential), plain(f.Name), plain(string(f.State)), plain(outcome(f)))
	}
	for _, f := range r.Missing {
		fmt.Fprintf(w, "missing\t%s\t%s\tlease %s\t%s\n", plain(f.Credential), plain(f.Lease), plain(string(f.State)), plain(outcome(f)))
	}
	for _, p := range r.Problems {
		fmt.Fprintf(w, "problem\t%s\n", plain(p))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(out, "%s at the targets of %s: %s, %d without a credential\n",
		count(r.Credentials, "credential"), count(len(r.Checked), "entry"), count(len(r.Orphans), "orphan"), len(r.Missing))
	return err
}

func outcome(f broker.Finding) string {
	switch {
	case f.Repaired:
		return "ended"
	case f.Problem != "":
		return "not ended: " + f.Problem
	}
	return "left as it is"
}

// closeTargets closes the connections that minters keep.
func closeTargets(b *broker.Broker) {
	if b == nil {
		return
	}
	for _, t := range b.Targets {
		if c, ok := t.Minter.(interface{ Close() }); ok {
			c.Close()
		}
	}
}
