package runner_test

import (
	"context"
	"crypto/tls"
	"encoding/pem"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/brevet-dev/brevet/plugins/runner"
	"github.com/brevet-dev/brevet/plugins/runner/runnertest"
)

// TestConnectsMeanwhile: the platform gives no token before the broker was connected
// to, and the exchange goes over that connection.
func TestConnectsMeanwhile(t *testing.T) {
	b := runnertest.NewBroker(runnertest.Lease("deploy", "TOKEN", canary))
	defer b.Close()
	shaken := make(chan struct{}, 10)
	s := httptest.NewUnstartedServer(b.Config.Handler)
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.TLS = &tls.Config{VerifyConnection: func(tls.ConnectionState) error {
		shaken <- struct{}{}
		return nil
	}}
	s.StartTLS()
	defer s.Close()
	b.URL = s.URL // that proofs must be for
	platform := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-shaken:
			io.WriteString(w, `{"value": "`+runnertest.Token("job")+`"}`)
		case <-time.After(10 * time.Second):
			t.Error("no connection to the broker while the token is got")
		}
	}))
	defer platform.Close()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	env := runner.Env{"ACTIONS_ID_TOKEN_REQUEST_URL=" + platform.URL + "/?a=b", "ACTIONS_ID_TOKEN_REQUEST_TOKEN=" + runnertest.Request}
	session, err := runner.Open(t.Context(), runner.Options{Broker: s.URL, Credentials: []string{"deploy"}, Timeout: 20 * time.Second, CAFile: ca}, env)
	if err != nil {
		t.Fatal(err)
	}
	if err := session.Revoke(context.Background()); err != nil {
		t.Error(err)
	}
	if n := len(shaken); n > 0 {
		t.Errorf("%d more connections", n)
	}
}
