package policies

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/brevet-dev/brevet/issuers/presets"
	"github.com/brevet-dev/brevet/policies/strictyaml"
)

// gateRules are about which of a project's jobs a policy is for.
func gateRules() []Rule {
	return []Rule{
		{"L004", "pull-requests", SeverityInfo, "Runs of code or input that a stranger may have written get a credential, if only one of class read.", (*linter).pullRequests},
		{"L006", "missing-pin", SeverityWarning, "The policy lacks what its issuer's preset asks for, and loads because it says unsafe.", (*linter).missingPin},
		{"L010", "unprotected-ref", SeverityWarning, "Neither a protected ref nor an environment is asked for: whoever can push to the ref is let in.", (*linter).unprotectedRef},
		{"L014", "self-hosted", SeverityInfo, "Runners of one's own may run a job that gets a credential of class write; on them, other jobs may listen.", (*linter).selfHosted},
		{"L018", "suspicious-value", SeverityError, "A value has white space around it, or characters that look like others: no token has it, or another one than it seems.", (*linter).suspicious},
		{"L019", "moving-workflow", SeverityWarning, "A workflow is pinned at a branch, which moves: what runs is what the branch has by then.", (*linter).movingWorkflow},
		{"L021", "unknown-value", SeverityError, "A value is not one that the platform is known to send.", (*linter).unknownValue},
		{"L025", "workflow-is-caller", SeverityInfo, "job_workflow_ref is the caller's own workflow where none is reused, so it does not say that one was.", (*linter).workflowIsCaller},
		{"L029", "loose-glob", SeverityWarning, "A * follows right after a letter or digit: longer names begin like it, too.", (*linter).looseGlob},
		{"L031", "kind-glob", SeverityError, "A * stands for the kind of ref: branches, tags and pull requests alike.", (*linter).kindGlob},
		{"L033", "attacker-gate", SeverityWarning, "A claim decides that whoever pushes, or edits the pipeline, writes as they like: it keeps nobody out.", (*linter).attackerGate},
		{"L036", "wrong-shape", SeverityError, "A value looks unlike what the platform sends, such as a branch without refs/heads/: no token has it.", (*linter).wrongShape},
	}
}

func (l *linter) pullRequests() {
	for _, r := range l.p.risks {
		if r.named.isEmpty() {
			continue
		}
		v, _ := meet(&r.named)
		token := l.like(map[string]any{r.claim: v})
		if token == nil {
			continue
		}
		l.find(l.at("match", r.claim), token, []Edit{l.entry(r.claim, l.harmless(r), "")},
			"match names %s %s: %s; what they get can be taken from there", r.claim, r.named.wanted(), r.why)
	}
}

// harmless returns what match may say of the claim without the risk.
func (l *linter) harmless(r risk) any {
	var rest []any
	for _, c := range on(l.p.match, r.claim) {
		for _, v := range c.values {
			if !r.admits(v) {
				rest = append(rest, v)
			}
		}
	}
	switch len(rest) {
	case 0:
		return usual(&policy{preset: l.p.preset, risks: l.p.risks}, r.claim, l.p.preset.Claims[r.claim])
	case 1:
		return rest[0]
	}
	return rest
}

func (l *linter) missingPin() {
	for _, pin := range l.p.lacks() {
		gate := pin.AnyOf[0]
		changes := map[string]any{}
		for _, h := range gate {
			changes[h.Claim] = l.other(h.Claim)
		}
		if token := l.like(changes); token != nil {
			l.find(l.at("match"), token, l.pass(gate), "match does not pin %s", pin.Name)
		}
	}
}

// pass adds what the gate asks for.
func (l *linter) pass(gate presets.Gate) []Edit {
	var edits []Edit
	filled := *l.p
	filled.match = slices.Clone(l.p.match)
	for _, h := range gate {
		v := l.held(h)
		edits = append(edits, l.entry(h.Claim, v, ofClaims))
		filled.match = slices.DeleteFunc(filled.match, func(c condition) bool { return c.claim == h.Claim })
		filled.match = append(filled.match, condition{claim: h.Claim, values: []any{v}})
	}
	if l.p.unsafe != "" && len(filled.lacks()) == 0 {
		edits = append(edits, l.without("unsafe"))
	}
	return edits
}

// held returns a value that the hold may have.
func (l *linter) held(h presets.Hold) any {
	decl := l.p.preset.Claims[h.Claim]
	switch {
	case h.Value == "true" && decl.Type == presets.Bool:
		return true
	case h.Value != "":
		return h.Value
	case h.Claim == l.p.preset.Environment && decl.Kind != presets.Immutable:
		return "production"
	}
	for _, r := range l.p.risks {
		if r.claim == h.Claim {
			return l.harmless(r)
		}
	}
	return l.id(h.Claim)
}

