package trust

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"
)

// What a TPM marshals is big-endian without padding; a TPM2B is a UINT16 size
// and as many bytes (TPM 2.0 Library, part 1, section 31). The sections named
// here are of part 2, "Structures". Only what an attestation is made of is read
// here; anything else is refused, as are bytes left over.
const (
	generated   = 0xff544347 // TPM_GENERATED_VALUE: section 6.2. A TPM never signs other data that begins so with a restricted key.
	certifyType = 0x8017     // TPM_ST_ATTEST_CERTIFY: section 6.9

	algRSA    = 0x0001 // TPM_ALG_ID: section 6.3
	algAES    = 0x0006
	algSHA256 = 0x000b
	algSHA384 = 0x000c
	algSHA512 = 0x000d
	algNull   = 0x0010
	algECDSA  = 0x0018
	algECDH   = 0x0019
	algECC    = 0x0023
	algCFB    = 0x0043

	curveP256 = 0x0003 // TPM_ECC_CURVE: section 6.4
	curveP384 = 0x0004
)

// TPMA_OBJECT: section 8.3.
const (
	fixedTPM            = 1 << 1
	stClear             = 1 << 2
	fixedParent         = 1 << 4
	sensitiveDataOrigin = 1 << 5
	userWithAuth        = 1 << 6
	adminWithPolicy     = 1 << 7
	noDA                = 1 << 10
	encryptedDup        = 1 << 11
	restricted          = 1 << 16
	decrypt             = 1 << 17
	sign                = 1 << 18

	knownAttributes = fixedTPM | stClear | fixedParent | sensitiveDataOrigin | userWithAuth | adminWithPolicy |
		noDA | encryptedDup | restricted | decrypt | sign
)

// maxStructure bounds a TPM structure, in bytes. The public area of an RSA-2048
// key takes 314, a certify statement 173.
const maxStructure = 1 << 10

var errShort = errors.New("it ends too soon")

// A reader takes a structure apart. After the first error all it reads is zero.
type reader struct {
	rest []byte
	err  error
}

// take returns the next n bytes, or nil.
func (r *reader) take(n int) []byte {
	if r.err == nil && n > len(r.rest) {
		r.err = errShort
	}
	if r.err != nil {
		return nil
	}
	out := r.rest[:n:n]
	r.rest = r.rest[n:]
	return out
}

