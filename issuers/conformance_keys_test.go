package issuers_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"

	"github.com/golang-jwt/jwt/v5"

	"github.com/brevet-dev/brevet/issuers"
)

// symmetric takes the public key, which everybody knows, for the secret of a
// MAC, in each form that a reader may have it in.
func symmetric(t *testing.T, f *forge) []hostile {
	pkix, err := x509.MarshalPKIXPublicKey(&f.rsa.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	pkcs1 := x509.MarshalPKCS1PublicKey(&f.rsa.PublicKey)
	cases := []hostile{}
	for name, secret := range map[string][]byte{
		"PEM":              pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: pkix}),
		"PEM, without end": []byte(strings.TrimSpace(string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: pkix})))),
		"PKCS #1 PEM":      pem.EncodeToMemory(&pem.Block{Type: "RSA PUBLIC KEY", Bytes: pkcs1}),
		"DER":              pkix, "PKCS #1 DER": pkcs1,
		"modulus": f.rsa.N.Bytes(), "JWK": []byte(object(rsaJWK(&f.rsa.PublicKey, nil), nil)),
		"kid": []byte("RS256"), "nothing": {},
	} {
		for _, alg := range []string{"HS256", "HS512", "RS256"} {
			text := encode(f.header("RS256", map[string]any{"alg": alg})) + "." + encode(f.claims(nil))
			mac := hmac.New(sha256.New, secret)
			if alg == "HS512" {
				mac = hmac.New(sha512.New, secret)
			}
			mac.Write([]byte(text))
			want := issuers.ReasonAlgorithm
			if alg == "RS256" {
				want = issuers.ReasonSignature
			}
			cases = append(cases, hostile{fmt.Sprintf("MAC under the public key as %s, called %s", name, alg), text + "." + encode(string(mac.Sum(nil))), want})
		}
	}
	return cases
}

// confusions are signed by one of the issuer's keys in one way and say another
// key or another way.
func confusions(t *testing.T, f *forge) []hostile {
	cases := []hostile{}
	add := func(raw, want, format string, args ...any) {
		cases = append(cases, hostile{fmt.Sprintf(format, args...), raw, want})
	}
	for _, by := range issuers.Algorithms() {
		for _, as := range issuers.Algorithms() {
			if by == as {
				continue
			}
			add(f.sign(t, by, f.header(as, nil), f.claims(nil)), issuers.ReasonSignature, "signed by %s, all of it called %s", by, as)
			add(f.sign(t, by, f.header(by, map[string]any{"kid": as}), f.claims(nil)), issuers.ReasonAlgorithm, "%s with the kid of %s", by, as)
			add(f.sign(t, by, f.header(as, map[string]any{"kid": by}), f.claims(nil)), issuers.ReasonAlgorithm, "%s called %s", by, as)
			bare := f.sign(t, by, f.header(as, map[string]any{"kid": "bare"}), f.claims(nil))
			want := issuers.ReasonSignature // an RSA key without alg
			if strings.HasPrefix(as, "E") {
				want = issuers.ReasonAlgorithm
			}
			add(bare, want, "%s called %s with the key without alg", by, as)
		}
	}
	// golang-jwt compares the length of a signature with the algorithm, and the
	// curve with nothing.
	for _, pair := range [][2]string{{"ES256", "ES384"}, {"ES256", "ES512"}, {"ES384", "ES512"}} {
		key, as := f.ec[pair[0]], pair[1]
		text := encode(f.header(as, map[string]any{"kid": pair[0]})) + "." + encode(f.claims(nil))
		r, s, size := ecdsaSign(t, key, as, text)
		add(text+"."+pairOf(size, r, s), issuers.ReasonAlgorithm, "%s by the key on the curve of %s", as, pair[0])
	}
	return cases
}

// ecdsaSign signs text with the hash and size of alg, whatever key's curve.
func ecdsaSign(t *testing.T, key *ecdsa.PrivateKey, alg, text string) (r, s *big.Int, size int) {
	method := jwt.GetSigningMethod(alg).(*jwt.SigningMethodECDSA)
	hash := method.Hash.New()
	hash.Write([]byte(text))
	der, err := key.Sign(rand.Reader, hash.Sum(nil), method.Hash)
	if err != nil {
		t.Fatal(err)
	}
	var pair struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(der, &pair); err != nil {
		t.Fatal(err)
	}
	return pair.R, pair.S, method.KeySize
}

// pairOf encodes an ECDSA signature as RFC 7518, section 3.4, has it.
func pairOf(size int, r, s *big.Int) string {
	bytes := make([]byte, 2*size)
	r.FillBytes(bytes[:size])
	s.FillBytes(bytes[size:])
	return encode(string(bytes))
}

