package mint

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/brevet-dev/brevet/broker"
	"github.com/brevet-dev/brevet/policies/strictyaml"
)

// A fact is something that templates and tokens can say of a lease.
type fact struct {
	name string
	of   func(s *broker.Session, l *broker.Lease) string // "" where there is none
}

// facts are the placeholders of the template language and, under the same
// names, the default claims of a jwt.
var facts = [...]fact{
	{"issuer", func(s *broker.Session, _ *broker.Lease) string { return s.Who.Issuer }},
	{"workload_issuer", func(s *broker.Session, _ *broker.Lease) string { return s.Who.URL }},
	{"workload_subject", func(s *broker.Session, _ *broker.Lease) string { return s.Who.Subject }},
	{"owner_id", func(s *broker.Session, _ *broker.Lease) string { return s.Who.Workload.OwnerID }},
	{"owner", func(s *broker.Session, _ *broker.Lease) string { return s.Who.Workload.Owner }},
	{"project_id", func(s *broker.Session, _ *broker.Lease) string { return s.Who.Workload.ProjectID }},
	{"project", func(s *broker.Session, _ *broker.Lease) string { return s.Who.Workload.Project }},
	{"run", func(s *broker.Session, _ *broker.Lease) string { return s.Who.Workload.Run }},
	{"attempt", func(s *broker.Session, _ *broker.Lease) string { return s.Who.Workload.Attempt }},
	{"job", func(s *broker.Session, _ *broker.Lease) string { return s.Who.Workload.Job }},
	{"ref", func(s *broker.Session, _ *broker.Lease) string { return s.Who.Workload.Ref }},
	{"environment", func(s *broker.Session, _ *broker.Lease) string { return s.Who.Workload.Environment }},
	{"actor", func(s *broker.Session, _ *broker.Lease) string { return s.Who.Workload.Actor }},
	{"actor_id", func(s *broker.Session, _ *broker.Lease) string { return s.Who.Workload.ActorID }},
	{"trigger", func(s *broker.Session, _ *broker.Lease) string { return s.Who.Workload.Trigger }},
	{"credential", func(_ *broker.Session, l *broker.Lease) string { return l.Credential }},
	{"policy", func(_ *broker.Session, l *broker.Lease) string { return l.Policy }},
	{"lease", func(_ *broker.Session, l *broker.Lease) string { return l.ID }},
}

func factNames() []string {
	names := make([]string, len(facts))
	for i, f := range facts {
		names[i] = f.name
	}
	return names
}

func findFact(name string) *fact {
	for i := range facts {
		if facts[i].name == name {
			return &facts[i]
		}
	}
	return nil
}

// A dialect is what the place that a template fills can hold.
type dialect struct {
	separators string // never in a value; one stands between two placeholders
	plain      string // kept in values, beside ASCII letters and digits
	escape     byte   // and two hexadecimal digits: how values show every other byte
	least      int    // bytes
	most       int    // bytes
	hashed     string // prefix of the hash that replaces a longer text; "" refuses it
}

// printable is ASCII from '!' to '~' without letters, digits, ':' and '%'.
const printable = "!\"#$&'()*+,-./;<=>?@[\\]^_`{|}~"

var (
	// OpenID Connect Core, section 2: at most 255 ASCII characters.
	subjectDialect = dialect{separators: ":", plain: printable, escape: '%', least: 1, most: 255}

	// The length is ours: a token should fit into a header beside others.
	claimDialect = dialect{separators: ":", plain: printable, escape: '%', least: 1, most: 1024}

	// STS API reference, Tag: values are at most 256 of [\p{L}\p{Z}\p{N}_.:/=+\-@].
	tagDialect = dialect{separators: ":", plain: "_./+-@ ", escape: '=', least: 1, most: 256, hashed: "sha256:"}

	// STS API reference, AssumeRole, SourceIdentity: 2 to 64 of [\w+=,.@-].
	sourceDialect = dialect{separators: "+,@", plain: "_.-", escape: '=', least: 2, most: 64, hashed: "sha256@"}
)

func (d dialect) isPlain(b byte) bool {
	return 'a' <= b && b <= 'z' || 'A' <= b && b <= 'Z' || '0' <= b && b <= '9' || strings.IndexByte(d.plain, b) >= 0
}

// quote returns value without separators, and such that no two values become
// the same.
func (d dialect) quote(value string) string {
	var out strings.Builder
	for i := range len(value) {
		if b := value[i]; d.isPlain(b) && b != d.escape {
			out.WriteByte(b)
		} else {
			fmt.Fprintf(&out, "%c%02X", d.escape, b)
		}
	}
	return out.String()
}

