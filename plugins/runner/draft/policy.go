package draft

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/brevet-dev/brevet/issuers/presets"
)

// replace stands where a person must write something.
const replace = "change-me"

// A plan is a policy in the making.
type plan struct {
	*Draft
	name     string
	match    []entry
	names    []entry
	unmet    []string // claims of match that this token does not have so
	risky    []string // claims of this token whose values are a stranger's runs
	warnings []string
}

// An entry is a claim with its value, and a comment.
type entry struct {
	claim string
	value any // as an identity has it
	note  string
}

// plan decides what the policy says: all pins of the preset, and beyond them the
// project, owner, ref, environment and trigger of this run.
func (d *Draft) plan() *plan {
	p := &plan{Draft: d}
	for _, pin := range d.Preset.Pins {
		for _, hold := range p.cheapest(pin.AnyOf) {
			p.hold(hold, pin.Name)
		}
		p.more(pin)
	}
	for _, claim := range []string{d.Preset.ProjectID, d.Preset.OwnerID, d.Preset.Ref, d.Preset.Environment, d.Preset.Trigger} {
		p.pin(claim)
	}
	if project := d.Preset.Project; d.Preset.Claims[project].Kind != presets.Mutable {
		p.pin(project) // no name of the project itself: CircleCI's is that of the code, which may be a fork's
	}
	for _, r := range d.Preset.Risks {
		p.risk(r)
	}
	if len(p.match) == 0 {
		p.pin("sub")
	}
	if len(p.match) == 0 {
		p.add(entry{"sub", replace, "the token says nothing that a policy could hold on to"})
		p.unmet = append(p.unmet, "sub")
	}
	p.called()
	p.judge()
	return p
}

func (p *plan) warn(format string, args ...any) {
	p.warnings = append(p.warnings, fmt.Sprintf(format, args...))
}

// has returns the token's value of a claim, if a policy can hold it.
func (p *plan) has(claim string) (any, bool) {
	switch v := p.claims[claim].(type) {
	case string:
		return v, v != "" && Writable(v)
	case []string:
		return v, len(v) > 0 && !slices.ContainsFunc(v, func(s string) bool { return s == "" || !Writable(s) })
	case nil:
		return nil, false
	default:
		return v, true
	}
}

// cheapest returns the gate that asks the least of this token besides what it has.
func (p *plan) cheapest(gates []presets.Gate) presets.Gate {
	return slices.MinFunc(gates, func(a, b presets.Gate) int { return cmp.Compare(p.cost(a), p.cost(b)) })
}

func (p *plan) cost(gate presets.Gate) (cost int) {
	for _, hold := range gate {
		v, ok := p.has(hold.Claim)
		switch {
		case ok && (hold.Value == "" || fmt.Sprint(v) == hold.Value):
		case hold.Value != "":
			cost++ // what to do about the run is known
		default:
			cost += 3
		}
	}
	return cost
}

// more adds the other gates of a pin that this run has, if the platform answers
// for something in them: that the ref is protected, besides the environment.
func (p *plan) more(pin presets.Pin) {
	for _, gate := range pin.AnyOf {
		answers := slices.ContainsFunc(gate, func(h presets.Hold) bool { return h.Value != "" })
		for _, hold := range gate {
			if answers && p.cost(gate) == 0 {
				p.hold(hold, pin.Name)
			}
		}
	}
}

// hold adds what a pin asks for. What this token lacks is written all the same,
// so that the policy says what the runs must be that it grants to.
func (p *plan) hold(h presets.Hold, why string) {
	v, ok := p.has(h.Claim)
	c := p.Preset.Claims[h.Claim]
	if ok && (h.Value == "" || fmt.Sprint(v) == h.Value) {
		p.add(entry{h.Claim, v, c.Doc})
		return
	}
	note := "not so in this run"
	v = typed(cmp.Or(h.Value, replace), c.Type)
	if h.Value == "" {
		note = "this run has none that a policy can hold: write it"
	}
	if p.add(entry{h.Claim, v, note}) {
		p.unmet = append(p.unmet, h.Claim)
		p.unheld(h.Claim)
		p.warn("this run does not have %s: %s, which stands for %s; the policy does not grant to it", h.Claim, value(v), why)
	}
}

// unheld warns if the token has a value that no policy can hold.
func (p *plan) unheld(claim string) {
	if s, _ := p.claims[claim].(string); !Writable(s) {
		p.warn("%s is too long for a policy, or has characters that none can hold: %s", claim, clip(scalar(s)))
	}
}

// typed returns the value of a claim of type t that text stands for.
func typed(text string, t presets.Type) any {
	switch t {
	case presets.Bool:
		return text == "true"
	case presets.Int:
		return int64(0)
	case presets.StringList:
		return []string{text}
	}
	return text
}

