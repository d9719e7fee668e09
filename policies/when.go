package policies

import (
	"errors"
	"fmt"
	"maps"
	"regexp/syntax"
	"slices"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/cost"
	"cel.dev/cel-go/common/env"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/overloads"
	"cel.dev/cel-go/common/types"

	"github.com/brevet-dev/brevet/issuers/presets"
)

// Limits on one condition. A long one has 300 bytes and 40 nodes.
const (
	maxSource = 4 << 10 // bytes
	maxNodes  = 200
	maxNested = 50
	maxRegexp = 1000 // instructions of the compiled program

	// maxClaim and maxListed are what costs are estimated with: bytes of a
	// claim, and strings in one that is a list. Platforms stay below them; a
	// token that does not is stopped by maxCost.
	maxClaim  = 1 << 10
	maxListed = 100

	// maxEstimate is the highest cost that a condition may have at load, in
	// CEL's units: comparing a claim with a string is 3, matching one against a
	// regular expression of 20 bytes about 500. maxCost is what an evaluation
	// may really cost: a condition whose cost was estimated wrongly does not hold.
	maxEstimate = 1_000
	maxCost     = 10_000
)

// variable is the name under which a condition sees the claims, and
// claimsType what CEL calls their type.
const (
	variable   = "claims"
	claimsType = "brevet.Claims"
)

// A when is a compiled condition. A nil one always holds.
type when struct {
	program cel.Program
	source  string   // as it is written
	tree    *ast.AST // what was parsed and checked, for those who explain it
}

// holds reports whether the condition is true. An error, such as a claim that
// the token does not have, is not true.
func (w *when) holds(claims map[string]any) bool {
	result, err := w.eval(claims)
	return err == nil && result
}

func (w *when) eval(claims map[string]any) (bool, error) {
	if w == nil {
		return true, nil
	}
	value, _, err := w.program.Eval(activation(claims))
	if err != nil {
		return false, err
	}
	return value == types.True, nil
}

// An activation gives CEL the claims, and nothing else.
type activation map[string]any

// ResolveName implements [cel.Activation].
func (a activation) ResolveName(name string) (any, bool) {
	return map[string]any(a), name == variable
}

// Parent implements [cel.Activation].
func (activation) Parent() cel.Activation { return nil }

// A language is CEL as the policies of one issuer have it: the claims that the
// preset declares, each with its type, and the functions of [functions].
// There are no macros, so there are no loops: a condition costs about its length.
type language struct {
	env    *cel.Env
	preset *presets.Preset
}

func newLanguage(p *presets.Preset) (*language, error) {
	registry, err := types.NewRegistry()
	if err != nil {
		return nil, err
	}
	e, err := cel.NewCustomEnv(
		cel.StdLib(cel.StdLibSubset(functions())),
		cel.CustomTypeProvider(claimTypes{registry, p}),
		cel.Variable(variable, cel.ObjectType(claimsType)),
		cel.EnableIdentifierEscapeSyntax(), // claims.`vcs-origin`
		cel.HomogeneousAggregateLiterals(),
		cel.ParserExpressionSizeLimit(maxSource),
		cel.ParserRecursionLimit(maxNested),
		cel.ExpressionNodeLimit(maxNodes),
		cel.RegexProgramSizeLimit(maxRegexp),
	)
	if err != nil {
		return nil, err
	}
	return &language{e, p}, nil
}

// functions is the part of CEL's library that conditions have. Left out are
// dyn, which takes the types away again; times, which no claim has; and the
// order of strings, in which "9" is more than "10".
func functions() *env.LibrarySubset {
	subset := env.NewLibrarySubset().SetDisableMacros(true)
	for _, name := range []string{
		operators.LogicalAnd, operators.LogicalOr, operators.LogicalNot, operators.Conditional,
		operators.Equals, operators.NotEquals, operators.In,
		overloads.StartsWith, overloads.EndsWith, overloads.Contains, overloads.Matches, overloads.Size,
	} {
		subset.AddIncludedFunctions(env.NewFunction(name))
	}
	for name, overload := range map[string]string{
		operators.Less: overloads.LessInt64, operators.LessEquals: overloads.LessEqualsInt64,
		operators.Greater: overloads.GreaterInt64, operators.GreaterEquals: overloads.GreaterEqualsInt64,
	} {
		subset.AddIncludedFunctions(env.NewFunction(name, &env.Overload{ID: overload}))
	}
	return subset
}

