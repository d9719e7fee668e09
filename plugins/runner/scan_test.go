package runner_test

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/plugins/runner"
	"github.com/brevet-dev/brevet/plugins/runner/mask"
)

// printed is all that a report says.
func printed(t testing.TB, r *runner.ScanReport) string {
	t.Helper()
	text, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

const sought = "correct-horse-battery/" + canary

func newScan(t testing.TB) *runner.Scan {
	t.Helper()
	masker, refused := mask.New([]api.Secret{api.NewSecret(sought), api.NewSecret("another-" + canary)})
	if len(refused) > 0 {
		t.Fatal(refused)
	}
	return &runner.Scan{Masker: masker, Names: []string{"deploy.token", "registry.token"}}
}

// A scanned folder, by what is found in it.
type scanned struct {
	found, gaps, skipped []string
	*runner.ScanReport
}

func scan(t testing.TB, ctx context.Context, dir string, paths ...string) scanned {
	t.Helper()
	var absolute []string
	for _, p := range paths {
		absolute = append(absolute, filepath.Join(dir, p))
	}
	s := newScan(t)
	s.SetFree(4 << 20) // and not 64 MiB, which the race detector makes minutes of
	out := scanned{ScanReport: s.Run(ctx, absolute)}
	for _, f := range out.Findings {
		at := fmt.Sprint(":", f.Line)
		if f.Binary && f.Line > 0 {
			at = " binary"
		}
		out.found = append(out.found, strings.TrimPrefix(f.Path, dir+"/")+at+" "+f.Encoding+" "+f.Value)
	}
	for _, g := range out.Gaps {
		out.gaps = append(out.gaps, strings.TrimPrefix(g.Path, dir+"/")+": "+g.Reason)
	}
	for _, g := range out.Skipped {
		out.skipped = append(out.skipped, strings.TrimPrefix(g.Path, dir+"/")+": "+g.Reason)
	}
	if text := printed(t, out.ScanReport); strings.Contains(text, canary) {
		t.Errorf("the report shows a value: %s", text)
	}
	return out
}

// sh runs a script in dir with the real tools, where SOUGHT is the value.
func sh(t testing.TB, dir, script string) {
	t.Helper()
	cmd := exec.Command("sh", "-euc", script)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "SOUGHT="+sought, "LC_ALL=C", "GIT_CONFIG_GLOBAL=/dev/null")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out)
	}
}

