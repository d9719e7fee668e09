package policies

import (
	"cmp"
	"encoding/json"
	"fmt"
	"hash/maphash"
	"maps"
	"slices"
)

const (
	// maxRemembered bounds the tokens that are remembered so as to decide each
	// once: 16 MiB. Of further ones the same may be counted again.
	maxRemembered = 1 << 20

	// maxOutcomes bounds the projects and credentials that outcomes are told of
	// one by one.
	maxOutcomes = 10_000
)

// A Replay decides about tokens of the past with two sets. It takes bounded
// memory however many there are.
type Replay struct {
	old, new *Set
	names    []string // of credentials of either set, sorted
	seed     maphash.Seed
	seen     map[uint64]struct{}
	outcomes map[outcomeKey]*Outcome

	Tokens  int `json:"tokens"`  // that were decided about, each once
	Unknown int `json:"unknown"` // that were of issuers or had claims that are not known any more
	Omitted int `json:"omitted"` // outcomes beyond those that are listed
}

type outcomeKey struct {
	issuer, project, credential string
	kind                        EffectKind
}

// An Outcome is what changes for tokens of one project that ask for one
// credential.
type Outcome struct {
	Issuer     string         `json:"issuer"`
	ProjectID  string         `json:"project_id"` // "" where tokens have none
	Project    string         `json:"project"`    // its name when it was last seen
	Credential string         `json:"credential"`
	Kind       EffectKind     `json:"kind"`
	Tokens     int            `json:"tokens"`
	Terms      []string       `json:"terms,omitempty"`
	Policy     string         `json:"policy"` // that grants it, or did
	Claims     map[string]any `json:"claims"` // of one of them
}

// NewReplay returns a replay of nothing yet.
func NewReplay(a, b *Set) *Replay {
	both := maps.Clone(a.credentials)
	maps.Copy(both, b.credentials)
	return &Replay{old: a, new: b, names: slices.Sorted(maps.Keys(both)), seed: maphash.MakeSeed(), seen: map[uint64]struct{}{}, outcomes: map[outcomeKey]*Outcome{}}
}

// Add decides about a token that was recorded: each credential that there is,
// asked for or not. Numbers in claims are [encoding/json.Number].
func (r *Replay) Add(issuer string, raw map[string]any) {
	if !r.isNew(issuer, raw) {
		return
	}
	preset := r.new.issuers[issuer]
	if preset == nil {
		r.Unknown++
		return
	}
	claims, _, err := Claims(preset, raw)
	if err != nil {
		r.Unknown++
		return
	}
	r.Tokens++
	for _, name := range r.names {
		old, was := r.old.asks(issuer, claims, name)
		now, is := r.new.asks(issuer, claims, name)
		switch {
		case is && !was:
			r.note(issuer, claims, Gained, now, nil)
		case was && !is:
			r.note(issuer, claims, Lost, old, nil)
		case was && is:
			if terms := now.beyond(&old, More); len(terms) > 0 {
				r.note(issuer, claims, More, now, terms)
			}
			if terms := old.beyond(&now, Less); len(terms) > 0 {
				r.note(issuer, claims, Less, now, terms)
			}
		}
	}
}

// isNew reports whether the token was not there yet.
func (r *Replay) isNew(issuer string, raw map[string]any) bool {
	text, err := json.Marshal(raw) // with its keys sorted
	if err != nil {
		return true
	}
	var h maphash.Hash
	h.SetSeed(r.seed)
	h.WriteString(issuer + "\x00")
	h.Write(text)
	sum := h.Sum64()
	if _, seen := r.seen[sum]; seen {
		return false
	}
	if len(r.seen) < maxRemembered {
		r.seen[sum] = struct{}{}
	}
	return true
}

func (r *Replay) note(issuer string, claims map[string]any, kind EffectKind, g Grant, terms []string) {
	preset := r.new.issuers[issuer]
	project := said(claims, preset.ProjectID)
	k := outcomeKey{issuer, project, g.Credential, kind}
	o := r.outcomes[k]
	if o == nil && len(r.outcomes) >= maxOutcomes {
		r.Omitted++
		return
	}
	if o == nil {
		o = &Outcome{Issuer: issuer, Credential: g.Credential, Kind: kind, Claims: claims}
		if id, ok := claims[preset.ProjectID]; ok {
			o.ProjectID = fmt.Sprint(id)
		}
		r.outcomes[k] = o
	}
	o.Project, _ = claims[preset.Project].(string)
	o.Tokens, o.Policy, o.Terms = o.Tokens+1, g.Policy, terms
}

// Outcomes returns what would change, sorted: gains first.
func (r *Replay) Outcomes() []Outcome {
	list := []Outcome{}
	for _, o := range r.outcomes {
		list = append(list, *o)
	}
	slices.SortFunc(list, func(a, b Outcome) int {
		return cmp.Or(a.Kind.rank()-b.Kind.rank(), cmp.Compare(a.Issuer, b.Issuer), cmp.Compare(a.Project, b.Project),
			cmp.Compare(a.ProjectID, b.ProjectID), cmp.Compare(a.Credential, b.Credential))
	})
	return list
}

// rank sorts gains before losses.
func (e EffectKind) rank() int { return slices.Index([]EffectKind{Gained, More, Lost, Less}, e) }

// Gains counts the outcomes by which somebody can do more than before.
func (r *Replay) Gains() int {
	n := 0
	for k := range r.outcomes {
		if k.kind.IsGain() {
			n++
		}
	}
	return n
}
