package wire_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/brevet-dev/brevet/broker/keys/pkcs11/wire"
)

var update = flag.Bool("update", false, "rewrite the golden files")

var requests = map[string]*wire.Request{
	"open":     {Op: wire.Open, Module: "/usr/lib/softhsm/libsofthsm2.so", Token: "brevet", Write: true},
	"login":    {Op: wire.Login, Secret: wire.NewSecret([]byte("1234"))},
	"check":    {Op: wire.Check},
	"generate": {Op: wire.Generate, ID: []byte{1, 2, 3}},
	"destroy":  {Op: wire.Destroy, ID: []byte{1, 2, 3}},
	"sign":     {Op: wire.Sign, Digest: bytes.Repeat([]byte{7}, 32)},
	"agree":    {Op: wire.Agree, Peer: append([]byte{4}, make([]byte, 64)...)},
}

var responses = map[string]*wire.Response{
	"opened":    {Tokens: []wire.Token{{Label: "brevet", Serial: "01", Manufacturer: "m", Model: "x", FinalTry: true}}},
	"keys":      {Keys: &wire.Keys{Private: []wire.Private{{Label: wire.RootLabel, ID: []byte{1}, EC: true, Sensitive: true}}, Public: []wire.Public{{Label: wire.RootLabel, ID: []byte{1}, Params: []byte{6}, Point: []byte{4}}}}},
	"signature": {Signature: bytes.Repeat([]byte{9}, 64)},
	"secret":    {Secret: wire.NewSecret(bytes.Repeat([]byte{5}, 32))},
	"return":    {Error: &wire.Error{Kind: wire.KindReturn, Call: "C_Sign", Code: 0x101}},
	"no token":  {Error: &wire.Error{Kind: wire.KindToken, Text: "no token has this label"}, Tokens: []wire.Token{{Label: "other", Serial: "02"}}},
	"done":      {},
}

// The frames of version 1 are what they were: a change needs a new version.
func TestGolden(t *testing.T) {
	for name, q := range requests {
		var frame bytes.Buffer
		if err := wire.WriteRequest(&frame, q); err != nil {
			t.Fatal(err)
		}
		golden(t, "request-"+name, frame.Bytes())
		got, err := wire.ReadRequest(iotest.OneByteReader(&frame))
		if err != nil {
			t.Fatalf("reading the request %s: %v", name, err)
		}
		same(t, name, got, q, got.Secret, q.Secret)
	}
	for name, p := range responses {
		var frame bytes.Buffer
		if err := wire.WriteResponse(&frame, p); err != nil {
			t.Fatal(err)
		}
		golden(t, "response-"+strings.ReplaceAll(name, " ", "-"), frame.Bytes())
		got, err := wire.ReadResponse(iotest.OneByteReader(&frame))
		if err != nil {
			t.Fatalf("reading the response %s: %v", name, err)
		}
		same(t, name, got, p, got.Secret, p.Secret)
	}
}

func same(t *testing.T, name string, got, want any, gotSecret, wantSecret wire.Secret) {
	t.Helper()
	g, _ := json.Marshal(got)
	w, _ := json.Marshal(want)
	if !bytes.Equal(g, w) || !bytes.Equal(gotSecret.Reveal(), wantSecret.Reveal()) {
		t.Errorf("%s: read %s, want %s", name, g, w)
	}
}