// A flaw is something wrong with a condition, at a line and column of its own
// text, both from 1.
type flaw struct {
	line, column int
	message      string
}

// compile returns the condition, or everything that is wrong with it.
func (l *language) compile(source string) (*when, []flaw) {
	if strings.TrimSpace(source) == "" {
		return nil, []flaw{{1, 1, "the condition is empty; remove it if there is none"}}
	}
	tree, issues := l.env.Parse(source)
	if issues.Err() != nil {
		return nil, l.flaws(issues)
	}
	if strings.Contains(source, overloads.Matches) { // a walk through the tree costs a tenth of all this
		if flaws := tooLarge(tree.NativeRep()); len(flaws) > 0 {
			return nil, flaws
		}
	}
	if tree, issues = l.env.Check(tree); issues.Err() != nil {
		return nil, l.flaws(issues)
	}
	if !tree.OutputType().IsExactType(cel.BoolType) {
		return nil, []flaw{{1, 1, fmt.Sprintf("the condition must be true or false; this gives %s", tree.OutputType())}}
	}
	if flaws := l.lint(tree.NativeRep()); len(flaws) > 0 {
		return nil, flaws
	}
	estimate, err := l.env.EstimateCost(tree, sizes{})
	if err != nil {
		return nil, []flaw{{1, 1, fmt.Sprintf("estimating its cost: %v", err)}}
	}
	if estimate.Max > maxEstimate {
		return nil, []flaw{{1, 1, fmt.Sprintf("the condition costs up to %d, the limit is %d; make it simpler, or move parts of it to match", estimate.Max, maxEstimate)}}
	}
	program, err := l.env.Program(tree, cel.EvalOptions(cel.OptOptimize), cel.CostLimit(maxCost))
	if err != nil {
		return nil, []flaw{{1, 1, err.Error()}}
	}
	return &when{program, source, tree.NativeRep()}, nil
}

func (l *language) flaws(issues *cel.Issues) []flaw {
	var flaws []flaw
	for _, e := range issues.Errors() {
		flaws = append(flaws, flaw{max(1, e.Location.Line()), max(0, e.Location.Column()) + 1, e.Message + l.hint(e.Message)})
	}
	return flaws
}

// hint says what mends an error of CEL's.
func (l *language) hint(message string) string {
	if field, ok := strings.CutPrefix(message, "undefined field '"); ok {
		return claimMeant(strings.TrimSuffix(field, "'"), l.preset)
	}
	if name, ok := strings.CutPrefix(message, "undeclared reference to '"); ok {
		name = strings.TrimSuffix(name, "'")
		if _, declared := l.preset.Claims[name]; declared {
			return "; write claims." + name
		}
	}
	switch {
	case strings.HasPrefix(message, "found no matching overload for '_==_'"), strings.HasPrefix(message, "found no matching overload for '_!=_'"):
		return "; both sides must have the same type"
	case strings.Contains(message, "mismatched input 'and'"):
		return "; and is written &&"
	case strings.Contains(message, "mismatched input 'or'"):
		return "; or is written ||"
	}
	return ""
}

// lint refuses what compiles and still does not say what its author meant.
func (l *language) lint(tree *ast.AST) []flaw {
	root := ast.NavigateAST(tree)
	if len(claimsIn(root)) == 0 {
		return []flaw{{1, 1, "the condition does not look at any claim"}}
	}
	var flaws []flaw
	for _, e := range ast.MatchDescendants(root, ast.AllMatcher()) {
		if message := l.lintExpr(tree, e); message != "" {
			at := tree.SourceInfo().GetStartLocation(e.ID())
			flaws = append(flaws, flaw{max(1, at.Line()), max(0, at.Column()) + 1, message})
		}
	}
	return flaws
}

