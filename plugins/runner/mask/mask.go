// Package mask takes secret values out of a stream of output, also where a tool
// prints them encoded, and whatever the chunks in which it prints them.
//
// A value is masked as it is and line by line; with escapes of any kind, several
// on top of each other (decode.go says which); in base64, hex and UTF-16, also
// where that encodes it once more (forms.go); in dumps (dump.go); and whatever
// line breaks and colours come between its characters. Every byte that belongs
// to any occurrence of any form is covered; each unbroken run of covered bytes
// becomes one [Replacement]. So two values that overlap are both hidden, and the
// length of neither shows.
//
// One [index] of all forms of all values is built once, and looks for them in
// each layer of the output (scan.go). Bytes that cannot be part of a value are
// passed on at once, so that a prompt appears before its answer is typed; a
// Writer holds back only what may be the beginning of a value.
package mask

import (
	"fmt"
	"strings"

	"github.com/brevet-dev/brevet/broker/api"
)

// Replacement stands in the output where a value stood. It is what GitHub's
// runner prints, so readers of logs know it.
const Replacement = "***"

const (
	// MinLength is the length in bytes below which a value is not masked: it
	// would be found by chance in ordinary output, and what is left around the
	// replacements would give it away.
	MinLength = 6

	// MaxLength is the length in bytes above which a value is not masked. A
	// kubeconfig, the longest a job usually gets, has 10 KiB.
	MaxLength = 64 << 10

	// MaxTexts bounds all that is looked for, in bytes; with the index that is at
	// most 72 MiB. A token of 40 bytes takes 2.2 KiB, and 5 KiB with the index; a
	// value of MaxLength takes 4 MiB. Further values are not masked.
	MaxTexts = 32 << 20

	// minDigits is the length below which a value of digits only is not masked:
	// times, sizes and process ids would be.
	minDigits = 8
)

// A Refusal tells of a value that is not masked, and why.
type Refusal struct {
	Index  int    // into the values given to New
	Reason string // for people; says nothing of the value but its kind
}

// A Masker knows the values to mask. It is made once and never changes; any
// number of Writers may share it.
type Masker struct{ index index }

// New returns a Masker for values. Those that are too short, too long or too
// common to mask are left out and reported, in the order given: whoever shows
// output through the Masker must not show it while a refused value matters.
func New(values []api.Secret) (*Masker, []Refusal) {
	m := &Masker{index{patterns: make([]pattern, 1)}}
	var refused []Refusal
	for i, v := range values {
		reason := unfit(v.Reveal())
		if reason == "" && !m.add(i, v.Reveal()) {
			reason = "with the values before it more than fits into the memory for masks"
		}
		if reason != "" {
			refused = append(refused, Refusal{i, reason})
		}
	}
	m.index.build()
	return m, refused
}

// add adds all forms of one value, or none if there is no room for them.
func (m *Masker) add(number int, value string) bool {
	texts, patterns := len(m.index.texts), len(m.index.patterns)
	addForms(m.index.add, number, value)
	if len(m.index.texts) > MaxTexts {
		m.index.texts, m.index.patterns = m.index.texts[:texts], m.index.patterns[:patterns]
		return false
	}
	return true
}

// unfit says why value cannot be masked, or "" if it can.
func unfit(value string) string {
	stripped, _ := strip([]byte(strings.TrimSpace(value))) // as it is looked for
	v := string(stripped)
	switch {
	case len(v) < MinLength:
		return fmt.Sprintf("shorter than %d bytes", MinLength)
	case len(value) > MaxLength:
		return fmt.Sprintf("longer than %d KiB", MaxLength>>10)
	case len(v) < minDigits && strings.Trim(v, "0123456789") == "":
		return fmt.Sprintf("digits only, and fewer than %d", minDigits)
	case strings.Count(v, v[:1]) == len(v):
		return "one character repeated"
	case isCommon(v):
		return "a common word"
	}
	return ""
}

// isCommon reports whether v is a word that every other log contains. Shorter
// words than MinLength need no mention.
func isCommon(v string) bool {
	switch strings.ToLower(v) {
	case "administrator", "anonymous", "artifact", "branch", "commit", "default", "deploy", "develop", "development",
		"disable", "disabled", "docker", "enable", "enabled", "example", "failure", "github", "gitlab", "latest",
		"localhost", "master", "origin", "password", "postgres", "private", "production", "public", "registry",
		"release", "running", "secret", "service", "staging", "success", "testing", "ubuntu", "undefined",
		"username", "version", "warning", "windows":
		return true
	}
	return false
}
