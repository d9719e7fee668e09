package tpm_test

import (
	"crypto/ecdh"
	"crypto/rand"
	"testing"

	"github.com/brevet-dev/brevet/test/servers"
)

// A chip takes 10 to 100 times as long as swtpm.

func BenchmarkSign(b *testing.B) {
	root := create(b, config(b, servers.BareSWTPM(b)))
	b.ReportAllocs()
	before := root.Operations()
	for b.Loop() {
		must(b, sign(root))
	}
	b.ReportMetric(float64(root.Operations()-before)/float64(b.N), "commands/op")
}

func BenchmarkECDH(b *testing.B) {
	root := create(b, config(b, servers.BareSWTPM(b)))
	other, err := ecdh.P256().GenerateKey(rand.Reader)
	must(b, err)
	b.ReportAllocs()
	for b.Loop() {
		_, err := root.KeyExchanger().ECDH(other.PublicKey())
		must(b, err)
	}
}

func BenchmarkOpen(b *testing.B) {
	cfg := config(b, servers.BareSWTPM(b))
	must(b, create(b, cfg).Close())
	for b.Loop() {
		must(b, open(b, cfg).Close())
	}
}