// lintExpr says what is wrong with e itself, not with its operands.
//
// What is left has a property that all the rest relies on: an absent claim
// never makes a condition true. A claim that the token does not have is an
// error, and so is whatever is computed from it, but for && and ||, which are
// false and true if one operand is, whatever the other. So a condition that is
// true in spite of an absent claim is true for each value of that claim, too:
// it was true before the claim was taken away. Only a function that looks for
// absence could say otherwise, and there is none (has is a macro).
func (l *language) lintExpr(tree *ast.AST, e ast.NavigableExpr) string {
	switch e.Kind() {
	case ast.StructKind, ast.MapKind, ast.ComprehensionKind:
		return "a condition compares claims with values; it makes no objects"
	case ast.IdentKind:
		if parent, ok := e.Parent(); !ok || parent.Kind() != ast.SelectKind {
			return "write which claim: claims.ref"
		}
	case ast.LiteralKind:
		if isCondition(tree, e) && isOperand(e) {
			return "true and false decide here whatever the token says; remove them"
		}
	case ast.CallKind:
		if isCondition(tree, e) && !isOperand(e) {
			return "a condition is no value to compare or to look for; join conditions with &&, || and !"
		}
		return l.lintCall(e)
	}
	return ""
}

func isCondition(tree *ast.AST, e ast.Expr) bool {
	return tree.GetType(e.ID()).IsExactType(types.BoolType)
}

// isOperand reports whether e is the whole condition, or an operand of what joins
// conditions.
func isOperand(e ast.NavigableExpr) bool {
	parent, ok := e.Parent()
	if !ok {
		return true
	}
	if parent.Kind() != ast.CallKind {
		return false
	}
	switch parent.AsCall().FunctionName() {
	case operators.LogicalAnd, operators.LogicalOr, operators.LogicalNot, operators.Conditional:
		return true
	}
	return false
}

func (l *language) lintCall(call ast.NavigableExpr) string {
	args := call.AsCall().Args()
	switch name := call.AsCall().FunctionName(); name {
	case operators.NotEquals, operators.LogicalNot:
		return l.lintNegation(call)
	case operators.Conditional:
		return l.lintNegation(args[0])
	case overloads.Matches:
		if err := checkRegexp(args[len(args)-1]); err != nil {
			return err.Error()
		}
	}
	return ""
}

// lintNegation is for what asks that something is not so of the claims in e.
func (l *language) lintNegation(e ast.Expr) string {
	for _, claim := range claimsIn(e) {
		if l.preset.Claims[claim].Optional {
			return fmt.Sprintf("claim %q may be absent, and then this is an error, not true; say which values are allowed instead", claim)
		}
	}
	return ""
}

// checkRegexp refuses a pattern that may match a part of the claim only.
// Anchors at both ends of the text are not enough: ^a|b$ means (^a)|(b$).
func checkRegexp(e ast.Expr) error {
	pattern, ok := literal(e)
	if !ok {
		return errors.New("the pattern of matches must be a string, written out")
	}
	parsed, err := syntax.Parse(pattern, syntax.Perl)
	if err != nil {
		return err
	}
	if n := len(parsed.Sub); parsed.Op != syntax.OpConcat || n < 2 ||
		parsed.Sub[0].Op != syntax.OpBeginText || parsed.Sub[n-1].Op != syntax.OpEndText {
		return errors.New("the pattern of matches must match the whole claim; write ^(?:…)$")
	}
	return nil
}

// tooLarge refuses patterns before CEL compiles them to see how large they are:
// (a{1000}) a hundred times, in a file of such conditions, took eight seconds and
// four gigabytes. What is below is cheap, and CEL is exact about it.
func tooLarge(tree *ast.AST) []flaw {
	size := 0
	for _, e := range ast.MatchDescendants(ast.NavigateAST(tree), ast.KindMatcher(ast.LiteralKind)) {
		parent, ok := e.Parent()
		pattern, isText := literal(e)
		if !ok || !isText || parent.Kind() != ast.CallKind || parent.AsCall().FunctionName() != overloads.Matches {
			continue
		}
		if parsed, err := syntax.Parse(pattern, syntax.Perl); err == nil { // CEL tells of the error
			size += steps(parsed)
		}
		if size > 4*maxRegexp {
			at := tree.SourceInfo().GetStartLocation(e.ID())
			return []flaw{{max(1, at.Line()), max(0, at.Column()) + 1, fmt.Sprintf("the patterns of matches have more than %d steps, of which a{100} has 100", 4*maxRegexp)}}
		}
	}
	return nil
}

