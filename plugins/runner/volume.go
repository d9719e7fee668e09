package runner

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

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
	}
	return f, nil
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
