package policies

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/brevet-dev/brevet/issuers/presets"
	"github.com/brevet-dev/brevet/policies/strictyaml"
)

// A defaultsDocument is what policies leave out, as it is written. It is for
// the policies of its folder and below; what a nearer one says wins.
type defaultsDocument struct {
	Defaults    string         `yaml:"defaults"`    // its name
	Description string         `yaml:"description"` // for people
	Issuer      string         `yaml:"issuer"`      // of policies that name none; match is then for policies of this one only
	Mode        string         `yaml:"mode"`        // enforce or shadow
	TTL         time.Duration  `yaml:"ttl"`         // of grants that have none
	MaxTTL      time.Duration  `yaml:"max_ttl"`     // of grants that have none
	Match       map[string]any `yaml:"match"`       // entries for claims that a policy's match does not name
	Limits      *limitsEntry   `yaml:"limits"`      // of policies that have none
}

// defaults are one document, compiled. What it leaves out is zero.
type defaults struct {
	name, place, folder string

	issuer, mode string
	ttl, maxTTL  time.Duration
	limits       Limits
	match        map[string][]condition // by issuer
}

// String says where a value comes from, in the middle of a problem.
func (d *defaults) String() string { return fmt.Sprintf(" (of defaults %s, %s)", d.name, d.place) }

func (l *loader) compileDefaults() []*defaults {
	var list []*defaults
	places := map[string]string{} // by folder
	for _, s := range l.defaults {
		var in defaultsDocument
		problems := s.doc.Decode(&in)
		r := reader{loader: l, doc: s.doc, folder: s.folder, issuer: in.Issuer}
		d := r.defaults(&in)
		if other, taken := places[s.folder]; taken {
			r.fail(strictyaml.Path{"defaults"}, "the folder has defaults already, in %s; make one document of both", other)
		}
		places[s.folder] = d.place
		l.add(problems.And(r.problems.Limit())...)
		list = append(list, d)
	}
	return list
}

func (r *reader) defaults(in *defaultsDocument) *defaults {
	r.name("defaults", in.Defaults)
	d := &defaults{
		name: fullName(r.folder, in.Defaults), place: r.place(strictyaml.Path{"defaults"}), folder: r.folder,
		issuer: in.Issuer, mode: in.Mode, ttl: in.TTL, maxTTL: in.MaxTTL,
		limits: r.limits(strictyaml.Path{"limits"}, in.Limits), match: map[string][]condition{},
	}
	r.mode(in.Mode)
	for field, value := range map[string]time.Duration{"ttl": in.TTL, "max_ttl": in.MaxTTL} {
		if path := (strictyaml.Path{field}); r.doc.Has(path) && !wholeSeconds(value) {
			r.fail(path, "%s must be whole seconds, one or more", field)
		}
	}
	if r.doc.Has(strictyaml.Path{"max_ttl"}) && in.MaxTTL < in.TTL {
		r.fail(strictyaml.Path{"max_ttl"}, "max_ttl %s is below ttl %s", short(in.MaxTTL), short(in.TTL))
	}
	r.eachIssuer(in.Issuer, len(in.Match) > 0, func(p *presets.Preset) {
		d.match[r.issuer] = r.conditions(p, strictyaml.Path{"match"}, in.Match)
	})
	return d
}

// eachIssuer calls use for the preset of the issuer of that name, or of every
// one for "", with r.issuer set. Where claims are named, each must have them.
// It stops at the first that has not.
func (r *reader) eachIssuer(name string, namesClaims bool, use func(*presets.Preset)) {
	if name != "" {
		if p := r.preset(name); p != nil {
			use(p)
		}
		return
	}
	for _, issuer := range slices.Sorted(maps.Keys(r.loader.options.Issuers)) {
		before := len(r.problems)
		r.issuer = issuer
		use(r.loader.options.Issuers[issuer])
		if len(r.problems) > before && namesClaims {
			r.fail(strictyaml.Path{}, "without issuer this is for every one; if it is not for %q, name the issuer that it is for", issuer)
		}
		if len(r.problems) > before {
			break
		}
	}
	r.issuer = ""
}

// above returns those of rules whose folder is folder or around it, the nearest
// first.
func above(rules []*defaults, folder string) []*defaults {
	var list []*defaults
	for _, d := range rules {
		if isWithin(folder, d.folder) {
			list = append(list, d)
		}
	}
	slices.SortFunc(list, func(a, b *defaults) int { return len(path.Join("/", b.folder)) - len(path.Join("/", a.folder)) })
	return list
}

// isWithin reports whether folder is root or below it.
func isWithin(folder, root string) bool {
	return root == "." || folder == root || strings.HasPrefix(folder, root+"/")
}

// inherited returns the nearest defaults that say something, and what.
func inherited[T comparable](list []*defaults, what func(*defaults) T) (value T, from *defaults) {
	for _, d := range list {
		if v := what(d); v != value {
			return v, d
		}
	}
	return value, nil
}

// inherit adds the entries of defaults whose claim match does not have.
func inherit(match []condition, list []*defaults, issuer string) []condition {
	for _, d := range list {
		for _, c := range d.match[issuer] {
			if !slices.ContainsFunc(match, func(other condition) bool { return other.claim == c.claim }) {
				match = append(match, c)
			}
		}
	}
	return match
}
