package strictyaml

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"unicode"
)

// A Problem is one thing wrong with a file: the place, and what to do about it.
type Problem struct {
	File    string
	Line    int // from 1; 0 means the file as a whole
	Column  int // from 1, in characters (code points)
	Message string
}

// String gives "file:line:column: message", the form that editors jump to.
func (p Problem) String() string {
	message := strings.Map(printable, p.Message)
	if p.Line == 0 {
		return p.File + ": " + message
	}
	return fmt.Sprintf("%s:%d:%d: %s", p.File, p.Line, p.Column, message)
}

// printable puts a space in the place of what cannot be seen: a problem is one
// line, whatever a key is called, and whatever CEL quotes.
func printable(r rune) rune {
	if !unicode.IsPrint(r) {
		return ' '
	}
	return r
}

// Problems are all that is wrong with one or more files. As an error it prints
// one problem a line. Return it with [Problems.Err], so that no problems
// become a nil error.
type Problems []Problem

// Error implements error.
func (ps Problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

// Sort orders ps by file, line, column and message.
func (ps Problems) Sort() {
	slices.SortStableFunc(ps, func(a, b Problem) int {
		return cmp.Or(
			cmp.Compare(a.File, b.File),
			cmp.Compare(a.Line, b.Line),
			cmp.Compare(a.Column, b.Column),
			cmp.Compare(a.Message, b.Message),
		)
	})
}

// Limit sorts ps and returns the first 100: more are not read, and a hostile
// file could hold 100 000.
func (ps Problems) Limit() Problems {
	ps.Sort()
	if len(ps) <= maxProblems {
		return ps
	}
	last := ps[maxProblems-1]
	last.Message = fmt.Sprintf("%d more problems from here on", len(ps)-maxProblems+1)
	return append(ps[:maxProblems-1], last)
}

// Err sorts ps and returns it as an error, or nil if there is no problem.
func (ps Problems) Err() error {
	if len(ps) == 0 {
		return nil
	}
	ps.Sort()
	return ps
}

// And returns ps and those of more that stand at a place where ps has nothing
// to say: a value of the wrong type needs no second complaint that it is zero.
func (ps Problems) And(more Problems) Problems {
	type place struct {
		file         string
		line, column int
	}
	taken := map[place]bool{}
	for _, p := range ps {
		taken[place{p.File, p.Line, p.Column}] = true
	}
	for _, p := range more {
		if !taken[place{p.File, p.Line, p.Column}] {
			ps = append(ps, p)
		}
	}
	return ps
}
