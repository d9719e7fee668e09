package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/brevet-dev/brevet/broker"
	"github.com/brevet-dev/brevet/broker/lease"
)

// revocation is what "leases revoke" was told.
type revocation struct {
	dryRun, yes, asJSON bool
	block, wait         time.Duration
}

func leasesRevokeCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "revoke",
		Short: "End leases in bulk, and block new ones",
		Long: "revoke shows what it would end, asks, and then ends all leases that are selected: all that\n" +
			"is said must hold, and values are compared exactly. From then on none of them is renewed,\n" +
			"and brokers revoke them at their targets as fast as these allow. --block refuses new ones\n" +
			"that the same selector finds. Each broker records the order in its audit log.\n\n" +
			"With --wait the exit code is 0 only if every lease has ended.",
		Args: noArgs,
	}
	file, flags := configFlag(cmd), addSelectors(cmd).withAll()
	r := &revocation{}
	cmd.Flags().BoolVar(&r.asJSON, "json", false, "print JSON for programs")
	cmd.Flags().BoolVar(&r.dryRun, "dry-run", false, "only show what would end")
	cmd.Flags().BoolVarP(&r.yes, "yes", "y", false, "do not ask; needed where there is no terminal")
	cmd.Flags().DurationVar(&r.block, "block", 0, "refuse to issue or renew what is selected, for so `long`: 24h")
	cmd.Flags().DurationVar(&r.wait, "wait", 0, "wait until the leases have ended, for at most so `long`: 10m")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		sel, err := flags.selector(time.Now())
		if err != nil {
			return err
		}
		o := broker.NewOrder(broker.OrderRevoke, operator(), sel)
		if cmd.Flags().Changed("block") {
			if o.Until, err = blockUntil(r.block, &sel, o.Time); err != nil {
				return err
			}
		}
		if !r.dryRun && !r.yes && !isTerminal(cmd.InOrStdin()) {
			return usageError{errors.New("there is no terminal to ask at: say --yes, or --dry-run to only look")}
		}
		return withLeases(cmd, *file, &sel, func(s *lease.Store) error { return r.run(cmd, s, &o) })
	}
	return cmd
}

// operator names who runs the command, as this machine does.
func operator() string {
	name := fmt.Sprint("uid ", os.Getuid())
	if u, err := user.Current(); err == nil {
		name = fmt.Sprintf("%s (uid %s)", u.Username, u.Uid)
	}
	host, err := os.Hostname()
	if err != nil {
		host = "an unknown machine"
	}
	return fmt.Sprintf("%.100s at %.100s", name, host)
}

