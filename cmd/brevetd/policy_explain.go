package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/brevet-dev/brevet/issuers"
	"github.com/brevet-dev/brevet/policies"
	"github.com/brevet-dev/brevet/policies/strictyaml"
)

// maxClaimsFile bounds files of claims and tokens: a token has at most 16 KiB.
const maxClaimsFile = 64 << 10

func policyExplainCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "explain {--claims FILE | --token FILE | --request-id ID}",
		Short: "Say why a workload gets a credential, or what would have to change",
		Long: "explain shows, for each policy that could grant to a workload, every condition\n" +
			"with what is wanted and what the token has, and what would make it hold. The\n" +
			"policies are those in the folder now.\n\n" +
			"--claims reads a JSON object of claims, or what \"brevet claims --json\" printed.\n" +
			"--token reads a token; FILE may be - for stdin. It is not verified, unless\n" +
			"--verify fetches the issuer's keys, and never printed.\n" +
			"--request-id takes the claims that the audit log, or a file of it that was\n" +
			"rotated away, has of an exchange.",
		Args: noArgs,
	}
	from, asJSON := policyFlags(cmd), jsonFlag(cmd)
	var in explainInput
	cmd.Flags().StringVar(&in.claims, "claims", "", "JSON `file` of claims, or - for stdin")
	cmd.Flags().StringVar(&in.token, "token", "", "`file` that holds a token, or - for stdin")
	cmd.Flags().StringVar(&in.request, "request-id", "", "`id` of an exchange, as the job was told it")
	cmd.Flags().StringVar(&in.credential, "credential", "", "only the credential of this `name`")
	cmd.Flags().StringVar(&in.issuer, "issuer", "", "`name` of the issuer, if the claims do not tell")
	cmd.Flags().BoolVar(&in.verify, "verify", false, "verify the token as the broker does, with the issuer's keys")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := in.check(); err != nil {
			return err
		}
		r, err := explain(cmd.Context(), from, &in, cmd.InOrStdin())
		if err != nil {
			return err
		}
		if *asJSON {
			return writeJSON(cmd.OutOrStdout(), r)
		}
		return r.write(cmd.OutOrStdout())
	}
	return cmd
}

// explainInput is the command line.
type explainInput struct {
	claims, token, request string
	credential, issuer     string
	verify                 bool
}

func (in *explainInput) check() error {
	given := 0
	for _, s := range []string{in.claims, in.token, in.request} {
		if s != "" {
			given++
		}
	}
	switch {
	case given != 1:
		return usageError{errors.New("say one of --claims, --token and --request-id")}
	case in.verify && in.token == "":
		return usageError{errors.New("--verify is for --token")}
	case in.issuer != "" && in.request != "":
		return usageError{errors.New("the audit log has the issuer: leave --issuer out")}
	}
	return nil
}

// An explanation is what explain shows.
type explanation struct {
	Source   string   `json:"source"`            // of the claims, for people
	Verified bool     `json:"verified"`          // the broker or --verify has checked the token
	Refused  string   `json:"refused,omitempty"` // why the broker would not accept the token
	Digest   string   `json:"policies_digest"`   // of the policies in the folder
	Then     *decided `json:"then,omitempty"`    // what the audit log has of the exchange
	Unused   []string `json:"unused,omitempty"`  // claims that the issuer does not declare
	*policies.Explanation
}

// decided is what the audit log has of an exchange.
type decided struct {
	Outcome string   `json:"outcome"`
	Cause   string   `json:"cause,omitempty"`
	Asked   []string `json:"asked,omitempty"`
	Digest  string   `json:"policies_digest"`
	Same    bool     `json:"same_policies"` // as in the folder
}

