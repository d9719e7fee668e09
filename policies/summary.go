package policies

import (
	"slices"
	"strings"
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
}

// Summary returns the summary of s at a time.
func (s *Set) Summary(now time.Time) Summary {
	out := Summary{
		Digest: s.Digest(), Commit: s.Origin().Commit, Signer: s.Origin().Signer, Policies: s.Len(),
		Tenants: map[string]int{}, Shadow: []string{},
	}
	if s == nil {
		return out
	}
	for _, p := range s.policies {
		out.Tenants[tenantOf(p.name)]++
		if p.shadow {
			out.Shadow = append(out.Shadow, p.name)
		}
	}
	slices.Sort(out.Shadow)
	return out
}

// tenantOf returns the tenant in a policy's full name; "": none.
func tenantOf(name string) string {
	tenant, _, found := strings.Cut(name, "/")
	if !found {
		return ""
	}
	return tenant
}
