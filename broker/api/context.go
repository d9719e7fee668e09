package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// A Context says what a data key is for: names and values of the caller's
// choice, such as {"artifact": "app.tar", "release": "1.2"}. It is bound to the
// key and must be given again, the same in every byte, to unwrap it: an
// encryption context. It is no secret: the audit log has it.
type Context map[string]string

// Limits of a [Context], in bytes of UTF-8.
const (
	MaxContextEntries = 16
	MaxContextName    = 64
	MaxContextValue   = 256
)

// Validate reports whether c is within the limits. Its error is safe for
// strangers and quotes nothing.
func (c Context) Validate() error {
	if len(c) > MaxContextEntries {
		return fmt.Errorf("the context has more than %d entries", MaxContextEntries)
	}
	for name, value := range c {
		switch {
		case name == "" || len(name) > MaxContextName:
			return fmt.Errorf("a name in the context has no or more than %d bytes", MaxContextName)
		case len(value) > MaxContextValue:
			return fmt.Errorf("a value in the context has more than %d bytes", MaxContextValue)
		case !utf8.ValidString(name) || !utf8.ValidString(value) || strings.ContainsFunc(name+value, isForbidden):
			return errors.New("the context holds what is not UTF-8, or control characters")
		}
	}
	return nil
}

// isForbidden reports control characters, which somebody's terminal would obey,
// and U+FFFD: decoders put it in the place of what they could not read, half a
// surrogate pair for one, and then two contexts would be the same.
func isForbidden(r rune) bool { return unicode.IsControl(r) || r == utf8.RuneError }

// Canonical returns c in the one form that is bound to keys: a JSON object as
// RFC 8785 writes it, which for strings without control characters is names in
// order, no spaces, and only '"' and '\' escaped. An empty context is "{}".
func (c Context) Canonical() string {
	names := make([]string, 0, len(c))
	for name := range c {
		names = append(names, name)
	}
	slices.SortFunc(names, compareUTF16)
	var b strings.Builder
	b.WriteByte('{')
	for i, name := range names {
		if i > 0 {
			b.WriteByte(',')
		}
		writeString(&b, name)
		b.WriteByte(':')
		writeString(&b, c[name])
	}
	b.WriteByte('}')
	return b.String()
}

var escapes = strings.NewReplacer(`"`, `\"`, `\`, `\\`)

func writeString(b *strings.Builder, s string) {
	b.WriteByte('"')
	b.WriteString(escapes.Replace(s))
	b.WriteByte('"')
}

// compareUTF16 orders names by their UTF-16 code units: RFC 8785, section
// 3.2.3. It differs from the order of UTF-8 only where characters beyond U+FFFF
// meet ones from U+E000 on.
func compareUTF16(a, b string) int {
	return slices.Compare(utf16units(a), utf16units(b))
}

func utf16units(s string) []uint16 {
	units := make([]uint16, 0, len(s))
	for _, r := range s {
		if r > 0xffff {
			r -= 0x10000
			units = append(units, uint16(0xd800+r>>10), uint16(0xdc00+r&0x3ff))
			continue
		}
		units = append(units, uint16(r))
	}
	return units
}

// ParseContext reads a context in JSON: one object of strings, no name twice,
// nothing after it. Its errors are safe for strangers and quote nothing.
func ParseContext(s string) (Context, error) {
	bad := errors.New("the context is not a JSON object of strings, each name once")
	d := json.NewDecoder(strings.NewReader(s))
	if open, err := d.Token(); err != nil || open != json.Delim('{') || !utf8.ValidString(s) {
		return nil, bad
	}
	c := Context{}
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return nil, bad
		}
		value, err := d.Token()
		text, isString := value.(string)
		if _, twice := c[name.(string)]; err != nil || !isString || twice {
			return nil, bad
		}
		if c[name.(string)] = text; len(c) > MaxContextEntries {
			return nil, c.Validate()
		}
	}
	if _, err := d.Token(); err != nil || strings.Trim(s[d.InputOffset():], " \t\r\n") != "" {
		return nil, bad
	}
	if err := c.Validate(); err != nil {
		return nil, err
	}
	return c, nil
}
