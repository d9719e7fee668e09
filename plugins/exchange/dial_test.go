package exchange_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/plugins/exchange"
)

// A counter is a TLS server that says what connections it has seen.
type counter struct {
	*httptest.Server
	opened chan string   // address of each client
	shaken chan bool     // of each handshake: was it resumed
	ended  chan struct{} // of each connection
	protos chan string   // of each request
}

func newCounter(t *testing.T) *counter {
	t.Helper()
	c := &counter{opened: make(chan string, 100), shaken: make(chan bool, 100), ended: make(chan struct{}, 100), protos: make(chan string, 100)}
	c.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { c.protos <- r.Proto }))
	c.EnableHTTP2 = true
	c.TLS = &tls.Config{VerifyConnection: func(s tls.ConnectionState) error {
		c.shaken <- s.DidResume
		return nil
	}}
	c.Config.ConnState = func(conn net.Conn, s http.ConnState) {
		switch s {
		case http.StateNew:
			c.opened <- conn.RemoteAddr().String()
		case http.StateClosed:
			c.ended <- struct{}{}
		}
	}
	c.Config.ErrorLog = log.New(io.Discard, "", 0)
	c.StartTLS()
	t.Cleanup(c.Close)
	return c
}

// connections returns how many there were since it was last called: they are
// accepted in their order.
func (c *counter) connections(t *testing.T) (n int) {
	t.Helper()
	last, err := net.Dial("tcp", c.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer last.Close()
	for next(t, "a connection", c.opened) != last.LocalAddr().String() {
		n++
	}
	return n
}

// ca writes the server's certificate to a file.
func (c *counter) ca(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// strangeCA writes the certificate of a CA that has certified nobody to a file.
func strangeCA(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "strange"}, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "strange.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// client returns one that trusts the certificates of a file.
func client(t *testing.T, broker, caFile string) *exchange.Client {
	t.Helper()
	hc, err := exchange.NewHTTPClient(caFile)
	if err != nil {
		t.Fatal(err)
	}
	return newClient(t, broker, hc)
}

// next waits for what must come.
func next[T any](t *testing.T, what string, from <-chan T) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(10 * time.Second):
		t.Fatalf("waiting for %s", what)
		panic("unreachable")
	}
}

// TestConnect: the connection is there before the request, which then takes it.
func TestConnect(t *testing.T) {
	s := newCounter(t)
	c := client(t, s.URL, s.ca(t))
	end := c.Connect(t.Context())
	next(t, "the handshake", s.shaken)
	c.Connect(t.Context())() // one at a time
	for range 3 {
		if err := c.Revoke(t.Context(), api.NewSecret("x")); err != nil {
			t.Fatal(err)
		}
		if got := next(t, "the request", s.protos); got != "HTTP/2.0" {
			t.Errorf("the request is %s", got)
		}
	}
	end()
	if err := c.Revoke(t.Context(), api.NewSecret("x")); err != nil {
		t.Error(err)
	}
	if got := s.connections(t); got != 1 {
		t.Errorf("%d connections, want 1", got)
	}
}

// TestConnectTogether: many requests at once, while the connection is being made.
func TestConnectTogether(t *testing.T) {
	s := newCounter(t)
	c := client(t, s.URL, s.ca(t))
	defer c.Connect(t.Context())()
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			if err := c.Revoke(t.Context(), api.NewSecret("x")); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
}

// TestConnectInVain: what no request takes is closed, whether it was made or not.
func TestConnectInVain(t *testing.T) {
	s := newCounter(t)
	end := client(t, s.URL, s.ca(t)).Connect(t.Context())
	next(t, "the handshake", s.shaken)
	end()
	next(t, "the end of the connection", s.ended)

	silent, err := net.Listen("tcp", "127.0.0.1:0") // accepts, and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	began := time.Now()
	client(t, "https://"+silent.Addr().String(), "").Connect(t.Context())()
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("giving up took %s", took)
	}
}

