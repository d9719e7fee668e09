package issuers

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/base64"
	"errors"
	"fmt"
	"math/big"
	"slices"
)

// maxKeys bounds one JWK Set. Platforms publish one to six keys; Google and
// Entra, with many services behind one set, below twenty.
const maxKeys = 100

// jwksLimits bounds the JSON of a JWK Set: maxKeys keys of a dozen members,
// with certificates in lists.
func jwksLimits() jsonLimits { return jsonLimits{depth: 8, members: maxKeys*16 + 16} }

// A verificationKey is a public key with the one algorithm that it may verify:
// RS256 with a *rsa.PublicKey, ES256 with a *ecdsa.PublicKey on P-256.
type verificationKey struct {
	alg    string
	public crypto.PublicKey
}

// parseJWKS reads a JWK Set (RFC 7517, section 5) and returns the keys in it
// that may verify tokens with one of algorithms, by kid. A key that is odd or
// for something else is passed over, as the RFC asks; two keys with one kid,
// too many keys, or no usable key are errors.
func parseJWKS(document []byte, algorithms []string) (map[string]verificationKey, error) {
	object, err := readJSONObject(string(document), jwksLimits())
	if err != nil {
		return nil, fmt.Errorf("reading the JWK Set: %w", err)
	}
	list, ok := object["keys"].([]any)
	if !ok || len(list) > maxKeys {
		return nil, fmt.Errorf("the JWK Set has no list of at most %d keys", maxKeys)
	}
	usable := make(map[string]verificationKey)
	seen := make(map[string]bool)
	for _, item := range list {
		jwk, isObject := item.(map[string]any)
		kid, isString := jwk["kid"].(string)
		if !isObject || !isString || kid == "" || len(kid) > maxKeyID {
			continue
		}
		if seen[kid] {
			return nil, errors.New("two keys of the JWK Set have one kid")
		}
		seen[kid] = true
		if key, ok := parseJWK(jwk); ok && slices.Contains(algorithms, key.alg) {
			usable[kid] = key
		}
	}
	if len(usable) == 0 {
		return nil, fmt.Errorf("the JWK Set has no usable key for %q", algorithms)
	}
	return usable, nil
}

// parseJWK returns the key if it is a public key for signatures, of a kind and
// size that we take.
func parseJWK(jwk map[string]any) (key verificationKey, ok bool) {
	if _, private := jwk["d"]; private || !forSignatures(jwk) {
		return key, false
	}
	switch jwk["kty"] {
	case "RSA":
		key.alg = "RS256"
		key.public, ok = rsaKey(jwk)
	case "EC":
		key.alg = "ES256"
		key.public, ok = p256Key(jwk)
	}
	if alg, present := jwk["alg"]; present && alg != key.alg {
		return key, false
	}
	return key, ok
}

// forSignatures checks use and key_ops (RFC 7517, sections 4.2 and 4.3), both
// optional.
func forSignatures(jwk map[string]any) bool {
	if use, present := jwk["use"]; present && use != "sig" {
		return false
	}
	operations, present := jwk["key_ops"]
	if !present {
		return true
	}
	list, ok := operations.([]any)
	return ok && slices.Contains(list, any("verify"))
}

// rsaKey takes moduli of 2048 to 4096 bits (smaller is weak; larger costs the
// broker time) and odd exponents from 65537 to what fits 31 bits.
func rsaKey(jwk map[string]any) (*rsa.PublicKey, bool) {
	n, e := new(big.Int).SetBytes(octets(jwk["n"])), new(big.Int).SetBytes(octets(jwk["e"]))
	if n.BitLen() < 2048 || n.BitLen() > 4096 || n.Bit(0) == 0 {
		return nil, false
	}
	if e.BitLen() > 31 || e.Bit(0) == 0 || e.Int64() < 65537 {
		return nil, false
	}
	return &rsa.PublicKey{N: n, E: int(e.Int64())}, true
}

// p256Key takes points on P-256 in full length (RFC 7518, section 6.2.1.2).
func p256Key(jwk map[string]any) (*ecdsa.PublicKey, bool) {
	x, y := octets(jwk["x"]), octets(jwk["y"])
	if jwk["crv"] != "P-256" || len(x) != 32 || len(y) != 32 {
		return nil, false
	}
	key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), slices.Concat([]byte{4}, x, y))
	return key, err == nil
}

// octets decodes base64url; nil if value is not that.
func octets(value any) []byte {
	text, ok := value.(string)
	decoded, err := base64.RawURLEncoding.DecodeString(text)
	if !ok || err != nil {
		return nil
	}
	return decoded
}
