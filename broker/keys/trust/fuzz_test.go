package trust

import (
	"bytes"
	"crypto/rsa"
	"encoding/binary"
	"encoding/json"
	"testing"
)

// seeds returns the attestations in testdata.
func seeds(f *testing.F) []*Attestation {
	f.Helper()
	var out []*Attestation
	for _, name := range []string{"fleet.json", "exportable.json", "unrestricted.json", "quote.json"} {
		b, _ := vector(f, name)
		for _, broker := range b.Brokers {
			out = append(out, broker.Attestation)
		}
	}
	return out
}

// A public area that is accepted is written the same again: no two areas are
// read as one.
func FuzzPublic(f *testing.F) {
	for _, a := range seeds(f) {
		for _, area := range [][]byte{a.AK, a.Root.Public, a.Agreement.Public, a.EK} {
			f.Add(area)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := parsePublic(data)
		if err != nil {
			if p != nil {
				t.Fatalf("an area and the error %v", err)
			}
			return
		}
		again := p.encode()
		if _, ok := p.key.(*rsa.PublicKey); ok { // the exponent may be 0 or 65537
			at := len(again) - len(p.key.(*rsa.PublicKey).N.Bytes()) - 6
			copy(again[at:at+4], data[at:])
		}
		if !bytes.Equal(again, data) {
			t.Errorf("%x\nis read as\n%x", data, again)
		}
		if _, err := Name(data); err != nil {
			t.Errorf("no Name: %v", err)
		}
	})
}

func FuzzStatement(f *testing.F) {
	for _, a := range seeds(f) {
		f.Add(a.Root.Attest)
		f.Add(a.Agreement.Attest)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := parseStatement(data)
		if err != nil {
			if s != nil {
				t.Fatalf("a statement and the error %v", err)
			}
			return
		}
		at := 6 + 2 + len(s.signer) + 2 + len(s.extra) // of the clock and the firmware version, which are not read
		again := fields{magic: generated, kind: certifyType, signer: s.signer, extra: s.extra, name: s.name, qualified: s.qualified}.encode()
		copy(again[at:at+25], data[at:])
		if !bytes.Equal(again, data) {
			t.Errorf("%x\nis read as\n%x", data, again)
		}
	})
}

func FuzzSignature(f *testing.F) {
	for _, a := range seeds(f) {
		f.Add(a.Root.Signature)
		f.Add(a.Agreement.Signature)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := parseSignature(data)
		if err != nil {
			if s != nil {
				t.Fatalf("a signature and the error %v", err)
			}
			return
		}
		size := int(binary.BigEndian.Uint16(data[4:]))
		again := scheme{algECDSA, algSHA256}.append(nil)
		again = appendSized(again, s.r.FillBytes(make([]byte, size)))
		again = appendSized(again, s.s.FillBytes(make([]byte, len(data)-len(again)-2)))
		if !bytes.Equal(again, data) {
			t.Errorf("%x\nis read as\n%x", data, again)
		}
	})
}

func FuzzTPMName(f *testing.F) {
	f.Add([]byte{0x30, 4, 0xa4, 2, 0x30, 0})
	for _, a := range seeds(f) {
		if len(a.EKChain) == 0 {
			continue
		}
		cert, err := parseEK(a.EKChain[0])
		if err != nil {
			f.Fatal(err)
		}
		for _, e := range cert.Extensions {
			if e.Id.Equal(oidSubjectAltName()) {
				f.Add(e.Value)
			}
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if checkTPMName(data) == nil && !bytes.Contains(data, []byte{0x67, 0x81, 5, 2}) { // 2.23.133.2
			t.Errorf("%x: accepted without an attribute of a TPM", data)
		}
	})
}

// A bundle that is accepted is written the same again, but for white space, and
// verifying it fails or not: it never panics.
func FuzzBundle(f *testing.F) {
	for _, name := range []string{"fleet.json", "exportable.json", "unrestricted.json", "quote.json"} {
		f.Add(testdata(f, name))
	}
	o := vectorOptions(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := ParseBundle(data)
		if err != nil {
			if b != nil {
				t.Fatalf("a bundle and the error %v", err)
			}
			return
		}
		var compact bytes.Buffer
		if err := json.Compact(&compact, data); err != nil {
			t.Fatal(err)
		}
		if again, err := b.Encode(); err != nil || !bytes.Equal(again, compact.Bytes()) {
			t.Errorf("%s\nis read as\n%s, %v", &compact, again, err)
		}
		if report, err := b.Verify(o); (report == nil) != (err != nil) {
			t.Errorf("report %v with the error %v", report, err)
		}
	})
}

// Whatever an attestation holds, checking it never panics.
func FuzzAttestation(f *testing.F) {
	b, roots := vector(f, "fleet.json")
	o := vectorOptions(f)
	agreement, _, err := ParseAgreement(b.Brokers[0].Agreement, roots[0], o.Now)
	if err != nil {
		f.Fatal(err)
	}
	good := b.Brokers[0].Attestation
	f.Add(good.AK, good.Root.Public, good.Root.Attest, good.Root.Signature, good.EK, good.EKChain[0], good.EKChain[1])
	f.Fuzz(func(t *testing.T, ak, public, attest, signature, ek, leaf, issuer []byte) {
		a := &Attestation{
			Nonce: good.Nonce, AK: ak, Root: Certified{public, attest, signature}, Agreement: good.Agreement,
			EK: ek, EKChain: [][]byte{leaf, issuer},
		}
		passes := a.Check(roots[0], agreement, good.Nonce) == nil
		if passes && (!bytes.Equal(public, good.Root.Public) || !bytes.Equal(attest, good.Root.Attest)) {
			t.Error("another statement passes")
		}
		if ca, err := a.CheckEK(o.EKRoots, o.Now); (ca == nil) != (err != nil) {
			t.Errorf("CA %v with the error %v", ca, err)
		}
	})
}