// protections returns the holds of the preset that name a value: what the
// platform says of a ref or an environment that it protects.
func (l *linter) protections() []presets.Hold {
	var list []presets.Hold
	for _, pin := range pinsOf(l.p.preset) {
		for _, gate := range pin.AnyOf {
			for _, h := range gate {
				if h.Value != "" {
					list = append(list, h)
				}
			}
		}
	}
	return list
}

func (l *linter) unprotectedRef() {
	holds := l.protections()
	pinned := func(h presets.Hold) bool { return l.p.pin(h.Claim) != nil }
	if len(holds) == 0 || slices.ContainsFunc(holds, pinned) || l.p.pin(l.p.preset.Environment) != nil {
		return
	}
	changes := map[string]any{}
	for _, h := range holds {
		changes[h.Claim] = unlikeValue(h, l.p.preset.Claims[h.Claim])
	}
	place := l.at("match")
	if l.p.pin(l.p.preset.Ref) != nil {
		place = l.at("match", l.p.preset.Ref)
	}
	if token := l.like(changes); token != nil {
		l.find(place, token, []Edit{l.entry(holds[0].Claim, l.held(holds[0]), "")},
			"%s is not pinned to %q: whoever can push there is let in", holds[0].Claim, holds[0].Value)
	}
}

// unlikeValue is a value that the hold does not want.
func unlikeValue(h presets.Hold, decl presets.Claim) any {
	switch {
	case decl.Type == presets.Bool:
		return h.Value != "true"
	case h.Value == "true":
		return "false"
	}
	return "x" + h.Value
}

const runnerClaim = "runner_environment" // GitHub and GitLab have it

func (l *linter) selfHosted() {
	decl, ok := l.p.preset.Claims[runnerClaim]
	if !ok || l.mentions(runnerClaim) || !l.writes() {
		return
	}
	hosted := l.p.preset.Name + "-hosted"
	for _, v := range decl.Values {
		if v != "self-hosted" {
			hosted = v
			break
		}
	}
	if token := l.like(map[string]any{runnerClaim: "self-hosted"}); token != nil {
		l.find(l.at("match"), token, []Edit{l.entry(runnerClaim, hosted, "")}, "runners of one's own are let in: what else runs on them can take the credential")
	}
}

// A spelling is a text that the policy compares a claim with.
type spelling struct {
	claim, text string
	place       strictyaml.Problem
	edit        func(mended string) []Edit
}

// spellings returns the texts in match, names and when.
func (l *linter) spellings() []spelling {
	var list []spelling
	for _, c := range l.p.match {
		for i, v := range c.values {
			s, ok := v.(string)
			if !ok {
				continue
			}
			edit := func(mended string) []Edit { return []Edit{l.entry(c.claim, replaced(c.values, i, mended), "")} }
			if len(c.globs) == 0 {
				list = append(list, spelling{c.claim, s, l.at("match", c.claim), edit})
			}
		}
	}
	for _, c := range l.p.names {
		edit := func(mended string) []Edit {
			return []Edit{l.field(c.claim+": "+yamlText(mended), "", "names", c.claim)}
		}
		list = append(list, spelling{c.claim, fmt.Sprint(c.values[0]), l.at("names", c.claim), edit})
	}
	for claim, texts := range l.p.when.literals().equal {
		for _, s := range texts {
			edit := func(mended string) []Edit {
				text := strings.ReplaceAll(l.p.when.source, celText(s), celText(mended))
				return []Edit{l.field("when: "+yamlWhen(strings.TrimSpace(text)), "", "when")}
			}
			list = append(list, spelling{claim, s, l.at("when"), edit})
		}
	}
	return list
}

// celText writes a text as conditions mostly have it.
func celText(s string) string { return fmt.Sprintf("%q", s) }

// replaced returns the values with another one at i; a single one is no list.
func replaced(values []any, i int, with string) any {
	var made []any
	for j, v := range values {
		if j == i {
			v = with
		}
		if !slices.Contains(made, v) {
			made = append(made, v)
		}
	}
	if len(made) == 1 {
		return made[0]
	}
	return made
}

// meant returns a token that has what was meant instead of what is written.
func (l *linter) meant(s spelling, mended string) map[string]any {
	claims := maps.Clone(l.usual)
	if claims == nil {
		claims = plausible(l.p)
	}
	claims[s.claim] = mended
	return claims
}

