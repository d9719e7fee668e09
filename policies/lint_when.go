package policies

import (
	"regexp/syntax"
	"slices"
	"strings"

	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/overloads"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/parser"

	"github.com/brevet-dev/brevet/issuers/presets"
	"github.com/brevet-dev/brevet/policies/strictyaml"
)

// conditionRules are about conditions in CEL.
func conditionRules() []Rule {
	return []Rule{
		{"L002", "open-text", SeverityError, "A condition looks for a part of a text, around which anyone may write what they like.", (*linter).openText},
		{"L003", "open-regexp", SeverityWarning, "A regular expression lets any text stand somewhere, slashes included.", (*linter).openRegexp},
		{"L007", "prefix-open", SeverityError, "The text that a claim must begin with ends inside of a name, so that longer names begin with it too.", (*linter).openPrefix},
		{"L008", "workflow-prefix", SeverityError, "A workflow is told by the begin of its path, without the ref after the @: any branch's version of it is let in.", (*linter).openWorkflow},
		{"L011", "negation", SeverityWarning, "A condition says what is not allowed. Everything else is, also what nobody has thought of yet.", (*linter).negation},
		{"L013", "always-true", SeverityWarning, "The condition is true for every token that match fits: it keeps nobody out.", (*linter).alwaysTrue},
		{"L030", "never-holds", SeverityError, "No token can be what the policy asks for: it grants nothing, and hides that something is missing.", (*linter).neverHolds},
		{"L032", "no-token-found", SeverityWarning, "No token was found that the policy grants to, so that most rules can say nothing of it. A test that allows one helps.", (*linter).notFound},
	}
}

// A textCall is a comparison of one claim with a text, in a condition.
type textCall struct {
	expr  ast.NavigableExpr
	name  string // of the function
	claim string
	text  string
}

// calls returns the calls of the functions, in the order of the text.
func (l *linter) calls(functions ...string) []textCall {
	if l.p.when == nil {
		return nil
	}
	var list []textCall
	for _, e := range ast.MatchDescendants(ast.NavigateAST(l.p.when.tree), ast.KindMatcher(ast.CallKind)) {
		c := e.AsCall()
		if !slices.Contains(functions, c.FunctionName()) {
			continue
		}
		operands := c.Args()
		if c.IsMemberFunction() {
			operands = append([]ast.Expr{c.Target()}, operands...)
		}
		for i := range operands {
			claim, isClaim := claimOf(operands[i])
			value, isText := literal(operands[len(operands)-1-i])
			if isClaim && isText && len(operands) == 2 {
				list = append(list, textCall{e, c.FunctionName(), claim, value})
			}
		}
	}
	return list
}

// in returns the place of a part of the condition.
func (l *linter) in(e ast.Expr) strictyaml.Problem {
	at := l.p.when.tree.SourceInfo().GetStartLocation(e.ID())
	return l.p.written.doc.TextProblem(strictyaml.Path{"when"}, max(1, at.Line()), max(0, at.Column())+1, "")
}

// report finds that c lets in a text that its author will not have meant.
func (l *linter) report(c textCall, text, format string, args ...any) {
	if token := l.like(map[string]any{c.claim: text}); token != nil {
		l.find(l.in(c.expr), token, l.exactly(c.expr, c.claim), format, args...)
	}
}

func (l *linter) openText() {
	for _, c := range l.calls(overloads.Contains, overloads.EndsWith) {
		text := "x" + c.text
		if c.name == overloads.Contains {
			text += "x"
		}
		l.report(c, text, "%s(%q) is true of %q too: who chooses the text around it is let in", c.name, c.text, text)
	}
}

func (l *linter) openPrefix() {
	for _, c := range l.calls(overloads.StartsWith) {
		ended := strings.HasSuffix(c.text, "/") || strings.HasSuffix(c.text, ":")
		if !isWorkflow(c.claim) && !ended {
			l.report(c, c.text+"x", "startsWith(%q) is true of %q too", c.text, c.text+"x")
		}
	}
}

