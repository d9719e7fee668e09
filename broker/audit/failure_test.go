package audit_test

import (
	"errors"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/brevet-dev/brevet/broker/audit"
)

// limited runs the test again in a process of its own, and reports whether this
// is it: limitFileSize counts for a whole process, and go test writes files, too.
func limited(t *testing.T) bool {
	t.Helper()
	const mark = "BREVET_TEST_LIMITED"
	if os.Getenv(mark) != "" {
		return true
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "-test.v", "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), mark+"=1")
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Errorf("%v\n%s", err, out)
	}
	return false
}

// limitFileSize makes the disk full for files of n bytes: a write beyond gets
// what fits, then EFBIG. Unlike a small file system it needs no root.
func limitFileSize(t *testing.T, n int64) (lift func()) {
	t.Helper()
	signal.Ignore(syscall.SIGXFSZ)
	var before syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &before); err != nil {
		t.Fatal(err)
	}
	set := func(limit syscall.Rlimit) {
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
			t.Fatal(err)
		}
	}
	set(syscall.Rlimit{Cur: uint64(n), Max: before.Max})
	return func() { set(before) }
}

func size(t *testing.T, path string) int64 {
	t.Helper()
	return int64(len(read(t, path)))
}

func TestDiskFull(t *testing.T) {
	if !limited(t) {
		return
	}
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	l := open(t, path)
	record(t, l, "before")
	before := read(t, path)
	lift := limitFileSize(t, size(t, path)+50) // room for a part of a line
	for range 3 {
		err := l.Record(t.Context(), event("lost"))
		if !errors.Is(err, audit.ErrFailed) || !errors.Is(err, syscall.EFBIG) {
			t.Fatalf("Record on a full disk = %v, want ErrFailed and EFBIG", err)
		}
		if got := read(t, path); string(got) != string(before) {
			t.Fatalf("the log holds a part of a line:\n%s", got)
		}
	}
	if l.Status().Err == nil {
		t.Error("Status says nothing of a full disk")
	}
	lift()
	record(t, l, "after")
	if err := l.Status().Err; err != nil {
		t.Errorf("Status after there was room again: %v", err)
	}
	closeLog(t, l)
	data := read(t, path)
	verify(t, data)
	if got := strings.Join(requests(t, data), " "); got != "before after" {
		t.Errorf("events %s, want: before after", got)
	}
}

// TestDiskFullRotate: a full disk does not keep the log from going on with a
// new file, and one that is full at once not with the old.
func TestDiskFullRotate(t *testing.T) {
	if !limited(t) {
		return
	}
	dir := t.TempDir()
	path, old := filepath.Join(dir, "audit.jsonl"), filepath.Join(dir, "old")
	l := open(t, path)
	record(t, l, strings.Repeat("x", 1000))
	if err := os.Rename(path, old); err != nil {
		t.Fatal(err)
	}
	lift := limitFileSize(t, 20)
	if err := l.Reopen(); err == nil {
		t.Error("Reopen on a full disk succeeded")
	}
	lift()
	record(t, l, "in the old")
	lift = limitFileSize(t, size(t, old))
	if err := l.Reopen(); err != nil {
		t.Errorf("Reopen when the old file cannot grow: %v", err)
	}
	lift()
	record(t, l, "in the new")
	closeLog(t, l)
	verify(t, append(read(t, old), read(t, path)...))
}

func TestDiskFullAtOpen(t *testing.T) {
	if !limited(t) {
		return
	}
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	lift := limitFileSize(t, 20)
	if _, err := audit.Open(path, audit.Options{Sign: sign}); !errors.Is(err, audit.ErrFailed) {
		t.Errorf("Open on a full disk = %v, want ErrFailed", err)
	}
	lift()
	closeLog(t, open(t, path))
}

// A disk fails on demand.
type disk struct {
	audit.File
	write, sync, truncate error
}

func (d *disk) Write(p []byte) (int, error) {
	if d.write != nil {
		n, err := d.File.Write(p[:len(p)/2])
		return n, errors.Join(d.write, err)
	}
	return d.File.Write(p)
}

func (d *disk) Sync() error {
	if d.sync != nil {
		return d.sync
	}
	return d.File.Sync()
}

func (d *disk) Truncate(n int64) error {
	if d.truncate != nil {
		return d.truncate
	}
	return d.File.Truncate(n)
}

