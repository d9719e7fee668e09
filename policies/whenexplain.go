package policies

import (
	"fmt"
	"strconv"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/interpreter"
)

// whenPart says what the condition of p makes of the claims, part by part. The
// program that decides stops where it is sure and forgets the way there, so
// the condition is compiled once more, to be evaluated as a whole. What the
// whole comes to is always asked of the program that decides.
func (j *judge) whenPart(p *policy, claims map[string]any) Part {
	root := Part{Kind: PartWhen, Path: PartWhen, Place: p.at(PartWhen, ""), Want: strings.TrimSpace(p.source)}
	holds, err := p.when.eval(claims)
	root.Holds, root.Got = holds && err == nil, fmt.Sprint(holds)
	if err != nil {
		root.Got = err.Error()
	}
	if o := j.observer(p); o != nil {
		o.explain(&root, claims)
	}
	return root
}

// observer returns what evaluates the parts of the condition of p, or nil if
// that cannot be made: then there is no more to say than what was decided.
func (j *judge) observer(p *policy) *observer {
	if o, ok := j.conditions[p]; ok {
		return o
	}
	o, err := j.observe(p)
	if err != nil {
		o = nil
	}
	j.conditions[p] = o
	return o
}

// An observer evaluates every part of one condition.
type observer struct {
	policy  *policy
	tree    *ast.AST
	lang    *language
	program cel.Program
}

func (j *judge) observe(p *policy) (*observer, error) {
	lang := j.languages[p.preset]
	if lang == nil {
		var err error
		if lang, err = newLanguage(p.preset); err != nil {
			return nil, err
		}
		j.languages[p.preset] = lang
	}
	tree, issues := lang.env.Compile(p.source)
	if issues.Err() != nil {
		return nil, issues.Err()
	}
	program, err := lang.env.Program(tree, cel.EvalOptions(cel.OptExhaustiveEval))
	if err != nil {
		return nil, err
	}
	return &observer{p, tree.NativeRep(), lang, program}, nil
}

// explain fills in the parts of root.
func (o *observer) explain(root *Part, claims map[string]any) {
	_, details, _ := o.program.Eval(activation(claims)) // an error of the whole is one of a part
	seen := observed{observer: o, claims: claims, state: interpreter.NewEvalState()}
	if details != nil && details.State() != nil {
		seen.state = details.State()
	}
	top := ast.NavigateAST(o.tree)
	if join := joins(top); join != "" {
		root.Parts, root.Join = seen.operands(top, join), join
		return
	}
	root.Got = seen.got(top)
}

// observed is a condition with what its parts came to for one token.
type observed struct {
	*observer
	claims map[string]any
	state  interpreter.EvalState
}

// joins returns and, or, or "" of what is neither.
func joins(e ast.NavigableExpr) string {
	if e.Kind() != ast.CallKind {
		return ""
	}
	switch e.AsCall().FunctionName() {
	case operators.LogicalAnd:
		return "and"
	case operators.LogicalOr:
		return "or"
	}
	return ""
}

// operands lists the operands of a chain of one operator, of which the parser
// has made a tree.
func (s *observed) operands(e ast.NavigableExpr, join string) []Part {
	if joins(e) != join {
		return []Part{s.part(e)}
	}
	var list []Part
	for _, child := range e.Children() {
		list = append(list, s.operands(child, join)...)
	}
	return list
}

func (s *observed) part(e ast.NavigableExpr) Part {
	text, err := cel.ExprToString(e, s.tree.SourceInfo())
	if err != nil {
		text = "a part of when"
	}
	line := strconv.Itoa(s.tree.SourceInfo().GetStartLocation(e.ID()).Line())
	value, known := s.state.Value(e.ID())
	part := Part{
		Kind: PartWhen, Path: PartWhen, Place: s.policy.at(PartWhen, line), Want: text, Got: s.got(e),
		Holds: known && value == types.True,
	}
	if part.Join = joins(e); part.Join != "" {
		part.Parts = s.operands(e, part.Join)
		part.Place = part.Parts[0].Place // CEL has the operator's
	}
	return part
}

// got names the values of the claims that a part looks at.
func (s *observed) got(e ast.NavigableExpr) string {
	var list []string
	for _, claim := range claimsIn(e) {
		list = append(list, claim+" is "+said(s.claims, claim))
	}
	return strings.Join(list, ", ")
}

// failures lists the parts of a condition that do not hold, with the values
// that they look at; "" of one that has no parts.
func (p Part) failures() string {
	var list []string
	for _, sub := range p.Parts {
		switch {
		case sub.Holds:
		case len(sub.Parts) > 0:
			list = append(list, sub.Want)
		default:
			list = append(list, sub.Want+" ("+sub.Got+")")
		}
	}
	if len(list) == 0 {
		return ""
	}
	return ": " + strings.Join(list, ", ")
}

// whenWants says what a token would need for a condition that does not hold.
func whenWants(part Part) string {
	var list []string
	for _, sub := range part.Parts {
		if !sub.Holds {
			list = append(list, sub.Want)
		}
	}
	if len(list) == 0 {
		list = []string{part.Want}
	}
	return "claims for which " + strings.Join(list, " "+part.Join+" ")
}
