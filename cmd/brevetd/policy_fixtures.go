package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/brevet-dev/brevet/issuers/presets"
	"github.com/brevet-dev/brevet/policies"
	"github.com/brevet-dev/brevet/policies/strictyaml"
)

func policyFixturesCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "fixtures [PRESET [FIXTURE]]",
		Short: "List the example tokens that tests can start from, or show one",
		Long: "fixtures lists what a test may say after \"fixture:\", for each platform. With a\n" +
			"preset and the name of a fixture it shows the claims of that token, ready to be\n" +
			"pasted into a test.",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 2 {
				return usageError{fmt.Errorf("give a preset and a fixture, not %d arguments", len(args))}
			}
			return nil
		},
	}
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		known := presets.Known()
		if len(args) == 0 {
			return listFixtures(cmd.OutOrStdout(), known, *asJSON)
		}
		p := known[args[0]]
		if p == nil {
			return usageError{fmt.Errorf("there is no preset %q%s", args[0], strictyaml.DidYouMean(args[0], slices.Collect(maps.Keys(known))))}
		}
		if len(args) == 1 {
			return listFixtures(cmd.OutOrStdout(), map[string]*presets.Preset{p.Name: p}, *asJSON)
		}
		return showFixture(cmd.OutOrStdout(), p, args[1], *asJSON)
	}
	return cmd
}

func listFixtures(w io.Writer, known map[string]*presets.Preset, asJSON bool) error {
	all := map[string][]string{}
	for name, p := range known {
		if fixtures := policies.Fixtures(p); len(fixtures) > 0 && len(p.Claims) > 0 {
			all[name] = fixtures
		}
	}
	if asJSON {
		return writeJSON(w, all)
	}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if _, err := fmt.Fprintf(w, "%s\n%s", name, wrapped("  ", strings.Join(all[name], " "))); err != nil {
			return err
		}
	}
	return nil
}

func showFixture(w io.Writer, p *presets.Preset, name string, asJSON bool) error {
	known := policies.Fixtures(p)
	if !slices.Contains(known, name) {
		return usageError{fmt.Errorf("preset %s has no fixture %q%s", p.Name, name, strictyaml.DidYouMean(name, known))}
	}
	claims, err := policies.Fixture(p, name)
	if err != nil {
		return err
	}
	if asJSON {
		return writeJSON(w, claims)
	}
	out := "claims:\n"
	for _, claim := range slices.Sorted(maps.Keys(claims)) {
		out += fmt.Sprintf("  %s: %s\n", claim, yamlValue(claims[claim]))
	}
	_, err = io.WriteString(w, out)
	return err
}

// yamlValue writes a claim's value on one line.
func yamlValue(v any) string {
	switch v := v.(type) {
	case string:
		return strconv.Quote(v)
	case []string:
		var items []string
		for _, item := range v {
			items = append(items, strconv.Quote(item))
		}
		return "[" + strings.Join(items, ", ") + "]"
	}
	return fmt.Sprint(v)
}
