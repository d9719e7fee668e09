package strictyaml

import (
	"fmt"
	"strings"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"
)

// A Path leads to a value in a document: a string for a key of a mapping, an
// int for an index of a list. Path{"grant", 0, "ttl"} prints as grant[0].ttl.
type Path []any

// String implements fmt.Stringer.
func (p Path) String() string {
	var b strings.Builder
	for _, step := range p {
		switch s := step.(type) {
		case string:
			if b.Len() > 0 {
				b.WriteByte('.')
			}
			b.WriteString(clip(s))
		default:
			fmt.Fprintf(&b, "[%d]", s)
		}
	}
	return b.String()
}

// With returns p and more steps behind it. It does not change p.
func (p Path) With(steps ...any) Path {
	return append(p[:len(p):len(p)], steps...)
}

// Problem says that something is wrong with the value at path. If there is no
// such value, as when a key is missing, the place is that of the nearest value
// around it.
func (d *Document) Problem(path Path, format string, args ...any) Problem {
	_, value := d.find(path)
	return d.problem(value, fmt.Sprintf(format, args...))
}

// KeyProblem is like [Document.Problem] and points at the key instead of the
// value, where path ends in a key.
func (d *Document) KeyProblem(path Path, format string, args ...any) Problem {
	key, value := d.find(path)
	if key != nil {
		value = key
	}
	return d.problem(value, fmt.Sprintf(format, args...))
}

// TextProblem points at a line and column, both from 1, inside of the string at
// path: an error of a language that is embedded in the document. It is exact
// for literal blocks (|) and strings on one line without escapes, and points at
// the start of the string otherwise.
func (d *Document) TextProblem(path Path, line, column int, format string, args ...any) Problem {
	_, value := d.find(path)
	p := d.problem(value, fmt.Sprintf(format, args...))
	switch v := value.(type) {
	case *ast.LiteralNode:
		if indent, ok := d.indent(v); ok {
			p.Line, p.Column = p.Line+line, indent+column
		}
	case *ast.StringNode:
		if offset, ok := d.verbatim(v); ok && line == 1 {
			p.Column += offset + column - 1
		}
	}
	return p
}

// Line returns the line of the value at path, from 1.
func (d *Document) Line(path Path) int {
	return d.Problem(path, "").Line
}

// Has reports whether the document has a value at path: a key may be given and
// hold the zero value.
func (d *Document) Has(path Path) bool {
	n := d.body
	for _, step := range path {
		if _, n = child(n, step); n == nil {
			return false
		}
	}
	return true
}

// indent returns by how much the text of a literal block is indented.
func (d *Document) indent(v *ast.LiteralNode) (int, bool) {
	switch v.Start.Value {
	case "|", "|-", "|+":
	default:
		return 0, false // folded, or indented by more than it seems
	}
	for _, line := range d.lines()[v.Start.Position.Line:] {
		if text := strings.TrimLeft(line, " "); strings.TrimSpace(text) != "" {
			return len(line) - len(text), true
		}
	}
	return 0, false
}

// verbatim reports whether the string stands in the source as it is, and how
// far behind the place of its token: 1 for the quote, if it has one.
func (d *Document) verbatim(v *ast.StringNode) (int, bool) {
	quote := 0
	if v.Token.Type == token.SingleQuoteType || v.Token.Type == token.DoubleQuoteType {
		quote = 1
	}
	pos := v.Token.Position
	lines := d.lines()
	if pos.Line > len(lines) {
		return 0, false
	}
	line := []rune(lines[pos.Line-1])
	start := min(len(line), pos.Column-1+quote)
	return quote, strings.HasPrefix(string(line[start:]), v.Value)
}

// find returns the key and the value at path, or the last ones on the way to
// it that exist. The key is nil for the document and for items of lists.
func (d *Document) find(path Path) (key, value ast.Node) {
	value = d.body
	for _, step := range path {
		k, v := child(value, step)
		if v == nil {
			return key, value
		}
		key, value = k, v
	}
	return key, value
}

func child(n ast.Node, step any) (key, value ast.Node) {
	switch s := step.(type) {
	case string:
		for _, e := range entries(n) {
			if name, ok := keyName(e.Key); ok && name == s {
				return e.Key, e.Value
			}
		}
	case int:
		if list, ok := n.(*ast.SequenceNode); ok && s < len(list.Values) {
			return nil, list.Values[s]
		}
	}
	return nil, nil
}

func entries(n ast.Node) []*ast.MappingValueNode {
	switch m := n.(type) {
	case *ast.MappingNode:
		return m.Values
	case *ast.MappingValueNode:
		return []*ast.MappingValueNode{m}
	}
	return nil
}

// keyName returns a key's name. Only strings are keys: 1: and true: would be
// strings to one reader and not to another.
func keyName(key ast.MapKeyNode) (string, bool) {
	s, ok := key.(*ast.StringNode)
	if !ok {
		return "", false
	}
	return s.Value, true
}

func (d *Document) problem(n ast.Node, message string) Problem {
	return part{before: d.before}.place(d.file, at(start(n), "%s", message))
}

func (d *Document) lines() []string { return strings.Split(d.source, "\n") }

// start returns the token at which a reader sees n begin: for a block mapping
// its first key, where the parser has the colon.
func start(n ast.Node) *token.Token {
	if list := entries(n); len(list) > 0 && n.GetToken().Type == token.MappingValueType {
		return list[0].Key.GetToken()
	}
	return n.GetToken()
}
