package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/brevet-dev/brevet/policies"
)

func policyLintCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "lint",
		Short: "Find what policies say and their authors may not have meant",
		Long: "lint looks for policies that let in more, or less, than they seem to, shows for\n" +
			"each finding a token that the policies decide on in this way, and says what\n" +
			"mends it. What the findings mean is in docs/lint.md. Exit status 1 says that\n" +
			"there is an error, with --strict also that there is a warning.",
		Args: noArgs,
	}
	from, asJSON := policyFlags(cmd), jsonFlag(cmd)
	format := cmd.Flags().String("format", "text", "what to print, by `name`: text, json, or github (annotations)")
	strict := cmd.Flags().Bool("strict", false, "fail for warnings too")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if *asJSON {
			*format = "json"
		}
		write, ok := lintWriters()[*format]
		if !ok {
			return usageError{fmt.Errorf("there is no format %q: say text, json or github", *format)}
		}
		r, err := lint(from, cmd.ErrOrStderr())
		if err != nil {
			return refused(cmd.OutOrStdout(), *format, err)
		}
		if r.OK = r.Errors == 0 && (r.Warnings == 0 || !*strict); !r.OK {
			err = fmt.Errorf("lint: %s", r.sum())
		}
		if failed := write(cmd.OutOrStdout(), r); failed != nil {
			return failed
		}
		return err
	}
	return cmd
}

// lintWriters are the formats.
func lintWriters() map[string]func(io.Writer, *lintReport) error {
	return map[string]func(io.Writer, *lintReport) error{
		"text": writeFindings, "github": writeFindingAnnotations,
		"json": func(w io.Writer, r *lintReport) error { return writeJSON(w, r) },
	}
}

// A lintReport is what lint found.
type lintReport struct {
	OK       bool               `json:"ok"`
	Policies int                `json:"policies"`
	Errors   int                `json:"errors"`
	Warnings int                `json:"warnings"`
	Infos    int                `json:"infos"`
	Findings []policies.Finding `json:"findings"`
}

func lint(from policySource, stderr io.Writer) (*lintReport, error) {
	c, err := from.config()
	if err != nil {
		return nil, err
	}
	o, err := c.policyOptions()
	if err != nil {
		return nil, err
	}
	o.Sources = true
	set, err := policies.Load(c.policyFolder(), o)
	if err != nil {
		return nil, fmt.Errorf("loading policies:\n%w", err)
	}
	r := &lintReport{Policies: set.Len(), Findings: []policies.Finding{}}
	for _, f := range set.Lint(lintProgress(stderr, set.Len())) {
		switch f.Severity {
		case policies.SeverityError:
			r.Errors++
		case policies.SeverityWarning:
			r.Warnings++
		default:
			r.Infos++
		}
		r.Findings = append(r.Findings, f)
	}
	return r, nil
}

// lintProgress tells how far it is, once a second, from the first second on.
func lintProgress(w io.Writer, all int) func(done int) {
	next := time.Now().Add(time.Second)
	return func(done int) {
		if now := time.Now(); now.After(next) {
			next = now.Add(time.Second)
			fmt.Fprintf(w, "lint: %d of %d policies\n", done, all)
		}
	}
}

func (r *lintReport) sum() string {
	return fmt.Sprintf("%s, %s", count(r.Errors, "error"), count(r.Warnings, "warning"))
}

func writeFindings(w io.Writer, r *lintReport) error {
	var out strings.Builder
	p := paletteFor(w)
	for i := range r.Findings {
		writeFinding(&out, p, &r.Findings[i])
	}
	fmt.Fprintf(&out, "%s: %s, %s\n", count(r.Policies, "policy"), r.sum(), count(r.Infos, "remark"))
	_, err := io.WriteString(w, out.String())
	return err
}

func writeFinding(out *strings.Builder, p palette, f *policies.Finding) {
	severity := string(f.Severity)
	if f.Severity == policies.SeverityError {
		severity = p.bad(severity)
	}
	fmt.Fprintf(out, "%s: %s %s %s\n", plain(f.Place()), severity, f.ID, f.Rule)
	message := f.Message
	if f.Policy != "" {
		message = "policy " + f.Policy + ": " + message
	}
	out.WriteString(wrapped("    ", message))
	if f.Token != nil {
		out.WriteString(wrapped("    ", "a token with "+tokenText(f)+" "+f.Shows))
	}
	for _, e := range f.Mend {
		out.WriteString(editText(&e))
	}
	out.WriteByte('\n')
}

// tokenText writes the claims of a finding's token that it hangs on. All of
// them, which policy explain --claims takes, are in the JSON.
func tokenText(f *policies.Finding) string {
	list := make([]string, len(f.Telling))
	for i, claim := range f.Telling {
		text, err := json.Marshal(f.Token[claim])
		if err != nil {
			text = fmt.Append(nil, f.Token[claim])
		}
		list[i] = claim + " " + string(text)
	}
	return strings.Join(list, ", ")
}

// editText says what to change. What is to be pasted is not broken into lines.
func editText(e *policies.Edit) string {
	what := e.Action + " " + e.Path
	switch into := cmp.Or(e.Into, "the document"); {
	case e.Action == "add":
		what = "add to " + into
	case e.Path == "":
		what = "remove the document"
	}
	text := fmt.Sprintf("    mend: %s, line %d", plain(what), e.Line)
	if e.Action == "add-document" {
		text = "    mend: add a document"
	}
	if e.Note != "" {
		text += " (" + plain(e.Note) + ")"
	}
	if e.YAML != "" {
		text += ":\n        " + plain(e.YAML)
	}
	return text + "\n"
}

// writeFindingAnnotations writes workflow commands of GitHub, which its pages
// show beside the lines.
func writeFindingAnnotations(w io.Writer, r *lintReport) error {
	levels := map[policies.Severity]string{policies.SeverityError: "error", policies.SeverityWarning: "warning", policies.SeverityInfo: "notice"}
	for _, f := range r.Findings {
		message := f.Message
		if f.Token != nil {
			message += "\na token with " + tokenText(&f) + " " + f.Shows
		}
		for _, e := range f.Mend {
			message += "\n" + strings.TrimSpace(editText(&e))
		}
		annotate(w, levels[f.Severity], f.File, f.Line, f.ID+" "+f.Rule, message)
	}
	return nil
}
