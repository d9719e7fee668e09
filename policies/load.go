package policies

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"unicode"
	"unicode/utf8"

	"github.com/brevet-dev/brevet/policies/strictyaml"
)

const (
	// maxFile is the largest file read, in bytes, and maxDocument the largest
	// document. A policy with twenty tests has about 5 KiB.
	maxFile     = 128 << 10
	maxDocument = 64 << 10

	// maxFolder is the most that is read of all files: 10 000 policies with
	// their tests have a third of it.
	maxFolder = 128 << 20

	// maxShown is how many problems of a folder are told of, and maxKept how many
	// are kept to tell of the first: a thousand broken files have 100 000.
	maxShown = 200
	maxKept  = 5_000
)

// testSuffix ends the names, without .yaml or .yml, of files that hold tests.
const testSuffix = "_test"

// Load reads and compiles every file below dir whose name ends in .yaml or
// .yml; each holds one or more documents. Files and folders whose name begins
// with a dot are left out (a Kubernetes volume keeps its old versions in such
// folders). A file whose name ends in _test.yaml holds tests only.
//
// It is all or nothing. The error is a [strictyaml.Problems] with everything
// that is wrong with any file, or the first 200 problems and how many more there
// are. A folder without policies is an error too: it is the wrong path or a
// volume that is not mounted, and on a reload it would silently take every grant
// away.
func Load(dir string, o Options) (*Set, error) { return LoadFS(disk(dir), dir, o) }

// LoadFS is [Load] for a folder that is not on the disk; dir is its name in
// problems.
func LoadFS(fsys fs.FS, dir string, o Options) (*Set, error) {
	l := loader{
		dir: dir, fsys: fsys, options: o, named: map[string]string{}, languages: map[string]*language{},
		conditions: map[string]*when{}, fixtures: map[string]map[string]any{}, examples: map[string]map[string]any{},
	}
	for _, name := range l.find() {
		if l.read(name); l.size > maxFolder {
			return nil, l.shown() // to say what else is wrong could take minutes
		}
	}
	s := &Set{issuers: o.Issuers, credentials: o.Credentials, digest: digest([]byte(l.sums.String()))}
	s.defaults = l.compileDefaults()
	s.guardrails = l.compileGuardrails()
	s.policies = l.compilePolicies(s.defaults, s.guardrails)
	s.cases = l.compileTests(s.policies)
	if len(l.problems) == 0 && len(s.policies) == 0 {
		l.report(".", "the folder holds no policy (a file ending in .yaml or .yml)")
	}
	if len(l.problems) > 0 {
		return nil, l.shown()
	}
	s.index = newIndex(s.policies)
	return s, nil
}

// A loader gathers the documents and problems of one folder.
type loader struct {
	dir      string
	fsys     fs.FS
	options  Options
	problems strictyaml.Problems
	unkept   int // problems beside these

	files                []file // that may hold policies
	defaults, guardrails []*source
	tests                []*source // documents of *_test.yaml

	named      map[string]string         // place ("file:line") by kind and full name
	languages  map[string]*language      // by issuer, made when first needed
	conditions map[string]*when          // compiled, by issuer and text: those of many policies are the same
	fixtures   map[string]map[string]any // by issuer and name, read when first needed
	examples   map[string]map[string]any // claims of a token by issuer, for lint
	size       int                       // bytes read
	sums       strings.Builder           // what sha256sum prints for the files
}

// A file was read and not yet parsed.
type file struct {
	path   string // for problems
	folder string // from the root with slashes; "." is the root
	digest string
	data   []byte
}

// A source is a document that was read and not yet compiled.
type source struct {
	folder string // of its file, from the root with slashes; "." is the root
	digest string // of its file
	doc    *strictyaml.Document
	isKept bool // its file may hold rules, which were compiled already
}

// report adds a problem with the file name as a whole.
func (l *loader) report(name, format string, args ...any) {
	l.add(strictyaml.Problem{File: filepath.Join(l.dir, name), Message: fmt.Sprintf(format, args...)})
}

func (l *loader) add(problems ...strictyaml.Problem) {
	room := min(maxKept-len(l.problems), len(problems))
	l.problems = append(l.problems, problems[:room]...)
	l.unkept += len(problems) - room
}

