package main

import (
	"bytes"
	"crypto/ecdh"
	"io"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/brevet-dev/brevet/broker/keys/pkcs11/wire"
)

// What needs a library is tested in broker/keys/pkcs11, which starts this
// program.

func TestByHand(t *testing.T) {
	for _, tt := range []struct {
		args           []string
		code           int
		stdout, stderr string
	}{
		{[]string{"version"}, exitOK, "devel\n", ""},
		{[]string{"--version"}, exitOK, "devel\n", ""},
		{[]string{"serve"}, exitUsage, "", "started by brevetd"},
		{[]string{"version", "x"}, exitUsage, "", "hint: "},
	} {
		var stdout, stderr strings.Builder
		code := run(tt.args, &stdout, &stderr)
		if code != tt.code || stdout.String() != tt.stdout || !strings.Contains(stderr.String(), tt.stderr) {
			t.Errorf("run(%q) = %d, %q, %q", tt.args, code, stdout.String(), stderr.String())
		}
	}
}

func newHelper(t *testing.T) *helper {
	t.Helper()
	memory, err := newArena()
	if err != nil {
		t.Fatal(err)
	}
	return &helper{memory: memory, quiet: func() error { return nil }}
}

// converse returns the responses to requests.
func converse(t *testing.T, h *helper, requests ...*wire.Request) []*wire.Response {
	t.Helper()
	var in, out bytes.Buffer
	for _, q := range requests {
		if err := wire.WriteRequest(&in, q); err != nil {
			t.Fatal(err)
		}
	}
	if err := h.serve(&in, &out); err != nil {
		t.Fatal(err)
	}
	var responses []*wire.Response
	for range requests {
		p, err := wire.ReadResponse(&out)
		if err != nil {
			t.Fatal(err)
		}
		responses = append(responses, p)
	}
	return responses
}

func TestOutOfOrder(t *testing.T) {
	peer, err := ecdh.P256().NewPrivateKey(bytes.Repeat([]byte{1}, 32))
	if err != nil {
		t.Fatal(err)
	}
	requests := []*wire.Request{
		{Op: wire.Login, Secret: wire.NewSecret([]byte("canary"))},
		{Op: wire.Check},
		{Op: wire.Sign, Digest: make([]byte, 32)},
		{Op: wire.Agree, Peer: peer.PublicKey().Bytes()},
		{Op: wire.Generate, ID: []byte{1}},
		{Op: wire.Destroy, ID: []byte{1}},
		{Op: "\x1b[2J\n"},
		{},
	}
	for i, p := range converse(t, newHelper(t), requests...) {
		if p.Error == nil || p.Error.Kind != wire.KindRequest || !utf8.ValidString(p.Error.Text) || strings.ContainsAny(p.Error.Text, "\x1b\n") {
			t.Errorf("%q before open: %+v, want a refusal", requests[i].Op, p.Error)
		}
	}
	s := &session{module: &module{memory: newHelper(t).memory}, handle: 1, loggedIn: true}
	requests = append(requests,
		&wire.Request{Op: wire.Open, Module: "/nowhere/lib.so", Token: "another"},
		&wire.Request{Op: wire.Sign, Digest: make([]byte, 20)},
		&wire.Request{Op: wire.Agree, Peer: make([]byte, 65)},
	)
	for i, p := range converse(t, &helper{memory: s.memory, session: s}, requests...) {
		if p.Error == nil {
			t.Errorf("%q with a library without functions and keys succeeded", requests[i].Op)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	for path, want := range map[string]string{
		"lib.so":          "not an absolute path",
		"":                "not an absolute path",
		"/nowhere/lib.so": "/nowhere/lib.so",
		"/etc/passwd":     "/etc/passwd",
	} {
		p := converse(t, newHelper(t), &wire.Request{Op: wire.Open, Module: path, Token: "t"})[0]
		if p.Error == nil || p.Error.Kind != wire.KindModule || !strings.Contains(p.Error.Text, want) {
			t.Errorf("open %q: %+v, want %q", path, p.Error, want)
		}
	}
}

// TestServeEnds: with its input, and at once when that is not the protocol.
func TestServeEnds(t *testing.T) {
	for input, want := range map[string]string{"": "", "\x01": "reading a request", "GET / HTTP/1.1": "another version"} {
		err := newHelper(t).serve(strings.NewReader(input), io.Discard)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("serve of %q = %v, want %q", input, err, want)
		}
	}
}

func TestArena(t *testing.T) {
	h := newHelper(t)
	a := h.memory
	first := a.bytes(3)
	copy(first, "abc")
	mark := a.used
	second := a.bytes(1)
	second[0] = 'd'
	if address(second)%16 != 0 || address(second) == address(first) {
		t.Error("not aligned")
	}
	a.release(mark)
	if second[0] != 0 || string(first) != "abc" {
		t.Error("release wiped the wrong part")
	}
	a.wipe()
	if !bytes.Equal(a.mem, make([]byte, arenaSize)) || a.used != 0 {
		t.Error("wipe left something")
	}
	if a.copy(nil) != 0 {
		t.Error("nothing has an address")
	}
	h.session = &session{module: &module{memory: a}, loggedIn: true, root: 1}
	// Not a request that can come, but an error it is, and no crash.
	p := h.answer(&wire.Request{Op: wire.Login})
	if p.Error == nil {
		t.Error("a second login succeeded")
	}
	for _, n := range []int{-1, arenaSize + 1} {
		func() {
			defer func() {
				if recover() != errArena {
					t.Errorf("bytes(%d) did not panic with errArena", n)
				}
			}()
			a.bytes(n)
		}()
	}
}

// TestArenaFull: what does not fit is an error in the response.
func TestArenaFull(t *testing.T) {
	h := newHelper(t)
	h.session = &session{module: &module{memory: h.memory}, loggedIn: true, write: true}
	p := h.answer(&wire.Request{Op: wire.Generate, ID: make([]byte, arenaSize)})
	if p.Error == nil || p.Error.Kind != wire.KindModule || p.Error.Text != errArena.Error() {
		t.Errorf("answer = %+v, want that the memory is full", p.Error)
	}
}

func TestPrintable(t *testing.T) {
	for in, want := range map[string]string{
		"plain":                  "plain",
		"a\nb\x1b[2J\x7f\u2028c": "a b [2J  c",
		"\xff\xfe":               "?",
		strings.Repeat("é", 400): strings.Repeat("é", 256),
	} {
		if got := printable(in); got != want {
			t.Errorf("printable(%q) = %q, want %q", in, got, want)
		}
	}
}