// pin adds the claim as this token has it, if it does.
func (p *plan) pin(claim string) {
	if v, ok := p.has(claim); ok {
		p.add(entry{claim, v, p.Preset.Claims[claim].Doc})
	} else if !slices.Contains(p.unmet, claim) {
		p.unheld(claim)
	}
}

// add adds e to match, unless its claim is there, and reports whether it did.
func (p *plan) add(e entry) bool {
	if slices.ContainsFunc(p.match, func(other entry) bool { return other.claim == e.claim }) {
		return false
	}
	p.match = append(p.match, e)
	return true
}

// risk adds the claim whose value makes this run a stranger's: a policy grants
// to it only by name.
func (p *plan) risk(r presets.Risk) {
	v, ok := p.claims[r.Claim]
	if !ok || !slices.ContainsFunc(r.Values, func(pattern string) bool { return fits(pattern, fmt.Sprint(v)) }) {
		return
	}
	p.pin(r.Claim)
	p.risky = append(p.risky, r.Claim)
	p.warn("%s is %s: this %s; the policy names it, and so loads only with credentials of class read, and what they can read such a run can take away", r.Claim, clip(value(v)), r.Why)
}

// fits reports whether s is one of the values that pattern stands for; * is any
// text without a slash or colon, ** at the end any text.
func fits(pattern, s string) bool {
	if pattern == "**" {
		return s != ""
	}
	first, rest, star := strings.Cut(pattern, "*")
	s, ok := strings.CutPrefix(s, first)
	if !star {
		return ok && s == ""
	}
	for ok {
		if fits(rest, s) {
			return true
		}
		ok = s != "" && s[0] != '/' && s[0] != ':'
		s = s[min(1, len(s)):]
	}
	return false
}

// called gives the policy its name, and the names that people know the ids by.
func (p *plan) called() {
	for _, claim := range []string{p.Preset.Project, p.Preset.Owner} {
		c := p.Preset.Claims[claim]
		v, ok := p.has(claim)
		name, isName := v.(string)
		inMatch := slices.ContainsFunc(p.match, func(e entry) bool { return e.claim == claim })
		if c.Kind == presets.Mutable {
			p.unheld(claim)
		}
		if ok && isName && !inMatch && c.Kind == presets.Mutable && !p.named(name) {
			p.names = append(p.names, entry{claim, name, ""})
		}
	}
	p.name = cmp.Or(slug(p.short(p.Preset.Project)+" "+p.short(p.Preset.Environment)), p.Preset.Name)
}

// short returns what of a claim's value makes a good part of a name: its last two
// segments, without what stands behind an at sign; nothing of an id.
func (p *plan) short(claim string) string {
	s, _ := p.claims[claim].(string)
	if p.Preset.Claims[claim].Kind == presets.Immutable {
		return ""
	}
	s, _, _ = strings.Cut(s, "@")
	segments := strings.Split(s, "/")
	return strings.Join(segments[max(0, len(segments)-2):], "/")
}

// named reports whether a name that is there begins with name, as that of a
// repository does with its owner's.
func (p *plan) named(name string) bool {
	return slices.ContainsFunc(p.names, func(e entry) bool { return strings.HasPrefix(e.value.(string), name+"/") })
}

// slug makes a policy's name, or "".
func slug(s string) string {
	const most = 64 // of a policy's name
	s = strings.Map(func(r rune) rune {
		if 'a' <= r && r <= 'z' || '0' <= r && r <= '9' {
			return r
		}
		return ' '
	}, strings.ToLower(s))
	s = strings.Join(strings.Fields(s), "-")
	return strings.TrimRight(s[:min(most, len(s))], "-")
}

// judge warns of what the policy leaves to people.
func (p *plan) judge() {
	if ref, ok := p.claims[p.Preset.Ref].(string); ok && len(p.risky) == 0 && (strings.HasPrefix(ref, "refs/tags/") || p.claims["ref_type"] == "tag") {
		p.warn("%s is this tag and no other; for all of a kind write {glob: \"…*\"}, and see who may push such tags", p.Preset.Ref)
	}
	for _, r := range p.Preset.Risks {
		if _, said := p.claims[r.Claim]; !said {
			p.unmet = append(p.unmet, r.Claim)
			p.warn("the token does not have %s, so that the broker takes the run for a stranger's; the policy does not grant to it", r.Claim)
		}
	}
}

// clip shortens a stranger's text for a sentence.
func clip(s string) string {
	const most = 100
	if r := []rune(s); len(r) > most {
		return string(r[:most]) + "…"
	}
	return s
}

// credentials are those that the policy grants.
func (p *plan) credentials() []string {
	if len(p.options.Credentials) > 0 {
		return p.options.Credentials
	}
	return []string{replace}
}