// shown returns the problems to tell of, in the order of files, and how many more
// there are.
func (l *loader) shown() strictyaml.Problems {
	l.problems.Sort()
	shown := l.problems[:min(len(l.problems), maxShown)]
	if more := l.unkept + len(l.problems) - len(shown); more > 0 {
		shown = append(slices.Clip(shown), strictyaml.Problem{File: l.dir, Message: fmt.Sprintf("and %d more problems", more)})
	}
	return shown
}

// find returns the names of the files to read, sorted.
func (l *loader) find() []string {
	var names []string
	err := fs.WalkDir(l.fsys, ".", func(name string, e fs.DirEntry, err error) error {
		switch {
		case err != nil && name == ".":
			l.report(name, "the folder of policies cannot be read: %v", cause(err))
		case err != nil:
			l.report(name, "%v", err)
		case name != "." && strings.HasPrefix(e.Name(), "."):
			if e.IsDir() {
				return fs.SkipDir
			}
		case !e.IsDir() && l.isPolicy(name):
			names = append(names, name)
		}
		return nil
	})
	if err != nil {
		l.report(".", "%v", err)
	}
	slices.Sort(names)
	return names
}

// cause is err without the name of the file, which a problem has already.
func cause(err error) error {
	if pathErr, ok := errors.AsType[*fs.PathError](err); ok {
		return pathErr.Err
	}
	return err
}

// isPolicy reports whether the file is to be read. It follows a symbolic link
// to a file; one to a folder would be left out without a word, so it is a
// problem, and so is a pipe or device, which might never end.
func (l *loader) isPolicy(name string) bool {
	info, err := fs.Stat(l.fsys, name)
	switch ext := path.Ext(name); {
	case strings.ContainsFunc(name, unnamed) || !utf8.ValidString(name):
		l.report(".", "the name %q has characters that cannot be seen, or a \\: give the file another", name)
	case err != nil:
		l.report(name, "%v", err)
	case info.IsDir():
		l.report(name, "symbolic links to folders are not followed; link the files")
	case ext != ".yaml" && ext != ".yml":
	case !info.Mode().IsRegular():
		l.report(name, "not a regular file")
	default:
		return true
	}
	return false
}

// unnamed are characters of which a name could be shown as another, or as two
// lines of the text that digests are made of.
func unnamed(r rune) bool { return r == '\\' || !unicode.IsPrint(r) }

// read reads one file, and parses what policies are compiled with. The policies
// themselves are many: compilePolicies parses their files again and keeps
// nothing of them.
func (l *loader) read(name string) {
	data, err := readFile(l.fsys, name)
	if err != nil {
		l.report(name, "%v", err)
		return
	}
	if l.size += len(data); l.size > maxFolder {
		l.report(".", "the folder holds more than %d MiB of documents", maxFolder>>20)
		return
	}
	f := file{filepath.Join(l.dir, name), path.Dir(name), digest(data), data}
	if t := tenantOf(f.folder); strings.Trim(t, nameLetters) != "" || len(t) > maxName {
		l.report(name, "the folder %.64q is a tenant, whose name may hold at most %d of a-z, 0-9 and -", t, maxName)
	}
	fmt.Fprintf(&l.sums, "%s  %s\n", strings.TrimPrefix(f.digest, "sha256:"), name)
	isTest := strings.HasSuffix(strings.TrimSuffix(name, path.Ext(name)), testSuffix)
	if isTest || f.mayHoldRules() {
		sources, problems := f.parse()
		if l.add(problems...); len(problems) > 0 {
			return
		}
		l.keep(sources, isTest)
	}
	if !isTest {
		l.files = append(l.files, f)
	}
}

// mayHoldRules reports whether a document of the file may begin with defaults
// or guardrails.
func (f *file) mayHoldRules() bool {
	return bytes.Contains(f.data, []byte("defaults")) || bytes.Contains(f.data, []byte("guardrails"))
}

func (l *loader) keep(sources []*source, isTest bool) {
	for _, s := range sources {
		switch kind := s.doc.FirstKey(); {
		case isTest:
			l.tests = append(l.tests, s)
		case kind == "defaults":
			l.defaults = append(l.defaults, s)
		case kind == "guardrails":
			l.guardrails = append(l.guardrails, s)
		}
	}
}

