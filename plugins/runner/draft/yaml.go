package draft

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxValue is the longest value that a draft writes into a policy, in bytes, so
// that no token makes one that is too large to load. GitHub's longest ref has
// about 250.
const maxValue = 1 << 10

// Writable reports whether a policy can hold s: package strictjson lets through
// what package strictyaml refuses, since it does not look like what it is. Two
// number signs begin a command to the runners of GitHub and Azure DevOps
// wherever they stand in a line of a job's log, and YAML has no way to write them
// that every reader takes. A star would look like a pattern.
func Writable(s string) bool {
	return len(s) <= maxValue && utf8.ValidString(s) && !strings.Contains(s, "##") && !strings.Contains(s, "*") && !strings.ContainsFunc(s, hidden)
}

func hidden(r rune) bool { return r != '\n' && r != '\t' && !unicode.IsPrint(r) }

// scalar writes s as a YAML scalar on one line: plain if nobody can take it for
// anything but a string, else in double quotes, with no escapes but those that
// JSON has too. What is not [Writable] is written for people only.
func scalar(s string) string {
	if isPlain(s) {
		return s
	}
	var b strings.Builder
	b.WriteByte('"')
	for i, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteString(`\` + string(r))
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\t':
			b.WriteString(`\t`)
		case r == '#' && strings.HasPrefix(s[i+1:], "#"):
			b.WriteString(`\x23`)
		case r > 0xffff && !unicode.IsPrint(r):
			fmt.Fprintf(&b, `\U%08x`, r)
		case !unicode.IsPrint(r):
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// isPlain reports whether s is a string to every reader of YAML without quotes:
// it begins with a letter, holds nothing that YAML has a meaning for, and is no
// word of YAML 1.1 or 1.2.
func isPlain(s string) bool {
	const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	if s == "" || !strings.Contains(letters, s[:1]) || s != strings.TrimSpace(s) || strings.Trim(s, letters+"0123456789-_./@+ ") != "" {
		return false
	}
	words := []string{"true", "false", "yes", "no", "on", "off", "null", "y", "n"}
	return !slices.Contains(words, strings.ToLower(s))
}

// key writes the name of a claim as a key.
func key(name string) string {
	if isPlain(name) {
		return name
	}
	return strconv.Quote(name) // of declared names: ASCII
}

// value writes a claim's value as in the claims of a test, on one line.
func value(v any) string {
	switch v := v.(type) {
	case string:
		return scalar(v)
	case []string:
		items := make([]string, len(v))
		for i, item := range v {
			items[i] = scalar(item)
		}
		return "[" + strings.Join(items, ", ") + "]"
	}
	return fmt.Sprint(v) // int64, bool
}

// matcher writes v as match wants it.
func matcher(v any) string {
	if list, ok := v.([]string); ok {
		return "{contains: " + scalar(list[0]) + "}"
	}
	return value(v)
}

// width is that of a terminal, in characters.
const width = 80

// A writer makes lines. What it is given stands within lines that it begins, so
// that no line begins with what a stranger wrote.
type writer struct{ strings.Builder }

func (w *writer) line(format string, args ...any) {
	fmt.Fprintf(w, format+"\n", args...)
}

// noted writes line, with note as a comment behind it, or before it if the two
// do not fit.
func (w *writer) noted(line, note string) {
	if note != "" && !w.beside(line, note) {
		w.comment(line[:len(line)-len(strings.TrimLeft(line, " "))], note)
		note = ""
	}
	if note == "" {
		w.line("%s", line)
	}
}

// explained is as noted, with the comment below.
func (w *writer) explained(line, note string) {
	if note != "" && w.beside(line, note) {
		return
	}
	w.line("%s", line)
	if note != "" {
		w.comment("    ", note)
	}
}

// beside writes line and note, if there is room, and reports whether it did.
func (w *writer) beside(line, note string) bool {
	at := max(length(line)+2, 42)
	if at+2+length(note) > width {
		return false
	}
	w.line("%s%s# %s", line, strings.Repeat(" ", at-length(line)), note)
	return true
}

// comment writes text as comments that fit the width, word by word. What
// follows a dash at its beginning hangs behind it.
func (w *writer) comment(indent, text string) {
	first, next := indent+"#", indent+"#"
	if strings.HasPrefix(text, "- ") {
		next += "  "
	}
	line := first
	for word := range strings.FieldsSeq(text) {
		if length(line)+1+length(word) > width && line != first && line != next {
			w.line("%s", line)
			line = next
		}
		line += " " + word
	}
	w.line("%s", line)
}

// length counts characters.
func length(s string) int { return len([]rune(s)) }
