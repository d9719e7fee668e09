package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/brevet-dev/brevet/broker"
	"github.com/brevet-dev/brevet/broker/lease"
)

func leasesCommand() *cobra.Command {
	cmd := group("leases", "See who holds what, and end it",
		leasesListCommand(), leasesShowCommand(), leasesRevokeCommand(), leasesRetryCommand(), leasesBlocksCommand(), leasesUnblockCommand(), leasesReconcileCommand())
	cmd.Long = "leases shows the leases of all brokers of the fleet, and ends them. It needs the\n" +
		"configuration, and Redis; no broker has to run for it, but only brokers revoke at targets.\n\n" +
		"Who holds what:                        brevetd leases list --repository-id 456\n" +
		"What would end:                        brevetd leases revoke --repository-id 456 --dry-run\n" +
		"End it, and keep it from coming back:  brevetd leases revoke --repository-id 456 --block 24h\n" +
		"The kill switch:                       brevetd leases revoke --all --block 1h --yes"
	return cmd
}

// withLeases opens the leases for do. Handles stay sealed: no key is needed. sel
// is what the command selects; nil: it does not.
func withLeases(cmd *cobra.Command, file string, sel *broker.Selector, do func(*lease.Store) error) error {
	c, err := loadConfig(file)
	if err != nil {
		return err
	}
	c.warnOfUnknown(cmd, sel)
	client, err := c.openRedis(cmd.Context(), &roundTrips{})
	if err != nil {
		return err
	}
	defer client.Close()
	return do(lease.New(client, nil).WaitReplicas(c.Redis.WaitReplicas))
}

// leaseLine is what is shown of a lease.
type leaseLine struct {
	ID           string    `json:"lease_id"`
	Session      string    `json:"session"`
	Credential   string    `json:"credential"`
	Kind         string    `json:"kind"`
	State        string    `json:"state"`
	Why          string    `json:"why,omitempty"` // it is being ended
	Order        string    `json:"order,omitempty"`
	Attempts     int       `json:"failed_revocations,omitempty"`
	Revocable    bool      `json:"revocable"`
	Policy       string    `json:"policy"`
	Digest       string    `json:"policy_digest"`
	Set          string    `json:"policies_digest,omitempty"` // of the whole set that granted it; "" if the session's record is gone
	IssuedAt     time.Time `json:"issued_at"`
	ExpiresAt    time.Time `json:"expires_at"`
	MaxExpiresAt time.Time `json:"max_expires_at"`
	Who          *holder   `json:"who"` // null if the session's record is gone
}

// holder is what is shown of a session.
type holder struct {
	Issuer      string `json:"issuer"`
	Subject     string `json:"sub"`
	Repository  string `json:"repository,omitempty"`
	ProjectID   string `json:"repository_id,omitempty"`
	Owner       string `json:"owner,omitempty"`
	OwnerID     string `json:"owner_id,omitempty"`
	Run         string `json:"run,omitempty"`
	Job         string `json:"job,omitempty"`
	Ref         string `json:"ref,omitempty"`
	Environment string `json:"environment,omitempty"`
	Actor       string `json:"actor,omitempty"`
	ActorID     string `json:"actor_id,omitempty"`
	Epoch       string `json:"epoch,omitempty"`
}

func newLeaseLine(f lease.Found) leaseLine {
	l := f.Lease
	out := leaseLine{
		ID: l.ID, Session: l.SessionID, Credential: l.Credential, Kind: l.Kind, State: string(l.State), Why: l.Why, Order: l.Order,
		Attempts: l.Attempts, Revocable: f.Revocable, Policy: l.Policy, Digest: l.PolicyDigest,
		IssuedAt: l.IssuedAt.UTC(), ExpiresAt: l.Expires.UTC(), MaxExpiresAt: l.MaxExpires.UTC(),
	}
	if s := f.Session; s != nil {
		w := s.Who.Workload
		out.Set = s.Policies
		out.Who = &holder{
			s.Who.Issuer, s.Who.Subject, w.Project, w.ProjectID, w.Owner, w.OwnerID, w.Run, w.Job, w.Ref, w.Environment, w.Actor, w.ActorID, s.Epoch,
		}
	}
	return out
}

func leasesListCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the leases that live: pending, active, being revoked or stuck",
		Long: "list shows the leases that live, or those of them that are selected: all that is said\n" +
			"must hold, and values are compared exactly.",
		Args: noArgs,
	}
	file, asJSON, flags := configFlag(cmd), jsonFlag(cmd), addSelectors(cmd)
	state := cmd.Flags().String("state", "", "in this `state`: pending, active, revoking or stuck")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		sel, err := flags.selector(time.Now())
		if err != nil {
			return err
		}
		if s := broker.State(*state); *state != "" && !s.Live() {
			return usageError{fmt.Errorf("--state %q is none of pending, active, revoking, stuck", *state)}
		}
		return withLeases(cmd, *file, &sel, func(s *lease.Store) error {
			lines := []leaseLine{}
			err := s.Select(cmd.Context(), &sel, func(f lease.Found) error {
				if *state == "" || string(f.Lease.State) == *state {
					lines = append(lines, newLeaseLine(f))
				}
				return nil
			})
			return errors.Join(showList(cmd.OutOrStdout(), lines, *asJSON), err, reportQuarantine(cmd, s))
		})
	}
	return cmd
}