func explain(ctx context.Context, from policySource, in *explainInput, stdin io.Reader) (*explanation, error) {
	c, set, err := from.set(ctx)
	if err != nil {
		return nil, err
	}
	known, err := issuers.New(c.Issuers)
	if err != nil {
		return nil, err
	}
	r := &explanation{Digest: set.Digest()}
	x := explainer{config: c, issuers: known, in: in, report: r}
	raw, name, err := x.read(ctx, stdin)
	if err != nil {
		return nil, err
	}
	preset, ok := known.Preset(name)
	if !ok {
		return nil, fmt.Errorf("issuer %q is not configured", name)
	}
	if in.credential != "" && !slices.Contains(c.credentialNames(), in.credential) {
		return nil, fmt.Errorf("credential %q is not configured%s", in.credential, strictyaml.DidYouMean(in.credential, c.credentialNames()))
	}
	id := &issuers.Identity{Issuer: name, Preset: preset}
	read := policies.NamedClaims
	if in.token != "" {
		read = policies.Claims // as the broker reads it
	}
	if id.Claims, r.Unused, err = read(preset, raw); err != nil {
		return nil, err
	}
	r.Unused = slices.DeleteFunc(r.Unused, func(name string) bool { return slices.Contains(registered(), name) })
	r.Explanation = set.Explain(id, in.credential)
	return r, nil
}

// registered are the claims that every token has and no policy sees (RFC 7519,
// section 4.1).
func registered() []string { return []string{"iss", "sub", "aud", "exp", "nbf", "iat", "jti"} }

func (c *config) credentialNames() []string {
	var names []string
	for i := range c.Credentials {
		names = append(names, c.Credentials[i].Name)
	}
	return names
}

// An explainer finds the claims that are to be explained.
type explainer struct {
	config  *config
	issuers *issuers.Set
	in      *explainInput
	report  *explanation
}

// read returns the claims and the name of their issuer.
func (x *explainer) read(ctx context.Context, stdin io.Reader) (map[string]any, string, error) {
	switch {
	case x.in.request != "":
		return x.recorded()
	case x.in.token != "":
		return x.shown(ctx, stdin)
	}
	data, err := readInput(x.in.claims, stdin)
	if err != nil {
		return nil, "", fmt.Errorf("reading claims: %w", err)
	}
	raw, err := jsonObject(data)
	if err != nil {
		return nil, "", fmt.Errorf("reading claims: %s: %w", x.in.claims, err)
	}
	x.report.Source = "the claims in " + x.in.claims
	if x.in.claims == "-" {
		x.report.Source = "claims from stdin"
	}
	raw = within(raw)
	name, err := x.issuer(raw)
	return raw, name, err
}

// within returns the claims in what "brevet claims --json" prints, or in the who
// of a line of the audit log, or raw if it is neither.
func within(raw map[string]any) map[string]any {
	for _, member := range []string{"token", "claims"} {
		if inner, ok := raw[member].(map[string]any); ok {
			return inner
		}
	}
	return raw
}

// shown reads a token. What is wrong with it must not keep its owner from
// seeing what the policies would make of it.
func (x *explainer) shown(ctx context.Context, stdin io.Reader) (map[string]any, string, error) {
	data, err := readInput(x.in.token, stdin)
	if err != nil {
		return nil, "", fmt.Errorf("reading the token: %w", err)
	}
	token := strings.TrimSpace(string(data))
	raw, err := issuers.Peek(token)
	if err != nil {
		return nil, "", fmt.Errorf("reading the token: %w", err)
	}
	x.report.Source = "a token that was not verified: signature, audience and times may be anything"
	if x.in.verify {
		x.report.Source = "a token that was verified"
		if _, err := x.issuers.Verify(ctx, token); err != nil {
			x.report.Source = "a token that the broker would refuse"
			x.report.Refused = err.Error()
		}
		x.report.Verified = x.report.Refused == ""
	}
	name, err := x.issuer(raw)
	return raw, name, err
}

// issuer returns the name of the claims' issuer: the one asked for, that of
// their iss, or the only one there is.
func (x *explainer) issuer(raw map[string]any) (string, error) {
	if x.in.issuer != "" {
		return x.in.issuer, nil
	}
	url, said := raw["iss"].(string)
	name := x.issuers.ByURL(url)
	switch {
	case name != "":
		return name, nil
	case said:
		return "", hint{errors.New("the claims are of an issuer that is not configured: see iss"), "to see what another issuer's policies make of them: --issuer NAME"}
	case len(x.config.Issuers) == 1:
		return x.config.Issuers[0].Name, nil
	}
	return "", usageError{errors.New("the claims have no iss: say whose they are, with --issuer NAME")}
}