// TestDiskFails: after a failure nobody understands, nothing is recorded until
// Reopen, even if the disk seems to work again.
func TestDiskFails(t *testing.T) {
	for name, faults := range map[string]disk{
		"write":                                 {write: syscall.EIO},
		"sync":                                  {sync: syscall.EIO},
		"sync for no space":                     {sync: syscall.ENOSPC},
		"no space, and it cannot be taken back": {write: syscall.ENOSPC, truncate: syscall.EIO},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "audit.jsonl")
			l := open(t, path)
			d := &disk{}
			l.WrapFile(func(f audit.File) audit.File { d.File = f; return d })
			record(t, l, "before")
			d.write, d.sync, d.truncate = faults.write, faults.sync, faults.truncate
			if err := l.Record(t.Context(), event("lost")); !errors.Is(err, audit.ErrFailed) {
				t.Fatalf("Record on a failing disk = %v, want ErrFailed", err)
			}
			*d = disk{File: d.File}
			if err := l.Record(t.Context(), event("refused")); !errors.Is(err, audit.ErrFailed) {
				t.Fatalf("Record after a failure = %v, want ErrFailed", err)
			}
			if err := l.Status().Err; !errors.Is(err, audit.ErrFailed) {
				t.Errorf("Status after a failure: %v", err)
			}
			d.sync = syscall.EIO
			if err := l.Reopen(); err == nil {
				t.Error("Reopen on a failing disk succeeded")
			}
			*d = disk{File: d.File}
			if err := l.Reopen(); err != nil {
				t.Fatal(err)
			}
			record(t, l, "after")
			closeLog(t, l)
			data := read(t, path)
			r := verify(t, data)
			if got := strings.Join(requests(t, data), " "); got != "before after" || r.Torn == 0 {
				t.Errorf("events %s, %d bytes torn, want: before after", got, r.Torn)
			}
		})
	}
}

// TestDiskFailsThenRotate: a new file on a good disk ends a failure, too.
func TestDiskFailsThenRotate(t *testing.T) {
	dir := t.TempDir()
	path, old := filepath.Join(dir, "audit.jsonl"), filepath.Join(dir, "old")
	l := open(t, path)
	d := &disk{}
	l.WrapFile(func(f audit.File) audit.File { d.File = f; return d })
	record(t, l, "before")
	d.sync = syscall.EIO
	if err := l.Record(t.Context(), event("lost")); !errors.Is(err, audit.ErrFailed) {
		t.Fatalf("Record = %v, want ErrFailed", err)
	}
	if err := os.Rename(path, old); err != nil {
		t.Fatal(err)
	}
	if err := l.Reopen(); err != nil {
		t.Fatal(err)
	}
	record(t, l, "after")
	closeLog(t, l)
	if r := verify(t, read(t, path)); r.First != 3 {
		t.Errorf("the new file begins with line %d, want 3: %+v", r.First, r)
	}
}

func TestCloseFails(t *testing.T) {
	l := open(t, filepath.Join(t.TempDir(), "audit.jsonl"))
	d := &disk{sync: syscall.EIO}
	l.WrapFile(func(f audit.File) audit.File { d.File = f; return d })
	if err := l.Close(); !errors.Is(err, audit.ErrFailed) {
		t.Errorf("Close on a failing disk = %v, want ErrFailed", err)
	}
}

// TestMeddling: who changes the length of the file behind the log's back stops
// it, at the next event.
func TestMeddling(t *testing.T) {
	for name, meddle := range map[string]func(path string) error{
		"a line added": func(path string) error {
			f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
			if err != nil {
				return err
			}
			_, err = f.WriteString(`{"seq":3}` + "\n")
			return errors.Join(err, f.Close())
		},
		"truncated": func(path string) error { return os.Truncate(path, 0) },
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "audit.jsonl")
			l := open(t, path)
			record(t, l, "before")
			if err := meddle(path); err != nil {
				t.Fatal(err)
			}
			if err := l.Record(t.Context(), event("lost")); !errors.Is(err, audit.ErrFailed) {
				t.Errorf("Record = %v, want ErrFailed", err)
			}
			if err := l.Reopen(); (err == nil) != (name == "a line added") {
				t.Errorf("Reopen = %v", err)
			}
			if err := l.Close(); (err == nil) != (name == "a line added") {
				t.Errorf("Close = %v", err)
			}
		})
	}
}
