package trust

import (
	"bytes"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"strings"
	"testing"
	"time"
)

// Each of these differs in one thing from an attestation that passes, and is
// refused for that.
func TestCheckRefuses(t *testing.T) {
	s := newSubject(t, time.Now())
	other := newKey(t, elliptic.P256())
	big := newKey(t, elliptic.P384())
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	clear := func(p *public, bit uint32) { p.attributes &^= bit }
	set := func(p *public, bit uint32) { p.attributes |= bit }
	for name, tt := range map[string]struct {
		change func(*forged)
		want   string
	}{
		"ak not restricted":        {func(f *forged) { clear(&f.ak, restricted) }, "attestation key: it is not what it should be: restricted is not set"},
		"ak does not sign":         {func(f *forged) { clear(&f.ak, sign) }, "attestation key: it is not what it should be: sign"},
		"ak decrypts":              {func(f *forged) { set(&f.ak, decrypt) }, "attestation key: it may do other things than it should: decrypt"},
		"ak exportable":            {func(f *forged) { clear(&f.ak, fixedTPM) }, "attestation key: it may leave its TPM"},
		"ak movable":               {func(f *forged) { clear(&f.ak, fixedParent) }, "attestation key: it may be moved"},
		"ak imported":              {func(f *forged) { clear(&f.ak, sensitiveDataOrigin) }, "attestation key: it was not made by its TPM"},
		"ak to be duplicated":      {func(f *forged) { set(&f.ak, encryptedDup) }, "attestation key: it is one to be moved"},
		"ak signs X.509":           {func(f *forged) { set(&f.ak, 1<<19) }, "attestation key: it has attributes that are not known here: 0x80000"},
		"ak without a scheme":      {func(f *forged) { f.ak.scheme.algorithm = algNull }, "attestation key: it has the scheme 0x10"},
		"ak with another hash":     {func(f *forged) { f.ak.scheme.hash = algSHA384 }, "attestation key: the hash of its scheme"},
		"ak with another name":     {func(f *forged) { f.ak.nameAlg = algSHA384 }, "attestation key: its name algorithm is not SHA-256"},
		"ak with SHA-1":            {func(f *forged) { f.ak.nameAlg = 4 }, "attestation key: its name algorithm is 0x4"},
		"ak on P-384":              {func(f *forged) { f.ak.key = &big.PublicKey }, "attestation key: it is not on P-256"},
		"ak is RSA":                {func(f *forged) { f.ak.kind, f.ak.scheme.algorithm, f.ak.key = algRSA, algNull, &rsaKey.PublicKey }, "attestation key: it is not on P-256"},
		"ak stores":                {func(f *forged) { f.ak.aes = 128 }, "attestation key: it is a storage key"},
		"ak did not sign":          {func(f *forged) { f.signer = other }, "root key: its signature: the attestation key did not make it"},
		"root exportable":          {func(f *forged) { clear(&f.root, fixedTPM) }, "root key: its public area: it may leave its TPM"},
		"root movable":             {func(f *forged) { clear(&f.root, fixedParent) }, "root key: its public area: it may be moved"},
		"root imported":            {func(f *forged) { clear(&f.root, sensitiveDataOrigin) }, "root key: its public area: it was not made by its TPM"},
		"root restricted":          {func(f *forged) { set(&f.root, restricted) }, "root key: its public area: it may do other things than it should: restricted"},
		"root decrypts":            {func(f *forged) { set(&f.root, decrypt) }, "root key: its public area: it may do other things than it should: decrypt"},
		"root does not sign":       {func(f *forged) { clear(&f.root, sign) }, "root key: its public area: it is not what it should be: sign"},
		"root for ECDH":            {func(f *forged) { f.root.scheme.algorithm = algECDH }, "root key: its public area: it has the scheme 0x19"},
		"root is another key":      {func(f *forged) { f.root.key = &other.PublicKey }, "root key: it is of another key than the certificate's"},
		"root with a short policy": {func(f *forged) { f.root.policy = []byte("policy") }, "root key: its public area: its policy is not a digest"},
		"agreement exportable":     {func(f *forged) { clear(&f.agreement, fixedTPM) }, "agreement key: its public area: it may leave its TPM"},
		"agreement signs":          {func(f *forged) { set(&f.agreement, sign) }, "agreement key: its public area: it may do other things than it should: sign"},
		"agreement restricted":     {func(f *forged) { set(&f.agreement, restricted) }, "agreement key: its public area: it may do other things than it should: restricted"},
		"agreement is no ECDH":     {func(f *forged) { clear(&f.agreement, decrypt) }, "agreement key: its public area: it is not what it should be: decrypt"},
		"agreement with ECDSA":     {func(f *forged) { f.agreement.scheme.algorithm = algECDSA }, "agreement key: its public area: it has the scheme 0x18"},
		"agreement is another":     {func(f *forged) { f.agreement.key = &other.PublicKey }, "agreement key: it is of another key than the certificate's"},
		"statement not a TPM's":    {func(f *forged) { f.rootFields = func(a *fields) { a.magic++ } }, "root key: its statement: it was not made by a TPM"},
		"statement is a quote":     {func(f *forged) { f.rootFields = func(a *fields) { a.kind = 0x8018 } }, "root key: its statement: it is an attestation of type 0x8018"},
		"statement of another":     {func(f *forged) { f.rootFields = func(a *fields) { a.name[5] ^= 1 } }, "root key: its statement is about another key"},
		"statement with more":      {func(f *forged) { f.rootFields = func(a *fields) { a.more = []byte{0} } }, "root key: its statement: 1 bytes are left over"},
		"statement half safe":      {func(f *forged) { f.rootFields = func(a *fields) { a.safe = 2 } }, "root key: its statement: its clock"},
		"statement answers other":  {func(f *forged) { f.agreementField = func(a *fields) { a.extra = Qualifier(s.root, nil) } }, "agreement key: its statement is about another root certificate, or answers another nonce"},
		"statement by another AK":  {func(f *forged) { f.agreementField = func(a *fields) { a.signer = []byte("elsewhere") } }, "signed by keys in two places"},
	} {
		t.Run(name, func(t *testing.T) {
			a := forge(t, s, []byte("nonce"), tt.change)
			checkRefusal(t, a.Check(s.root, s.agreement, []byte("nonce")), tt.want)
		})
	}
}

