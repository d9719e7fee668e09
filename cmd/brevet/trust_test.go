package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/brevet-dev/brevet/broker/keys/trust"
)

const vectors = "../../broker/keys/trust/testdata/"

// writeBundles gives a script the trust bundles that it verifies, and sets ROOT
// and OTHER to the fingerprints of the roots in tpm.json, and SOFTWARE to that
// in software.json.
//
//	tpm.json       two brokers with a TPM each, the second endorsed by the first;
//	               without epochs, which are over since
//	software.json  one broker without a TPM, with an epoch
func writeBundles(t *testing.T, e *testscript.Env) {
	t.Helper()
	recorded, err := os.ReadFile(vectors + "fleet.json")
	if err != nil {
		t.Fatal(err)
	}
	fleet, err := trust.ParseBundle(recorded)
	if err != nil {
		t.Fatal(err)
	}
	fleet.Epochs = nil
	software := softwareBundle(t)
	for name, b := range map[string]*trust.Bundle{"ROOT": fleet, "SOFTWARE": software} {
		e.Setenv(name, rootOf(t, b, 0))
	}
	e.Setenv("OTHER", rootOf(t, fleet, 1))
	files := map[string][]byte{"tpm.json": encode(t, fleet), "software.json": encode(t, software)}
	if files["ek-ca.pem"], err = os.ReadFile(vectors + "ek-ca.pem"); err != nil {
		t.Fatal(err)
	}
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(e.WorkDir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func encode(t *testing.T, b *trust.Bundle) []byte {
	t.Helper()
	data, err := b.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func rootOf(t *testing.T, b *trust.Bundle, i int) string {
	t.Helper()
	root, err := trust.ParseRoot(b.Brokers[i].Root)
	if err != nil {
		t.Fatal(err)
	}
	return trust.Fingerprint(root)
}

func softwareBundle(t *testing.T) *trust.Bundle {
	t.Helper()
	key, exchange, epochKey := newKey(t), newKey(t), newKey(t)
	now := time.Now()
	root, err := trust.NewRoot(key, now)
	if err != nil {
		t.Fatal(err)
	}
	pub, err := exchange.PublicKey.ECDH()
	if err != nil {
		t.Fatal(err)
	}
	agreement, err := trust.NewAgreement(root, key, pub)
	if err != nil {
		t.Fatal(err)
	}
	at := &url.URL{Scheme: "https", Host: "broker.example.com"}
	epoch, err := trust.NewEpoch(root, key, &epochKey.PublicKey, at, now, now.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	return &trust.Bundle{
		Format: 1, URL: at.String(), Epochs: [][]byte{epoch.Raw},
		Brokers: []trust.Broker{{Kind: trust.KindSoftware, Root: root.Raw, Agreement: agreement.Raw}},
	}
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}
