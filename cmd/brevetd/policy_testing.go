package main

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/brevet-dev/brevet/policies"
)

func policyTestCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "test",
		Short: "Run the policies' tests",
		Long: "test runs the tests that stand in policies, each against its policy, and those of\n" +
			"the files *_test.yaml beside them, each against all policies together, as the\n" +
			"broker decides. With --coverage it also says which parts of policies no test has\n" +
			"seen both ways, hold and not. Exit status 1 says that a test failed.",
		Args: noArgs,
	}
	from, asJSON := policyFlags(cmd), jsonFlag(cmd)
	coverage := cmd.Flags().Bool("coverage", false, "say what no test has seen")
	format := cmd.Flags().String("format", "text", "what to print, by `name`: text, junit, json, or github (annotations)")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if *asJSON {
			*format = "json"
		}
		write, ok := testWriters()[*format]
		if !ok {
			return usageError{fmt.Errorf("there is no format %q: say text, junit, json or github", *format)}
		}
		r, err := runTests(cmd.Context(), from, *coverage)
		if err != nil {
			return refused(cmd.OutOrStdout(), *format, err)
		}
		if err := write(cmd.OutOrStdout(), r); err != nil {
			return err
		}
		if r.Failed > 0 {
			return fmt.Errorf("%d of %s failed", r.Failed, count(len(r.Tests), "test"))
		}
		return nil
	}
	return cmd
}

// testWriters are the formats.
func testWriters() map[string]func(io.Writer, *testReport) error {
	return map[string]func(io.Writer, *testReport) error{
		"text": writeTests, "junit": writeJUnit, "github": writeAnnotations,
		"json": func(w io.Writer, r *testReport) error { return writeJSON(w, r) },
	}
}

// A testReport is what came of all tests.
type testReport struct {
	OK       bool               `json:"ok"`
	Failed   int                `json:"failed"`
	Tests    []testLine         `json:"tests"`
	Warnings []policies.Warning `json:"warnings"` // of policies that are unsafe
	Coverage *policies.Coverage `json:"coverage,omitempty"`
}

type testLine struct {
	Policy  string `json:"policy,omitempty"`
	Name    string `json:"name"`
	File    string `json:"file"`
	Line    int    `json:"line"`
	Passed  bool   `json:"passed"`
	Message string `json:"message,omitempty"`
}

// place is where the test stands, for editors.
func (t *testLine) place() string { return fmt.Sprintf("%s:%d", t.File, t.Line) }

func runTests(ctx context.Context, from policySource, coverage bool) (*testReport, error) {
	_, set, err := from.set(ctx)
	if err != nil {
		return nil, err
	}
	r := &testReport{Tests: []testLine{}, Warnings: append([]policies.Warning{}, set.Warnings()...)}
	for _, t := range set.Test() {
		at, line := splitPlace(t.Pos)
		r.Tests = append(r.Tests, testLine{t.Policy, t.Name, at, line, t.Passed, t.Message})
		if !t.Passed {
			r.Failed++
		}
	}
	r.OK = r.Failed == 0
	if coverage {
		r.Coverage = set.Coverage()
	}
	if len(r.Tests) == 0 {
		return nil, hint{errors.New("there are no tests"), "add tests to the policies, or to a file NAME_test.yaml beside them"}
	}
	return r, nil
}

// splitPlace takes "file:line" apart.
func splitPlace(place string) (file string, line int) {
	i := strings.LastIndexByte(place, ':')
	if i < 0 {
		return place, 0
	}
	line, err := strconv.Atoi(place[i+1:])
	if err != nil {
		return place, 0
	}
	return place[:i], line
}

// byFile puts tests together that stand in one file, in their order.
func (r *testReport) byFile() [][]testLine {
	var files [][]testLine
	at := map[string]int{}
	for _, t := range r.Tests {
		i, known := at[t.File]
		if !known {
			i = len(files)
			at[t.File], files = i, append(files, nil)
		}
		files[i] = append(files[i], t)
	}
	return files
}

func failures(tests []testLine) []testLine {
	var list []testLine
	for _, t := range tests {
		if !t.Passed {
			list = append(list, t)
		}
	}
	return list
}

func writeTests(w io.Writer, r *testReport) error {
	var out strings.Builder
	p := paletteFor(w)
	for _, tests := range r.byFile() {
		failed := failures(tests)
		if len(failed) == 0 {
			fmt.Fprintf(&out, "%s    %s: %s\n", p.good("ok"), tests[0].File, count(len(tests), "test"))
			continue
		}
		fmt.Fprintf(&out, "%s  %s: %d of %s\n", p.bad("FAIL"), tests[0].File, len(failed), count(len(tests), "test"))
		for _, t := range failed {
			fmt.Fprintf(&out, "  %s: %s\n%s", t.place(), plain(t.title()), wrapped("      ", t.Message))
		}
	}
	if r.Failed == 0 {
		fmt.Fprintf(&out, "%s passed\n", count(len(r.Tests), "test"))
	}
	for _, warning := range r.Warnings {
		out.WriteString(wrapped("", warning.String()))
	}
	if r.Coverage != nil {
		writeCoverage(&out, r.Coverage)
	}
	_, err := io.WriteString(w, out.String())
	return err
}

