package runner

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/brevet-dev/brevet/broker/api"
)

// maxTemplate bounds a template in bytes: a configuration file, not a data set.
const maxTemplate = 1 << 20

// A FileWish asks for a file that a command reads values from.
type FileWish struct {
	// Variable tells the command the file's path. Without a Template it is one
	// that a lease sets, whose value the file holds instead.
	Variable string

	// Path is where the file shall be. Without a separator in it it is a name
	// in a folder that is brevet's own, in memory where there is such a place.
	Path string

	// Template is the file to make it of: each {{credential.value}} in it is
	// replaced by that value, {{credential.value|json}} by what stands for it
	// between the quotes of a JSON string, |base64 and |url by those encodings.
	Template string
}

// Files are those that a command reads values from: of mode 0600, written when
// it starts, replaced in one step when a value is renewed, and wiped and removed
// when it has ended. Those on a [Volume] outlive who made them if that is killed,
// and are then replaced by the next.
type Files struct {
	folder string  // of brevet's own; "": not needed
	volume *Volume // nil: the files are for a command of this process's
	files  []*file

	mu      sync.Mutex
	made    bool  // they are there
	problem error // of removing them
}

type file struct {
	FileWish
	path     string
	template []byte // nil: the value of lease and name
	content  []byte
	uses     map[string]bool // credential.value

	open []written // what is at path, and what was there before, which may still be read
}

// A written file has so many bytes of brevet's.
type written struct {
	*os.File
	size int
}

// OpenFiles reads the templates and makes a folder for the files. Call Remove at
// the end; Run does, too.
func OpenFiles(wishes []FileWish, env Env) (*Files, error) {
	if len(wishes) == 0 {
		return nil, nil
	}
	if runtime.GOOS == "windows" {
		return nil, failf(Misconfigured, "use the environment", "values in files are not for Windows: its files cannot be replaced while they are read")
	}
	f := &Files{}
	for _, w := range wishes {
		one, err := openFile(w)
		if err != nil {
			return nil, err
		}
		f.files = append(f.files, one)
	}
	err := f.place(env)
	if err == nil {
		err = f.absent()
	}
	if err != nil {
		return nil, errors.Join(err, f.Remove())
	}
	return f, nil
}

func openFile(w FileWish) (*file, error) {
	if w.Variable != "" || w.Template == "" {
		if err := checkName(w.Variable); err != nil {
			return nil, failf(Misconfigured, "", "%w", err)
		}
	}
	f := &file{FileWish: w, uses: map[string]bool{}}
	if w.Template == "" {
		return f, nil
	}
	text, err := readTemplate(w.Template)
	if err != nil {
		return nil, failf(Misconfigured, "", "reading the template for %s: %w", cmp.Or(w.Variable, w.Path), err)
	}
	f.template = text
	return f, f.render(func(ref string) (string, error) { f.uses[ref] = true; return "", nil })
}

func readTemplate(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxTemplate {
		return nil, fmt.Errorf("%s is over %d KiB", path, maxTemplate>>10)
	}
	return os.ReadFile(path)
}

// place gives each file its path, and makes the folder if it is needed.
func (f *Files) place(env Env) error {
	taken := map[string]bool{}
	for _, one := range f.files {
		one.path = one.Path
		if f.volume == nil && isName(one.Path) {
			if f.folder == "" {
				folder, err := os.MkdirTemp(memoryDir(env), "brevet-") // mode 0700
				if err != nil {
					return failf(Misconfigured, "", "making a folder for files: %w", err)
				}
				f.folder = folder
			}
			one.path = filepath.Join(f.folder, one.Path)
		}
		path, err := filepath.Abs(one.path)
		if err != nil {
			return failf(Misconfigured, "", "the path of %s: %w", cmp.Or(one.Variable, one.Path), err)
		}
		if one.path = path; taken[path] {
			return failf(Misconfigured, "", "two files have the path %s", path)
		}
		taken[path] = true
	}
	return nil
}

// isName reports whether path is the name of a file without a folder.
func isName(path string) bool { return filepath.Base(path) == path && path != "." && path != ".." }

// uses reports whether a file holds a value, which then is not needed in the
// environment.
func (f *Files) uses(credential, value string) bool {
	return f != nil && slices.ContainsFunc(f.files, func(one *file) bool { return one.uses[credential+"."+value] })
}