func (l *linter) suspicious() {
	for _, s := range l.spellings() {
		mended := strings.TrimSpace(strings.Map(lookalike, s.text))
		if mended == s.text || mended == "" {
			continue
		}
		l.find(s.place, l.meant(s, mended), s.edit(mended), "%+q has white space around it or characters that look like others; a token has %q", s.text, mended)
	}
}

// lookalike maps letters of other scripts to the Latin ones that they are
// taken for (Unicode Technical Standard 39, those of Cyrillic and Greek that no
// font tells apart, and the full-width forms).
func lookalike(r rune) rune {
	const from = "аеорсухіјѕԁԛԝһӏАВЕКМНОРСТУХІЈЅαονρυΑΒΕΖΗΙΚΜΝΟΡΤΥΧ‐‑–—"
	const to = "aeopcyxijsdqwhlABEKMHOPCTYXIJSaovpuABEZHIKMNOPTYX----"
	if r >= '！' && r <= '～' {
		return r - '！' + '!'
	}
	for i, one := range []rune(from) {
		if one == r {
			return rune(to[i])
		}
	}
	return r
}

func (l *linter) unknownValue() {
	for _, s := range l.spellings() {
		known := l.known(s.claim)
		if len(known) == 0 || slices.Contains(known, s.text) {
			continue
		}
		near := nearest(s.text, known)
		closed := len(l.p.preset.Claims[s.claim].Values) > 0
		if !closed && !strings.EqualFold(near, s.text) {
			continue // only some values are known
		}
		l.find(s.place, l.meant(s, near), s.edit(near), "%q is no value of %s that %s sends; it knows %s", s.text, s.claim, l.p.preset.Title, strings.Join(known, ", "))
	}
}

// known returns the values that the platform sends in a claim: all, or, if they
// are not listed, those that the preset distrusts.
func (l *linter) known(claim string) []string {
	if values := l.p.preset.Claims[claim].Values; len(values) > 0 {
		return values
	}
	var list []string
	for _, r := range l.p.preset.Risks {
		if r.Claim == claim {
			list = append(list, r.Values...)
		}
	}
	if claim == l.p.preset.Trigger {
		list = append(list, "push", "schedule")
	}
	return list
}

// nearest returns the one of known that s is a misspelling of, or the first.
func nearest(s string, known []string) string {
	for _, k := range known {
		if strings.EqualFold(k, s) || strings.Contains(strictyaml.DidYouMean(s, []string{k}), k) {
			return k
		}
	}
	return known[0]
}

func (l *linter) movingWorkflow() {
	for i := range l.p.match {
		c := &l.p.match[i]
		sha := shaOf(c.claim)
		if _, declared := l.p.preset.Claims[sha]; !declared || l.mentions(sha) || !moves(c) {
			continue
		}
		if token := l.like(map[string]any{sha: strings.Repeat("6", 40)}); token != nil {
			l.find(l.at("match", c.claim), token, []Edit{l.entry(sha, l.id(sha), ofClaims)}, "%s is pinned at a branch, which moves; pin the commit as well", c.claim)
		}
	}
}

// shaOf returns the claim with the commit of a workflow.
func shaOf(claim string) string {
	if stem, ok := strings.CutSuffix(claim, "_ref_uri"); ok {
		return stem + "_sha"
	}
	if stem, ok := strings.CutSuffix(claim, "workflow_ref"); ok {
		return stem + "workflow_sha"
	}
	return ""
}

// moves reports whether the condition is of a branch, or of any ref.
func moves(c *condition) bool {
	for _, v := range c.values {
		if s, _ := v.(string); strings.Contains(s, "@refs/heads/") || strings.Contains(s, "@") && !strings.Contains(s, "@refs/") {
			return true
		}
	}
	return len(c.globs) > 0
}

func (l *linter) workflowIsCaller() {
	const reused, caller = "job_workflow_ref", "workflow_ref"
	c := l.p.pin(reused)
	_, declared := l.p.preset.Claims[caller]
	if c == nil || !declared || len(c.values) == 0 || l.mentions(caller) {
		return
	}
	repository, _ := l.usual[l.p.preset.Project].(string)
	path, _ := c.values[0].(string)
	if repository == "" || !strings.HasPrefix(path, repository+"/") {
		return // another project's workflow is never this one's own
	}
	if token := l.like(map[string]any{reused: path, caller: path}); token != nil {
		source := "claims." + caller + " != claims." + reused
		if l.p.when != nil {
			source = "(" + strings.TrimSpace(l.p.when.source) + ") && " + source
		}
		l.find(l.at("match", reused), token, []Edit{l.field("when: "+yamlWhen(source), "", "when")}, "a job that reuses no workflow has its own here; if one must be reused, say that the two differ")
	}
}

