package tpm_test

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"encoding/pem"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/brevet-dev/brevet/broker/keys/tpm"
	"github.com/brevet-dev/brevet/broker/keys/trust"
	"github.com/brevet-dev/brevet/test/servers"
)

func attest(t *testing.T, root *tpm.Root, nonce []byte) *trust.Attestation {
	t.Helper()
	a, err := root.Attest(t.Context(), nonce)
	must(t, err)
	return a
}

// TestAttest has tpm2-tools and OpenSSL read an attestation.
func TestAttest(t *testing.T) {
	t.Parallel()
	root := create(t, config(t, servers.BareSWTPM(t)))
	nonce := []byte("a nonce")
	a := attest(t, root, nonce)
	if string(a.Nonce) != string(nonce) {
		t.Errorf("nonce %q", a.Nonce)
	}
	dir := t.TempDir()
	file := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		must(t, os.WriteFile(path, data, 0o600))
		return path
	}
	run := func(name string, args ...string) string {
		t.Helper()
		out, err := exec.Command(name, args...).CombinedOutput()
		if err != nil {
			t.Fatalf("%s %v: %v: %s", name, args, err, out)
		}
		return string(out)
	}
	ak := file("ak.pem", []byte(run("tpm2_print", "-t", "TPMT_PUBLIC", "-f", "pem", file("ak", a.AK))))
	if out := run("tpm2_print", "-t", "TPMT_PUBLIC", file("ak", a.AK)); !strings.Contains(out, "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|restricted|sign\n") {
		t.Errorf("the attestation key: %s", out)
	}
	for name, c := range map[string]struct {
		trust.Certified
		cert *x509.Certificate
		may  string
	}{"root": {a.Root, root.Certificate(), "sign"}, "agreement": {a.Agreement, root.Agreement(), "decrypt"}} {
		// It ends with an error, as the Debian 12 version reads no further than
		// to the type of this.
		read, _ := exec.Command("tpm2_print", "-t", "TPMS_ATTEST", file("attest", c.Attest)).CombinedOutput()
		out, digest := string(read), sha256.Sum256(c.Public)
		if !strings.Contains(out, "magic: ff544347") || !strings.Contains(out, "type: 8017") ||
			!strings.Contains(out, "extraData: "+hex.EncodeToString(trust.Qualifier(root.Certificate(), nonce))) ||
			!bytes.Contains(c.Attest, digest[:]) {
			t.Errorf("%s: %s", name, out)
		}
		run("openssl", "dgst", "-sha256", "-verify", ak, "-signature", file("signature", der(t, c.Signature)), file("attest", c.Attest))
		public := file("public", c.Public)
		if out := run("tpm2_print", "-t", "TPMT_PUBLIC", public); !strings.Contains(out, "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|"+c.may+"\n") {
			t.Errorf("%s: %s", name, out)
		}
		block, _ := pem.Decode([]byte(run("tpm2_print", "-t", "TPMT_PUBLIC", "-f", "pem", public)))
		if !bytes.Equal(block.Bytes, c.cert.RawSubjectPublicKeyInfo) {
			t.Errorf("%s: the certificate is of another key", name)
		}
	}
	if _, err := root.Attest(t.Context(), make([]byte, 65)); err == nil {
		t.Error("Attest with a long nonce succeeded")
	}
}

// der turns a TPMT_SIGNATURE (ECDSA, SHA-256) into ASN.1.
func der(t *testing.T, signature []byte) []byte {
	t.Helper()
	if len(signature) != 4+2+32+2+32 {
		t.Fatalf("a signature of %d bytes: %x", len(signature), signature)
	}
	out, err := asn1.Marshal([]*big.Int{new(big.Int).SetBytes(signature[6:38]), new(big.Int).SetBytes(signature[40:])})
	must(t, err)
	return out
}

