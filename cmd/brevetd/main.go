// Command brevetd is the broker: the server, and the tools of those who run it.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

// version is set by the linker: see the Makefile.
var version = "devel"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// Exit codes.
const (
	exitOK      = 0
	exitFailure = 1 // it did not work; stderr says why
	exitUsage   = 2 // the command line was not understood
)

// A hint is an error with what to do about it.
type hint struct {
	error
	hint string
}

func (h hint) Unwrap() error { return h.error }

// A usageError is a command line that was not understood.
type usageError struct{ error }

func (u usageError) Unwrap() error { return u.error }

// run is the whole program, so that tests run what users run.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	root := &cobra.Command{
		Use:   "brevetd",
		Short: "A credential broker for CI/CD jobs",
		Long: "brevetd exchanges the OIDC tokens of CI jobs for short-lived leased credentials.\n" +
			"Try it on this machine with: brevetd dev",
		SilenceUsage: true, SilenceErrors: true, Version: version,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
	}
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	root.Args = noArgs
	root.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usageError{hint{err, "see: " + cmd.CommandPath() + " --help"}}
	})
	root.AddCommand(serveCommand(), devCommand(), checkCommand(), policyCommand(), keysCommand(), leasesCommand(), auditCommand())
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	fmt.Fprintf(stderr, "brevetd: error: %v\n", err)
	if h, ok := errors.AsType[hint](err); ok {
		fmt.Fprintf(stderr, "brevetd: hint: %s\n", h.hint)
	}
	if _, ok := errors.AsType[usageError](err); ok {
		return exitUsage
	}
	return exitFailure
}

// noArgs refuses arguments, of which an unknown command is one.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usageError{hint{fmt.Errorf("unknown command or argument %q for %q", args[0], cmd.CommandPath()), "see: " + cmd.CommandPath() + " --help"}}
	}
	return nil
}

// group makes a command that only holds others.
func group(use, short string, commands ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Args: noArgs, RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	cmd.AddCommand(commands...)
	return cmd
}

// configFlag adds --config to cmd.
func configFlag(cmd *cobra.Command) *string {
	return cmd.Flags().StringP("config", "c", "brevetd.yaml", "configuration `file`")
}

// jsonFlag adds --json to cmd.
func jsonFlag(cmd *cobra.Command) *bool {
	return cmd.Flags().Bool("json", false, "print JSON for programs")
}
