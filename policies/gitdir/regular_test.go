package gitdir

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// A document that became a pipe since it was looked at, or grew, holds nobody up.
func TestReadRegular(t *testing.T) {
	pipe, file := filepath.Join(t.TempDir(), "a.yaml"), filepath.Join(t.TempDir(), "b.yaml")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := readRegular(pipe, 1); err == nil {
		t.Errorf("readRegular of a pipe = %q", got)
	}
	if err := os.WriteFile(file, []byte("abc"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := readRegular(file, 1); string(got) != "ab" || err != nil {
		t.Errorf("readRegular of more than there was = %q, %v", got, err)
	}
}
