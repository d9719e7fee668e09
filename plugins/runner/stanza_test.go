package runner_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/plugins/runner"
)

// A vector is testdata/stanza.json: all that goes into a stanza, and the stanza.
type vector struct {
	Credential string
	Context    api.Context
	Wrapped    string
	DataKey    string `json:"data_key"` // hexadecimal, as are salt and file key
	Salt       string
	FileKey    string `json:"file_key"`
	Args       []string
	Body       string // base64
}

func readVector(t testing.TB) (v vector, ref runner.KeyRef) {
	t.Helper()
	data, err := os.ReadFile("testdata/stanza.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &v); err != nil {
		t.Fatal(err)
	}
	return v, runner.KeyRef{Credential: v.Credential, Context: v.Context}
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	out, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestStanzaVector holds the format fast: files must open for years.
func TestStanzaVector(t *testing.T) {
	v, ref := readVector(t)
	fileKey := unhex(t, v.FileKey)
	made, err := runner.SealFileKey(ref, v.Wrapped, unhex(t, v.DataKey), unhex(t, v.Salt), fileKey)
	if err != nil {
		t.Fatal(err)
	}
	body := base64.StdEncoding.EncodeToString(made.Body())
	if !slices.Equal(made.Args(), v.Args) || body != v.Body {
		t.Errorf("stanza %q, %s; want %q, %s", made.Args(), body, v.Args, v.Body)
	}
	read, err := runner.ParseStanza(made.Args(), made.Body())
	if err != nil {
		t.Fatal(err)
	}
	got, err := read.Open(unhex(t, v.DataKey))
	if err != nil || !bytes.Equal(got, fileKey) {
		t.Errorf("Open = %x, %v; want %x", got, err, fileKey)
	}
}

// TestStanzaAltered changes each byte of a stanza.
func TestStanzaAltered(t *testing.T) {
	v, ref := readVector(t)
	made, err := runner.SealFileKey(ref, v.Wrapped, unhex(t, v.DataKey), unhex(t, v.Salt), unhex(t, v.FileKey))
	if err != nil {
		t.Fatal(err)
	}
	check := func(args []string, body []byte) {
		t.Helper()
		s, err := runner.ParseStanza(args, body)
		if err == nil {
			_, err = s.Open(unhex(t, v.DataKey))
		}
		if !runner.IsKind(err, runner.Altered) {
			t.Errorf("stanza %q, %x: %v, want Altered", args, body, err)
		}
	}
	for i := range made.Body() {
		body := made.Body()
		body[i] ^= 1
		check(made.Args(), body)
	}
	for n, arg := range made.Args() {
		for i := range arg {
			for _, c := range []byte("A_b.") {
				args := made.Args()
				if arg[i] != c {
					args[n] = arg[:i] + string(c) + arg[i+1:]
					check(args, made.Body())
				}
			}
		}
	}
	if _, err := made.Open(make([]byte, api.DataKeySize)); !runner.IsKind(err, runner.Altered) {
		t.Errorf("Open with another data key = %v, want Altered", err)
	}
}

func TestParseStanzaRefuses(t *testing.T) {
	v, _ := readVector(t)
	body := make([]byte, 64)
	encode := base64.RawURLEncoding.EncodeToString
	tests := []struct {
		name string
		args []string
		body []byte
		want string
	}{
		{"no argument", nil, body, "arguments"},
		{"another version", []string{"v2", "a", "b", "c", "d"}, body, "another version"},
		{"one more", append(slices.Clone(v.Args), "x"), body, "arguments"},
		{"a short body", v.Args, body[1:], "64 bytes"},
		{"a name with a slash", []string{"v1", "a/b", v.Args[2], v.Wrapped}, body, "name"},
		{"a long name", []string{"v1", strings.Repeat("a", 65), v.Args[2], v.Wrapped}, body, "name"},
		{"spaces in the context", []string{"v1", "a", encode([]byte(`{ }`)), v.Wrapped}, body, "canonical"},
		{"a context twice", []string{"v1", "a", encode([]byte(`{"a":"1","a":"2"}`)), v.Wrapped}, body, "context"},
		{"padding", []string{"v1", "a", "e30=", v.Wrapped}, body, "base64url"},
		{"not the only base64", []string{"v1", "a", "e31", v.Wrapped}, body, "base64url"},
		{"four parts", []string{"v1", "a", "e30", "a.b.c.d"}, body, "wrapped"},
		{"too large", []string{"v1", "a", "e30", "....." + strings.Repeat("a", api.MaxWrapped)}, body, "wrapped"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s, err := runner.ParseStanza(test.args, test.body)
			if s != nil || !runner.IsKind(err, runner.Altered) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("ParseStanza(%q) = %v, %v; want Altered: %s", test.args, s, err, test.want)
			}
		})
	}
}

func TestKeyRef(t *testing.T) {
	_, ref := readVector(t)
	got, err := runner.ParseKeyRef(ref.Encode())
	if err != nil || !got.Equal(ref) {
		t.Errorf("ParseKeyRef(%s) = %v, %v", ref.Encode(), got, err)
	}
	for _, bad := range []string{
		"", "v1", "v2 a {}", "v1 a", "v1 a ", "v1  {}", "v1 a {} ", "v1 a { }", "v1 A {}", `v1 a {"b":"1","a":"2"}`, `v1 a {"a":"\u0041"}`, "v1 a {}{}",
	} {
		if got, err := runner.ParseKeyRef([]byte(bad)); err == nil {
			t.Errorf("ParseKeyRef(%q) = %v, want an error", bad, got)
		}
	}
	if (runner.KeyRef{Credential: "a"}).Equal(runner.KeyRef{Credential: "a", Context: api.Context{"b": ""}}) {
		t.Error("a context with an empty value is as none")
	}
}

// FuzzParseStanza: what strangers write never panics, an error comes with no
// stanza, and what is accepted is written again the same.
func FuzzParseStanza(f *testing.F) {
	v, _ := readVector(f)
	body, err := base64.StdEncoding.DecodeString(v.Body)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(strings.Join(v.Args, " "), body)
	f.Add("v1 a e30 a.b.c.d.e", make([]byte, 64))
	f.Add("v1 a eyJhIjoxfQ a.b.c.d.e", make([]byte, 64))
	f.Fuzz(func(t *testing.T, line string, body []byte) {
		args := strings.Split(line, " ")
		s, err := runner.ParseStanza(args, body)
		if err != nil {
			if s != nil || !runner.IsKind(err, runner.Altered) {
				t.Errorf("ParseStanza = %v, %v", s, err)
			}
			return
		}
		if !slices.Equal(s.Args(), args) || !bytes.Equal(s.Body(), body) {
			t.Errorf("stanza %q is written as %q", args, s.Args())
		}
		if _, err := s.Open(make([]byte, api.DataKeySize)); err == nil {
			t.Error("it opens with a key of zeros")
		}
	})
}

// FuzzParseKeyRef is the same for what recipients and identities of age hold.
func FuzzParseKeyRef(f *testing.F) {
	_, ref := readVector(f)
	f.Add(ref.Encode())
	f.Add([]byte("v1 a {}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		ref, err := runner.ParseKeyRef(data)
		if err == nil && !bytes.Equal(ref.Encode(), data) {
			t.Errorf("%q is written as %q", data, ref.Encode())
		}
	})
}
