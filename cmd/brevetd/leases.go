package main

import (
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/brevet-dev/brevet/broker"
	"github.com/brevet-dev/brevet/broker/lease"
)

func leasesCommand() *cobra.Command {
	return group("leases", "Look at the leases that live", leasesListCommand())
}

// leaseLine is what the list shows of a lease.
type leaseLine struct {
	ID         string    `json:"lease_id"`
	Session    string    `json:"session"`
	Credential string    `json:"credential"`
	Kind       string    `json:"kind"`
	State      string    `json:"state"`
	Policy     string    `json:"policy"`
	IssuedAt   time.Time `json:"issued_at"`
	ExpiresAt  time.Time `json:"expires_at"`
}

func leasesListCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the leases that live: pending, active, being revoked or stuck",
		Args:  noArgs,
	}
	file, asJSON := configFlag(cmd), jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := loadConfig(*file)
		if err != nil {
			return err
		}
		lines, err := listLeases(cmd, c)
		if err != nil {
			return err
		}
		if *asJSON {
			return writeJSON(cmd.OutOrStdout(), lines)
		}
		w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "LEASE\tCREDENTIAL\tSTATE\tPOLICY\tENDS IN")
		for _, l := range lines {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", l.ID, l.Credential, l.State, l.Policy, time.Until(l.ExpiresAt).Round(time.Second))
		}
		return w.Flush()
	}
	return cmd
}

func listLeases(cmd *cobra.Command, c *config) ([]leaseLine, error) {
	client, err := c.openRedis(cmd.Context(), &roundTrips{})
	if err != nil {
		return nil, err
	}
	defer client.Close()
	lines := []leaseLine{}
	err = lease.New(client, nil).All(cmd.Context(), func(l *broker.Lease) error {
		lines = append(lines, leaseLine{
			l.ID, l.SessionID, l.Credential, l.Kind, string(l.State), l.Policy, l.IssuedAt.UTC(), l.Expires.UTC(),
		})
		return nil
	})
	return lines, err
}
