package pkcs11_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hpke"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/brevet-dev/brevet/broker/keys/pkcs11"
	"github.com/brevet-dev/brevet/broker/keys/trust"
	"github.com/brevet-dev/brevet/test/servers"
)

const hash = crypto.SHA256

func TestCreateThenOpen(t *testing.T) {
	c := newConfig(t)
	made := newRoot(t, c)
	if err := signs(t, made); err != nil {
		t.Fatal(err)
	}
	cert, agreement := made.Certificate(), made.Agreement()
	if made.Kind() != "pkcs11" || made.Check(t.Context()) != nil || made.Operations() == 0 {
		t.Errorf("Kind %s, Check %v, %d operations", made.Kind(), made.Check(t.Context()), made.Operations())
	}
	if _, err := trust.ParseRoot(cert.Raw); err != nil {
		t.Error(err)
	}
	if _, pub, err := trust.ParseAgreement(agreement.Raw, cert, time.Now()); err != nil || !pub.Equal(made.KeyExchanger().PublicKey()) {
		t.Errorf("the agreement certificate: %v", err)
	}
	made.Close()
	opened := open(t, c)
	if !opened.Certificate().Equal(cert) || !opened.Agreement().Equal(agreement) {
		t.Error("opened another root than was made")
	}
	if err := signs(t, opened); err != nil {
		t.Error(err)
	}
	for path, want := range map[string]fs.FileMode{c.State: 0o700, filepath.Join(c.State, "root.pem"): 0o600} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v, want %v", path, info.Mode().Perm(), err, want)
		}
	}
	opened.Close()
	opened.Close() // twice is no harm
	for name, err := range map[string]error{"Sign": signs(t, opened), "Check": opened.Check(t.Context())} {
		if !errors.Is(err, pkcs11.ErrClosed) {
			t.Errorf("%s after Close = %v, want ErrClosed", name, err)
		}
	}
	if left := helpers(t); len(left) > 0 {
		t.Errorf("after Close there are helpers: %v", left)
	}
}

// TestOpenSSL has another program verify a signature of the token.
func TestOpenSSL(t *testing.T) {
	r := newRoot(t, newConfig(t))
	digest := sha256.Sum256([]byte("something"))
	signature, err := r.Signer().Sign(nil, digest[:], hash)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(r.Signer().Public())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file := func(name string, data []byte) string {
		write(t, filepath.Join(dir, name), string(data))
		return filepath.Join(dir, name)
	}
	out, err := exec.Command("openssl", "dgst", "-sha256",
		"-verify", file("key.pem", pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})),
		"-signature", file("signature", signature), file("data", []byte("something"))).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "Verified OK") {
		t.Errorf("openssl: %v: %s", err, out)
	}
}

// TestHPKE does what the KEK ring does.
func TestHPKE(t *testing.T) {
	r := newRoot(t, newConfig(t))
	public, err := hpke.NewDHKEMPublicKey(r.KeyExchanger().PublicKey())
	if err != nil {
		t.Fatal(err)
	}
	private, err := hpke.NewDHKEMPrivateKey(r.KeyExchanger())
	if err != nil {
		t.Fatal(err)
	}
	for range 10 {
		kek := make([]byte, 32)
		rand.Read(kek)
		sealed, err := hpke.Seal(public, hpke.HKDFSHA256(), hpke.AES256GCM(), []byte("info"), kek)
		if err != nil {
			t.Fatal(err)
		}
		got, err := hpke.Open(private, hpke.HKDFSHA256(), hpke.AES256GCM(), []byte("info"), sealed)
		if err != nil || !bytes.Equal(got, kek) {
			t.Errorf("hpke.Open: %v", err)
		}
	}
}

