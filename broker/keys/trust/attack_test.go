package trust

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"net/url"
	"testing"
	"time"
)

// TestForgedEpochsAreCheap: who can write to the board makes a broker check
// 1000 certificates at every look, and each against no more than one root of 64.
func TestForgedEpochsAreCheap(t *testing.T) {
	now := time.Now()
	var roots []*x509.Certificate
	for range maxRoots {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		root, err := NewRoot(key, now)
		if err != nil {
			t.Fatal(err)
		}
		roots = append(roots, root)
	}
	forger, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	fake, err := NewRoot(forger, now)
	if err != nil {
		t.Fatal(err)
	}
	at, _ := url.Parse("https://broker.example.com")
	epoch, err := NewEpoch(fake, forger, &forger.PublicKey, at, now, now.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	cost := testing.Benchmark(func(b *testing.B) {
		for b.Loop() {
			if _, _, err := ParseEpoch(epoch.Raw, roots, at.String(), now, MaxEpoch); err == nil {
				b.Fatal("accepted")
			}
		}
	})
	one := testing.Benchmark(func(b *testing.B) {
		for b.Loop() {
			fake.CheckSignatureFrom(fake)
		}
	})
	if cost.NsPerOp() > 4*one.NsPerOp() {
		t.Errorf("a forged epoch takes %v, a signature %v", time.Duration(cost.NsPerOp()), time.Duration(one.NsPerOp()))
	}
}
