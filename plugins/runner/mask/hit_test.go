package mask_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/brevet-dev/brevet/plugins/runner/mask"
)

// TestHits names what was found, and where; never the text.
func TestHits(t *testing.T) {
	const token, password = "tok_9f3Kq7ZtR2vX8mLp4WsB", `p@ss "w0rd"`
	m := newMasker(t, token, password, "first line\nsecond line")
	for _, tt := range []struct {
		text  string
		wants []mask.Hit
	}{
		{"nothing", nil},
		{"it is " + token, []mask.Hit{{Secret: 0, Encoding: "plain", Offset: 6, Line: 1}}},
		{token + token, []mask.Hit{{Secret: 0, Encoding: "plain", Offset: 0, Line: 1}}},
		{token + " " + token, []mask.Hit{{Secret: 0, Encoding: "plain", Line: 1}, {Secret: 0, Encoding: "plain", Offset: 25, Line: 1}}},
		{"\n\n" + token + password, []mask.Hit{{Secret: 0, Encoding: "plain", Offset: 2, Line: 3}, {Secret: 1, Encoding: "plain", Offset: 26, Line: 3}}},
		{"second line\n", []mask.Hit{{Secret: 2, Encoding: "plain", Line: 1}}},
		{"a\nfirst line\nsecond line\n", []mask.Hit{{Secret: 2, Encoding: "plain", Offset: 2, Line: 2}}},
		{`"p@ss \"w0rd\""`, []mask.Hit{{Secret: 1, Encoding: "backslashes", Offset: 1, Line: 1}}},
		{"p%40ss+%22w0rd%22", []mask.Hit{{Secret: 1, Encoding: "percent", Line: 1}}},
		{"p@ss &quot;w0rd&#34;", []mask.Hit{{Secret: 1, Encoding: "entities", Line: 1}}},
		{encode64(token), []mask.Hit{{Secret: 0, Encoding: "base64", Line: 1}}},
		{encode64(encode64(token)), []mask.Hit{{Secret: 0, Encoding: "base64 of base64", Line: 1}}},
		{encode64(marshalJSON(password)), []mask.Hit{{Secret: 1, Encoding: "base64 of an escaped form", Line: 1}}},
		{hex.EncodeToString([]byte(token)), []mask.Hit{{Secret: 0, Encoding: "hex", Line: 1}}},
		{hex.Dump([]byte(token)), []mask.Hit{{Secret: 0, Encoding: "hex dump", Offset: 10, Line: 1}}},
	} {
		for _, size := range []int{1, 5, 1000} {
			var hits []mask.Hit
			err := m.Find(slowReader{strings.NewReader(tt.text), size}, func(h mask.Hit) { hits = append(hits, h) })
			if err != nil || fmt.Sprint(hits) != fmt.Sprint(tt.wants) {
				t.Errorf("Find(%q) in pieces of %d = %v, %v; want %v", tt.text, size, hits, err, tt.wants)
			}
		}
	}
}

// TestHitsWhileWriting tells of a hit as soon as it is certain where it ends, and
// of the last one when the Writer is closed.
func TestHitsWhileWriting(t *testing.T) {
	var lines []int
	w := newMasker(t, "hunter2!").Writer(io.Discard)
	w.OnHit = func(h mask.Hit) { lines = append(lines, h.Line) }
	for _, step := range []struct {
		text string
		want int
	}{{"hunter2!", 0}, {". ", 1}, {"\nhunter2! no", 2}, {"\nand hunter2!", 2}} {
		if _, err := io.WriteString(w, step.text); err != nil || len(lines) != step.want {
			t.Errorf("after %q: %d hits, %v; want %d", step.text, len(lines), err, step.want)
		}
	}
	if err := w.Close(); err != nil || fmt.Sprint(lines) != "[1 2 3]" {
		t.Errorf("after Close: hits in lines %v, %v", lines, err)
	}
}

func TestFindError(t *testing.T) {
	broken := errors.New("broken disk")
	r := io.MultiReader(strings.NewReader("hunter2! and"), iotest.ErrReader(broken))
	hits := 0
	if err := newMasker(t, "hunter2!").Find(r, func(mask.Hit) { hits++ }); !errors.Is(err, broken) || hits != 1 {
		t.Errorf("Find = %v after %d hits, want %v after 1", err, hits, broken)
	}
}

