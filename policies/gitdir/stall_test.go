package gitdir_test

import (
	"context"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// fifo puts a named pipe where git expects a file: whoever opens it waits for
// somebody who writes.
func (r *repo) fifo(file string) {
	r.t.Helper()
	if err := syscall.Mkfifo(file, 0o600); err != nil {
		r.t.Fatal(err)
	}
}

// Who can write to the checkout must not be able to stop the loop that reloads:
// what it would take over next may be what takes a grant away.
func TestStalledRevocationFile(t *testing.T) {
	t.Parallel()
	r := newRepo(t)
	r.put("policies/a.yaml", "a\n")
	r.commit("alice")
	pipe := filepath.Join(r.dir, ".git", "pipe")
	r.fifo(pipe)
	r.setConfig("gpg.ssh.revocationFile", pipe)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if _, err := r.checkout().Signed(ctx, "policies"); err != nil {
		t.Errorf("Signed = %v, want the repository's list not to be opened", err)
	}
}

func TestStalledHead(t *testing.T) {
	t.Parallel()
	r := newRepo(t)
	r.put("policies/a.yaml", "a\n")
	r.commit("alice")
	head := filepath.Join(r.dir, ".git", "HEAD")
	r.remove(head)
	r.fifo(head)
	done := make(chan error, 1)
	go func() {
		_, err := r.checkout().Head(context.WithoutCancel(t.Context()))
		done <- err
	}()
	select {
	case err := <-done:
		if err == nil {
			t.Error("Head of a pipe: no error")
		}
	case <-time.After(15 * time.Second):
		t.Error("Head waits for ever")
	}
}
