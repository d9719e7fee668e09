package policies

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
