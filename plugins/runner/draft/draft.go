// Package draft writes what an operator needs to let a job in: which platform
// its token is of, what each claim is worth, the issuer's entry in the
// configuration, and a policy with the ids filled in.
//
// It starts from the claims of a token that nobody has verified, and which a
// stranger may have chosen: branch names, say. None of them can become a line,
// a key or a comment of what is written, nor a command to a terminal or to a
// platform that reads the job's log.
package draft

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/brevet-dev/brevet/issuers/presets"
)

// Options are what is known besides the token.
type Options struct {
	Broker      string   // the broker's url; "": not known
	Asked       string   // the audience that the platform was asked for; "": a job cannot ask
	IssuerURL   string   // the url in the broker's configuration, to compare; "": not known
	Credentials []string // that the policy is to grant, each [Writable]; none: a name to replace
}

// A Draft is what can be said of one token.
type Draft struct {
	Preset    *presets.Preset
	Certainty presets.Certainty
	Others    []string // presets that fit too, the best first
	Warnings  []string // sentences, the gravest first
	Claims    []Claim  // the preset's that the token has, then all else in it
	Issuer    string   // the issuer's entry, in YAML
	Policy    string   // one policy, in YAML
	Name      string   // the policy's

	token   map[string]any
	claims  map[string]any // the preset's, typed
	options Options
}

// A Claim is one line about a token.
type Claim struct {
	Name    string       `json:"name"`
	Value   any          `json:"value"` // as in the token
	Kind    presets.Kind `json:"kind,omitempty"`
	Type    presets.Type `json:"type,omitempty"`
	Meaning string       `json:"meaning,omitempty"`

	Standing Standing `json:"seen_by"`
}

// A Standing says who looks at a claim.
type Standing string

// The standings.
const (
	Usable  Standing = "policy" // policies can use it
	Checked Standing = "broker" // the broker checks it, and no policy sees it
	Unseen  Standing = "nobody" // the preset does not declare it
)

// New returns the draft for a token with these members, as package strictjson
// reads them.
func New(token map[string]any, o Options) *Draft {
	guesses, certainty := presets.Guesses(token)
	d := &Draft{Preset: guesses[0].Preset, Certainty: certainty, token: token, claims: guesses[0].Claims, options: o}
	if certainty == presets.Unknown {
		d.declare()
	}
	for _, other := range guesses[1:] {
		d.Others = append(d.Others, other.Preset.Name)
	}
	d.warnings(guesses[0])
	d.Claims = d.list()
	d.Issuer = d.issuer()
	p := d.plan()
	d.Warnings = append(d.Warnings, p.warnings...)
	d.Policy, d.Name = p.yaml(), p.name
	return d
}

func (d *Draft) warn(format string, args ...any) {
	d.Warnings = append(d.Warnings, fmt.Sprintf(format, args...))
}

func (d *Draft) warnings(best *presets.Guess) {
	switch d.Certainty {
	case presets.Unknown:
		d.warn("no preset fits: the claims are declared below with the kind attacker, which is the safe guess; write who decides about each")
	case presets.Ambiguous:
		d.warn("presets that fit as well as %s: %s; take the one of the platform that runs this job", d.Preset.Name, strings.Join(d.Others, ", "))
	}
	if len(best.Wrong) > 0 && d.Certainty != presets.Unknown {
		d.warn("the broker would refuse this token under preset %s: %s", d.Preset.Name, strings.Join(best.Wrong, "; "))
	}
	iss, _ := d.token["iss"].(string)
	if iss == "" {
		d.warn("the token has no iss: no broker can know whom it is from")
	}
	if url := d.options.IssuerURL; url != "" && url != iss {
		d.warn("iss is %s, which is not byte for byte the url that was given, %s: the broker would refuse the token", scalar(iss), scalar(url))
	}
}

// declare makes claims of what the token has at its top, for the preset generic.
func (d *Draft) declare() {
	const most = 40 // more is not a token that a person writes a policy for
	for _, name := range slices.Sorted(maps.Keys(d.token)) {
		t := typeOf(d.token[name])
		if t == "" || !isPlain(name) || len(name) > 64 || slices.Contains(checked(), name) && name != "sub" || len(d.Preset.Claims) == most {
			continue
		}
		d.Preset.Claims[name] = presets.Claim{Type: t, Kind: presets.Attacker, Doc: "who decides about it: the platform, or whoever pushes?", Optional: name != "sub"}
	}
	if len(d.Preset.Claims) == 0 { // the configuration needs one, and so does a policy
		d.Preset.Claims["sub"] = presets.Claim{Type: presets.String, Kind: presets.Attacker, Doc: "whom the token is about"}
	}
	d.claims, _ = d.Preset.Read(d.token)
}

// typeOf returns the type that a claim with this value is declared with, "" if
// there is none.
func typeOf(v any) presets.Type {
	switch v := v.(type) {
	case string:
		return presets.String
	case bool:
		return presets.Bool
	case json.Number:
		if _, err := v.Int64(); err == nil {
			return presets.Int
		}
	case []any:
		if !slices.ContainsFunc(v, func(item any) bool { _, ok := item.(string); return !ok }) {
			return presets.StringList
		}
	}
	return ""
}

// checked are the claims of RFC 7519, section 4.1, which the broker looks at.
func checked() []string { return []string{"iss", "sub", "aud", "iat", "nbf", "exp", "jti"} }

// list returns all claims: those for policies by kind, those of every token,
// and the rest.
func (d *Draft) list() []Claim {
	var list []Claim
	for _, kind := range kinds() {
		for _, name := range slices.Sorted(maps.Keys(d.claims)) {
			if c := d.Preset.Claims[name]; c.Kind == kind.kind {
				list = append(list, Claim{name, d.claims[name], kind.kind, c.Type, c.Doc, Usable})
			}
		}
	}
	for _, name := range checked() {
		_, declared := d.claims[name]
		if v, present := d.token[name]; present && !declared {
			list = append(list, Claim{Name: name, Value: v, Meaning: meaning(name, v), Standing: Checked})
		}
	}
	for _, m := range d.Preset.Undeclared(d.token) {
		list = append(list, Claim{Name: strings.Join(m.Path, "."), Value: m.Value, Standing: Unseen})
	}
	return list
}

// meaning says what a claim of every token is.
func meaning(name string, v any) string {
	texts := map[string]string{
		"iss": "who signed it", "sub": "whom it is about, in one string", "aud": "for whom it is", "jti": "its number",
		"iat": "issued", "nbf": "not valid before", "exp": "not valid after",
	}
	if n, ok := v.(json.Number); ok {
		if seconds, err := n.Int64(); err == nil && seconds >= 0 && seconds < 253402300800 { // year 10000
			return texts[name] + " " + time.Unix(seconds, 0).UTC().Format(time.RFC3339)
		}
	}
	return texts[name]
}

// kinds lists the kinds with what they are worth.
func kinds() []struct {
	kind presets.Kind
	text string
} {
	return []struct {
		kind presets.Kind
		text string
	}{
		{presets.Immutable, "immutable: ids, never given to another; pin these"},
		{presets.Platform, "platform: set by the platform"},
		{presets.Mutable, "mutable: names, which someone else may have tomorrow; never pin them alone"},
		{presets.Attacker, "attacker: chosen by whoever pushes, names a branch or edits the pipeline"},
	}
}
