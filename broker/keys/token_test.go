package keys_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/brevet-dev/brevet/broker/keys"
)

func b64(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }

func TestSignThenVerify(t *testing.T) {
	e := start(t, newRoot(t), &memory{})
	want := claims{1_700_000_000, "s1-x"}
	token, err := e.Sign(t.Context(), "at+jwt", want)
	if err != nil {
		t.Fatal(err)
	}
	var got claims
	if err := e.Verify(t.Context(), "at+jwt", token, &got); err != nil || got != want {
		t.Errorf("Verify = %+v, %v, want %+v", got, err, want)
	}
	head, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[0])
	if err != nil {
		t.Fatal(err)
	}
	form := `{"alg":"ES256","kid":"` + e.Status().KeyID + `","typ":"at+jwt"}`
	if string(head) != form {
		t.Errorf("header %s, want %s", head, form)
	}
	if _, err := e.Sign(t.Context(), "at+jwt", func() {}); err == nil {
		t.Error("Sign encoded a func")
	}
	var number int
	if err := e.Verify(t.Context(), "at+jwt", token, &number); !errors.Is(err, keys.ErrToken) {
		t.Errorf("Verify into an int = %v, want ErrToken", err)
	}
}

// TestVerifyRefuses changes one thing of a good token at a time.
func TestVerifyRefuses(t *testing.T) {
	e := start(t, newRoot(t), &memory{})
	good, kid := sign(t, e), e.Status().KeyID
	part := strings.Split(good, ".")
	withHead := func(head string) string { return b64(head) + "." + part[1] + "." + part[2] }
	member := func(m string) string {
		return withHead(`{"alg":"ES256","kid":"` + kid + `","typ":"at+jwt",` + m + `}`)
	}
	own, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	forged := func(method jwt.SigningMethod, key any) string {
		token := jwt.NewWithClaims(method, jwt.MapClaims{"jti": "s1-x"})
		token.Header["kid"], token.Header["typ"] = kid, "at+jwt"
		out, err := token.SignedString(key)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	archival, err := e.SignArchival(t.Context(), "at+jwt", claims{})
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct{ name, token string }{
		{"empty", ""},
		{"two parts", part[0] + "." + part[1]},
		{"four parts", good + "." + part[2]},
		{"no signature", part[0] + "." + part[1] + "."},
		{"signature of another length", good + "AAAA"},
		{"payload changed", part[0] + "." + b64(`{"jti":"s2-y"}`) + "." + part[2]},
		{"alg none", withHead(`{"alg":"none","kid":"` + kid + `","typ":"at+jwt"}`)},
		{"alg none, unsigned", b64(`{"alg":"none","kid":"`+kid+`","typ":"at+jwt"}`) + "." + part[1] + "."},
		{"HS256 with the public key", forged(jwt.SigningMethodHS256, []byte(kid))},
		{"ES256 with another key", forged(jwt.SigningMethodES256, own)},
		{"alg in lower case", withHead(`{"alg":"es256","kid":"` + kid + `","typ":"at+jwt"}`)},
		{"another typ", withHead(`{"alg":"ES256","kid":"` + kid + `","typ":"JWT"}`)},
		{"typ in capitals", withHead(`{"alg":"ES256","kid":"` + kid + `","typ":"AT+JWT"}`)},
		{"no typ", withHead(`{"alg":"ES256","kid":"` + kid + `"}`)},
		{"no kid", withHead(`{"alg":"ES256","typ":"at+jwt"}`)},
		{"another kid", withHead(`{"alg":"ES256","kid":"` + b64(kid)[:43] + `","typ":"at+jwt"}`)},
		{"crit", member(`"crit":["b64"]`)},
		{"b64", member(`"b64":false`)},
		{"jwk", member(`"jwk":{}`)},
		{"jku", member(`"jku":"https://evil.example.com"`)},
		{"x5u", member(`"x5u":"https://evil.example.com"`)},
		{"empty x5c", member(`"x5c":[]`)},
		{"its own x5c", archival},
		{"alg twice", member(`"alg":"ES256"`)},
		{"alg again in capitals", member(`"ALG":"ES256"`)},
		{"space in the header", withHead(`{"alg": "ES256","kid":"` + kid + `","typ":"at+jwt"}`)},
		{"header not JSON", withHead(`alg`)},
		{"header null", withHead(`null`)},
		{"padding", part[0] + "=." + part[1] + "." + part[2]},
		{"line break", part[0] + "\n." + part[1] + "." + part[2]},
		{"line break at the end", good + "\n"},
		{"space before", " " + good},
		{"standard base64", part[0] + "." + part[1] + ".+/" + part[2][2:]},
		{"last character with spare bits", good[:len(good)-1] + spare(good[len(good)-1])},
		{"too long", part[0] + "." + strings.Repeat("A", 16<<10) + "." + part[2]},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := claims{ID: "untouched"}
			err := e.Verify(t.Context(), "at+jwt", tt.token, &got)
			if !errors.Is(err, keys.ErrToken) || got.ID != "untouched" {
				t.Errorf("Verify = %+v, %v, want ErrToken", got, err)
			}
		})
	}
}