// What real tools pack is looked through, and what they made that cannot be is told.
func TestScanOfRealTools(t *testing.T) {
	const long = "a-name-of-more-than-a-hundred-characters-so-that-every-format-of-tar-needs-another-way-to-write-it-down/twice"
	const plain = " plain deploy.token"
	const unlisted = "zip: a member that is not in the directory; unpack the file first, with what finds it"
	for _, tt := range []struct {
		name, script string
		found, gaps  []string
	}{
		{"files", `printf 'x^2 + y^2\ntwo %s\n' "$SOUGHT" >x/f; printf '%s' "$SOUGHT" | base64 >x/b; printf '%s' "$SOUGHT" | xxd -p >x/h`,
			[]string{"x/b:1 base64 deploy.token", "x/f:2" + plain, "x/h:1 hex deploy.token"}, nil},
		{"nothing", `echo nothing >x/f; tar cf x/t x/f; : >x/empty`, nil, nil},
		{"a binary file", `printf 'a\0b\n%s' "$SOUGHT" >x/f`, []string{"x/f binary" + plain}, nil},
		{"tar in each format", `mkdir -p ` + long + `; echo "$SOUGHT" >` + long + `/f; for f in v7 ustar gnu pax oldgnu; do tar --format=$f -cf x/$f ` + long + ` 2>/dev/null || :; done; rm x/v7`,
			[]string{"x/gnu!" + long + "/f:1" + plain, "x/oldgnu!" + long + "/f:1" + plain, "x/pax!" + long + "/f:1" + plain, "x/ustar!" + long + "/f:1" + plain}, nil},
		{"sparse files in tar", `printf '%s' "$SOUGHT" >f; truncate -s 300M f; printf '%s' "$SOUGHT" >>f; tar --format=gnu -Scf x/gnu f; for v in 0.0 0.1 1.0; do tar --format=pax --sparse-version=$v -Scf x/pax$v f; done`,
			[]string{"x/gnu!f binary" + plain, "x/pax0.0!f binary" + plain, "x/pax0.1!f binary" + plain, "x/pax1.0!f binary" + plain}, nil},
		{"a large number of holes in tar", `for i in $(seq 100); do printf "$i%s" "$SOUGHT" | dd of=f bs=64K seek=$((i * 2)) conv=notrunc status=none; done; tar --format=gnu -Scf x/t f`, []string{"x/t!f binary" + plain}, nil},
		{"tar of old", `echo "$SOUGHT" >f; tar --format=v7 -cf x/t f`, []string{"x/t!f:1" + plain}, nil},
		{"tar in gzip", `echo "$SOUGHT" >f; tar czf x/t.tgz f`, []string{"x/t.tgz!!f:1" + plain}, nil},
		{"gzip in two parts", `echo a | gzip >x/g; echo "$SOUGHT" | gzip >>x/g`, []string{"x/g!:2" + plain}, nil},
		{"the name in gzip", `cd x; f=$(printf '%s' "$SOUGHT" | xxd -p -c0); echo f >$f; gzip $f; mv *.gz g`, []string{"x/g!:0 hex deploy.token"}, nil},
		{"zip", `echo "$SOUGHT" >f; zip -q9 x/z f; zip -q0 x/stored f; printf '%s' "$SOUGHT" | zip -qz x/commented.zip f`,
			[]string{"x/commented.zip!f:1" + plain, "x/stored.zip!f:1" + plain, "x/z.zip!f:1" + plain}, nil},
		{"zip in its other forms", `echo "$SOUGHT" >f; zip -qfz x/z64 f; echo "$SOUGHT" | zip -q x/stdin.zip -; zip -q x/empty f; zip -qd x/empty f 2>/dev/null || :`,
			[]string{"x/stdin.zip!-:1" + plain, "x/z64.zip!f:1" + plain}, nil},
		{"the comment of a zip", `echo f >f; printf '%s\n' "$SOUGHT" | zip -qz x/z f`, []string{"x/z.zip binary" + plain}, nil},
		{"zip after a program", `echo "$SOUGHT" >f; zip -q9 z f; cat /bin/true z.zip >x/run; zip -qA x/run`, []string{"x/run binary" + plain, "x/run!f:1" + plain}, nil},
		{"each in each", `echo "$SOUGHT" >f; zip -q a f; tar czf b.tgz a.zip; zip -q c b.tgz; tar cf x/d c.zip`, []string{"x/d!c.zip!b.tgz!!a.zip!f:1" + plain}, nil},
		{"as deep as is looked", `echo "$SOUGHT" >f; for i in 1 2 3 4 5 6 7 8; do gzip -c f >g; mv g f; done; mv f x/f`, []string{"x/f!!!!!!!!:1" + plain}, nil},
		{"deeper", `echo "$SOUGHT" >f; for i in 1 2 3 4 5 6 7 8 9; do gzip -c f >g; mv g f; done; mv f x/f`, nil, []string{"x/f!!!!!!!!: archives within archives, more than 8 deep"}},
		{"an object of git", `cd x; git init -q; echo "$SOUGHT" | git hash-object -w --stdin >/dev/null; mv .git/objects/??/* o; rm -r .git`, []string{"x/o! binary" + plain}, nil},
		{"names", `d=x/$(printf %s "$SOUGHT" | xxd -p -c0); mkdir $d; ln -s nowhere-$(printf %s "$SOUGHT" | base64 -w0) x/l`,
			[]string{"x/***:0 hex deploy.token", "x/l:0 base64 deploy.token"}, nil},
		{"names in archives", `touch another-` + canary + `; tar cf x/t another-*; zip -q x/z another-*; rm another-*; ln -s another-` + canary + ` l; tar cf x/link l`,
			[]string{"x/link!l:0 plain registry.token", "x/t!***:0 plain registry.token", "x/z.zip!***:0 plain registry.token"}, nil},
		{"zip after tar", `(seq 2000; echo "$SOUGHT") >f; zip -q9 z f; echo >e; tar cf x/t e; cat z.zip >>x/t; zip -qA x/t`, []string{"x/t!f:2001" + plain}, []string{"x/t: tar: something else after its end"}},
		{"zip after what looks like zlib", `(seq 2000; echo "$SOUGHT") >f; zip -q9 z f; printf 'x\001\377' >x/z; cat z.zip >>x/z; zip -qA x/z`, []string{"x/z!f:2001" + plain}, nil},
		{"zip after a program in tar", `(seq 2000; echo "$SOUGHT") >f; zip -q9 z f; (echo '#!/usr/bin/python3'; cat z.zip) >app; tar czf x/t app`,
			nil, []string{"x/t!!app: a zip file after something else, within another archive; unpack that one first"}},
		{"tar after tar", `(seq 2000; echo "$SOUGHT") | gzip >f; echo >e; tar cf a e; tar cf b f; cat a b >x/t`, []string{"x/t!f!:2001" + plain}, nil},
		{"gzip after tar", `(seq 2000; echo "$SOUGHT") | gzip >f; echo >e; tar cf x/t e; cat f >>x/t`, nil, []string{"x/t: tar: something else after its end"}},
		{"zip after zip", `(seq 2000; echo "$SOUGHT") >f; zip -q9 a f; echo e >e; zip -q b e; cat a.zip b.zip >x/z; (head -c 65526 /dev/zero; cat a.zip b.zip) >x/far`,
			nil, []string{"x/far: " + unlisted, "x/z: " + unlisted}},
		{"zip in the comment of a zip", `(seq 2000; echo "$SOUGHT") >f; zip -q9 a f; python3 -c 'import zipfile
with zipfile.ZipFile("x/z", "w") as z:
	z.comment = open("a.zip", "rb").read()[:2000]'`, nil, []string{"x/z: " + unlisted}},
		{"what a zip does not list", `(seq 2000; echo "$SOUGHT") >f; python3 -c 'import zipfile
for i in 0, 1, 2:
	with zipfile.ZipFile(f"x/z{i}", "w", zipfile.ZIP_DEFLATED) as z:
		for name in "a", "b":
			z.writestr(name, "x" * 70000)
		z.write("f")
		z.writestr("d", "x")
		z.filelist.insert(i, z.filelist.pop(2))
		if i > 0:
			z.filelist.pop(i)'`, []string{"x/z0!f:2001" + plain}, []string{"x/z1: " + unlisted, "x/z2: " + unlisted}},
		{"what a zip lists otherwise", `(seq 2000; echo "$SOUGHT") >f; zip -q9 x/method f; zip -q9 x/size f; printf '\0' | dd of=x/method.zip bs=1 seek=8 conv=notrunc status=none; printf '\1\1' | dd of=x/size.zip bs=1 seek=18 conv=notrunc status=none`,
			nil, []string{"x/method.zip!f: zip: what is before it says otherwise than the directory", "x/size.zip!f: zip: what is before it says otherwise than the directory"}},
		{"more packed than a member has", `python3 -c 'import os, zipfile, zlib
def packed(text):
	c = zlib.compressobj(wbits=-15)
	return c.compress(text.encode()) + c.flush()
with zipfile.ZipFile("x/z", "w") as z:
	z.writestr("f", packed("nothing") + packed("2000 " * 2000 + os.environ["SOUGHT"]))
	z.filelist[0].compress_type, z.filelist[0].file_size, z.filelist[0].CRC = 8, 7, zlib.crc32(b"nothing")'; printf '\10' | dd of=x/z bs=1 seek=8 conv=notrunc status=none`,
			nil, []string{"x/z!f: zip: it is not what was packed"}},
		{"encrypted", `echo "$SOUGHT" >f; zip -qP secret x/z f`, nil, []string{"x/z.zip!f: encrypted"}},
		{"cut off", `head -c 60000 /dev/urandom | base64 >f; echo "$SOUGHT" >>f; gzip -c f | head -c 9000 >x/g; zip -q z f; head -c 9000 z.zip >x/z; tar cf - f | head -c 9000 >x/t`, nil,
			[]string{"x/g!: unexpected EOF", "x/t: unexpected EOF", "x/z: zip: not a valid zip file"}},
		{"altered", `yes abcdefg | head -c 9000 >f; gzip -c f >x/g; printf x | dd of=x/g bs=1 seek=$(($(stat -c %s x/g) - 6)) conv=notrunc status=none`, nil, []string{"x/g!: gzip: invalid checksum"}},
		{"other formats", `(seq 2000; echo "$SOUGHT") >f; xz -c f >x/xz; zstd -qc f >x/zstd; bzip2 -c f >x/bzip2`, nil,
			[]string{"x/bzip2: cannot be opened: bzip2", "x/xz: cannot be opened: xz", "x/zstd: cannot be opened: zstd"}},
		{"other formats in other ways", `(seq 2000; echo "$SOUGHT") >f; bzip2 -1c f >x/bzip2; xz --format=lzma -c f >x/lzma; (printf 'P*M\030\004\000\000\000skip'; zstd -qc f) >x/zstd`, nil,
			[]string{"x/bzip2: cannot be opened: bzip2", "x/lzma: cannot be opened: lzma", "x/zstd: cannot be opened: zstd"}},
		{"zlib of each level", `cd x; (seq 2000; echo "$SOUGHT") >f; for i in 1 3 6 9; do python3 -c 'import sys, zlib; sys.stdout.buffer.write(zlib.compress(open("f", "rb").read(), int(sys.argv[1])))' $i >z$i; done; rm f`,
			[]string{"x/z1!:2001" + plain, "x/z3!:2001" + plain, "x/z6!:2001" + plain, "x/z9!:2001" + plain}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			sh(t, dir, "mkdir x; "+tt.script)
			got := scan(t, t.Context(), dir, "x")
			if !slices.Equal(got.found, tt.found) || !slices.Equal(got.gaps, tt.gaps) {
				t.Errorf("found %q\n with gaps %q\nwant %q\n with gaps %q", got.found, got.gaps, tt.found, tt.gaps)
			}
		})
	}
}

