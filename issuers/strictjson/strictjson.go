// Package strictjson reads JSON that a stranger wrote in exactly one way. It is
// for tokens and key sets, at the broker and inside a job, and imports nothing
// but the standard library.
package strictjson

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// Limits bounds one JSON document.
type Limits struct {
	Depth   int // of nested objects and arrays
	Members int // of all objects together
}

// Object reads text as exactly one JSON object (RFC 8259) and refuses
// everything that two readers could understand differently: names that occur
// twice, also when they differ only in case (encoding/json, and so go-oidc,
// takes "ISS" for iss), invalid UTF-8, lone surrogates (both of which
// encoding/json turns into U+FFFD), and anything behind the object.
//
// Values are string, json.Number, bool, nil, []any and map[string]any. Errors
// hold positions and no text of the document.
func Object(text string, limits Limits) (map[string]any, error) {
	if !utf8.ValidString(text) {
		return nil, errors.New("invalid UTF-8")
	}
	r := reader{text: text, left: limits}
	r.space()
	if r.peek() != '{' {
		return nil, r.fail("no object")
	}
	object, err := r.object()
	if err != nil {
		return nil, err
	}
	r.space()
	if r.pos != len(text) {
		return nil, r.fail("text after the object")
	}
	return object, nil
}

// A reader is a recursive descent over valid UTF-8. Every method begins at
// its value's first character and ends behind its last.
type reader struct {
	text string
	pos  int
	left Limits
}

func (r *reader) fail(what string) error {
	return fmt.Errorf("%s at byte %d", what, r.pos)
}

// peek returns the next byte, or 0 at the end (a NUL is nowhere valid).
func (r *reader) peek() byte {
	if r.pos < len(r.text) {
		return r.text[r.pos]
	}
	return 0
}

// accept skips c if it is next.
func (r *reader) accept(c byte) bool {
	if r.peek() != c {
		return false
	}
	r.pos++
	return true
}

func (r *reader) space() {
	for strings.IndexByte(" \t\r\n", r.peek()) >= 0 {
		r.pos++
	}
}

func (r *reader) value() (any, error) {
	switch c := r.peek(); {
	case c == '{':
		return r.object()
	case c == '[':
		return r.array()
	case c == '"':
		return r.str()
	case c == 't':
		return true, r.word("true")
	case c == 'f':
		return false, r.word("false")
	case c == 'n':
		return nil, r.word("null")
	}
	return r.number()
}

func (r *reader) word(word string) error {
	if !strings.HasPrefix(r.text[r.pos:], word) {
		return r.fail("no value")
	}
	r.pos += len(word)
	return nil
}

// sequence reads the items of an object or array up to the character end.
func (r *reader) sequence(end byte, item func() error) error {
	if r.left.Depth--; r.left.Depth < 0 {
		return r.fail("nested too deeply")
	}
	r.pos++ // the opening bracket
	r.space()
	for more := !r.accept(end); more; {
		if err := item(); err != nil {
			return err
		}
		r.space()
		if more = r.accept(','); more {
			r.space()
		} else if !r.accept(end) {
			return r.fail("no comma and no end")
		}
	}
	r.left.Depth++
	return nil
}

func (r *reader) object() (map[string]any, error) {
	object := make(map[string]any)
	var folded map[string]bool // of the names that are not their own fold; mostly there are none
	err := r.sequence('}', func() error {
		if r.left.Members--; r.left.Members < 0 {
			return r.fail("too many members")
		}
		name, err := r.str()
		if err != nil {
			return err
		}
		key := fold(name)
		if _, twice := object[key]; twice || folded[key] {
			return r.fail("the same name twice")
		}
		if key != name {
			folded = with(folded, key)
		}
		r.space()
		if !r.accept(':') {
			return r.fail("no colon")
		}
		r.space()
		object[name], err = r.value()
		return err
	})
	if err != nil {
		return nil, err
	}
	return object, nil
}

