package policies

import (
	"slices"
	"time"
)

// A Summary is what there is to know of a set at a glance.
type Summary struct {
	Digest   string         `json:"digest"`
	Commit   string         `json:"commit,omitempty"` // see [Origin]
	Signer   string         `json:"signer,omitempty"`
	Policies int            `json:"policies"`
	Tenants  map[string]int `json:"tenants"` // policies by tenant; those in no tenant's folder under ""
	Shadow   []string       `json:"shadow"`  // names of those in mode shadow, sorted
	Unsafe   []string       `json:"unsafe"`  // of those that lack pins, sorted
	Expired  []string       `json:"expired"` // of those that do not hold any more, sorted
}

// Summary returns the summary of s at a time.
func (s *Set) Summary(now time.Time) Summary {
	out := Summary{
		Digest: s.Digest(), Commit: s.Origin().Commit, Signer: s.Origin().Signer, Policies: s.Len(),
		Tenants: map[string]int{}, Shadow: []string{}, Unsafe: []string{}, Expired: []string{},
	}
	if s == nil {
		return out
	}
	for _, p := range s.policies {
		out.Tenants[p.tenant]++
		if p.shadow {
			out.Shadow = append(out.Shadow, p.name)
		}
		if p.unsafe != "" {
			out.Unsafe = append(out.Unsafe, p.name)
		}
		if !p.expires.IsZero() && !now.Before(p.expires) {
			out.Expired = append(out.Expired, p.name)
		}
	}
	for _, names := range [][]string{out.Shadow, out.Unsafe, out.Expired} {
		slices.Sort(names)
	}
	return out
}