// title names a test for people.
func (t *testLine) title() string {
	if t.Policy == "" {
		return t.Name
	}
	return t.Name + " (policy " + t.Policy + ")"
}

func writeCoverage(w io.Writer, c *policies.Coverage) {
	fmt.Fprintln(w)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight|tabwriter.TabIndent)
	fmt.Fprintln(t, "COVERAGE\tTESTS\t  POLICY")
	for _, p := range c.Policies {
		fmt.Fprintf(t, "%d%%\t%d\t  %s\n", policies.Percent(p.Seen, p.Ways), p.Tests, p.Policy)
	}
	t.Flush()
	for _, u := range c.Unseen {
		fmt.Fprintf(w, "\n%s: %s\n%s%s", u.Place, unseen(u), wrapped("    ", u.Path+": "+u.Want), owner(u))
	}
	if c.Unplayed > 0 {
		fmt.Fprintf(w, "\n%s not looked at to the end: there are too many for so many policies\n", count(c.Unplayed, "test"))
	}
	fmt.Fprintf(w, "\ncoverage: %d%%, %d of %d ways seen\n", policies.Percent(c.Seen, c.Ways), c.Seen, c.Ways)
}

// owner names the policy of a part that stands in another document.
func owner(u policies.Unseen) string {
	if u.Policy == u.Path {
		return "" // a rule of guardrails
	}
	return wrapped("    ", "of policy "+u.Policy)
}

// unseen says what is to be tested.
func unseen(u policies.Unseen) string {
	switch {
	case u.Held:
		return "no test has seen it fail"
	case u.Failed:
		return "no test has seen it hold"
	}
	return "no test has looked at it"
}

// JUnit XML has no standard; this is what GitLab, Jenkins and the others read:
// a suite for each file, a case for each test.
type (
	junitSuites struct {
		XMLName  xml.Name     `xml:"testsuites"`
		Name     string       `xml:"name,attr"`
		Tests    int          `xml:"tests,attr"`
		Failures int          `xml:"failures,attr"`
		Suites   []junitSuite `xml:"testsuite"`
	}
	junitSuite struct {
		Name     string      `xml:"name,attr"`
		Tests    int         `xml:"tests,attr"`
		Failures int         `xml:"failures,attr"`
		Cases    []junitCase `xml:"testcase"`
	}
	junitCase struct {
		Name    string        `xml:"name,attr"`
		Class   string        `xml:"classname,attr"`
		File    string        `xml:"file,attr"`
		Line    int           `xml:"line,attr"`
		Failure *junitFailure `xml:"failure"`
	}
	junitFailure struct {
		Message string `xml:"message,attr"`
		Text    string `xml:",chardata"`
	}
)

func writeJUnit(w io.Writer, r *testReport) error {
	all := junitSuites{Name: "policies", Tests: len(r.Tests), Failures: r.Failed}
	for _, tests := range r.byFile() {
		s := junitSuite{Name: tests[0].File, Tests: len(tests), Failures: len(failures(tests))}
		for _, t := range tests {
			s.Cases = append(s.Cases, t.junit())
		}
		all.Suites = append(all.Suites, s)
	}
	text, err := xml.MarshalIndent(all, "", "  ")
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "%s%s\n", xml.Header, text)
	return err
}

func (t *testLine) junit() junitCase {
	c := junitCase{Name: t.Name, Class: t.Policy, File: t.File, Line: t.Line}
	if c.Class == "" {
		c.Class = "policies"
	}
	if !t.Passed {
		c.Failure = &junitFailure{t.Message, t.place() + ": " + t.Message}
	}
	return c
}

// writeAnnotations writes workflow commands of GitHub Actions: an error at each
// test that failed, a warning at each policy that is unsafe, and a notice at
// what no test has seen.
func writeAnnotations(w io.Writer, r *testReport) error {
	var out strings.Builder
	for _, t := range failures(r.Tests) {
		annotate(&out, "error", t.File, t.Line, t.title(), t.Message)
	}
	for _, warning := range r.Warnings {
		file, line := splitPlace(warning.Place)
		annotate(&out, "warning", file, line, warning.Policy, warning.Message)
	}
	if r.Coverage != nil {
		for _, u := range r.Coverage.Unseen {
			file, line := splitPlace(u.Place)
			annotate(&out, "notice", file, line, u.Policy+" "+u.Path, unseen(u)+": "+u.Want)
		}
	}
	fmt.Fprintf(&out, "%s, %d failed\n", count(len(r.Tests), "test"), r.Failed)
	_, err := io.WriteString(w, out.String())
	return err
}

// annotate writes one workflow command, escaped as actions/toolkit does it in
// packages/core/src/command.ts: nothing in it can begin another one.
func annotate(w io.Writer, level, file string, line int, title, message string) {
	data := strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A")
	property := strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A", ":", "%3A", ",", "%2C")
	fmt.Fprintf(w, "::%s file=%s,line=%d,title=%s::%s\n", level, property.Replace(file), line, property.Replace(title), data.Replace(message))
}
