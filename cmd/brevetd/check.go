package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/brevet-dev/brevet/policies"
)

func checkCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Check the configuration and all policies, and run the policies' tests",
		Long: "check reads what serve reads, with the same code, and reports every problem\n" +
			"at once, each with its place. It connects to nothing.",
		Args: noArgs,
	}
	file, asJSON := configFlag(cmd), jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if _, err := os.Stat(*file); err != nil {
			return noConfig(err)
		}
		r := check(cmd.Context(), *file)
		if *asJSON {
			if err := writeJSON(cmd.OutOrStdout(), r); err != nil {
				return err
			}
		} else {
			r.print(cmd.OutOrStdout())
		}
		if !r.OK {
			return errors.New("not fit to serve")
		}
		return nil
	}
	return cmd
}

// A report is the result of check.
type report struct {
	OK        bool     `json:"ok"`
	Problems  []string `json:"problems"`
	Issuers   int      `json:"issuers"`
	Creds     int      `json:"credentials"`
	Policies  int      `json:"policies"`
	Digest    string   `json:"policies_digest,omitempty"`
	Redis     string   `json:"redis,omitempty"` // which kind, and where
	Tests     int      `json:"tests"`
	FailedIDs []string `json:"failed_tests"`

	Warnings []policies.Warning `json:"warnings"`
}

func check(ctx context.Context, file string) *report {
	r := &report{Problems: []string{}, FailedIDs: []string{}, Warnings: []policies.Warning{}}
	c, p, err := readConfig(file)
	if err != nil {
		r.add(err)
		return r
	}
	r.Issuers, r.Creds = len(c.Issuers), len(c.Credentials)
	r.add(p.problems.Err())
	if len(p.problems) == 0 {
		r.Redis = c.Redis.topology()
	}
	if !p.opaque && c.Policies.Dir != "" {
		set, err := c.loadPolicies(ctx)
		r.add(err)
		if err == nil {
			r.run(set)
		}
	}
	r.OK = len(r.Problems) == 0 && len(r.FailedIDs) == 0
	return r
}

func (r *report) add(err error) {
	if err != nil {
		r.Problems = append(r.Problems, problemsOf(err)...)
	}
}

func (r *report) run(set *policies.Set) {
	r.Policies, r.Digest = set.Len(), set.Digest()
	r.Warnings = append(r.Warnings, set.Warnings()...)
	for _, t := range set.Test() {
		r.Tests++
		if !t.Passed {
			r.FailedIDs = append(r.FailedIDs, failedTest(t))
		}
	}
}

func failedTest(t policies.TestResult) string {
	if t.Policy == "" {
		return fmt.Sprintf("%s: test %q: %s", t.Pos, t.Name, t.Message)
	}
	return fmt.Sprintf("%s: policy %s: test %q: %s", t.Pos, t.Policy, t.Name, t.Message)
}

func (r *report) print(w io.Writer) {
	for _, line := range append(r.Problems, r.FailedIDs...) {
		fmt.Fprintln(w, line)
	}
	for _, warning := range r.Warnings {
		fmt.Fprintln(w, warning)
	}
	switch {
	case r.OK:
		fmt.Fprintf(w, "ok: %s, %s, %s (%.19s…), %s passed\n",
			count(r.Issuers, "issuer"), count(r.Creds, "credential"), count(r.Policies, "policy"), r.Digest, count(r.Tests, "test"))
		fmt.Fprintln(w, "redis:", r.Redis)
	case r.Tests == 0:
		fmt.Fprintln(w, count(len(r.Problems), "problem"))
	default:
		fmt.Fprintf(w, "%s, %d of %s failed\n", count(len(r.Problems), "problem"), len(r.FailedIDs), count(r.Tests, "test"))
	}
}

// count writes a number of things.
func count(n int, thing string) string {
	switch stem, isY := strings.CutSuffix(thing, "y"); {
	case n == 1:
	case isY:
		thing = stem + "ies"
	default:
		thing += "s"
	}
	return fmt.Sprintf("%d %s", n, thing)
}

func writeJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}
