package audit_test

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/brevet-dev/brevet/broker/audit"
)

func TestRestart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	for i := range 3 {
		l := open(t, path)
		record(t, l, fmt.Sprint(i))
		closeLog(t, l)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v, %v, want 0600", info.Mode(), err)
	}
	if r := verify(t, read(t, path)); r.Opens != 3 || r.First != 1 || r.Last != 9 || r.Sealed != 9 {
		t.Errorf("Report %+v", r)
	}
}

func TestLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	l := open(t, path)
	if _, err := audit.Open(path, audit.Options{Sign: sign}); err == nil || !strings.Contains(err.Error(), "another broker") {
		t.Errorf("a second Open = %v", err)
	}
	closeLog(t, l)
	closeLog(t, open(t, path))
}

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "audit.jsonl")
	l := open(t, path)
	record(t, l, "1", "2")
	closeLog(t, l)
	good := string(read(t, path))
	if _, err := audit.Open(path, audit.Options{}); err == nil {
		t.Error("Open without a way to sign succeeded")
	}
	for name, data := range map[string]string{
		"another file":                  "root:x:0:0::/root:/bin/sh\n",
		"another file without line end": "secret",
		"a line changed":                strings.Replace(good, `"request_id":"1"`, `"request_id":"9"`, 1),
		"a line removed":                strings.Join(strings.SplitAfter(good, "\n")[1:], ""),
		"an empty line":                 good + "\n",
		"a line of zeros":               good + "\x00\x00\n",
	} {
		if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := audit.Open(path, audit.Options{Sign: sign}); !errors.Is(err, audit.ErrBroken) {
			t.Errorf("Open of %s = %v, want ErrBroken", name, err)
		}
		if string(read(t, path)) != data {
			t.Errorf("Open of %s changed it", name)
		}
	}
	for _, p := range []string{dir, os.DevNull, filepath.Join(dir, "missing", "audit.jsonl")} {
		if _, err := audit.Open(p, audit.Options{Sign: sign}); err == nil {
			t.Errorf("Open(%s) succeeded", p)
		}
	}
}

// TestTorn cuts a log at every seventh byte, as a crash might, and goes on.
func TestTorn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	l := open(t, path)
	record(t, l, "1", "2")
	closeLog(t, l)
	good := read(t, path)
	for n := 0; n < len(good); n += 7 {
		for _, zeros := range []int{0, 7} { // some file systems leave zeros
			whole := good[:bytes.LastIndexByte(good[:n], '\n')+1]
			torn := append(bytes.Clone(good[len(whole):n]), make([]byte, zeros)...)
			if len(whole) == 0 && zeros > 0 {
				continue // refused: could be any file
			}
			crash := append(bytes.Clone(whole), torn...)
			if err := os.WriteFile(path, crash, 0o600); err != nil {
				t.Fatal(err)
			}
			l := open(t, path)
			record(t, l, "after")
			closeLog(t, l)
			got := read(t, path)
			r := verify(t, got)
			if !bytes.HasPrefix(got, whole) || r.Torn != int64(len(torn)) {
				t.Fatalf("cut at %d: %+v, want %d torn", n, r, len(torn))
			}
			kept := base64.StdEncoding.EncodeToString(torn)
			if len(torn) > 0 && !bytes.Contains(got, []byte(`"torn":"`+kept+`"`)) {
				t.Fatalf("cut at %d: the torn line is lost", n)
			}
		}
	}
}

// TestTornLong: of a torn line only the first 32 KiB are kept.
func TestTornLong(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	l := open(t, path)
	closeLog(t, l)
	crash := append(read(t, path), bytes.Repeat([]byte("x"), 60<<10)...)
	if err := os.WriteFile(path, crash, 0o600); err != nil {
		t.Fatal(err)
	}
	l = open(t, path)
	closeLog(t, l)
	if r := verify(t, read(t, path)); r.Torn != 60<<10 {
		t.Errorf("Report %+v", r)
	}
}

// TestLongFile goes on with a log that is longer than what Open reads of it.
func TestLongFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	l := open(t, path)
	e := event("long")
	e.Cause = strings.Repeat("x", 60<<10)
	for range 30 {
		if err := l.Record(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	closeLog(t, l)
	closeLog(t, open(t, path))
	if r := verify(t, read(t, path)); r.Opens != 2 || r.Last != 34 {
		t.Errorf("Report %+v", r)
	}
	if err := os.WriteFile(path, append(read(t, path), make([]byte, 4<<20)...), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := audit.Open(path, audit.Options{Sign: sign}); !errors.Is(err, audit.ErrBroken) {
		t.Errorf("Open of a log that ends in 4 MiB of zeros = %v, want ErrBroken", err)
	}
}

func TestRotate(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "audit.jsonl")
	l := open(t, path)
	record(t, l, "1")
	if err := l.Reopen(); err != nil {
		t.Errorf("Reopen without a rename: %v", err)
	}
	var parts []byte
	for i := range 2 {
		old := filepath.Join(dir, fmt.Sprintf("audit.%d", i))
		if err := os.Rename(path, old); err != nil {
			t.Fatal(err)
		}
		record(t, l, fmt.Sprintf("still in %d", i))
		if err := l.Reopen(); err != nil {
			t.Fatal(err)
		}
		record(t, l, fmt.Sprintf("after %d", i))
		part := read(t, old)
		if r := verify(t, part); r.Sealed != r.Last {
			t.Errorf("file %d ends without a checkpoint: %+v", i, r)
		}
		parts = append(parts, part...)
	}
	closeLog(t, l)
	last := read(t, path)
	verify(t, last)
	want := []string{"1", "still in 0", "after 0", "still in 1", "after 1"}
	if got := requests(t, append(bytes.Clone(parts), last...)); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("events %q, want %q", got, want)
	}
	if r := verify(t, append(bytes.Clone(parts), last...)); r.First != 1 || r.Opens != 3 {
		t.Errorf("Report of all three: %+v", r)
	}
	if _, err := audit.Verify(bytes.NewReader(append(bytes.Clone(last), parts...)), check); !errors.Is(err, audit.ErrBroken) {
		t.Errorf("Verify in the wrong order = %v, want ErrBroken", err)
	}
	closeLog(t, open(t, path)) // a rotated file can be gone on with, too
}

func TestReopenRefuses(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "audit.jsonl")
	l := open(t, path)
	old := filepath.Join(dir, "old")
	if err := os.Rename(path, old); err != nil {
		t.Fatal(err)
	}
	for name, prepare := range map[string]func() error{
		"a file that is not empty": func() error { return os.WriteFile(path, []byte("x"), 0o600) },
		"a folder":                 func() error { return os.Mkdir(path, 0o700) },
	} {
		if err := prepare(); err != nil {
			t.Fatal(err)
		}
		if err := l.Reopen(); err == nil {
			t.Errorf("Reopen of %s succeeded", name)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	record(t, l, "still there")
	closeLog(t, l)
	if got := requests(t, read(t, old)); len(got) != 1 {
		t.Errorf("events %q, want one", got)
	}
}
