package policies

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/brevet-dev/brevet/issuers"
	"github.com/brevet-dev/brevet/issuers/presets"
	"github.com/brevet-dev/brevet/policies/strictyaml"
)

// What a [Part] is about.
const (
	PartExpires    = "expires"    // the end of the policy
	PartMatch      = "match"      // an entry of match
	PartRisk       = "risk"       // what the preset distrusts unless match names it
	PartGuardrails = "guardrails" // a rule by which they deny
	PartWhen       = "when"       // the condition in CEL, or a part of it
	PartNames      = "names"      // an entry of names
)

// A Part is one thing that a policy asks of a token, and what came of it.
type Part struct {
	Kind  string `json:"kind"`
	Path  string `json:"path"`  // in its document: match.ref
	Place string `json:"place"` // "file:line"
	Want  string `json:"want"`
	Got   string `json:"got"` // what the token has: a value as in JSON, or absent
	Holds bool   `json:"holds"`

	// Parts are the values of a list, of which one must hold, or the operands of
	// && and || in a condition. Looked at one by one, also where the first has
	// decided.
	Parts []Part `json:"parts,omitempty"`
	Join  string `json:"join,omitempty"` // and, or: how Parts make the whole

	claim string
}

// A Verdict is what one policy makes of a token.
type Verdict struct {
	Policy      string   `json:"policy"`
	Place       string   `json:"place"`
	Credentials []string `json:"credentials"` // that it would grant
	Candidate   bool     `json:"candidate"`   // it is for this project or owner
	Shadow      bool     `json:"shadow,omitempty"`
	Unsafe      string   `json:"unsafe,omitempty"`  // why it may lack pins
	Missing     []string `json:"missing,omitempty"` // the pins that it lacks
	Expires     string   `json:"expires,omitempty"` // RFC 3339
	Holds       bool     `json:"holds"`             // every part does
	Failed      int      `json:"failed"`
	First       string   `json:"first_failed,omitempty"` // path of the first part that does not hold
	Parts       []Part   `json:"parts"`
	Changes     []Change `json:"changes,omitempty"` // one for each part that does not hold
}

// An Answer is what [Set.Decide] says of one credential.
type Answer struct {
	Credential string   `json:"credential"`
	Granted    bool     `json:"granted"`
	Policy     string   `json:"policy,omitempty"` // that grants it
	TTL        string   `json:"ttl,omitempty"`
	MaxTTL     string   `json:"max_ttl,omitempty"`
	Unsafe     string   `json:"unsafe,omitempty"` // why that policy may lack pins
	Shadow     []string `json:"shadow,omitempty"` // that would have granted it
	Drift      []string `json:"drift,omitempty"`  // that would have, but for names

	// Nearest is the policy of which the fewest parts fail, of those that grant
	// the credential and are for this project or owner; "" if it is granted, or
	// if there is none.
	Nearest string `json:"nearest,omitempty"`
	Fails   string `json:"first_failed,omitempty"` // path of the first of these parts
}

// An Explanation says how the policies come to their answers for one workload.
type Explanation struct {
	Issuer   string    `json:"issuer"`
	Answers  []Answer  `json:"answers"`           // by credential
	Nearest  string    `json:"nearest,omitempty"` // the policy of which least does not hold, if none grants
	Verdicts []Verdict `json:"policies"`          // those that hold first, then the nearest
}

// maxNearest bounds the policies shown that are for other projects: there may
// be thousands.
const maxNearest = 3

// Explain says what each policy for the workload's project or owner makes of
// its claims, and, if none is, what the nearest of the issuer's others do. With
// a credential only the policies that grant it are asked. The answers are
// those of [Set.Decide]. All of it is for operators, not for strangers.
func (s *Set) Explain(id *issuers.Identity, credential string) *Explanation {
	e := &Explanation{Answers: []Answer{}, Verdicts: []Verdict{}}
	if s == nil || id == nil {
		return e
	}
	e.Issuer = id.Issuer
	j := newJudge()
	for _, p := range s.relevant(id, credential) {
		e.Verdicts = append(e.Verdicts, j.judge(p, id.Claims, true))
	}
	if len(e.Verdicts) == 0 {
		e.Verdicts = append(e.Verdicts, s.nearest(j, id, credential)...)
	}
	sortVerdicts(e.Verdicts)
	granted := false
	for _, name := range e.credentials(credential) {
		a := s.answer(id, name)
		if !a.Granted {
			a.Nearest, a.Fails = e.nearestFor(name)
		}
		e.Answers = append(e.Answers, a)
		granted = granted || a.Granted
	}
	if !granted && len(e.Verdicts) > 0 {
		e.Nearest = e.Verdicts[0].Policy
	}
	return e
}

