package gitdir_test

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/brevet-dev/brevet/policies/gitdir"
)

// signedAfter reads the policies, which must follow the commit.
func (r *repo) signedAfter(commit string) error {
	c := r.checkout()
	c.After = commit
	_, err := c.Signed(r.t.Context(), "policies")
	return err
}

// A signed commit is not taken for ever: it must come after what it replaces.
func TestRollback(t *testing.T) {
	t.Parallel()
	r := newRepo(t)
	r.put("policies/a.yaml", "a\n")
	first := r.commit("alice")
	r.put("policies/a.yaml", "b\n")
	second := r.commit("") // what is before a signed commit need not be
	r.git("checkout", "-q", "-b", "side", first)
	r.put("policies/b.yaml", "c\n")
	side := r.commit("alice")
	r.git("checkout", "-q", "main")
	r.git("-c", "gpg.format=ssh", "-c", "user.signingKey="+filepath.Join(r.keys, "alice"), "merge", "-q", "--no-edit", "-S", "side")
	merge := strings.TrimSpace(r.git("rev-parse", "HEAD"))

	for _, commit := range []string{"", first, second, side, merge} {
		if err := r.signedAfter(commit); err != nil {
			t.Errorf("Signed after %q = %v", commit, err)
		}
	}
	r.git("checkout", "-q", side)
	stranger := strings.Repeat("0", 40)
	for _, commit := range []string{merge, second, stranger} {
		if err := r.signedAfter(commit); !errors.Is(err, gitdir.ErrRolledBack) {
			t.Errorf("Signed after %q = %v, want ErrRolledBack", commit, err)
		}
	}
}

// What git is told of a commit's parents beside the commit counts for nothing.
func TestRollbackGrafted(t *testing.T) {
	t.Parallel()
	r := newRepo(t)
	r.put("policies/a.yaml", "a\n")
	old := r.commit("alice")
	r.put("policies/a.yaml", "b\n")
	inForce := r.commit("alice")
	r.git("checkout", "-q", old)
	r.put(".git/info/grafts", old+" "+inForce+"\n")
	if err := r.signedAfter(inForce); !errors.Is(err, gitdir.ErrRolledBack) {
		t.Errorf("Signed of a grafted commit = %v, want ErrRolledBack", err)
	}
}

// Where the history is not there, nobody can say what a commit follows.
func TestRollbackShallow(t *testing.T) {
	t.Parallel()
	r := newRepo(t)
	r.put("policies/a.yaml", "a\n")
	first := r.commit("alice")
	second := r.commit("alice")
	r.commit("alice")
	clone := filepath.Join(t.TempDir(), "clone")
	r.git("clone", "-q", "--depth", "1", "file://"+r.dir, clone)
	r.dir = clone
	if err := r.signedAfter(second); err != nil {
		t.Errorf("Signed after the parent, which the commit itself names = %v", err)
	}
	if err := r.signedAfter(first); err == nil || !strings.Contains(err.Error(), "a shallow clone is not enough") {
		t.Errorf("Signed after what is not there = %v", err)
	}
}
