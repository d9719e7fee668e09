package keys_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"log/slog"
	"math/big"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/brevet-dev/brevet/broker/keys"
)

// TestJWKS checks every member against the standards, and the chain by
// crypto/x509.
func TestJWKS(t *testing.T) {
	root := newRoot(t)
	e := start(t, root, &memory{})
	var set map[string][]map[string]any
	if err := json.Unmarshal(e.JWKS(), &set); err != nil || len(set["keys"]) != 2 || len(set) != 1 {
		t.Fatalf("JWKS: %v, %v", set, err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(root.Certificate())
	for _, k := range set["keys"] {
		chain, _ := k["x5c"].([]any)
		if len(chain) != 2 || len(k) != 8 {
			t.Fatalf("key %v", k)
		}
		var certs []*x509.Certificate
		for _, c := range chain {
			der, err := base64.StdEncoding.DecodeString(c.(string))
			if err != nil {
				t.Fatal(err)
			}
			cert, err := x509.ParseCertificate(der)
			if err != nil {
				t.Fatal(err)
			}
			certs = append(certs, cert)
		}
		leaf := certs[0]
		if !certs[1].Equal(root.Certificate()) {
			t.Error("the second of x5c is not the root")
		}
		if _, err := leaf.Verify(x509.VerifyOptions{Roots: pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
			t.Error(err)
		}
		pub := leaf.PublicKey.(*ecdsa.PublicKey)
		point, err := pub.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		want := map[string]any{
			"kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": thumbprint(t, pub),
			"x": b64(string(point[1:33])), "y": b64(string(point[33:])),
		}
		for name, v := range want {
			if k[name] != v {
				t.Errorf("%s is %v, want %v", name, k[name], v)
			}
		}
		if leaf.URIs[0].String() != brokerURL || leaf.SerialNumber.BitLen() < 64 || leaf.ExtKeyUsage != nil {
			t.Errorf("certificate of %v, serial %v", leaf.URIs, leaf.SerialNumber)
		}
	}
}

// TestEmptyJWKS: before Start it is a set of none, not null.
func TestEmptyJWKS(t *testing.T) {
	e := keys.NewEpochs(newRoot(t), &memory{}, keys.EpochOptions{URL: brokerURL})
	if got := string(e.JWKS()); got != `{"keys":[]}` {
		t.Errorf("JWKS before Start: %s", got)
	}
}

// TestJWKSLimit: brokers that restart all the time do not make the JWKS longer
// than AWS takes, and what signs now stays in it.
func TestJWKSLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		root, board := newRoot(t), &memory{}
		var e *keys.Epochs
		for range 60 {
			e = start(t, root, board)
			time.Sleep(time.Minute)
		}
		r := newRelying(t, e.JWKS())
		if len(r.keys) != 100 || e.Status().Keys != 120 {
			t.Errorf("%d keys in the JWKS of %d, want 100 of 120", len(r.keys), e.Status().Keys)
		}
		if err := r.verify(sign(t, e)); err != nil {
			t.Error(err)
		}
	})
}

// TestPathLength: under the root's certificate one CA may stand, as a
// cross-signed root does, and no second.
func TestPathLength(t *testing.T) {
	root := newRoot(t)
	pool := x509.NewCertPool()
	pool.AddCert(root.Certificate())
	parent, parentKey := root.Certificate(), root.Signer()
	between := x509.NewCertPool()
	for depth := range 3 {
		leaf := issueUnder(t, parent, parentKey, false)
		_, err := leaf.cert.Verify(x509.VerifyOptions{
			Roots: pool, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
		})
		if ok := depth < 2; (err == nil) != ok {
			t.Errorf("a leaf under %d CAs: %v", depth, err)
		}
		ca := issueUnder(t, parent, parentKey, true)
		between.AddCert(ca.cert)
		parent, parentKey = ca.cert, ca.key
	}
}

type issued struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func issueUnder(t *testing.T, parent *x509.Certificate, signer any, ca bool) issued {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: rand.Text()}, NotAfter: time.Now().Add(time.Hour),
		BasicConstraintsValid: true, IsCA: ca, MaxPathLen: -1, KeyUsage: x509.KeyUsageDigitalSignature,
	}
	if ca {
		template.KeyUsage = x509.KeyUsageCertSign
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return issued{cert, key}
}

// TestLog: a failure is logged once, as is its end, and no key is.
func TestLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		root, board := &faulty{Root: newRoot(t)}, &memory{}
		e := keys.NewEpochs(root, board, keys.EpochOptions{URL: brokerURL, Log: slog.New(slog.NewTextHandler(&out, nil))})
		if err := e.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); e.Run(ctx) }()
		for _, away := range []bool{true, false} {
			root.away.Store(away)
			board.set(away)
			time.Sleep(10 * time.Minute)
		}
		cancel()
		<-done
		for _, line := range []string{
			`level=ERROR msg="checking the root key failed" root=software err="the root is away"`,
			`level=INFO msg="checking the root key works again"`,
			`level=ERROR msg="reading the board of epochs failed" root=software err="the board is down"`,
			`level=INFO msg="reading the board of epochs works again"`,
		} {
			if n := strings.Count(out.String(), line); n != 1 {
				t.Errorf("%d lines %s in\n%s", n, line, out.String())
			}
		}
	})
}