// damagedSignatures are good ones with something done to them, by every
// algorithm.
func damagedSignatures(t *testing.T, f *forge) []hostile {
	cases := []hostile{}
	for _, alg := range issuers.Algorithms() {
		good := f.token(t, alg, nil, nil)
		signature, part := signatureOf(t, good), strings.Split(good, ".")
		add := func(name string, bytes []byte) {
			cases = append(cases, hostile{alg + ": " + name, part[0] + "." + part[1] + "." + encode(string(bytes)), issuers.ReasonSignature})
		}
		for _, i := range []int{0, len(signature) / 2, len(signature) - 1} {
			flipped := slices.Clone(signature)
			flipped[i] ^= 1
			add(fmt.Sprintf("byte %d of %d flipped", i, len(signature)), flipped)
		}
		reversed := slices.Clone(signature)
		slices.Reverse(reversed)
		add("bytes reversed", reversed)
		add("cut at the end", signature[:len(signature)-1])
		add("cut at the start", signature[1:])
		add("half", signature[:len(signature)/2])
		add("one byte", signature[:1])
		add("a zero in front", append([]byte{0}, signature...))
		add("a zero behind", append(slices.Clone(signature), 0))
		add("twice", slices.Concat(signature, signature))
		add("zeros", make([]byte, len(signature)))
		add("ones", slices.Repeat([]byte{0xff}, len(signature)))
		add("64 KiB worth of a kind", slices.Repeat([]byte{1}, 8<<10))
		another := strings.Split(f.token(t, alg, nil, map[string]any{"project_id": "457"}), ".")
		reheaded := encode(f.header(alg, map[string]any{"x5t": "AAAA"}))
		cases = append(cases,
			hostile{alg + ": of another token", part[0] + "." + another[1] + "." + part[2], issuers.ReasonSignature},
			hostile{alg + ": under another header", reheaded + "." + part[1] + "." + part[2], issuers.ReasonSignature},
			hostile{alg + ": of the payload alone", part[0] + "." + part[1] + f.signText(t, alg, part[1])[len(part[1]):], issuers.ReasonSignature},
		)
	}
	return cases
}

// ecdsaSignatures are pairs that are out of range, or in another encoding.
func ecdsaSignatures(t *testing.T, f *forge) []hostile {
	cases := []hostile{}
	for alg, key := range f.ec {
		text, n := f.unsigned(alg), key.Params().N
		r, s, size := ecdsaSign(t, key, alg, text)
		add := func(name, signature string) {
			cases = append(cases, hostile{alg + ": " + name, text + "." + signature, issuers.ReasonSignature})
		}
		zero, one := new(big.Int), big.NewInt(1)
		for name, pair := range map[string][2]*big.Int{
			"r and s are 0": {zero, zero}, "r is 0": {zero, s}, "s is 0": {r, zero}, "r and s are 1": {one, one},
			"r is n": {n, s}, "s is n": {r, n}, "r is n, s is n": {n, n}, "r is 1": {one, s}, "s is 1": {r, one},
			"r is n - 1": {new(big.Int).Sub(n, one), s}, "r is p": {key.Params().P, s}, "r is p - n": {new(big.Int).Sub(key.Params().P, n), one},
			"r and s swapped": {s, r}, "r negated": {new(big.Int).Sub(n, r), s}, "r twice": {r, r},
		} {
			add(name, pairOf(size, pair[0], pair[1]))
		}
		der, err := asn1.Marshal(struct{ R, S *big.Int }{r, s})
		if err != nil {
			t.Fatal(err)
		}
		add("as DER", encode(string(der)))
		add("numbers longer by a byte", pairOf(size+1, r, s))
		add("numbers in hexadecimal", encode(fmt.Sprintf("%x%x", r, s)))
		add("numbers little-endian", encode(reverse(r.Bytes())+reverse(s.Bytes())))
	}
	return cases
}

func reverse(bytes []byte) string {
	slices.Reverse(bytes)
	return string(bytes)
}