// relevant returns the policies that the index finds for the workload.
func (s *Set) relevant(id *issuers.Identity, credential string) []*policy {
	var list []*policy
	for _, bucket := range s.index.candidates(id.Issuer, s.issuers[id.Issuer], id.Claims) {
		for _, p := range bucket {
			if credential == "" || p.grant(credential) != nil {
				list = append(list, p)
			}
		}
	}
	return list
}

// nearest returns what the nearest policies make of the claims that the index
// does not find for them.
func (s *Set) nearest(j *judge, id *issuers.Identity, credential string) []Verdict {
	type ranked struct {
		*policy
		failed int
	}
	var list []ranked
	for _, p := range s.policies {
		if p.issuer == id.Issuer && (credential == "" || p.grant(credential) != nil) {
			list = append(list, ranked{p, p.failed(id.Claims)})
		}
	}
	slices.SortFunc(list, func(a, b ranked) int {
		return cmp.Or(cmp.Compare(a.failed, b.failed), cmp.Compare(a.name, b.name))
	})
	var nearest []Verdict
	for _, r := range list[:min(len(list), maxNearest)] {
		nearest = append(nearest, j.judge(r.policy, id.Claims, false))
	}
	return nearest
}

// failed counts the parts of p that do not hold, without looking into them.
func (p *policy) failed(claims map[string]any) int {
	n := len(p.drift(claims))
	count := func(failed bool) {
		if failed {
			n++
		}
	}
	count(p.expired())
	count(!p.when.holds(claims))
	for i := range p.match {
		count(!p.match[i].holds(claims))
	}
	for i := range p.risks {
		count(!p.risks[i].passes(claims))
	}
	for _, g := range p.guards {
		for i := range g.denies {
			count(g.denies[i].fits(claims))
		}
	}
	return n
}

// passes reports whether the token is no such run, or one that match names.
func (r *risk) passes(claims map[string]any) bool {
	_, said := claims[r.claim]
	return r.named.holds(claims) || said && !r.holds(claims)
}

func sortVerdicts(list []Verdict) {
	slices.SortFunc(list, func(a, b Verdict) int {
		return cmp.Or(cmp.Compare(a.Failed, b.Failed), cmp.Compare(a.Policy, b.Policy))
	})
}