// isWorkflow reports whether a claim is the path of a definition with its ref.
func isWorkflow(claim string) bool {
	return strings.HasSuffix(claim, "workflow_ref") || strings.HasSuffix(claim, "_ref_uri")
}

func (l *linter) openWorkflow() {
	for _, c := range l.calls(overloads.StartsWith) {
		if isWorkflow(c.claim) && !strings.Contains(c.text, "@") {
			l.report(c, c.text+"@refs/heads/x", "startsWith(%q) is true of every branch's version of it; compare it with its ref, after the @", c.text)
		} else if isWorkflow(c.claim) {
			l.report(c, c.text+"x", "startsWith(%q) is true of %q too", c.text, c.text+"x")
		}
	}
}

// openRegexp tries a text with a slash where the pattern takes any character.
func (l *linter) openRegexp() {
	for _, c := range l.calls(overloads.Matches) {
		parsed, err := syntax.Parse(c.text, syntax.Perl)
		if err != nil {
			continue
		}
		if text, open := widen(parsed); open {
			l.report(c, text, "%q matches %q too; say which characters there may be, such as [a-z0-9-]+", c.text, text)
		}
	}
}

// widen is [sample] with x/x where any text is matched; open says that there is
// such a place.
func widen(e *syntax.Regexp) (text string, open bool) {
	switch e.Op {
	case syntax.OpStar, syntax.OpPlus:
		if takesSlash(e.Sub[0]) {
			return "x/x", true
		}
		return widen(e.Sub[0])
	case syntax.OpConcat:
		var whole strings.Builder
		for _, sub := range e.Sub {
			part, is := widen(sub)
			whole.WriteString(part)
			open = open || is
		}
		return whole.String(), open
	case syntax.OpAlternate:
		for _, sub := range e.Sub {
			if part, is := widen(sub); is {
				return part, true
			}
		}
	case syntax.OpCapture:
		return widen(e.Sub[0])
	}
	return sample(e), false
}

func takesSlash(e *syntax.Regexp) bool {
	switch e.Op {
	case syntax.OpAnyChar, syntax.OpAnyCharNotNL:
		return true
	case syntax.OpCapture:
		return takesSlash(e.Sub[0])
	case syntax.OpCharClass:
		takes := func(r rune) bool {
			for i := 0; i+1 < len(e.Rune); i += 2 {
				if e.Rune[i] <= r && r <= e.Rune[i+1] {
					return true
				}
			}
			return false
		}
		return takes('/') && takes('x')
	}
	return false
}

func (l *linter) negation() {
	for _, c := range l.calls(operators.NotEquals) {
		l.excluded(c.expr, c.claim)
	}
	if l.p.when == nil {
		return
	}
	for _, e := range ast.MatchDescendants(ast.NavigateAST(l.p.when.tree), ast.FunctionMatcher(operators.LogicalNot)) {
		for _, claim := range claimsIn(e) {
			if t := l.p.preset.Claims[claim].Type; t == presets.String || t == presets.Int {
				l.excluded(e, claim)
				break
			}
		}
	}
}

// excluded finds that a value which the policy never heard of is let in.
func (l *linter) excluded(e ast.NavigableExpr, claim string) {
	if on := on(l.p.conditions(), claim); len(on) > 0 && withGlobs(on) == 0 {
		return // match lists what is allowed
	}
	if token := l.like(map[string]any{claim: l.other(claim)}); token != nil {
		l.find(l.in(e), token, l.exactly(e, claim), "this says what %s is not; every other value is let in, also those to come", claim)
	}
}