// sortLines puts what belongs together side by side.
func sortLines(lines []leaseLine) {
	key := func(l leaseLine) []string {
		who := cmp.Or(l.Who, &holder{})
		return []string{who.Issuer, who.Repository, who.Run, l.Session, l.Credential, l.ID}
	}
	slices.SortFunc(lines, func(a, b leaseLine) int { return slices.Compare(key(a), key(b)) })
}

func showList(w io.Writer, lines []leaseLine, asJSON bool) error {
	sortLines(lines)
	if asJSON {
		return writeJSON(w, lines)
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "LEASE\tCREDENTIAL\tSTATE\tREPOSITORY\tRUN\tPOLICY\tENDS IN")
	for _, l := range lines {
		who := cmp.Or(l.Who, &holder{Repository: "unknown"})
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", plain(l.ID), plain(l.Credential), l.State,
			plain(cmp.Or(who.Repository, who.ProjectID, who.Subject)), plain(cmp.Or(who.Run, "-")), plain(l.Policy), time.Until(l.ExpiresAt).Round(time.Second))
	}
	return t.Flush()
}

// plain keeps what strangers named from moving the cursor of a terminal, from
// being shown as something else (U+202E turns the rest of a line around), and
// from being a command to the runners of GitHub and Azure DevOps, which two
// number signs can begin anywhere in a line of a job's log.
func plain(s string) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
	return strings.ReplaceAll(s, "##", "#?")
}

// reportQuarantine tells of leases that nobody ends until someone has looked.
func reportQuarantine(cmd *cobra.Command, s *lease.Store) error {
	ids, err := s.Quarantined(cmd.Context())
	if err == nil && len(ids) > 0 {
		fmt.Fprintf(cmd.ErrOrStderr(), "brevetd: warning: the records of %d leases cannot be read, and nobody ends them: %s\n", len(ids), plain(strings.Join(ids[:min(len(ids), 5)], " ")))
	}
	return err
}

func leasesShowCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "show ID",
		Short: "Show a lease, or a session with its leases, also an hour after they ended",
		Args:  oneArg("the id of a lease (l…) or of a session (s…)"),
	}
	file, asJSON := configFlag(cmd), jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return withLeases(cmd, *file, nil, func(s *lease.Store) error {
			found, err := s.Show(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if len(found) == 0 {
				return hint{fmt.Errorf("%s is not on record", args[0]), "the audit log has every lease: grep it for the id"}
			}
			lines := make([]leaseLine, len(found))
			for i, f := range found {
				lines[i] = newLeaseLine(f)
			}
			if *asJSON {
				return writeJSON(cmd.OutOrStdout(), lines)
			}
			for i, l := range lines {
				if i > 0 {
					fmt.Fprintln(cmd.OutOrStdout())
				}
				if err := l.show(cmd.OutOrStdout()); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return cmd
}

func (l *leaseLine) show(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(name, value string) {
		if value != "" {
			fmt.Fprintf(t, "%s\t%s\n", name, plain(value))
		}
	}
	row("lease", l.ID)
	row("session", l.Session)
	row("state", l.stateText())
	row("credential", l.Credential+" ("+l.Kind+")")
	row("policy", l.Policy+" "+l.Digest)
	row("policies", l.Set)
	row("issued", l.IssuedAt.Format(time.RFC3339))
	row("ends", l.ExpiresAt.Format(time.RFC3339)+", with renewals "+l.MaxExpiresAt.Format(time.RFC3339))
	if !l.Revocable {
		row("revocable", "no: its credential works until it ends, whatever becomes of the lease")
	}
	if l.Who == nil {
		row("who", "unknown: the record of its session is gone, or garbage")
		return t.Flush()
	}
	for _, pair := range l.Who.rows() {
		row(pair[0], pair[1])
	}
	return t.Flush()
}

func (l *leaseLine) stateText() string {
	out := l.State
	if l.Why != "" {
		out += ", " + l.Why
	}
	if l.Order != "" {
		out += " by " + l.Order
	}
	if l.Attempts > 0 {
		out += fmt.Sprintf(", %d revocations failed", l.Attempts)
	}
	return out
}

func (h *holder) rows() [][2]string {
	named := func(name, id string) string {
		if name != "" && id != "" {
			return name + " (" + id + ")"
		}
		return name + id
	}
	rows := [][2]string{
		{"issuer", h.Issuer}, {"subject", h.Subject}, {"repository", named(h.Repository, h.ProjectID)}, {"owner", named(h.Owner, h.OwnerID)},
		{"run", h.Run}, {"job", h.Job}, {"ref", h.Ref}, {"environment", h.Environment}, {"actor", named(h.Actor, h.ActorID)}, {"epoch key", h.Epoch},
	}
	return slices.DeleteFunc(rows, func(r [2]string) bool { return r[1] == "" })
}
