package presets

import "strings"

// Known returns the presets that brevet brings along, by name. Each call makes
// new values, so that a caller may change what it got.
func Known() map[string]*Preset {
	known := make(map[string]*Preset)
	for _, p := range []*Preset{
		github(), gitlab(), buildkite(), circleci(), bitbucket(), azureDevOps(), terraform(),
		kubernetes(), google(), aws(), entra(), fly(), vercel(), spiffe(), forgejo(), generic(),
	} {
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

// claims returns what a preset has of declared.
func claims(declared map[string]*Claim) map[string]Claim {
	out := make(map[string]Claim, len(declared))
	for name, c := range declared {
		out[name] = *c
	}
	return out
}

// must and maybe make the claims that a token must and may have. They are not
// inlined: in some two hundred places that is 20 KB of a program.
//
//go:noinline
func must(t Type, k Kind, doc string) *Claim { return &Claim{Type: t, Kind: k, Doc: doc} }

//go:noinline
func maybe(t Type, k Kind, doc string) *Claim {
	return &Claim{Type: t, Kind: k, Doc: doc, Optional: true}
}

// at returns c inside of an object.
func (c *Claim) at(path ...string) *Claim {
	c.Path = path
	return c
}

// of returns c with all the values that there are.
func (c *Claim) of(values ...string) *Claim {
	c.Values = values
	return c
}

// unverified returns c as something of which only others tell.
func (c *Claim) unverified() *Claim {
	c.Unverified, c.Optional = true, true
	return c
}