func TestUseRefuses(t *testing.T) {
	r := newRoot(t, newConfig(t))
	for name, c := range map[string]struct {
		digest int
		opts   crypto.SignerOpts
	}{
		"SHA-384":          {48, crypto.SHA384},
		"a short digest":   {31, crypto.SHA256},
		"a message":        {100, crypto.Hash(0)},
		"no options":       {32, nil},
		"SHA-512/256":      {32, crypto.SHA512_256},
		"an empty digest":  {0, crypto.SHA256},
		"a digest too big": {64, crypto.SHA256},
	} {
		if _, err := r.Signer().Sign(nil, make([]byte, c.digest), c.opts); err == nil {
			t.Errorf("Sign of %s succeeded", name)
		}
	}
	p384, err := ecdh.P384().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, remote := range map[string]*ecdh.PublicKey{"nil": nil, "P-384": p384.PublicKey()} {
		if _, err := r.KeyExchanger().ECDH(remote); err == nil {
			t.Errorf("ECDH with %s succeeded", name)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.Check(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Check with a context that has ended = %v", err)
	}
}

func TestCreateRefuses(t *testing.T) {
	c := made(t)
	if _, err := pkcs11.Create(t.Context(), c, time.Now()); !errors.Is(err, fs.ErrExist) || !strings.Contains(err.Error(), c.State) {
		t.Errorf("Create over certificates = %v, want ErrExist", err)
	}
	c.State = filepath.Join(t.TempDir(), "other")
	if _, err := pkcs11.Create(t.Context(), c, time.Now()); !errors.Is(err, fs.ErrExist) || !strings.Contains(err.Error(), "brevet root") {
		t.Errorf("Create over keys = %v, want ErrExist", err)
	}
	if _, err := os.Stat(filepath.Join(c.State, "root.pem")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("certificates were written: %v", err)
	}
}

// TestCreateCleansUp: whatever step does not succeed, neither keys nor
// certificates are left, so that the next try does.
func TestCreateCleansUp(t *testing.T) {
	c := newConfig(t)
	for fault, message := range map[string]string{
		"generate fails":        "CKR_DEVICE_MEMORY",
		"second generate fails": "CKR_DEVICE_MEMORY",
		"generate crash":        "ended",
		"generate hang":         "in time",
		"flip 0x103":            "not sensitive",
		"flip 0x10c":            "other things",
		"sign wrong":            "wrong signature",
		"sign crash":            "ended",
		"derive fails":          "CKR_MECHANISM_INVALID",
	} {
		t.Run(fault, func(t *testing.T) {
			faulty, _ := faulty(t, c, fault)
			if fault == "generate hang" {
				faulty = faulty.Answering(2 * time.Second) // enough for cleaning up on a busy machine
			}
			_, err := pkcs11.Create(t.Context(), faulty, time.Now())
			if err == nil || !strings.Contains(err.Error(), message) || errors.Is(err, fs.ErrExist) {
				t.Errorf("Create = %v, want %q", err, message)
			}
			if files, err := os.ReadDir(c.State); err != nil || len(files) > 0 {
				t.Errorf("left in the folder: %v, %v", files, err)
			}
		})
	}
	if err := os.Chmod(c.State, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := pkcs11.Create(t.Context(), c, time.Now()); err == nil || !strings.Contains(err.Error(), "chmod 700 "+c.State) {
		t.Errorf("Create in an open folder = %v", err)
	}
	if err := os.Chmod(c.State, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := signs(t, newRoot(t, c)); err != nil { // the token is as it was
		t.Error(err)
	}
}

// TestCreateTellsWhatIsLeft: when cleaning up does not succeed either, the error
// says how to find the keys.
func TestCreateTellsWhatIsLeft(t *testing.T) {
	c := newConfig(t)
	faulty, _ := faulty(t, c, "destroy fails")
	// C_DestroyObject takes away the shared secret, too, so that Open fails.
	_, err := pkcs11.Create(t.Context(), faulty, time.Now())
	if err == nil || !strings.Contains(err.Error(), "CKR_TOKEN_WRITE_PROTECTED") || !strings.Contains(err.Error(), "CKA_ID ") {
		t.Errorf("Create = %v", err)
	}
	if _, err := pkcs11.Create(t.Context(), c, time.Now()); !errors.Is(err, fs.ErrExist) {
		t.Errorf("Create over what was left = %v, want ErrExist", err)
	}
}

func TestOpenWithoutRoot(t *testing.T) {
	c := newConfig(t)
	if _, err := pkcs11.Open(t.Context(), c); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Open without a folder = %v, want ErrNotExist", err)
	}
	if err := os.Mkdir(c.State, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := pkcs11.Open(t.Context(), c); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Open of an empty folder = %v, want ErrNotExist", err)
	}
}

// TestOpenRefuses: each error says what is wrong, and none that there is no
// root, for then somebody would make one.
func TestOpenRefuses(t *testing.T) {
	good := made(t)
	servers.Token(t, "twin", pin)
	servers.Token(t, "twin", pin)
	open := filepath.Join(t.TempDir(), "open")
	write(t, open, pin)
	if err := os.Chmod(open, 0o640); err != nil {
		t.Fatal(err)
	}
	file := func(text string) string {
		path := filepath.Join(t.TempDir(), "file")
		write(t, path, text)
		return path
	}
	for name, tt := range map[string]struct {
		change func(c *pkcs11.Config)
		want   string
	}{
		"no module":              {func(c *pkcs11.Config) { c.Module = "" }, "module is missing"},
		"a relative module":      {func(c *pkcs11.Config) { c.Module = "libsofthsm2.so" }, "not an absolute path"},
		"a module that is away":  {func(c *pkcs11.Config) { c.Module = "/nowhere/lib.so" }, "/nowhere/lib.so"},
		"a module that is none":  {func(c *pkcs11.Config) { c.Module = file("text") }, "using the HSM's library"},
		"no token":               {func(c *pkcs11.Config) { c.Token = "" }, "token is missing"},
		"a label too long":       {func(c *pkcs11.Config) { c.Token = strings.Repeat("x", 33) }, "32 bytes"},
		"a token that is away":   {func(c *pkcs11.Config) { c.Token = "brevett" }, `no token has the label "brevett"; there are "brevet" (serial`},
		"the start of a label":   {func(c *pkcs11.Config) { c.Token = "brev" }, "no token"},
		"two tokens":             {func(c *pkcs11.Config) { c.Token = "twin" }, `more than one token has the label "twin"`},
		"a relative helper":      {func(c *pkcs11.Config) { c.Helper = "brevetd-pkcs11" }, "not an absolute path"},
		"a helper that is away":  {func(c *pkcs11.Config) { c.Helper = "/nowhere/h" }, "there is no program /nowhere/h"},
		"no helper beside":       {func(c *pkcs11.Config) { c.Helper = "" }, "/brevetd-pkcs11, which loads the HSM's library: install it"},
		"a folder as helper":     {func(c *pkcs11.Config) { c.Helper = "/" }, "there is no program /"},
		"a helper of text":       {func(c *pkcs11.Config) { c.Helper = file("text") }, "permission denied"},
		"one that ends":          {func(c *pkcs11.Config) { c.Helper = "/bin/false" }, "exit status 1"},
		"one that complains":     {func(c *pkcs11.Config) { c.Helper = "/bin/rm" }, "missing operand"},
		"one that talks":         {func(c *pkcs11.Config) { c.Helper = "/usr/bin/yes" }, "not of the same build"},
		"no PIN file":            {func(c *pkcs11.Config) { c.PINFile = "" }, "pin_file is missing"},
		"a PIN file that is not": {func(c *pkcs11.Config) { c.PINFile = "/nowhere/pin" }, "/nowhere/pin"},
		"a PIN file for others":  {func(c *pkcs11.Config) { c.PINFile = open }, "chmod 600 " + open},
		"a folder as PIN file":   {func(c *pkcs11.Config) { c.PINFile = t.TempDir() }, ""},
		"an empty PIN file":      {func(c *pkcs11.Config) { c.PINFile = file("\n") }, "0 bytes"},
		"a PIN too long":         {func(c *pkcs11.Config) { c.PINFile = file(strings.Repeat("7", 256)) }, "1 to 255"},
		"a PIN much too long":    {func(c *pkcs11.Config) { c.PINFile = file(strings.Repeat("7", 300)) }, "larger than"},
		"no state":               {func(c *pkcs11.Config) { c.State = "" }, "state is missing"},
		"a variable":             {func(c *pkcs11.Config) { c.Env = []string{"A=B"} }, "not the name of a variable"},
	} {
		t.Run(name, func(t *testing.T) {
			c := good
			tt.change(&c)
			_, err := pkcs11.Open(t.Context(), c)
			if err == nil || !strings.Contains(err.Error(), tt.want) || errors.Is(err, fs.ErrNotExist) {
				t.Errorf("Open = %v, want %q", err, tt.want)
			}
		})
	}
	if left := helpers(t); len(left) > 0 {
		t.Errorf("there are helpers: %v", left)
	}
}

func TestOpenRefusesCertificates(t *testing.T) {
	c := made(t)
	path := filepath.Join(c.State, "root.pem")
	right, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	half := len(right) / 2
	for name, text := range map[string]string{
		"nothing":         "",
		"text":            "text",
		"half":            string(right[:half]),
		"three":           string(right) + string(right),
		"something after": string(right) + "x",
		"another type":    strings.ReplaceAll(string(right), "CERTIFICATE", "PUBLIC KEY"),
		"a changed byte":  strings.Replace(string(right), "MIIB", "MIIC", 1),
		"the wrong order": swap(string(right)),
	} {
		write(t, path, text)
		if _, err := pkcs11.Open(t.Context(), c); err == nil || !strings.Contains(err.Error(), "root.pem") || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Open of %s = %v", name, err)
		}
	}
	write(t, path, string(right))
	open(t, c)
}

func swap(two string) string {
	const end = "-----END CERTIFICATE-----\n"
	first, second, _ := strings.Cut(two, end)
	return second + first + end
}

// TestCopiedState: certificates are worth nothing with another token.
func TestCopiedState(t *testing.T) {
	mine := made(t)
	for _, label := range []string{"empty", "other"} {
		servers.Token(t, label, pin)
	}
	other := mine
	other.Token, other.State = "other", filepath.Join(t.TempDir(), "state")
	newRoot(t, other)
	other.State = mine.State
	if _, err := pkcs11.Open(t.Context(), other); !errors.Is(err, pkcs11.ErrKeys) || !strings.Contains(err.Error(), "belongs to another token") {
		t.Errorf("Open with another root's token = %v, want ErrKeys", err)
	}
	empty := mine
	empty.Token = "empty"
	if _, err := pkcs11.Open(t.Context(), empty); !errors.Is(err, pkcs11.ErrKeys) || !strings.Contains(err.Error(), "0 private") {
		t.Errorf("Open with an empty token = %v, want ErrKeys", err)
	}
}

func TestManyAtOnce(t *testing.T) {
	r := newRoot(t, newConfig(t))
	var all sync.WaitGroup
	for range 32 {
		all.Go(func() {
			for range 10 {
				if err := signs(t, r); err != nil {
					t.Error(err)
				}
			}
			if err := r.Check(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if n := r.Operations(); n < 32*21 {
		t.Errorf("%d operations", n)
	}
}

// TestCertifies issues with the token what brokers issue.
func TestCertifies(t *testing.T) {
	r := newRoot(t, newConfig(t))
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	other, err := trust.NewRoot(key, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	endorsed, err := trust.NewEndorsement(r.Certificate(), r.Signer(), other, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if err := endorsed.CheckSignatureFrom(r.Certificate()); err != nil {
		t.Error(err)
	}
}

func BenchmarkSign(b *testing.B) {
	r := newRoot(b, newConfig(b))
	digest := make([]byte, 32)
	for b.Loop() {
		if _, err := r.Signer().Sign(nil, digest, hash); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkECDH(b *testing.B) {
	r := newRoot(b, newConfig(b))
	own, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := r.KeyExchanger().ECDH(own.PublicKey()); err != nil {
			b.Fatal(err)
		}
	}
}
