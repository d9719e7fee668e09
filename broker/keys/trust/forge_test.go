package trust

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"testing"
	"time"
)

// The functions here write what a TPM does, so that tests can say anything a TPM
// would not. They are also what nobody can tell from a TPM's, as long as nothing
// vouches for the attestation key.

// fields are those of a TPMS_ATTEST.
type fields struct {
	magic                          uint32
	kind                           uint16
	signer, extra, name, qualified []byte
	safe                           byte
	more                           []byte
}

func (f fields) encode() []byte {
	out := binary.BigEndian.AppendUint32(nil, f.magic)
	out = binary.BigEndian.AppendUint16(out, f.kind)
	out = appendSized(appendSized(out, f.signer), f.extra)
	out = append(append(append(out, make([]byte, 16)...), f.safe), make([]byte, 8)...)
	return append(appendSized(appendSized(out, f.name), f.qualified), f.more...)
}

func appendSized(out, data []byte) []byte {
	return append(binary.BigEndian.AppendUint16(out, uint16(len(data))), data...)
}

func (p *public) encode() []byte {
	out := binary.BigEndian.AppendUint16(nil, p.kind)
	out = binary.BigEndian.AppendUint16(out, p.nameAlg)
	out = binary.BigEndian.AppendUint32(out, p.attributes)
	out = appendSized(out, p.policy)
	if p.aes == 0 {
		out = binary.BigEndian.AppendUint16(out, algNull)
	} else {
		out = binary.BigEndian.AppendUint16(out, algAES)
		out = binary.BigEndian.AppendUint16(out, p.aes)
		out = binary.BigEndian.AppendUint16(out, algCFB)
	}
	out = p.scheme.append(out)
	switch key := p.key.(type) {
	case *rsa.PublicKey:
		out = binary.BigEndian.AppendUint16(out, uint16(key.N.BitLen()))
		out = binary.BigEndian.AppendUint32(out, 0)
		out = appendSized(out, key.N.Bytes())
	case *ecdsa.PublicKey:
		curve := map[elliptic.Curve]uint16{elliptic.P256(): curveP256, elliptic.P384(): curveP384}[key.Curve]
		point, err := key.Bytes()
		if err != nil {
			panic(err)
		}
		half := (len(point) - 1) / 2
		out = binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(out, curve), algNull)
		out = appendSized(appendSized(out, point[1:1+half]), point[1+half:])
	}
	return out
}

func (s scheme) append(out []byte) []byte {
	out = binary.BigEndian.AppendUint16(out, s.algorithm)
	if s.algorithm != algNull {
		out = binary.BigEndian.AppendUint16(out, s.hash)
	}
	return out
}

// forged is an attestation in the making. A test changes one thing of it.
type forged struct {
	ak, root, agreement        public
	rootFields, agreementField func(*fields)
	signer                     *ecdsa.PrivateKey
}

// A subject is what an attestation is about.
type subject struct {
	root, agreement *x509.Certificate
	key             *ecdsa.PrivateKey // of the root
	now             time.Time
}

func newKey(t testing.TB, c elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(c, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newSubject(t testing.TB, now time.Time) *subject {
	t.Helper()
	key, exchange := newKey(t, elliptic.P256()), newKey(t, elliptic.P256())
	root, err := NewRoot(key, now)
	if err != nil {
		t.Fatal(err)
	}
	pub, err := exchange.PublicKey.ECDH()
	if err != nil {
		t.Fatal(err)
	}
	agreement, err := NewAgreement(root, key, pub)
	if err != nil {
		t.Fatal(err)
	}
	return &subject{root, agreement, key, now}
}

func eccPublic(attributes uint32, alg uint16, key crypto.PublicKey) public {
	return public{kind: algECC, nameAlg: algSHA256, attributes: stuck | userWithAuth | attributes, scheme: scheme{alg, algSHA256}, key: key}
}

// forge makes an attestation of s by a key of its own, with something changed.
func forge(t testing.TB, s *subject, nonce []byte, change func(*forged)) *Attestation {
	t.Helper()
	key := newKey(t, elliptic.P256())
	nothing := func(*fields) {}
	f := &forged{
		ak:         eccPublic(restricted|sign, algECDSA, &key.PublicKey),
		root:       eccPublic(sign, algECDSA, s.root.PublicKey),
		agreement:  eccPublic(decrypt, algECDH, s.agreement.PublicKey),
		rootFields: nothing, agreementField: nothing, signer: key,
	}
	change(f)
	extra := Qualifier(s.root, nonce)
	return &Attestation{
		Nonce: nonce, AK: f.ak.encode(),
		Root:      f.certify(t, &f.root, extra, f.rootFields),
		Agreement: f.certify(t, &f.agreement, extra, f.agreementField),
	}
}

// certify does as TPM2_Certify.
func (f *forged) certify(t testing.TB, p *public, extra []byte, change func(*fields)) Certified {
	t.Helper()
	data := p.encode()
	hash, err := hashOf(p.nameAlg)
	if err != nil {
		hash = crypto.SHA256
	}
	h := hash.New()
	h.Write(data)
	statement := fields{magic: generated, kind: certifyType, signer: []byte("signer"), extra: extra}
	statement.name = h.Sum(binary.BigEndian.AppendUint16(nil, p.nameAlg))
	change(&statement)
	attest := statement.encode()
	return Certified{data, attest, signAs(t, f.signer, attest)}
}

// signAs makes a TPMT_SIGNATURE over data.
func signAs(t testing.TB, key *ecdsa.PrivateKey, data []byte) []byte {
	t.Helper()
	digest := sha256.Sum256(data)
	r, s, err := ecdsa.Sign(rand.Reader, key, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	out := scheme{algECDSA, algSHA256}.append(nil)
	return appendSized(appendSized(out, r.FillBytes(make([]byte, 32))), s.FillBytes(make([]byte, 32)))
}
