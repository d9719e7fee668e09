package policies

import (
	"maps"
	"regexp/syntax"
	"slices"
	"strings"

	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/overloads"
)

// literals are the values that conditions in CEL compare claims with, and
// others that make such a comparison true or false: what a search for a token
// has to try.
type literals struct {
	claims map[string][]any    // values by claim
	items  map[string][]string // what is looked for in a claim that is a list
	parts  map[string]*parts   // what texts begin with, end with and contain
	equal  map[string][]string // what texts are compared with as a whole

	// open says that a condition does more than to compare claims with values,
	// so that values which were not gathered may matter too.
	open bool
}

// parts are what one claim is searched for.
type parts struct{ heads, middles, tails []string }

// literals returns what w compares claims with; nothing if it is nil.
func (w *when) literals() *literals {
	l := &literals{claims: map[string][]any{}, items: map[string][]string{}, parts: map[string]*parts{}, equal: map[string][]string{}}
	if w == nil {
		return l
	}
	l.visit(w.tree.Expr())
	for claim, p := range l.parts {
		l.claims[claim] = append(p.texts(), l.claims[claim]...)
	}
	return l
}

func (l *literals) add(other *literals) {
	for claim, values := range other.claims {
		l.claims[claim] = append(l.claims[claim], values...)
	}
	for claim, items := range other.items {
		l.items[claim] = append(l.items[claim], items...)
	}
	l.open = l.open || other.open
}

func (l *literals) visit(e ast.Expr) {
	switch e.Kind() {
	case ast.CallKind:
		l.call(e.AsCall())
	case ast.ListKind:
		for _, element := range e.AsList().Elements() {
			l.visit(element)
		}
	case ast.SelectKind:
		if claim, ok := claimOf(e); ok {
			l.note(claim)
		}
	}
}

func (l *literals) call(call ast.CallExpr) {
	operands := call.Args()
	if call.IsMemberFunction() {
		operands = append([]ast.Expr{call.Target()}, operands...)
	}
	for _, o := range operands {
		l.visit(o)
	}
	switch name := call.FunctionName(); name {
	case operators.LogicalAnd, operators.LogicalOr, operators.LogicalNot, operators.Conditional:
	case overloads.Size:
		l.size(operands[0])
	default:
		l.comparison(name, operands[0], operands[1])
	}
}

// note says that the claim matters, with values that it may have.
func (l *literals) note(claim string, values ...any) {
	l.claims[claim] = append(l.claims[claim], values...)
}

// size is for what is of a certain length: a text or list of none, or of one.
func (l *literals) size(of ast.Expr) {
	l.open = true
	if claim, ok := claimOf(of); ok {
		l.note(claim, "", "x", "xx", []string{}, []string{"x"}, []string{"x", "y"})
	}
}

// comparison is for a call with two operands of which one is a claim.
func (l *literals) comparison(name string, a, b ast.Expr) {
	claim, left := claimOf(a)
	other, right := claimOf(b)
	value, isValue := valueOf(b)
	if right && !left {
		claim = other
		value, isValue = valueOf(a)
	}
	switch {
	case left && right:
		l.open = true
		l.note(claim, "same")
		l.note(other, "same")
	case !left && !right:
		l.open = true
		l.nested(a, b)
		l.nested(b, a)
	case !isValue:
		l.open = true
	case name == operators.In && right:
		l.items[claim] = append(l.items[claim], text(value))
	default:
		l.values(name, claim, value)
	}
}

// nested notes for all claims within e the value that e is compared with.
func (l *literals) nested(e, with ast.Expr) {
	value, ok := valueOf(with)
	if !ok {
		return
	}
	for _, claim := range claimsIn(e) {
		l.values(operators.Equals, claim, value)
	}
}

// values notes what makes a comparison of the claim with value true.
func (l *literals) values(name, claim string, value any) {
	switch name {
	case operators.Equals, operators.NotEquals, operators.Less, operators.LessEquals, operators.Greater, operators.GreaterEquals:
		l.value(claim, value)
	case operators.In:
		l.members(claim, value)
	case overloads.StartsWith, overloads.EndsWith, overloads.Contains:
		l.open = true
		l.part(name, claim, text(value))
	case overloads.Matches:
		l.open = true
		if parsed, err := syntax.Parse(text(value), syntax.Perl); err == nil {
			l.note(claim, sample(parsed))
		}
	default:
		l.open = true
	}
}

