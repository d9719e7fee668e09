package issuers_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"maps"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/brevet-dev/brevet/issuers"
	"github.com/brevet-dev/brevet/issuers/presets"
)

// A forge is an issuer with a key of every kind, for tokens that no platform
// makes: it signs any text. Its good keys have the name of their algorithm as
// kid; "bare" is the RSA key without use and alg.
type forge struct {
	url     string
	rsa     *rsa.PrivateKey
	strange *rsa.PrivateKey // published nowhere
	ec      map[string]*ecdsa.PrivateKey
	ed      ed25519.PrivateKey
	keys    []map[string]any
	instead atomic.Pointer[[]map[string]any] // published in the place of keys
	asked   atomic.Int64                     // requests of any kind
}

// newForge starts one on loopback, without TLS.
func newForge(t testing.TB) *forge {
	t.Helper()
	f := unserved(t)
	server := httptest.NewServer(f)
	t.Cleanup(server.Close)
	f.url = server.URL
	return f
}

// unserved returns a forge without an address.
func unserved(t testing.TB) *forge {
	t.Helper()
	f := &forge{ec: map[string]*ecdsa.PrivateKey{}}
	f.generate(t)
	f.keys = f.publicKeys(t)
	return f
}

func (f *forge) generate(t testing.TB) {
	t.Helper()
	var errs [6]error
	f.rsa, errs[0] = rsa.GenerateKey(rand.Reader, 2048)
	f.strange, errs[1] = rsa.GenerateKey(rand.Reader, 2048)
	_, f.ed, errs[2] = ed25519.GenerateKey(rand.Reader)
	f.ec["ES256"], errs[3] = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	f.ec["ES384"], errs[4] = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	f.ec["ES512"], errs[5] = ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}

func (f *forge) publicKeys(t testing.TB) []map[string]any {
	t.Helper()
	bare := rsaJWK(&f.rsa.PublicKey, map[string]any{"kid": "bare"})
	keys := []map[string]any{bare}
	for _, alg := range issuers.Algorithms() {
		jwk := maps.Clone(bare)
		if key := f.ec[alg]; key != nil {
			jwk = ecJWK(t, &key.PublicKey)
		} else if alg == "EdDSA" {
			jwk = map[string]any{"kty": "OKP", "crv": "Ed25519", "x": encode(string(f.ed.Public().(ed25519.PublicKey)))}
		}
		jwk["kid"], jwk["alg"], jwk["use"] = alg, alg, "sig"
		keys = append(keys, jwk)
	}
	return keys
}

// rsaJWK returns a key with changes.
func rsaJWK(key *rsa.PublicKey, changes map[string]any) map[string]any {
	jwk := map[string]any{"kty": "RSA", "n": encode(string(key.N.Bytes())), "e": encode(string(big.NewInt(int64(key.E)).Bytes()))}
	maps.Copy(jwk, changes)
	return jwk
}

func ecJWK(t testing.TB, key *ecdsa.PublicKey) map[string]any {
	t.Helper()
	point, err := key.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	half := len(point) / 2
	return map[string]any{
		"kty": "EC", "crv": key.Params().Name, "x": encode(string(point[1 : 1+half])), "y": encode(string(point[1+half:])),
	}
}

func (f *forge) published() []map[string]any {
	if others := f.instead.Load(); others != nil {
		return *others
	}
	return f.keys
}

func (f *forge) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.asked.Add(1)
	answer := map[string]any{"keys": f.published()}
	if strings.HasSuffix(r.URL.Path, "/openid-configuration") {
		answer = map[string]any{"issuer": f.url, "jwks_uri": f.url + "/keys", "id_token_signing_alg_values_supported": issuers.Algorithms()}
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(answer) // the client may be gone
}

// config configures f as an issuer that uses all algorithms.
func (f *forge) config() issuers.Config {
	return issuers.Config{
		Name: "forge", Preset: "generic", URL: f.url, InsecureHTTP: true, Audience: audience, Algorithms: issuers.Algorithms(),
		Claims: map[string]presets.Claim{"project_id": {Type: presets.String, Kind: presets.Immutable}},
	}
}

// private returns the key that signs with alg.
func (f *forge) private(alg string) crypto.Signer {
	if key := f.ec[alg]; key != nil {
		return key
	}
	if alg == "EdDSA" {
		return f.ed
	}
	return f.rsa
}

// header returns a good header for alg, with changes; nil removes a member.
func (f *forge) header(alg string, changes map[string]any) string {
	return object(map[string]any{"alg": alg, "kid": alg, "typ": "JWT"}, changes)
}

// claims returns good claims with changes; nil removes one.
func (f *forge) claims(changes map[string]any) string {
	now := time.Now().Unix()
	return object(map[string]any{
		"iss": f.url, "aud": audience, "sub": "job", "jti": rand.Text(), "iat": now, "nbf": now, "exp": now + 300, "project_id": "456",
	}, changes)
}

// object encodes base with changes, of which nil removes a member.
func object(base, changes map[string]any) string {
	maps.Copy(base, changes)
	maps.DeleteFunc(base, func(_ string, value any) bool { return value == nil })
	text, err := json.Marshal(base)
	if err != nil {
		panic(err)
	}
	return string(text)
}

// sign signs header and payload, whatever they say, as alg does with its key.
func (f *forge) sign(t testing.TB, alg, header, payload string) string {
	t.Helper()
	return f.signText(t, alg, encode(header)+"."+encode(payload))
}

// signText signs a text that is segments already.
func (f *forge) signText(t testing.TB, alg, text string) string {
	t.Helper()
	signature, err := jwt.GetSigningMethod(alg).Sign(text, f.private(alg))
	if err != nil {
		t.Fatal(err)
	}
	return text + "." + encode(string(signature))
}

// token returns a token by alg that is good but for the changes.
func (f *forge) token(t testing.TB, alg string, header, claims map[string]any) string {
	t.Helper()
	return f.sign(t, alg, f.header(alg, header), f.claims(claims))
}

// unsigned returns the signed text of a good token by alg, so that a signature
// can be put behind it.
func (f *forge) unsigned(alg string) string {
	return encode(f.header(alg, nil)) + "." + encode(f.claims(nil))
}

// signatureOf returns the bytes of a token's signature.
func signatureOf(t testing.TB, raw string) []byte {
	t.Helper()
	signature, err := base64.RawURLEncoding.DecodeString(raw[strings.LastIndexByte(raw, '.')+1:])
	if err != nil {
		t.Fatal(err)
	}
	return signature
}