func (f *file) parse() ([]*source, strictyaml.Problems) {
	docs, problems := strictyaml.ParseStream(f.path, f.data)
	sources, kept := make([]*source, len(docs)), f.mayHoldRules()
	for i, doc := range docs {
		sources[i] = &source{f.folder, f.digest, doc, kept}
		if doc.Size() > maxDocument {
			problems = append(problems, doc.Problem(nil, "a document has at most %d bytes", maxDocument))
		}
	}
	return sources, problems
}

// tenantOf returns the first level of a folder; "" for the root.
func tenantOf(folder string) string {
	first, _, _ := strings.Cut(folder, "/")
	return strings.TrimPrefix(first, ".")
}

// A disk is [os.DirFS], but that opening a pipe waits for nobody: what was a file
// when it was looked at may be one by now.
type disk string

// Open implements [fs.FS].
func (d disk) Open(name string) (fs.File, error) {
	if !fs.ValidPath(name) {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrInvalid}
	}
	f, err := os.OpenFile(filepath.Join(string(d), filepath.FromSlash(name)), os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: cause(err)}
	}
	return f, nil
}

// Stat implements [fs.StatFS], without opening.
func (d disk) Stat(name string) (fs.FileInfo, error) { return fs.Stat(os.DirFS(string(d)), name) }

// ReadDir implements [fs.ReadDirFS].
func (d disk) ReadDir(name string) ([]fs.DirEntry, error) {
	return fs.ReadDir(os.DirFS(string(d)), name)
}

func readFile(fsys fs.FS, name string) ([]byte, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, errors.New("not a regular file") // any more: isPolicy has looked before
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxFile {
		return nil, fmt.Errorf("a file has at most %d bytes", maxFile)
	}
	return data, nil
}

// compilePolicies compiles the policies of all files in their order. Some files
// are parsed at the same time, and only so many are in memory.
func (l *loader) compilePolicies(rules []*defaults, rails []*guardrails) []*policy {
	var list []*policy
	for chunk := range slices.Chunk(l.files, 4*runtime.GOMAXPROCS(0)) {
		sources, problems := parseAll(chunk)
		l.add(problems...)
		for _, s := range sources {
			if p := l.compilePolicy(s, rules, rails); p != nil {
				list = append(list, p)
			}
		}
	}
	return list
}

// parseAll returns the documents of all files, in their order.
func parseAll(files []file) (all []*source, wrong strictyaml.Problems) {
	sources, problems := make([][]*source, len(files)), make([]strictyaml.Problems, len(files))
	var wg sync.WaitGroup
	for i := range files {
		wg.Go(func() { sources[i], problems[i] = files[i].parse() })
	}
	wg.Wait()
	return slices.Concat(sources...), slices.Concat(problems...)
}

// example returns the claims of a token of the policy's issuer.
func (l *loader) example(p *policy) map[string]any {
	if p.preset == nil {
		return nil
	}
	claims, ok := l.examples[p.issuer]
	if !ok {
		claims = exampleClaims(p.preset)
		l.examples[p.issuer] = claims
	}
	return claims
}

// compilePolicy returns nil for a document of another kind.
func (l *loader) compilePolicy(s *source, rules []*defaults, rails []*guardrails) *policy {
	switch kind := s.doc.FirstKey(); {
	case (kind == "defaults" || kind == "guardrails") && s.isKept:
		return nil
	case kind == "defaults" || kind == "guardrails":
		l.add(s.doc.KeyProblem(strictyaml.Path{kind}, "write the key %s as it is, without escapes", kind))
		return nil
	case kind == "tests":
		l.add(s.doc.KeyProblem(strictyaml.Path{kind}, "tests are first in files whose name ends in %s.yaml only; in a policy they come after its name", testSuffix))
		return nil
	}
	var in document
	problems := s.doc.Decode(&in)
	c := compiler{
		reader: reader{loader: l, doc: s.doc, folder: s.folder, issuer: in.Issuer},
		in:     &in, digest: s.digest,
		defaults: above(rules, s.folder),
	}
	p := c.compile()
	p.hold(rails, &c)
	if l.options.Sources {
		p.written = &written{s.doc, &in, s.folder, l.example(p)}
	}
	l.add(problems.And(c.problems.Limit())...)
	return p
}
