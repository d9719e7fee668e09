package exchange_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/base64"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/brevet-dev/brevet/broker/api"
)

// verify returns the claims of proof after checking its signature, and fails
// the test if it is not as RFC 9449, section 4.2, wants it.
func verify(t *testing.T, proof string) jwt.MapClaims {
	t.Helper()
	claims := jwt.MapClaims{}
	parser := jwt.NewParser(jwt.WithValidMethods([]string{"ES256"}), jwt.WithStrictDecoding())
	_, err := parser.ParseWithClaims(proof, claims, func(token *jwt.Token) (any, error) {
		jwk := token.Header["jwk"].(map[string]any)
		if token.Header["typ"] != "dpop+jwt" || len(token.Header) != 3 || len(jwk) != 4 {
			t.Errorf("header %v", token.Header)
		}
		point := []byte{4}
		for _, name := range []string{"x", "y"} {
			raw, err := base64.RawURLEncoding.DecodeString(jwk[name].(string))
			if err != nil {
				return nil, err
			}
			point = append(point, raw...)
		}
		return ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point)
	})
	if err != nil {
		t.Fatalf("proof: %v", err)
	}
	return claims
}

func TestProof(t *testing.T) {
	key := newKey(t)
	now := time.Unix(1800000000, 0)
	ids := map[any]bool{}
	for range 50 { // signatures with short r or s, which must be padded, come up
		proof, err := key.Proof("POST", "https://broker.example.com/v1/token", api.Secret{}, now)
		if err != nil {
			t.Fatal(err)
		}
		claims := verify(t, proof)
		ids[claims["jti"]] = true
		if len(claims) != 4 || claims["htm"] != "POST" || claims["htu"] != "https://broker.example.com/v1/token" || claims["iat"] != 1.8e9 {
			t.Fatalf("claims %v", claims)
		}
	}
	if len(ids) != 50 {
		t.Errorf("%d ids in 50 proofs", len(ids))
	}
}

func TestProofWithToken(t *testing.T) {
	proof, err := newKey(t).Proof("GET", "https://broker.example.com/v1/leases/1", api.NewSecret("a session"), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte("a session"))
	if got, want := verify(t, proof)["ath"], base64.RawURLEncoding.EncodeToString(sum[:]); got != want {
		t.Errorf("ath %v, want %s", got, want)
	}
}
