package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/brevet-dev/brevet/policies"
)

// policyCommand holds what those need who write policies and review them. Each
// command is in a file of its own, policy_NAME.go.
func policyCommand() *cobra.Command {
	return group("policy", "Test, lint, explain and compare policies",
		policyStatusCommand(),
	)
}

// policySet reads the configuration and its policies, as serve does.
func policySet(ctx context.Context, file string) (*config, *policies.Set, error) {
	c, err := loadConfig(file)
	if err != nil {
		return nil, nil, err
	}
	set, err := c.loadPolicies(ctx)
	return c, set, err
}
