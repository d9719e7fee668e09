package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/brevet-dev/brevet/broker/audit"
	"github.com/brevet-dev/brevet/broker/keys"
	"github.com/brevet-dev/brevet/broker/keys/trust"
)

func auditCommand() *cobra.Command {
	return group("audit", "Check the audit log", auditVerifyCommand())
}

func auditVerifyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "verify [FILE...]",
		Short: "Check that no line of the audit log was changed, removed or added",
		Long: "verify follows the chain of the audit log, line by line, and checks the signatures\n" +
			"of its checkpoints against the root key. Give several files, oldest first, if the\n" +
			"log was rotated. Without FILE it reads the configured one. An auditor elsewhere needs\n" +
			"no configuration and no key: verify --root root.crt --url https://… FILE...",
	}
	file, asJSON := configFlag(cmd), jsonFlag(cmd)
	archive := &keys.Archive{}
	cmd.Flags().StringVar(&archive.URL, "url", "", "the broker's `url`, with --root: then no configuration is read")
	files := cmd.Flags().StringArray("root", nil, "certificates of the roots, as \"brevetd keys export-trust --pem\" printed them: `file`; may be repeated")
	cmd.RunE = func(cmd *cobra.Command, args []string) (err error) {
		switch {
		case (len(*files) == 0) != (archive.URL == ""):
			return usageError{errors.New("--root and --url belong together")}
		case len(*files) > 0 && len(args) == 0:
			return usageError{errors.New("with --root name the files to verify")}
		case len(*files) > 0:
			archive.Roots, err = readRoots(*files)
		default:
			archive, args, err = configuredAudit(cmd.Context(), *file, args)
		}
		if err != nil {
			return err
		}
		report, err := verifyAudit(archive, args)
		if err != nil {
			return badAudit(fmt.Errorf("after %d good lines: %w", report.Lines, err))
		}
		if *asJSON {
			return writeJSON(cmd.OutOrStdout(), auditReport{
				report.Lines, report.Checkpoints, report.First, report.Last, report.Sealed, report.Head, report.Torn, report.From, report.Until,
			})
		}
		out := fmt.Sprintf("ok: %d lines, %d checkpoints, from %s until %s\n",
			report.Lines, report.Checkpoints, report.From.Format(time.RFC3339), report.Until.Format(time.RFC3339))
		if report.Sealed < report.Last {
			out += fmt.Sprintf("lines after %d have no checkpoint yet\n", report.Sealed)
		}
		_, err = io.WriteString(cmd.OutOrStdout(), out)
		return err
	}
	return cmd
}

// auditReport is audit.Report for programs.
type auditReport struct {
	Lines       int       `json:"lines"`
	Checkpoints int       `json:"checkpoints"`
	First       uint64    `json:"first"`
	Last        uint64    `json:"last"`
	Sealed      uint64    `json:"sealed"`
	Head        string    `json:"head"`
	Torn        int64     `json:"torn_bytes"`
	From        time.Time `json:"from"`
	Until       time.Time `json:"until"`
}

// configuredAudit says what to verify where the broker itself runs.
func configuredAudit(ctx context.Context, file string, args []string) (*keys.Archive, []string, error) {
	c, err := loadConfig(file)
	if err != nil {
		return nil, nil, err
	}
	root, err := c.openRoot(ctx)
	if err != nil {
		return nil, nil, err
	}
	defer root.Close()
	if len(args) == 0 {
		args = []string{c.path(c.Audit.File)}
	}
	roots, err := keys.KnownRoots(c.ringOptions(root, nil, nil))
	if err != nil {
		return nil, nil, err
	}
	return &keys.Archive{Roots: roots, URL: c.URL}, args, nil
}

// badAudit adds what to do to an error of verifying.
func badAudit(err error) error {
	if errors.Is(err, keys.ErrToken) {
		return hint{err, "if a broker that is gone wrote it, give the certificates of all its roots, kept from \"brevetd keys export-trust --pem\": --root FILE --url URL"}
	}
	return err
}

func readRoots(files []string) ([]*x509.Certificate, error) {
	var all []*x509.Certificate
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		roots, err := trust.ParseRootsPEM(data)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		all = append(all, roots...)
	}
	return all, nil
}

func verifyAudit(archive *keys.Archive, names []string) (audit.Report, error) {
	readers := make([]io.Reader, len(names))
	for i, name := range names {
		f, err := os.Open(name)
		if err != nil {
			return audit.Report{}, err
		}
		defer f.Close()
		readers[i] = f
	}
	return audit.Verify(io.MultiReader(readers...), archive.Verify)
}
