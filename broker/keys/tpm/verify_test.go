package tpm_test

import (
	"crypto/x509"
	"testing"
	"time"

	"github.com/brevet-dev/brevet/broker/keys/trust"
	"github.com/brevet-dev/brevet/test/servers"
)

// What a root says of itself is what a verifier asks for.
func TestVerify(t *testing.T) {
	t.Parallel()
	s := servers.SWTPM(t)
	root := create(t, config(t, s))
	nonce := []byte("a nonce")
	b := trust.NewBundle("https://broker.example.com", []trust.Broker{{
		Kind: root.Kind(), Root: root.Certificate().Raw, Agreement: root.Agreement().Raw, Attestation: attest(t, root, nonce),
	}}, nil)
	report, err := b.Verify(trust.VerifyOptions{
		Pins: []string{trust.Fingerprint(root.Certificate())}, RequireTPM: true, Nonce: nonce, Now: time.Now(),
		EKRoots: []*x509.Certificate{certificate(t, s.CA), certificate(t, s.Intermediate)},
	})
	must(t, err)
	if a := report.Brokers[0].Attestation; !a.Fresh || a.EKCA == "" || a.Policy {
		t.Errorf("%+v", a)
	}
}