// Links are not followed. One that leads elsewhere is told, since what uploads the
// folder may follow it; pipes and devices are left alone.
func TestScanOfLinks(t *testing.T) {
	dir := t.TempDir()
	sh(t, dir, `mkdir x y; echo "$SOUGHT" >x/f; echo "$SOUGHT" >y/f; ln -s f x/inside; ln -s ../y/f x/out; ln -s ../y x/folder; ln -s none x/dangling; ln -s x/../x loop; ln -s "$PWD/x" x/loop; mkfifo x/pipe`)
	got := scan(t, t.Context(), dir, "x")
	if want := []string{"x/f:1 plain deploy.token"}; !slices.Equal(got.found, want) {
		t.Errorf("found %q, want %q", got.found, want)
	}
	const why = ": a link out of what is looked through; name what it leads to, too, or remove it"
	if want := []string{"x/folder" + why, "x/out" + why}; !slices.Equal(got.gaps, want) {
		t.Errorf("gaps %q, want %q", got.gaps, want)
	}
	if want := []string{"x/dangling: a link to nothing", "x/pipe: a device, pipe or socket"}; !slices.Equal(got.skipped, want) {
		t.Errorf("skipped %q, want %q", got.skipped, want)
	}
	both := scan(t, t.Context(), dir, "x", "y")
	if len(both.gaps) != 0 || len(both.found) != 2 {
		t.Errorf("with what they lead to: found %q, gaps %q", both.found, both.gaps)
	}
	if named := scan(t, t.Context(), dir, "loop"); !slices.Equal(named.found, []string{"loop/f:1 plain deploy.token"}) {
		t.Errorf("of a link that is named: found %q", named.found)
	}
	if none := scan(t, t.Context(), dir, "none"); !slices.Equal(none.gaps, []string{"none: no such file or directory"}) {
		t.Errorf("of nothing: gaps %q", none.gaps)
	}
}

