package presets

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// A Fit is a preset that a token may be of.
type Fit struct {
	Preset *Preset

	// URL is the pattern of Preset.URLs that the token's iss fits, "" if none
	// does.
	URL string

	// Claims are the preset's claims that the token has, by the names that
	// policies use: string, int64, bool or []string, as declared.
	Claims map[string]any

	// Wrong is why the broker would refuse the token under this preset, sorted;
	// it names claims and holds no values.
	Wrong []string

	place place
}

// A Certainty says how sure it is of which platform a token is.
type Certainty string

// The certainties. None of them is a verification: anybody can write a token.
const (
	ByIssuer  Certainty = "issuer"    // iss is an URL that only this platform has
	ByClaims  Certainty = "claims"    // the claims are those of this platform best, on a host of one's own
	Ambiguous Certainty = "ambiguous" // several fit equally well
	Unknown   Certainty = "none"      // no platform that we know
)

// Fits returns the presets that a token with these members may be of, the best
// first, and how sure that is. The members are as package strictjson reads them.
// If no preset fits, the only one is generic.
func Fits(token map[string]any) ([]Fit, Certainty) {
	var fits []Fit
	for _, p := range Known() {
		if f := p.fit(token); f.likely() {
			fits = append(fits, f)
		}
	}
	slices.SortFunc(fits, func(a, b Fit) int {
		return cmp.Or(b.compare(a), strings.Compare(a.Preset.Name, b.Preset.Name))
	})
	switch {
	case len(fits) == 0:
		return []Fit{generic().fit(token)}, Unknown
	case len(fits) > 1 && fits[0].compare(fits[1]) == 0:
		return fits, Ambiguous
	case fits[0].place == public:
		return fits, ByIssuer
	}
	return fits, ByClaims
}

// A place says how much an issuer's URL tells.
type place int

const (
	elsewhere place = iota // the URL fits no pattern
	ownHost                // the pattern is for any host; or this machine, which is for tests of any preset
	public                 // the pattern names the platform's host
)

func (p *Preset) fit(token map[string]any) Fit {
	f := Fit{Preset: p}
	f.Claims, f.Wrong = p.Read(token)
	iss, _ := token["iss"].(string)
	pattern, parts := p.FitURL(iss)
	f.URL = pattern
	switch {
	case pattern == "" && isLocal(iss):
		f.place = ownHost
	case pattern == "" || !agree(parts, p, f.Claims):
	case strings.Contains(pattern, "://{"):
		f.place = ownHost
	default:
		f.place = public
	}
	return f
}

// isLocal reports whether an issuer is at a port of this machine, where the URLs
// of presets do not count.
func isLocal(iss string) bool {
	host, ok := strings.CutPrefix(iss, "http://")
	return ok && slices.ContainsFunc([]string{"127.", "localhost", "[::1]"}, func(local string) bool { return strings.HasPrefix(host, local) })
}

// agree reports whether the parts of an issuer's URL are equal to the claims of
// their names.
func agree(parts map[string]string, p *Preset, claims map[string]any) bool {
	for name, part := range parts {
		if _, declared := p.Claims[name]; declared && claims[name] != any(part) {
			return false
		}
	}
	return true
}

// likely reports whether f is worth a mention: the platform's own URL is, whatever the
// claims are; any other tells so little that all claims must be there.
func (f *Fit) likely() bool {
	required := 0
	for _, c := range f.Preset.Claims {
		if !c.Optional {
			required++
		}
	}
	return f.place == public || f.place == ownHost && len(f.Wrong) == 0 && required > 0
}

// compare orders by how well presets fit.
func (f *Fit) compare(other Fit) int {
	return cmp.Or(
		cmp.Compare(f.place, other.place),
		cmp.Compare(len(other.Wrong), len(f.Wrong)),
		cmp.Compare(len(f.Claims), len(other.Claims)),
	)
}

// FitURL returns the first pattern of p.URLs that url fits, with what stands for
// its parts in braces; "" if it fits none.
func (p *Preset) FitURL(url string) (pattern string, parts map[string]string) {
	for _, pattern := range p.URLs {
		if parts, ok := fitPattern(pattern, url); ok {
			return pattern, parts
		}
	}
	return "", nil
}

// FitAudience reports whether audience is one that jobs get without asking.
func (p *Preset) FitAudience(audience string) bool {
	return slices.ContainsFunc(p.DefaultAudiences, func(pattern string) bool {
		_, ok := fitPattern(pattern, audience)
		return ok
	})
}