// exactly replaces a part of the condition by a comparison of the claim with
// the value that the usual token has.
func (l *linter) exactly(e ast.Expr, claim string) []Edit {
	v, ok := l.usual[claim]
	if !ok {
		return nil
	}
	factory := ast.NewExprFactory()
	tree := ast.Copy(l.p.when.tree)
	for _, at := range ast.MatchDescendants(ast.NavigateAST(tree), ast.AllMatcher()) {
		if at.ID() == e.ID() {
			sel := factory.NewSelect(0, factory.NewIdent(0, variable), claim)
			at.SetKindCase(factory.NewCall(0, operators.Equals, sel, factory.NewLiteral(0, types.DefaultTypeAdapter.NativeToValue(v))))
			break
		}
	}
	text, err := parser.Unparse(tree.Expr(), tree.SourceInfo())
	if err != nil {
		return nil
	}
	return []Edit{l.field("when: "+yamlWhen(text), "with the value that you mean, or with several: claims."+claim+" in [...]", "when")}
}

// replaceClaim replaces what a condition asks of the claim.
func (l *linter) replaceClaim(claim string) []Edit {
	for _, e := range ast.MatchDescendants(ast.NavigateAST(l.p.when.tree), ast.KindMatcher(ast.CallKind)) {
		if slices.Contains(claimsIn(e), claim) && isCondition(l.p.when.tree, e) && len(claimsIn(e)) == 1 {
			if id := l.p.preset.ActorID; id != "" && l.usual[id] != nil {
				return l.exactly(e, id)
			}
		}
	}
	return []Edit{l.without("when")}
}

func yamlWhen(text string) string {
	return "'" + strings.ReplaceAll(text, "'", "''") + "'"
}

// alwaysTrue looks for a token that all but the condition lets in.
func (l *linter) alwaysTrue() {
	if l.p.when == nil || l.usual == nil {
		return
	}
	open := *l.p
	open.when = nil
	h := newHunt(&open, l.p)
	kept, proven := h.find(func(claims map[string]any) bool { return open.gives(claims) && !l.p.when.holds(claims) })
	if kept == nil && proven {
		l.find(l.at("when"), l.usual, []Edit{l.without("when")}, "the condition is true for every token that match fits")
	}
}

// refused returns a token that match and names fit and the policy does not
// grant to; nil if even those contradict each other.
func (l *linter) refused() map[string]any {
	open := *l.p
	open.when, open.guards, open.risks = nil, nil, nil
	claims, _ := open.witness()
	return claims
}

func (l *linter) neverHolds() {
	if l.usual != nil || !l.proven {
		return
	}
	place, token := l.at("match"), l.refused()
	what := "match and names contradict each other"
	if token != nil {
		what = l.p.why(token)
	}
	if l.p.when != nil && token != nil {
		place = l.at("when")
		what = "when is false for all that match fits"
	}
	l.find(place, token, l.whole("it grants nothing; or write what you mean"), "no token can be what the policy asks for: %s", what)
}

func (l *linter) notFound() {
	if l.usual != nil || l.proven {
		return
	}
	test := l.testEdit([]string{l.testText("whom it is for", plausible(l.p), "allow")}, 0)
	test[0].Note = "with claims for which the condition is true"
	l.find(l.at("when"), nil, test, "no token was found for which the policy holds; give it a test that allows one")
}

// A mention is a claim that the policy says something of.
type mention struct {
	name, field string
	place       strictyaml.Problem
}

// claims returns the claims that match, names and when mention, each once a field.
func (l *linter) claims() []mention {
	var list []mention
	for _, c := range l.p.match {
		list = append(list, mention{c.claim, "match", l.at("match", c.claim)})
	}
	for _, c := range l.p.names {
		list = append(list, mention{c.claim, "names", l.at("names", c.claim)})
	}
	if l.p.when == nil {
		return list
	}
	seen := map[string]bool{}
	for _, e := range ast.MatchDescendants(ast.NavigateAST(l.p.when.tree), ast.KindMatcher(ast.SelectKind)) {
		if claim, ok := claimOf(e); ok && !seen[claim] {
			seen[claim] = true
			list = append(list, mention{claim, "when", l.in(e)})
		}
	}
	return list
}