// recorded takes the claims of an exchange from the audit log.
func (x *explainer) recorded() (map[string]any, string, error) {
	found, err := findExchange(x.config.path(x.config.Audit.File), x.in.request)
	if err != nil {
		return nil, "", err
	}
	x.report.Source = "the exchange of " + found.Time + ", in " + found.file
	x.report.Then = &decided{found.Outcome, found.Cause, found.Asked, found.Policies, found.Policies == x.report.Digest}
	switch {
	case found.Who == nil:
		return nil, "", fmt.Errorf("no policy was asked: the token was not accepted: %s", plain(found.Cause))
	case found.Who.Claims == nil:
		return nil, "", errors.New("the audit log has no claims of this exchange: they were too long for a line")
	}
	x.report.Verified = true
	return found.Who.Claims, found.Who.Issuer, nil
}

// readInput reads a file, or stdin for -.
func readInput(name string, stdin io.Reader) ([]byte, error) {
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		stdin = f
	}
	data, err := io.ReadAll(io.LimitReader(stdin, maxClaimsFile+1))
	if err == nil && len(data) > maxClaimsFile {
		err = fmt.Errorf("longer than %d bytes", maxClaimsFile)
	}
	return data, err
}

// jsonObject reads an object whose numbers keep their digits. Its error says
// nothing of the text: it may be a token, given by mistake.
func jsonObject(data []byte) (map[string]any, error) {
	d := json.NewDecoder(strings.NewReader(string(data)))
	d.UseNumber()
	var object map[string]any
	if err := d.Decode(&object); err != nil || object == nil || d.More() {
		return nil, errors.New("not a JSON object")
	}
	return object, nil
}

func (r *explanation) write(w io.Writer) error {
	var out strings.Builder
	p := paletteFor(w)
	r.writeHead(&out)
	r.writeAnswers(&out, p)
	for i := range r.Verdicts {
		writeVerdict(&out, p, &r.Verdicts[i], r.Verdicts[i].Policy == r.Nearest)
	}
	_, err := io.WriteString(w, out.String())
	return err
}

func (r *explanation) writeHead(out *strings.Builder) {
	out.WriteString(wrapped("", "claims: "+r.Source))
	if r.Refused != "" {
		out.WriteString(wrapped("        ", r.Refused))
	}
	if len(r.Unused) > 0 {
		out.WriteString(wrapped("        ", "not declared for this issuer, so unknown to policies: "+strings.Join(r.Unused, ", ")))
	}
	fmt.Fprintf(out, "issuer: %s\n", plain(r.Issuer))
	if t := r.Then; t != nil {
		out.WriteString(wrapped("", "then:   "+t.String()))
	}
}

// String says what the audit log has, for people.
func (d *decided) String() string {
	s := d.Outcome
	if len(d.Asked) > 0 {
		s += ", asked for " + strings.Join(d.Asked, ", ")
	}
	if d.Cause != "" {
		s += ": " + d.Cause
	}
	if d.Same {
		return s + "; by the policies that are in the folder now"
	}
	return s + "; by other policies than those in the folder now: " + d.Digest
}

func (r *explanation) writeAnswers(out *strings.Builder, p palette) {
	out.WriteByte('\n')
	if len(r.Answers) == 0 {
		out.WriteString("No policy is for this project or owner.\n")
	}
	for _, a := range r.Answers {
		text := wrapped("", a.Credential+": "+answerText(a))
		text = strings.Replace(text, ": yes", ": "+p.good("yes"), 1)
		out.WriteString(strings.Replace(text, ": no;", ": "+p.bad("no")+";", 1))
	}
}

