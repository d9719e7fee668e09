package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/brevet-dev/brevet/policies"
)

// summary says what a diff comes to.
func (r *diffReport) summary() string {
	if len(r.Changes) == 0 && r.Gains == 0 {
		return fmt.Sprintf("no difference: %s mean what they meant", count(r.Same, "policy"))
	}
	text := fmt.Sprintf("%s, %s; %s unchanged", count(len(r.Changes), "change"), count(r.Gains, "gain"), count(r.Same, "policy"))
	if r.Unsearched > 0 {
		text += fmt.Sprintf("; there is too much to compare: of %s gains could not be ruled out", count(r.Unsearched, "change"))
	}
	return text
}

func writeDiff(w io.Writer, r *diffReport) error {
	out := &strings.Builder{}
	fmt.Fprintln(out, r.summary())
	for _, c := range r.Changes {
		fmt.Fprintf(out, "\n%s %s (%s)\n", c.Kind, plain(c.Policy), plain(c.Place))
		for _, line := range c.Details {
			out.WriteString(wrapped("  ", line))
		}
		for _, e := range c.Effects {
			out.WriteString(wrapped("  ", effectText(e)))
			for _, line := range claimLines(c, e.Claims) {
				fmt.Fprintln(out, "      "+plain(line))
			}
		}
		if len(c.Effects) == 0 {
			fmt.Fprintln(out, "  nobody gains or loses by it")
		}
	}
	if _, err := io.WriteString(w, out.String()); err != nil || r.Replay == nil {
		return err
	}
	return r.Replay.write(w)
}

// effectText says what an effect is. The token that shows it comes after it.
func effectText(e policies.Effect) string {
	sign := "-"
	if e.Kind.IsGain() {
		sign = "+"
	}
	text := sign + " " + string(e.Kind)
	if e.Credential != "" {
		text += " " + e.Credential
	}
	if len(e.Terms) > 0 {
		text += ": " + strings.Join(e.Terms, ", ")
	}
	switch {
	case e.Credential == "":
		return text
	case e.Claims == nil:
		return text + "; no token was found that shows it, and none can be ruled out"
	}
	return text + "; by a token of " + e.Issuer + " such as"
}

// claimLines are the claims that a change hangs on, as they stand in a YAML
// file. What else such a token has --json tells.
func claimLines(c policies.Difference, claims map[string]any) []string {
	if claims == nil {
		return nil
	}
	var lines []string
	for _, name := range c.About {
		if claims[name] == nil {
			lines = append(lines, "# no "+name)
			continue
		}
		value, err := json.Marshal(claims[name])
		if err != nil {
			value = []byte(`"?"`)
		}
		lines = append(lines, name+": "+string(value))
	}
	return lines
}

func (r *replayReport) heading() string {
	text := fmt.Sprintf("%s of recorded exchanges decided about with both", count(r.Tokens, "token"))
	if r.Unknown > 0 {
		text += fmt.Sprintf("; %d not, as their issuers or claims are not known any more", r.Unknown)
	}
	if r.Omitted > 0 {
		text += fmt.Sprintf("; %d outcomes are left out, there are too many", r.Omitted)
	}
	return text
}

func (r *replayReport) write(w io.Writer) error {
	fmt.Fprintf(w, "\n%s\n", r.heading())
	if len(r.Outcomes) == 0 {
		_, err := fmt.Fprintln(w, "none of them gains or loses anything")
		return err
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "EFFECT\tCREDENTIAL\tPROJECT\tISSUER\tTOKENS\tPOLICY\tTERMS")
	for _, o := range r.Outcomes {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%d\t%s\t%s\n", o.Kind, o.Credential, plain(projectText(o)), o.Issuer, o.Tokens, plain(o.Policy), plain(strings.Join(o.Terms, ", ")))
	}
	return t.Flush()
}

func projectText(o policies.Outcome) string {
	switch {
	case o.Project != "" && o.ProjectID != "":
		return o.Project + " (" + o.ProjectID + ")"
	case o.Project+o.ProjectID == "":
		return "-"
	}
	return o.Project + o.ProjectID
}

// writeMarkdown is for a comment at a pull request. What people and platforms
// named stands in code, where it means nothing.
func writeMarkdown(w io.Writer, r *diffReport) error {
	out := &strings.Builder{}
	fmt.Fprintf(out, "### Policies: %s\n", r.summary())
	for _, c := range r.Changes {
		fmt.Fprintf(out, "\n#### %s %s\n\n%s\n\n", c.Kind, code(c.Policy), code(c.Place))
		if len(c.Details) > 0 {
			out.WriteString(fenced(c.Details))
		}
		for _, e := range c.Effects {
			fmt.Fprintf(out, "\n- %s\n", effectMarkdown(e))
			if e.Claims != nil {
				fmt.Fprintf(out, "\n<details><summary>the token</summary>\n\n%s\n</details>\n", fenced(claimLines(c, e.Claims)))
			}
		}
		if len(c.Effects) == 0 {
			out.WriteString("\nNobody gains or loses by it.\n")
		}
	}
	if r.Replay != nil {
		r.Replay.markdown(out)
	}
	_, err := io.WriteString(w, out.String())
	return err
}

// effectMarkdown is [effectText] with what was named in code.
func effectMarkdown(e policies.Effect) string {
	text := string(e.Kind)
	if e.Kind.IsGain() {
		text = "**" + text + "**"
	}
	if e.Credential == "" {
		return text
	}
	text += " " + code(e.Credential)
	if len(e.Terms) > 0 {
		text += ": " + code(strings.Join(e.Terms, ", "))
	}
	if e.Claims == nil {
		return text + "; no token was found that shows it, and none can be ruled out"
	}
	return text + ", by a token of " + code(e.Issuer)
}

func (r *replayReport) markdown(out *strings.Builder) {
	fmt.Fprintf(out, "\n#### Replay\n\n%s.\n", r.heading())
	if len(r.Outcomes) == 0 {
		out.WriteString("\nNone of them gains or loses anything.\n")
		return
	}
	out.WriteString("\n| effect | credential | project | issuer | tokens | policy | terms |\n|---|---|---|---|---|---|---|\n")
	for _, o := range r.Outcomes {
		fmt.Fprintf(out, "| %s | %s | %s | %s | %d | %s | %s |\n", o.Kind, code(o.Credential), code(projectText(o)), code(o.Issuer), o.Tokens, code(o.Policy), code(strings.Join(o.Terms, ", ")))
	}
}

// code is text in a line, as it is. A ` and a | would end what it stands in.
func code(text string) string {
	if text == "" {
		return ""
	}
	return "`" + strings.NewReplacer("`", "'", "|", "¦").Replace(plain(text)) + "`"
}

// fenced is a block of lines, whatever they hold.
func fenced(lines []string) string {
	fence := "```"
	for _, line := range lines {
		for strings.Contains(line, fence) {
			fence += "`"
		}
	}
	out := fence + "text\n"
	for _, line := range lines {
		out += plain(strings.ReplaceAll(line, "\n", " ")) + "\n"
	}
	return out + fence + "\n"
}