// TestForms puts values through what is done to them twice or in ways that only
// some tools know.
func TestForms(t *testing.T) {
	const token = "tok_9f3Kq7ZtR2vX8mLp4WsB"
	const password = `it's "a\b" <&> é`
	m := newMasker(t, token, password, "-----BEGIN KEY-----\nMIIEvQIBADANBgkq\n-----END KEY-----\n")
	for _, tt := range []struct{ name, text, want string }{
		{"colour codes between", "\x1b[1mtok_9f\x1b[0;31m3Kq7\x1b[mZtR2vX8mLp4WsB", "\x1b[1m***"},
		{"a link of a terminal between", "tok_9f\x1b]8;;http://x\x1b\\3Kq7ZtR2vX8mLp4WsB.", "***."},
		{"colour codes in JSON", `tok_9f\u001b[31m3Kq7ZtR2vX8mLp4WsB.`, "***."},
		{"carriage returns", "tok_9f3Kq7Z\rtR2vX8mLp4WsB.", "***."},
		{"a line continued", "tok_9f3Kq7Z\\\n   tR2vX8mLp4WsB.", "***."},
		{"PowerShell -EncodedCommand", "powershell -enc " + encode64(utf16LE("echo "+token)) + " x", "powershell -enc ZQBjAGgAbwAgA***== x"},
		{"UTF-16", "\xff\xfe" + utf16LE("x "+token), "\xff\xfex\x00 \x00***\x00"},
		{"hex of UTF-16", hex.EncodeToString([]byte(utf16LE(token))) + ".", "***."},
		{"percent twice", "tok%255F9f3Kq7ZtR2vX8mLp4WsB.", "***."},
		{"JSON in JSON in JSON", `x: it's \\\\\\\"a\\\\\\\\b\\\\\\\" <&> \\\\u00e9.`, "x: ***."},
		{"XML in JSON", `it's \u0026quot;a\\b\u0026#34; \u0026lt;&amp;&gt; é.`, "***."},
		{"Python repr", `'it\'s "a\\b" <&> é'`, "'***'"},
		{"Python ascii", `'it\'s "a\\b" <&> \xe9'`, "'***'"},
		{"Python bytes", `b'it\'s "a\\b" <&> \xc3\xa9'`, "b'***'"},
		{"Ruby, Rust, JavaScript", `it's "a\\b" <&> \u{e9}.`, "***."},
		{"strace", `it's \"a\\b\" <&> \303\251.`, "***."},
		{"set -x", `+ x='it'\''s "a\b" <&> é'`, "+ x='***'"},
		{"set -x of dash", `+ x='it'"'"'s "a\b" <&> é'`, "+ x='***'"},
		{"$'…'", `$'it\'s "a\\b" <&> \xc3\xa9'`, "$'***'"},
		{"printf %q", `it\'s\ \"a\\b\"\ \<\&\>\ é `, "*** "},
		{"YAML, SQL, PowerShell", `'it''s "a\b" <&> é'`, "'***'"},
		{"CSV", `"it's ""a\b"" <&> é"`, `"***"`},
		{"a key in JSON", `{"k":"-----BEGIN KEY-----\nMIIEvQIBADANBgkq\n-----END KEY-----\n"}`, `{"k":"***\n"}`},
		{"a key, indented", "k: |\n  -----BEGIN KEY-----\n  MIIEvQIBADANBgkq\n  -----END KEY-----\n", "k: |\n  ***\n"},
		{"base64 of a line", encode64("MIIEvQIBADANBgkq"), "***=="},
		{"xxd", "00000000: 780a 746f 6b5f 3966 334b 7137 5a74 5232  x.tok_9f3Kq7ZtR2\n00000010: 7658 386d 4c70 3457 7342 0a              vX8mLp4WsB.\nnext", "00000000: 780a ***\nnext"},
		{"od", "0000000 067564 057553 063071 045463 033561 072132 031122 054166\n0000020 066470 070114 053464 041163\n0000030", "0000000 ***\n0000030"},
		{"od -c", "0000000   t   o   k   _   9   f   3   K   q   7   Z   t   R   2   v   X\n0000020   8   m   L   p   4   W   s   B  \\n\n0000031", "0000000***\n0000031"},
		{"a dump in the middle of a log", "12:00:01 sent 74 6f 6b 5f 39 66 33 4b 71 37 5a 74 52 32 76 58 38 6d 4c 70 34 57 73 42 to x", "12:00:01 sent *** to x"},
	} {
		for size := 1; size <= len(tt.text)+1; size++ {
			if got := through(t, m, tt.text, size); got != tt.want {
				t.Errorf("%s: %q in pieces of %d = %q, want %q", tt.name, tt.text, size, got, tt.want)
				break
			}
		}
	}
}

// TestHeldTail passes on what cannot be part of a value at once, also where a
// line ends.
func TestHeldTail(t *testing.T) {
	m := newMasker(t, "hunter2!")
	for _, tt := range []struct{ in, want string }{
		{"> ", "> "},
		{"what? [y/n] ", "what? [y/n] "},
		{"a line.\n", "a line.\n"},
		{"a line.\r\n", "a line.\r\n"},
		{"\r 45% [====>   ]", "\r 45% [====>   ]"},
		{"\x1b[32mok\x1b[0m: ", "\x1b[32mok\x1b[0m: "},
		{base64.StdEncoding.EncodeToString([]byte("user:hunt")), "dXNlcj"},
	} {
		var out bytes.Buffer
		if _, err := m.Writer(&out).Write([]byte(tt.in)); err != nil || out.String() != tt.want {
			t.Errorf("Write(%q) passes on %q, %v; want %q", tt.in, out.String(), err, tt.want)
		}
	}
}
