package issuers_test

import (
	"encoding/pem"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/brevet-dev/brevet/issuers"
)

// A proxy connects whoever asks with CONNECT, to one address whatever is asked
// for, as a proxy may.
type proxy struct {
	url, target string
	refuse      bool

	mu    sync.Mutex
	asked []string // "METHOD host:port"
	open  sync.WaitGroup
}

func startProxy(t *testing.T, target string) *proxy {
	p := &proxy{target: target}
	server := httptest.NewServer(p)
	t.Cleanup(func() { server.Close(); p.open.Wait() })
	p.url = server.URL
	return p
}

func (p *proxy) requests() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asked
}

func (p *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.open.Add(1) // the server does not wait for connections that it gave away
	defer p.open.Done()
	p.mu.Lock()
	p.asked = append(p.asked, r.Method+" "+r.Host)
	p.mu.Unlock()
	if p.refuse {
		http.Error(w, canary, http.StatusProxyAuthRequired)
		return
	}
	there, err := net.Dial("tcp", p.target)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	here, _, err := w.(http.Hijacker).Hijack()
	if err != nil {
		there.Close()
		return
	}
	io.WriteString(here, "HTTP/1.1 200 Connection established\r\n\r\n")
	var both sync.WaitGroup
	both.Go(func() { defer there.Close(); io.Copy(there, here) })
	both.Go(func() { defer here.Close(); io.Copy(here, there) })
	both.Wait()
}

// behindProxy configures an issuer whose name only the proxy resolves: the test
// server's certificate is for example.com, too.
func behindProxy(t *testing.T) (*forge, *proxy, issuers.Config) {
	f := unserved(t)
	f.url = "https://example.com"
	server := httptest.NewUnstartedServer(f)
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // refused handshakes are the test
	server.StartTLS()
	t.Cleanup(server.Close)
	proxy := startProxy(t, server.Listener.Addr().String())
	config := f.config()
	config.InsecureHTTP, config.AllowPrivateCIDRs, config.Proxy = false, []string{"127.0.0.0/8"}, proxy.url
	config.CAFile = filepath.Join(t.TempDir(), "ca.pem")
	bundle := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(config.CAFile, bundle, 0o600); err != nil {
		t.Fatal(err)
	}
	return f, proxy, config
}

func TestProxy(t *testing.T) {
	f, proxy, config := behindProxy(t)
	check(t, newSet(t, config), f.token(t, "ES256", nil, nil), "")
	if got := strings.Join(proxy.requests(), ", "); got != "CONNECT example.com:443, CONNECT example.com:443" {
		t.Errorf("the proxy was asked for %s", got)
	}
}

// The rule about addresses is for the proxy's, and the certificate still has to
// be the issuer's: a proxy that connects to somebody else is found out.
func TestProxyIsChecked(t *testing.T) {
	f, proxy, config := behindProxy(t)
	for _, allow := range []bool{false, true} { // loopback is not private use
		private := config
		private.AllowPrivateCIDRs, private.AllowPrivate = nil, allow
		check(t, newSet(t, private), f.token(t, "ES256", nil, nil), "unavailable")
	}
	if asked := proxy.requests(); len(asked) != 0 {
		t.Errorf("the proxy was asked for %q at an address that is not allowed", asked)
	}
	config.URL = "https://issuer.example.net" // not in the certificate
	_, err := newSet(t, config).Verify(t.Context(), f.token(t, "ES256", nil, map[string]any{"iss": config.URL}))
	if err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("Verify through a proxy that connects to somebody else = %v", err)
	}
}

func TestProxyRefuses(t *testing.T) {
	f, proxy, config := behindProxy(t)
	proxy.refuse = true
	_, err := newSet(t, config).Verify(t.Context(), f.token(t, "ES256", nil, nil))
	if reason(t, nil, err) != "unavailable" || !strings.Contains(err.Error(), "the proxy answered with status 407") || strings.Contains(err.Error(), canary) {
		t.Errorf("Verify = %v, want the proxy's status and not its words", err)
	}
}

// Only the configuration names a proxy: who sets the environment of the broker
// does not get to see its connections by that. The address is one that is not
// connected to, and for which Go would ask a proxy.
func TestProxyOfTheEnvironment(t *testing.T) {
	f, proxy, config := behindProxy(t)
	for _, name := range []string{"HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY"} {
		t.Setenv(name, proxy.url)
	}
	config.URL, config.Proxy = "https://10.255.255.1", ""
	_, err := newSet(t, config).Verify(t.Context(), f.token(t, "ES256", nil, map[string]any{"iss": config.URL}))
	if err == nil || !strings.Contains(err.Error(), "10.255.255.1 is not public") {
		t.Errorf("Verify = %v, want the address refused", err)
	}
	if asked := proxy.requests(); len(asked) != 0 {
		t.Errorf("the environment's proxy was asked for %q", asked)
	}
}