// with adds key to set, which is made if it is nil.
func with(set map[string]bool, key string) map[string]bool {
	if set == nil {
		set = make(map[string]bool)
	}
	set[key] = true
	return set
}

func (r *reader) array() ([]any, error) {
	list := []any{}
	err := r.sequence(']', func() error {
		value, err := r.value()
		list = append(list, value)
		return err
	})
	if err != nil {
		return nil, err
	}
	return list, nil
}

func (r *reader) str() (string, error) {
	if !r.accept('"') {
		return "", r.fail("no string")
	}
	start := r.pos
	for c := r.peek(); c != '"'; c = r.peek() {
		if c == '\\' {
			return r.escapedStr(start)
		}
		if c < ' ' {
			return "", r.fail("control character or end in a string")
		}
		r.pos++
	}
	r.pos++
	return r.text[start : r.pos-1], nil
}

// escapedStr goes on with a string that began at start, at its first backslash.
func (r *reader) escapedStr(start int) (string, error) {
	var b strings.Builder
	b.WriteString(r.text[start:r.pos])
	for {
		c := r.peek()
		if c < ' ' {
			return "", r.fail("control character or end in a string")
		}
		r.pos++
		switch c {
		case '"':
			return b.String(), nil
		case '\\':
			char, err := r.escape()
			if err != nil {
				return "", err
			}
			b.WriteRune(char)
		default:
			b.WriteByte(c)
		}
	}
}

// escape reads what follows a backslash.
func (r *reader) escape() (rune, error) {
	c := r.peek()
	r.pos++
	if i := strings.IndexByte(`"\/bfnrt`, c); i >= 0 {
		return rune("\"\\/\b\f\n\r\t"[i]), nil
	}
	if c != 'u' {
		return 0, r.fail("unknown escape")
	}
	char, err := r.hex4()
	if err != nil || !utf16.IsSurrogate(char) {
		return char, err
	}
	if !r.accept('\\') || !r.accept('u') {
		return 0, r.fail("lone surrogate")
	}
	low, err := r.hex4()
	if err != nil {
		return 0, err
	}
	if char = utf16.DecodeRune(char, low); char == utf8.RuneError {
		return 0, r.fail("lone surrogate")
	}
	return char, nil
}

func (r *reader) hex4() (rune, error) {
	if len(r.text)-r.pos < 4 {
		return 0, r.fail("cut escape")
	}
	n, err := strconv.ParseUint(r.text[r.pos:r.pos+4], 16, 16)
	if err != nil {
		return 0, r.fail("bad escape")
	}
	r.pos += 4
	return rune(n), nil
}

// number reads RFC 8259, section 6: an integer, a fraction, an exponent.
func (r *reader) number() (json.Number, error) {
	start := r.pos
	r.accept('-')
	if !r.accept('0') && !r.digits() {
		return "", r.fail("no value")
	}
	if r.accept('.') && !r.digits() {
		return "", r.fail("bad fraction")
	}
	if r.accept('e') || r.accept('E') {
		if !r.accept('+') {
			r.accept('-')
		}
		if !r.digits() {
			return "", r.fail("bad exponent")
		}
	}
	return json.Number(r.text[start:r.pos]), nil
}

// digits skips digits and reports whether there was one.
func (r *reader) digits() bool {
	start := r.pos
	for isDigit(r.peek()) {
		r.pos++
	}
	return r.pos > start
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// fold returns the same string for all names that encoding/json takes for the
// same struct field: it compares by simple case folding, under which U+017F is
// an s and U+212A a k. Lower-case ASCII folds to itself, without a copy.
func fold(name string) string {
	return strings.Map(func(r rune) rune {
		least := r
		for next := unicode.SimpleFold(r); next != r; next = unicode.SimpleFold(next) {
			least = min(least, next)
		}
		if 'A' <= least && least <= 'Z' {
			least += 'a' - 'A'
		}
		return least
	}, name)
}
