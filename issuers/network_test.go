package issuers_test

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
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

// behindProxy configures an issuer whose name only the proxy resolves. The
// test server's certificate is for example.com, too.
func behindProxy(t *testing.T) (*platform, *proxy, issuers.Config) {
	p, config := secure(t)
	proxy := startProxy(t, strings.TrimPrefix(p.URL, "https://"))
	config.URL, config.Proxy = "https://example.com", proxy.url
	p.replace.Store(&replacement{discoveryPath, body(`{"issuer":"https://example.com","jwks_uri":"https://example.com/.well-known/jwks"}`)})
	return p, proxy, config
}

func TestProxy(t *testing.T) {
	p, proxy, config := behindProxy(t)
	raw := p.mint(t, map[string]any{"iss": config.URL})
	check(t, newSet(t, config), raw, "")
	if got := strings.Join(proxy.requests(), ", "); got != "CONNECT example.com:443, CONNECT example.com:443" {
		t.Errorf("the proxy was asked for %s", got)
	}
}

// The rule about addresses is for the proxy's, and the certificate still has to
// be the issuer's: a proxy that connects to somebody else is found out.
func TestProxyIsChecked(t *testing.T) {
	p, proxy, config := behindProxy(t)
	raw := p.mint(t, map[string]any{"iss": config.URL})
	private := config
	private.AllowPrivateCIDRs = nil
	check(t, newSet(t, private), raw, "unavailable")
	if asked := proxy.requests(); len(asked) != 0 {
		t.Errorf("the proxy was asked for %q at an address that is not allowed", asked)
	}
	stranger := config
	stranger.URL = "https://issuer.example.net" // not in the certificate
	_, err := newSet(t, stranger).Verify(t.Context(), p.mint(t, map[string]any{"iss": stranger.URL}))
	if err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("Verify through a proxy that connects to somebody else = %v", err)
	}
}

func TestProxyRefuses(t *testing.T) {
	p, proxy, config := behindProxy(t)
	proxy.refuse = true
	_, err := newSet(t, config).Verify(t.Context(), p.mint(t, map[string]any{"iss": config.URL}))
	if reason(t, nil, err) != "unavailable" || !strings.Contains(err.Error(), "the proxy answered with status 407") || strings.Contains(err.Error(), canary) {
		t.Errorf("Verify = %v, want the proxy's status and not its words", err)
	}
}

// Only the configuration names a proxy: who sets the environment of the broker
// does not get to see its connections by that. The address is one that is not
// connected to, and for which Go would ask a proxy.
func TestProxyOfTheEnvironment(t *testing.T) {
	p, config := secure(t)
	proxy := startProxy(t, strings.TrimPrefix(p.URL, "https://"))
	for _, name := range []string{"HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY"} {
		t.Setenv(name, proxy.url)
	}
	config.URL = "https://10.255.255.1"
	_, err := newSet(t, config).Verify(t.Context(), p.mint(t, map[string]any{"iss": config.URL}))
	if err == nil || !strings.Contains(err.Error(), "10.255.255.1 is not public") {
		t.Errorf("Verify = %v, want the address refused", err)
	}
	if asked := proxy.requests(); len(asked) != 0 {
		t.Errorf("the environment's proxy was asked for %q", asked)
	}
}
