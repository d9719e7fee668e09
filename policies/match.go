package policies

import (
	"maps"
	"slices"
	"strings"

	"github.com/brevet-dev/brevet/issuers/presets"
	"github.com/brevet-dev/brevet/policies/strictyaml"
)

// A condition is one entry of match or names: what the claim must be. One of
// its parts must hold. It is exact and can be reasoned about, which a CEL
// expression cannot.
type condition struct {
	claim  string
	values []any    // equal to one of these: string, int64 or bool, as the claim is declared
	globs  []glob   // or a string that fits one of these
	has    []string // or, for a claim that is a list, one of these in it
}

// takes reports whether v, a value of a token, is one that the condition wants.
func (c *condition) takes(v any) bool {
	if s, ok := v.(string); ok {
		return c.fits(s)
	}
	return slices.Contains(c.values, v)
}

// holds reports whether the token has the claim as the condition wants it. An
// absent claim never is.
func (c *condition) holds(claims map[string]any) bool {
	switch got := claims[c.claim].(type) {
	case string:
		return c.fits(got)
	case int64, bool:
		return c.takes(got)
	case []string:
		return slices.ContainsFunc(got, func(item string) bool { return slices.Contains(c.has, item) })
	}
	return false
}

func (c *condition) fits(got string) bool {
	for _, v := range c.values {
		if v == any(got) {
			return true
		}
	}
	for _, g := range c.globs {
		if g.fits(got) {
			return true
		}
	}
	return false
}

// wanted says what the condition wants, for people.
func (c *condition) wanted() string {
	var list []string
	for _, v := range c.values {
		list = append(list, quoted(v))
	}
	for _, g := range c.globs {
		list = append(list, "like "+quoted(string(g)))
	}
	for _, h := range c.has {
		list = append(list, "a list with "+quoted(h))
	}
	return strings.Join(list, " or ")
}

// A glob is a pattern for names and refs. * stands for any text within one
// segment, also for none; segments end at a slash or colon, and none is empty.
// Everything else stands for itself, but that presets, and they only, may end
// one in ** for all that follows: a stranger's branch has as many slashes as
// the stranger likes.
type glob string

// anyRest, as the last segment of a glob, stands for one or more.
const anyRest = "**"

// fits reports whether s is one of the texts that g stands for. It takes time
// in proportion to the length of s, as strings.Index does, and no memory.
func (g glob) fits(s string) bool {
	pattern := string(g)
	for {
		if pattern == anyRest {
			return s != ""
		}
		one, restOfPattern, more := cutSegment(pattern)
		other, restOfText, moreText := cutSegment(s)
		if other == "" || more != moreText || !fitsSegment(one, other) {
			return false
		}
		if more == 0 {
			return true
		}
		pattern, s = restOfPattern, restOfText
	}
}

// covers reports whether g stands for all that other stands for. The * of the
// other is a text that no pattern but * stands for, and so is the character
// itself.
func (g glob) covers(other glob) bool { return g.fits(string(other)) }

// cutSegment cuts s after its first segment; end is what ended it, 0 at the end
// of s.
func cutSegment(s string) (segment, rest string, end byte) {
	i := strings.IndexAny(s, "/:")
	if i < 0 {
		return s, "", 0
	}
	return s[:i], s[i+1:], s[i]
}

// fitsSegment matches one segment: what is before the first * and after the last
// is at its ends, and what is between them is found one after the other, each at
// the first place. Trying other places could not help, and would let a long
// claim take a second.
func fitsSegment(pattern, s string) bool {
	first, rest, hasStar := strings.Cut(pattern, "*")
	s, ok := strings.CutPrefix(s, first)
	if !hasStar {
		return ok && s == ""
	}
	for ok {
		first, rest, hasStar = strings.Cut(rest, "*")
		if !hasStar {
			return strings.HasSuffix(s, first)
		}
		_, s, ok = strings.Cut(s, first)
	}
	return false
}

// A risk is a risk of the preset, with what the policy says of it.
type risk struct {
	condition           // the values that a stranger's runs have
	named     condition // of these, those that match names
	why       string    // for people: who writes what runs then
}

// risks compiles what the preset distrusts. A value counts as named if it
// stands in match, and a pattern if all that it stands for is distrusted.
func risks(p *policy) []risk {
	var list []risk
	for _, r := range p.preset.Risks {
		made := risk{condition: riskCondition(r), named: condition{claim: r.Claim}, why: r.Why}
		if pin := p.pin(r.Claim); pin != nil {
			for _, v := range pin.values {
				if made.holds(map[string]any{r.Claim: v}) {
					made.named.values = append(made.named.values, v)
				}
			}
			for _, g := range pin.globs {
				if slices.ContainsFunc(made.globs, func(r glob) bool { return r.covers(g) }) {
					made.named.globs = append(made.named.globs, g)
				}
			}
		}
		list = append(list, made)
	}
	return list
}

func riskCondition(r presets.Risk) condition {
	c := condition{claim: r.Claim}
	for _, v := range r.Values {
		switch {
		case strings.Contains(v, "*"):
			c.globs = append(c.globs, glob(v))
		case v == "true":
			c.values = append(c.values, v, true)
		default:
			c.values = append(c.values, v)
		}
	}
	return c
}

// risky returns the first risk that the token is and match does not name; nil
// if there is none. A token that does not say may be one.
func (p *policy) risky(claims map[string]any) *risk {
	for i := range p.risks {
		r := &p.risks[i]
		if _, said := claims[r.claim]; (!said || r.holds(claims)) && !r.named.holds(claims) {
			return r
		}
	}
	return nil
}