// Bombs end soon, and are told.
func TestScanOfBombs(t *testing.T) {
	dir := t.TempDir()
	sh(t, dir, `mkdir x; head -c 20M /dev/zero | gzip -9 >x/gzip; gzip -9c x/gzip >x/nested; 
		head -c 900K /dev/zero >f; for i in 1 2 3 4 5 6 7 8 9 10 11 12; do ln f f$i; done; zip -q9 x/zip f f?`)
	start := time.Now()
	got := scan(t, t.Context(), dir, "x")
	var bombs []string
	for _, g := range got.gaps {
		if !strings.HasSuffix(g, ": unpacks to more than 200 times its size") {
			t.Errorf("gap %q", g)
		}
		name, _, _ := strings.Cut(strings.TrimPrefix(g, "x/"), "!")
		bombs = append(bombs, name)
	}
	if want := []string{"gzip", "nested", "zip.zip"}; !slices.Equal(bombs, want) {
		t.Errorf("gaps %q, want one for each of %q", got.gaps, want)
	}
	if took := time.Since(start); took > 30*time.Second {
		t.Errorf("it took %s", took)
	}
}

func TestScanEnds(t *testing.T) {
	dir := t.TempDir()
	sh(t, dir, `mkdir x; echo "$SOUGHT" >x/f`)
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("told to"))
	got := scan(t, ctx, dir, "x")
	if len(got.gaps) != 1 || !strings.HasPrefix(got.gaps[0], "all the rest: ended before all was looked through: ") {
		t.Errorf("gaps %q", got.gaps)
	}
	late, cancelLate := context.WithDeadline(t.Context(), time.Now())
	defer cancelLate()
	if got := scan(t, late, dir, "x"); !slices.Equal(got.gaps, []string{"all the rest: the time is up, and not all was looked through"}) {
		t.Errorf("gaps %q", got.gaps)
	}
}

