package keys

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
)

// ErrPermissions says that others than its owner may use a file or folder that
// holds a secret, or guards one.
var ErrPermissions = errors.New("it may be used by others than its owner")

// ReadPrivate reads a file of at most most bytes that only its owner may use. It
// returns [ErrPermissions] for another. The bytes are in one piece, so that the
// caller can wipe them.
func ReadPrivate(path string, most int) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat() // of the open file, so that it cannot be exchanged in between
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a file", path)
	}
	if err := CheckMode(path, info, "600"); err != nil {
		return nil, err
	}
	data := make([]byte, most+1)
	n, err := io.ReadFull(f, data)
	switch {
	case err == nil:
		clear(data)
		return nil, fmt.Errorf("%s is larger than %d bytes", path, most)
	case !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF):
		clear(data)
		return nil, err
	}
	return data[:n], nil
}

// CheckMode returns [ErrPermissions] if others than the owner may use what is at
// path, with what to do: want is the mode that it should have.
func CheckMode(path string, info fs.FileInfo, want string) error {
	if info.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("%s: %w (mode %#o); run: chmod %s %s", path, ErrPermissions, info.Mode().Perm(), want, path)
	}
	return nil
}

// SyncDir makes the entries of a folder durable.
func SyncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