func isTerminal(r io.Reader) bool {
	f, ok := r.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// A revoked is the outcome for programs.
type revoked struct {
	*radius
	Order   string     `json:"order,omitempty"` // "" if nothing was ordered
	Block   *time.Time `json:"block_until,omitempty"`
	Marked  int        `json:"marked"` // leases that the order ends
	Waited  int        `json:"waited"` // leases waited for: these, and those that were being revoked
	Ended   int        `json:"ended"`  // of these, when the command stopped waiting
	Failed  int        `json:"failed"` // of these: stuck
	Seconds float64    `json:"mark_seconds"`
}

func (r *revocation) run(cmd *cobra.Command, s *lease.Store, o *broker.Order) error {
	out := &revoked{radius: newRadius(o.Selector)}
	unreadable := s.Select(cmd.Context(), &o.Selector, func(f lease.Found) error { out.add(f); return nil })
	if errors.Is(unreadable, broker.ErrUnavailable) || cmd.Context().Err() != nil {
		return errors.Join(unreadable, cmd.Context().Err())
	}
	if !r.asJSON {
		if err := out.show(cmd.OutOrStdout()); err != nil {
			return err
		}
	}
	if unreadable != nil {
		fmt.Fprintf(cmd.ErrOrStderr(), "brevetd: warning: records that cannot be read are left alone: %v\n", unreadable)
	}
	switch ok, err := r.confirmed(cmd, out, o); {
	case err != nil:
		return err
	case !ok && r.asJSON:
		return writeJSON(cmd.OutOrStdout(), out)
	case !ok:
		return nil
	}
	return r.carryOut(cmd, s, o, out)
}

// confirmed reports whether the order is to be carried out. An order that ends
// nothing and blocks nothing is none.
func (r *revocation) confirmed(cmd *cobra.Command, out *revoked, o *broker.Order) (bool, error) {
	if r.dryRun || out.Leases == 0 && o.Until.IsZero() {
		return false, nil
	}
	if r.yes {
		return true, nil
	}
	question := "\nrevoke " + counted(out.Leases, "lease")
	if !o.Until.IsZero() {
		question += " and block new ones until " + o.Until.Format(time.RFC3339)
	}
	fmt.Fprint(cmd.ErrOrStderr(), question+"? Type yes: ")
	answer, err := bufio.NewReader(cmd.InOrStdin()).ReadString('\n')
	if err != nil {
		return false, fmt.Errorf("reading the answer: %w", err)
	}
	if strings.TrimSpace(answer) != "yes" {
		return false, errors.New("not confirmed: nothing was done")
	}
	return true, nil
}

func (r *revocation) carryOut(cmd *cobra.Command, s *lease.Store, o *broker.Order, out *revoked) error {
	o.Leases, o.Sessions, o.Repositories = out.Leases, out.Sessions, len(out.Repositories)
	out.Order = o.ID
	if !o.Until.IsZero() {
		out.Block = &o.Until
	}
	var ids []string
	start, report := time.Now(), every(time.Second)
	err := s.Revoke(cmd.Context(), o, func(part []string) {
		ids = append(ids, part...)
		if report() {
			fmt.Fprintf(cmd.ErrOrStderr(), "revoke: %d leases marked\n", len(ids))
		}
	})
	out.Marked, out.Seconds = len(ids), time.Since(start).Seconds()
	if err != nil {
		return hint{err, "run it again: what was marked stays so"}
	}
	if !r.asJSON {
		fmt.Fprintf(cmd.OutOrStdout(), "\nok: %s marked by order %s; brokers end them now\n", counted(len(ids), "lease"), o.ID)
		if out.Block != nil {
			fmt.Fprintf(cmd.OutOrStdout(), "blocked until %s; lift it with: brevetd leases unblock %s\n", o.Until.Format(time.RFC3339), o.ID)
		}
	}
	if r.wait > 0 {
		err = r.await(cmd, s, append(ids, out.revoking...), out)
	}
	if r.asJSON {
		err = errors.Join(writeJSON(cmd.OutOrStdout(), out), err)
	}
	return err
}

// pollEvery is how often a waiting command looks at the leases.
const pollEvery = 500 * time.Millisecond

// await waits until the leases have ended, and returns an error if some have
// not.
func (r *revocation) await(cmd *cobra.Command, s *lease.Store, left []string, out *revoked) error {
	ctx, cancel := context.WithTimeout(cmd.Context(), r.wait)
	defer cancel()
	out.Waited = len(left)
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for report := every(time.Second); ; {
		states, err := s.States(ctx, left)
		if err != nil && ctx.Err() == nil {
			return err
		}
		left = out.count(left, states)
		if len(left) == 0 {
			break
		}
		if report() {
			fmt.Fprintf(cmd.ErrOrStderr(), "revoke: %d of %d ended, %d stuck\n", out.Ended, out.Waited, out.Failed)
		}
		select {
		case <-ctx.Done():
			return hint{fmt.Errorf("after %s %d of %d leases have ended, %d are stuck", r.wait, out.Ended, out.Waited, out.Failed), "a broker must run, and reach their targets, to end them; see: brevetd leases list --state revoking"}
		case <-tick.C:
		}
	}
	if out.Failed > 0 {
		return hint{fmt.Errorf("%d of %d leases are stuck: their targets did not revoke them", out.Failed, out.Waited), "the audit log has the reason; then run: brevetd leases retry"}
	}
	if !r.asJSON {
		fmt.Fprintln(cmd.OutOrStdout(), "ok: all ended")
	}
	return nil
}

// count counts what has ended or is stuck, and returns the rest.
func (out *revoked) count(ids []string, states map[string]broker.State) []string {
	var left []string
	for _, id := range ids {
		state, known := states[id]
		switch {
		case !known || state == broker.Pending || state == broker.Active || state == broker.Revoking:
			left = append(left, id)
		case state == broker.Stuck:
			out.Failed++
		default:
			out.Ended++
		}
	}
	return left
}

func leasesRetryCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "retry",
		Short: "Try to revoke stuck leases again",
		Long: "retry makes brokers revoke leases again that are stuck: those whose revocation failed\n" +
			"for about an hour. The audit log has the reasons.",
		Args: noArgs,
	}
	file, asJSON, flags := configFlag(cmd), jsonFlag(cmd), addSelectors(cmd).withAll()
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		sel, err := flags.selector(time.Now())
		if err != nil {
			return err
		}
		return withLeases(cmd, *file, &sel, func(s *lease.Store) error {
			o := broker.NewOrder(broker.OrderRetry, operator(), sel)
			n := 0
			if err := s.Retry(cmd.Context(), &o, func(ids []string) { n += len(ids) }); err != nil {
				return hint{err, "run it again"}
			}
			if *asJSON {
				return writeJSON(cmd.OutOrStdout(), map[string]any{"order": o.ID, "retried": n})
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "ok: %s tried again by order %s\n", counted(n, "stuck lease"), o.ID)
			return err
		})
	}
	return cmd
}

