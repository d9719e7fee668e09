package tpm_test

import (
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/hpke"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/brevet-dev/brevet/broker/keys/tpm"
	"github.com/brevet-dev/brevet/test/servers"
)

// config is for a root in s, in a state folder that is not there yet.
func config(t testing.TB, s *servers.TPM) tpm.Config {
	return tpm.Config{Device: s.Device(), State: filepath.Join(t.TempDir(), "tpm")}
}

func create(t testing.TB, cfg tpm.Config) *tpm.Root {
	t.Helper()
	root, err := tpm.Create(t.Context(), cfg, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	return root
}

func open(t testing.TB, cfg tpm.Config) *tpm.Root {
	t.Helper()
	root, err := tpm.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	return root
}

// sign signs something with root and checks the signature.
func sign(root *tpm.Root) error {
	digest := sha256.Sum256([]byte("something"))
	signature, err := root.Signer().Sign(nil, digest[:], crypto.SHA256)
	if err != nil {
		return err
	}
	if !ecdsa.VerifyASN1(root.Certificate().PublicKey.(*ecdsa.PublicKey), digest[:], signature) {
		return errors.New("the signature is wrong")
	}
	return nil
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// refused checks that err is want, and says what to do about it.
func refused(t testing.TB, what string, err, want error, say ...string) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("%s = %v, want: %v", what, err, want)
	}
	for _, s := range say {
		if !strings.Contains(err.Error(), s) {
			t.Errorf("%s: %v: does not say %q", what, err, s)
		}
	}
}

func TestSign(t *testing.T) {
	t.Parallel()
	cfg := config(t, servers.BareSWTPM(t))
	root := create(t, cfg)
	must(t, sign(root))
	if root.Kind() != "tpm" || !root.Certificate().PublicKey.(*ecdsa.PublicKey).Equal(root.Signer().Public()) {
		t.Error("the certificate is of another key")
	}
	for name, try := range map[string]func() ([]byte, error){
		"a short digest": func() ([]byte, error) { return root.Signer().Sign(nil, make([]byte, 31), crypto.SHA256) },
		"SHA-384":        func() ([]byte, error) { return root.Signer().Sign(nil, make([]byte, 48), crypto.SHA384) },
		"no hash":        func() ([]byte, error) { return root.Signer().Sign(nil, make([]byte, 32), nil) },
	} {
		if out, err := try(); err == nil || out != nil {
			t.Errorf("signing %s: %x, %v", name, out, err)
		}
	}
}

// TestOpenSSL reads a signature and the root certificate with another library.
func TestOpenSSL(t *testing.T) {
	t.Parallel()
	root := create(t, config(t, servers.BareSWTPM(t)))
	message := []byte("something that is signed")
	digest := sha256.Sum256(message)
	signature, err := root.Signer().Sign(nil, digest[:], crypto.SHA256)
	must(t, err)
	dir := t.TempDir()
	file := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		must(t, os.WriteFile(path, data, 0o600))
		return path
	}
	cert := file("root.der", root.Certificate().Raw)
	pub, err := exec.Command("openssl", "x509", "-inform", "DER", "-in", cert, "-noout", "-pubkey").Output()
	must(t, err)
	out, err := exec.Command("openssl", "dgst", "-sha256", "-verify", file("pub.pem", pub),
		"-signature", file("signature", signature), file("message", message)).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "Verified OK") {
		t.Errorf("openssl dgst -verify: %v: %s", err, out)
	}
}

func TestECDH(t *testing.T) {
	t.Parallel()
	root := create(t, config(t, servers.BareSWTPM(t)))
	for range 8 {
		other, err := ecdh.P256().GenerateKey(rand.Reader)
		must(t, err)
		want, err := other.ECDH(root.KeyExchanger().PublicKey())
		must(t, err)
		if got, err := root.KeyExchanger().ECDH(other.PublicKey()); err != nil || string(got) != string(want) {
			t.Fatalf("ECDH = %x, %v, want %x", got, err, want)
		}
	}
	p384, err := ecdh.P384().GenerateKey(rand.Reader)
	must(t, err)
	for name, pub := range map[string]*ecdh.PublicKey{"none": nil, "P-384": p384.PublicKey()} {
		if out, err := root.KeyExchanger().ECDH(pub); err == nil || out != nil {
			t.Errorf("ECDH with %s: %x, %v", name, out, err)
		}
	}
}

func TestHPKE(t *testing.T) {
	t.Parallel()
	root := create(t, config(t, servers.BareSWTPM(t)))
	pub, err := hpke.NewDHKEMPublicKey(root.KeyExchanger().PublicKey())
	must(t, err)
	sealed, err := hpke.Seal(pub, hpke.HKDFSHA256(), hpke.AES256GCM(), []byte("info"), []byte("a key"))
	must(t, err)
	key, err := hpke.NewDHKEMPrivateKey(root.KeyExchanger())
	must(t, err)
	if got, err := hpke.Open(key, hpke.HKDFSHA256(), hpke.AES256GCM(), []byte("info"), sealed); err != nil || string(got) != "a key" {
		t.Errorf("hpke.Open = %q, %v", got, err)
	}
}

func TestCreate(t *testing.T) {
	t.Parallel()
	cfg := config(t, servers.BareSWTPM(t))
	_, err := tpm.Open(t.Context(), cfg)
	refused(t, "Open of nothing", err, fs.ErrNotExist)
	made := create(t, cfg)
	if _, err := tpm.Create(t.Context(), cfg, time.Now()); !errors.Is(err, fs.ErrExist) {
		t.Errorf("Create over a root = %v, want ErrExist", err)
	}
	for path, want := range map[string]fs.FileMode{"": 0o700 | fs.ModeDir, "root.json": 0o600, "auth": 0o600} {
		if info, err := os.Stat(filepath.Join(cfg.State, path)); err != nil || info.Mode() != want {
			t.Errorf("%q: %v, %v, want mode %v", path, info, err, want)
		}
	}
	if around, err := os.ReadDir(filepath.Dir(cfg.State)); err != nil || len(around) != 1 {
		t.Errorf("Create left something beside its folder: %v, %v", around, err)
	}
	if inside, err := os.ReadDir(cfg.State); err != nil || len(inside) != 2 {
		t.Errorf("in the state folder: %v, %v, want two files", inside, err)
	}
	auth, err := os.ReadFile(filepath.Join(cfg.State, "auth"))
	if shown := fmt.Sprintf("%+v %#v", made, *made); err != nil || len(auth) != 32 || strings.Contains(shown, string(auth)) {
		t.Errorf("a root that is printed shows its auth value, or that is short: %v", err)
	}
	must(t, made.Close())
	opened := open(t, cfg)
	if !opened.Certificate().Equal(made.Certificate()) || !opened.Agreement().Equal(made.Agreement()) {
		t.Error("opened another root than was made")
	}
	must(t, sign(opened))
}

func TestClose(t *testing.T) {
	t.Parallel()
	root := create(t, config(t, servers.BareSWTPM(t)))
	before := root.Operations()
	must(t, sign(root))
	if root.Operations() <= before {
		t.Error("Operations did not count")
	}
	for range 3 {
		must(t, root.Close())
	}
	refused(t, "Check after Close", root.Check(t.Context()), tpm.ErrClosed)
	refused(t, "Sign after Close", sign(root), tpm.ErrClosed)
}
