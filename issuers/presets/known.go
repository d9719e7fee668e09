package presets

import "strings"

// Known returns the presets that brevet brings along, by name. Each call makes
// new values, so that a caller may change what it got.
func Known() map[string]*Preset {
	known := make(map[string]*Preset)
	for _, p := range []*Preset{github(), gitlab(), generic()} {
		known[p.Name] = p
	}
	return known
}

// DefaultURL returns the issuer of the platform's public service, "" where it
// has none.
func (p *Preset) DefaultURL() string {
	if len(p.URLs) == 0 || strings.Contains(p.URLs[0], "{") {
		return ""
	}
	return p.URLs[0]
}

func must(t Type, k Kind, doc string) Claim { return Claim{Type: t, Kind: k, Doc: doc} }
func maybe(t Type, k Kind, doc string) Claim {
	return Claim{Type: t, Kind: k, Doc: doc, Optional: true}
}
