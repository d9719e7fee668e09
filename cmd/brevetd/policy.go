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
	"golang.org/x/term"

	"github.com/brevet-dev/brevet/policies"
	"github.com/brevet-dev/brevet/policies/strictyaml"
)

// policyCommand holds what those need who write policies and review them. Each
// command is in a file of its own, policy_NAME.go.
func policyCommand() *cobra.Command {
	return group("policy", "Test, lint, explain and compare policies",
		policyTestCommand(),
		policyLintCommand(),
		policyExplainCommand(),
		policyFixturesCommand(),
		policyDiffCommand(),
		policyStatusCommand(),
		policySchemaCommand(),
	)
}

// A policySource says which policies a command reads: those of a configuration,
// or of another folder by its issuers and credentials.
type policySource struct{ file, dir *string }

// policyFlags adds --config and --policies to cmd.
func policyFlags(cmd *cobra.Command) policySource {
	dir := cmd.Flags().String("policies", "", "`folder` to read instead of the configuration's, as it is on disk")
	return policySource{configFlag(cmd), dir}
}

// config reads the configuration. What it says of policies is replaced by
// --policies: an author's folder is nobody's signed commit yet.
func (s policySource) config() (*config, error) {
	c, err := loadConfig(*s.file)
	if err != nil || *s.dir == "" {
		return c, err
	}
	dir, err := filepath.Rel(c.dir, *s.dir)
	if err != nil {
		dir, err = filepath.Abs(*s.dir)
	}
	c.Policies = policiesConfig{Dir: dir}
	return c, err
}

// set reads the configuration and the policies, as serve does.
func (s policySource) set(ctx context.Context) (*config, *policies.Set, error) {
	c, err := s.config()
	if err != nil {
		return nil, nil, err
	}
	set, err := c.loadPolicies(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("loading policies:\n%w", err)
	}
	return c, set, nil
}

// A refusal is what a command prints as JSON when there is nothing to report on,
// as policies do not load: the begin of what check prints.
type refusal struct {
	OK       bool     `json:"ok"`
	Problems []string `json:"problems"`
}

// refused returns err, after telling programs of it where they look for the
// report.
func refused(w io.Writer, format string, err error) error {
	if format != "json" {
		return err
	}
	if failed := writeJSON(w, refusal{Problems: problemsOf(err)}); failed != nil {
		return failed
	}
	return err
}

// problemsOf returns each problem of a file, or else the error.
func problemsOf(err error) []string {
	problems, ok := errors.AsType[strictyaml.Problems](err)
	if !ok {
		return []string{err.Error()}
	}
	list := make([]string, len(problems))
	for i, p := range problems {
		list[i] = p.String()
	}
	return list
}

// columns is the width that output for people is written for.
const columns = 80

// wrapped breaks text into lines between words, each indented, of at most
// columns characters where words allow it. What would move a cursor is
// replaced, and no line begins with what a runner of GitHub takes for a command.
func wrapped(indent, text string) string {
	var out strings.Builder
	line := indent
	for _, word := range strings.Fields(plain(text)) {
		isFull := len([]rune(line))+1+len([]rune(word)) > columns
		if len(line) > len(indent) && isFull && !strings.HasPrefix(word, "::") {
			out.WriteString(line + "\n")
			line = indent
		}
		if len(line) > len(indent) {
			line += " "
		}
		line += word
	}
	return out.String() + line + "\n"
}

// A palette colours words for terminals, and does nothing for anything else or
// if NO_COLOR is set (no-color.org).
type palette struct{ on bool }

func paletteFor(w io.Writer) palette {
	f, isFile := w.(*os.File)
	return paletteOf(isFile && term.IsTerminal(int(f.Fd())), os.Getenv)
}

func paletteOf(isTerminal bool, getenv func(string) string) palette {
	return palette{isTerminal && getenv("NO_COLOR") == "" && getenv("TERM") != "dumb"}
}

func (p palette) good(s string) string { return p.paint("32", s) }
func (p palette) bad(s string) string  { return p.paint("31", s) }

func (p palette) paint(code, s string) string {
	if !p.on {
		return s
	}
	return fmt.Sprintf("\x1b[%sm%s\x1b[0m", code, s)
}
