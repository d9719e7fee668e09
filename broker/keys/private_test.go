package keys

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestReadPrivate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secret")
	must(t, os.WriteFile(path, []byte("12345678"), 0o600))
	for most, ok := range map[int]bool{7: false, 8: true, 9: true} {
		data, err := ReadPrivate(path, most)
		if (err == nil) != ok || ok && string(data) != "12345678" || !ok && data != nil {
			t.Errorf("ReadPrivate of 8 bytes, at most %d = %d bytes, %v", most, len(data), err)
		}
	}
	if _, err := ReadPrivate(filepath.Dir(path), 8); err == nil {
		t.Error("ReadPrivate of a folder succeeds")
	}
	if _, err := ReadPrivate(path+"x", 8); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("ReadPrivate of nothing = %v", err)
	}
	for _, mode := range []os.FileMode{0o640, 0o604, 0o620} {
		must(t, os.Chmod(path, mode))
		if _, err := ReadPrivate(path, 8); !errors.Is(err, ErrPermissions) || !strings.Contains(err.Error(), "chmod 600 "+path) {
			t.Errorf("ReadPrivate at mode %#o = %v", mode, err)
		}
	}
}