// conditions compiles the entries of a match block, in the order of claims.
func (r *reader) conditions(p *presets.Preset, path strictyaml.Path, entries map[string]any) []condition {
	var list []condition
	for _, claim := range slices.Sorted(maps.Keys(entries)) {
		if cond, ok := r.condition(p, path.With(claim), entries[claim]); ok {
			list = append(list, cond)
		}
	}
	return list
}

func (r *reader) condition(p *presets.Preset, path strictyaml.Path, v any) (condition, bool) {
	decl, ok := r.claim(p, path)
	if !ok {
		return condition{}, false
	}
	cond := condition{claim: path[len(path)-1].(string)}
	list, isList := v.([]any)
	if !isList {
		r.matcher(&cond, path, decl, v)
	}
	if !r.most(path, len(list), maxValues) {
		return cond, true
	}
	for i, item := range list {
		r.matcher(&cond, path.With(i), decl, item)
	}
	r.most(path, len(cond.globs), maxGlobs)
	if isList && len(list) == 0 {
		r.fail(path, "%s has no values, so the policy can never hold; remove the policy instead", cond.claim)
	}
	return cond, true
}

// matcher adds one part of a match entry to cond: a value, or a map with the
// one key glob or contains.
func (r *reader) matcher(cond *condition, path strictyaml.Path, decl presets.Claim, v any) {
	form, isMap := v.(map[string]any)
	if !isMap {
		r.value(cond, path, decl, v)
		return
	}
	pattern, isGlob := form["glob"].(string)
	item, isItem := form["contains"].(string)
	switch {
	case len(form) != 1 || !isGlob && !isItem:
		r.fail(path, "%s must be a value, {glob: pattern} or {contains: value}, not a map of %s",
			path, strings.Join(slices.Sorted(maps.Keys(form)), ", "))
	case isGlob:
		r.glob(cond, path.With("glob"), decl, pattern)
	case decl.Type != presets.StringList:
		r.fail(path, "contains is for claims that are lists, and %s is none; write the value", cond.claim)
	case item == "":
		r.fail(path.With("contains"), "contains is empty")
	case slices.Contains(cond.has, item):
		r.fail(path, "%s is a value twice", path)
	default:
		cond.has = append(cond.has, item)
	}
}

func (r *reader) value(cond *condition, path strictyaml.Path, decl presets.Claim, v any) {
	if decl.Type == presets.StringList {
		r.fail(path, "%s is a list; write {contains: value}", cond.claim)
		return
	}
	v, ok := r.typed(path, decl, v)
	switch {
	case !ok:
	case !r.literal(path, decl, v):
	case v == "" && decl.Kind == presets.Immutable:
		r.fail(path, "%s is empty: no id is", path)
	case slices.Contains(cond.values, v):
		r.fail(path, "%s is a value twice", path)
	default:
		cond.values = append(cond.values, v)
	}
}

// literal reports whether a value is one. One that looks like a pattern would
// never hold, as values are compared as they are.
func (r *reader) literal(path strictyaml.Path, decl presets.Claim, v any) bool {
	s, _ := v.(string)
	const asIs = "and values are compared as they are"
	switch isID := decl.Kind == presets.Immutable; {
	case looksRegular(s):
		r.fail(path, "%s looks like a regular expression, %s; write {glob: …}, whose * stays within one segment, list the values, or use matches in when", path, asIs)
	case isID && strings.Contains(s, "*"):
		r.fail(path, "%s has a *, %s; write the ids that you mean", path, asIs)
	case strings.Contains(s, "*"):
		r.fail(path, "%s has a *, %s; write {glob: %q}", path, asIs, s)
	case !isID && strings.ContainsAny(s, "?|"):
		r.fail(path, "%s looks like a pattern, %s; list the values that you mean, or compare it in when if it is one", path, asIs)
	default:
		return true
	}
	return false
}

func looksRegular(s string) bool {
	return strings.HasPrefix(s, "^") || strings.HasSuffix(s, "$") ||
		slices.ContainsFunc([]string{".*", ".+", `\`, "[0-9", "[a-z", "[A-Z"}, func(sign string) bool { return strings.Contains(s, sign) })
}

// glob adds a pattern. Ids are compared as a whole: part of one says nothing.
func (r *reader) glob(cond *condition, path strictyaml.Path, decl presets.Claim, pattern string) {
	segments := strings.FieldsFunc(pattern, func(r rune) bool { return r == '/' || r == ':' })
	switch {
	case len(pattern) > maxGlob:
		r.fail(path, "the glob has more than %d bytes", maxGlob)
	case decl.Type != presets.String || decl.Kind == presets.Immutable:
		r.fail(path, "a glob is for names and refs, and %s is none; write its values", cond.claim)
	case !strings.Contains(pattern, "*"):
		r.fail(path, "the glob has no *; write the value itself")
	case len(segments) != 1+strings.Count(pattern, "/")+strings.Count(pattern, ":"):
		r.fail(path, "the glob has an empty segment, which fits nothing")
	case strings.Contains(pattern, "**") || strings.ContainsAny(pattern, "?[]{}\\"):
		r.fail(path, "a glob has * only, which stays within one segment; list the patterns that you need")
	case slices.Contains(cond.globs, glob(pattern)):
		r.fail(path, "%s is there twice", path)
	default:
		cond.globs = append(cond.globs, glob(pattern))
	}
}