func (l *linter) looseGlob() {
	for i := range l.p.match {
		c := &l.p.match[i]
		for j, g := range c.globs {
			star := strings.Index(string(g), "*")
			before := strings.TrimRight(string(g)[:star], "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")
			word := string(g)[len(before):star]
			if word == "" || word == "v" {
				continue // v* is for versions
			}
			text := before + word + "x" + strings.ReplaceAll(string(g)[star+1:], "*", "x")
			if token := l.like(map[string]any{c.claim: text}); token != nil {
				mended := glob(before + word + "/" + string(g)[star:])
				l.find(l.at("match", c.claim), token, []Edit{l.entry(c.claim, l.withGlob(c, j, mended), "")}, "%q stands for %q too; end the word before the *", string(g), text)
			}
		}
	}
}

// withGlob returns what the entry says with another glob at i.
func (l *linter) withGlob(c *condition, i int, with any) any {
	made := slices.Clone(c.values)
	for j, g := range c.globs {
		if j == i {
			made = append(made, with)
		} else {
			made = append(made, g)
		}
	}
	if len(made) == 1 {
		return made[0]
	}
	return made
}

func (l *linter) kindGlob() {
	for i := range l.p.match {
		c := &l.p.match[i]
		for j, g := range c.globs {
			rest, ok := strings.CutPrefix(string(g), "refs/")
			kind, name, _ := presets.CutSegment(rest)
			if !ok || !strings.Contains(kind, "*") {
				continue
			}
			text := strings.ReplaceAll("refs/"+strings.ReplaceAll(kind, "*", "")+"tags/"+name, "*", "x")
			if strings.Trim(kind, "*") != "" {
				text = glob(g).with("x")
			}
			if token := l.like(map[string]any{c.claim: text}); token != nil {
				mended := any("refs/heads/" + name)
				if strings.Contains(name, "*") {
					mended = glob("refs/heads/" + name)
				}
				l.find(l.at("match", c.claim), token, []Edit{l.entry(c.claim, l.withGlob(c, j, mended), "")}, "%q stands for tags and pull requests too", string(g))
			}
		}
	}
}

func (l *linter) attackerGate() {
	p := l.p.preset
	for _, m := range l.claims() {
		role := m.name == p.Ref || m.name == p.Trigger || m.name == p.Environment || p.Ref != "" && strings.HasPrefix(m.name, p.Ref+"_") // ref_type narrows ref
		if l.kindOf(m.name) != presets.Attacker || role || l.pins(m.name) || isWorkflow(m.name) || l.isPerson(m.name) || l.usual == nil || l.isRisk(m.name) {
			continue
		}
		token := l.usual
		if p.ActorID != "" && !l.mentions(p.ActorID) {
			token = l.stranger(p.ActorID)
		}
		edits := []Edit{l.without(m.field, m.name)}
		if m.field == "when" {
			edits = []Edit{l.without("when")}
		}
		if token != nil {
			l.find(m.place, token, edits, "%s is chosen by whoever pushes or edits the pipeline: %s", m.name, p.Claims[m.name].Doc)
		}
	}
}

// isRisk reports whether the preset distrusts values of the claim: to name
// others is what it asks for.
func (l *linter) isRisk(claim string) bool {
	return slices.ContainsFunc(l.p.risks, func(r risk) bool { return r.claim == claim })
}

// wrongShape holds values against those of a token that was recorded.
func (l *linter) wrongShape() {
	example := l.p.written.example
	for _, s := range l.spellings() {
		usual, _ := example[s.claim].(string)
		switch {
		case usual == "" || s.text == "":
		case l.kindOf(s.claim) == presets.Immutable && isNumber(usual) && !isNumber(s.text):
			l.find(s.place, l.meant(s, usual), s.edit(usual), "%s is a number in these tokens, such as %q; %q is a name", s.claim, usual, s.text)
		case s.claim == l.p.preset.Ref && strings.HasPrefix(usual, "refs/") && !strings.HasPrefix(s.text, "refs/"):
			mended := "refs/heads/" + strings.TrimPrefix(s.text, "heads/")
			l.find(s.place, l.meant(s, mended), s.edit(mended), "%s is written out in these tokens: %q, not %q", s.claim, mended, s.text)
		case s.claim == l.p.preset.Ref && !strings.HasPrefix(usual, "refs/") && strings.HasPrefix(s.text, "refs/heads/"):
			mended := strings.TrimPrefix(s.text, "refs/heads/")
			l.find(s.place, l.meant(s, mended), s.edit(mended), "%s is the name alone in these tokens: %q, not %q", s.claim, mended, s.text)
		}
	}
}

func isNumber(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }
