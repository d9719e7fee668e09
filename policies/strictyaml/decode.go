package strictyaml

import (
	"encoding"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"
)

// Decode sets what v points at from the document, and returns everything that
// does not fit: fields that v does not have, keys given twice, values of
// another type, values left out after their colon. What fits is set, so that
// the caller can look for problems of meaning too; a value that does not fit
// is left zero.
//
// Fields are named by their yaml tag ("name,omitempty", "-", ",inline") or
// else by their name in lower case, as goccy/go-yaml does it. Structs, maps
// with string keys, slices, pointers, strings, booleans, integers,
// [time.Duration] (written 15m), [encoding.TextUnmarshaler] and any are read;
// into any go string, int64, bool, []any and map[string]any. A struct that is a
// TextUnmarshaler may be written as a string or as a mapping.
func (d *Document) Decode(v any) Problems {
	dec := decoder{doc: d, fields: map[reflect.Type][]field{}}
	dec.value(nil, d.body, reflect.ValueOf(v).Elem())
	return dec.problems.Limit()
}

type decoder struct {
	doc      *Document
	problems Problems
	fields   map[reflect.Type][]field // of the structs met so far
}

func (d *decoder) fail(n ast.Node, format string, args ...any) {
	d.problems = append(d.problems, d.doc.problem(n, fmt.Sprintf(format, args...)))
}

// want reports a value of the wrong type.
func (d *decoder) want(path Path, n ast.Node, want string) {
	if len(path) == 0 {
		d.fail(n, "the document must be %s, not %s", want, describe(n))
		return
	}
	d.fail(n, "%s must be %s, not %s", path, want, describe(n))
}

func (d *decoder) value(path Path, n ast.Node, dst reflect.Value) {
	if isNull(n) {
		d.fail(n, "%s has no value; give it one or remove the key", path)
		return
	}
	if dst.Type() == reflect.TypeFor[time.Duration]() {
		d.duration(path, n, dst)
		return
	}
	if u, ok := dst.Addr().Interface().(encoding.TextUnmarshaler); ok && !(dst.Kind() == reflect.Struct && isMapping(n)) {
		d.text(path, n, u)
		return
	}
	d.kind(path, n, dst)
}

func (d *decoder) kind(path Path, n ast.Node, dst reflect.Value) {
	switch dst.Kind() {
	case reflect.Pointer:
		dst.Set(reflect.New(dst.Type().Elem()))
		d.value(path, n, dst.Elem())
	case reflect.Struct:
		d.structure(path, n, dst)
	case reflect.Map:
		d.mapping(path, n, dst)
	case reflect.Slice:
		d.list(path, n, dst)
	case reflect.Interface:
		d.any(path, n, dst)
	default:
		d.scalar(path, n, dst)
	}
}

func (d *decoder) scalar(path Path, n ast.Node, dst reflect.Value) {
	switch dst.Kind() {
	case reflect.String:
		if s, ok := stringOf(n); ok {
			dst.SetString(s)
			return
		}
		d.want(path, n, "a string"+quoteHint(n))
	case reflect.Bool:
		if b, ok := boolOf(n); ok {
			dst.SetBool(b)
			return
		}
		d.want(path, n, "true or false")
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		if i, ok := intOf(n); ok && !dst.OverflowInt(i) {
			dst.SetInt(i)
			return
		}
		d.want(path, n, "a whole number within the range of "+dst.Kind().String())
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		if i, ok := intOf(n); ok && i >= 0 && !dst.OverflowUint(uint64(i)) {
			dst.SetUint(uint64(i))
			return
		}
		d.want(path, n, "a whole number within the range of "+dst.Kind().String())
	default:
		d.fail(n, "%s cannot be read: strictyaml does not know the type %s", path, dst.Type())
	}
}

func (d *decoder) duration(path Path, n ast.Node, dst reflect.Value) {
	s, ok := stringOf(n)
	if !ok {
		d.want(path, n, "a duration with its unit, such as 15m")
		return
	}
	v, err := time.ParseDuration(s)
	if err != nil {
		d.fail(n, "%s must be a duration such as 90s, 15m or 1h30m, not %q", path, clip(s))
		return
	}
	dst.SetInt(int64(v))
}

func (d *decoder) text(path Path, n ast.Node, u encoding.TextUnmarshaler) {
	s, ok := stringOf(n)
	if !ok {
		d.want(path, n, "a string"+quoteHint(n))
		return
	}
	if err := u.UnmarshalText([]byte(s)); err != nil {
		d.fail(n, "%s is not valid: %v", path, err)
	}
}

func (d *decoder) list(path Path, n ast.Node, dst reflect.Value) {
	seq, ok := n.(*ast.SequenceNode)
	if !ok {
		d.want(path, n, "a list")
		return
	}
	dst.Set(reflect.MakeSlice(dst.Type(), len(seq.Values), len(seq.Values)))
	for i, item := range seq.Values {
		d.value(path.With(i), item, dst.Index(i))
	}
}

func (d *decoder) mapping(path Path, n ast.Node, dst reflect.Value) {
	if !isMapping(n) {
		d.want(path, n, "a mapping")
		return
	}
	dst.Set(reflect.MakeMap(dst.Type()))
	d.each(path, n, func(name string, e *ast.MappingValueNode) {
		elem := reflect.New(dst.Type().Elem()).Elem()
		d.value(path.With(name), e.Value, elem)
		dst.SetMapIndex(reflect.ValueOf(name).Convert(dst.Type().Key()), elem)
	})
}

