package strictyaml_test

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/brevet-dev/brevet/policies/strictyaml"
)

func TestParseStream(t *testing.T) {
	tests := []struct {
		name, data string
		want       []string // first key and line of each document
	}{
		{"one", "a: 1\n", []string{"a 1"}},
		{"one without a new line", "a: 1", []string{"a 1"}},
		{"one that begins with a marker", "---\na: 1\n", []string{"a 2"}},
		{"comments before a marker", "# hi\n\n--- # a\na: 1\n", []string{"a 4"}},
		{"two", "a: 1\n---\nb: 2\n", []string{"a 1", "b 3"}},
		{"CRLF", "a: 1\r\n---\r\nb: 2\r\n", []string{"a 1", "b 3"}},
		{"four dashes", "a: 1\n---\nb: |\n  x\n  ---\n", []string{"a 1", "b 3"}},
		{"in flow style", "{a: 1}\n---\n\n{b: 2}\n", []string{"a 1", "b 4"}},
		{"keys in quotes", "\"a\": 1\n---\n'b': 2\n", []string{"a 1", "b 3"}},
		{"a document that is no mapping", "- a\n---\nb: 2\n", []string{" 1", "b 3"}},
		{"a key that is no string", "1: a\n", []string{" 1"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			docs, problems := strictyaml.ParseStream("f", []byte(tt.data))
			var got []string
			for _, d := range docs {
				got = append(got, fmt.Sprintf("%s %d", d.FirstKey(), d.Line(nil)))
			}
			if problems != nil || !slices.Equal(got, tt.want) {
				t.Errorf("ParseStream(%q) = %q, %v, want %q", tt.data, got, problems, tt.want)
			}
		})
	}
}

func TestParseStreamProblems(t *testing.T) {
	tests := []struct{ name, data, want string }{
		{"empty", "", "f:1:1: the document is empty"},
		{"only comments", "# hi\n", "f:1:1: the document is empty"},
		{"nothing behind the last marker", "a: 1\n---\n", "f:2:1: the document is empty"},
		{"nothing between markers", "a: 1\n---\n# hi\n---\nb: 1\n", "f:2:1: the document is empty"},
		{"nothing between the first markers", "---\n---\nb: 1\n", "f:1:1: the document is empty"},
		{"a document on the line of a marker", "--- {a: 1}\n", "f:1:1: three dashes separate documents, three dots end one; write --- on a line of its own"},
		{"dots", "a: 1\n...\nb: 1\n", "f:2:1: three dashes separate documents, three dots end one; write --- on a line of its own"},
		{"dots at the end", "a: 1\n...\n", "f:2:1: three dashes separate documents, three dots end one; write --- on a line of its own"},
		{"a marker within a string", "a: \"x\n---\ny\"\n", "f:1:4: could not find end character of double-quoted text"},
		{"a problem of each", "a: &x 1\n---\nb: [1\n---\nc: *x\n", "f:1:4: anchors (&) are not allowed\nf:3:4: sequence end token ']' not found\nf:5:4: aliases (*) are not allowed; if this is a string, quote it"},
		{"an anchor of another document", "a: 1\n---\nb: *x\n", "f:3:4: aliases (*) are not allowed; if this is a string, quote it"},
		{"directive", "a: 1\n---\n%YAML 1.2\n---\nb: 1\n", "f:3:1: directives (%) are not allowed"},
		{"a byte that is not UTF-8", "a: 1\n---\nb: \xff\n", "f:3:4: this byte is not UTF-8"},
		{"what the lexer drops", "a: 1\n---\nb: 1\n!!!!", `f:4:1: this cannot be read for certain; quote it, or write the character itself if it is an escape such as \u263A`},
		{"too many words in the second", "a: 1\n---\n" + strings.Repeat("a: b\n", 10_000), "f:3:1: the document has more than 20000 words and signs"},
		{"too many documents", strings.Repeat("---\na: 1\n", strictyaml.MaxDocuments+1), "f: the file has more than 200 documents; divide it"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			docs, problems := strictyaml.ParseStream("f", []byte(tt.data))
			if got := problems.Error(); docs != nil || got != tt.want {
				t.Errorf("ParseStream(%q) = %v:\n%s\nwant:\n%s", tt.data, docs, got, tt.want)
			}
		})
	}
}

// Problems of later documents have the lines of the file, whoever reports them.
func TestPlacesInAStream(t *testing.T) {
	const data = "a: 1\n---\n# the second\nurl: 1\nurl: 2\nnote: |\n  one\n  two\n"
	docs, problems := strictyaml.ParseStream("f", []byte(data))
	if problems != nil {
		t.Fatal(problems)
	}
	var c config
	got := docs[1].Decode(&c)
	want := "f:4:6: url must be a string (\"1\", with the quotes), not 1\nf:5:1: duplicate key \"url\", first given in line 4"
	if got.Error() != want {
		t.Errorf("Decode:\n%s\nwant:\n%s", got, want)
	}
	note := strictyaml.Path{"note"}
	for want, p := range map[string]strictyaml.Problem{
		"f:6:7: x": docs[1].Problem(note, "x"),
		"f:6:1: x": docs[1].KeyProblem(note, "x"),
		"f:8:5: x": docs[1].TextProblem(note, 2, 3, "x"),
	} {
		if p.String() != want {
			t.Errorf("place = %s, want %s", p, want)
		}
	}
	if line := docs[1].Line(note); line != 6 {
		t.Errorf("Line(note) = %d, want 6", line)
	}
}

// FuzzParseStream checks that a stream is what its documents are by themselves,
// and that every problem has a place within the file.
func FuzzParseStream(f *testing.F) {
	for _, seed := range []string{good, places, "a: 1\n---\nb: 2\n", "---\n--- # x\n...\n", "a: \"x\n---\ny\"", "a: |\n ---\n---\nb: 1"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		docs, problems := strictyaml.ParseStream("f", data)
		if (docs == nil) == (problems == nil) {
			t.Fatalf("ParseStream(%q) = %v, %v, want one of them", data, docs, problems)
		}
		lines := strings.Count(string(data), "\n") + 1
		for _, d := range docs {
			var v any
			problems = append(problems, d.Decode(&v)...)
			if len(docs) > 1 {
				continue
			}
			var alone any
			single, _ := strictyaml.Parse("f", data)
			if single != nil && len(single.Decode(&alone)) == 0 && !reflect.DeepEqual(v, alone) {
				t.Errorf("%q reads as %#v in a stream, and as %#v alone", data, v, alone)
			}
		}
		for _, p := range problems {
			if p.Line > lines || p.Line < 0 {
				t.Errorf("%q has %d lines, and a problem at %s", data, lines, p)
			}
		}
	})
}
