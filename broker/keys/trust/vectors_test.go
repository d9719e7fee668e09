package trust

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/asn1"
	"encoding/binary"
	"encoding/hex"
	"encoding/pem"
	"flag"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "make the vectors in testdata anew, with swtpm and tpm2-tools")

const vectorURL = "https://broker.example.com"

// A chip is a swtpm with an RSA and a P-384 endorsement key, both certified by a
// CA in the folder above it. It is driven by tpm2-tools, which share no code
// with this package.
type chip struct {
	t    *testing.T
	dir  string
	next int // persistent handle
}

const (
	rsaEK  = "0x81010001"
	p384EK = "0x81010016"
)

func newChip(t *testing.T, dir string) *chip {
	t.Helper()
	c := &chip{t, dir, 0x81000100}
	if err := os.MkdirAll(filepath.Join(dir, "state"), 0o700); err != nil {
		t.Fatal(err)
	}
	ca := filepath.Dir(dir)
	issuer, err := exec.LookPath("swtpm_localca")
	if err != nil {
		t.Fatal(err)
	}
	writeFiles(t, dir, map[string]string{
		"setup.conf": "create_certs_tool = " + issuer + "\ncreate_certs_tool_config = " + dir + "/ca.conf\ncreate_certs_tool_options = " + dir + "/ca.options\nactive_pcr_banks = sha256\n",
		"ca.conf":    "statedir = " + ca + "\nsigningkey = " + ca + "/key.pem\nissuercert = " + ca + "/issuer.pem\ncertserial = " + ca + "/serial\n",
		"ca.options": "--platform-manufacturer Example\n--platform-version 1\n--platform-model Example\n",
	})
	c.run("swtpm_setup", "--tpm2", "--tpmstate", dir+"/state", "--create-ek-cert", "--config", dir+"/setup.conf", "--write-ek-cert-files", dir)
	server := exec.Command("swtpm", "socket", "--tpm2", "--tpmstate", "dir="+dir+"/state", "--server", "type=unixio,path="+dir+"/tpm",
		"--ctrl", "type=unixio,path="+dir+"/tpm.ctrl", "--flags", "not-need-init,startup-clear")
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		server.Process.Kill()
		server.Wait()
	})
	ticks := time.NewTicker(5 * time.Millisecond)
	defer ticks.Stop()
	for listens := false; !listens; <-ticks.C {
		if conn, err := net.Dial("unix", dir+"/tpm.ctrl"); err == nil {
			listens = conn.Close() == nil
		}
	}
	c.tool("tpm2_createprimary", "-C", "o", "-G", "ecc", "-c", "srk")
	return c
}