func checkRefusal(t *testing.T, err error, want string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want %q", err, want)
	}
}

// What is cut, longer or of another type is refused by the readers.
func TestCheckRefusesBytes(t *testing.T) {
	s := newSubject(t, time.Now())
	for name, tt := range map[string]struct {
		change func(*Attestation)
		want   string
	}{
		"nonce":               {func(a *Attestation) { a.Nonce = []byte("other") }, "it answers another nonce"},
		"no AK":               {func(a *Attestation) { a.AK = nil }, "attestation key: it ends too soon"},
		"AK with more":        {func(a *Attestation) { a.AK = append(a.AK, 0) }, "attestation key: 1 bytes are left over"},
		"AK cut":              {func(a *Attestation) { a.AK = a.AK[:len(a.AK)-1] }, "attestation key: it ends too soon"},
		"AK of another type":  {func(a *Attestation) { a.AK[1] = 8 }, "neither an ECC nor an RSA key, but of type 0x8"},
		"AK off the curve":    {func(a *Attestation) { a.AK[len(a.AK)-1] ^= 1 }, "its point is not on the curve"},
		"AK is huge":          {func(a *Attestation) { a.AK = make([]byte, maxStructure+1) }, "1025 bytes, more than 1024"},
		"statement cut":       {func(a *Attestation) { a.Root.Attest = a.Root.Attest[:20] }, "root key: its statement: it ends too soon"},
		"statement is huge":   {func(a *Attestation) { a.Root.Attest = make([]byte, maxStructure+1) }, "root key: its statement: 1025 bytes"},
		"no statement":        {func(a *Attestation) { a.Root.Attest = nil }, "root key: its statement: it ends too soon"},
		"clock changed":       {func(a *Attestation) { a.Root.Attest[60] ^= 1 }, "root key: its signature: the attestation key did not make it"},
		"statements swapped":  {func(a *Attestation) { a.Root.Attest, a.Agreement.Attest = a.Agreement.Attest, a.Root.Attest }, "root key: its signature"},
		"both swapped":        {func(a *Attestation) { a.Root, a.Agreement = a.Agreement, a.Root }, "root key: its public area: it is not what it should be: sign"},
		"signature by RSA":    {func(a *Attestation) { a.Root.Signature[1] = 0x14 }, "root key: its signature: it is by the algorithms 0x14 and 0xb"},
		"signature of SHA-1":  {func(a *Attestation) { a.Root.Signature[3] = 4 }, "root key: its signature: it is by the algorithms 0x18 and 0x4"},
		"signature changed":   {func(a *Attestation) { a.Root.Signature[20] ^= 1 }, "root key: its signature: the attestation key did not make it"},
		"signature with more": {func(a *Attestation) { a.Root.Signature = append(a.Root.Signature, 0) }, "root key: its signature: 1 bytes are left over"},
		"signature is huge":   {func(a *Attestation) { a.Root.Signature = make([]byte, maxStructure+1) }, "root key: its signature: 1025 bytes"},
		"signature empty":     {func(a *Attestation) { a.Root.Signature = []byte{0, 0x18, 0, 0xb, 0, 0, 0, 1, 1} }, "root key: its signature: its numbers"},
		"signature of zeroes": {func(a *Attestation) { clear(a.Root.Signature[6:38]) }, "root key: its signature: the attestation key did not make it"},
		"EK certificate only": {func(a *Attestation) { a.EKChain = [][]byte{{1}} }, "endorsement key: there is a certificate, and no key"},
		"EK is none":          {func(a *Attestation) { a.EK = a.AK }, "endorsement key: it is no storage key"},
	} {
		t.Run(name, func(t *testing.T) {
			nonce := []byte("nonce")
			a := forge(t, s, nonce, func(*forged) {})
			tt.change(a)
			checkRefusal(t, a.Check(s.root, s.agreement, nonce), tt.want)
		})
	}
}

