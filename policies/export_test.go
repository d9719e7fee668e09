package policies

import "context"

// Unindexed returns s with all policies of an issuer in one list: what Decide
// would be without its index.
func (s *Set) Unindexed() *Set {
	scan := *s
	scan.index = index{rest: map[string][]*policy{}}
	for _, p := range s.policies {
		scan.index.rest[p.issuer] = append(scan.index.rest[p.issuer], p)
	}
	return &scan
}

// CompareWithin is Compare with so much to spend.
func CompareWithin(ctx context.Context, a, b *Set, units int) (*Diff, error) {
	return compare(ctx, a, b, &effort{units})
}

// LintWithin is Lint with so much to spend for comparing policies.
func LintWithin(s *Set, units int) []Finding { return s.lint(nil, &effort{units}) }

// CoverageWithin is Coverage with so much to spend.
func CoverageWithin(s *Set, units int) *Coverage { return s.coverage(&effort{units}) }