func writeFiles(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// tool runs one of tpm2-tools, and removes what it leaves in the TPM: without a
// resource manager that has room for three objects.
func (c *chip) tool(args ...string) {
	c.t.Helper()
	c.run(args...)
	c.run("tpm2_flushcontext", "-t")
}

// run runs a program in the folder of the chip.
func (c *chip) run(args ...string) {
	c.t.Helper()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir, cmd.Env = c.dir, append(os.Environ(), "TPM2TOOLS_TCTI=swtpm:path="+c.dir+"/tpm")
	if out, err := cmd.CombinedOutput(); err != nil {
		c.t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

func (c *chip) read(name string) []byte {
	c.t.Helper()
	data, err := os.ReadFile(filepath.Join(c.dir, name))
	if err != nil {
		c.t.Fatal(err)
	}
	return data
}

// A chipKey is a key at a persistent handle.
type chipKey struct {
	chip   *chip
	handle string
	policy string // how to satisfy it, as tpm2-tools write that; "": none
	area   []byte // TPMT_PUBLIC
	pub    *ecdsa.PublicKey
}

// create makes a key below the storage root key, with attributes and "" or a
// policy about PCR 0.
func (c *chip) create(algorithm, attributes, policy string) *chipKey {
	c.t.Helper()
	args := []string{"tpm2_create", "-C", "srk", "-G", algorithm, "-a", attributes, "-u", "pub", "-r", "priv"}
	if policy != "" {
		c.tool("tpm2_createpolicy", "--policy-pcr", "-l", strings.TrimPrefix(policy, "pcr:"), "-L", "policy")
		args = append(args, "-L", "policy")
	}
	c.tool(args...)
	c.tool("tpm2_load", "-C", "srk", "-u", "pub", "-r", "priv", "-c", "key")
	return c.persist("key", policy)
}

func (c *chip) createAK() *chipKey {
	c.t.Helper()
	c.tool("tpm2_createak", "-C", rsaEK, "-G", "ecc", "-g", "sha256", "-s", "ecdsa", "-c", "ak")
	return c.persist("ak", "")
}

func (c *chip) persist(context, policy string) *chipKey {
	c.t.Helper()
	c.next++
	handle := fmt.Sprintf("%#x", c.next)
	c.tool("tpm2_evictcontrol", "-C", "o", "-c", context, handle)
	area := c.area(handle)
	p, err := parsePublic(area)
	if err != nil {
		c.t.Fatal(err)
	}
	return &chipKey{c, handle, policy, area, p.key.(*ecdsa.PublicKey)}
}

// area returns a public area without its size.
func (c *chip) area(handle string) []byte {
	c.t.Helper()
	c.tool("tpm2_readpublic", "-c", handle, "-o", "area", "-n", "name")
	area := c.read("area")[2:]
	if name, err := Name(area); err != nil || !bytes.Equal(name, c.read("name")) {
		c.t.Fatalf("Name = %x, %v, the TPM says %x", name, err, c.read("name"))
	}
	return area
}

func (k *chipKey) Public() crypto.PublicKey { return k.pub }

func (k *chipKey) Sign(_ io.Reader, digest []byte, _ crypto.SignerOpts) ([]byte, error) {
	writeFiles(k.chip.t, k.chip.dir, map[string]string{"digest": string(digest)})
	args := []string{"tpm2_sign", "-c", k.handle, "-g", "sha256", "-d", "-f", "plain", "-o", "signature"}
	if k.policy != "" {
		args = append(args, "-p", k.policy)
	}
	k.chip.tool(append(args, "digest")...)
	return k.chip.read("signature"), nil
}

// certify sends TPM2_Certify (part 3, section 18.2) with two empty passwords:
// tpm2_certify sets the qualifying data by itself.
func (k *chipKey) certify(of *chipKey, qualifier []byte) Certified {
	t := k.chip.t
	t.Helper()
	handle := func(k *chipKey) []byte {
		raw, err := hex.DecodeString(strings.TrimPrefix(k.handle, "0x"))
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	body := append(handle(of), handle(k)...)
	body = binary.BigEndian.AppendUint32(body, 18)
	password := []byte{0x40, 0, 0, 9, 0, 0, 0, 0, 0} // TPM_RS_PW
	body = append(append(body, password...), password...)
	body = appendSized(body, qualifier)
	body = scheme{algECDSA, algSHA256}.append(body)
	command := binary.BigEndian.AppendUint16(nil, 0x8002)
	command = binary.BigEndian.AppendUint32(command, uint32(len(body)+10))
	command = append(binary.BigEndian.AppendUint32(command, 0x148), body...)
	writeFiles(t, k.chip.dir, map[string]string{"command": string(command)})
	k.chip.tool("tpm2_send", "-o", "answer", "command")
	r := &reader{rest: k.chip.read("answer")}
	r.take(6)
	code := r.uint32()
	size := int(r.uint32())
	r = &reader{rest: r.take(size), err: r.err}
	attest := r.sized()
	if code != 0 || r.err != nil {
		t.Fatalf("TPM2_Certify: code %#x, %v", code, r.err)
	}
	return Certified{of.area, attest, r.rest}
}

// quote makes a statement of another type, TPM2_Quote.
func (k *chipKey) quote(of *chipKey, qualifier []byte) Certified {
	k.chip.t.Helper()
	k.chip.tool("tpm2_quote", "-c", k.handle, "-l", "sha256:0", "-q", hex.EncodeToString(qualifier), "-m", "quote", "-s", "signature", "-f", "tss", "-g", "sha256")
	return Certified{of.area, k.chip.read("quote"), k.chip.read("signature")}
}

// A chipBroker is a broker in the making.
type chipBroker struct {
	Broker
	root *x509.Certificate
	key  *chipKey
}

const (
	fixed       = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth"
	fixedPolicy = "fixedtpm|fixedparent|sensitivedataorigin"
)

func newChipBroker(t *testing.T, ak, root, agreement *chipKey, now time.Time, nonce []byte) *chipBroker {
	t.Helper()
	cert, err := NewRoot(root, now)
	if err != nil {
		t.Fatal(err)
	}
	exchange, err := agreement.pub.ECDH()
	if err != nil {
		t.Fatal(err)
	}
	agreed, err := NewAgreement(cert, root, exchange)
	if err != nil {
		t.Fatal(err)
	}
	extra := Qualifier(cert, nonce)
	a := &Attestation{Nonce: nonce, AK: ak.area, Root: ak.certify(root, extra), Agreement: ak.certify(agreement, extra)}
	return &chipBroker{Broker{Kind: KindTPM, Root: cert.Raw, Agreement: agreed.Raw, Attestation: a}, cert, root}
}

// endorsementKey adds an endorsement key with its certificate and the CA's.
func (b *chipBroker) endorsementKey(handle, file string) *chipBroker {
	c, t := b.key.chip, b.key.chip.t
	t.Helper()
	issuer, err := os.ReadFile(filepath.Join(filepath.Dir(c.dir), "issuer.pem"))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(issuer)
	b.Attestation.EK, b.Attestation.EKChain = c.area(handle), [][]byte{c.read(file), block.Bytes}
	return b
}

func (b *chipBroker) epoch(t *testing.T, now time.Time) []byte {
	t.Helper()
	return newEpoch(t, b.root, b.key, vectorURL, now)
}

func newEpoch(t testing.TB, root *x509.Certificate, s crypto.Signer, at string, now time.Time) []byte {
	t.Helper()
	u, err := url.Parse(at)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := NewEpoch(root, s, &newKey(t, elliptic.P256()).PublicKey, u, now, now.Add(18*time.Hour+Skew))
	if err != nil {
		t.Fatal(err)
	}
	return cert.Raw
}

// makeVectors makes what is in testdata: two brokers with a TPM each, and three
// whose TPM says what is not enough.
func makeVectors(t *testing.T) {
	dir, now := t.TempDir(), time.Now()
	one, two := newChip(t, filepath.Join(dir, "one")), newChip(t, filepath.Join(dir, "two"))
	ak := one.createAK()
	root, agreement := one.create("ecc256:ecdsa-sha256", fixed+"|sign", ""), one.create("ecc256", fixed+"|decrypt", "")
	first := newChipBroker(t, ak, root, agreement, now, []byte("golden nonce")).endorsementKey(rsaEK, "ek-rsa2048.crt")

	const pcr = "pcr:sha256:0"
	second := newChipBroker(t, two.createAK(), two.create("ecc256:ecdsa-sha256", fixedPolicy+"|sign", pcr),
		two.create("ecc256:ecdh-sha256", fixedPolicy+"|decrypt", pcr), now, nil).endorsementKey(p384EK, "ek-secp384r1.crt")
	endorsement, err := NewEndorsement(first.root, first.key, second.root, now)
	if err != nil {
		t.Fatal(err)
	}
	second.Endorsements = [][]byte{endorsement.Raw}
	writeBundle(t, "fleet.json", &Bundle{1, vectorURL, []Broker{first.Broker, second.Broker}, [][]byte{first.epoch(t, now), first.epoch(t, now), second.epoch(t, now)}})

	write := func(name string, b *chipBroker) { writeBundle(t, name, &Bundle{1, vectorURL, []Broker{b.Broker}, nil}) }
	exportable := one.create("ecc256:ecdsa-sha256", "sensitivedataorigin|userwithauth|sign", "")
	write("exportable.json", newChipBroker(t, ak, exportable, agreement, now, nil))
	unrestricted := one.create("ecc256:ecdsa-sha256", fixed+"|sign", "")
	write("unrestricted.json", newChipBroker(t, unrestricted, root, agreement, now, nil))
	quoted := newChipBroker(t, ak, root, agreement, now, nil)
	quoted.Attestation.Root = ak.quote(root, Qualifier(quoted.root, nil))
	write("quote.json", quoted)

	ca, err := os.ReadFile(filepath.Join(dir, "swtpm-localca-rootca-cert.pem"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("testdata/ek-ca.pem", ca, 0o644); err != nil {
		t.Fatal(err)
	}
}

func writeBundle(t *testing.T, name string, b *Bundle) {
	t.Helper()
	data, err := b.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join("testdata", name), append(data, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
}

func testdata(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// vector reads a bundle from testdata, and the roots in it.
func vector(t testing.TB, name string) (*Bundle, []*x509.Certificate) {
	t.Helper()
	b, err := ParseBundle(testdata(t, name))
	if err != nil {
		t.Fatal(err)
	}
	var roots []*x509.Certificate
	for _, broker := range b.Brokers {
		root, err := ParseRoot(broker.Root)
		if err != nil {
			t.Fatal(err)
		}
		roots = append(roots, root)
	}
	return b, roots
}

// vectorCA is the CA that certified the endorsement keys.
func vectorCA(t testing.TB) []*x509.Certificate {
	t.Helper()
	roots, err := ParseEKRootsPEM(testdata(t, "ek-ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	return roots
}

// vectorOptions are those with which fleet.json passes, an hour after it was
// made.
func vectorOptions(t testing.TB) VerifyOptions {
	t.Helper()
	_, roots := vector(t, "fleet.json")
	return VerifyOptions{
		Pins: []string{Fingerprint(roots[0])}, EKRoots: vectorCA(t), RequireTPM: true,
		Nonce: []byte("golden nonce"), Now: roots[0].NotBefore.Add(time.Hour),
	}
}

// TestVectors holds Verify to what a TPM wrote. -update makes the vectors anew.
func TestVectors(t *testing.T) {
	if *update {
		makeVectors(t)
	}
	b, roots := vector(t, "fleet.json")
	report, err := b.Verify(vectorOptions(t))
	if err != nil {
		t.Fatal(err)
	}
	first, second := report.Brokers[0], report.Brokers[1]
	if first.Trusted != Pinned || second.Trusted != EndorsedBy+Fingerprint(roots[0]) {
		t.Errorf("trusted: %q and %q", first.Trusted, second.Trusted)
	}
	if a := first.Attestation; a.Proof != SelfAsserted || a.EKCA != "CN=swtpm-localca-rootca" || !a.Fresh || a.Policy {
		t.Errorf("attestation of the first: %+v", a)
	}
	if a := second.Attestation; a.Proof != SelfAsserted || a.EKCA != "CN=swtpm-localca-rootca" || a.Fresh || !a.Policy {
		t.Errorf("attestation of the second: %+v", a)
	}
	if len(report.Epochs) != 3 || report.Epochs[1].Root != Fingerprint(roots[0]) || report.Epochs[2].Root != Fingerprint(roots[1]) {
		t.Errorf("epochs: %+v", report.Epochs)
	}
}

// What a TPM says truly of keys that are not good enough.
func TestVectorsRefused(t *testing.T) {
	for name, want := range map[string]string{
		"exportable.json":   "attestation of the root key: its public area: it may leave its TPM: fixedTPM is not set",
		"unrestricted.json": "attestation key: it is not what it should be: restricted is not set",
		"quote.json":        "attestation of the root key: its statement: it is an attestation of type 0x8018",
	} {
		b, roots := vector(t, name)
		_, err := b.Verify(VerifyOptions{Pins: []string{Fingerprint(roots[0])}, Now: roots[0].NotBefore.Add(time.Hour)})
		checkRefusal(t, err, want)
	}
}

// TestOpenSSL checks by another program what docs/trust.md says anybody can: the
// signature of the attestation key over a statement, and that a root signed an
// epoch.
func TestOpenSSL(t *testing.T) {
	b, roots := vector(t, "fleet.json")
	a := b.Brokers[0].Attestation
	ak, err := a.checkAK()
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(ak)
	if err != nil {
		t.Fatal(err)
	}
	sig, err := parseSignature(a.Root.Signature)
	if err != nil {
		t.Fatal(err)
	}
	signature, err := asn1.Marshal(struct{ R, S *big.Int }{sig.r, sig.s}) // RFC 3279, section 2.2.3
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	changed := bytes.Clone(a.Root.Attest)
	changed[60] ^= 1
	writeFiles(t, dir, map[string]string{
		"ak.pem": string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})),
		"attest": string(a.Root.Attest), "changed": string(changed), "signature": string(signature),
		"root.pem":  string(pem.EncodeToMemory(&pem.Block{Type: certificateBlock, Bytes: roots[0].Raw})),
		"epoch.pem": string(pem.EncodeToMemory(&pem.Block{Type: certificateBlock, Bytes: b.Epochs[0]})),
	})
	at := fmt.Sprint(roots[0].NotBefore.Add(time.Hour).Unix())
	for _, tt := range []struct {
		args string
		ok   bool
	}{
		{"dgst -sha256 -verify ak.pem -signature signature attest", true},
		{"dgst -sha256 -verify ak.pem -signature signature changed", false},
		{"verify -x509_strict -attime " + at + " -CAfile root.pem epoch.pem", true},
	} {
		cmd := exec.Command("openssl", strings.Fields(tt.args)...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); (err == nil) != tt.ok {
			t.Errorf("openssl %s: %v\n%s", tt.args, err, out)
		}
	}
}
