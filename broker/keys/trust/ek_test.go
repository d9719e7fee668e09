package trust

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"math/big"
	"slices"
	"testing"
	"time"
)

// TestCheckEK runs on what swtpm has: an RSA key and one on P-384, by a CA with
// an intermediate, with the critical name of the TPM.
func TestCheckEK(t *testing.T) {
	b, _ := vector(t, "fleet.json")
	o := vectorOptions(t)
	first, second := b.Brokers[0].Attestation, b.Brokers[1].Attestation
	for _, a := range []*Attestation{first, second} {
		if ca, err := a.CheckEK(o.EKRoots, o.Now); err != nil || !ca.Equal(o.EKRoots[0]) {
			t.Errorf("CheckEK = %v, %v", ca, err)
		}
	}
	other := newMaker(t)
	for name, tt := range map[string]struct {
		change func(*Attestation)
		roots  []*x509.Certificate
		now    time.Time
		want   string
	}{
		"no roots":         {func(*Attestation) {}, nil, o.Now, "its certificate, by \"CN=swtpm-localca\": x509: certificate signed by unknown authority"},
		"other roots":      {func(*Attestation) {}, []*x509.Certificate{other.ca}, o.Now, "unknown authority"},
		"too early":        {func(*Attestation) {}, o.EKRoots, o.Now.Add(-48 * time.Hour), "not yet valid"},
		"no key":           {func(a *Attestation) { a.EK, a.EKChain = nil, nil }, o.EKRoots, o.Now, "it has no certificate"},
		"no certificate":   {func(a *Attestation) { a.EKChain = nil }, o.EKRoots, o.Now, "it has no certificate"},
		"no intermediate":  {func(a *Attestation) { a.EKChain = a.EKChain[:1] }, o.EKRoots, o.Now, "unknown authority"},
		"of another":       {func(a *Attestation) { a.EKChain = second.EKChain }, o.EKRoots, o.Now, "its certificate is of another key"},
		"of a CA":          {func(a *Attestation) { a.EKChain = a.EKChain[1:] }, o.EKRoots, o.Now, "its certificate is of another key"},
		"certificate cut":  {func(a *Attestation) { a.EKChain = [][]byte{a.EKChain[0][1:]} }, o.EKRoots, o.Now, "reading its certificate"},
		"intermediate cut": {func(a *Attestation) { a.EKChain = [][]byte{a.EKChain[0], {1}} }, o.EKRoots, o.Now, "reading its certificate"},
		"too long":         {func(a *Attestation) { a.EKChain = append(a.EKChain, make([][]byte, maxEKChain)...) }, o.EKRoots, o.Now, "its chain has 11 certificates"},
		"too large":        {func(a *Attestation) { a.EKChain = [][]byte{make([]byte, maxEKCertificate+1)} }, o.EKRoots, o.Now, "its certificate has 8193 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			a := *first
			a.EKChain = append([][]byte(nil), first.EKChain...)
			tt.change(&a)
			_, err := a.CheckEK(tt.roots, tt.now)
			checkRefusal(t, err, tt.want)
		})
	}
}

// A stolen certificate of an endorsement key beside an attestation key of
// software passes, too: see Attestation.CheckEK. Verify therefore takes no
// endorsement key for a reason to trust a root.
func TestEKIsNoAnchor(t *testing.T) {
	b, _ := vector(t, "fleet.json")
	o := vectorOptions(t)
	s := newSubject(t, o.Now)
	a := forge(t, s, o.Nonce, func(*forged) {})
	a.EK, a.EKChain = b.Brokers[0].Attestation.EK, b.Brokers[0].Attestation.EKChain
	if _, err := a.CheckEK(o.EKRoots, o.Now); err != nil {
		t.Fatal(err)
	}
	o.Pins = nil
	bundle := &Bundle{1, vectorURL, []Broker{{Kind: KindTPM, Root: s.root.Raw, Agreement: s.agreement.Raw, Attestation: a}}, nil}
	_, err := bundle.Verify(o)
	checkRefusal(t, err, ErrUnknownRoot.Error())
}

