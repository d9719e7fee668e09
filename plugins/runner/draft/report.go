package draft

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf16"

	"github.com/brevet-dev/brevet/issuers/presets"
)

// Text returns the draft for people, and for a job's log: the lines are 80
// characters wide but for values and what must be pasted whole, and none of them
// begins with, or is, a command to whoever shows it.
func (d *Draft) Text() string {
	var w writer
	w.comment("", d.verdict())
	w.comment("", "documented at "+d.Preset.Docs)
	w.claims(d.Claims)
	if len(d.Warnings) > 0 {
		w.line("\n# warnings")
	}
	for _, warning := range d.Warnings {
		w.comment("", "- "+warning)
	}
	w.line("\n# in brevetd.yaml\n%s", strings.TrimSuffix(d.Issuer, "\n"))
	w.line("\n# in the policies' folder, as %s.yaml\n%s", d.Name, strings.TrimSuffix(d.Policy, "\n"))
	return w.String()
}

// verdict says which platform it is and how sure that is.
func (d *Draft) verdict() string {
	iss, _ := d.token["iss"].(string)
	iss = clip(scalar(iss))
	const unverified = "; nobody has verified the token here"
	switch d.Certainty {
	case presets.ByIssuer:
		return fmt.Sprintf("%s, preset %s: the issuer %s is the platform's own%s", d.Preset.Title, d.Preset.Name, iss, unverified)
	case presets.ByClaims:
		return fmt.Sprintf("%s, preset %s, by its claims: the issuer %s may be anybody's%s", d.Preset.Title, d.Preset.Name, iss, unverified)
	case presets.Ambiguous:
		return fmt.Sprintf("ambiguous: %s, preset %s, or as well preset %s; the issuer is %s%s", d.Preset.Title, d.Preset.Name, strings.Join(d.Others, " or "), iss, unverified)
	}
	return fmt.Sprintf("no preset fits, so this is for preset generic; the issuer is %s%s", iss, unverified)
}

func (w *writer) claims(list []Claim) {
	for _, kind := range kinds() {
		w.group(list, kind.text, func(c Claim) bool { return c.Standing == Usable && c.Kind == kind.kind })
	}
	w.group(list, "checked by the broker; policies do not see them", func(c Claim) bool { return c.Standing == Checked })
	w.group(list, "not declared by the preset; no policy sees them", func(c Claim) bool { return c.Standing == Unseen })
}

// group writes the claims that are in a group under its title.
func (w *writer) group(list []Claim, title string, in func(Claim) bool) {
	list = slices.DeleteFunc(slices.Clone(list), func(c Claim) bool { return !in(c) })
	if len(list) == 0 {
		return
	}
	w.line("")
	w.comment("", title)
	for _, c := range list {
		w.explained(scalar(c.Name)+": "+shown(c.Value), c.Meaning)
	}
}

// shown writes any value of a token on one line.
func shown(v any) string {
	switch v := v.(type) {
	case nil:
		return "null"
	case []any:
		items := make([]string, len(v))
		for i, item := range v {
			items[i] = shown(item)
		}
		return "[" + strings.Join(items, ", ") + "]"
	case map[string]any:
		return asciiJSON(v)
	}
	return value(v) // of a json.Number its digits
}

// asciiJSON encodes v in printable ASCII.
func asciiJSON(v any) string {
	data, err := json.Marshal(v)
	if err != nil {
		return "?" // strings, numbers, booleans, lists and maps of them are always encoded
	}
	return asciiOnly(string(data))
}

// asciiOnly escapes, in JSON, what is not printable ASCII, and the second of two
// number signs; see [Writable]. Both can only be within strings.
func asciiOnly(text string) string {
	var b strings.Builder
	for i, r := range text {
		switch {
		case r == '#' && i > 0 && text[i-1] == '#':
			b.WriteString(`\u0023`)
		case r == '\n' || r <= unicode.MaxASCII && unicode.IsPrint(r):
			b.WriteRune(r)
		default:
			for _, unit := range utf16.Encode([]rune{r}) {
				fmt.Fprintf(&b, `\u%04x`, unit)
			}
		}
	}
	return b.String()
}

// JSON returns the draft for programs, indented, in ASCII.
func (d *Draft) JSON() (string, error) {
	data, err := json.MarshalIndent(struct {
		Preset    string            `json:"preset"`
		Certainty presets.Certainty `json:"certainty"`
		Others    []string          `json:"other_presets"`
		Token     map[string]any    `json:"token"`
		Claims    []Claim           `json:"claims"`
		Warnings  []string          `json:"warnings"`
		Issuer    string            `json:"issuer_yaml"`
		Name      string            `json:"policy_name"`
		Policy    string            `json:"policy_yaml"`
	}{
		d.Preset.Name, d.Certainty, append([]string{}, d.Others...), d.token, d.Claims, append([]string{}, d.Warnings...), d.Issuer, d.Name, d.Policy,
	}, "", "  ")
	if err != nil {
		return "", fmt.Errorf("encoding the draft: %w", err)
	}
	return asciiOnly(string(data)) + "\n", nil
}
