package policies_test

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/brevet-dev/brevet/issuers"
	"github.com/brevet-dev/brevet/policies"
	"github.com/brevet-dev/brevet/policies/strictyaml"
)

func TestLoad(t *testing.T) {
	set, err := policies.Load("testdata/good", options())
	if err != nil {
		t.Fatal(err)
	}
	if got, want := set.Len(), 5; got != want {
		t.Errorf("Len() = %d, want %d", got, want)
	}
	for _, r := range set.Test() {
		if !r.Passed {
			t.Errorf("%s: %s: %s: %s", r.Pos, r.Policy, r.Name, r.Message)
		}
	}
}

// TestLoadBad compares every problem of a folder, whose files make about every
// mistake there is, with testdata/bad.golden.
func TestLoadBad(t *testing.T) {
	const golden = "testdata/bad.golden"
	set, err := policies.Load("testdata/bad", options())
	if set != nil || err == nil {
		t.Fatalf("Load(testdata/bad) = %v, %v, want nil and an error", set, err)
	}
	got := err.Error() + "\n"
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("Load(testdata/bad):\n%s\nwant (go test -update writes it):\n%s", got, want)
	}
}

func TestLoadFiles(t *testing.T) {
	const doc = "policy: %s\nissuer: github\nmatch: {repository_id: \"1\", ref: refs/heads/main, event_name: push}\ngrant: [{credential: other, ttl: 1m}]\n"
	tests := []struct {
		name  string
		build func(t *testing.T, dir string)
		want  string // error without the folder, or ""
	}{
		{"no folder", func(t *testing.T, dir string) { remove(t, dir) }, ": the folder of policies cannot be read: no such file or directory"},
		{"an empty folder", func(*testing.T, string) {}, ": the folder holds no policy (a file ending in .yaml or .yml)"},
		{"only other files", func(t *testing.T, dir string) { put(t, dir, "a.txt", "x") }, ": the folder holds no policy (a file ending in .yaml or .yml)"},
		{"tests in a file of policies", func(t *testing.T, dir string) { put(t, dir, "a.yaml", "tests: a\ncases: []\n") }, "/a.yaml:1:1: tests are first in files whose name ends in _test.yaml only; in a policy they come after its name"},
		{"an empty file", func(t *testing.T, dir string) { put(t, dir, "a.yaml", "") }, "/a.yaml:1:1: the document is empty"},
		{"a link to a file", func(t *testing.T, dir string) {
			put(t, dir, "a", fmt.Sprintf(doc, "a"))
			link(t, "a", filepath.Join(dir, "b.yaml"))
		}, ""},
		{"a Kubernetes volume", func(t *testing.T, dir string) {
			put(t, dir, "..2026_11_01/a.yaml", fmt.Sprintf(doc, "a"))
			put(t, dir, "..2026_11_02/a.yaml", fmt.Sprintf(doc, "a"))
			link(t, "..2026_11_02", filepath.Join(dir, "..data"))
			link(t, "..data/a.yaml", filepath.Join(dir, "a.yaml"))
		}, ""},
		{"a link to a folder", func(t *testing.T, dir string) {
			put(t, dir, ".x/a.yaml", fmt.Sprintf(doc, "a"))
			link(t, ".x", filepath.Join(dir, "x"))
		}, "/x: symbolic links to folders are not followed; link the files"},
		{"a link to nothing", func(t *testing.T, dir string) { link(t, "nothing", filepath.Join(dir, "a.yaml")) }, "/a.yaml: stat a.yaml: no such file or directory"},
		{"a pipe", func(t *testing.T, dir string) {
			if err := syscall.Mkfifo(filepath.Join(dir, "a.yaml"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, "/a.yaml: not a regular file"},
		{"a large file", func(t *testing.T, dir string) { put(t, dir, "a.yaml", strings.Repeat("#", 256<<10+1)) }, "/a.yaml: a file has at most 131072 bytes"},
		{"the same name twice", func(t *testing.T, dir string) {
			put(t, dir, "x/1/a.yaml", "# first\n"+fmt.Sprintf(doc, "same"))
			put(t, dir, "x/2/a.yml", fmt.Sprintf(doc, "same"))
		}, "/x/2/a.yml:1:9: policy \"x/same\" is in DIR/x/1/a.yaml:2 too; give one of them another name"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			tt.build(t, dir)
			set, err := policies.Load(dir, options())
			if tt.want == "" {
				if err != nil || set.Len() != 1 {
					t.Errorf("Load = %d policies, %v, want 1", set.Len(), err)
				}
				return
			}
			var problems strictyaml.Problems
			if !errors.As(err, &problems) {
				t.Fatalf("Load = %v (%T), want a strictyaml.Problems", err, err)
			}
			want := dir + strings.ReplaceAll(tt.want, "DIR", dir)
			if err.Error() != want {
				t.Errorf("Load = %v, want %s", err, want)
			}
		})
	}
}

func remove(t *testing.T, dir string) {
	t.Helper()
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
}

func put(t testing.TB, dir, name, data string) {
	t.Helper()
	file := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(data), 0o600); err != nil {
		t.Fatal(err)
	}
}

func link(t *testing.T, to, name string) {
	t.Helper()
	if err := os.Symlink(to, name); err != nil {
		t.Fatal(err)
	}
}

// TestDigest holds the documentation to its word: the shell gives the same.
func TestDigest(t *testing.T) {
	dir := t.TempDir()
	doc := "policy: %s\nissuer: github\nmatch: {repository_id: \"1\", ref: refs/heads/main, event_name: push}\ngrant: [{credential: other, ttl: 1m}]\n"
	put(t, dir, "b.yaml", fmt.Sprintf(doc, "b"))
	put(t, dir, "a/x.yml", fmt.Sprintf(doc, "a"))
	put(t, dir, "a.yaml", fmt.Sprintf(doc, "c"))
	set, err := policies.Load(dir, options())
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", "-c", "find * -type f | LC_ALL=C sort | xargs sha256sum | sha256sum")
	cmd.Dir = dir
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	if want := "sha256:" + strings.Fields(string(out))[0]; set.Digest() != want {
		t.Errorf("Digest() = %s, the shell says %s", set.Digest(), want)
	}
	put(t, dir, "b.yaml", fmt.Sprintf(doc, "b")+"# changed\n")
	changed, err := policies.Load(dir, options())
	if err != nil {
		t.Fatal(err)
	}
	if changed.Digest() == set.Digest() {
		t.Error("Digest() is the same after a file changed")
	}
}

func TestPolicyDigest(t *testing.T) {
	doc := "policy: a\r\nissuer: github\r\nmatch: {repository_id: \"456\", ref: refs/heads/main, event_name: push}\r\ngrant: [{credential: other, ttl: 1m}]\r\n"
	d, err := mustLoad(t, doc).Decide(github(nil), "other")
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte(doc))
	if want := "sha256:" + hex.EncodeToString(sum[:]); d.Grant.PolicyDigest != want {
		t.Errorf("PolicyDigest = %s, want %s", d.Grant.PolicyDigest, want)
	}
}

