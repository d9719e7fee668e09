package policies

import "io/fs"

// An Origin says which commit the files of a set are of. The zero Origin is a
// folder.
type Origin struct {
	Commit string // its id, in hexadecimal
	Signer string // whose key signed it
}

// LoadFS is like [Load] for documents of a commit. Problems name their files
// as if they were in dir.
func LoadFS(fsys fs.FS, dir string, from Origin, o Options) (*Set, error) {
	s, err := load(fsys, dir, o)
	if err != nil {
		return nil, err
	}
	if s.origin = from; from.Commit != "" {
		s.digest += "+git:" + from.Commit
	}
	return s, nil
}

// Origin says where the set was loaded from.
func (s *Set) Origin() Origin {
	if s == nil {
		return Origin{}
	}
	return s.origin
}