func TestEndorsement(t *testing.T) {
	t.Parallel()
	s := servers.SWTPM(t)
	intermediate := certificate(t, s.Intermediate)
	install(t, s, "0x01c00100", append(bytes.Clone(intermediate.Raw), make([]byte, 100)...)) // padded, as makers do
	tool(t, s, "tpm2_evictcontrol", "-C", "o", "-c", "0x81010001")                           // so that it has to be made again
	root := create(t, config(t, s))
	a := attest(t, root, nil)
	if len(a.EKChain) != 2 || !bytes.Equal(a.EKChain[1], intermediate.Raw) {
		t.Fatalf("%d certificates of the endorsement key, want it and the intermediate one", len(a.EKChain))
	}
	cert, err := x509.ParseCertificate(a.EKChain[0])
	must(t, err)
	roots, intermediates := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(certificate(t, s.CA))
	intermediates.AddCert(intermediate)
	cert.UnhandledCriticalExtensions = nil // its names, which crypto/x509 does not read
	if _, err := cert.Verify(x509.VerifyOptions{Roots: roots, Intermediates: intermediates, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
		t.Errorf("the endorsement certificate: %v", err)
	}
	secret := []byte("a secret of the challenge")
	challenge, err := tpm.NewChallenge(a, secret)
	must(t, err)
	if got, err := root.Activate(t.Context(), challenge); err != nil || !bytes.Equal(got, secret) {
		t.Errorf("Activate = %q, %v", got, err)
	}
	must(t, root.Check(t.Context()))
}

// certificate reads a file of one, PEM.
func certificate(t *testing.T, path string) *x509.Certificate {
	t.Helper()
	data, err := os.ReadFile(path)
	must(t, err)
	block, _ := pem.Decode(data)
	cert, err := x509.ParseCertificate(block.Bytes)
	must(t, err)
	return cert
}

// install puts data where a TPM's maker puts certificates.
func install(t *testing.T, s *servers.TPM, index string, data []byte) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "certificate")
	must(t, os.WriteFile(path, data, 0o600))
	tool(t, s, "tpm2_nvdefine", index, "-C", "o", "-s", strconv.Itoa(len(data)), "-a", "ownerread|authread|ownerwrite")
	tool(t, s, "tpm2_nvwrite", index, "-C", "o", "-i", path)
}

// TestEndorsementP256: a certificate counts if it is of the endorsement key.
func TestEndorsementP256(t *testing.T) {
	t.Parallel()
	s := servers.BareSWTPM(t)
	first := create(t, config(t, s))
	a := attest(t, first, nil)
	must(t, first.Close())
	x, y := a.EK[len(a.EK)-66:][:32], a.EK[len(a.EK)-32:]
	ek, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), append([]byte{4}, append(bytes.Clone(x), y...)...))
	must(t, err)
	maker, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1)}
	of := func(pub *ecdsa.PublicKey) []byte {
		der, err := x509.CreateCertificate(rand.Reader, template, template, pub, maker)
		must(t, err)
		return der
	}
	for name, c := range map[string]struct {
		certificate []byte
		chain       int
	}{"its own": {of(ek), 1}, "another's": {of(&maker.PublicKey), 0}, "none": {[]byte("garbage"), 0}} {
		install(t, s, "0x01c0000a", c.certificate)
		cfg := config(t, s)
		root := create(t, cfg)
		b := attest(t, root, nil)
		if len(b.EKChain) != c.chain || !bytes.Equal(b.EK, a.EK) {
			t.Errorf("%s: %d certificates, want %d; endorsement key %x, want %x", name, len(b.EKChain), c.chain, b.EK, a.EK)
		}
		must(t, root.Close())
		must(t, open(t, cfg).Close())
		tool(t, s, "tpm2_nvundefine", "0x01c0000a", "-C", "o")
	}
}

func TestActivate(t *testing.T) {
	t.Parallel()
	secret := []byte("a secret of 32 bytes, no one's!!")
	for name, s := range map[string]*servers.TPM{"RSA": servers.SWTPM(t), "P-256": servers.BareSWTPM(t)} {
		root, other := create(t, config(t, s)), create(t, config(t, servers.BareSWTPM(t)))
		a := attest(t, root, nil)
		if (len(a.EKChain) > 0) != (name == "RSA") {
			t.Errorf("%s: %d endorsement certificates", name, len(a.EKChain))
		}
		challenge, err := tpm.NewChallenge(a, secret)
		must(t, err)
		for range 2 {
			if got, err := root.Activate(t.Context(), challenge); err != nil || !bytes.Equal(got, secret) {
				t.Fatalf("%s: Activate = %q, %v", name, got, err)
			}
			must(t, sign(root))
		}
		_, err = other.Activate(t.Context(), challenge)
		refused(t, name+": Activate by another TPM", err, tpm.ErrChallenge)
		must(t, sign(other))

		// The right endorsement key with another's attestation key.
		mixed := *a
		mixed.AK = attest(t, other, nil).AK
		challenge, err = tpm.NewChallenge(&mixed, secret)
		must(t, err)
		_, err = root.Activate(t.Context(), challenge)
		refused(t, name+": Activate for another attestation key", err, tpm.ErrChallenge)
		for i := range challenge.Credential {
			challenge.Credential[i] ^= 1
			_, err = root.Activate(t.Context(), challenge)
			refused(t, name+": Activate of an altered challenge", err, tpm.ErrChallenge)
			challenge.Credential[i] ^= 1
		}
		for _, c := range []*trust.Challenge{nil, {}, {Credential: []byte{0}}, {Secret: make([]byte, 1000)}} {
			if out, err := root.Activate(t.Context(), c); err == nil || out != nil {
				t.Errorf("%s: Activate(%v) = %x, %v", name, c, out, err)
			}
		}
		must(t, root.Check(t.Context()))
	}
}

