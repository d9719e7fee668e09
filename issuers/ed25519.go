package issuers

import (
	"crypto/ed25519"
	"math/big"
	"slices"
)

// ed25519Key takes Ed25519 keys (RFC 8037, section 2) that are points on the
// curve in their one canonical encoding, and not of low order: under such a key
// a signature that anybody can compute verifies every message. crypto/ed25519
// takes any 32 bytes.
func ed25519Key(jwk map[string]any) (ed25519.PublicKey, bool) {
	x := octets(jwk["x"])
	if jwk["crv"] != "Ed25519" || len(x) != ed25519.PublicKeySize {
		return nil, false
	}
	return x, soundPoint(x)
}

// soundPoint decodes the y of RFC 8032, section 5.1.3, and checks it with the
// curve's equation, -x² + y² = 1 + dx²y² modulo p. The sign of x does not
// matter to any of this: the points without one, y = ±1, are of low order.
func soundPoint(encoded []byte) bool {
	p := new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 255), big.NewInt(19))
	bytes := slices.Clone(encoded)
	slices.Reverse(bytes)
	bytes[0] &= 0x7f // the sign of x
	y := new(big.Int).SetBytes(bytes)
	if y.Cmp(p) >= 0 {
		return false
	}
	// Three doublings take every point whose order divides 8 to y = 1.
	for range 3 {
		xx := squareOfX(y, p)
		if big.Jacobi(xx, p) < 0 {
			return false // no x has this square
		}
		if y.Cmp(big.NewInt(1)) == 0 {
			return false
		}
		y = doubledY(y, xx, p)
	}
	return y.Cmp(big.NewInt(1)) != 0
}

// squareOfX returns x² = (y² - 1) / (dy² + 1), whose divisor is never 0: -1/d
// is no square.
func squareOfX(y, p *big.Int) *big.Int {
	d := divide(big.NewInt(-121665), big.NewInt(121666), p)
	yy := new(big.Int).Mul(y, y)
	above := new(big.Int).Sub(yy, big.NewInt(1))
	below := new(big.Int).Mul(d, yy)
	return divide(above, below.Add(below, big.NewInt(1)), p)
}

// doubledY returns the y of twice a point, (y² + x²) / (2 + x² - y²).
func doubledY(y, xx, p *big.Int) *big.Int {
	yy := new(big.Int).Mul(y, y)
	above := new(big.Int).Add(yy, xx)
	below := new(big.Int).Sub(xx, yy)
	return divide(above, below.Add(below, big.NewInt(2)), p)
}

// divide returns a/b modulo p.
func divide(a, b, p *big.Int) *big.Int {
	quotient := new(big.Int).ModInverse(new(big.Int).Mod(b, p), p)
	quotient.Mul(quotient, a)
	return quotient.Mod(quotient, p)
}