// credentials returns what there is to answer: the one asked for, or all that
// the policies looked at grant, sorted.
func (e *Explanation) credentials(asked string) []string {
	if asked != "" {
		return []string{asked}
	}
	var all []string
	for _, v := range e.Verdicts {
		if v.Candidate {
			all = append(all, v.Credentials...)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// nearestFor returns the nearest policy for the credential, and where it fails.
func (e *Explanation) nearestFor(credential string) (policy, fails string) {
	for _, v := range e.Verdicts {
		if v.Candidate && slices.Contains(v.Credentials, credential) {
			return v.Policy, v.First
		}
	}
	return "", ""
}

func (s *Set) answer(id *issuers.Identity, credential string) Answer {
	d, err := s.Decide(id, credential)
	a := Answer{Credential: credential, Granted: err == nil, Shadow: d.Shadow}
	if err == nil {
		a.Policy, a.Unsafe = d.Grant.Policy, d.Grant.Unsafe
		a.TTL, a.MaxTTL = short(d.Grant.TTL), short(d.Grant.MaxTTL)
	}
	for _, drift := range d.Drift {
		a.Drift = append(a.Drift, drift.Policy)
	}
	a.Drift = slices.Compact(a.Drift)
	return a
}

// A judge looks at policies part by part. It keeps what it had to compile for
// that, and is for one goroutine.
type judge struct {
	languages  map[*presets.Preset]*language
	conditions map[*policy]*observer
}

func newJudge() *judge {
	return &judge{map[*presets.Preset]*language{}, map[*policy]*observer{}}
}

// judge says what p makes of the claims.
func (j *judge) judge(p *policy, claims map[string]any, candidate bool) Verdict {
	v := Verdict{
		Policy: p.name, Place: p.place, Candidate: candidate, Shadow: p.shadow,
		Unsafe: p.unsafe, Missing: p.missing, Parts: j.parts(p, claims),
	}
	if !p.expires.IsZero() {
		v.Expires = p.expires.Format(time.RFC3339)
	}
	for i := range p.grants {
		v.Credentials = append(v.Credentials, p.grants[i].Credential)
	}
	for _, part := range v.Parts {
		if part.Holds {
			continue
		}
		v.Failed++
		v.First = cmp.Or(v.First, part.Path)
		if c, ok := p.change(part, claims); ok && (candidate || p.isID(part)) {
			v.Changes = append(v.Changes, c)
		}
	}
	v.Holds = v.Failed == 0
	return v
}

// isID reports whether the part is an entry of match for an id. In a policy for
// another workload there is nothing else to propose.
func (p *policy) isID(part Part) bool {
	return part.Kind == PartMatch && p.preset.Claims[part.claim].Kind == presets.Immutable
}

// parts returns everything that p asks, in the order in which a decision asks
// it. Which parts there are depends on p alone, so that those of several tokens
// can be compared.
func (j *judge) parts(p *policy, claims map[string]any) []Part {
	var list []Part
	if !p.expires.IsZero() {
		list = append(list, p.endPart())
	}
	for i := range p.match {
		list = append(list, p.conditionPart(PartMatch, &p.match[i], claims))
	}
	for i := range p.risks {
		list = append(list, p.riskPart(&p.risks[i], claims))
	}
	for _, g := range p.guards {
		for i := range g.denies {
			list = append(list, g.denies[i].part(claims))
		}
	}
	if p.when != nil {
		list = append(list, j.whenPart(p, claims))
	}
	for i := range p.names {
		list = append(list, p.conditionPart(PartNames, &p.names[i], claims))
	}
	return list
}

func (p *policy) conditionPart(kind string, c *condition, claims map[string]any) Part {
	part := Part{
		Kind: kind, Path: strictyaml.Path{kind, c.claim}.String(), Place: p.at(kind, c.claim),
		Want: c.wanted(), Got: said(claims, c.claim), Holds: c.holds(claims), claim: c.claim,
	}
	if options := c.options(); len(options) > 1 {
		part.Join = "or"
		for i := range options {
			one := p.conditionPart(kind, &options[i], claims)
			one.Place = p.optionAt(kind, c.claim, one.Want)
			part.Parts = append(part.Parts, one)
		}
	}
	return part
}

// options returns the ways in which c can hold, each as a condition.
func (c *condition) options() []condition {
	var list []condition
	for _, v := range c.values {
		list = append(list, condition{claim: c.claim, values: []any{v}})
	}
	for _, g := range c.globs {
		list = append(list, condition{claim: c.claim, globs: []glob{g}})
	}
	for _, h := range c.has {
		list = append(list, condition{claim: c.claim, has: []string{h}})
	}
	return list
}

// endPart says whether the policy has ended.
func (p *policy) endPart() Part {
	return Part{
		Kind: PartExpires, Path: PartExpires, Place: p.at(PartExpires, ""),
		Want: "a time before " + p.expires.Format(time.RFC3339), Got: time.Now().UTC().Format(time.RFC3339), Holds: !p.expired(),
	}
}

// part says whether the rule lets the token through. A rule that denies is part
// of every policy that it is for.
func (d *deny) part(claims map[string]any) Part {
	var want, got []string
	for i := range d.match {
		c := &d.match[i]
		want = append(want, c.claim+" "+c.wanted())
		got = append(got, c.claim+" is "+said(claims, c.claim))
	}
	return Part{
		Kind: PartGuardrails, Path: PartGuardrails + " " + d.guard.name, Place: d.place,
		Want: "no token with " + strings.Join(want, " and ") + ": " + d.reason, Got: strings.Join(got, ", "), Holds: !d.fits(claims),
	}
}

func (p *policy) riskPart(r *risk, claims map[string]any) Part {
	return Part{
		Kind: PartRisk, Path: PartRisk + "." + r.claim, Place: p.at(PartMatch, r.claim),
		Want: "no run that a stranger may have caused, unless match names it", Got: said(claims, r.claim),
		Holds: r.passes(claims), claim: r.claim,
	}
}