func TestNewChallengeRefuses(t *testing.T) {
	t.Parallel()
	a := attest(t, create(t, config(t, servers.BareSWTPM(t))), nil)
	secret := make([]byte, 32)
	without := func(change func(*trust.Attestation)) *trust.Attestation {
		b := *a
		change(&b)
		return &b
	}
	for name, try := range map[string]struct {
		a      *trust.Attestation
		secret []byte
	}{
		"no attestation":          {nil, secret},
		"a long secret":           {a, make([]byte, 33)},
		"a short secret":          {a, make([]byte, 15)},
		"no endorsement key":      {without(func(a *trust.Attestation) { a.EK = nil }), secret},
		"another as that":         {without(func(a *trust.Attestation) { a.EK = a.AK }), secret},
		"no attestation key":      {without(func(a *trust.Attestation) { a.AK = nil }), secret},
		"one not restricted":      {without(func(a *trust.Attestation) { a.AK = a.Root.Public }), secret},
		"a cut endorsement key":   {without(func(a *trust.Attestation) { a.EK = a.EK[:len(a.EK)-1] }), secret},
		"one with bytes after it": {without(func(a *trust.Attestation) { a.EK = append(bytes.Clone(a.EK), 0) }), secret},
	} {
		if c, err := tpm.NewChallenge(try.a, try.secret); err == nil || c != nil {
			t.Errorf("NewChallenge with %s = %v, %v", name, c, err)
		}
	}
}

// TestProbe records what passes between a root and its TPM: no secret does.
func TestProbe(t *testing.T) {
	t.Parallel()
	for name, pcrs := range map[string][]int{"auth value": nil, "auth value and PCRs": {7}} {
		p, cfg := between(t, config(t, servers.BareSWTPM(t)))
		cfg.PCRs = pcrs
		root := create(t, cfg)
		auth, err := os.ReadFile(filepath.Join(cfg.State, "auth"))
		must(t, err)
		other, err := ecdh.P256().GenerateKey(rand.Reader)
		must(t, err)
		shared, err := root.KeyExchanger().ECDH(other.PublicKey())
		must(t, err)
		must(t, sign(root))
		_, err = root.Increment(t.Context())
		must(t, err)
		_, err = root.Count(t.Context())
		must(t, err)
		activated := []byte("a secret that is activated")
		challenge, err := tpm.NewChallenge(attest(t, root, nil), activated)
		must(t, err)
		_, err = root.Activate(t.Context(), challenge)
		must(t, err)
		must(t, root.Close())
		must(t, open(t, cfg).Close())

		for what, secret := range map[string][]byte{"auth value": auth, "shared secret": shared, "activated secret": activated} {
			p.set(func() {
				if len(secret) < 16 || bytes.Contains(p.seen, secret[:16]) || bytes.Contains(p.seen, secret[len(secret)-16:]) {
					t.Errorf("%s: the %s passed in clear", name, what)
				}
			})
		}
		x := root.KeyExchanger().PublicKey().Bytes()[1:33]
		p.set(func() {
			if !bytes.Contains(p.seen, x) {
				t.Errorf("%s: the probe does not see what is public", name)
			}
		})
	}
}

// TestAltered has someone between change answers.
func TestAltered(t *testing.T) {
	t.Parallel()
	p, cfg := between(t, config(t, servers.BareSWTPM(t)))
	root := create(t, cfg)
	other, err := ecdh.P256().GenerateKey(rand.Reader)
	must(t, err)
	for name, try := range map[string]struct {
		code uint32
		use  func() error
	}{
		"a signature":     {ccSign, func() error { return sign(root) }},
		"a shared secret": {ccECDHZGen, func() error { _, err := root.KeyExchanger().ECDH(other.PublicKey()); return err }},
		"the count":       {ccNVRead, func() error { _, err := root.Count(t.Context()); return err }},
	} {
		p.set(func() {
			p.change = func(command, answer []byte) []byte {
				if codeOf(command) == try.code {
					answer[20] ^= 1
				}
				return answer
			}
		})
		if err := try.use(); err == nil || !strings.Contains(err.Error(), "HMAC") {
			t.Errorf("with %s changed: %v", name, err)
		}
		p.set(func() { p.change = func(_, answer []byte) []byte { return answer } })
		must(t, try.use())
	}
	must(t, root.Close())
	p.set(func() {
		p.change = func(command, answer []byte) []byte {
			if codeOf(command) == ccCreatePrimary {
				answer[60] ^= 1 // in the storage root key
			}
			return answer
		}
	})
	_, err = tpm.Open(t.Context(), cfg)
	if err == nil {
		t.Error("Open with another storage root key succeeded")
	}
}