// blockLine is what is shown of a block.
type blockLine struct {
	ID       string    `json:"block"`
	Selector string    `json:"selector"`
	By       string    `json:"by"`
	Set      time.Time `json:"set"`
	Until    time.Time `json:"until"`
	Partial  bool      `json:"partial"` // not all shards have it: setting or lifting it failed
	Garbage  bool      `json:"garbage"` // it cannot be read, and blocks everything
}

func leasesBlocksCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "blocks", Short: "List what is blocked", Args: noArgs}
	file, asJSON := configFlag(cmd), jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return withLeases(cmd, *file, nil, func(s *lease.Store) error {
			blocks, err := s.Blocks(cmd.Context())
			if err != nil {
				return err
			}
			lines := []blockLine{}
			for _, b := range blocks {
				lines = append(lines, blockLine{b.ID, b.Selector.String(), b.By, b.Set.UTC(), b.Until.UTC(), b.Shards < broker.Shards, b.Garbage})
			}
			return showBlocks(cmd.OutOrStdout(), lines, *asJSON)
		})
	}
	return cmd
}

func showBlocks(w io.Writer, lines []blockLine, asJSON bool) error {
	if asJSON {
		return writeJSON(w, lines)
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "BLOCK\tENDS IN\tBY\tSELECTOR")
	for _, b := range lines {
		selector, ends := b.Selector, time.Until(b.Until).Round(time.Second).String()
		if b.Partial {
			selector += " (not in all shards: lift it and set it again)"
		}
		if b.Garbage {
			selector, ends = "(cannot be read, and blocks everything: lift it)", "-"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", plain(b.ID), ends, plain(b.By), plain(selector))
	}
	return t.Flush()
}

func leasesUnblockCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "unblock BLOCK | unblock --all",
		Short: "Lift blocks before they end",
		Args:  cobra.ArbitraryArgs,
	}
	file, asJSON := configFlag(cmd), jsonFlag(cmd)
	all := cmd.Flags().Bool("all", false, "lift every block")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if *all == (len(args) == 1) || len(args) > 1 {
			return usageError{hint{errors.New("want the id of one block, as \"brevetd leases blocks\" shows it, or --all"), "see: " + cmd.CommandPath() + " --help"}}
		}
		return withLeases(cmd, *file, nil, func(s *lease.Store) error {
			lifted, err := unblock(cmd.Context(), s, args)
			if err != nil {
				return err
			}
			if *asJSON {
				return writeJSON(cmd.OutOrStdout(), map[string][]string{"lifted": lifted})
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "ok: %s lifted\n", counted(len(lifted), "block"))
			return err
		})
	}
	return cmd
}

// unblock lifts the block that is named, or all.
func unblock(ctx context.Context, s *lease.Store, named []string) ([]string, error) {
	blocks, err := s.Blocks(ctx)
	if err != nil {
		return nil, err
	}
	lifted := []string{}
	for _, b := range blocks {
		if len(named) > 0 && b.ID != named[0] {
			continue
		}
		o := broker.NewOrder(broker.OrderUnblock, operator(), b.Selector)
		if o.Lifts = b.ID; b.Garbage {
			o.Selector = broker.Selector{All: true} // what it blocked
		}
		if _, err := s.Unblock(ctx, &o); err != nil {
			return nil, err
		}
		lifted = append(lifted, b.ID)
	}
	if len(named) > 0 && len(lifted) == 0 {
		return nil, hint{fmt.Errorf("there is no block %q", named[0]), "see: brevetd leases blocks"}
	}
	return lifted, nil
}