// A maker certifies endorsement keys.
type maker struct {
	key *ecdsa.PrivateKey
	ca  *x509.Certificate
}

func newMaker(t *testing.T) *maker {
	t.Helper()
	m := &maker{key: newKey(t, elliptic.P384())}
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: "maker"}, SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, m.key.Public(), m.key)
	if err != nil {
		t.Fatal(err)
	}
	if m.ca, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return m
}

// certify makes the certificate of an endorsement key, with something changed.
func (m *maker) certify(t *testing.T, pub crypto.PublicKey, change func(*x509.Certificate)) []byte {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageKeyEncipherment,
		UnknownExtKeyUsage: []asn1.ObjectIdentifier{oidEKCertificate()}, BasicConstraintsValid: true,
		ExtraExtensions: []pkix.Extension{{Id: oidSubjectAltName(), Critical: true, Value: tpmName(t, 4, append(oidTPM(), 1))}},
	}
	change(template)
	der, err := x509.CreateCertificate(rand.Reader, template, m.ca, pub, m.key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// tpmName makes GeneralNames with one name, a directory name if tag is 4.
func tpmName(t *testing.T, tag int, id asn1.ObjectIdentifier) []byte {
	t.Helper()
	name, err := asn1.Marshal(pkix.RDNSequence{{{Type: id, Value: "id:00001014"}}})
	if err != nil {
		t.Fatal(err)
	}
	value, err := asn1.Marshal([]asn1.RawValue{{Class: asn1.ClassContextSpecific, Tag: tag, IsCompound: true, Bytes: name}})
	if err != nil {
		t.Fatal(err)
	}
	return value
}

func ekPublic(kind uint16, key crypto.PublicKey) *public {
	return &public{kind: kind, nameAlg: algSHA256, attributes: stuck | adminWithPolicy | restricted | decrypt, aes: 128, scheme: scheme{algorithm: algNull}, key: key}
}

func TestCheckEKProfile(t *testing.T) {
	m := newMaker(t)
	key := newKey(t, elliptic.P256()).Public()
	extension := func(value []byte) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.ExtraExtensions[0].Value = value }
	}
	for name, tt := range map[string]struct {
		change func(*x509.Certificate)
		want   string
	}{
		"plain":      {func(*x509.Certificate) {}, ""},
		"no purpose": {func(c *x509.Certificate) { c.UnknownExtKeyUsage = nil }, ""},
		"no name":    {func(c *x509.Certificate) { c.ExtraExtensions = nil }, ""},
		"of a server": {func(c *x509.Certificate) {
			c.UnknownExtKeyUsage, c.ExtKeyUsage = nil, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
		}, "not tcg-kp-EKCertificate"},
		"of a CA":      {func(c *x509.Certificate) { c.IsCA, c.KeyUsage = true, x509.KeyUsageCertSign }, "of a CA"},
		"signs":        {func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageDigitalSignature }, "of a key that signs"},
		"over":         {func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }, "expired"},
		"other name":   {extension(tpmName(t, 4, asn1.ObjectIdentifier{2, 5, 4, 3})), "attribute 2.5.4.3, which is not of a TPM"},
		"other prefix": {extension(tpmName(t, 4, asn1.ObjectIdentifier{2, 23, 133, 3, 1})), "attribute 2.23.133.3.1, which is not of a TPM"},
		"other tag":    {extension(tpmName(t, 5, append(oidTPM(), 1))), "not a directory name"},
		"empty name":   {extension([]byte{0x30, 4, 0xa4, 2, 0x30, 0}), "not a directory name that can be read"},
		"critical": {func(c *x509.Certificate) {
			c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{1, 2, 3}, Critical: true, Value: []byte{5, 0}})
		}, "unhandled critical extension"},
	} {
		t.Run(name, func(t *testing.T) {
			a := &Attestation{EK: ekPublic(algECC, key).encode(), EKChain: [][]byte{m.certify(t, key, tt.change)}}
			ca, err := a.CheckEK([]*x509.Certificate{m.ca}, time.Now())
			if tt.want != "" {
				checkRefusal(t, err, tt.want)
			} else if err != nil || !ca.Equal(m.ca) {
				t.Errorf("CheckEK = %v, %v", ca, err)
			}
		})
	}
}