// archives are seeds for the fuzzer: each of one member with a value.
func archives(t testing.TB) [][]byte {
	t.Helper()
	check := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	var packed, zipped, zippedTwice bytes.Buffer
	g := gzip.NewWriter(&packed)
	w := tar.NewWriter(g)
	check(w.WriteHeader(&tar.Header{Name: "f", Typeflag: tar.TypeReg, Size: int64(len(sought)), Mode: 0o600}))
	_, err := w.Write([]byte(sought))
	check(err)
	check(w.Close())
	check(g.Close())
	for _, z := range []struct {
		to      *bytes.Buffer
		content []byte
	}{{&zipped, []byte(sought)}, {&zippedTwice, packed.Bytes()}} {
		w := zip.NewWriter(z.to)
		f, err := w.Create("f")
		check(err)
		_, err = f.Write(z.content)
		check(err)
		check(w.Close())
	}
	return [][]byte{packed.Bytes(), zipped.Bytes(), zippedTwice.Bytes()}
}

// Whatever a file holds, it is looked through to an end without a panic, and what
// is in it as it is, is found.
func FuzzScan(f *testing.F) {
	for _, seed := range archives(f) {
		f.Add(seed, false)
		f.Add(seed[:len(seed)-9], true)
	}
	f.Add([]byte("x\x9c"), true)
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, data []byte, with bool) {
		file := filepath.Join(dir, fmt.Sprint(os.Getpid()))
		if with {
			data = append(data, "\n"+sought+"\n"...)
		}
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
		got := scan(t, t.Context(), "", file)
		if with && len(got.found) == 0 {
			t.Errorf("what is there is not found; gaps %q", got.gaps)
		}
		for _, gap := range got.gaps {
			if strings.Contains(gap, "panic") {
				t.Error(gap)
			}
		}
	})
}

