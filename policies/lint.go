package policies

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/brevet-dev/brevet/issuers"
	"github.com/brevet-dev/brevet/issuers/presets"
	"github.com/brevet-dev/brevet/policies/strictyaml"
)

// A Severity says how bad a finding is.
type Severity string

// The severities.
const (
	SeverityError   Severity = "error"   // does not do what its author must have meant
	SeverityWarning Severity = "warning" // grants more than it needs to
	SeverityInfo    Severity = "info"    // worth a thought
)

// A Finding is something that a policy says and its author may not have meant.
type Finding struct {
	ID       string   `json:"id"`   // L007
	Rule     string   `json:"rule"` // prefix-open
	Severity Severity `json:"severity"`
	Policy   string   `json:"policy,omitempty"` // its full name; "" of a document of another kind
	File     string   `json:"file"`
	Line     int      `json:"line"`
	Column   int      `json:"column"`
	Message  string   `json:"message"`

	// Token has the claims of a token, made up, that shows it, and Shows what
	// comes of that token, as the policies decide it.
	// Telling are the names of those claims that it hangs on.
	Token   map[string]any `json:"token,omitempty"`
	Shows   string         `json:"shows,omitempty"`
	Telling []string       `json:"telling,omitempty"`

	// Mend is what to change so that the finding is gone: all of it.
	Mend []Edit `json:"mend"`
}

// Place gives "file:line:column".
func (f *Finding) Place() string { return fmt.Sprintf("%s:%d:%d", f.File, f.Line, f.Column) }

// An Edit is one change of a document.
type Edit struct {
	Action string `json:"action"` // add, replace, remove or add-document
	Path   string `json:"path"`   // match.ref; "" is the document as a whole
	Into   string `json:"into"`   // of what it is a part: match; "" is the document
	Line   int    `json:"line"`   // of what is there now, or, to add to it, of Into
	YAML   string `json:"yaml,omitempty"`
	Note   string `json:"note,omitempty"` // what to fill in

	steps strictyaml.Path
}

// A written is a policy as it was read.
type written struct {
	doc     *strictyaml.Document
	in      *document
	folder  string
	example map[string]any // claims of a token of the issuer; not to be changed
}

// A Rule is one thing that [Set.Lint] looks for.
type Rule struct {
	ID, Name string
	Severity Severity
	About    string // one sentence for people: what is wrong with it

	check func(*linter)
}

// Rules returns all rules, by id.
func Rules() []Rule {
	list := slices.Concat(identityRules(), gateRules(), conditionRules(), lifeRules(), fenceRules(), setRules())
	slices.SortFunc(list, func(a, b Rule) int { return cmp.Compare(a.ID, b.ID) })
	return list
}

// Lint returns what the rules find, in the order of files and lines. Policies
// are to be loaded with [Options.Sources]. Of a finding that a token shows, the
// token was tried: the policies decide as the finding says. progress, if it is
// not nil, is called with the number of policies that were looked at.
//
// It takes a few seconds at most to compare policies with each other, and tells of
// it if that is not enough.
func (s *Set) Lint(progress func(done int)) []Finding { return s.lint(progress, newEffort()) }

func (s *Set) lint(progress func(done int), search *effort) []Finding {
	if s == nil {
		return nil
	}
	shared, rules, open := newNeighbours(s.policies), Rules(), s.openTenants()
	var findings []Finding
	for i, p := range s.policies {
		alone := &Set{index: newIndex([]*policy{p}), issuers: s.issuers, credentials: s.credentials}
		l := &linter{set: s, alone: alone, p: p, neighbours: shared, rules: rules, search: search, open: open}
		findings = append(findings, l.run()...)
		if progress != nil {
			progress(i + 1)
		}
	}
	findings = append(findings, s.lintRules(search)...)
	slices.SortStableFunc(findings, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column), cmp.Compare(a.ID, b.ID))
	})
	return findings
}

// A linter looks at one policy.
type linter struct {
	set        *Set
	alone      *Set // of the policy only
	p          *policy
	neighbours *neighbours
	search     *effort          // shared, for comparing policies
	open       map[*policy]bool // shared, see [Set.openTenants]
	usual      map[string]any   // the claims of a token that it grants to; nil if none was found
	proven     bool             // if usual is nil: there is none
	about      map[string]bool  // claims that the policy is about
	rules      []Rule
	rule       Rule // whose turn it is
	findings   []Finding
}

func (l *linter) run() []Finding {
	if l.p.written == nil {
		return nil
	}
	l.usual, l.proven = l.p.witness()
	for i := 0; l.usual == nil && i < len(l.p.tests); i++ {
		if claims := l.p.tests[i].claims; l.p.gives(claims) {
			l.usual = claims
		}
	}
	for _, l.rule = range l.rules {
		if l.p.expired() && l.rule.ID != expiredID {
			continue // it grants nothing, so nothing else is wrong with it
		}
		if l.rule.check != nil {
			l.rule.check(l)
		}
	}
	return l.findings
}

// at returns the place of a value of the document.
func (l *linter) at(path ...any) strictyaml.Problem {
	return l.p.written.doc.Problem(strictyaml.Path(path), "")
}

// find adds a finding. token may be nil.
func (l *linter) find(place strictyaml.Problem, token map[string]any, mend []Edit, format string, args ...any) {
	f := Finding{
		ID: l.rule.ID, Rule: l.rule.Name, Severity: l.rule.Severity, Policy: l.p.name,
		File: place.File, Line: place.Line, Column: place.Column,
		Message: fmt.Sprintf(format, args...), Mend: append([]Edit{}, mend...),
	}
	if token != nil {
		f.Token, f.Shows, f.Telling = token, l.shows(token), l.telling(token)
	}
	l.findings = append(l.findings, f)
}

