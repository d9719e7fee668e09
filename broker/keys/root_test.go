package keys_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/brevet-dev/brevet/broker/keys"
	"github.com/brevet-dev/brevet/broker/keys/trust"
)

func TestSoftwareFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "root.pem")
	made, err := keys.CreateSoftware(path, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode() != 0o600 {
		t.Errorf("mode %v, want 0600", info.Mode())
	}
	opened, err := keys.OpenSoftware(path)
	if err != nil {
		t.Fatal(err)
	}
	if !opened.Certificate().Equal(made.Certificate()) || opened.Kind() != "software" || opened.Check(t.Context()) != nil {
		t.Error("opened another root than was made")
	}
	board := &memory{}
	token := sign(t, start(t, made, board))
	if err := verify(start(t, opened, board), token); err != nil {
		t.Errorf("verifying a token of before the root was opened again: %v", err)
	}
	if _, err := keys.CreateSoftware(path, time.Now()); !errors.Is(err, fs.ErrExist) {
		t.Errorf("CreateSoftware over a root = %v, want ErrExist", err)
	}
	if _, err := keys.CreateSoftware(filepath.Join(path, "x"), time.Now()); err == nil {
		t.Error("CreateSoftware below a file succeeded")
	}
}

func TestOpenSoftwareModes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "root.pem")
	if _, err := keys.CreateSoftware(path, time.Now()); err != nil {
		t.Fatal(err)
	}
	for mode, open := range map[fs.FileMode]bool{
		0o600: true, 0o400: true, 0o640: false, 0o604: false, 0o620: false, 0o601: false, 0o644: false,
	} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		_, err := keys.OpenSoftware(path)
		if (err == nil) != open {
			t.Errorf("OpenSoftware of mode %#o: %v", mode, err)
		}
		if err != nil && !strings.Contains(err.Error(), "chmod 600 "+path) {
			t.Errorf("%v: does not say what to do", err)
		}
	}
}

func TestOpenSoftwareRefuses(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "root.pem")
	write := func(data string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	root := func() (key, cert string) {
		t.Helper()
		file := filepath.Join(t.TempDir(), "root.pem")
		if _, err := keys.CreateSoftware(file, time.Now()); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		key, cert, _ = strings.Cut(string(data), "-----BEGIN CERTIFICATE")
		return key, "-----BEGIN CERTIFICATE" + cert
	}
	key, cert := root()
	_, foreign := root()
	for name, data := range map[string]string{
		"empty":                     "",
		"garbage":                   "garbage",
		"a key alone":               key,
		"a certificate alone":       cert,
		"certificate first":         cert + key,
		"another's certificate":     key + foreign,
		"two certificates":          key + cert + cert,
		"something after":           key + cert + "x",
		"a key that is none":        strings.Replace(key, "M", "N", 1) + cert,
		"a certificate cut in half": key + cert[:len(cert)/2],
	} {
		write(data)
		if _, err := keys.OpenSoftware(path); err == nil {
			t.Errorf("OpenSoftware of %s succeeded", name)
		} else if strings.Contains(err.Error(), "MIG") {
			t.Errorf("OpenSoftware of %s: the error holds key material: %v", name, err)
		}
	}
	for _, p := range []string{dir, filepath.Join(dir, "missing")} {
		if _, err := keys.OpenSoftware(p); err == nil {
			t.Errorf("OpenSoftware(%s) succeeded", p)
		}
	}
}

func certPEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func TestParseRoot(t *testing.T) {
	want := newRoot(t).Certificate()
	got, err := trust.ParseRootsPEM(certPEM(want.Raw))
	if err != nil || len(got) != 1 || !got[0].Equal(want) {
		t.Fatalf("ParseRoot: %v", err)
	}
	if left := time.Until(want.NotAfter).Hours() / 24 / 365; left < 9.9 || left > 10.1 {
		t.Errorf("valid for %.1f years, want 10", left)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	change := map[string]func(c *x509.Certificate){
		"no CA":           func(c *x509.Certificate) { c.IsCA, c.MaxPathLen, c.KeyUsage = false, 0, 0 },
		"path length 0":   func(c *x509.Certificate) { c.MaxPathLen, c.MaxPathLenZero = 0, true },
		"path length 2":   func(c *x509.Certificate) { c.MaxPathLen = 2 },
		"no path length":  func(c *x509.Certificate) { c.MaxPathLen = -1 },
		"another subject": func(c *x509.Certificate) { c.Subject.CommonName = "another" },
		"may sign CRLs":   func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCRLSign },
	}
	for name, f := range change {
		template := *want
		template.RawSubject, template.PublicKey = nil, key.Public() // RawSubject would win over Subject
		f(&template)
		der, err := x509.CreateCertificate(rand.Reader, &template, &template, key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := trust.ParseRootsPEM(certPEM(der)); err == nil {
			t.Errorf("ParseRoot of one with %s succeeded", name)
		}
	}
	if _, err := trust.NewRoot(p384, time.Now()); err == nil {
		t.Error("NewRootCertificate of a P-384 key succeeded")
	}
}

func FuzzParseRoot(f *testing.F) {
	f.Add(certPEM(newRoot(f).Certificate().Raw))
	f.Add([]byte("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"))
	f.Add([]byte(""))
	f.Fuzz(func(t *testing.T, data []byte) {
		cert, err := trust.ParseRootsPEM(data)
		if (err == nil) == (cert == nil) {
			t.Errorf("ParseRoot = %v, %v", cert, err)
		}
	})
}
