package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/plugins/runner"
	"github.com/brevet-dev/brevet/plugins/runner/mask"
)

// leasedName is the variable by which exec tells its command where the values of
// leases are: a JSON object, "credential.value" → the variable that has it, or @ and
// the variable that has the path of a file with it, or "" for a value that is in
// neither. It holds no value itself.
const leasedName = "BREVET_LEASED"

// maxFileValue in bytes bounds a file with a value: what is longer is not masked.
const maxFileValue = mask.MaxLength

// scanTimeout bounds a scan unless --timeout says otherwise: some hundred GB.
const scanTimeout = 10 * time.Minute

// scan looks through files and archives for values. Unsure means no: what it could
// not look through is no success.
func (p *program) scan(ctx context.Context, args []string) (int, error) {
	f := flags("scan")
	values, sessionFile := f.String("values", "", ""), f.String("session-file", "", "")
	without := f.String("without", "", "")
	timeout := f.Duration("timeout", scanTimeout, "")
	asJSON := f.Bool("json", false, "")
	paths, err := p.parse(f, args)
	if err == nil && (len(paths) == 0 || *values != "" && *sessionFile != "" || *timeout <= 0) {
		err = usagef("scan: write  brevet scan [--values FILE | --session-file FILE] PATH...")
	}
	if err != nil {
		return statusOf(err), err
	}
	sought, err := p.sought(*values, *sessionFile)
	if err != nil {
		return statusOf(err), err
	}
	s, err := newScan(sought, splitNames(*without))
	if err != nil {
		return statusOf(err), err
	}
	signals := runner.Catch()
	defer signals.Stop()
	ctx, release := signals.Context(ctx)
	defer release()
	ctx, cancel := context.WithTimeout(ctx, *timeout)
	defer cancel()
	report := p.watched(s, func() *runner.ScanReport { return s.Run(ctx, paths) })
	if i, ok := errors.AsType[runner.Interrupted](context.Cause(ctx)); ok {
		return i.Status(), i
	}
	if err := p.tellScan(report, *asJSON); err != nil {
		err = outputError{fmt.Errorf("printing what was found: %w", err)}
		return statusOf(err), err
	}
	return p.judgeScan(report)
}

// judgeScan returns the exit status, and says on stderr what it means.
func (p *program) judgeScan(r *runner.ScanReport) (int, error) {
	for _, s := range r.Skipped {
		p.report("note", s.Path+" was skipped: "+s.Reason)
	}
	for _, g := range r.Gaps {
		p.report("warning", g.Path+" could not be looked through whole: "+g.Reason)
	}
	if r.More > 0 {
		p.report("warning", fmt.Sprintf("%d more places are not listed", r.More))
	}
	switch {
	case len(r.Findings) > 0:
		return exitFound, &runner.Failure{
			Kind: runner.Misconfigured, Err: errors.New("there are values in what was looked through"),
			Hint: "do not upload these files; if they were, end the credentials: brevet revoke",
		}
	case len(r.Gaps) > 0:
		return exitUnsure, &runner.Failure{
			Kind: runner.Misconfigured, Err: errors.New("nothing was found, but not everything could be looked through"),
			Hint: "unpack it first, leave it out, or name what it leads to",
		}
	}
	return 0, nil
}

// tellScan prints the findings, or the whole report as JSON.
func (p *program) tellScan(r *runner.ScanReport, asJSON bool) error {
	text := table(r.Findings)
	switch {
	case asJSON:
		r.Findings, r.Gaps, r.Skipped = append([]*runner.Finding{}, r.Findings...), append([]*runner.Gap{}, r.Gaps...), append([]*runner.Gap{}, r.Skipped...)
		raw, err := json.MarshalIndent(r, "", "  ")
		if err != nil {
			return err
		}
		text = string(raw) + "\n"
	case len(r.Findings) == 0:
		text = fmt.Sprintf("looked through %d files, %s: no values\n", r.Files, size(r.Bytes))
	}
	_, err := io.WriteString(p.stdout, text)
	return err
}

// table lists findings in columns.
func table(findings []*runner.Finding) string {
	rows := [][]string{{"PATH", "AT", "ENCODING", "VALUE", "TIMES"}}
	for _, f := range findings {
		rows = append(rows, []string{f.Path, place(f), f.Encoding, runner.Printable(f.Value), strconv.Itoa(f.Count)})
	}
	var widths [5]int
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	var out strings.Builder
	for _, row := range rows {
		for i, cell := range row[:len(row)-1] {
			fmt.Fprintf(&out, "%-*s  ", widths[i], cell)
		}
		fmt.Fprintln(&out, row[len(row)-1])
	}
	return out.String()
}

func place(f *runner.Finding) string {
	switch {
	case f.Line == 0:
		return "its name"
	case f.Binary:
		return fmt.Sprintf("byte %d", f.Offset)
	}
	return fmt.Sprintf("line %d", f.Line)
}

// size writes a number of bytes for people.
func size(n int64) string {
	if n < 1<<20 {
		return fmt.Sprintf("%d KiB", (n+1023)>>10)
	}
	return fmt.Sprintf("%d MiB", n>>20)
}