func golden(t *testing.T, name string, frame []byte) {
	t.Helper()
	path := filepath.Join("testdata", name+".hex")
	if *update {
		if err := os.WriteFile(path, []byte(hex.EncodeToString(frame)+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := hex.EncodeToString(frame) + "\n"; got != string(want) {
		t.Errorf("%s:\n%swant\n%s", name, got, want)
	}
}

// frame builds one by hand.
func frame(version byte, head, secret string) string {
	return string([]byte{version, 0, 0, byte(len(head) >> 8), byte(len(head)), byte(len(secret) >> 8), byte(len(secret))}) + head + secret
}

func TestReadRefuses(t *testing.T) {
	good := frame(1, `{"op":"login"}`, "1234")
	for name, c := range map[string]struct {
		data string
		want error
	}{
		"nothing":              {"", io.EOF},
		"only a version":       {"\x01", io.ErrUnexpectedEOF},
		"a cut prefix":         {good[:6], io.ErrUnexpectedEOF},
		"a cut head":           {good[:12], io.ErrUnexpectedEOF},
		"a cut secret":         {good[:len(good)-1], io.ErrUnexpectedEOF},
		"another version":      {frame(2, `{"op":"login"}`, "1234"), wire.ErrVersion},
		"text":                 {"Debug: C_Login\n", wire.ErrVersion},
		"a head too long":      {"\x01\x00\x01\x00\x01\x00\x00", wire.ErrFrame},
		"a huge head":          {"\x01\xff\xff\xff\xff\x00\x00", wire.ErrFrame},
		"a secret too long":    {"\x01\x00\x00\x00\x02\x02\x01{}", wire.ErrFrame},
		"an unknown member":    {frame(1, `{"op":"login","pin":"1234"}`, ""), wire.ErrFrame},
		"a doubled member":     {frame(1, `{"op":"sign","op":"login"}`, ""), wire.ErrFrame},
		"another case":         {frame(1, `{"OP":"login"}`, ""), wire.ErrFrame},
		"white space":          {frame(1, `{"op": "login"}`, ""), wire.ErrFrame},
		"something after":      {frame(1, `{"op":"login"}{}`, ""), wire.ErrFrame},
		"a member of its type": {frame(1, `{"op":7}`, ""), wire.ErrFrame},
		"no JSON":              {frame(1, `op`, ""), wire.ErrFrame},
		"null":                 {frame(1, `null`, ""), wire.ErrFrame},
	} {
		q, err := wire.ReadRequest(strings.NewReader(c.data))
		if !errors.Is(err, c.want) || q != nil {
			t.Errorf("ReadRequest of %s = %v, %v, want %v", name, q, err, c.want)
		}
		if p, err := wire.ReadResponse(strings.NewReader(c.data)); err == nil || p != nil {
			t.Errorf("ReadResponse of %s succeeded", name)
		}
	}
	if _, err := wire.ReadRequest(strings.NewReader(good)); err != nil {
		t.Errorf("ReadRequest of the good one: %v", err)
	}
}

func TestWriteRefusesTooLong(t *testing.T) {
	for name, q := range map[string]*wire.Request{
		"a head":   {Op: wire.Open, Module: strings.Repeat("a", wire.MaxHead)},
		"a secret": {Op: wire.Login, Secret: wire.NewSecret(make([]byte, wire.MaxSecret+1))},
	} {
		var out bytes.Buffer
		if err := wire.WriteRequest(&out, q); !errors.Is(err, wire.ErrFrame) || out.Len() > 0 {
			t.Errorf("WriteRequest of %s too long = %v, %d bytes", name, err, out.Len())
		}
	}
}

func TestSecret(t *testing.T) {
	value := []byte("canary")
	q := &wire.Request{Op: wire.Login, Secret: wire.NewSecret(value)}
	var shown strings.Builder
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%q", "%d"} {
		fmt.Fprintf(&shown, verb+"\n", q)
		fmt.Fprintf(&shown, verb+"\n", q.Secret)
	}
	for _, v := range []any{q, q.Secret} {
		text, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		shown.Write(text)
	}
	if s := shown.String(); strings.Contains(s, "canary") || strings.Contains(s, hex.EncodeToString(value)) || strings.Contains(s, "99 97 110") {
		t.Errorf("the secret shows: %s", s)
	}
	q.Secret.Wipe()
	if !bytes.Equal(value, make([]byte, 6)) {
		t.Errorf("wiped: %q", value)
	}
	if (wire.Secret{}).Reveal() != nil {
		t.Error("the zero Secret is not empty")
	}
}

// What is accepted is written the same again, so that there is one form.
func FuzzReadRequest(f *testing.F) {
	for _, q := range requests {
		var frame bytes.Buffer
		wire.WriteRequest(&frame, q)
		f.Add(frame.Bytes())
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r := bytes.NewReader(data)
		q, err := wire.ReadRequest(r)
		if err != nil {
			if q != nil {
				t.Error("an error with a request")
			}
			return
		}
		var again bytes.Buffer
		if err := wire.WriteRequest(&again, q); err != nil || !bytes.Equal(again.Bytes(), data[:len(data)-r.Len()]) {
			t.Errorf("%x is written again as %x, %v", data, again.Bytes(), err)
		}
	})
}

func FuzzReadResponse(f *testing.F) {
	for _, p := range responses {
		var frame bytes.Buffer
		wire.WriteResponse(&frame, p)
		f.Add(frame.Bytes())
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r := bytes.NewReader(data)
		p, err := wire.ReadResponse(r)
		if err != nil {
			if p != nil {
				t.Error("an error with a response")
			}
			return
		}
		var again bytes.Buffer
		if err := wire.WriteResponse(&again, p); err != nil || !bytes.Equal(again.Bytes(), data[:len(data)-r.Len()]) {
			t.Errorf("%x is written again as %x, %v", data, again.Bytes(), err)
		}
	})
}
