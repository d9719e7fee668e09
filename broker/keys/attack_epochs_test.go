package keys_test

import (
	"context"
	"crypto/x509"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/brevet-dev/brevet/broker/keys"
)

// TestRestartsOfAnother: a broker that crashes and starts again all day does not
// push the keys of another out of the JWKS.
func TestRestartsOfAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		board, own, others := &memory{}, newRoot(t), newRoot(t)
		o := keys.EpochOptions{URL: brokerURL, Roots: func() []*x509.Certificate { return []*x509.Certificate{own.Certificate(), others.Certificate()} }}
		a := keys.NewEpochs(own, board, o)
		if err := a.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		for range 60 {
			time.Sleep(20 * time.Second)
			b := keys.NewEpochs(others, board, o)
			if err := b.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			token, err := b.Sign(context.Background(), "x", map[string]string{})
			if err != nil {
				t.Fatal(err)
			}
			if err := a.Verify(t.Context(), "x", token, &map[string]string{}); err != nil {
				t.Fatal(err)
			}
		}
		if kid := a.Status().KeyID; !strings.Contains(string(a.JWKS()), kid) {
			t.Error("the key that signs here is not in the JWKS")
		}
	})
}