// value notes one value, and of a number what is next to it: between two
// numbers that matter there may be others, of which all are alike.
func (l *literals) value(claim string, value any) {
	l.note(claim, value)
	switch v := value.(type) {
	case string:
		l.equal[claim] = append(l.equal[claim], v)
	case int64:
		l.note(claim, v-1, v+1)
	case []string:
		l.open = true // a list may have any order, and items twice
	}
}

// members notes the elements of a list that a claim is to be in.
func (l *literals) members(claim string, list any) {
	switch list := list.(type) {
	case []string:
		for _, s := range list {
			l.value(claim, s)
		}
	case []any:
		for _, v := range list {
			l.value(claim, v)
		}
	}
}

// part notes a part that a text is searched for.
func (l *literals) part(name, claim, part string) {
	p := l.parts[claim]
	if p == nil {
		p = &parts{}
		l.parts[claim] = p
	}
	switch name {
	case overloads.StartsWith:
		p.heads = append(p.heads, part)
	case overloads.EndsWith:
		p.tails = append(p.tails, part)
	default:
		p.middles = append(p.middles, part)
	}
	l.note(claim)
}

// texts returns texts that have one or more of the parts: each head with each
// tail and, between them, nothing, everything or more than was asked for.
func (p *parts) texts() []any {
	const most = 100
	var made []any
	middles := strings.Join(p.middles, "")
	for _, head := range append(slices.Clone(p.heads), "") {
		for _, tail := range append(slices.Clone(p.tails), "") {
			if len(made) < most {
				made = append(made, head+middles+tail, head+middles+"x"+tail, head+tail)
			}
		}
	}
	for _, middle := range p.middles {
		made = append(made, middle)
	}
	return made
}

// claimsIn returns the claims that occur in e, sorted.
func claimsIn(e ast.Expr) []string {
	found := map[string]bool{}
	ast.PostOrderVisit(e, ast.NewExprVisitor(func(e ast.Expr) {
		if claim, ok := claimOf(e); ok {
			found[claim] = true
		}
	}))
	return slices.Sorted(maps.Keys(found))
}

// claimOf returns the claim that e is, if it is one.
func claimOf(e ast.Expr) (string, bool) {
	if e.Kind() != ast.SelectKind {
		return "", false
	}
	of := e.AsSelect().Operand()
	return e.AsSelect().FieldName(), of.Kind() == ast.IdentKind && of.AsIdent() == variable
}

// valueOf returns the value that is written out in e: string, int64, bool,
// []string or, for a list of others, []any.
func valueOf(e ast.Expr) (any, bool) {
	if e.Kind() == ast.LiteralKind {
		return e.AsLiteral().Value(), true
	}
	if e.Kind() != ast.ListKind {
		return nil, false
	}
	var texts []string
	var all []any
	for _, element := range e.AsList().Elements() {
		v, ok := valueOf(element)
		if !ok {
			return nil, false
		}
		all = append(all, v)
		if s, isText := v.(string); isText {
			texts = append(texts, s)
		}
	}
	if len(texts) == len(all) {
		return texts, true
	}
	return all, true
}

func text(v any) string {
	s, _ := v.(string)
	return s
}

// sample returns a short text that the expression matches, if it needs no
// look around: a search that tries it finds out.
func sample(e *syntax.Regexp) string {
	switch e.Op {
	case syntax.OpLiteral:
		return string(e.Rune)
	case syntax.OpCharClass:
		return string(likely(e.Rune))
	case syntax.OpAnyChar, syntax.OpAnyCharNotNL:
		return "x"
	case syntax.OpAlternate, syntax.OpCapture, syntax.OpPlus:
		return sample(e.Sub[0])
	case syntax.OpRepeat:
		return strings.Repeat(sample(e.Sub[0]), e.Min)
	case syntax.OpConcat:
		var whole strings.Builder
		for _, sub := range e.Sub {
			whole.WriteString(sample(sub))
		}
		return whole.String()
	}
	return "" // nothing, or an assertion
}

// likely returns a letter or digit of the class, if it has one. ranges are
// pairs, as [syntax.Regexp] has them.
func likely(ranges []rune) rune {
	for _, r := range "x1aA_-" {
		for i := 0; i+1 < len(ranges); i += 2 {
			if ranges[i] <= r && r <= ranges[i+1] {
				return r
			}
		}
	}
	if len(ranges) == 0 {
		return 'x'
	}
	return ranges[0]
}
