package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/brevet-dev/brevet/broker"
	"github.com/brevet-dev/brevet/issuers/presets"
	"github.com/brevet-dev/brevet/policies"
)

// A spyLog records events in memory, unless it fails.
type spyLog struct {
	events []*broker.Event
	err    error
}

func (s *spyLog) Record(_ context.Context, e *broker.Event) error {
	if s.err == nil {
		s.events = append(s.events, e)
	}
	return s.err
}

// A reloading is a reloader of a folder, with what it said.
type reloading struct {
	*reloader
	t     *testing.T
	dir   string
	spy   *spyLog
	log   bytes.Buffer
	loads int
}

func newReloading(t *testing.T, dir string) *reloading {
	r := &reloading{t: t, dir: dir, spy: &spyLog{}}
	r.reloader = &reloader{audit: r.spy, log: slog.New(slog.NewTextHandler(&r.log, nil))}
	r.look = func(context.Context) string {
		var seen strings.Builder
		lookAround(&seen, dir)
		return seen.String()
	}
	r.load = func(context.Context) (*policies.Set, error) {
		r.loads++
		return policies.Load(dir, reloadOptions())
	}
	set, err := policies.Load(dir, reloadOptions())
	if err != nil {
		t.Fatal(err)
	}
	r.live = policies.NewLive(set)
	r.read = r.look(t.Context())
	r.seen = r.read
	return r
}

func reloadOptions() policies.Options {
	return policies.Options{
		Issuers: map[string]*presets.Preset{"robot": {
			Claims: map[string]presets.Claim{"name": {Type: presets.String, Kind: presets.Platform}}, ProjectID: "name",
		}},
		Credentials: map[string]policies.Credential{"deploy": {}},
	}
}

func policyNamed(name string) string {
	return fmt.Sprintf("policy: %s\nissuer: robot\nmatch: {name: x}\ngrant: [{credential: deploy, ttl: 5m}]\n", name)
}

func (r *reloading) put(name, text string) {
	r.t.Helper()
	if err := os.WriteFile(filepath.Join(r.dir, name), []byte(text), 0o600); err != nil {
		r.t.Fatal(err)
	}
}

// want checks which policies are in force, and how many events were recorded.
func (r *reloading) want(step string, policies, loads, events int) {
	r.t.Helper()
	if got := r.live.Current().Len(); got != policies {
		r.t.Errorf("%s: %d policies in force, want %d", step, got, policies)
	}
	if r.loads != loads || len(r.spy.events) != events {
		r.t.Errorf("%s: %d readings and %d events, want %d and %d", step, r.loads, len(r.spy.events), loads, events)
	}
}