// fit brings text into the bounds of d.
func (d dialect) fit(text string) (string, error) {
	switch {
	case len(text) < d.least:
		return "", fmt.Errorf("it would be shorter than %d characters", d.least)
	case len(text) <= d.most:
		return text, nil
	case d.hashed == "":
		return "", fmt.Errorf("it would be longer than %d characters", d.most)
	}
	sum := sha256.Sum256([]byte(text))
	return d.hashed + base64.RawURLEncoding.EncodeToString(sum[:]), nil
}

// A template is text with placeholders; see the package comment.
type template struct {
	dialect dialect
	parts   []part
}

// A part is either text or a placeholder.
type part struct {
	text  string
	name  string // of the placeholder, as it stands between the braces
	claim string // NAME in {claims.NAME}
	fact  *fact
}

const claimPrefix = "claims."

// parseTemplate reads a template. It refuses one in which values could run into
// each other, and text that the dialect cannot hold.
func parseTemplate(text string, d dialect) (*template, error) {
	parts, err := splitTemplate(text)
	if err != nil {
		return nil, err
	}
	separated := true
	for _, p := range parts {
		if p.name == "" {
			if err := d.checkText(p.text); err != nil {
				return nil, err
			}
			separated = separated || strings.ContainsAny(p.text, d.separators)
			continue
		}
		if !separated {
			return nil, fmt.Errorf("before {%s} there must be one of %q, so that no value can run into the next", p.name, d.separators)
		}
		separated = false
	}
	return &template{d, parts}, nil
}

func (d dialect) checkText(text string) error {
	for _, r := range text {
		if r >= 0x80 || !d.isPlain(byte(r)) && byte(r) != d.escape && !strings.ContainsRune(d.separators, r) {
			return fmt.Errorf("the character %q cannot be used here", r)
		}
	}
	return nil
}

// splitTemplate cuts a template into parts: no two texts in a row, no empty one.
func splitTemplate(text string) ([]part, error) {
	var parts []part
	var plain strings.Builder
	flush := func() {
		if plain.Len() > 0 {
			parts = append(parts, part{text: plain.String()})
			plain.Reset()
		}
	}
	for i := 0; i < len(text); i++ {
		switch b := text[i]; {
		case (b == '{' || b == '}') && strings.HasPrefix(text[i+1:], string(b)):
			plain.WriteByte(b)
			i++
		case b == '}':
			return nil, errors.New("a '}' without '{'; write a literal one twice")
		case b == '{':
			name, _, closed := strings.Cut(text[i+1:], "}")
			if !closed {
				return nil, errors.New("a '{' without '}'; write a literal one twice")
			}
			p, err := placeholder(name)
			if err != nil {
				return nil, err
			}
			flush()
			parts = append(parts, p)
			i += len(name) + 1
		default:
			plain.WriteByte(b)
		}
	}
	flush()
	if len(parts) == 0 {
		return nil, errors.New("the template is empty")
	}
	return parts, nil
}

func placeholder(name string) (part, error) {
	if claim, ok := strings.CutPrefix(name, claimPrefix); ok && claim != "" {
		return part{name: name, claim: claim}, nil
	}
	f := findFact(name)
	if f == nil {
		known := factNames()
		return part{}, fmt.Errorf("unknown placeholder {%.80s}; there are %s and claims.NAME%s",
			name, strings.Join(known, ", "), strictyaml.DidYouMean(name, known))
	}
	return part{name: name, fact: f}, nil
}

// checkClaims refuses a template that uses a claim that is not declared.
func (t *template) checkClaims(declared []string) error {
	for _, p := range t.parts {
		if p.claim != "" && !slices.Contains(declared, p.claim) {
			return fmt.Errorf("no configured issuer declares the claim of {%.80s}%s", p.name, strictyaml.DidYouMean(p.claim, declared))
		}
	}
	return nil
}

// expand fills in the template for the workload of s. Its error wraps
// [broker.ErrNotApplicable], and names the placeholder but no value.
func (t *template) expand(s *broker.Session, l *broker.Lease) (string, error) {
	var out strings.Builder
	for _, p := range t.parts {
		if p.name == "" {
			out.WriteString(p.text)
			continue
		}
		value := p.value(s, l)
		if value == "" {
			return "", fmt.Errorf("%w: it needs {%s}, and the workload has no such value", broker.ErrNotApplicable, p.name)
		}
		out.WriteString(t.dialect.quote(value))
	}
	text, err := t.dialect.fit(out.String())
	if err != nil {
		return "", fmt.Errorf("%w: %w", broker.ErrNotApplicable, err)
	}
	return text, nil
}

func (p part) value(s *broker.Session, l *broker.Lease) string {
	if p.fact != nil {
		return p.fact.of(s, l)
	}
	return claimText(s.Who.Claims[p.claim])
}

// claimText returns a claim as text; "" for what has no one spelling.
func claimText(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case int64:
		return strconv.FormatInt(v, 10)
	case bool:
		return strconv.FormatBool(v)
	case json.Number: // from a session that was read back
		if _, err := v.Int64(); err == nil {
			return v.String()
		}
	}
	return ""
}
