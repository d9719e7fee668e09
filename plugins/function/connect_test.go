package function_test

import (
	"context"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/brevet-dev/brevet/plugins/exchange"
	"github.com/brevet-dev/brevet/plugins/function"
)

// A waiter is a platform that gives no token before the broker was connected to,
// nor after.
type waiter struct{ shaken <-chan struct{} }

func (w waiter) Token(context.Context, string) (function.Secret, error) {
	select {
	case <-w.shaken:
		return function.Secret{}, exchange.Failf(exchange.Unavailable, "", "connected")
	case <-time.After(10 * time.Second):
		return function.Secret{}, errors.New("no connection to the broker while the token is got")
	}
}

// TestConnectsMeanwhile: at the start and after a freeze there is no connection, and
// one is made while the platform is asked.
func TestConnectsMeanwhile(t *testing.T) {
	shaken := make(chan struct{}, 10)
	server := httptest.NewUnstartedServer(http.NotFoundHandler())
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.TLS = &tls.Config{VerifyConnection: func(tls.ConnectionState) error {
		shaken <- struct{}{}
		return nil
	}}
	server.StartTLS()
	defer server.Close()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	var clocks sandbox
	o := function.Options{Source: waiter{shaken}, CAFile: ca, StartWithout: true}.On(none, clocks.now, "", "")
	s, err := o.New(t.Context(), server.URL, "database")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(context.Background())
	clocks.set(time.Hour)
	if _, err := s.Get(t.Context(), "database"); !exchange.IsKind(err, exchange.Unavailable) {
		t.Errorf("Get after a freeze = %v", err)
	}
}