// watched runs f. On a terminal it shows how far s has come, after a second.
func (p *program) watched(s *runner.Scan, f func() *runner.ScanReport) *runner.ScanReport {
	if !isDevice(p.stderr) {
		return f()
	}
	done := make(chan *runner.ScanReport, 1)
	go func() { done <- f() }()
	tick, shown := time.NewTicker(time.Second), false
	defer tick.Stop()
	for {
		select {
		case r := <-done:
			if shown {
				io.WriteString(p.stderr, "\r\x1b[K")
			}
			return r
		case <-tick.C:
			files, n := s.Progress()
			fmt.Fprintf(p.stderr, "\r\x1b[Kbrevet: looked through %d files, %s", files, size(n))
			shown = true
		}
	}
}

// newScan makes a Scan for values. One that cannot be found must be named in
// without.
func newScan(sought []runner.Sensitive, without []string) (*runner.Scan, error) {
	sought = slices.DeleteFunc(sought, func(s runner.Sensitive) bool { return slices.Contains(without, s.Name) })
	s := &runner.Scan{}
	values := make([]api.Secret, len(sought))
	for i, v := range sought {
		values[i], s.Names = v.Value, append(s.Names, v.Name)
	}
	masker, refused := mask.New(values)
	s.Masker = masker
	var problems, names []string
	for _, r := range refused {
		if values[r.Index].IsZero() {
			r.Reason = "not in the environment, or a file of its own"
		}
		problems, names = append(problems, fmt.Sprintf("%s (%s)", s.Names[r.Index], r.Reason)), append(names, s.Names[r.Index])
	}
	switch {
	case len(sought) == 0:
		return nil, misconfigured("", "no value to look for is left")
	case len(problems) > 0:
		return nil, misconfigured("to look for the others only: --without \""+strings.Join(names, ",")+"\"", "cannot look for %s", strings.Join(problems, ", "))
	}
	return s, nil
}

// sought returns the values to look for: of a file of values, of a file that brevet
// get wrote, or of the command that brevet exec runs, from its environment.
func (p *program) sought(values, sessionFile string) ([]runner.Sensitive, error) {
	switch {
	case values != "":
		return p.soughtValues(values)
	case sessionFile != "":
		return p.soughtSession(sessionFile)
	}
	return p.soughtHere()
}

func (p *program) soughtValues(file string) ([]runner.Sensitive, error) {
	values, err := p.readValues(file)
	if err != nil {
		return nil, misconfigured(`the file holds the values to look for, as ["value", "another"]`, "%w", err)
	}
	out := make([]runner.Sensitive, len(values))
	for i, v := range values {
		out[i] = runner.Sensitive{Name: fmt.Sprintf("value %d", i+1), Value: v}
	}
	return out, nil
}

// soughtSession returns the sensitive values of the leases in a file, and its
// session token.
func (p *program) soughtSession(file string) ([]runner.Sensitive, error) {
	const hint = "the file is what brevet get NAME --with-session prints"
	raw, err := p.read(file, maxSession)
	if err != nil {
		return nil, misconfigured(hint, "reading the session file: %w", err)
	}
	answer, err := runner.ParseAnswer(raw)
	if err != nil {
		return nil, misconfigured(hint, "the session file: %w", err)
	}
	out := runner.SensitiveValues(answer.Leases)
	if !answer.AccessToken.IsZero() {
		out = append(out, runner.Sensitive{Name: "session_token", Value: answer.AccessToken})
	}
	return out, nil
}

// soughtHere returns the values that exec has put into this environment.
func (p *program) soughtHere() ([]runner.Sensitive, error) {
	const hint = "give --values FILE or --session-file FILE; without them scan is for the command of brevet exec"
	names := map[string]string{}
	if err := json.Unmarshal([]byte(p.env.Get(leasedName)), &names); err != nil {
		return nil, misconfigured(hint, "no values to look for: this is not the environment of brevet exec")
	}
	var out []runner.Sensitive
	for _, name := range slices.Sorted(maps.Keys(names)) {
		value := p.env.Get(names[name])
		if variable, isFile := strings.CutPrefix(names[name], "@"); isFile && p.env.Get(variable) != "" {
			raw, err := p.read(p.env.Get(variable), maxFileValue)
			if err != nil {
				return nil, misconfigured("", "reading the value %s from the file that %s names: %w", name, variable, err)
			}
			value = string(raw)
		}
		out = append(out, runner.Sensitive{Name: name, Value: api.NewSecret(value)})
	}
	return out, nil
}

// leased returns the entry of an environment that tells scan where the sensitive
// values of leases are, there and in files, beside those that it tells of already.
func leased(env runner.Env, leases []api.Lease, files []runner.FileWish) (string, error) {
	names := map[string]string{}
	if err := json.Unmarshal([]byte(env.Get(leasedName)), &names); err != nil {
		names = map[string]string{} // there are none, or somebody else's
	}
	for _, v := range runner.SensitiveValues(leases) {
		names[v.Name] = ""
		for variable, value := range v.Of.Env {
			isFile := func(w runner.FileWish) bool { return w.Variable == variable && w.Template == "" }
			switch {
			case value != v.ValueName:
			case env.Get(variable) == v.Value.Reveal():
				names[v.Name] = variable
			case slices.ContainsFunc(files, isFile):
				names[v.Name] = "@" + variable
			}
		}
	}
	text, err := json.Marshal(names)
	return leasedName + "=" + string(text), err
}
