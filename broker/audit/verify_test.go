package audit_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/brevet-dev/brevet/broker/audit"
)

// sealed returns a log of seven lines: log-open, five events, log-checkpoint.
func sealed(t testing.TB) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	l := open(t, path)
	record(t, l, "a", "b", "c", "d", "e")
	closeLog(t, l)
	return read(t, path)
}

func TestVerify(t *testing.T) {
	data := sealed(t)
	r := verify(t, data)
	if r.First != 1 || r.Last != 7 || r.Sealed != 7 || r.Lines != 7 || r.Checkpoints != 1 || r.Opens != 1 || r.Until.Before(r.From) {
		t.Errorf("Report %+v", r)
	}
	if _, err := audit.Verify(bytes.NewReader(data), nil); err == nil {
		t.Error("Verify without a check succeeded")
	}
}

func TestTampering(t *testing.T) {
	lines := bytes.SplitAfter(sealed(t), []byte("\n"))
	lines = lines[:7]
	other := bytes.SplitAfter(sealed(t), []byte("\n"))
	tests := []struct {
		name   string
		tamper func(l [][]byte) [][]byte
	}{
		{"change a line", func(l [][]byte) [][]byte {
			l[2] = bytes.Replace(l[2], []byte("granted"), []byte("refused"), 1)
			return l
		}},
		{"change a number", func(l [][]byte) [][]byte {
			l[2] = bytes.Replace(l[2], []byte(`"seq":3`), []byte(`"seq":4`), 1)
			return l
		}},
		{"change the last line", func(l [][]byte) [][]byte {
			l[6] = bytes.Replace(l[6], []byte(`"seq":7`), []byte(`"seq":8`), 1)
			return l
		}},
		{"change the checkpoint", func(l [][]byte) [][]byte {
			l[6] = bytes.Replace(l[6], []byte(`checkpoint":"ey`), []byte(`checkpoint":"eY`), 1)
			return l
		}},
		{"delete the first", func(l [][]byte) [][]byte { return l[1:] }},
		{"delete one", func(l [][]byte) [][]byte { return slices.Delete(l, 2, 3) }},
		{"delete the last event", func(l [][]byte) [][]byte { return slices.Delete(l, 5, 6) }},
		{"swap two", func(l [][]byte) [][]byte { l[2], l[3] = l[3], l[2]; return l }},
		{"twice the same", func(l [][]byte) [][]byte { return slices.Insert(l, 3, l[2]) }},
		{"insert an empty line", func(l [][]byte) [][]byte { return slices.Insert(l, 3, []byte("\n")) }},
		{"insert one of another log", func(l [][]byte) [][]byte { l[3] = other[3]; return l }},
		{"another log's checkpoint", func(l [][]byte) [][]byte { l[6] = other[6]; return l }},
		{"another log's beginning", func(l [][]byte) [][]byte { return append(other[:2:2], l[2:]...) }},
		{"cut within a line", func(l [][]byte) [][]byte { l[6] = l[6][:20]; return l }},
		{"cut the last line break", func(l [][]byte) [][]byte { l[6] = bytes.TrimSuffix(l[6], []byte("\n")); return l }},
		{"cut all", func(l [][]byte) [][]byte { return nil }},
		{"a space more", func(l [][]byte) [][]byte { l[6] = append([]byte(" "), l[6]...); return l }},
		{"a space after the colon", func(l [][]byte) [][]byte { l[6] = bytes.Replace(l[6], []byte(`:7`), []byte(`: 7`), 1); return l }},
		{"a very long line", func(l [][]byte) [][]byte {
			l[6] = bytes.Replace(l[6], []byte(`,"time`), []byte(`,`+strings.Repeat(" ", 1<<20)+`"time`), 1)
			return l
		}},
		{"recompute the chain", rechain},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			data := bytes.Join(tt.tamper(slices.Clone(lines)), nil)
			r, err := audit.Verify(bytes.NewReader(data), check)
			if !errors.Is(err, audit.ErrBroken) || !strings.HasPrefix(err.Error(), fmt.Sprintf("line %d:", r.Lines+1)) {
				t.Errorf("Verify = %+v, %v, want ErrBroken", r, err)
			}
		})
	}
}

// rechain takes a line out and makes the others follow each other again, as
// one can who holds the file: all but the checkpoint.
func rechain(l [][]byte) [][]byte {
	l = slices.Delete(l, 2, 3)
	for i := 2; i < len(l); i++ {
		_, body, _ := bytes.Cut(l[i], []byte(`","time"`))
		l[i] = fmt.Appendf(nil, `{"seq":%d,"prev":"%s","time"%s`, i+1, lineHash(l[i-1]), body)
	}
	return l
}

// TestRechainUnsealed is the limit that the package comment tells of: without a
// checkpoint after it, a chain made anew holds. The report says that nothing
// proves it.
func TestRechainUnsealed(t *testing.T) {
	lines := bytes.SplitAfter(sealed(t), []byte("\n"))
	forged := bytes.Join(rechain(slices.Clone(lines[:6])), nil)
	if r := verify(t, forged); r.Sealed != 0 || r.Last != 5 {
		t.Errorf("Report %+v, want nothing sealed", r)
	}
}

// TestEveryBit: no bit of a sealed log can be changed.
func TestEveryBit(t *testing.T) {
	data := sealed(t)
	for i := range data {
		for _, bit := range []byte{1, 0x20, 0x80} {
			data[i] ^= bit
			_, err := audit.Verify(bytes.NewReader(data), check)
			if last := i > bytes.LastIndexByte(data[:len(data)-1], '\n'); err == nil && !last {
				t.Errorf("byte %d changed by %#x unnoticed", i, bit)
			}
			data[i] ^= bit
		}
	}
}

func FuzzVerify(f *testing.F) {
	good := read(f, "testdata/format.jsonl")
	for raw := range bytes.Lines(good) {
		f.Add(good[:bytes.Index(good, raw)+len(raw)])
	}
	f.Add(good[:len(good)/2])
	f.Add([]byte(`{"seq":1,"prev":"","time":"2026-11-23T09:00:00Z","event":"log-open","why":"new"}` + "\n"))
	f.Add([]byte(`{"seq":18446744073709551615,"prev":"x","event":"log-open","why":"rotated"}` + "\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := audit.Verify(bytes.NewReader(data), check)
		if err != nil {
			if !errors.Is(err, audit.ErrBroken) {
				t.Errorf("Verify = %v, want ErrBroken", err)
			}
			return
		}
		if n := bytes.Count(data, []byte("\n")); r.Lines != n || r.Last-r.First != uint64(n-1) {
			t.Errorf("%d lines, Report %+v", n, r)
		}
		proved := bytes.Join(bytes.SplitAfter(data, []byte("\n"))[:r.Sealed], nil)
		if !bytes.HasPrefix(good, proved) {
			t.Errorf("accepted what nobody signed: %q", proved)
		}
	})
}

// lineHash is what the next line's prev must be.
func lineHash(line []byte) string {
	sum := sha256.Sum256(bytes.TrimSuffix(line, []byte("\n")))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}
