package keys

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"

	"github.com/brevet-dev/brevet/broker"
)

// testKEK has the bytes 0, 1, 2 …: it is the key of the golden JWEs, too.
func testKEK(t testing.TB) *kek {
	t.Helper()
	key := make([]byte, kekSize)
	for i := range key {
		key[i] = byte(i)
	}
	k, err := makeKEK("7-golden", key)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

var testHeader = jweHeader{
	Type: typeDataKey, Bound: boundTo("{}"), DataKey: "dk-x", Credential: "artifacts", Lease: "l1-x", Issued: 1764000000, Expires: 1764086400, Shred: true,
}

func openJWE(k *kek, typ, s string) ([]byte, error) {
	p, err := parseJWE(typ, s)
	if err != nil {
		return nil, err
	}
	return k.open(p)
}

// What the broker writes is a JWE to others.
func TestJWEIsStandard(t *testing.T) {
	k := testKEK(t)
	token, err := k.seal(testHeader, []byte("plaintext"))
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := jose.ParseEncryptedCompact(token, []jose.KeyAlgorithm{jose.A256KW}, []jose.ContentEncryption{jose.A256GCM})
	if err != nil {
		t.Fatal(err)
	}
	got, err := parsed.Decrypt(k.key.reveal())
	if err != nil || string(got) != "plaintext" {
		t.Errorf("go-jose decrypts %q, %v", got, err)
	}
	if parsed.Header.KeyID != k.id || parsed.Header.ExtraHeaders["dek"] != "dk-x" {
		t.Errorf("go-jose reads the header %v", parsed.Header)
	}
}

// A JWE of an earlier version of this program still opens.
func TestJWEGolden(t *testing.T) {
	golden, err := os.ReadFile("testdata/datakey.jwe")
	if err != nil {
		t.Fatal(err)
	}
	token := strings.TrimSpace(string(golden))
	got, err := openJWE(testKEK(t), typeDataKey, token)
	if err != nil || string(got) != "0123456789abcdef0123456789abcdef" {
		t.Errorf("open = %q, %v", got, err)
	}
	p, err := parseJWE(typeDataKey, token)
	if err != nil {
		t.Fatal(err)
	}
	want := testHeader
	want.Algorithm, want.Encryption, want.KeyID = jweAlgorithm, jweEncryption, "7-golden"
	if p.header != want {
		t.Errorf("header %+v, want %+v", p.header, want)
	}
}

// No character of a JWE can be another.
func TestJWEChanged(t *testing.T) {
	k := testKEK(t)
	token, err := k.seal(testHeader, []byte("plaintext"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range token {
		for _, c := range []byte{'A', 'B', '_', '.', '='} {
			changed := []byte(token)
			if changed[i] == c {
				continue
			}
			changed[i] = c
			if _, err := openJWE(k, typeDataKey, string(changed)); !errors.Is(err, broker.ErrWrapped) {
				t.Fatalf("with %q at %d: %v, want ErrWrapped", c, i, err)
			}
		}
	}
	for name, s := range map[string]string{
		"empty": "", "dots": "....", "cut": token[:len(token)-1], "longer": token + "A", "a line break": token + "\n",
		"six parts": token + ".", "huge": strings.Repeat("A", maxJWE+1),
	} {
		if _, err := openJWE(k, typeDataKey, s); !errors.Is(err, broker.ErrWrapped) {
			t.Errorf("%s: %v, want ErrWrapped", name, err)
		}
	}
}

func TestJWEOfAnother(t *testing.T) {
	k := testKEK(t)
	other, err := newKEK(8)
	if err != nil {
		t.Fatal(err)
	}
	token, err := other.seal(testHeader, []byte("plaintext"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := openJWE(k, typeDataKey, token); !errors.Is(err, broker.ErrWrapped) {
		t.Errorf("opening with another KEK = %v, want ErrWrapped", err)
	}
	if _, err := openJWE(other, typeHandle, token); !errors.Is(err, broker.ErrWrapped) {
		t.Errorf("opening as a handle = %v, want ErrWrapped", err)
	}
}

// Nothing that is printed of a KEK, or of what has one in it, shows it.
func TestKEKCannotBePrinted(t *testing.T) {
	k := testKEK(t)
	nested := struct {
		hidden material
		Shown  material
		Any    any
		Map    map[string]*kek
		List   []material
	}{k.key, k.key, *k, map[string]*kek{"k": k}, []material{k.key}}
	state := &ringState{keks: nested.Map, newest: k}
	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%X", "%q", "%d"} {
		for _, v := range []any{k, *k, k.key, &k.key, nested, &nested, state, *state} {
			fmt.Fprintf(&out, verb, v)
		}
	}
	data, err := json.Marshal([]any{k.key, nested.Shown, nested.List, map[string]material{"k": k.key}})
	if err != nil {
		t.Fatal(err)
	}
	out.Write(data)
	slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "k", k.key, "n", nested.List)
	slog.New(slog.NewTextHandler(&out, nil)).Info("x", "k", k.key, "n", nested.List, "kek", k, "state", state)
	fmt.Fprint(&out, errors.Join(fmt.Errorf("%v", k), fmt.Errorf("%w: %v", broker.ErrWrapped, nested)))
	// As bytes, in hexadecimal, in base64, as Go prints a slice, and as the words of
	// an expanded AES key.
	for _, secret := range []string{"\x00\x01\x02\x03", "00010203", "AAECAw", "0 1 2 3", "0x0, 0x1, 0x2", "66051", "0x10203", `\x00\x01`, `\u0000\u0001`} {
		if bytes.Contains(out.Bytes(), []byte(secret)) {
			t.Errorf("the key is shown as %q", secret)
		}
	}
}

func FuzzParseJWE(f *testing.F) {
	k := testKEK(f)
	token, err := k.seal(testHeader, []byte("plaintext"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(token)
	f.Add("....")
	f.Add("eyJhbGciOiJkaXIifQ....")
	f.Fuzz(func(t *testing.T, s string) {
		got, err := openJWE(k, typeDataKey, s)
		if (err == nil) == (got == nil) {
			t.Fatalf("open = %q, %v", got, err)
		}
		if err == nil && s != token {
			t.Errorf("opened what the broker did not make: %s", s)
		}
	})
}

func BenchmarkKEKSeal(b *testing.B) {
	k := testKEK(b)
	key := make([]byte, 32)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := k.seal(testHeader, key); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkKEKOpen(b *testing.B) {
	k := testKEK(b)
	token, err := k.seal(testHeader, make([]byte, 32))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := openJWE(k, typeDataKey, token); err != nil {
			b.Fatal(err)
		}
	}
}