func (d *decoder) any(path Path, n ast.Node, dst reflect.Value) {
	var v any
	switch {
	case isMapping(n):
		m := map[string]any{}
		d.mapping(path, n, reflect.ValueOf(&m).Elem())
		v = m
	case n.Type() == ast.SequenceType:
		l := []any{}
		d.list(path, n, reflect.ValueOf(&l).Elem())
		v = l
	default:
		v = d.anyScalar(path, n)
	}
	if v != nil {
		dst.Set(reflect.ValueOf(v))
	}
}

func (d *decoder) anyScalar(path Path, n ast.Node) any {
	if s, ok := stringOf(n); ok {
		return s
	}
	if b, ok := boolOf(n); ok {
		return b
	}
	if i, ok := intOf(n); ok {
		return i
	}
	d.want(path, n, "a string, a whole number, true or false"+quoteHint(n))
	return nil
}

func (d *decoder) structure(path Path, n ast.Node, dst reflect.Value) {
	if !isMapping(n) {
		d.want(path, n, "a mapping")
		return
	}
	fields, known := d.fields[dst.Type()]
	if !known {
		fields = fieldsOf(dst.Type())
		d.fields[dst.Type()] = fields
	}
	d.each(path, n, func(name string, e *ast.MappingValueNode) {
		i := slices.IndexFunc(fields, func(f field) bool { return f.name == name })
		if i < 0 {
			d.fail(e.Key, "unknown field %q%s", clip(name), DidYouMean(name, names(fields)))
			return
		}
		d.value(path.With(name), e.Value, dst.FieldByIndex(fields[i].index))
	})
}

// each calls use for every entry of a mapping whose key is a string that the
// mapping did not have before.
func (d *decoder) each(path Path, n ast.Node, use func(string, *ast.MappingValueNode)) {
	seen := map[string]int{}
	for _, e := range entries(n) {
		name, ok := keyName(e.Key)
		if !ok {
			d.fail(e.Key, "a key must be a string, not %s; quote it", describe(e.Key))
			continue
		}
		if line, twice := seen[name]; twice {
			d.fail(e.Key, "duplicate key %q, first given in line %d", clip(name), d.doc.before+line)
			continue
		}
		seen[name] = e.Key.GetToken().Position.Line
		use(name, e)
	}
}

type field struct {
	name  string
	index []int
}

func names(fields []field) []string {
	list := make([]string, len(fields))
	for i, f := range fields {
		list[i] = f.name
	}
	return list
}

// fieldsOf lists the fields of t that a document can set, those of embedded and
// inline structs included.
func fieldsOf(t reflect.Type) []field {
	var fields []field
	for i := range t.NumField() {
		f := t.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		inline := f.Type.Kind() == reflect.Struct && (options == "inline" || f.Anonymous && name == "")
		switch {
		case name == "-" || !f.IsExported():
		case inline:
			for _, sub := range fieldsOf(f.Type) {
				fields = append(fields, field{sub.name, append([]int{i}, sub.index...)})
			}
		case name == "":
			fields = append(fields, field{strings.ToLower(f.Name), []int{i}})
		default:
			fields = append(fields, field{name, []int{i}})
		}
	}
	return fields
}

func isMapping(n ast.Node) bool {
	return n.Type() == ast.MappingType || n.Type() == ast.MappingValueType
}

func isNull(n ast.Node) bool { return n == nil || n.Type() == ast.NullType }

func stringOf(n ast.Node) (string, bool) {
	switch s := n.(type) {
	case *ast.StringNode:
		return s.Value, true
	case *ast.LiteralNode:
		return s.Value.Value, true
	}
	return "", false
}

// boolOf accepts true and false only: YAML also has True and TRUE.
func boolOf(n ast.Node) (value, ok bool) {
	b, ok := n.(*ast.BoolNode)
	if !ok {
		return false, false
	}
	return b.Value, b.Token.Value == "true" || b.Token.Value == "false"
}

// intOf accepts decimal numbers within int64, written in the one plain way:
// 0x1F, 1_000, 017 and +1 are numbers to YAML, and not the same ones to every
// reader.
func intOf(n ast.Node) (int64, bool) {
	i, ok := n.(*ast.IntegerNode)
	if !ok {
		return 0, false
	}
	v, err := strconv.ParseInt(i.Token.Value, 10, 64)
	return v, err == nil && strconv.FormatInt(v, 10) == i.Token.Value
}

func describe(n ast.Node) string {
	switch n.Type() {
	case ast.MappingType, ast.MappingValueType:
		return "a mapping"
	case ast.SequenceType:
		return "a list"
	case ast.StringType, ast.LiteralType:
		return "a string"
	case ast.NullType:
		return "nothing"
	}
	return clip(n.GetToken().Value)
}

// quoteHint says how to make a string of a scalar that is not one.
func quoteHint(n ast.Node) string {
	switch n.GetToken().Type {
	case token.MappingValueType, token.MappingStartType, token.SequenceEntryType, token.SequenceStartType:
		return ""
	}
	return fmt.Sprintf(" (%q, with the quotes)", clip(n.GetToken().Value))
}

// clip shortens a stranger's text for a message.
func clip(s string) string {
	const most = 64 // longer than any key, id or name that we know
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}