// An attestation key that software made passes: this is what Check cannot see,
// and why nothing but a pinned fingerprint or an endorsement makes a root
// trusted.
func TestCheckCannotTellSoftware(t *testing.T) {
	s := newSubject(t, time.Now())
	a := forge(t, s, nil, func(*forged) {})
	if err := a.Check(s.root, s.agreement, nil); err != nil {
		t.Fatal(err)
	}
	checkRefusal(t, a.Check(newSubject(t, time.Now()).root, s.agreement, nil), "of another key than the certificate's")
	long := make([]byte, MaxNonce+1)
	a.Nonce = long
	checkRefusal(t, a.Check(s.root, s.agreement, long), "another nonce")
}

// The qualifier is bound to the certificate, not to the key only: another root
// certificate of the same key is another root.
func TestCheckOtherCertificate(t *testing.T) {
	s := newSubject(t, time.Now())
	a := forge(t, s, nil, func(*forged) {})
	again, err := NewRoot(s.key, s.now)
	if err != nil {
		t.Fatal(err)
	}
	checkRefusal(t, a.Check(again, s.agreement, nil), "about another root certificate")
}

func TestHasPolicy(t *testing.T) {
	s := newSubject(t, time.Now())
	policy := bytes.Repeat([]byte{7}, 32)
	for name, tt := range map[string]struct {
		change func(*forged)
		want   bool
	}{
		"none":             {func(*forged) {}, false},
		"of both":          {func(f *forged) { withPolicy(&f.root, policy); withPolicy(&f.agreement, policy) }, true},
		"of one":           {func(f *forged) { withPolicy(&f.root, policy) }, false},
		"or a password":    {func(f *forged) { f.root.policy, f.agreement.policy = policy, policy }, false},
		"without a way in": {func(f *forged) { f.root.attributes &^= userWithAuth; f.agreement.attributes &^= userWithAuth }, false},
	} {
		a := forge(t, s, nil, tt.change)
		if err := a.Check(s.root, s.agreement, nil); err != nil {
			t.Fatal(err)
		}
		if a.HasPolicy() != tt.want {
			t.Errorf("%s: HasPolicy = %v", name, !tt.want)
		}
	}
	if (&Attestation{}).HasPolicy() {
		t.Error("no attestation has a policy")
	}
}

func withPolicy(p *public, policy []byte) {
	p.policy, p.attributes = policy, p.attributes&^userWithAuth
}