func TestCheckEKKeys(t *testing.T) {
	m := newMaker(t)
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	plain := m.certify(t, key.Public(), func(*x509.Certificate) {})
	good := ekPublic(algRSA, key.Public())
	for name, tt := range map[string]struct {
		change func(*public)
		area   func([]byte)
		cert   []byte
		want   string
	}{
		"plain":          {nil, nil, plain, ""},
		"as OAEP":        {nil, nil, m.asOAEP(t, plain), ""},
		"explicit 65537": {nil, func(area []byte) { copy(area[20:], []byte{0, 1, 0, 1}) }, plain, ""},
		"exponent 3":     {nil, func(area []byte) { copy(area[20:], []byte{0, 0, 0, 3}) }, plain, "its exponent is not 65537"},
		"even":           {nil, func(area []byte) { area[len(area)-1] &^= 1 }, plain, "its modulus has another size"},
		"zero first":     {nil, func(area []byte) { area[26] = 0 }, plain, "its modulus has another size"},
		"for ECDSA": {func(p *public) {
			p.kind, p.scheme, p.key = algECC, scheme{algECDSA, algSHA256}, newKey(t, elliptic.P256()).Public()
		}, nil, plain, "no storage key"},
		"small":          {nil, func(area []byte) { copy(area[18:], []byte{4, 0}) }, plain, "an RSA key of 1024 bits"},
		"with a scheme":  {nil, func(area []byte) { copy(area[16:], []byte{0, 0x17}) }, plain, "an RSA key with a scheme"},
		"not fixed":      {func(p *public) { p.attributes &^= fixedTPM }, nil, plain, "no storage key that cannot leave its TPM"},
		"not restricted": {func(p *public) { p.attributes &^= restricted }, nil, plain, "no storage key"},
		"signs":          {func(p *public) { p.attributes |= sign }, nil, plain, "no storage key"},
		"without AES":    {func(p *public) { p.aes = 0 }, nil, plain, "no storage key"},
		"with AES of 64": {func(p *public) { p.aes = 64 }, nil, plain, "not AES in CFB mode"},
	} {
		t.Run(name, func(t *testing.T) {
			p := *good
			if tt.change != nil {
				tt.change(&p)
			}
			area := p.encode()
			if tt.area != nil {
				tt.area(area)
			}
			_, err := (&Attestation{EK: area, EKChain: [][]byte{tt.cert}}).CheckEK([]*x509.Certificate{m.ca}, time.Now())
			if tt.want != "" {
				checkRefusal(t, err, tt.want)
			} else if err != nil {
				t.Errorf("CheckEK = %v", err)
			}
		})
	}
}

