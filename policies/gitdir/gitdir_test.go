package gitdir_test

import (
	"compress/zlib"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/brevet-dev/brevet/policies/gitdir"
)

// A repo is a git repository with keys of people who may commit to it.
type repo struct {
	t    *testing.T
	dir  string // the work tree
	keys string // a folder with alice, alice.pub, mallory …, and allowed
}

func newRepo(t *testing.T) *repo {
	r := &repo{t: t, dir: filepath.Join(t.TempDir(), "repo"), keys: t.TempDir()}
	for _, who := range []string{"alice", "mallory"} {
		r.command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", who, "-f", filepath.Join(r.keys, who))
	}
	public, err := os.ReadFile(filepath.Join(r.keys, "alice.pub"))
	if err != nil {
		t.Fatal(err)
	}
	r.write(filepath.Join(r.keys, "allowed"), "alice@example.com namespaces=\"git\" "+string(public))
	r.command("git", "init", "-q", "-b", "main", r.dir)
	return r
}

// put writes a file of the work tree.
func (r *repo) put(name, text string) { r.write(filepath.Join(r.dir, name), text) }

func (r *repo) write(file, text string) {
	r.t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		r.t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		r.t.Fatal(err)
	}
}

// commit commits all, signed by who; "": by nobody.
func (r *repo) commit(who string) string {
	r.t.Helper()
	r.git("add", "-A")
	args := []string{"commit", "-q", "--allow-empty", "-m", "change", "--no-gpg-sign"}
	if who != "" {
		key := filepath.Join(r.keys, who)
		args = []string{"-c", "gpg.format=ssh", "-c", "user.signingKey=" + key, "commit", "-q", "--allow-empty", "-m", "change", "-S"}
	}
	r.git(args...)
	return strings.TrimSpace(r.git("rev-parse", "HEAD"))
}

func (r *repo) git(args ...string) string {
	r.t.Helper()
	return r.command("git", append([]string{"-C", r.dir, "-c", "user.name=test", "-c", "user.email=test@example.com"}, args...)...)
}

