package policies

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
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

// A Change would make one part hold: of the policy, if YAML is not empty, or
// of the token. That it would do so is no advice to make it.
type Change struct {
	Path  string `json:"path"`
	Place string `json:"place"`
	YAML  string `json:"yaml,omitempty"`  // the entry as it would have to be
	Token string `json:"token,omitempty"` // what the token would have to have
	Note  string `json:"note,omitempty"`
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
	e := &Explanation{Issuer: id.Issuer, Answers: []Answer{}, Verdicts: []Verdict{}}
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
	var list []Verdict
	for _, p := range s.policies {
		if p.issuer != id.Issuer || credential != "" && p.grant(credential) == nil {
			continue
		}
		list = append(list, j.judge(p, id.Claims, false))
		if len(list) > maxNearest {
			sortVerdicts(list)
			list = list[:maxNearest]
		}
	}
	return list
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
		if c, ok := p.change(part, claims); ok {
			v.Changes = append(v.Changes, c)
		}
	}
	v.Holds = v.Failed == 0
	return v
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
	_, there := claims[r.claim]
	return Part{
		Kind: PartRisk, Path: PartRisk + "." + r.claim, Place: p.at(PartMatch, r.claim),
		Want: "no run that a stranger may have caused, unless match names it", Got: said(claims, r.claim),
		Holds: r.named.holds(claims) || there && !r.holds(claims), claim: r.claim,
	}
}

// change says what would make a part hold. There is nothing to say of a risk
// where the entry of match for the same claim has its own change.
func (p *policy) change(part Part, claims map[string]any) (Change, bool) {
	c := Change{Path: part.Path, Place: part.Place}
	switch part.Kind {
	case PartMatch:
		p.matchChange(&c, part, claims)
	case PartRisk:
		if pin := p.pin(part.claim); pin != nil && !pin.holds(claims) {
			return c, false
		}
		p.riskChange(&c, part.claim, claims)
	case PartNames:
		c.Token = part.claim + ": " + part.Want
		if v, ok := claims[part.claim].(string); ok {
			c.YAML = part.claim + ": " + flow(v)
			c.Note = "names only say what the ids stand for: change it if the rename is meant"
		}
	case PartWhen:
		c.Token = whenWants(part)
	case PartGuardrails:
		c.Note = "guardrails deny it, and no policy can change that"
	case PartExpires:
		c.Note = "it has ended: give it a later expires if it is still meant"
	}
	return c, true
}

// matchChange adds the token's value to an entry of match. An id is another
// workload: the policy is not for this one.
func (p *policy) matchChange(c *Change, part Part, claims map[string]any) {
	pin := p.pin(part.claim)
	c.Token = part.claim + ": " + part.Want
	v, there := claims[part.claim]
	switch {
	case p.preset.Claims[part.claim].Kind == presets.Immutable && there:
		c.Note = fmt.Sprintf("the policy is for another %s; write one for %s", part.claim, quoted(v))
	case p.riskOf(part.claim, v):
		p.riskChange(c, part.claim, claims)
	case there && isPlain(v):
		c.YAML = part.claim + ": " + flowList(pin, v)
	}
}

// isPlain reports whether match takes v as a value: it refuses those that look
// like patterns.
func isPlain(v any) bool {
	s, isText := v.(string)
	list, isList := v.([]string)
	return !isText && !isList || isText && s != "" && !strings.ContainsAny(s, "*?|") && !looksRegular(s) || len(list) > 0
}

// riskOf reports whether v is a value of the claim that the preset distrusts.
func (p *policy) riskOf(claim string, v any) bool {
	return slices.ContainsFunc(p.risks, func(r risk) bool {
		return r.claim == claim && r.holds(map[string]any{claim: v})
	})
}

// whyRisky says why the preset distrusts a value that it distrusts.
func (p *policy) whyRisky(claim string, v any) string {
	for _, r := range p.risks {
		if r.claim == claim && r.why != "" && r.holds(map[string]any{claim: v}) {
			return r.why
		}
	}
	return "may be a stranger's"
}

// riskChange names the value in match.
func (p *policy) riskChange(c *Change, claim string, claims map[string]any) {
	v, there := claims[claim]
	if !there {
		c.Token = "a value of " + claim
		return
	}
	pin := p.pin(claim)
	if pin == nil {
		pin = &condition{claim: claim}
	}
	c.YAML = claim + ": " + flowList(pin, v)
	c.Note = "such a run " + p.whyRisky(claim, v) + ": name it only in a policy for credentials of class read"
}

