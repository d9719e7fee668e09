package broker

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// proofWindow is how far the iat of a DPoP proof may lie from now, either way.
// Runners keep time by NTP; a minute covers a slow network and a sloppy clock.
const proofWindow = time.Minute

// ProofMemory is how long a store must remember a proof id: the time for which a
// proof is accepted, from a minute before its iat to a minute after, and ten
// seconds for whole seconds and for brokers whose clocks differ.
const ProofMemory = 2*proofWindow + 10*time.Second

// A Proof is a DPoP proof (RFC 9449) that was verified for one request.
type Proof struct {
	KeyThumbprint string // RFC 7638, base64url SHA-256
	ID            string // jti, hashed: unique per key, of bounded length
	tokenHash     string // ath; "" if the proof names no token
}

// maxProof in bytes: a proof of ours has about 500.
const maxProof = 4 << 10

// VerifyProof checks a DPoP header for a request (RFC 9449, section 4.3): ES256
// by the key it carries, method, url without query, and age. That it is used
// once is for the store to check. Errors wrap [ErrProof].
func VerifyProof(header, method, url string, now time.Time) (*Proof, error) {
	if len(header) > maxProof {
		return nil, fmt.Errorf("%w: over %d bytes", ErrProof, maxProof)
	}
	var thumbprint string
	var claims proofClaims
	parser := jwt.NewParser(jwt.WithValidMethods([]string{"ES256"}), jwt.WithStrictDecoding(), jwt.WithoutClaimsValidation())
	_, err := parser.ParseWithClaims(header, &claims, func(t *jwt.Token) (key any, err error) {
		key, thumbprint, err = proofKey(t.Header)
		return key, err
	})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrProof, proofFault(err))
	}
	if err := claims.check(method, url, now); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrProof, err)
	}
	id := sha256.Sum256([]byte(thumbprint + "\x00" + claims.ID))
	return &Proof{
		KeyThumbprint: thumbprint, tokenHash: claims.TokenHash,
		ID: base64.RawURLEncoding.EncodeToString(id[:16]),
	}, nil
}

// errProofKey is in every error of proofKey.
var errProofKey = errors.New("header")

// proofFault replaces errors of the library, which quote the proof, by their
// class: the audit log takes no stranger's text.
func proofFault(err error) error {
	switch {
	case errors.Is(err, jwt.ErrTokenSignatureInvalid):
		return errors.New("the signature is not of the key in it")
	case errors.Is(err, errProofKey):
		return err // our own words
	}
	return errors.New("not a JWT signed with ES256, or a claim of another type")
}

// proofClaims are the payload of a proof: RFC 9449, section 4.2.
type proofClaims struct {
	ID        string      `json:"jti"`
	Method    string      `json:"htm"`
	URL       string      `json:"htu"`
	IssuedAt  json.Number `json:"iat"`
	TokenHash string      `json:"ath"`
	jwt.RegisteredClaims
}

func (c *proofClaims) check(method, url string, now time.Time) error {
	if c.ID == "" || len(c.ID) > 256 {
		return errors.New("jti is missing or too long")
	}
	if c.Method != method {
		return fmt.Errorf("htm is not %s", method)
	}
	if c.URL != url {
		return fmt.Errorf("htu is not %s", url)
	}
	iat, err := c.IssuedAt.Int64()
	if err != nil {
		return errors.New("iat is missing or not a whole number")
	}
	if age := now.Unix() - iat; age > int64(proofWindow/time.Second) || age < -int64(proofWindow/time.Second) {
		return fmt.Errorf("iat is %d s away from the broker's clock, more than %s", age, proofWindow)
	}
	return nil
}

// proofKey reads the public key out of a proof's header. Only the members that
// a proof needs are allowed, so that nothing in it can point elsewhere.
func proofKey(header map[string]any) (*ecdsa.PublicKey, string, error) {
	for name := range header {
		if name != "typ" && name != "alg" && name != "jwk" {
			return nil, "", fmt.Errorf("%w: header has a member besides typ, alg and jwk", errProofKey)
		}
	}
	if header["typ"] != "dpop+jwt" {
		return nil, "", fmt.Errorf("%w: typ is not dpop+jwt", errProofKey)
	}
	jwk, ok := header["jwk"].(map[string]any)
	if !ok {
		return nil, "", fmt.Errorf("%w: no jwk in the header", errProofKey)
	}
	if _, private := jwk["d"]; private {
		return nil, "", fmt.Errorf("%w: jwk holds a private key: it must be thrown away", errProofKey)
	}
	x, errX := coordinate(jwk["x"])
	y, errY := coordinate(jwk["y"])
	if jwk["kty"] != "EC" || jwk["crv"] != "P-256" || errX != nil || errY != nil {
		return nil, "", fmt.Errorf("%w: jwk is not an EC key on P-256", errProofKey)
	}
	key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), append(append([]byte{4}, x...), y...))
	if err != nil {
		return nil, "", fmt.Errorf("%w: jwk is not a point on P-256", errProofKey)
	}
	return key, thumbprint(x, y), nil
}

func coordinate(v any) ([]byte, error) {
	s, ok := v.(string)
	if !ok {
		return nil, errors.New("not a string")
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil || len(b) != 32 {
		return nil, errors.New("not 32 bytes in base64url")
	}
	return b, nil
}

// thumbprint returns the RFC 7638 thumbprint of the P-256 key with these
// coordinates, as "cnf.jkt" has it (RFC 9449, section 6.1).
func thumbprint(x, y []byte) string {
	enc := base64.RawURLEncoding.EncodeToString
	sum := sha256.Sum256([]byte(`{"crv":"P-256","kty":"EC","x":"` + enc(x) + `","y":"` + enc(y) + `"}`))
	return enc(sum[:])
}

// covers reports whether the proof was made for token (RFC 9449, section 4.3,
// check 12).
func (p *Proof) covers(token string) bool {
	sum := sha256.Sum256([]byte(token))
	want := base64.RawURLEncoding.EncodeToString(sum[:])
	return subtle.ConstantTimeCompare([]byte(want), []byte(p.tokenHash)) == 1
}