func (r *reader) uint16() uint16 {
	if b := r.take(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (r *reader) uint32() uint32 {
	if b := r.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

// sized reads a TPM2B.
func (r *reader) sized() []byte { return r.take(int(r.uint16())) }

// scheme reads an algorithm and, unless it is TPM_ALG_NULL, the hash that comes
// with each of the signing and key exchange schemes read here.
func (r *reader) scheme() (s scheme) {
	if s.algorithm = r.uint16(); s.algorithm != algNull {
		s.hash = r.uint16()
	}
	return s
}

// done returns the first error, or one if anything is left.
func (r *reader) done() error {
	if r.err == nil && len(r.rest) > 0 {
		return fmt.Errorf("%d bytes are left over", len(r.rest))
	}
	return r.err
}

type scheme struct{ algorithm, hash uint16 }

// A public is the public area of a TPM key: TPMT_PUBLIC, section 12.2.4.
type public struct {
	kind       uint16
	nameAlg    uint16
	attributes uint32 // TPMA_OBJECT
	policy     []byte // a digest; empty: no policy
	aes        uint16 // bits of the key with which a storage key protects its children; 0: none
	scheme     scheme
	key        crypto.PublicKey // *ecdsa.PublicKey or *rsa.PublicKey
}

// parsePublic reads a TPMT_PUBLIC of an ECC key on P-256 or P-384, or of an RSA
// key.
func parsePublic(data []byte) (*public, error) {
	if len(data) > maxStructure {
		return nil, fmt.Errorf("%d bytes, more than %d", len(data), maxStructure)
	}
	r := &reader{rest: data}
	p := &public{kind: r.uint16(), nameAlg: r.uint16(), attributes: r.uint32(), policy: r.sized()}
	if r.err != nil {
		return nil, r.err
	}
	if unknown := p.attributes &^ knownAttributes; unknown != 0 {
		return nil, fmt.Errorf("it has attributes that are not known here: %#x", unknown)
	}
	p.aes = r.symmetric()
	var err error
	switch p.kind {
	case algECC:
		err = p.readECC(r)
	case algRSA:
		err = p.readRSA(r)
	default:
		return nil, fmt.Errorf("neither an ECC nor an RSA key, but of type %#x", p.kind)
	}
	if err == nil {
		err = p.checkPolicy()
	}
	if err != nil {
		return nil, err
	}
	return p, nil
}

// checkPolicy refuses a policy that is no digest of the name algorithm.
func (p *public) checkPolicy() error {
	h, err := hashOf(p.nameAlg)
	if err == nil && len(p.policy) != 0 && len(p.policy) != h.Size() {
		err = errors.New("its policy is not a digest of its name algorithm")
	}
	return err
}

// symmetric reads a TPMT_SYM_DEF_OBJECT: section 11.1.7. Storage keys have AES
// in CFB mode, all others none. It returns the size in bits.
func (r *reader) symmetric() uint16 {
	alg := r.uint16()
	if r.err != nil || alg == algNull {
		return 0
	}
	bits, mode := r.uint16(), r.uint16()
	if r.err == nil && (alg != algAES || mode != algCFB || bits != 128 && bits != 192 && bits != 256) {
		r.err = errors.New("its symmetric algorithm is not AES in CFB mode")
	}
	return bits
}

// readECC reads TPMS_ECC_PARMS and TPMS_ECC_POINT: sections 12.2.3.6, 11.2.5.2.
func (p *public) readECC(r *reader) error {
	p.scheme = r.scheme()
	curve, kdf := r.uint16(), r.uint16()
	x, y := r.sized(), r.sized()
	if err := r.done(); err != nil {
		return err
	}
	if a := p.scheme.algorithm; a != algNull && a != algECDSA && a != algECDH {
		return fmt.Errorf("it has the scheme %#x", a)
	}
	if kdf != algNull { // reserved: section 12.2.3.6
		return fmt.Errorf("it has the key derivation %#x", kdf)
	}
	var c elliptic.Curve
	switch curve {
	case curveP256:
		c = elliptic.P256()
	case curveP384:
		c = elliptic.P384()
	default:
		return fmt.Errorf("it is on the curve %#x", curve)
	}
	key, err := point(c, x, y)
	if err != nil {
		return err
	}
	p.key = key
	return nil
}

// point makes a key of coordinates, which a TPM pads with zeroes to the size of
// the curve (part 1, section C.8).
func point(c elliptic.Curve, x, y []byte) (*ecdsa.PublicKey, error) {
	size := (c.Params().BitSize + 7) / 8
	if len(x) != size || len(y) != size {
		return nil, errors.New("the coordinates of its point have another size than the curve's")
	}
	key, err := ecdsa.ParseUncompressedPublicKey(c, append(append([]byte{4}, x...), y...))
	if err != nil {
		return nil, errors.New("its point is not on the curve")
	}
	return key, nil
}

// readRSA reads TPMS_RSA_PARMS and TPM2B_PUBLIC_KEY_RSA: sections 12.2.3.5,
// 11.2.4.5. Only endorsement keys are RSA here, and those have no scheme.
func (p *public) readRSA(r *reader) error {
	p.scheme.algorithm = r.uint16()
	bits, exponent := r.uint16(), r.uint32()
	if p.scheme.algorithm != algNull && r.err == nil {
		return errors.New("it is an RSA key with a scheme, which no endorsement key has")
	}
	modulus := r.sized()
	if err := r.done(); err != nil {
		return err
	}
	if exponent == 0 {
		exponent = 65537 // section 12.2.3.5
	}
	n := new(big.Int).SetBytes(modulus)
	switch {
	case bits != 2048 && bits != 3072 && bits != 4096:
		return fmt.Errorf("it is an RSA key of %d bits, not 2048, 3072 or 4096", bits)
	case len(modulus) != int(bits)/8, n.BitLen() != int(bits), n.Bit(0) == 0:
		return errors.New("its modulus has another size than it says")
	case exponent != 65537:
		return errors.New("its exponent is not 65537")
	}
	p.key = &rsa.PublicKey{N: n, E: int(exponent)}
	return nil
}

func hashOf(alg uint16) (crypto.Hash, error) {
	switch alg {
	case algSHA256:
		return crypto.SHA256, nil
	case algSHA384:
		return crypto.SHA384, nil
	case algSHA512:
		return crypto.SHA512, nil
	}
	return 0, fmt.Errorf("its name algorithm is %#x, not SHA-256, SHA-384 or SHA-512", alg)
}

// Name returns the Name of a key, given its public area (TPMT_PUBLIC): the
// identifier of its name algorithm and the digest of the area by it (TPM 2.0
// Library, part 1, section 16). Whoever knows the Name knows every attribute.
func Name(public []byte) ([]byte, error) {
	p, err := parsePublic(public)
	if err != nil {
		return nil, fmt.Errorf("reading the public area of a TPM key: %w", err)
	}
	return p.name(public)
}

// name returns the Name of p, which was parsed from data.
func (p *public) name(data []byte) ([]byte, error) {
	hash, err := hashOf(p.nameAlg)
	if err != nil {
		return nil, err
	}
	h := hash.New()
	h.Write(data)
	return h.Sum(binary.BigEndian.AppendUint16(nil, p.nameAlg)), nil
}

// A statement is a TPMS_ATTEST of type certify: section 10.12.12. The clock and
// the firmware version in it are not used: neither says anything about a key.
type statement struct {
	signer    []byte // Qualified Name of the key that signed
	extra     []byte // what the asker gave
	name      []byte // of the key that is certified
	qualified []byte // its Qualified Name
}

func parseStatement(data []byte) (*statement, error) {
	if len(data) > maxStructure {
		return nil, fmt.Errorf("%d bytes, more than %d", len(data), maxStructure)
	}
	r := &reader{rest: data}
	if magic := r.uint32(); r.err == nil && magic != generated {
		return nil, errors.New("it was not made by a TPM: it does not begin with TPM_GENERATED_VALUE")
	}
	if kind := r.uint16(); r.err == nil && kind != certifyType {
		return nil, fmt.Errorf("it is an attestation of type %#x, not TPM_ST_ATTEST_CERTIFY", kind)
	}
	s := &statement{signer: r.sized(), extra: r.sized()}
	r.take(8 + 4 + 4) // TPMS_CLOCK_INFO, section 10.11.1: clock, resetCount, restartCount,
	safe := r.take(1) // and whether the clock was never set back
	r.take(8)         // firmwareVersion
	s.name, s.qualified = r.sized(), r.sized()
	if err := r.done(); err != nil {
		return nil, err
	}
	if safe[0] > 1 { // TPMI_YES_NO: section 9.2
		return nil, errors.New("its clock is neither safe nor unsafe")
	}
	return s, nil
}

// A signature is a TPMT_SIGNATURE by ECDSA with SHA-256: section 11.3.4.
type signature struct{ r, s *big.Int }

func parseSignature(data []byte) (*signature, error) {
	if len(data) > maxStructure {
		return nil, fmt.Errorf("%d bytes, more than %d", len(data), maxStructure)
	}
	r := &reader{rest: data}
	alg, hash := r.uint16(), r.uint16()
	if r.err == nil && (alg != algECDSA || hash != algSHA256) {
		return nil, fmt.Errorf("it is by the algorithms %#x and %#x, not ECDSA and SHA-256", alg, hash)
	}
	x, y := r.sized(), r.sized()
	if err := r.done(); err != nil {
		return nil, err
	}
	// A TPM pads both to the size of the curve; some leave zeroes out, which
	// makes no other signature.
	const size = 32
	if len(x) == 0 || len(y) == 0 || len(x) > size || len(y) > size {
		return nil, errors.New("its numbers have another size than those of P-256")
	}
	return &signature{new(big.Int).SetBytes(x), new(big.Int).SetBytes(y)}, nil
}