// fitPattern fits text to a pattern as [Preset].URLs has them.
func fitPattern(pattern, text string) (map[string]string, bool) {
	parts := map[string]string{}
	inPath := !strings.Contains(pattern, "://")
	for {
		literal, rest, more := strings.Cut(pattern, "{")
		var ok bool
		if text, ok = strings.CutPrefix(text, literal); !ok || !more {
			return parts, ok && text == ""
		}
		_, afterScheme, _ := strings.Cut(literal, "://")
		inPath = inPath || strings.Contains(afterScheme, "/") || !strings.Contains(literal, "://") && strings.Contains(literal, "/")
		var name string
		name, pattern, _ = strings.Cut(rest, "}")
		part := cutPart(text, name, inPath)
		if other, twice := parts[name]; part == "" || twice && other != part {
			return nil, false
		}
		parts[name], text = part, text[len(part):]
	}
}

// cutPart returns what stands for {name} at the beginning of text.
func cutPart(text, name string, inPath bool) string {
	end := "/?#@"
	if !inPath && name != "host" {
		end = ".:/?#@"
	}
	if i := strings.IndexAny(text, end); i >= 0 {
		return text[:i]
	}
	return text
}

// Read returns the preset's claims that a token has, with the declared types,
// and why the broker would refuse the token for them, sorted.
func (p *Preset) Read(token map[string]any) (claims map[string]any, wrong []string) {
	claims = map[string]any{}
	for name, c := range p.Claims {
		value, present := c.find(name, token)
		if c.Optional && value == nil {
			continue
		}
		typed, ok := c.Type.convert(value)
		switch {
		case !present:
			wrong = append(wrong, name+" is missing")
		case !ok:
			wrong = append(wrong, fmt.Sprintf("%s is not of type %s", name, c.Type))
		default:
			claims[name] = typed
		}
	}
	wrong = append(wrong, p.contradictions(claims)...)
	slices.Sort(wrong)
	return claims, wrong
}

func (p *Preset) contradictions(claims map[string]any) (wrong []string) {
	for _, pair := range p.MustEqual {
		one, other := claims[pair[0]], claims[pair[1]]
		if one != nil && other != nil && one != other {
			wrong = append(wrong, fmt.Sprintf("%s and %s differ", pair[0], pair[1]))
		}
	}
	for _, group := range p.OneOf {
		got := 0
		for _, name := range group {
			if _, present := claims[name]; present {
				got++
			}
		}
		if got != 1 {
			wrong = append(wrong, fmt.Sprintf("there must be exactly one of %s", strings.Join(group, ", ")))
		}
	}
	return wrong
}

// find returns the claim called name from the members of a token.
func (c Claim) find(name string, token map[string]any) (any, bool) {
	path := c.Path
	if len(path) == 0 {
		path = []string{name}
	}
	for _, step := range path[:len(path)-1] {
		token, _ = token[step].(map[string]any)
	}
	value, present := token[path[len(path)-1]]
	return value, present
}

// convert returns a member's value as the Go type of t. It does not cast: the
// digits "1" are no Int.
func (t Type) convert(value any) (any, bool) {
	switch v := value.(type) {
	case string:
		return v, t == String
	case bool:
		return v, t == Bool
	case json.Number:
		whole, err := v.Int64()
		return whole, t == Int && err == nil
	case []any:
		texts := make([]string, 0, len(v))
		for _, item := range v {
			if text, ok := item.(string); ok {
				texts = append(texts, text)
			}
		}
		return texts, t == StringList && len(texts) == len(v)
	}
	return nil, false
}

// A Member is one value of a token with where it is, from the outside in.
type Member struct {
	Path  []string
	Value any // no object
}

// Undeclared returns what of the token neither a claim of p is made of nor RFC
// 7519, section 4.1, speaks of, sorted: no policy sees it.
func (p *Preset) Undeclared(token map[string]any) []Member {
	known := map[string]bool{"iss": true, "sub": true, "aud": true, "exp": true, "nbf": true, "iat": true, "jti": true}
	for name, c := range p.Claims {
		if len(c.Path) == 0 {
			known[name] = true
			continue
		}
		known[joined(c.Path)] = true
	}
	return undeclared(nil, nil, token, known)
}

func undeclared(list []Member, path []string, object map[string]any, known map[string]bool) []Member {
	for _, name := range slices.Sorted(maps.Keys(object)) {
		at := append(slices.Clone(path), name)
		if inner, ok := object[name].(map[string]any); ok && len(inner) > 0 {
			list = undeclared(list, at, inner, known)
		} else if !known[joined(at)] {
			list = append(list, Member{at, object[name]})
		}
	}
	return list
}

// joined makes one string of a path; a NUL is in no name that a preset has.
func joined(path []string) string { return strings.Join(path, "\x00") }
