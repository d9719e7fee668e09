// Package gitdir reads a folder of policies as it stands in a signed commit.
//
// What is signed is what is read: the files come from the commit's objects,
// not from the work tree, and each object is hashed again here, so that neither
// a changed file nor a forged object, nor a replacement, graft or commit graph
// of the repository can put others in their place. Git itself checks the
// signature, with ssh-keygen.
//
// The repository is a stranger's: its configuration can name programs for git
// to run. The commands used here are the few that need no filters, hooks or
// external tools, what remains is pinned on the command line, and nothing is
// ever fetched. See [Checkout.command].
package gitdir

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Why a folder is refused.
var (
	// ErrUnsigned: the commit has no signature of a listed key.
	ErrUnsigned = errors.New("the commit is not signed by a listed key")
	// ErrDirty: the work tree holds other files than the commit.
	ErrDirty = errors.New("the work tree is not as the commit has it")
	// ErrRolledBack: the commit does not follow one that it must follow.
	ErrRolledBack = errors.New("the commit does not descend from")
)

// timeout bounds one reading, and headTimeout a look at which commit is checked
// out: git answers within milliseconds, unless its disk is gone, or somebody put
// a pipe in the place of a file.
const (
	timeout     = 30 * time.Second
	headTimeout = 5 * time.Second
)

// A Checkout is a git repository with its work tree.
type Checkout struct {
	Dir string // the top of the work tree, which holds .git

	// AllowedSigners is a file of the form that ssh-keygen(1) describes under
	// ALLOWED SIGNERS. It must be outside of the checkout: who can push there
	// must not list new keys.
	AllowedSigners string

	// After is the id of a commit which the one that is read must be or descend
	// from: else whoever can write here, and has no key, could choose any commit
	// that a listed key ever signed. "": any such commit will do.
	After string
}

// A Commit is a folder as a commit has it.
type Commit struct {
	ID     string // of the commit, in hexadecimal
	Signer string // the principal of the key that signed it; "" if nobody asked
	Files  fs.FS  // the documents of the folder: regular files in *.yaml and *.yml, without those under a name with a dot before it
}

// Head returns the id of the commit that is checked out. Nothing is verified.
func (c *Checkout) Head(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, headTimeout)
	defer cancel()
	return c.resolve(ctx, "HEAD")
}

// Signed reads the folder, a path with slashes below the checkout, from the
// commit that is checked out. That must be signed by a key of AllowedSigners,
// or the error is [ErrUnsigned]; it must not be older than After, or it is
// [ErrRolledBack]; and the documents in the work tree must be those of the
// commit, or it is [ErrDirty]: someone who looks at the folder must see what is
// in force.
func (c *Checkout) Signed(ctx context.Context, folder string) (*Commit, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	id, err := c.Head(ctx)
	if err != nil {
		return nil, err
	}
	signer, err := c.verify(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("commit %.12s of %s: %w", id, c.Dir, err)
	}
	if err := c.follows(ctx, id); err != nil {
		return nil, fmt.Errorf("commit %.12s of %s: %w", id, c.Dir, err)
	}
	files, err := c.read(ctx, id, folder)
	if err != nil {
		return nil, err
	}
	if err := files.compare(filepath.Join(c.Dir, filepath.FromSlash(folder))); err != nil {
		return nil, fmt.Errorf("%w %.12s: %w; commit it, or: git -C %s checkout -- %s", ErrDirty, id, err, c.Dir, path.Clean(folder))
	}
	return &Commit{ID: id, Signer: signer, Files: files}, nil
}

// At reads the folder as a revision has it, whoever signed that.
func (c *Checkout) At(ctx context.Context, revision, folder string) (*Commit, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	id, err := c.resolve(ctx, revision)
	if err != nil {
		return nil, err
	}
	files, err := c.read(ctx, id, folder)
	if err != nil {
		return nil, err
	}
	return &Commit{ID: id, Files: files}, nil
}

// resolve returns the id of the commit that revision names.
func (c *Checkout) resolve(ctx context.Context, revision string) (string, error) {
	if revision == "" || strings.HasPrefix(revision, "-") {
		return "", fmt.Errorf("%q is not a revision", revision)
	}
	if _, err := os.Lstat(filepath.Join(c.Dir, ".git")); err != nil {
		return "", fmt.Errorf("%s is not the top of a git checkout: %w", c.Dir, err)
	}
	out, _, err := c.run(ctx, "rev-parse", "--verify", "--quiet", revision+"^{commit}")
	id := strings.TrimSuffix(out, "\n")
	switch {
	case err != nil:
		return "", fmt.Errorf("finding the commit %s of %s: %w", revision, c.Dir, err)
	case !IsID(id):
		return "", fmt.Errorf("finding the commit %s of %s: git named none", revision, c.Dir)
	}
	return id, nil
}

