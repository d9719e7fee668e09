package policies

import (
	"path/filepath"
	"syscall"
	"testing"
)

// A file that became a pipe since it was looked at holds no reload up.
func TestFileBecamePipe(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mkfifo(filepath.Join(dir, "a.yaml"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := readFile(disk(dir), "a.yaml"); err == nil || err.Error() != "not a regular file" {
		t.Errorf("readFile of a pipe: %v", err)
	}
	if _, err := disk(dir).Open("../a.yaml"); err == nil {
		t.Error("a file above the folder was opened")
	}
}
