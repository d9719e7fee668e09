package exchange

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"time"

	"github.com/brevet-dev/brevet/broker/api"
)

// A Key proves that requests come from the one who made the exchange: RFC 9449
// (DPoP). A session token that leaks is of no use without it.
type Key struct{ private *ecdsa.PrivateKey }

// NewKey makes a key on P-256, for ES256 (RFC 7518, section 3.4).
func NewKey() (*Key, error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making a key: %w", err)
	}
	return &Key{private}, nil
}

// KeyOf returns the Key of a private key on P-256 that somebody kept.
func KeyOf(private *ecdsa.PrivateKey) *Key { return &Key{private} }

type proofHeader struct {
	Type string   `json:"typ"`
	Alg  string   `json:"alg"`
	JWK  proofJWK `json:"jwk"`
}

type proofJWK struct {
	Curve string `json:"crv"`
	Type  string `json:"kty"`
	X     string `json:"x"`
	Y     string `json:"y"`
}

type proofClaims struct {
	ID        string `json:"jti"`
	Method    string `json:"htm"`
	URL       string `json:"htu"`
	IssuedAt  int64  `json:"iat"`
	TokenHash string `json:"ath,omitempty"`
}

// Proof returns the DPoP header for one request at the time now: RFC 9449,
// section 4.2. url has neither query nor fragment. token is the session token
// that the request carries, or zero. Each proof has an id of its own and is
// good for one request.
func (k *Key) Proof(method, url string, token api.Secret, now time.Time) (string, error) {
	header, err := k.header()
	if err != nil {
		return "", err
	}
	claims := proofClaims{ID: RandomID(), Method: method, URL: url, IssuedAt: now.Unix()}
	if !token.IsZero() {
		sum := sha256.Sum256([]byte(token.Reveal()))
		claims.TokenHash = base64.RawURLEncoding.EncodeToString(sum[:])
	}
	return k.sign(header, claims)
}

func (k *Key) header() (*proofHeader, error) {
	point, err := k.private.PublicKey.Bytes() // 4, then x and y of 32 bytes each
	if err != nil {
		return nil, fmt.Errorf("encoding the public key: %w", err)
	}
	enc := base64.RawURLEncoding.EncodeToString
	return &proofHeader{"dpop+jwt", "ES256", proofJWK{"P-256", "EC", enc(point[1:33]), enc(point[33:])}}, nil
}

// sign returns the JWS compact serialization: RFC 7515, section 7.1.
func (k *Key) sign(header *proofHeader, claims proofClaims) (string, error) {
	h, err := json.Marshal(header)
	if err != nil {
		return "", fmt.Errorf("encoding a DPoP proof: %w", err)
	}
	c, err := json.Marshal(claims)
	if err != nil {
		return "", fmt.Errorf("encoding a DPoP proof: %w", err)
	}
	input := base64.RawURLEncoding.EncodeToString(h) + "." + base64.RawURLEncoding.EncodeToString(c)
	sum := sha256.Sum256([]byte(input))
	r, s, err := ecdsa.Sign(rand.Reader, k.private, sum[:])
	if err != nil {
		return "", fmt.Errorf("signing a DPoP proof: %w", err)
	}
	signature := make([]byte, 64) // r and s, 32 bytes each: RFC 7518, section 3.4
	r.FillBytes(signature[:32])
	s.FillBytes(signature[32:])
	return input + "." + base64.RawURLEncoding.EncodeToString(signature), nil
}

// RandomID returns 128 random bits, which no two requests share (RFC 9449,
// section 4.2, asks for 96), in 22 characters of [A-Za-z0-9_-].
func RandomID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails: crypto/rand
	return base64.RawURLEncoding.EncodeToString(b[:])
}