// asOAEP rewrites a certificate as some makers write those of RSA keys: with
// id-RSAES-OAEP as the algorithm of the key, which has as many bytes.
func (m *maker) asOAEP(t *testing.T, der []byte) []byte {
	t.Helper()
	var cert struct {
		TBS       asn1.RawValue
		Algorithm pkix.AlgorithmIdentifier
		Signature asn1.BitString
	}
	if _, err := asn1.Unmarshal(bytes.Clone(der), &cert); err != nil {
		t.Fatal(err)
	}
	rsaEncryption := []byte{0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1}
	at := bytes.Index(cert.TBS.FullBytes, rsaEncryption)
	cert.TBS.FullBytes[at+len(rsaEncryption)-1] = 7
	sum := crypto.SHA384.New()
	sum.Write(cert.TBS.FullBytes)
	signature, err := m.key.Sign(rand.Reader, sum.Sum(nil), crypto.SHA384)
	if err != nil {
		t.Fatal(err)
	}
	cert.Signature = asn1.BitString{Bytes: signature, BitLength: 8 * len(signature)}
	out, err := asn1.Marshal(cert)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestName(t *testing.T) {
	area := ekPublic(algECC, newKey(t, elliptic.P384()).Public()).encode()
	sum := sha256.Sum256(area)
	if name, err := Name(area); err != nil || !bytes.Equal(name, append([]byte{0, 0xb}, sum[:]...)) {
		t.Errorf("Name = %x, %v", name, err)
	}
	for want, change := range map[string]func([]byte) []byte{
		"it has the scheme 0x1a":         func(a []byte) []byte { return slices.Concat(a[:16], []byte{0, 0x1a, 0, 0xb}, a[18:]) },
		"it has the key derivation 0x20": func(a []byte) []byte { a[21] = 0x20; return a },
		"it is on the curve 0x5":         func(a []byte) []byte { a[19] = 5; return a },
		"the coordinates of its point":   func(a []byte) []byte { return slices.Concat(a[:22], []byte{0, 47}, a[25:]) },
		"not AES in CFB mode":            func(a []byte) []byte { a[15] = 0x44; return a },
		"it ends too soon":               func(a []byte) []byte { return a[:21] },
		"it has attributes that are not": func(a []byte) []byte { a[4] = 1; return a },
		"of type 0x25":                   func(a []byte) []byte { a[1] = 0x25; return a },
		"its name algorithm is 0x12":     func(a []byte) []byte { a[3] = 0x12; return a },
		"its policy is not a digest":     func(a []byte) []byte { return slices.Concat(a[:8], []byte{0, 1, 1}, a[10:]) },
		"of a TPM key: 1025 bytes":       func([]byte) []byte { return make([]byte, 1025) },
	} {
		name, err := Name(change(bytes.Clone(area)))
		checkRefusal(t, err, want)
		if name != nil {
			t.Errorf("refused, with the Name %x", name)
		}
	}
	if name, err := Name(area[1:]); err == nil || name != nil {
		t.Errorf("Name of half a key = %x, %v", name, err)
	}
}

func TestParseEKRootsPEM(t *testing.T) {
	one := testdata(t, "ek-ca.pem")
	m := newMaker(t)
	block := func(kind string, der []byte) []byte {
		return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
	}
	leaf := m.certify(t, newKey(t, elliptic.P256()).Public(), func(*x509.Certificate) {})
	roots, err := ParseEKRootsPEM(slices.Concat([]byte("swtpm\n"), one, []byte("\nmaker\n"), block("CERTIFICATE", m.ca.Raw)))
	if err != nil || len(roots) != 2 || !roots[1].Equal(m.ca) {
		t.Errorf("ParseEKRootsPEM = %v, %v", roots, err)
	}
	for name, tt := range map[string]struct {
		data []byte
		want string
	}{
		"nothing":  {nil, "there is no PEM block"},
		"DER":      {m.ca.Raw, "there is no PEM block"},
		"a key":    {slices.Concat(one, block("PUBLIC KEY", m.ca.Raw)), "and no other"},
		"too many": {bytes.Repeat(one, 257), "one to 256"},
		"no CA":    {block("CERTIFICATE", leaf), "is no CA"},
		"cut":      {block("CERTIFICATE", m.ca.Raw[1:]), "reading CAs of TPM makers: x509"},
	} {
		roots, err := ParseEKRootsPEM(tt.data)
		checkRefusal(t, err, tt.want)
		if roots != nil {
			t.Errorf("%s: refused, with %d roots", name, len(roots))
		}
	}
}

func FuzzEKRootsPEM(f *testing.F) {
	f.Add(testdata(f, "ek-ca.pem"))
	f.Fuzz(func(t *testing.T, data []byte) {
		roots, err := ParseEKRootsPEM(data)
		if (len(roots) == 0) != (err != nil) || len(roots) > maxEKRoots {
			t.Errorf("%d roots with the error %v", len(roots), err)
		}
	})
}