// Uses reports whether a file holds a value of a credential.
func (f *Files) Uses(credential string) bool {
	if f == nil {
		return false
	}
	for _, one := range f.files {
		for ref := range one.uses {
			if of, _, _ := cutRef(ref); of == credential {
				return true
			}
		}
	}
	return false
}

// Fill makes the files' content of leases, which are all that there are. If they
// are there already they get it at once.
func (f *Files) Fill(leases []api.Lease) error {
	if f == nil {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, one := range f.files {
		if err := one.fill(leases); err != nil {
			return err
		}
	}
	if f.made {
		return f.writeAll()
	}
	return nil
}

// fill makes the content of one.
func (one *file) fill(leases []api.Lease) error {
	if one.template == nil {
		l, name, err := setting(leases, one.Variable)
		if err != nil {
			return err
		}
		one.uses[l.Credential+"."+name] = true
		one.content = []byte(l.Values[name].Reveal())
		return nil
	}
	return one.render(func(ref string) (string, error) {
		credential, name, _ := cutRef(ref)
		for _, l := range leases {
			if value, ok := l.Values[name]; ok && l.Credential == credential {
				return value.Reveal(), nil
			}
		}
		return "", fmt.Errorf("there is no value %s; there are %s", ref, strings.Join(references(leases), ", "))
	})
}

// setting returns the lease that sets a variable, and the name of its value.
func setting(leases []api.Lease, variable string) (api.Lease, string, error) {
	var names []string
	var found api.Lease
	for _, l := range leases {
		if _, ok := l.Env[variable]; ok && found.Env != nil {
			return api.Lease{}, "", clash(variable, found.Credential, l.Credential)
		} else if ok {
			found = l
		}
		for name := range l.Env {
			names = append(names, name)
		}
	}
	if found.Env != nil {
		return found, found.Env[variable], nil
	}
	slices.Sort(names)
	return api.Lease{}, "", failf(Misconfigured, "for a file under another name: --format NAME=TEMPLATE",
		"no credential sets %s, which a file was asked for; they set %s", variable, Printable(strings.Join(names, ", ")))
}

// references lists what a template may name.
func references(leases []api.Lease) []string {
	var out []string
	for _, l := range leases {
		for name := range l.Values {
			out = append(out, "{{"+Printable(l.Credential+"."+name)+"}}")
		}
	}
	slices.Sort(out)
	return out
}

// cutRef splits "credential.value". The names of values have no dot.
func cutRef(ref string) (credential, value string, ok bool) {
	i := strings.LastIndexByte(ref, '.')
	if i <= 0 || i == len(ref)-1 || strings.ContainsAny(ref, "{} \t") {
		return "", "", false
	}
	return ref[:i], ref[i+1:], true
}

// render makes the content of the template, in which value gives the values. It
// is an error if anything between {{ and }} is not a reference.
func (one *file) render(value func(ref string) (string, error)) error {
	var out bytes.Buffer
	rest := one.template
	for {
		before, after, found := bytes.Cut(rest, []byte("{{"))
		out.Write(before)
		if !found {
			one.content = out.Bytes()
			return nil
		}
		inner, tail, closed := bytes.Cut(after, []byte("}}"))
		ref, encoding, _ := strings.Cut(string(inner), "|")
		ref = strings.TrimSpace(ref)
		_, _, ok := cutRef(ref)
		text, err := "", errors.New("what follows {{ is not credential.value}}")
		if closed && ok {
			text, err = value(ref)
		}
		if err == nil {
			text, err = encode(text, strings.TrimSpace(encoding))
		}
		if err != nil {
			line := 1 + bytes.Count(one.template[:len(one.template)-len(after)], []byte("\n"))
			return failf(Misconfigured, "", "%s:%d: %w", one.Template, line, err)
		}
		out.WriteString(text)
		rest = tail
	}
}

// encode returns value in one of the encodings that a template may ask for.
func encode(value, encoding string) (string, error) {
	switch encoding {
	case "":
		return value, nil
	case "json":
		text, err := json.Marshal(value)
		if err != nil {
			return "", errors.New("a value cannot be written in JSON")
		}
		return string(text[1 : len(text)-1]), nil
	case "base64":
		return base64.StdEncoding.EncodeToString([]byte(value)), nil
	case "url":
		return url.QueryEscape(value), nil
	}
	return "", fmt.Errorf("no encoding %q; there are json, base64 and url", Printable(encoding))
}

// paths lists what is to be removed, whatever becomes of brevet.
func (f *Files) paths() []string {
	if f == nil {
		return nil
	}
	var out []string
	for _, one := range f.files {
		if f.folder == "" || filepath.Dir(one.path) != f.folder {
			out = append(out, one.path)
		}
	}
	if f.folder != "" {
		out = append(out, f.folder)
	}
	return out
}

// variables returns the files' paths by the variables that tell them.
func (f *Files) variables() map[string]string {
	out := map[string]string{}
	if f != nil {
		for _, one := range f.files {
			out[one.Variable] = one.path
		}
	}
	return out
}

// absent checks that nothing is where a file is to be.
func (f *Files) absent() error {
	for _, one := range f.files {
		if _, err := os.Lstat(one.path); !errors.Is(err, fs.ErrNotExist) {
			return failf(Misconfigured, "name a path that is free: what is there at the end is removed", "%s is there already", one.path)
		}
	}
	return nil
}

// write makes the files.
func (f *Files) write() error {
	if f == nil {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.made = true
	return f.writeAll()
}

func (f *Files) writeAll() error {
	for _, one := range f.files {
		if err := one.write(f.volume); err != nil {
			return failf(Misconfigured, "", "writing the file of %s: %w", cmp.Or(one.Variable, one.Path), err)
		}
	}
	return nil
}

// write puts the content at the path, in one step. Only on a volume may something
// be there that this process has not made.
func (one *file) write(v *Volume) error {
	if n := len(one.open); n > 0 && one.holds(one.open[n-1].File) {
		return nil
	}
	new, err := os.CreateTemp(filepath.Dir(one.path), ".brevet-*") // mode 0600
	if err != nil {
		return err
	}
	_, err = new.Write(one.content)
	made := written{new, len(one.content)}
	if err == nil && v != nil {
		err = new.Chmod(v.Mode)
	}
	if err == nil && (len(one.open) > 0 || v != nil) {
		err = os.Rename(new.Name(), one.path)
	} else if err == nil {
		err = os.Link(new.Name(), one.path) // fails where something is
		os.Remove(new.Name())
	}
	if err != nil {
		os.Remove(new.Name()) // it may have no such name any more
		return errors.Join(err, made.wipe())
	}
	if one.open = append(one.open, made); len(one.open) > 2 { // whoever read that has long done so
		one.open[0].wipe() // again at its end: it has no name any more
		one.open = one.open[1:]
	}
	return nil
}

// holds reports whether f has the content already.
func (one *file) holds(f *os.File) bool {
	old := make([]byte, len(one.content)+1)
	n, err := f.ReadAt(old, 0)
	return err != nil && n == len(one.content) && bytes.Equal(old[:n], one.content)
}

// wipe overwrites what brevet wrote with zeros, and closes the file, empty. A
// command may have made it as long as it likes, so its length counts for less
// only. In memory that is the end of what it held; a disk may keep older blocks.
func (w written) wipe() error {
	info, err := w.Stat()
	if err == nil {
		_, err = w.WriteAt(make([]byte, min(info.Size(), int64(w.size))), 0)
	}
	return errors.Join(err, w.Truncate(0), w.Close())
}

// Remove wipes the files and removes them with their folder. What has another
// content by now, as where the command replaced it, is removed as well.
func (f *Files) Remove() error {
	if f == nil {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	problems := []error{f.problem} // of an earlier call
	for _, one := range f.files {
		for _, open := range one.open {
			problems = append(problems, open.wipe())
		}
		if len(one.open) > 0 {
			if err := os.Remove(one.path); !errors.Is(err, fs.ErrNotExist) {
				problems = append(problems, err)
			}
		}
		one.open = nil
		clear(one.content)
	}
	if f.folder != "" {
		problems = append(problems, os.RemoveAll(f.folder))
	}
	f.made, f.problem = false, errors.Join(problems...)
	return f.problem
}