func folderWith(t *testing.T, name, text string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestReloadOnChange(t *testing.T) {
	r := newReloading(t, folderWith(t, "a.yaml", policyNamed("a")))
	r.tick(t.Context())
	r.want("nothing changed", 1, 0, 0)

	r.put("b.yaml", policyNamed("b")[:20])
	r.tick(t.Context())
	r.put("b.yaml", policyNamed("b"))
	r.tick(t.Context())
	r.want("being written", 1, 0, 0)
	r.tick(t.Context())
	r.want("at rest", 2, 1, 1)
	r.tick(t.Context())
	r.want("nothing more", 2, 1, 1)

	r.put(".swp.yaml", "x")
	r.put("README.md", "x")
	r.tick(t.Context())
	r.tick(t.Context())
	r.want("other files", 2, 1, 1)

	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(filepath.Join(r.dir, "a.yaml"), old, old); err != nil {
		t.Fatal(err)
	}
	r.tick(t.Context())
	r.tick(t.Context())
	r.want("touched only", 2, 2, 1)

	if err := os.Remove(filepath.Join(r.dir, "b.yaml")); err != nil {
		t.Fatal(err)
	}
	r.tick(t.Context())
	r.tick(t.Context())
	r.want("removed", 1, 3, 2)
	if ev := r.spy.events[1]; ev.Outcome != broker.Granted || ev.Policies != r.live.Current().Digest() {
		t.Errorf("event = %+v", ev)
	}
}

// A broken folder leaves the old set in force, is told of once for each way in
// which it is broken, and is mended by what is right again.
func TestReloadBroken(t *testing.T) {
	r := newReloading(t, folderWith(t, "a.yaml", policyNamed("a")))
	before := r.live.Current()
	r.put("b.yaml", "policy: b\n")
	for range 5 {
		r.tick(t.Context())
	}
	r.want("broken", 1, 1, 1)
	r.put("b.yaml", "policy: b \n") // other bytes, the same problems
	r.tick(t.Context())
	r.tick(t.Context())
	r.want("as broken", 1, 2, 1)
	r.put("b.yaml", "polcy: b\n")
	r.tick(t.Context())
	r.tick(t.Context())
	r.want("broken in another way", 1, 3, 2)
	if n := strings.Count(r.log.String(), "policies not reloaded; the old ones stay in force"); n != 2 {
		t.Errorf("told %d times, want 2:\n%s", n, r.log.String())
	}
	if s := r.status(); s.failures != 3 || s.err == nil || !strings.Contains(s.err.Error(), "polcy") {
		t.Errorf("status = %+v", s)
	}
	if err := os.Remove(filepath.Join(r.dir, "b.yaml")); err != nil {
		t.Fatal(err)
	}
	r.tick(t.Context())
	r.tick(t.Context())
	r.want("mended", 1, 4, 2)
	if r.live.Current() != before || r.status().err != nil || !strings.Contains(r.log.String(), "those in force again") {
		t.Errorf("status = %+v, log:\n%s", r.status(), r.log.String())
	}
}

// What cannot be recorded is not put in force.
func TestReloadUnrecorded(t *testing.T) {
	r := newReloading(t, folderWith(t, "a.yaml", policyNamed("a")))
	r.put("b.yaml", policyNamed("b"))
	r.spy.err = errors.New("disk full")
	r.now(t.Context())
	r.want("not recorded", 1, 1, 0)
	r.spy.err = nil
	r.now(t.Context())
	r.want("recorded", 2, 2, 1)
}

// SIGHUP reads what is there at once, and leaves a line in the audit log
// whether or not it changed anything.
func TestReloadOrdered(t *testing.T) {
	r := newReloading(t, folderWith(t, "a.yaml", policyNamed("a")))
	r.now(t.Context())
	r.want("the same", 1, 1, 1)
	r.put("b.yaml", policyNamed("b"))
	r.now(t.Context())
	r.want("changed", 2, 2, 2)
	r.tick(t.Context())
	r.tick(t.Context())
	r.want("and at rest", 2, 2, 2)
}

// The files change between the second look and the reading.
func TestReloadChangesMeanwhile(t *testing.T) {
	r := newReloading(t, folderWith(t, "a.yaml", policyNamed("a")))
	load := r.load
	r.load = func(ctx context.Context) (*policies.Set, error) {
		defer r.put(fmt.Sprintf("n%d.yaml", r.loads), policyNamed(fmt.Sprintf("n%d", r.loads)))
		return load(ctx)
	}
	r.put("b.yaml", "policy: b") // broken: it would be told of
	r.tick(t.Context())
	r.tick(t.Context())
	r.want("changed while it was read", 1, 1, 0)
	r.load = load
	r.put("b.yaml", policyNamed("b"))
	r.tick(t.Context())
	r.want("seen anew", 1, 1, 0)
	r.tick(t.Context())
	r.want("at rest", 3, 2, 1)
}

// A volume is swapped while SIGHUP reads it: what was read is of both, and must
// not be in force until the next look.
func TestReloadOrderedMeanwhile(t *testing.T) {
	r := newReloading(t, folderWith(t, "a.yaml", policyNamed("a")))
	load := r.load
	r.load = func(ctx context.Context) (*policies.Set, error) {
		set, err := load(ctx)
		if r.loads == 1 {
			r.put("b.yaml", policyNamed("b"))
		}
		return set, err
	}
	r.now(t.Context())
	r.want("changed while it was read", 2, 2, 1)
	r.load = func(ctx context.Context) (*policies.Set, error) {
		set, err := load(ctx)
		r.put("b.yaml", policyNamed("b")+strings.Repeat("# more\n", r.loads))
		return set, err
	}
	r.now(t.Context())
	r.want("never at rest", 2, 5, 1)
}

// A volume of Kubernetes changes by one link far above the files.
func TestReloadKubernetes(t *testing.T) {
	dir := t.TempDir()
	same := time.Now().Add(-time.Hour)
	for version, text := range map[string]string{"..1": policyNamed("a"), "..2": policyNamed("b")} {
		if err := os.Mkdir(filepath.Join(dir, version), 0o700); err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(dir, version, "a.yaml")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(file, same, same); err != nil { // not even their times differ
			t.Fatal(err)
		}
	}
	for link, to := range map[string]string{"..data": "..1", "a.yaml": "..data/a.yaml"} {
		if err := os.Symlink(to, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	r := newReloading(t, dir)
	before := r.live.Current().Digest()
	if err := os.Symlink("..2", filepath.Join(dir, "..new")); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(dir, "..new"), filepath.Join(dir, "..data")); err != nil {
		t.Fatal(err)
	}
	r.tick(t.Context())
	r.tick(t.Context())
	if after := r.live.Current().Digest(); after == before || r.loads != 1 {
		t.Errorf("the swap was not seen: %d readings", r.loads)
	}
}

// A folder that is a link, as git-sync makes it, moves as a whole.
func TestReloadLinkedFolder(t *testing.T) {
	one, two := folderWith(t, "a.yaml", policyNamed("a")), folderWith(t, "a.yaml", policyNamed("b"))
	link := filepath.Join(t.TempDir(), "current")
	if err := os.Symlink(one, link); err != nil {
		t.Fatal(err)
	}
	r := newReloading(t, link)
	if err := os.Symlink(two, link+".new"); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(link+".new", link); err != nil {
		t.Fatal(err)
	}
	r.tick(t.Context())
	r.tick(t.Context())
	r.want("moved", 1, 1, 1)
}

// What failed is tried again after a while: the files need not have been wrong.
func TestReloadRetries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReloading(t, folderWith(t, "a.yaml", policyNamed("a")))
		load := r.load
		r.load = func(context.Context) (*policies.Set, error) { r.loads++; return nil, errors.New("no disk") }
		r.put("b.yaml", policyNamed("b"))
		for range 60 { // three minutes
			r.tick(t.Context())
			time.Sleep(lookEvery)
		}
		r.want("failing", 1, 3, 1)
		r.load = load
		time.Sleep(retryEvery)
		r.tick(t.Context())
		r.want("it works again", 2, 4, 2)
	})
}

// A folder that is not there looks like something, too.
func TestLookAtNothing(t *testing.T) {
	var none, file strings.Builder
	lookAround(&none, filepath.Join(t.TempDir(), "none"))
	lookAround(&file, filepath.Join(folderWith(t, "a.yaml", "x"), "a.yaml"))
	if none.String() == file.String() || none.Len() == 0 {
		t.Errorf("looks = %q and %q", none.String(), file.String())
	}
}