func (r *repo) command(name string, args ...string) string {
	r.t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null", "HOME="+r.keys)
	out, err := cmd.CombinedOutput()
	if err != nil {
		r.t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return string(out)
}

func (r *repo) checkout() *gitdir.Checkout {
	return &gitdir.Checkout{Dir: r.dir, AllowedSigners: filepath.Join(r.keys, "allowed")}
}

func TestSigned(t *testing.T) {
	r := newRepo(t)
	r.put("policies/shop.yaml", "policy: shop\n")
	r.put("policies/team/b.yml", "policy: b\n")
	r.put("policies/team/a.yaml", "policy: a\n")
	r.put("policies/README.md", "not a document\n")
	r.put("policies/.hidden.yaml", "nor this\n")
	r.put("policies/.github/x.yaml", "nor this\n")
	r.put("other/x.yaml", "elsewhere\n")
	id := r.commit("alice")
	got, err := r.checkout().Signed(t.Context(), "policies/")
	if err != nil {
		t.Fatal(err)
	}
	if got.ID != id || got.Signer != "alice@example.com" {
		t.Errorf("Signed = commit %s by %q, want %s by alice@example.com", got.ID, got.Signer, id)
	}
	if err := fstest.TestFS(subset{got.Files}, "shop.yaml", "team/a.yaml", "team/b.yml"); err != nil {
		t.Error(err)
	}
	if names := names(t, got.Files); !slices.Equal(names, []string{"shop.yaml", "team/a.yaml", "team/b.yml"}) {
		t.Errorf("files = %q", names)
	}
}

// subset hides that files have no ReadDir of their own when they are open,
// which nobody needs.
type subset struct{ fs.FS }

func (s subset) Open(name string) (fs.File, error) {
	f, err := s.FS.Open(name)
	if info, statErr := fs.Stat(s.FS, name); err == nil && statErr == nil && info.IsDir() {
		entries, err := fs.ReadDir(s.FS, name)
		return &folder{File: f, entries: entries}, err
	}
	return f, err
}

type folder struct {
	fs.File
	entries []fs.DirEntry
}

func (f *folder) ReadDir(n int) ([]fs.DirEntry, error) {
	if n > 0 && len(f.entries) == 0 {
		return nil, io.EOF
	}
	if n <= 0 || n > len(f.entries) {
		n = len(f.entries)
	}
	out := f.entries[:n]
	f.entries = f.entries[n:]
	return out, nil
}

func names(t *testing.T, fsys fs.FS) []string {
	t.Helper()
	var list []string
	err := fs.WalkDir(fsys, ".", func(name string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			list = append(list, name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func TestSignedRefuses(t *testing.T) {
	for _, tt := range []struct {
		name string
		do   func(r *repo)
		want error  // nil: any
		text string // of the error
	}{
		{"unsigned", func(r *repo) { r.commit("") }, gitdir.ErrUnsigned, "in"},
		{"signed by another", func(r *repo) { r.commit("mallory") }, gitdir.ErrUnsigned, "No principal matched"},
		{"signed before, unsigned now", func(r *repo) { r.put("policies/b.yaml", "b\n"); r.commit("") }, gitdir.ErrUnsigned, ""},
		{"signed for another purpose", func(r *repo) {
			r.write(filepath.Join(r.keys, "allowed"), strings.Replace(r.allowed(), `"git"`, `"file"`, 1))
		}, gitdir.ErrUnsigned, ""},
		{"nobody listed", func(r *repo) { r.write(filepath.Join(r.keys, "allowed"), "# nobody\n") }, gitdir.ErrUnsigned, ""},
		{"no list", func(r *repo) { r.remove(filepath.Join(r.keys, "allowed")) }, nil, "reading allowed_signers: "},
		{"changed", func(r *repo) { r.put("policies/a.yaml", "A\n") }, gitdir.ErrDirty, "a.yaml is changed"},
		{"longer", func(r *repo) { r.put("policies/a.yaml", "a\nb\n") }, gitdir.ErrDirty, "a.yaml is changed"},
		{"added", func(r *repo) { r.put("policies/x/b.yml", "b\n") }, gitdir.ErrDirty, "x/b.yml is not in it"},
		{"removed", func(r *repo) { r.remove(filepath.Join(r.dir, "policies/a.yaml")) }, gitdir.ErrDirty, "a.yaml is missing"},
		{"a link to the same", func(r *repo) {
			r.remove(filepath.Join(r.dir, "policies/a.yaml"))
			r.link("../kept", "policies/a.yaml")
			r.put("kept", "a\n")
		}, gitdir.ErrDirty, "a.yaml is not a regular file"},
		{"staged only", func(r *repo) { r.put("policies/a.yaml", "A\n"); r.git("add", "-A") }, gitdir.ErrDirty, "a.yaml is changed"},
		{"a link in the commit", func(r *repo) { r.link("a.yaml", "policies/b.yaml"); r.commit("alice") }, nil, "b.yaml is a link; commit the file itself"},
		{"a submodule", func(r *repo) {
			r.git("update-index", "--add", "--cacheinfo", "160000,"+strings.TrimSpace(r.git("rev-parse", "HEAD"))+",policies/sub")
			r.git("-c", "gpg.format=ssh", "-c", "user.signingKey="+filepath.Join(r.keys, "alice"), "commit", "-q", "-S", "-m", "sub")
		}, nil, "sub is a submodule"},
		{"a huge document", func(r *repo) { r.put("policies/b.yaml", strings.Repeat("#\n", 4<<20+1)); r.commit("alice") }, nil, "has 8388610 bytes: at most 8388608 are read of one"},
		{"nested too deeply", func(r *repo) { r.put("policies/"+strings.Repeat("x/", 17)+"b.yaml", "b\n"); r.commit("alice") }, nil, "folders are nested more than 16 deep"},
		{"no folder", func(r *repo) { r.git("mv", "policies", "moved"); r.commit("alice") }, nil, `there is no folder "policies"`},
		{"no repository", func(r *repo) { r.removeAll(filepath.Join(r.dir, ".git")) }, nil, "is not the top of a git checkout"},
		{"no commit", func(r *repo) { r.git("checkout", "-q", "--orphan", "new") }, nil, "finding the commit HEAD"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRepo(t)
			r.put("policies/a.yaml", "a\n")
			r.commit("alice")
			tt.do(r)
			got, err := r.checkout().Signed(t.Context(), "policies")
			if err == nil || got != nil || tt.want != nil && !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("Signed = %v, %v; want %v with %q", got, err, tt.want, tt.text)
			}
		})
	}
}

func (r *repo) allowed() string {
	data, err := os.ReadFile(filepath.Join(r.keys, "allowed"))
	if err != nil {
		r.t.Fatal(err)
	}
	return string(data)
}

func (r *repo) remove(file string) {
	if err := os.Remove(file); err != nil {
		r.t.Fatal(err)
	}
}

func (r *repo) removeAll(file string) {
	if err := os.RemoveAll(file); err != nil {
		r.t.Fatal(err)
	}
}

func (r *repo) link(to, name string) {
	if err := os.Symlink(to, filepath.Join(r.dir, name)); err != nil {
		r.t.Fatal(err)
	}
}

// A list of keys that a push can change is no list.
func TestSignersInTheCheckout(t *testing.T) {
	r := newRepo(t)
	r.put("policies/a.yaml", "a\n")
	r.put("allowed", r.allowed())
	r.commit("alice")
	outside := filepath.Join(r.keys, "link")
	if err := os.Symlink(filepath.Join(r.dir, "allowed"), outside); err != nil {
		t.Fatal(err)
	}
	for _, list := range []string{filepath.Join(r.dir, "allowed"), outside} {
		c := &gitdir.Checkout{Dir: r.dir, AllowedSigners: list}
		if _, err := c.Signed(t.Context(), "policies"); err == nil || !strings.Contains(err.Error(), "whoever may push could list a key") {
			t.Errorf("Signed with %s = %v", list, err)
		}
	}
}

// A work tree of its own, as git-sync makes them, has a file for .git.
func TestWorktree(t *testing.T) {
	r := newRepo(t)
	r.put("a.yaml", "a\n")
	id := r.commit("alice")
	tree := filepath.Join(t.TempDir(), "tree")
	r.git("worktree", "add", "-q", "--detach", tree, id)
	c := &gitdir.Checkout{Dir: tree, AllowedSigners: filepath.Join(r.keys, "allowed")}
	got, err := c.Signed(t.Context(), ".")
	if err != nil || got.ID != id {
		t.Errorf("Signed = %v, %v", got, err)
	}
}

// SHA-256 repositories are read as well.
func TestSHA256(t *testing.T) {
	r := newRepo(t)
	r.dir = filepath.Join(t.TempDir(), "new")
	r.command("git", "init", "-q", "--object-format=sha256", r.dir)
	r.put("policies/a.yaml", "a\n")
	id := r.commit("alice")
	got, err := r.checkout().Signed(t.Context(), "policies")
	if err != nil || got.ID != id || len(id) != 64 {
		t.Errorf("Signed = %v, %v", got, err)
	}
}

// Git takes the content of its objects on trust: whoever writes to .git could
// exchange a policy under a signed commit.
func TestForgedObject(t *testing.T) {
	for _, tt := range []struct{ name, object, content string }{
		{"a file", "HEAD:policies/a.yaml", "blob 2\x00b\n"},
		{"a tree", "HEAD:policies", "tree 0\x00"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRepo(t)
			r.put("policies/a.yaml", "a\n")
			r.commit("alice")
			id := strings.TrimSpace(r.git("rev-parse", tt.object))
			r.forge(id, tt.content)
			if tt.name == "a file" {
				r.put("policies/a.yaml", "b\n") // as the forged object says
			} else {
				r.remove(filepath.Join(r.dir, "policies/a.yaml"))
			}
			if got, err := r.checkout().Signed(t.Context(), "policies"); err == nil {
				t.Errorf("Signed = %q, want an error", names(t, got.Files))
			}
		})
	}
}

// forge puts content in the place of a loose object.
func (r *repo) forge(id, content string) {
	file := filepath.Join(r.dir, ".git/objects", id[:2], id[2:])
	r.remove(file)
	f, err := os.Create(file)
	if err != nil {
		r.t.Fatal(err)
	}
	defer f.Close()
	w := zlib.NewWriter(f)
	if _, err := w.Write([]byte(content)); err != nil {
		r.t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		r.t.Fatal(err)
	}
}

// A replacement of the signed commit, or of a file in it, is not followed.
func TestReplacement(t *testing.T) {
	r := newRepo(t)
	r.put("policies/a.yaml", "evil\n")
	evil := r.commit("")
	evilFile := strings.TrimSpace(r.git("rev-parse", "HEAD:policies/a.yaml"))
	r.put("policies/a.yaml", "good\n")
	good := r.commit("alice")
	r.git("replace", strings.TrimSpace(r.git("rev-parse", "HEAD:policies/a.yaml")), evilFile)
	r.git("replace", good, evil)
	got, err := r.checkout().Signed(t.Context(), "policies")
	if err != nil {
		t.Fatal(err)
	}
	if data, err := fs.ReadFile(got.Files, "a.yaml"); err != nil || string(data) != "good\n" {
		t.Errorf("a.yaml = %q, %v", data, err)
	}
}

// TestHostileRepository: the repository's own configuration starts nothing.
// Each entry is one that starts a program with some command of git.
func TestHostileRepository(t *testing.T) {
	r := newRepo(t)
	r.put("policies/a.yaml", "a\n")
	r.put(".gitattributes", "*.yaml filter=evil diff=evil merge=evil\n")
	r.commit("alice")
	marker := filepath.Join(t.TempDir(), "ran")
	evil := filepath.Join(t.TempDir(), "evil")
	r.write(evil, "#!/bin/sh\necho \"$0 $*\" >>"+marker+"\n")
	if err := os.Chmod(evil, 0o700); err != nil {
		t.Fatal(err)
	}
	hooks := t.TempDir()
	for _, hook := range []string{"post-index-change", "post-checkout", "reference-transaction", "fsmonitor-watchman"} {
		if err := os.Symlink(evil, filepath.Join(hooks, hook)); err != nil {
			t.Fatal(err)
		}
	}
	for _, entry := range []string{
		"core.fsmonitor=" + evil, "core.hooksPath=" + hooks, "core.pager=" + evil, "pager.cat-file=" + evil, "pager.verify-commit=" + evil,
		"core.sshCommand=" + evil, "core.gitProxy=" + evil, "core.askPass=" + evil, "core.editor=" + evil, "core.alternateRefsCommand=" + evil,
		"filter.evil.clean=" + evil, "filter.evil.smudge=" + evil, "filter.evil.process=" + evil, "filter.evil.required=true",
		"diff.external=" + evil, "diff.evil.textconv=" + evil, "diff.evil.command=" + evil, "merge.evil.driver=" + evil,
		"gpg.program=" + evil, "gpg.openpgp.program=" + evil, "gpg.x509.program=" + evil, "gpg.ssh.program=" + evil, "gpg.ssh.defaultKeyCommand=" + evil,
		"gpg.format=openpgp", "gpg.ssh.allowedSignersFile=" + filepath.Join(r.keys, "none"), "gpg.minTrustLevel=undefined",
		"credential.helper=" + evil, "uploadpack.packObjectsHook=" + evil, "alias.verify-commit=!" + evil, "alias.cat-file=!" + evil, "alias.rev-parse=!" + evil,
		"extensions.partialClone=origin", "core.repositoryFormatVersion=1", "remote.origin.promisor=true", "remote.origin.url=ext::" + evil,
		"remote.origin.uploadpack=" + evil, "protocol.allow=always", "protocol.ext.allow=always", "log.showSignature=true", "trace2.eventTarget=" + marker,
	} {
		key, value, _ := strings.Cut(entry, "=")
		r.git("config", "--add", key, value)
	}
	os.Remove(marker) // git config may have started something itself
	if _, err := r.checkout().Signed(t.Context(), "policies"); err != nil {
		t.Errorf("Signed = %v", err)
	}
	for _, url := range []string{"ext::" + evil, "ssh://host/x", "file:///nonexistent", "git://127.0.0.1:1/x", r.dir} {
		r.setConfig("remote.origin.url", url)
		r.removeAll(filepath.Join(r.dir, ".git/objects", r.blob()[:2])) // would be fetched
		if _, err := r.checkout().Signed(t.Context(), "policies"); err == nil {
			t.Error("Signed without an object: no error")
		}
	}
	if data, err := os.ReadFile(marker); err == nil {
		t.Errorf("the repository's configuration started:\n%s", data)
	}
}

func (r *repo) setConfig(key, value string) { r.git("config", "--replace-all", key, value) }

// blob is the id of policies/a.yaml.
func (r *repo) blob() string {
	return strings.TrimSpace(r.command("git", "hash-object", "--no-filters", filepath.Join(r.dir, "policies/a.yaml")))
}

// An OpenPGP signature would be checked by whatever program the repository
// names.
func TestOtherSignatures(t *testing.T) {
	for _, armor := range []string{"PGP SIGNATURE", "PGP MESSAGE", "SIGNED MESSAGE"} {
		r := newRepo(t)
		r.put("policies/a.yaml", "a\n")
		r.commit("alice")
		ran := filepath.Join(t.TempDir(), "ran")
		evil := filepath.Join(t.TempDir(), "evil")
		r.write(evil, "#!/bin/sh\ntouch "+ran+"\necho '[GNUPG:] GOODSIG 0 x'\necho '[GNUPG:] TRUST_ULTIMATE'\n")
		if err := os.Chmod(evil, 0o700); err != nil {
			t.Fatal(err)
		}
		for _, key := range []string{"gpg.program", "gpg.openpgp.program", "gpg.x509.program"} {
			r.git("config", key, evil)
		}
		tree := strings.TrimSpace(r.git("rev-parse", "HEAD^{tree}"))
		object := fmt.Sprintf("tree %s\nauthor a <a@example.com> 1 +0000\ncommitter a <a@example.com> 1 +0000\ngpgsig -----BEGIN %s-----\n \n x\n -----END %s-----\n\nforged\n", tree, armor, armor)
		file := filepath.Join(t.TempDir(), "commit")
		r.write(file, object)
		r.git("update-ref", "HEAD", strings.TrimSpace(r.git("hash-object", "-t", "commit", "-w", file)))
		if _, err := r.checkout().Signed(t.Context(), "policies"); !errors.Is(err, gitdir.ErrUnsigned) {
			t.Errorf("%s: Signed = %v, want ErrUnsigned", armor, err)
		}
		if _, err := os.Stat(ran); err == nil {
			t.Errorf("%s: the repository's program was started", armor)
		}
	}
}

func TestAt(t *testing.T) {
	r := newRepo(t)
	r.put("policies/a.yaml", "old\n")
	old := r.commit("")
	r.put("policies/a.yaml", "new\n")
	r.commit("")
	c := &gitdir.Checkout{Dir: r.dir}
	for _, revision := range []string{"HEAD~1", old, old[:8], "main^"} {
		got, err := c.At(t.Context(), revision, "policies")
		if err != nil || got.ID != old {
			t.Errorf("At(%s) = %v, %v", revision, got, err)
			continue
		}
		if data, err := fs.ReadFile(got.Files, "a.yaml"); err != nil || string(data) != "old\n" {
			t.Errorf("At(%s): a.yaml = %q, %v", revision, data, err)
		}
	}
	for _, revision := range []string{"", "nothing", "--help", "-q", "HEAD:policies", "HEAD..main"} {
		if got, err := c.At(t.Context(), revision, "policies"); err == nil {
			t.Errorf("At(%q) = %v", revision, got)
		}
	}
	for _, folder := range []string{"..", "/etc", "policies/../..", "policies/a.yaml"} {
		if got, err := c.At(t.Context(), "HEAD", folder); err == nil {
			t.Errorf("At(HEAD, %q) = %v", folder, got)
		}
	}
}

func TestCancelled(t *testing.T) {
	r := newRepo(t)
	r.put("policies/a.yaml", "a\n")
	r.commit("alice")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.checkout().Signed(ctx, "policies"); !errors.Is(err, context.Canceled) {
		t.Errorf("Signed = %v, want context.Canceled", err)
	}
}
