package policies

import "io/fs"

// An Origin says which commit the files of a set are of. The zero Origin is a
// folder.
type Origin struct {
	Commit string // its id, in hexadecimal
	Signer string // whose key signed it
}

// LoadCommit is [LoadFS] for the documents of a commit, which the set's digest
// names, too.
func LoadCommit(fsys fs.FS, dir string, from Origin, o Options) (*Set, error) {
	s, err := LoadFS(fsys, dir, o)
	if err != nil {
		return nil, err
	}
	s.origin = from
	s.digest += "+git:" + from.Commit
	return s, nil
}

// Origin says where the set was loaded from.
func (s *Set) Origin() Origin {
	if s == nil {
		return Origin{}
	}
	return s.origin
}
