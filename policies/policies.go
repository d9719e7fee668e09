// Package policies decides which credentials a verified workload may have.
//
// A policy is a YAML document that a person wrote, with its tests beside it:
//
//	policy: shop-deploy
//	description: main of acme/shop may deploy from the production environment
//	issuer: github
//	match:                                # all must hold; a list means one of
//	  repository_id: "456"
//	  ref: refs/heads/main
//	  event_name: [push, workflow_dispatch]
//	names: {repository: acme/shop}        # for people; a mismatch denies
//	when: claims.run_attempt == "1"       # optional condition in CEL
//	grant:
//	- {credential: deploy, ttl: 15m, max_ttl: 1h, limits: {live: 10}}
//	mode: enforce                         # or shadow: decided, never granted
//	tests:
//	- {name: main, claims: {repository_id: "456", …}, allow: [deploy]}
//
// The answer is no unless some policy says yes. There are no rules that deny,
// so the order of policies means nothing, and an index can leave out a policy
// only to the caller's loss. [Load] refuses a folder as a whole if anything in
// it is in doubt; what it returns never changes.
package policies

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/brevet-dev/brevet/issuers/presets"
	"github.com/brevet-dev/brevet/policies/strictyaml"
)

const (
	// DefaultMaxTTL is the longest that a credential may live, renewals
	// included, if its configuration sets no limit: the longest session that
	// AWS STS gives a role, and twice the longest job of a GitHub-hosted runner.
	DefaultMaxTTL = 12 * time.Hour

	// maxDocument is the largest policy read, in bytes. A policy with twenty
	// tests has about 5 KiB.
	maxDocument = 64 << 10
)

// Options say what policies may refer to. Both come from the configuration.
type Options struct {
	Issuers     map[string]*presets.Preset // by the issuer's name
	Credentials map[string]Credential      // by the credential's name
}

// A Credential limits what policies may grant of one credential.
type Credential struct {
	MinTTL time.Duration // shortest ttl, 0 for none: AWS roles live 15 minutes or longer
	MaxTTL time.Duration // longest max_ttl, 0 for [DefaultMaxTTL]

	// DataKey says that the credential is a data key: only then may a grant say
	// allow, max_uses, max_age and context.
	DataKey bool
}

func (c Credential) maxTTL() time.Duration {
	if c.MaxTTL == 0 {
		return DefaultMaxTTL
	}
	return c.MaxTTL
}

// A Set is the policies of one folder, compiled. It never changes and is safe
// for concurrent use. A nil Set grants nothing.
type Set struct {
	policies    []*policy // sorted by file
	index       index
	issuers     map[string]*presets.Preset
	credentials map[string]Credential
	digest      string
	origin      Origin
}

// Load reads and compiles every file below dir whose name ends in .yaml or
// .yml; each holds one policy. Files and folders whose name begins with a dot
// are left out (a Kubernetes volume keeps its old versions in such folders).
//
// It is all or nothing. The error is a [strictyaml.Problems] with everything
// that is wrong with any file. A folder without policies is an error too: it is
// the wrong path or a volume that is not mounted, and on a reload it would
// silently take every grant away.
func Load(dir string, o Options) (*Set, error) {
	return load(os.DirFS(dir), dir, o)
}

// load is [Load] for the folder fsys, of which problems say that it is dir.
func load(fsys fs.FS, dir string, o Options) (*Set, error) {
	l := loader{dir: dir, options: o, named: map[string]string{}, languages: map[string]*language{}}
	for _, name := range l.find(fsys) {
		l.load(fsys, name)
	}
	if len(l.problems) == 0 && len(l.policies) == 0 {
		l.report(".", "the folder holds no policy (a file ending in .yaml or .yml)")
	}
	if err := l.problems.Err(); err != nil {
		return nil, err
	}
	return &Set{
		policies:    l.policies,
		index:       newIndex(l.policies),
		issuers:     o.Issuers,
		credentials: o.Credentials,
		digest:      digest([]byte(l.sums.String())),
	}, nil
}

// Len returns the number of policies.
func (s *Set) Len() int {
	if s == nil {
		return 0
	}
	return len(s.policies)
}

// Digest names the policies in force: "sha256:" and the SHA-256, in
// hexadecimal, of the lines that sha256sum prints for the files, sorted by
// name. In the folder, if all files in it are policies:
//
//	find * -type f | LC_ALL=C sort | xargs sha256sum | sha256sum
//
// If they come from a commit, "+git:" and its id follow.
func (s *Set) Digest() string {
	if s == nil {
		return ""
	}
	return s.digest
}

// loader gathers the policies and problems of one folder.
type loader struct {
	dir       string
	options   Options
	policies  []*policy
	problems  strictyaml.Problems
	named     map[string]string    // place ("file:line") by policy name
	languages map[string]*language // by issuer, made when first needed
	sums      strings.Builder      // what sha256sum prints for the files
}

// report adds a problem with the file name as a whole.
func (l *loader) report(name, format string, args ...any) {
	l.problems = append(l.problems, strictyaml.Problem{
		File: filepath.Join(l.dir, name), Message: fmt.Sprintf(format, args...),
	})
}

// find returns the names of the policy files, sorted.
func (l *loader) find(fsys fs.FS) []string {
	var names []string
	err := fs.WalkDir(fsys, ".", func(name string, e fs.DirEntry, err error) error {
		switch {
		case err != nil:
			l.report(name, "%v", err)
		case name != "." && strings.HasPrefix(e.Name(), "."):
			if e.IsDir() {
				return fs.SkipDir
			}
		case !e.IsDir() && l.isPolicy(fsys, name):
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

// isPolicy reports whether the file is to be read. It follows a symbolic link
// to a file; one to a folder would be left out without a word, so it is a
// problem, and so is a pipe or device, which might never end.
func (l *loader) isPolicy(fsys fs.FS, name string) bool {
	info, err := fs.Stat(fsys, name)
	switch ext := filepath.Ext(name); {
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

func (l *loader) load(fsys fs.FS, name string) {
	data, err := read(fsys, name)
	if err != nil {
		l.report(name, "%v", err)
		return
	}
	file := filepath.Join(l.dir, name)
	doc, problems := strictyaml.Parse(file, data)
	if doc == nil {
		l.problems = append(l.problems, problems...)
		return
	}
	var in document
	problems = doc.Decode(&in)
	c := compiler{loader: l, doc: doc, in: &in, digest: digest(data)}
	p := c.compile()
	c.unique(file)
	l.problems = append(l.problems, problems.And(c.problems)...)
	l.policies = append(l.policies, p)
	fmt.Fprintf(&l.sums, "%s  %s\n", strings.TrimPrefix(c.digest, "sha256:"), name)
}

func read(fsys fs.FS, name string) ([]byte, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxDocument+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxDocument {
		return nil, fmt.Errorf("a policy has at most %d bytes", maxDocument)
	}
	return data, nil
}

func digest(data []byte) string {
	sum := sha256.Sum256(data)
	return "sha256:" + hex.EncodeToString(sum[:])
}
