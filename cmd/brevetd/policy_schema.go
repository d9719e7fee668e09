package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/brevet-dev/brevet/policies"
)

func policySchemaCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "schema [policy|test|guardrails|defaults]",
		Short: "Print a JSON Schema of policy documents, for editors",
		Long: "schema prints a JSON Schema (draft 2020-12) of one kind of document, or without a\n" +
			"kind of all that a file of policies may hold. With a configuration it knows the\n" +
			"issuers, their claims and the credentials by name. An editor with the YAML\n" +
			"language server finds it by the first line of a file:\n\n" +
			"  # yaml-language-server: $schema=policies.schema.json\n\n" +
			"It is for typing. Whether a policy loads, brevetd check says.",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 || len(args) == 1 && !slices.Contains(policies.SchemaKinds(), args[0]) {
				return usageError{fmt.Errorf("%s takes one of: %s", cmd.CommandPath(), strings.Join(policies.SchemaKinds(), ", "))}
			}
			return nil
		},
	}
	file := configFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		o, err := schemaOptions(*file, cmd.Flags().Changed("config"))
		if err != nil {
			return err
		}
		out, err := policies.Schema(strings.Join(args, ""), o)
		if err != nil {
			return err
		}
		_, err = cmd.OutOrStdout().Write(out)
		return err
	}
	return cmd
}

// schemaOptions reads what policies may refer to from the configuration. Unless
// it was asked for, there need not be one.
func schemaOptions(file string, asked bool) (policies.Options, error) {
	if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) && !asked {
		return policies.Options{}, nil
	}
	c, err := loadConfig(file)
	if err != nil {
		return policies.Options{}, err
	}
	return c.policyOptions()
}