func TestLive(t *testing.T) {
	old, fresh := mustLoad(t, grantAll("old")), mustLoad(t, grantAll("fresh"))
	live := policies.NewLive(old)
	if live.Current() != old {
		t.Error("Current() is not the first set")
	}
	if was := live.Swap(fresh); was != old || live.Current() != fresh {
		t.Error("Swap did not put the new set in force and return the old one")
	}
}

func grantAll(name string) string {
	return fmt.Sprintf("policy: %s\nissuer: github\nmatch: {repository_owner_id: \"123\"}\nunsafe: {reason: a test}\ngrant: [{credential: other, ttl: 1m}]\n", name)
}

// FuzzLoad checks that no document makes the loader panic, and that whatever
// loads is safe: it grants nothing to a token without claims and, unless it
// says that it is unsafe, without ids or of which the trigger is not known.
func FuzzLoad(f *testing.F) {
	for _, glob := range []string{"testdata/*/*.y*ml", "testdata/*/*/*.y*ml"} {
		files, err := filepath.Glob(glob)
		if err != nil {
			f.Fatal(err)
		}
		for _, file := range files {
			data, err := os.ReadFile(file)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(string(data))
		}
	}
	f.Fuzz(func(t *testing.T, doc string) {
		dir := write(t, doc)
		set, err := policies.Load(dir, options())
		if (set == nil) == (err == nil) {
			t.Fatalf("Load(%q) = %v, %v, want one of them", doc, set, err)
		}
		set.Test()
		for _, id := range []*issuers.Identity{
			nil, {Issuer: "github"}, {Issuer: "gitlab"}, {Issuer: "robot"}, github(map[string]any{"event_name": nil}),
			github(map[string]any{"repository_id": nil, "repository_owner_id": nil}),
		} {
			for credential := range options().Credentials {
				d, err := set.Decide(id, credential)
				if err == nil && (d.Grant.Unsafe == "" || len(id.Claims) == 0) {
					t.Errorf("%q grants %+v to %v", doc, d.Grant, id)
				}
			}
		}
	})
}
