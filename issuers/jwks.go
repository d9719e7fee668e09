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
	"strings"

	"github.com/brevet-dev/brevet/issuers/strictjson"
)

// maxKeys bounds one JWK Set. Platforms publish one to six keys; Google and
// Entra, with many services behind one set, below twenty.
const maxKeys = 100

// jwksLimits bounds the JSON of a JWK Set: maxKeys keys of a dozen members,
// with certificates in lists.
func jwksLimits() strictjson.Limits { return strictjson.Limits{Depth: 8, Members: maxKeys*16 + 16} }

// Algorithms returns every "alg" that tokens may be signed with (RFC 7518,
// section 3.1; RFC 8037, of whose curves only Ed25519). All of them verify with
// a public key: none and the HS family are not there to be chosen.
func Algorithms() []string { return slices.Concat(rsaAlgorithms(), ecAlgorithms(), edAlgorithms()) }

func rsaAlgorithms() []string {
	return []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}
}
func ecAlgorithms() []string { return []string{"ES256", "ES384", "ES512"} }
func edAlgorithms() []string { return []string{"EdDSA"} }

// A verificationKey is a public key with the algorithms that it may verify: a
// *rsa.PublicKey, a *ecdsa.PublicKey on the one curve of its algorithm, or an
// [ed25519.PublicKey].
type verificationKey struct {
	algorithms []string
	public     crypto.PublicKey
}

// parseJWKS reads a JWK Set (RFC 7517, section 5) and returns the keys in it
// that may verify tokens with one of algorithms, by kid. A key that is odd or
// for something else is passed over, as the RFC asks; two keys with one kid,
// too many keys, or no usable key are errors.
func parseJWKS(document []byte, algorithms []string) (map[string]verificationKey, error) {
	object, err := strictjson.Object(string(document), jwksLimits())
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
		if key, ok := parseJWK(jwk, algorithms); ok {
			usable[kid] = key
		}
	}
	if len(usable) == 0 {
		return nil, fmt.Errorf("the JWK Set has no usable key for %q", algorithms)
	}
	return usable, nil
}

// parseJWK returns the key if it is a public key for signatures, of a kind and
// size that we take, and can verify one of algorithms. A key that names no
// algorithm may verify each of them that is for its type and curve.
func parseJWK(jwk map[string]any, algorithms []string) (key verificationKey, ok bool) {
	if _, private := jwk["d"]; private || !forSignatures(jwk) {
		return key, false
	}
	switch jwk["kty"] {
	case "RSA":
		key.algorithms = rsaAlgorithms()
		key.public, ok = rsaKey(jwk)
	case "EC":
		key.algorithms, key.public, ok = ecKey(jwk)
	case "OKP":
		key.algorithms = edAlgorithms()
		key.public, ok = ed25519Key(jwk)
	}
	alg, named := jwk["alg"]
	key.algorithms = slices.DeleteFunc(key.algorithms, func(fits string) bool {
		return named && alg != any(fits) || !slices.Contains(algorithms, fits)
	})
	return key, ok && len(key.algorithms) > 0
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

// ecKey takes points on a curve of RFC 7518, section 6.2.1, with coordinates of
// full length. The curve decides about the algorithm (section 3.4), which
// golang-jwt does not compare.
func ecKey(jwk map[string]any) ([]string, *ecdsa.PublicKey, bool) {
	var curve elliptic.Curve
	var alg string
	switch jwk["crv"] {
	case "P-256":
		curve, alg = elliptic.P256(), "ES256"
	case "P-384":
		curve, alg = elliptic.P384(), "ES384"
	case "P-521":
		curve, alg = elliptic.P521(), "ES512"
	default:
		return nil, nil, false
	}
	x, y, size := octets(jwk["x"]), octets(jwk["y"]), (curve.Params().BitSize+7)/8
	if len(x) != size || len(y) != size {
		return nil, nil, false
	}
	key, err := ecdsa.ParseUncompressedPublicKey(curve, slices.Concat([]byte{4}, x, y))
	return []string{alg}, key, err == nil
}

// octets decodes canonical base64url without padding; nil if value is not that.
func octets(value any) []byte {
	text, ok := value.(string)
	decoded, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if !ok || err != nil || strings.ContainsAny(text, "\r\n") {
		return nil
	}
	return decoded
}
