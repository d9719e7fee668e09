package policies

import (
	"strings"
	"testing"
	"testing/fstest"

	"github.com/brevet-dev/brevet/issuers"
)

// Whatever loads is linted without a panic, and each token is decided on as the
// finding says.
func FuzzLint(f *testing.F) {
	f.Add(exemplary)
	for _, w := range wrongs() {
		f.Add(w.doc)
	}
	options := realOptions()
	f.Fuzz(func(t *testing.T, doc string) {
		fsys := fstest.MapFS{"a.yaml": {Data: []byte(doc)}}
		set, err := LoadFS(fsys, ".", options)
		if err != nil {
			return
		}
		for _, finding := range set.Lint(nil) {
			if finding.Token == nil {
				continue
			}
			checkShows(t, set, finding)
		}
	})
}

func checkShows(t *testing.T, set *Set, f Finding) {
	for _, p := range set.policies {
		if p.name != f.Policy || !strings.HasPrefix(f.Shows, "is granted") {
			continue
		}
		granted := false
		for _, g := range p.grants {
			_, err := set.Decide(&issuers.Identity{Issuer: p.issuer, Claims: f.Token}, g.Credential)
			granted = granted || err == nil
		}
		if !granted {
			t.Errorf("%s: %s, and nothing is", f.ID, f.Shows)
		}
	}
}