// rsaSignatures have a padding that a lenient reader skips, or a salt of
// another length than RFC 7518, section 3.5, has.
func rsaSignatures(t *testing.T, f *forge) []hostile {
	text := f.unsigned("RS256")
	digest := sha256.Sum256([]byte(text))
	oid := []byte{0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01}
	info := slices.Concat([]byte{0x30, 0x31, 0x30, 0x0d}, oid, []byte{0x05, 0x00, 0x04, 0x20}, digest[:])
	withoutNull := slices.Concat([]byte{0x30, 0x2f, 0x30, 0x0b}, oid, []byte{0x04, 0x20}, digest[:])
	longForm := slices.Concat([]byte{0x30, 0x81, 0x31, 0x30, 0x0d}, oid, []byte{0x05, 0x00, 0x04, 0x20}, digest[:])
	sha512OID := slices.Concat(info[:14], []byte{0x03}, info[15:])
	pad := func(n int, with byte) []byte { return slices.Repeat([]byte{with}, n) }
	block := func(kind byte, padding, tail []byte) []byte {
		return slices.Concat([]byte{0, kind}, padding, []byte{0}, tail)
	}
	fill := func(kind, with byte, tail []byte) []byte { return block(kind, pad(256-3-len(tail), with), tail) }
	cases := []hostile{}
	for name, message := range map[string][]byte{
		"without NULL":          fill(1, 0xff, withoutNull),
		"length in long form":   fill(1, 0xff, longForm),
		"hash named SHA-512":    fill(1, 0xff, sha512OID),
		"hash alone":            fill(1, 0xff, digest[:]),
		"padded with zeros":     fill(1, 0, info),
		"padded with 0xfe":      fill(1, 0xfe, info),
		"block type 0":          fill(0, 0xff, info),
		"block type 2":          fill(2, 0xff, info),
		"no zero before it":     slices.Concat([]byte{0, 1}, pad(256-2-len(info), 0xff), info),
		"eight bytes, garbage":  block(1, pad(8, 0xff), slices.Concat(info, pad(256-11-len(info), 0x41))),
		"garbage behind it":     fill(1, 0xff, slices.Concat(info, []byte{0x41, 0x42})),
		"hash cut":              fill(1, 0xff, info[:len(info)-1]),
		"hash of another text":  fill(1, 0xff, slices.Concat(info[:19], pad(32, 0x41))),
		"the number one":        slices.Concat(pad(255, 0), []byte{1}),
		"nothing but the type":  slices.Concat([]byte{0, 1}, pad(254, 0xff)),
		"one byte of the front": slices.Concat([]byte{1, 1}, pad(251-len(info)+2, 0xff), []byte{0}, info)[:256],
	} {
		cases = append(cases, hostile{"RS256 padding: " + name, text + "." + encode(string(f.raise(message))), issuers.ReasonSignature})
	}
	return append(cases, saltLengths(t, f)...)
}

// raise is the RSA operation with the private key, on any message.
func (f *forge) raise(message []byte) []byte {
	m := new(big.Int).Mod(new(big.Int).SetBytes(message), f.rsa.N)
	return m.Exp(m, f.rsa.D, f.rsa.N).FillBytes(make([]byte, 256))
}

func saltLengths(t *testing.T, f *forge) []hostile {
	cases := []hostile{}
	for alg, hash := range map[string]crypto.Hash{"PS256": crypto.SHA256, "PS384": crypto.SHA384, "PS512": crypto.SHA512} {
		text := f.unsigned(alg)
		h := hash.New()
		h.Write([]byte(text))
		for _, length := range []int{1, 20, hash.Size() - 1, hash.Size() + 1, rsa.PSSSaltLengthAuto} {
			signature, err := rsa.SignPSS(rand.Reader, f.rsa, hash, h.Sum(nil), &rsa.PSSOptions{SaltLength: length})
			if err != nil {
				t.Fatal(err)
			}
			cases = append(cases, hostile{fmt.Sprintf("%s with a salt of %d bytes (0: as many as fit)", alg, length), text + "." + encode(string(signature)), issuers.ReasonSignature})
		}
	}
	return cases
}

// edwardsSignatures are malleable, or good under every message for a key of
// low order.
func edwardsSignatures(t *testing.T, f *forge) []hostile {
	text := f.unsigned("EdDSA")
	signature := signatureOf(t, f.signText(t, "EdDSA", text))
	order, _ := new(big.Int).SetString("7237005577332262213973186563042994240857116359379907606001950938285454250989", 10)
	s := new(big.Int).SetBytes([]byte(reverse(slices.Clone(signature[32:]))))
	cases := []hostile{}
	for name, bytes := range map[string]string{
		"s + L":                     string(signature[:32]) + reverse(s.Add(s, order).FillBytes(make([]byte, 32))),
		"s is 0, R the identity":    "\x01" + strings.Repeat("\x00", 63),
		"s is 0, R the key":         string(signature[:32]) + strings.Repeat("\x00", 32),
		"R not canonical":           "\xee" + strings.Repeat("\xff", 30) + "\x7f" + string(signature[32:]),
		"high bits of s":            string(signature[:63]) + string(signature[63]|0xe0),
		"Ed25519ph's 114 of Ed448":  string(signature) + strings.Repeat("\x00", 50),
		"R and s swapped":           string(signature[32:]) + string(signature[:32]),
		"the hash of it was signed": string(signatureOf(t, f.signText(t, "EdDSA", fmt.Sprintf("%x", sha512.Sum512([]byte(text)))))),
	} {
		cases = append(cases, hostile{"EdDSA: " + name, text + "." + encode(bytes), issuers.ReasonSignature})
	}
	return cases
}
