package trust

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"net/url"
	"testing"
	"time"
)

// A template is that of a certificate in one thing different from its profile.
type template func(*x509.Certificate)

// deviations are those that no profile allows, with the reason for each.
func deviations() map[string]template {
	return map[string]template{
		"its subject is another": func(c *x509.Certificate) { c.Subject.CommonName = "brevet" },
		"it may do other things": func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCRLSign },
		"name":                   func(c *x509.Certificate) { c.DNSNames = []string{"broker.example.com"} },
		"critical extension": func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3}, Critical: true, Value: []byte{5, 0}}}
		},
		"not valid at this time":     func(c *x509.Certificate) { c.NotAfter = c.NotBefore.Add(time.Minute) },
		"certificate ends before it": func(c *x509.Certificate) { c.NotAfter = c.NotAfter.AddDate(30, 0, 0) },
	}
}

func issue(t *testing.T, s *subject, pub any, tmpl *x509.Certificate, change template) []byte {
	t.Helper()
	tmpl.SerialNumber, tmpl.NotBefore, tmpl.BasicConstraintsValid = big.NewInt(1), s.now.Add(-Skew), true
	if tmpl.NotAfter.IsZero() {
		tmpl.NotAfter = s.now.Add(time.Hour)
	}
	change(tmpl)
	parent, err := x509.ParseCertificate(s.root.Raw)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, pub, s.key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func TestEndorsementProfile(t *testing.T) {
	s, other := newSubject(t, time.Now()), newSubject(t, time.Now())
	made := func(change template) error {
		der := issue(t, s, other.root.PublicKey, &x509.Certificate{
			Subject: pkix.Name{CommonName: rootName}, KeyUsage: x509.KeyUsageCertSign, IsCA: true, MaxPathLenZero: true,
		}, change)
		_, _, err := ParseEndorsement(der, other.root, []*x509.Certificate{s.root}, s.now)
		return err
	}
	if err := made(func(*x509.Certificate) {}); err != nil {
		t.Fatal(err)
	}
	for want, change := range deviations() {
		checkRefusal(t, made(change), want)
	}
	checkRefusal(t, made(func(c *x509.Certificate) { c.MaxPathLen = 1 }), "path length 0")
	checkRefusal(t, made(func(c *x509.Certificate) { c.IsCA, c.MaxPathLenZero = false, false }), "path length 0")
	checkRefusal(t, made(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageAny} }), "other things than certify")
}

// What a root signed before it was valid says nothing then.
func TestRootNotYetValid(t *testing.T) {
	s, other := newSubject(t, time.Now()), newSubject(t, time.Now())
	der := issue(t, s, other.root.PublicKey, &x509.Certificate{
		Subject: pkix.Name{CommonName: rootName}, KeyUsage: x509.KeyUsageCertSign, IsCA: true, MaxPathLenZero: true,
	}, func(c *x509.Certificate) { c.NotBefore = s.root.NotBefore.Add(-time.Hour) })
	_, _, err := ParseEndorsement(der, other.root, []*x509.Certificate{s.root}, s.root.NotBefore.Add(-time.Minute))
	checkRefusal(t, err, "the root's certificate ends before it")
}

func TestEpochProfile(t *testing.T) {
	s, key := newSubject(t, time.Now()), newKey(t, elliptic.P256())
	at, err := url.Parse(vectorURL)
	if err != nil {
		t.Fatal(err)
	}
	parse := func(der []byte) error {
		_, _, err := ParseEpoch(der, []*x509.Certificate{s.root}, vectorURL, s.now, MaxEpoch)
		return err
	}
	made := func(change template) error {
		return parse(issue(t, s, &key.PublicKey, &x509.Certificate{
			Subject: pkix.Name{CommonName: epochName}, KeyUsage: x509.KeyUsageDigitalSignature, URIs: []*url.URL{at},
		}, change))
	}
	if err := made(func(*x509.Certificate) {}); err != nil {
		t.Fatal(err)
	}
	all := deviations()
	delete(all, "certificate ends before it") // is valid for too long first
	for want, change := range all {
		checkRefusal(t, made(change), want)
	}
	checkRefusal(t, made(func(c *x509.Certificate) { c.NotAfter = c.NotBefore.Add(MaxEpoch + time.Second) }), "valid for too long")
	checkRefusal(t, made(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }), "extended key usage")
	checkRefusal(t, made(func(c *x509.Certificate) { c.URIs = nil }), "another url")
	checkRefusal(t, made(func(c *x509.Certificate) { c.URIs = append(c.URIs, at) }), "another url")
	checkRefusal(t, made(func(c *x509.Certificate) { c.IsCA = true }), "other things than sign")
	checkRefusal(t, parse(make([]byte, MaxCertificate+1)), "4097 bytes, more than 4096")
}

func TestAgreementProfile(t *testing.T) {
	s, key := newSubject(t, time.Now()), newKey(t, elliptic.P256())
	made := func(pub *ecdsa.PublicKey, change template) error {
		der := issue(t, s, pub, &x509.Certificate{Subject: pkix.Name{CommonName: agreementName}, KeyUsage: x509.KeyUsageKeyAgreement}, change)
		_, _, err := ParseAgreement(der, s.root, s.now)
		return err
	}
	if err := made(&key.PublicKey, func(*x509.Certificate) {}); err != nil {
		t.Fatal(err)
	}
	for want, change := range deviations() {
		checkRefusal(t, made(&key.PublicKey, change), want)
	}
	checkRefusal(t, made(&key.PublicKey, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageAny} }), "other things than agree")
	checkRefusal(t, made(&key.PublicKey, func(c *x509.Certificate) { c.IsCA = true }), "other things than agree")
	checkRefusal(t, made(&newKey(t, elliptic.P384()).PublicKey, func(*x509.Certificate) {}), "not ECDSA P-256")
}

func TestRootProfile(t *testing.T) {
	key := newKey(t, elliptic.P256())
	made := func(change template) error {
		tmpl := &x509.Certificate{
			SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: rootName}, KeyUsage: x509.KeyUsageCertSign,
			BasicConstraintsValid: true, IsCA: true, MaxPathLen: 1, NotAfter: time.Now().Add(time.Hour),
		}
		change(tmpl)
		der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
		if err != nil {
			t.Fatal(err)
		}
		_, err = ParseRoot(der)
		return err
	}
	if err := made(func(*x509.Certificate) {}); err != nil {
		t.Fatal(err)
	}
	all := deviations()
	delete(all, "not valid at this time") // for whoever uses it
	delete(all, "certificate ends before it")
	for want, change := range all {
		checkRefusal(t, made(change), want)
	}
	checkRefusal(t, made(func(c *x509.Certificate) { c.MaxPathLen = 2 }), "path length 1")
	checkRefusal(t, made(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageAny} }), "other things than certify")
}