// steps returns about how many instructions a pattern is compiled to: counts make
// a short one large.
func steps(re *syntax.Regexp) int {
	n := 1
	if re.Op == syntax.OpLiteral {
		n = len(re.Rune)
	}
	for _, sub := range re.Sub {
		n += steps(sub)
	}
	if re.Op == syntax.OpRepeat {
		n *= max(re.Min, re.Max, 1)
	}
	return n
}

func literal(e ast.Expr) (string, bool) {
	if e.Kind() != ast.LiteralKind {
		return "", false
	}
	s, ok := e.AsLiteral().Value().(string)
	return s, ok
}

// sizes tells the cost estimate how long claims are.
type sizes struct{}

// EstimateSize implements [cost.Estimator].
func (sizes) EstimateSize(n cost.AstNode) *cost.SizeEstimate {
	if path := n.Path(); len(path) < 2 || path[0] != variable {
		return nil
	}
	if n.Type().Kind() == types.ListKind {
		return &cost.SizeEstimate{Min: 0, Max: maxListed}
	}
	return &cost.SizeEstimate{Min: 0, Max: maxClaim}
}

// EstimateCallCost implements [cost.Estimator].
func (sizes) EstimateCallCost(string, string, *cost.AstNode, []cost.AstNode) *cost.CallEstimate {
	return nil
}

// claimTypes tells CEL which claims there are: a misspelt one or a comparison
// with another type is an error at load.
type claimTypes struct {
	*types.Registry
	preset *presets.Preset
}

// FindStructType implements [types.Provider].
func (c claimTypes) FindStructType(name string) (*types.Type, bool) {
	if name == claimsType {
		return types.NewTypeTypeWithParam(types.NewObjectType(claimsType)), true
	}
	return c.Registry.FindStructType(name)
}

// FindStructFieldNames implements [types.Provider].
func (c claimTypes) FindStructFieldNames(name string) ([]string, bool) {
	if name == claimsType {
		return slices.Sorted(maps.Keys(c.preset.Claims)), true
	}
	return c.Registry.FindStructFieldNames(name)
}

// FindStructFieldType implements [types.Provider].
func (c claimTypes) FindStructFieldType(structType, field string) (*types.FieldType, bool) {
	claim, ok := c.preset.Claims[field]
	if structType != claimsType || !ok {
		return c.Registry.FindStructFieldType(structType, field)
	}
	absent := fmt.Errorf("the token has no claim %q of type %s", field, claim.Type)
	get := func(claims any) (any, error) {
		m, ok := claims.(map[string]any)
		if !ok || !hasType(m[field], claim.Type) {
			return nil, absent
		}
		return m[field], nil
	}
	isSet := func(claims any) bool {
		_, err := get(claims)
		return err == nil
	}
	return &types.FieldType{Type: celType(claim.Type), IsSet: isSet, GetFrom: get}, true
}

// hasType reports whether a claim of the identity is of the declared type.
func hasType(v any, t presets.Type) bool {
	var ok bool
	switch t {
	case presets.String:
		_, ok = v.(string)
	case presets.Int:
		_, ok = v.(int64)
	case presets.Bool:
		_, ok = v.(bool)
	case presets.StringList:
		_, ok = v.([]string)
	}
	return ok
}

func celType(t presets.Type) *types.Type {
	switch t {
	case presets.String:
		return types.StringType
	case presets.Int:
		return types.IntType
	case presets.Bool:
		return types.BoolType
	case presets.StringList:
		return types.NewListType(types.StringType)
	}
	return types.ErrorType // an unknown type compares with nothing
}
