package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/brevet-dev/brevet/policies"
	"github.com/brevet-dev/brevet/policies/gitdir"
)

func policyDiffCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "diff OLD NEW",
		Short: "Say who gains and who loses what by a change of policies",
		Long: "diff compares two versions of the policies by what they grant. Each is a folder, a\n" +
			"git revision of the configured folder (main, HEAD~1, v1.2), or one of another\n" +
			"folder of its repository (main:policies). Renaming and moving change nothing. Each\n" +
			"gain and loss comes with the claims of a token that shows it, tried with both.\n" +
			"With --audit the tokens of recorded exchanges are decided about with both, too.\n\n" +
			"It exits with 1 if anybody gains anything, or if that cannot be ruled out.",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 2 {
				return usageError{hint{fmt.Errorf("%s takes two versions of the policies, OLD and NEW", cmd.CommandPath()), "to see what is not committed yet: " + cmd.CommandPath() + " HEAD policies"}}
			}
			return nil
		},
	}
	file, asJSON := configFlag(cmd), jsonFlag(cmd)
	logs := cmd.Flags().StringArray("audit", nil, "replay the exchanges in the audit log `file`; may be repeated, and .gz is read")
	format := cmd.Flags().String("format", "text", "what to print, by `name`: text, markdown (for a comment), or json")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if *asJSON {
			*format = "json"
		}
		write, ok := diffWriters()[*format]
		if !ok {
			return usageError{fmt.Errorf("there is no format %q: say text, markdown or json", *format)}
		}
		r, err := comparePolicies(cmd, *file, args[0], args[1], *logs)
		if err != nil {
			return refused(cmd.OutOrStdout(), *format, err)
		}
		if err := write(cmd.OutOrStdout(), r); err != nil {
			return err
		}
		if r.Gains > 0 {
			return fmt.Errorf("%s: somebody can do more than before", count(r.Gains, "gain"))
		}
		return nil
	}
	return cmd
}

func diffWriters() map[string]func(io.Writer, *diffReport) error {
	return map[string]func(io.Writer, *diffReport) error{
		"text": writeDiff, "markdown": writeMarkdown,
		"json": func(w io.Writer, r *diffReport) error { return writeJSON(w, r) },
	}
}

// A diffReport is what "policy diff" shows.
type diffReport struct {
	Gains int `json:"gains"` // of the documents, and of recorded tokens
	*policies.Diff
	Replay *replayReport `json:"replay,omitempty"`
}

// A replayReport is what changes for tokens of the past.
type replayReport struct {
	*policies.Replay
	Outcomes []policies.Outcome `json:"outcomes"`
}

func comparePolicies(cmd *cobra.Command, file, before, after string, logs []string) (*diffReport, error) {
	c, err := loadConfig(file)
	if err != nil {
		return nil, err
	}
	a, err := c.policiesAt(cmd.Context(), before)
	if err != nil {
		return nil, fmt.Errorf("loading %s:\n%w", before, err)
	}
	b, err := c.policiesAt(cmd.Context(), after)
	if err != nil {
		return nil, fmt.Errorf("loading %s:\n%w", after, err)
	}
	r := &diffReport{}
	if r.Diff, err = policies.Compare(cmd.Context(), a, b); err != nil {
		return nil, err
	}
	r.Gains = r.Diff.Gains()
	if len(logs) > 0 {
		replay := policies.NewReplay(a, b)
		if err := replayLogs(cmd.Context(), logs, replay, cmd.ErrOrStderr()); err != nil {
			return nil, err
		}
		r.Replay = &replayReport{replay, replay.Outcomes()}
		r.Gains += replay.Gains()
	}
	return r, nil
}

// policiesAt loads one version of the policies: a folder, or a revision with or
// without a folder in the repository.
func (c *config) policiesAt(ctx context.Context, version string) (*policies.Set, error) {
	o, err := c.policyOptions()
	if err != nil {
		return nil, err
	}
	if info, err := os.Stat(version); err == nil && info.IsDir() {
		return policies.Load(version, o)
	}
	checkout, folder, err := c.repository()
	if err != nil {
		return nil, hint{fmt.Errorf("%s is not a folder, and %w", version, err), "name a folder, or a revision in the git repository of the configured policies, such as main or main:policies"}
	}
	revision, other, found := strings.Cut(version, ":")
	if found {
		folder = other
	}
	commit, err := checkout.At(ctx, revision, folder)
	if err != nil {
		return nil, hint{fmt.Errorf("%s is not a folder; as a revision: %w", version, err), "name a folder, or a revision such as main, HEAD~1 or main:policies"}
	}
	return policies.LoadCommit(commit.Files, version, policies.Origin{Commit: commit.ID}, o)
}

// repository returns the checkout that the configured folder is in, and the
// folder in it.
func (c *config) repository() (*gitdir.Checkout, string, error) {
	if c.Policies.Git != nil {
		return c.checkout(), c.Policies.Dir, nil
	}
	folder, err := filepath.Abs(c.policyFolder())
	if err != nil {
		return nil, "", err
	}
	for top := folder; ; top = filepath.Dir(top) {
		if _, err := os.Lstat(filepath.Join(top, ".git")); err == nil {
			rel, err := filepath.Rel(top, folder)
			return &gitdir.Checkout{Dir: top}, filepath.ToSlash(rel), err
		}
		if top == filepath.Dir(top) {
			return nil, "", errors.New("the configured policies are in no git repository")
		}
	}
}
