package issuers_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"

	"github.com/golang-jwt/jwt/v5"

	"github.com/brevet-dev/brevet/issuers"
)

// A keyCase is a token that is good under a key which must not be used, and
// what the issuer publishes.
type keyCase struct {
	hostile
	keys []map[string]any
}

// TestConformanceKeySets: the issuer itself publishes what it should not, as
// after an accident, or since somebody else writes its keys.
func TestConformanceKeySets(t *testing.T) {
	f := newForge(t)
	cases := slices.Concat(wrongUses(t, f), weakKeys(t, f), oddSets(t, f))
	var others []otherReader
	accepted := make([]int, 4)
	for _, c := range cases {
		f.instead.Store(&c.keys)
		c.check(t, newSet(t, f.config()))
		others = readers(t, f)
		for i, other := range others {
			if other.accepts(c.raw) {
				accepted[i]++
				t.Logf("%s accepts: %s", other.name, c.name)
			}
		}
	}
	report(t, others, accepted, len(cases))
}

// good returns a key that keeps a set with others usable.
func (f *forge) good() map[string]any {
	return f.keys[slices.IndexFunc(f.keys, func(jwk map[string]any) bool { return jwk["kid"] == "ES256" })]
}

// wrongUses are keys that say they are for something else.
func wrongUses(t *testing.T, f *forge) []keyCase {
	cases := []keyCase{}
	raw := f.token(t, "RS256", map[string]any{"kid": "bad"}, nil)
	for name, changes := range map[string]map[string]any{
		"use is enc": {"use": "enc"}, "use is SIG": {"use": "SIG"}, "use is empty": {"use": ""}, "key_ops is sign": {"key_ops": []string{"sign"}},
		"key_ops is encrypt": {"key_ops": []string{"encrypt", "wrapKey"}}, "key_ops is empty": {"key_ops": []string{}}, "use is sig, key_ops is not": {"use": "sig", "key_ops": []string{"deriveKey"}},
		"alg is RS512": {"alg": "RS512"}, "alg is PS256": {"alg": "PS256"}, "alg is RSA-OAEP": {"alg": "RSA-OAEP-256"}, "alg is none": {"alg": "none"}, "alg is HS256": {"alg": "HS256"},
		"kty is oct": {"kty": "oct", "k": encode("secret")}, "kty is in lower case": {"kty": "rsa"},
		"the private key is published": {"d": encode(string(f.rsa.D.Bytes())), "p": encode(string(f.rsa.Primes[0].Bytes())), "q": encode(string(f.rsa.Primes[1].Bytes()))},
	} {
		want := issuers.ReasonUnknownKey
		if alg, _ := changes["alg"].(string); alg == "RS512" || alg == "PS256" {
			want = issuers.ReasonAlgorithm
		}
		changes["kid"] = "bad"
		cases = append(cases, keyCase{hostile{name, raw, want}, []map[string]any{f.good(), rsaJWK(&f.rsa.PublicKey, changes)}})
	}
	secret := map[string]any{"kty": "oct", "kid": "bad", "alg": "HS256", "k": encode("secret")}
	text := encode(f.header("HS256", map[string]any{"kid": "bad"})) + "." + encode(f.claims(nil))
	mac, err := jwt.SigningMethodHS256.Sign(text, []byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	return append(cases, keyCase{hostile{"a secret is published", text + "." + encode(string(mac)), issuers.ReasonAlgorithm}, []map[string]any{f.good(), secret}})
}

// weakKeys let others sign.
func weakKeys(t *testing.T, f *forge) []keyCase {
	short, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	text := encode(f.header("RS256", map[string]any{"kid": "bad"})) + "." + encode(f.claims(nil))
	signature, err := jwt.SigningMethodRS256.Sign(text, short)
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256([]byte(text))
	message := new(big.Int).SetBytes(padded(digest[:])) // with e = 1 the message is its own signature
	ed := encode(f.header("EdDSA", map[string]any{"kid": "bad"})) + "." + encode(f.claims(nil))
	identity := "\x01" + strings.Repeat("\x00", 31)
	low := func(point string) map[string]any {
		return map[string]any{"kty": "OKP", "crv": "Ed25519", "kid": "bad", "x": encode(point)}
	}
	cases := []keyCase{}
	add := func(name, raw string, key map[string]any) {
		cases = append(cases, keyCase{hostile{name, raw, issuers.ReasonUnknownKey}, []map[string]any{f.good(), key}})
	}
	add("RSA with 1024 bits", text+"."+encode(string(signature)), rsaJWK(&short.PublicKey, map[string]any{"kid": "bad"}))
	add("RSA with e = 1", text+"."+encode(string(message.FillBytes(make([]byte, 256)))), rsaJWK(&f.rsa.PublicKey, map[string]any{"kid": "bad", "e": "AQ"}))
	cubic := cubicKey(t)
	add("RSA with e = 3", text+"."+encode(string(message.Exp(message, cubic.D, cubic.N).FillBytes(make([]byte, 256)))), rsaJWK(&cubic.PublicKey, map[string]any{"kid": "bad"}))
	add("Ed25519 with the identity as key", ed+"."+encode(identity+strings.Repeat("\x00", 32)), low(identity))
	add("Ed25519 with the identity, not canonical", ed+"."+encode(identity+strings.Repeat("\x00", 32)), low("\xee"+strings.Repeat("\xff", 30)+"\x7f"))
	return cases
}

// padded returns the message of PKCS #1, 256 bytes long, for a SHA-256 hash.
func padded(digest []byte) []byte {
	info := slices.Concat([]byte{0x30, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x05, 0x00, 0x04, 0x20}, digest)
	return slices.Concat([]byte{0, 1}, slices.Repeat([]byte{0xff}, 256-3-len(info)), []byte{0}, info)
}

// cubicKey makes an RSA key with the exponent 3.
func cubicKey(t *testing.T) *rsa.PrivateKey {
	one, e := big.NewInt(1), big.NewInt(3)
	for {
		p, errP := rand.Prime(rand.Reader, 1024)
		q, errQ := rand.Prime(rand.Reader, 1024)
		if errP != nil || errQ != nil {
			t.Fatal(errP, errQ)
		}
		phi := new(big.Int).Mul(new(big.Int).Sub(p, one), new(big.Int).Sub(q, one))
		if d := new(big.Int).ModInverse(e, phi); d != nil {
			return &rsa.PrivateKey{PublicKey: rsa.PublicKey{N: new(big.Int).Mul(p, q), E: 3}, D: d}
		}
	}
}

// oddSets are JWK Sets that leave open which key is meant: the issuer then has
// none.
func oddSets(t *testing.T, f *forge) []keyCase {
	raw := f.token(t, "RS256", map[string]any{"kid": "k"}, nil)
	right := rsaJWK(&f.rsa.PublicKey, map[string]any{"kid": "k"})
	stranger := rsaJWK(&f.strange.PublicKey, map[string]any{"kid": "k"})
	many := []map[string]any{right}
	for i := range 100 {
		many = append(many, rsaJWK(&f.strange.PublicKey, map[string]any{"kid": fmt.Sprint(i)}))
	}
	nameless := rsaJWK(&f.rsa.PublicKey, nil)
	return []keyCase{
		{hostile{"a stranger's key under the same kid, behind", raw, "unavailable"}, []map[string]any{right, stranger}},
		{hostile{"a stranger's key under the same kid, in front", raw, "unavailable"}, []map[string]any{stranger, right}},
		{hostile{"the same key twice", raw, "unavailable"}, []map[string]any{right, right}},
		{hostile{"its twin is for encryption", raw, "unavailable"}, []map[string]any{right, rsaJWK(&f.rsa.PublicKey, map[string]any{"kid": "k", "use": "enc"})}},
		{hostile{"101 keys", raw, "unavailable"}, many},
		{hostile{"a member in two cases", raw, "unavailable"}, []map[string]any{rsaJWK(&f.rsa.PublicKey, map[string]any{"kid": "k", "N": right["n"]})}},
		{hostile{"no kid in the key", raw, issuers.ReasonUnknownKey}, []map[string]any{f.good(), nameless}},
		{hostile{"no kid anywhere", f.token(t, "RS256", map[string]any{"kid": nil}, nil), issuers.ReasonHeader}, []map[string]any{f.good(), nameless}},
		{hostile{"kid is a number", f.token(t, "RS256", map[string]any{"kid": 7}, nil), issuers.ReasonHeader}, []map[string]any{f.good(), rsaJWK(&f.rsa.PublicKey, map[string]any{"kid": 7})}},
		{hostile{"empty kid", f.token(t, "RS256", map[string]any{"kid": ""}, nil), issuers.ReasonHeader}, []map[string]any{f.good(), rsaJWK(&f.rsa.PublicKey, map[string]any{"kid": ""})}},
	}
}
