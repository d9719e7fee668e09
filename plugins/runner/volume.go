package runner

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/brevet-dev/brevet/broker/api"
)

// A Volume says how files are kept that other containers, or programs of other
// users, read.
type Volume struct {
	// Mode is what the files get, at most 0644: who else may read them. Their group
	// is the folder's, if that has the setgid bit, as a volume with fsGroup does.
	Mode fs.FileMode

	// AnyDisk lets them be in folders that are not in memory.
	AnyDisk bool
}

// OpenVolume reads the templates of files on a volume, and checks that they can be
// there. What is there already must be an ordinary file of this user's. A wish with
// a Template needs no Variable. Call Put, and Remove at the end.
func OpenVolume(wishes []FileWish, v Volume) (*Files, error) {
	if v.Mode&^0o644 != 0 || v.Mode&0o400 == 0 {
		return nil, failf(Misconfigured, "such as 0600, 0640 or 0644", "the mode %04o: files with values may be read by others, and nothing else", v.Mode)
	}
	f := &Files{volume: &v}
	for _, w := range wishes {
		one, err := openFile(w)
		if err != nil {
			return nil, err
		}
		f.files = append(f.files, one)
	}
	if err := f.place(nil); err != nil {
		return nil, err
	}
	for _, one := range f.files {
		if err := v.Check(one.path); err != nil {
			return nil, err
		}
		if err := one.claim(); err != nil {
			return nil, failf(Misconfigured, "", "looking at the folder of %s: %w", one.path, err)
		}
	}
	return f, nil
}

// claim remembers the folder, and removes from it what an agent has left that was
// killed while it wrote this file.
func (one *file) claim() error {
	dir := filepath.Dir(one.path)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), one.tempPrefix()) {
			continue
		}
		left := filepath.Join(dir, e.Name())
		if info, err := os.Lstat(left); err == nil && info.Mode().IsRegular() && isOwn(info) {
			os.Remove(left) // else it is as it was
		}
	}
	one.folder, err = os.Stat(dir)
	return err
}

// inFolder refuses a folder in the place of the one that was checked: who may write
// around it could lead values out of memory, and brevet to files of its own. Nothing
// is to be done about who does so while a file is being written; so others mount a
// volume read-only.
func (one *file) inFolder() error {
	if one.folder == nil {
		return nil
	}
	dir := filepath.Dir(one.path)
	info, err := os.Stat(dir)
	if err == nil && !os.SameFile(info, one.folder) {
		err = fmt.Errorf("%s is another folder than it was", dir)
	}
	return err
}

// isAt reports whether f is what is at the path.
func (one *file) isAt(f *os.File) bool {
	there, err := os.Lstat(one.path)
	if err != nil {
		return false
	}
	info, err := f.Stat()
	return err == nil && os.SameFile(there, info)
}

// Check refuses a path at which no file with secrets may be written.
func (v Volume) Check(path string) error {
	if err := CheckReplaceable(path); err != nil {
		return err
	}
	if dir := filepath.Dir(path); !v.AnyDisk && !inMemory(dir) {
		return failf(Misconfigured, "mount a volume in memory there, in Kubernetes emptyDir: {medium: Memory}; or give --allow-disk",
			"%s is not a folder in memory: values would be written to a disk", dir)
	}
	return nil
}

// CheckReplaceable refuses a path at which something is that is not an ordinary
// file of this user's: another user's, a link, or a folder is not brevet's to
// replace.
func CheckReplaceable(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return failf(Misconfigured, "", "looking at %s: %w", path, err)
	case !info.Mode().IsRegular() || !isOwn(info):
		return failf(Misconfigured, "name another path, or remove it", "%s is there, and is not an ordinary file of this user's", path)
	}
	return nil
}

// Put makes the files of leases, which are all that there are, or gives those that
// are there their new content.
func (f *Files) Put(leases []api.Lease) error {
	if f == nil {
		return nil
	}
	f.mu.Lock()
	f.made = true
	f.mu.Unlock()
	return f.Fill(leases)
}