func answerText(a policies.Answer) string {
	switch {
	case a.Granted && a.Unsafe != "":
		return fmt.Sprintf("yes, by policy %s, which is unsafe: ttl %s, max_ttl %s", a.Policy, a.TTL, a.MaxTTL)
	case a.Granted:
		return fmt.Sprintf("yes, by policy %s: ttl %s, max_ttl %s", a.Policy, a.TTL, a.MaxTTL)
	case len(a.Shadow) > 0:
		return "no; policies in mode shadow would grant it: " + strings.Join(a.Shadow, ", ")
	case len(a.Drift) > 0:
		return "no; only names keep policies from granting it: " + strings.Join(a.Drift, ", ")
	case a.Nearest != "":
		return fmt.Sprintf("no; the nearest is policy %s, where %s fails", a.Nearest, plain(a.Fails))
	}
	return "no; no policy for this project or owner has a grant for it"
}

func writeVerdict(out *strings.Builder, p palette, v *policies.Verdict, nearest bool) {
	fmt.Fprintf(out, "\npolicy %s, %s\n", v.Policy, v.Place)
	out.WriteString(wrapped("  ", verdictText(v, nearest)))
	if v.Unsafe != "" {
		out.WriteString(wrapped("  ", "unsafe, it does not pin "+strings.Join(v.Missing, "; ")+": "+v.Unsafe))
	}
	for i := range v.Parts {
		writePart(out, p, &v.Parts[i], v.First)
	}
	if len(v.Changes) > 0 {
		out.WriteString("  what would have to change:\n")
	}
	for _, c := range v.Changes {
		writeChange(out, c)
	}
}

func verdictText(v *policies.Verdict, nearest bool) string {
	s := "grants " + strings.Join(v.Credentials, ", ")
	if v.Shadow {
		s += "; in mode shadow, so it grants nothing"
	}
	if v.Expires != "" {
		s += "; until " + v.Expires
	}
	switch {
	case v.Holds:
		s += "; holds"
	case v.Failed == 1:
		s += fmt.Sprintf("; 1 of %s fails: %s", count(len(v.Parts), "part"), v.First)
	default:
		s += fmt.Sprintf("; %d of %s fail, %s first", v.Failed, count(len(v.Parts), "part"), v.First)
	}
	if nearest {
		s += "; the nearest"
	}
	if !v.Candidate {
		s += "; for another project or owner"
	}
	return s
}

func mark(p palette, holds bool) string {
	if holds {
		return p.good("ok")
	}
	return p.bad("no")
}

// writePart writes one line for a part that holds, and what it wants for one
// that does not. A condition has its parts below it.
func writePart(out *strings.Builder, p palette, part *policies.Part, first string) {
	fmt.Fprintf(out, "  %s  %s: %s\n", mark(p, part.Holds), plain(part.Path), fitted(part.Got, columns-8-len(part.Path)))
	if part.Kind == policies.PartWhen {
		writeOperands(out, p, part.Parts, "      ")
		if len(part.Parts) > 0 || part.Holds {
			return
		}
	}
	if !part.Holds {
		out.WriteString(wrapped("      ", "wants "+part.Want))
	}
}

func writeOperands(out *strings.Builder, p palette, parts []policies.Part, indent string) {
	for _, sub := range parts {
		fmt.Fprintf(out, "%s%s  %s\n", indent, mark(p, sub.Holds), fitted(sub.Want, columns-4-len(indent)))
		if len(sub.Parts) > 0 {
			writeOperands(out, p, sub.Parts, indent+"    ")
			continue
		}
		out.WriteString(wrapped(indent+"    ", sub.Got))
	}
}

// fitted shortens text to a line.
func fitted(s string, width int) string {
	runes := []rune(plain(s))
	if len(runes) <= max(width, 8) {
		return string(runes)
	}
	return string(runes[:max(width, 8)-1]) + "…"
}

func writeChange(out *strings.Builder, c policies.Change) {
	fmt.Fprintf(out, "    %s, %s\n", plain(c.Path), c.Place)
	if c.YAML != "" {
		out.WriteString(wrapped("      ", c.YAML))
	}
	switch {
	case c.Token != "" && c.YAML != "":
		out.WriteString(wrapped("      ", "or a token with "+c.Token))
	case c.Token != "":
		out.WriteString(wrapped("      ", "a token with "+c.Token))
	}
	if c.Note != "" {
		out.WriteString(wrapped("      ", c.Note))
	}
}
