package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/brevet-dev/brevet/broker/server"
	"github.com/brevet-dev/brevet/policies"
)

// A policyStatus is what a running broker tells of its policies.
type policyStatus struct {
	policies.Summary
	Since     time.Time         `json:"since"`           // when they came into force
	Tried     time.Time         `json:"read"`            // when the files were read last
	Error     string            `json:"error,omitempty"` // why what was read then is not in force
	Failures  uint64            `json:"failures"`        // readings that ended in an error
	WouldHave map[string]uint64 `json:"shadow_grants"`   // credentials that policies in mode shadow would have granted since the start
}

// policyStatus is asked for by operators, of the running broker.
func (d *daemon) policyStatus() any {
	s := d.reloader.status()
	out := policyStatus{
		Summary: d.policies.Current().Summary(time.Now()), Since: s.since.UTC(), Tried: s.tried.UTC(),
		Failures: s.failures, WouldHave: d.metrics.Shadow(),
	}
	if s.err != nil {
		out.Error = s.err.Error()
	}
	return out
}

// A comparison is what "policy status" shows.
type comparison struct {
	InForce *policyStatus     `json:"in_force"` // null: the broker could not be asked
	Unasked string            `json:"in_force_error,omitempty"`
	OnDisk  *policies.Summary `json:"on_disk"` // null: the files cannot be loaded
	Unread  string            `json:"on_disk_error,omitempty"`
	Same    bool              `json:"same"`
}

func policyStatusCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Compare the policies in force with those on disk",
		Long: "status asks the broker that runs with this configuration, at its admin_listen, which\n" +
			"policies are in force, and loads those on disk. It exits with 1 if they differ, or if\n" +
			"either cannot be had.",
		Args: noArgs,
	}
	file, asJSON := configFlag(cmd), jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := loadConfig(*file)
		if err != nil {
			return err
		}
		now := time.Now()
		s := c.comparePolicies(cmd.Context(), now)
		if *asJSON {
			err = writeJSON(cmd.OutOrStdout(), s)
		} else {
			err = s.show(cmd.OutOrStdout())
		}
		return errors.Join(err, s.verdict())
	}
	return cmd
}

func (c *config) comparePolicies(ctx context.Context, now time.Time) *comparison {
	s := &comparison{}
	var err error
	if s.InForce, err = c.askPolicies(ctx); err != nil {
		s.Unasked = err.Error()
	}
	if set, err := c.loadPolicies(ctx); err != nil {
		s.Unread = err.Error()
	} else {
		summary := set.Summary(now)
		s.OnDisk = &summary
	}
	s.Same = s.InForce != nil && s.OnDisk != nil && s.InForce.Digest == s.OnDisk.Digest
	return s
}

// verdict is the error that the command ends with.
func (s *comparison) verdict() error {
	switch {
	case s.InForce == nil:
		return hint{fmt.Errorf("asking the broker: %s", s.Unasked), "it must run on this machine, with admin_listen in the configuration"}
	case s.InForce.Error != "":
		return errors.New("the policies on disk were not taken over")
	case s.OnDisk == nil:
		return errors.New("the policies on disk cannot be loaded")
	case !s.Same:
		return hint{errors.New("the policies on disk are not those in force"), "the broker takes them over within seconds, or at once: kill -HUP its process"}
	}
	return nil
}

// Limits on asking the broker: it answers from memory, and names policies.
const (
	askTimeout = 3 * time.Second
	maxAnswer  = 8 << 20
)

// askPolicies asks the running broker which policies are in force.
func (c *config) askPolicies(ctx context.Context) (*policyStatus, error) {
	if c.AdminListen == "" {
		return nil, errors.New("the configuration has no admin_listen")
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+reachable(c.AdminListen)+server.PathPolicies, nil)
	if err != nil {
		return nil, err
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}} // and no proxy
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answered %s", c.AdminListen, resp.Status)
	}
	var out policyStatus
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(&out); err != nil {
		return nil, fmt.Errorf("%s did not answer as a broker: %w", c.AdminListen, err)
	}
	return &out, nil
}

// reachable makes of the address that is listened on one that can be called.
func reachable(listen string) string {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return listen
	}
	if addr, err := netip.ParseAddr(host); host == "" || err == nil && addr.IsUnspecified() {
		host = "localhost"
	}
	return net.JoinHostPort(host, port)
}

func (s *comparison) show(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(name, value string) {
		if value != "" {
			fmt.Fprintf(t, "%s\t%s\n", name, plain(value))
		}
	}
	if f := s.InForce; f == nil {
		row("in force", "unknown: "+s.Unasked)
	} else {
		row("in force", f.Digest)
		f.rows(row, f.WouldHave)
		row("since", f.Since.Format(time.RFC3339))
		row("last read", f.Tried.Format(time.RFC3339)+f.failed())
	}
	switch {
	case s.OnDisk == nil:
		row("on disk", "not loaded, see below")
	case s.Same:
		row("on disk", "the same")
	default:
		row("on disk", s.OnDisk.Digest)
		onDisk := policyStatus{Summary: *s.OnDisk}
		onDisk.rows(row, nil)
	}
	if err := t.Flush(); err != nil || s.Unread == "" {
		return err
	}
	for line := range strings.Lines(s.Unread) {
		fmt.Fprintln(w, plain(strings.TrimSuffix(line, "\n")))
	}
	return nil
}

func (p *policyStatus) failed() string {
	if p.Error == "" {
		return ", and in force"
	}
	first, _, more := strings.Cut(p.Error, "\n")
	if more {
		first += " …"
	}
	return ", not in force: " + first
}

// rows tells what a set holds. grants are those that shadow policies would
// have made, if that is known.
func (p *policyStatus) rows(row func(name, value string), grants map[string]uint64) {
	if p.Commit != "" {
		row("  commit", p.Commit+", signed by "+p.Signer)
	}
	row("  policies", fmt.Sprint(p.Policies)+p.byTenant())
	row("  shadow", list(p.Shadow, func(name string) string {
		if grants == nil {
			return name
		}
		return fmt.Sprintf("%s (would have granted %d)", name, grants[name])
	}))
	row("  unsafe", list(p.Unsafe, strings.Clone))
	row("  expired", list(p.Expired, strings.Clone))
}

func (p *policyStatus) byTenant() string {
	if len(p.Tenants) == 0 || len(p.Tenants) == 1 && p.Tenants[""] > 0 {
		return ""
	}
	return ": " + list(slices.Sorted(maps.Keys(p.Tenants)), func(tenant string) string {
		if tenant == "" {
			return fmt.Sprintf("%d in no tenant", p.Tenants[tenant])
		}
		return fmt.Sprintf("%s %d", tenant, p.Tenants[tenant])
	})
}

// maxListed bounds how many names a line of text has; --json has all.
const maxListed = 20

func list(names []string, say func(string) string) string {
	var out []string
	for i, name := range names {
		if i == maxListed {
			out = append(out, fmt.Sprintf("and %d more", len(names)-i))
			break
		}
		out = append(out, say(name))
	}
	return strings.Join(out, ", ")
}