// yaml writes the policy.
func (p *plan) yaml() string {
	var w writer
	w.line("policy: %s", scalar(p.name))
	w.noted("issuer: "+p.Preset.Name, "its name in brevetd.yaml")
	w.line("match:")
	for _, e := range p.match {
		w.noted("  "+key(e.claim)+": "+matcher(e.value), e.note)
	}
	if len(p.names) > 0 {
		w.noted("names:", "what the ids stand for; if one changes, the policy denies")
	}
	for _, e := range p.names {
		w.line("  %s: %s", key(e.claim), value(e.value))
	}
	w.line("grant:")
	note := ""
	if len(p.risky) > 0 {
		note = "must be of class: read"
	}
	if len(p.options.Credentials) == 0 {
		note = strings.TrimPrefix(note+"; a credential of brevetd.yaml", "; ")
	}
	for _, name := range p.credentials() {
		w.noted("  - {credential: "+scalar(name)+", ttl: 15m}", note)
	}
	w.line("tests:")
	p.tests(&w)
	return w.String()
}

// tests writes this run as a test, and others that must be refused.
func (p *plan) tests(w *writer) {
	claims := p.testClaims()
	if len(p.unmet) == 0 {
		p.test(w, "this run", "allow", claims)
	} else {
		p.test(w, "this run, which lacks "+strings.Join(p.unmet, ", "), "deny", claims)
		p.fitting(w, claims)
	}
	for _, r := range p.Preset.Risks {
		if other, name, ok := p.stranger(r); ok {
			p.test(w, name, "deny", with(claims, r.Claim, other))
		}
	}
	if e := p.match[0]; e.value != nil {
		p.test(w, "another "+e.claim, "deny", with(claims, e.claim, another(e.value)))
	}
}

// fitting writes the test of a run that is as match wants it, where this one is
// not.
func (p *plan) fitting(w *writer, claims map[string]any) {
	for _, e := range p.match {
		claims = with(claims, e.claim, e.value)
	}
	for _, claim := range p.unmet {
		if _, ok := claims[claim]; !ok {
			return // what it would have to be is not known
		}
	}
	p.test(w, "a run that has it", "allow", claims)
}

// maxItems is how much of a list a test has. match looks for the first.
const maxItems = 8

// testClaims are the token's claims that a policy of this kind speaks of. The
// others, as the e-mail address of whoever started the run, are nothing to keep.
func (p *plan) testClaims() map[string]any {
	s := p.Preset
	wanted := []string{s.OwnerID, s.Owner, s.ProjectID, s.Project, s.Ref, s.Environment, s.Trigger, "sub"}
	for _, e := range slices.Concat(p.match, p.names) {
		wanted = append(wanted, e.claim)
	}
	for _, r := range s.Risks {
		wanted = append(wanted, r.Claim)
	}
	claims := map[string]any{}
	for _, claim := range wanted {
		v, ok := p.has(claim)
		if list, isList := v.([]string); isList {
			v = list[:min(maxItems, len(list))]
		}
		if ok {
			claims[claim] = v
		}
	}
	return claims
}

// stranger returns a value of a risk that match does not name, with the name of
// a test for it: the first that is about a pull or merge request, or else the
// first.
func (p *plan) stranger(r presets.Risk) (other any, name string, ok bool) {
	c, values := p.Preset.Claims[r.Claim], []string{}
	for _, v := range r.Values {
		v = strings.ReplaceAll(v, "*", "x")
		if !slices.ContainsFunc(p.match, func(e entry) bool { return e.claim == r.Claim && fmt.Sprint(e.value) == v }) {
			values = append(values, v)
		}
	}
	if len(values) == 0 || c.Type == presets.StringList {
		return nil, "", false
	}
	request := slices.IndexFunc(values, func(v string) bool {
		return strings.Contains(v, "pull_request") || strings.Contains(v, "merge_request")
	})
	v := values[max(0, request)]
	if request >= 0 {
		return typed(v, c.Type), "a request to merge: " + r.Claim + " " + v, true
	}
	return typed(v, c.Type), r.Claim + " " + v, true
}

// another returns a value that v is not.
func another(v any) any {
	switch v := v.(type) {
	case int64:
		return v ^ 1
	case bool:
		return !v
	case []string:
		return []string{v[0] + "0"}
	}
	return v.(string) + "0"
}

func with(claims map[string]any, name string, v any) map[string]any {
	claims = maps.Clone(claims)
	claims[name] = v
	return claims
}

func (p *plan) test(w *writer, name, expect string, claims map[string]any) {
	w.line("  - name: %s", scalar(name))
	if len(claims) == 0 {
		w.line("    claims: {}")
	} else {
		w.line("    claims:")
	}
	for _, claim := range slices.Sorted(maps.Keys(claims)) {
		w.line("      %s: %s", key(claim), value(claims[claim]))
	}
	names := make([]string, len(p.credentials()))
	for i, c := range p.credentials() {
		names[i] = scalar(c)
	}
	w.line("    %s: [%s]", expect, strings.Join(names, ", "))
}