// IsID reports whether id is one of an object, in full.
func IsID(id string) bool {
	return newHash(id) != nil && strings.Trim(id, "0123456789abcdef") == ""
}

// verify returns the principal whose key signed the commit.
func (c *Checkout) verify(ctx context.Context, id string) (string, error) {
	if err := c.checkSigners(); err != nil {
		return "", err
	}
	_, said, err := c.run(ctx, "verify-commit", id)
	if err != nil {
		return "", fmt.Errorf("%w in %s: %w", ErrUnsigned, c.AllowedSigners, err)
	}
	// Exit status 0 says the same. Both must: a git that one day takes
	// another kind of signature is not taken by its word.
	for line := range strings.Lines(said) {
		if rest, ok := strings.CutPrefix(line, `Good "git" signature for `); ok {
			signer, _, found := cutLast(rest, " with ")
			if found && signer != "" {
				return signer, nil
			}
		}
	}
	return "", fmt.Errorf("%w in %s: git did not name the signer", ErrUnsigned, c.AllowedSigners)
}

func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

// checkSigners refuses a list that a push to the repository could change.
func (c *Checkout) checkSigners() error {
	list, err := filepath.EvalSymlinks(c.AllowedSigners)
	if err != nil {
		return fmt.Errorf("reading allowed_signers: %w", err)
	}
	top, err := filepath.EvalSymlinks(c.Dir)
	if err != nil {
		return err
	}
	if rel, err := filepath.Rel(top, list); err != nil || filepath.IsLocal(rel) {
		return fmt.Errorf("allowed_signers is in the checkout, so whoever may push could list a key: move %s elsewhere", c.AllowedSigners)
	}
	return nil
}

// read returns the documents of the folder at a commit.
func (c *Checkout) read(ctx context.Context, id, folder string) (files, error) {
	folder = path.Clean(folder)
	if !fs.ValidPath(folder) {
		return nil, fmt.Errorf("the folder %q must be relative to the checkout, and in it", folder)
	}
	objects, err := c.open(ctx)
	if err != nil {
		return nil, err
	}
	w := walk{objects: objects, files: files{}}
	err = w.commit(id, folder)
	if closeErr := objects.close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return nil, fmt.Errorf("reading %s at commit %.12s of %s: %w", folder, id, c.Dir, err)
	}
	return w.files, nil
}

// maxNamed bounds how many differences an error names.
const maxNamed = 5

// compare returns how the documents of a folder differ from f.
func (f files) compare(dir string) error {
	var differ []string
	disk, seen := os.DirFS(dir), 0
	err := fs.WalkDir(disk, ".", func(name string, e fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case name != "." && hidden(e.Name()):
			if e.IsDir() {
				return fs.SkipDir
			}
		case e.IsDir() || !isDocument(name):
		default:
			seen++
			if why := f.differs(dir, name, e); why != "" {
				differ = append(differ, name+" "+why)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	if len(differ) == 0 && seen < len(f.documents()) {
		differ = append(differ, f.missing(disk)...)
	}
	if len(differ) == 0 {
		return nil
	}
	if n := len(differ); n > maxNamed {
		differ = append(differ[:maxNamed:maxNamed], fmt.Sprintf("and %d more", n-maxNamed))
	}
	return errors.New(strings.Join(differ, ", "))
}

func (f files) differs(dir, name string, e fs.DirEntry) string {
	want, ok := f[name]
	if !ok {
		return "is not in it"
	}
	info, err := e.Info()
	if err != nil || !info.Mode().IsRegular() {
		return "is not a regular file"
	}
	if info.Size() != int64(len(want.data)) {
		return "is changed"
	}
	got, err := readRegular(filepath.Join(dir, filepath.FromSlash(name)), info.Size())
	if err != nil || !bytes.Equal(got, want.data) {
		return "is changed"
	}
	return ""
}

// readRegular reads the size bytes of a file, and one more if there is. One that
// became a pipe since it was looked at holds nobody up.
func readRegular(name string, size int64) ([]byte, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", name)
	}
	return io.ReadAll(io.LimitReader(f, size+1))
}

func (f files) missing(disk fs.FS) []string {
	var list []string
	for _, name := range f.documents() {
		if _, err := fs.Stat(disk, name); err != nil {
			list = append(list, name+" is missing")
		}
	}
	return list
}

// hidden and isDocument choose what is read, as [policies.Load] does.
func hidden(name string) bool { return strings.HasPrefix(name, ".") }

func isDocument(name string) bool {
	ext := path.Ext(name)
	return ext == ".yaml" || ext == ".yml"
}