// spare returns the base64url character after c: of the last in 64 bytes only
// two bits count, so it decodes to the same, if the decoder is not strict.
func spare(c byte) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	return string(alphabet[strings.IndexByte(alphabet, c)+1])
}

func TestArchive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		root := newRoot(t)
		e := start(t, root, &memory{})
		token, err := e.SignArchival(t.Context(), "note+jwt", claims{time.Now().Unix(), "1"})
		if err != nil {
			t.Fatal(err)
		}
		late, err := e.SignArchival(t.Context(), "note+jwt", claims{time.Now().Add(30 * time.Hour).Unix(), "2"})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * 365 * 24 * time.Hour)
		archive := keys.Archive{Roots: []*x509.Certificate{root.Certificate()}, URL: brokerURL}
		other := keys.Archive{Roots: []*x509.Certificate{newRoot(t).Certificate()}, URL: brokerURL}
		elsewhere := keys.Archive{Roots: []*x509.Certificate{root.Certificate()}, URL: "https://other.example.com"}
		var got claims
		if err := archive.Verify("note+jwt", token, &got); err != nil || got.ID != "1" {
			t.Errorf("Verify = %+v, %v", got, err)
		}
		for name, err := range map[string]error{
			"another typ":                    archive.Verify("at+jwt", token, &got),
			"an iat outside of its epoch":    archive.Verify("note+jwt", late, &got),
			"another root":                   other.Verify("note+jwt", token, &got),
			"another broker":                 elsewhere.Verify("note+jwt", token, &got),
			"a token without a chain":        archive.Verify("at+jwt", sign(t, start(t, root, &memory{})), &got),
			"the chain of another's epoch":   archive.Verify("note+jwt", rechain(t, root, token), &got),
			"a chain that is not base64":     archive.Verify("note+jwt", withChain(t, token, "*", "*"), &got),
			"a chain that is no certificate": archive.Verify("note+jwt", withChain(t, token, "AAAA", "AAAA"), &got),
		} {
			if !errors.Is(err, keys.ErrToken) {
				t.Errorf("Verify of %s = %v, want ErrToken", name, err)
			}
		}
	})
}

// What nobody would verify is not signed.
func TestArchivalTooLong(t *testing.T) {
	e := start(t, newRoot(t), &memory{})
	if token, err := e.SignArchival(t.Context(), "note+jwt", claims{1, strings.Repeat("x", 64<<10)}); err == nil || token != "" {
		t.Errorf("SignArchival of 64 KiB = a token of %d bytes, %v", len(token), err)
	}
}

// withChain returns token with another x5c, and its old signature.
func withChain(t *testing.T, token string, chain ...string) string {
	t.Helper()
	head, rest, _ := strings.Cut(token, ".")
	raw, err := base64.RawURLEncoding.DecodeString(head)
	if err != nil {
		t.Fatal(err)
	}
	before, _, found := bytes.Cut(raw, []byte(`,"x5c":`))
	list, err := json.Marshal(chain)
	if err != nil || !found {
		t.Fatal(err, found)
	}
	return b64(string(before)+`,"x5c":`+string(list)+"}") + "." + rest
}

// rechain gives token the chain of another epoch of the same root.
func rechain(t *testing.T, root keys.Root, token string) string {
	t.Helper()
	other, err := start(t, root, &memory{}).SignArchival(t.Context(), "note+jwt", claims{})
	if err != nil {
		t.Fatal(err)
	}
	raw, err := base64.RawURLEncoding.DecodeString(strings.Split(other, ".")[0])
	if err != nil {
		t.Fatal(err)
	}
	var head struct {
		Chain []string `json:"x5c"`
	}
	if err := json.Unmarshal(raw, &head); err != nil {
		t.Fatal(err)
	}
	return withChain(t, token, head.Chain...)
}

// FuzzVerify: what is accepted is a token that was signed, byte for byte.
func FuzzVerify(f *testing.F) {
	root := newRoot(f)
	e := start(f, root, &memory{})
	good := sign(f, e)
	archival, err := e.SignArchival(f.Context(), "at+jwt", claims{time.Now().Unix(), "1"})
	if err != nil {
		f.Fatal(err)
	}
	part := strings.Split(good, ".")
	for _, seed := range []string{
		good, archival, "", "..", good + "\n", part[0] + ".." + part[2],
		b64(`{"alg":"none"}`) + "." + part[1] + ".", b64(`{"alg":"ES256","kid":null,"typ":"at+jwt","x5c":["","",""]}`) + ".e30.AA",
	} {
		f.Add(seed)
	}
	archive := keys.Archive{Roots: []*x509.Certificate{root.Certificate()}, URL: brokerURL}
	f.Fuzz(func(t *testing.T, token string) {
		var got claims
		if err := verify(e, token); err == nil && token != good {
			t.Errorf("Verify accepted %q", token)
		}
		if err := archive.Verify("at+jwt", token, &got); err == nil && token != archival {
			t.Errorf("Archive.Verify accepted %q", token)
		}
	})
}