// shows says what the policy alone decides about a token, as [Set.Decide] does
// it. What it grants, all policies together grant; and to ask them all each
// time would take a project with thousands of policies minutes.
func (l *linter) shows(claims map[string]any) string {
	id := &issuers.Identity{Issuer: l.p.issuer, Claims: claims}
	var granted, recorded []string
	for _, g := range l.p.grants {
		d, err := l.alone.Decide(id, g.Credential)
		switch {
		case err == nil:
			granted = append(granted, g.Credential)
		case slices.Contains(d.Shadow, l.p.name):
			recorded = append(recorded, g.Credential)
		}
	}
	switch {
	case len(granted) > 0:
		return "is granted " + strings.Join(granted, ", ")
	case len(recorded) > 0:
		return "would be granted " + strings.Join(recorded, ", ") + " (mode shadow)"
	}
	if l.p.expired() {
		return "is refused: the policy has expired"
	}
	return "is refused: " + l.p.why(claims)
}

// telling returns the claims that the policy is about, and those in which the
// token differs from the usual one.
func (l *linter) telling(token map[string]any) []string {
	if l.about == nil {
		l.about = map[string]bool{}
		for _, m := range l.claims() {
			l.about[m.name] = true
		}
	}
	var list []string
	for claim, v := range token {
		usual, there := l.usual[claim]
		if l.about[claim] || l.usual != nil && (!there || fmt.Sprint(v) != fmt.Sprint(usual)) {
			list = append(list, claim)
		}
	}
	slices.Sort(list)
	return list
}

// like returns the claims of a token that the policy grants to and that has
// changes; nil if none was found.
func (l *linter) like(changes map[string]any) map[string]any {
	if l.usual == nil {
		return nil
	}
	claims := maps.Clone(l.usual)
	for claim, v := range changes {
		set(claims, claim, v)
	}
	if l.p.gives(claims) {
		return claims
	}
	h := newHunt(l.p)
	h.fix(changes)
	claims, _ = h.find(l.p.gives)
	return claims
}

// fix narrows the hunt to tokens with these values.
func (h *hunt) fix(changes map[string]any) {
	for claim, v := range changes {
		if _, ok := h.lists[claim]; !ok {
			h.order = append(h.order, claim)
		}
		h.lists[claim] = []any{v}
	}
	slices.Sort(h.order)
}

// other returns a value of the claim that the policy never heard of.
func (l *linter) other(claim string) any {
	decl := l.p.preset.Claims[claim]
	literals := l.p.when.literals().claims[claim]
	all := on(l.p.conditions(), claim)
	if v, ok := l.usual[claim]; ok {
		literals = append(literals, v)
	}
	return unheard(decl, all, literals)[0]
}

// mentions reports whether match, names or when say something of the claim.
func (l *linter) mentions(claim string) bool {
	if claim == "" || len(on(l.p.conditions(), claim)) > 0 {
		return claim != ""
	}
	return l.p.when != nil && slices.Contains(claimsIn(l.p.when.tree.Expr()), claim)
}

// entry says what match, by this claim, should have.
func (l *linter) entry(claim string, v any, note string) Edit {
	return l.field(claim+": "+yamlValue(v), note, "match", claim)
}

func (l *linter) without(path ...any) Edit { return l.edit("remove", path) }

// field says what a field of the document should be.
func (l *linter) field(yaml, note string, path ...any) Edit {
	action := "replace"
	if !l.p.written.doc.Has(path) {
		action = "add"
	}
	e := l.edit(action, path)
	e.YAML, e.Note = yaml, note
	return e
}

func (l *linter) edit(action string, path strictyaml.Path) Edit {
	into := path[:len(path)-1]
	return Edit{Action: action, Path: path.String(), Into: into.String(), Line: l.at(path...).Line, steps: path}
}

// whole says to remove the policy.
func (l *linter) whole(note string) []Edit {
	return []Edit{{Action: "remove", Line: l.at("policy").Line, Note: note}}
}

// writes reports whether the policy grants something that can change things.
func (l *linter) writes() bool {
	return slices.ContainsFunc(l.p.grants, func(g Grant) bool { return !l.set.credentials[g.Credential].Read })
}

// yamlValue writes a claim's value, or values, as a policy has it.
func yamlValue(v any) string {
	switch v := v.(type) {
	case string:
		return yamlText(v)
	case glob:
		return "{glob: " + strconv.Quote(string(v)) + "}"
	case []string:
		return yamlList(v)
	case []any:
		return yamlList(v)
	case map[string]any:
		var list []string
		for _, key := range slices.Sorted(maps.Keys(v)) {
			list = append(list, key+": "+yamlValue(v[key]))
		}
		return "{" + strings.Join(list, ", ") + "}"
	case time.Duration:
		return short(v)
	}
	return fmt.Sprint(v)
}

func yamlList[T any](items []T) string {
	list := make([]string, len(items))
	for i, item := range items {
		list[i] = yamlValue(item)
	}
	return "[" + strings.Join(list, ", ") + "]"
}

// yamlText quotes what a reader of YAML could take for something else.
func yamlText(s string) string {
	const plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./@"
	words := []string{"true", "false", "yes", "no", "on", "off", "y", "n", "null"}
	starts := s != "" && (s[0] >= 'a' && s[0] <= 'z' || s[0] >= 'A' && s[0] <= 'Z')
	if starts && strings.Trim(s, plain) == "" && !slices.Contains(words, strings.ToLower(s)) {
		return s
	}
	return strconv.Quote(s)
}

// kindOf returns what is declared of the claim.
func (l *linter) kindOf(claim string) presets.Kind { return l.p.preset.Claims[claim].Kind }