// What the standard library writes is read as that reads it, whatever the names and
// contents are.
func FuzzArchives(f *testing.F) {
	f.Add("a", []byte("x"), uint8(0))
	f.Add(strings.Repeat("long/", 60)+"name", []byte("PK\x05\x06"), uint8(1))
	f.Add("ü b", bytes.Repeat([]byte("x"), 1000), uint8(2))
	f.Add(strings.Repeat("l", 300), []byte("\x1f\x8b"), uint8(3))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, name string, content []byte, form uint8) {
		content = append(content, "\n"+sought+"\n"...)
		first, second := "1"+member(name), "2"+member(name)
		var archive bytes.Buffer
		pack(t, &archive, form, content, first, second)
		file := filepath.Join(dir, fmt.Sprint(os.Getpid()))
		if err := os.WriteFile(file, archive.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		report := newScan(t).Run(t.Context(), []string{file})
		for _, want := range []string{file + "!" + first, file + "!" + second} {
			if !slices.ContainsFunc(report.Findings, func(f *runner.Finding) bool { return strings.HasPrefix(f.Path, want) }) {
				t.Errorf("nothing was found in %q: the report is %s", want, printed(t, report))
			}
		}
	})
}

// member makes a name of s that is shown as it is.
func member(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < '.' || r > 'z' || r == '\\' || r == '`' {
			return 'x'
		}
		return r
	}, s)
	return s[:min(len(s), 500)]
}

// pack writes an archive of two members.
func pack(t testing.TB, to io.Writer, form uint8, content []byte, names ...string) {
	t.Helper()
	check := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	tarred, zipped := tar.NewWriter(to), zip.NewWriter(to)
	for _, name := range names {
		var w io.Writer = tarred
		var err error
		switch form % 4 {
		case 0:
			check(tarred.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Size: int64(len(content)), Format: tar.FormatPAX}))
		case 1:
			check(tarred.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Size: int64(len(content)), Format: tar.FormatGNU}))
		case 2:
			w, err = zipped.Create(name)
		case 3:
			w, err = zipped.CreateHeader(&zip.FileHeader{Name: name, Method: zip.Store})
		}
		check(err)
		_, err = w.Write(content)
		check(err)
	}
	if form%4 < 2 {
		check(tarred.Close())
	} else {
		check(zipped.Close())
	}
}

// BenchmarkScan looks through a file of random base64 and one of tar in gzip.
func BenchmarkScan(b *testing.B) {
	dir := b.TempDir()
	line := base64.StdEncoding.EncodeToString(bytes.Repeat([]byte("an ordinary line of a log, number 17; "), 3)) + "\n"
	if err := os.WriteFile(filepath.Join(dir, "f"), bytes.Repeat([]byte(line), 64<<20/len(line)), 0o600); err != nil {
		b.Fatal(err)
	}
	for _, name := range []string{"f", "t.tgz"} {
		if name != "f" {
			sh(b, dir, "tar czf t.tgz f")
		}
		b.Run(name, func(b *testing.B) {
			b.SetBytes(64 << 20)
			for b.Loop() {
				if got := scan(b, b.Context(), dir, name); len(got.found)+len(got.gaps) > 0 {
					b.Fatal(got.found, got.gaps)
				}
			}
		})
	}
}

// TestScanOfLongNames packs many members with long names of which there is
// something to tell: that must not be held for each as long as it is.
func TestScanOfLongNames(t *testing.T) {
	const members = 12000
	var packed bytes.Buffer
	w := tar.NewWriter(&packed)
	for i := range members {
		h := &tar.Header{Name: strings.Repeat("a", 5<<10) + fmt.Sprint(i) + sought, Size: 6, Format: tar.FormatGNU, Mode: 0o600}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, "\xfd7zXZ\x00"); err != nil {
			t.Fatal(err)
		}
	}
	findings, gaps, held := newScan(t).Held(packed.Bytes())
	if findings+gaps != 2*10000 || held > 40<<20 {
		t.Errorf("%d findings and %d gaps, with %d MiB of paths; want 10000 each, and less than 40", findings, gaps, held>>20)
	}
}
