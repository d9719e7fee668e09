package extension

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/brevet-dev/brevet/plugins/exchange"
	"github.com/brevet-dev/brevet/plugins/function"
)

// Names in the extension's folder.
const (
	tokenName   = "token"       // what requests must bring
	credentials = "credentials" // a folder with one for each credential, with a file for each value
	draftName   = ".new"        // what is being written
)

// A folder is the extension's own, in the sandbox's /tmp. Other users cannot enter.
type folder struct {
	dir   string
	files bool                            // credentials are written, too
	wrote map[string]*function.Credential // those whose values are in files, by name
}

// openFolder makes the folder anew. /tmp lives on when Lambda starts everything in
// a sandbox again: what another run of the extension has left there is wiped.
func openFolder(dir string, files bool) (*folder, error) {
	const hint = "nothing but the extension has business in its folder: remove it, or set TMPDIR to another place"
	f := &folder{dir, files, map[string]*function.Credential{}}
	err := os.Mkdir(dir, 0o700)
	if errors.Is(err, fs.ErrExist) {
		if err = checkPrivate(dir); err == nil {
			err = wipe(dir)
		}
		if err == nil {
			err = os.Mkdir(dir, 0o700)
		}
	}
	if err == nil {
		err = checkPrivate(dir)
	}
	if err != nil {
		return nil, exchange.Failf(exchange.Misconfigured, hint, "making the extension's folder: %w", err)
	}
	return f, nil
}

func (f *folder) tokenPath() string { return filepath.Join(f.dir, tokenName) }

// sync makes the files hold what is in force: whole by rename, and no value of what
// is not in force any more, nor of what could not be replaced. peek returns nil for
// what is not in force.
func (f *folder) sync(names []string, peek func(string) *function.Credential) error {
	if !f.files {
		return nil
	}
	var problems []error
	for _, name := range names {
		c := peek(name)
		if c == f.wrote[name] {
			continue
		}
		if c != nil {
			err := f.put(c)
			if err == nil {
				continue
			}
			problems = append(problems, err)
		}
		problems = append(problems, f.remove(name))
	}
	return errors.Join(problems...)
}

// remove wipes the values of a credential.
func (f *folder) remove(name string) error {
	delete(f.wrote, name)
	return wipe(filepath.Join(f.dir, credentials, name))
}

// put writes the values of c into its folder, and removes what is not of c there.
func (f *folder) put(c *function.Credential) error {
	dir := filepath.Join(f.dir, credentials, c.Name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("making the folder of credential %s: %w", c.Name, err)
	}
	names := c.Names()
	for _, name := range names {
		if !isFileName(name) {
			return exchange.Failf(exchange.Protocol, "", "the credential %s has a value whose name cannot be a file's: %s", c.Name, exchange.Printable(name))
		}
		value, err := c.Value(name)
		if err == nil {
			err = f.write(filepath.Join(dir, name), value.Reveal())
		}
		if err != nil {
			return fmt.Errorf("writing the values of credential %s: %w", c.Name, err)
		}
	}
	if err := keepOnly(dir, names); err != nil {
		return err
	}
	f.wrote[c.Name] = c
	return nil
}

// write replaces the file at path in one step. It is of mode 0600.
func (f *folder) write(path, text string) error {
	draft := filepath.Join(f.dir, draftName)
	if err := os.Remove(draft); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	file, err := os.OpenFile(draft, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = file.WriteString(text)
	if err = errors.Join(err, file.Close()); err != nil {
		return err
	}
	return os.Rename(draft, path)
}

// keepOnly wipes what has another name than names in dir.
func keepOnly(dir string, names []string) error {
	entries, err := os.ReadDir(dir)
	problems := []error{err}
	for _, e := range entries {
		if !slices.Contains(names, e.Name()) {
			problems = append(problems, wipe(filepath.Join(dir, e.Name())))
		}
	}
	return errors.Join(problems...)
}

// mostWiped bounds what is overwritten of one file, in bytes: more than the
// extension writes.
const mostWiped = 1 << 20

// wipe overwrites the files at path and below with zeros, those that can be, and
// removes all of it. It does not follow links.
func wipe(path string) error {
	var problems []error
	filepath.WalkDir(path, func(at string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			err = overwrite(at)
		}
		if !errors.Is(err, fs.ErrNotExist) {
			problems = append(problems, err)
		}
		return nil // one file does not spare the others
	})
	if err := errors.Join(append(problems, os.RemoveAll(path))...); err != nil {
		return fmt.Errorf("wiping what the extension wrote: %w", err)
	}
	return nil
}

// overwrite writes zeros where the file has something else, on the disk, too.
func overwrite(path string) error {
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	info, err := file.Stat()
	if err == nil {
		_, err = file.Write(make([]byte, min(info.Size(), mostWiped)))
	}
	return errors.Join(err, file.Sync(), file.Close())
}

// isFileName reports whether name is one of a file, on any system, and not a hidden
// one.
func isFileName(name string) bool {
	return name != "" && name[0] != '.' && len(name) <= 128 && strings.Trim(name, letters+"0123456789._-") == ""
}

const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