// TestConnectFails: the reason is that of the request, as it would be without. A
// request whose time is up does not wait for the connection.
func TestConnectFails(t *testing.T) {
	s := newCounter(t)
	c := client(t, s.URL, "")
	end := c.Connect(t.Context())
	err := c.Revoke(t.Context(), api.NewSecret("x"))
	end()
	if got := s.connections(t); !exchange.IsKind(err, exchange.Misconfigured) || got != 1 {
		t.Errorf("Revoke with an unknown CA = %v, after %d connections", err, got)
	}
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	c = client(t, "https://"+silent.Addr().String(), "")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	end = c.Connect(ctx)
	defer end()
	if _, err := c.Introspect(ctx, api.NewSecret("x")); !exchange.IsKind(err, exchange.Unavailable) {
		t.Errorf("Introspect of a silent broker = %v", err)
	}
}

// TestConnectNowhere: where it is not known how, nothing happens.
func TestConnectNowhere(t *testing.T) {
	for _, hc := range []*http.Client{http.DefaultClient, {Transport: transport(func(*http.Request) (*http.Response, error) {
		return nil, errors.New("a request")
	})}} {
		newClient(t, brokerURL, hc).Connect(t.Context())()
	}
	client(t, "http://127.0.0.1:1", "").Connect(t.Context())()
}

// TestFileFirst: a file of certificates is tried alone, then with the system's; once
// it is known not to suffice there is one try.
func TestFileFirst(t *testing.T) {
	s := newCounter(t)
	c := client(t, s.URL, strangeCA(t))
	for i := range 2 {
		if err := c.Revoke(t.Context(), api.NewSecret("x")); !exchange.IsKind(err, exchange.Misconfigured) {
			t.Errorf("Revoke of a broker that nobody knows = %v", err)
		}
		if got, want := s.connections(t), 2-i; got != want {
			t.Errorf("%d connections, want %d", got, want)
		}
	}
}

// childURL is the variable that tells a test what to do in another process, whose
// environment net/http and crypto/x509 read once.
const childURL = "EXCHANGE_TEST_URL"

// child runs a test again, with more of an environment.
func child(t *testing.T, broker string, env ...string) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run", "^"+t.Name()+"$")
	cmd.Env = append(append(os.Environ(), childURL+"="+broker), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestSystemCertificates: a broker may have a certificate of either.
func TestSystemCertificates(t *testing.T) {
	if broker := os.Getenv(childURL); broker != "" {
		for range 2 {
			if err := client(t, broker, os.Getenv("BREVET_CA_FILE")).Revoke(t.Context(), api.NewSecret("x")); err != nil {
				t.Error(err)
			}
		}
		return
	}
	s := newCounter(t)
	child(t, s.URL, "SSL_CERT_FILE="+s.ca(t), "BREVET_CA_FILE=")
	child(t, s.URL, "SSL_CERT_FILE="+s.ca(t), "BREVET_CA_FILE="+strangeCA(t))
	child(t, s.URL, "SSL_CERT_FILE="+strangeCA(t), "BREVET_CA_FILE="+s.ca(t))
}

// TestProxy: behind a proxy the CA file still counts, and nothing is connected to
// past it.
func TestProxy(t *testing.T) {
	if broker := os.Getenv(childURL); broker != "" {
		c := client(t, broker, os.Getenv("BREVET_CA_FILE"))
		defer c.Connect(t.Context())()
		if err := c.Revoke(t.Context(), api.NewSecret("x")); err != nil {
			t.Error(err)
		}
		return
	}
	s := newCounter(t)
	var tunnels sync.WaitGroup
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		server, err := net.Dial("tcp", s.Listener.Addr().String())
		if err != nil || r.Method != http.MethodConnect || r.Host != "example.com:443" {
			t.Errorf("the proxy was asked to %s %s, %v", r.Method, r.Host, err)
			return
		}
		defer server.Close()
		w.WriteHeader(http.StatusOK)
		conn, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		tunnels.Go(func() { io.Copy(server, buffered); server.Close() })
		io.Copy(conn, server)
	}))
	defer proxy.Close()
	child(t, "https://example.com", "HTTPS_PROXY="+proxy.URL, "NO_PROXY=", "no_proxy=", "BREVET_CA_FILE="+s.ca(t)) // httptest's certificate is for that name
	tunnels.Wait()
	if got := s.connections(t); got != 1 {
		t.Errorf("%d connections through the proxy, want 1", got)
	}
}
