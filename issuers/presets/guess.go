package presets

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// A Guess is a preset that a token may be of.
type Guess struct {
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

// Guesses returns the presets that a token with these members may be of, the best
// first, and how sure that is. The members are as package strictjson reads them.
// If no preset fits, the only one is generic.
func Guesses(token map[string]any) ([]*Guess, Certainty) {
	var guesses []*Guess
	known := Known()
	for _, name := range slices.Sorted(maps.Keys(known)) {
		g := known[name].guess(token)
		if !g.likely() {
			continue
		}
		better := slices.IndexFunc(guesses, func(other *Guess) bool { return g.compare(other) > 0 })
		if better < 0 {
			better = len(guesses)
		}
		guesses = slices.Insert(guesses, better, g)
	}
	switch {
	case len(guesses) == 0:
		return []*Guess{generic().guess(token)}, Unknown
	case len(guesses) > 1 && guesses[0].compare(guesses[1]) == 0:
		return guesses, Ambiguous
	case guesses[0].place == public:
		return guesses, ByIssuer
	}
	return guesses, ByClaims
}

// A place says how much an issuer's URL tells.
type place int

const (
	elsewhere place = iota // the URL fits no pattern
	ownHost                // the pattern is for any host; or this machine, which is for tests of any preset
	public                 // the pattern names the platform's host
)

func (p *Preset) guess(token map[string]any) *Guess {
	g := &Guess{Preset: p}
	g.Claims, g.Wrong = p.Read(token)
	if sub, _ := token["sub"].(string); !p.fitSubject(sub) {
		g.Wrong = append(g.Wrong, "sub is not of a form that the platform has")
	}
	iss, _ := token["iss"].(string)
	if isLocal(iss) {
		g.place = ownHost
		return g
	}
	disagrees := false
	for _, pattern := range p.URLs {
		parts, ok := Fit(pattern, iss)
		if !ok || placeOf(pattern) <= g.place {
			continue
		}
		g.URL, g.place, disagrees = pattern, placeOf(pattern), !agree(parts, p, g.Claims)
	}
	if disagrees {
		g.Wrong = append(g.Wrong, "a claim is not what iss says")
	}
	return g
}

// placeOf returns the place of an issuer whose URL fits pattern.
func placeOf(pattern string) place {
	if strings.Contains(pattern, "://{host}") {
		return ownHost
	}
	return public
}

func (p *Preset) fitSubject(sub string) bool {
	return len(p.Subjects) == 0 || slices.ContainsFunc(p.Subjects, func(pattern string) bool {
		_, ok := Fit(pattern, sub)
		return ok
	})
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

// likely reports whether g is worth a mention: the platform's own URL is,
// whatever the claims are; any other tells so little that all claims must be
// there.
func (g *Guess) likely() bool {
	required := 0
	for _, c := range g.Preset.Claims {
		if !c.Optional {
			required++
		}
	}
	return g.place == public || g.place == ownHost && len(g.Wrong) == 0 && required > 0
}

// compare orders by how well presets fit.
func (g *Guess) compare(other *Guess) int {
	return cmp.Or(
		cmp.Compare(g.place, other.place),
		cmp.Compare(len(other.Wrong), len(g.Wrong)),
		cmp.Compare(len(g.Claims), len(other.Claims)),
	)
}

// FitAudience reports whether audience is one that tokens of the issuer iss carry
// if nobody asked for another, or that jobs ask for because others want it.
func (p *Preset) FitAudience(audience, iss string) bool {
	parts, _ := p.FitURL(iss)
	known := map[string]string{"url": iss}
	if _, rest, ok := strings.Cut(iss, "://"); ok {
		known["host"], _, _ = strings.Cut(rest, "/")
	}
	maps.Copy(known, parts)
	return slices.ContainsFunc(slices.Concat(p.DefaultAudiences, sharedAudiences()), func(pattern string) bool {
		_, ok := Fit(Fill(pattern, known), audience)
		return ok
	})
}

// sharedAudiences are those that jobs of every platform ask for, because large
// services want them and no others: of AWS, Entra, Sigstore and package
// registries. Each of these, and whoever reads a job's log, has such tokens.
func sharedAudiences() []string {
	return []string{
		"sts.amazonaws.com", "sts.amazonaws.com.cn",
		"api://AzureADTokenExchange", "api://AzureADTokenExchangeUSGov", "api://AzureADTokenExchangeChina",
		"sigstore", "pypi", "testpypi", "npm:{registry}", "rubygems.org", "crates.io",
	}
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