// flowList writes a condition with one more value as it stands in match. Of a
// claim that is a list, which is not empty, one item will do.
func flowList(c *condition, v any) string {
	var list []string
	for _, have := range c.values {
		list = append(list, flow(have))
	}
	for _, g := range c.globs {
		list = append(list, "{glob: "+flow(string(g))+"}")
	}
	for _, h := range c.has {
		list = append(list, "{contains: "+flow(h)+"}")
	}
	switch v := v.(type) {
	case []string:
		list = append(list, "{contains: "+flow(v[0])+"}") // one will do
	default:
		list = append(list, flow(v))
	}
	if len(list) == 1 {
		return list[0]
	}
	return "[" + strings.Join(list, ", ") + "]"
}

// flow writes a value of a claim as YAML and JSON both have it.
func flow(v any) string {
	if s, ok := v.(string); ok {
		return strconv.Quote(s)
	}
	return fmt.Sprint(v)
}

// A spot is where a part of a policy stands: an entry of match, one value of
// it, a name, when or one line of it.
type spot struct {
	field, claim string
	option       string // as condition.wanted has it; "" for the entry
	line         int    // in the policy's file
	from         string // "file:line" in another: of the defaults that it is from
}

// at returns "file:line" of a part, or of the policy if it has no place of its
// own.
func (p *policy) at(field, claim string) string { return p.optionAt(field, claim, "") }

func (p *policy) optionAt(field, claim, option string) string {
	place := p.place
	for _, s := range p.spots {
		if s.field != field || s.claim != claim || s.option != "" && s.option != option {
			continue
		}
		place = s.from
		if place == "" {
			file, _, _ := cutLast(p.place, ":")
			place = fmt.Sprintf("%s:%d", file, s.line)
		}
		if s.option == option {
			break
		}
	}
	return place
}

// cutLast cuts s around the last sep.
func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

// spots notes where the parts of p stand.
func (c *compiler) spots(p *policy) []spot {
	var list []spot
	add := func(field, claim, option string, path strictyaml.Path) {
		list = append(list, spot{field: field, claim: claim, option: option, line: c.doc.Line(path)})
	}
	if !p.expires.IsZero() {
		add(PartExpires, "", "", strictyaml.Path{PartExpires})
	}
	for i := range p.names {
		add(PartNames, p.names[i].claim, "", strictyaml.Path{PartNames, p.names[i].claim})
	}
	for i := range p.match {
		claim := p.match[i].claim
		value, own := c.in.Match[claim]
		if !own {
			list = append(list, c.inheritedSpot(p, claim))
			continue
		}
		add(PartMatch, claim, "", strictyaml.Path{PartMatch, claim})
		values, _ := value.([]any)
		for j, v := range values {
			add(PartMatch, claim, optionText(v), strictyaml.Path{PartMatch, claim, j})
		}
	}
	if p.when != nil {
		list = append(list, c.whenSpots()...)
	}
	return list
}

// inheritedSpot is where the nearest defaults with an entry for claim stand.
func (c *compiler) inheritedSpot(p *policy, claim string) spot {
	for _, d := range c.defaults {
		if slices.ContainsFunc(d.match[p.issuer], func(c condition) bool { return c.claim == claim }) {
			return spot{field: PartMatch, claim: claim, from: d.place}
		}
	}
	return spot{field: PartMatch, claim: claim, from: p.place}
}

// whenSpots notes the line of the condition, and of each line within it.
func (c *compiler) whenSpots() []spot {
	path := strictyaml.Path{PartWhen}
	list := []spot{{field: PartWhen, line: c.doc.Line(path)}}
	for n := range strings.Count(strings.TrimSpace(c.in.When), "\n") + 1 {
		line := c.doc.TextProblem(path, n+1, 1, "").Line
		list = append(list, spot{field: PartWhen, claim: strconv.Itoa(n + 1), line: line})
	}
	return list
}

// optionText returns what condition.wanted says of one value of a list.
func optionText(v any) string {
	form, _ := v.(map[string]any)
	if g, ok := form["glob"].(string); ok {
		return (&condition{globs: []glob{glob(g)}}).wanted()
	}
	if h, ok := form["contains"].(string); ok {
		return (&condition{has: []string{h}}).wanted()
	}
	return (&condition{values: []any{v}}).wanted()
}
