package strictyaml

import (
	"fmt"
	"strings"
)

// MaxDocuments is how many documents a stream may hold. One costs about as much
// to read as a thousand bytes.
const MaxDocuments = 200

// ParseStream reads the documents in data, which lines of three dashes
// separate; file is its name in problems. What is before the first such line
// may be a document, or comments only.
//
// The documents are nil if and only if there are problems.
func ParseStream(file string, data []byte) ([]*Document, Problems) {
	if p := checkBytes(data); p != nil {
		p.File = file
		return nil, Problems{*p}
	}
	parts, problems := split(file, string(data))
	switch {
	case len(problems) > 0:
		return nil, problems.Limit()
	case len(parts) > MaxDocuments:
		return nil, Problems{{File: file, Message: fmt.Sprintf("the file has more than %d documents; divide it", MaxDocuments)}}
	}
	var docs []*Document
	for _, p := range parts {
		if p.before > 0 && isComment(p.text) { // the place is that of the marker
			problems = append(problems, Problem{File: file, Line: p.before, Column: 1, Message: "the document is empty"})
			continue
		}
		doc, more := parsePart(file, p)
		docs, problems = append(docs, doc), append(problems, more...)
	}
	if len(problems) > 0 {
		return nil, problems.Limit()
	}
	return docs, nil
}

// A part is the text of one document of a file.
type part struct {
	text   string
	before int // lines of the file before it
}

// place moves a problem from within the part to where it is in the file.
func (p part) place(file string, problem Problem) Problem {
	problem.File = file
	if p.before > 0 {
		problem.Line, problem.Column = p.before+max(1, problem.Line), max(1, problem.Column)
	}
	return problem
}

// split divides a file at its markers. A line that begins with one is never
// part of a document, not even within a string (YAML 1.2.2 section 9.1.4), so
// no reader sees other documents than we do.
func split(file, source string) (parts []part, problems Problems) {
	from, current := 0, part{}
	end := 0
	for i, line := range strings.SplitAfter(source, "\n") {
		begin := end
		end += len(line)
		marker, alone := isMarker(line)
		if !marker {
			continue
		}
		if !alone {
			problems = append(problems, Problem{File: file, Line: i + 1, Column: 1, Message: "three dashes separate documents, three dots end one; write --- on a line of its own"})
		}
		if current.text = source[from:begin]; current.before > 0 || !isComment(current.text) {
			parts = append(parts, current)
		}
		from, current = end, part{before: i + 1}
	}
	current.text = source[from:]
	return append(parts, current), problems
}

// isMarker reports whether a line begins with the marker of a document's begin
// or end, and whether it is the former and nothing else but a comment.
func isMarker(line string) (marker, alone bool) {
	if !strings.HasPrefix(line, "---") && !strings.HasPrefix(line, "...") {
		return false, false
	}
	rest := strings.TrimRight(line[3:], "\r\n")
	text := strings.TrimLeft(rest, " \t")
	if rest != "" && len(text) == len(rest) {
		return false, false // such as ----
	}
	return true, line[0] == '-' && (text == "" || text[0] == '#')
}

// isComment reports whether a text has nothing but comments and blank lines.
func isComment(text string) bool {
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
			return false
		}
	}
	return true
}

// FirstKey returns the first key of the document, "" if it is not a mapping or
// the key is not a string. It can say of which kind the document is.
func (d *Document) FirstKey() string {
	for _, e := range entries(d.body) {
		name, _ := keyName(e.Key)
		return name
	}
	return ""
}

// Size returns the length of the document's text in bytes.
func (d *Document) Size() int { return len(d.source) }
