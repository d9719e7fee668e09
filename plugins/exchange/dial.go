package exchange

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"sync"
	"sync/atomic"
)

// A transport is net/http's with connections that can be begun before there is
// anything to send, and be given up whatever is on them.
type transport struct {
	dialer *dialer // nil: net/http connects, through a proxy

	mu  sync.Mutex
	now *http.Transport
}

// RoundTrip implements [http.RoundTripper].
func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	t.mu.Lock()
	now := t.now
	t.mu.Unlock()
	return now.RoundTrip(r)
}

// CloseIdleConnections has the next request go over a new connection, for
// [http.Client]: one of HTTP/2 that still has a request on it does not look idle, and
// would be used for the next although nothing comes through. TLS sessions are resumed.
func (t *transport) CloseIdleConnections() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.now.CloseIdleConnections()
	t.now = t.now.Clone()
}

// Connect begins to connect to the broker, for the next request to find the
// connection made: its handshakes take two round trips, in which the token can be
// got. end closes a connection that no request has taken; it must be called.
//
// It does nothing where the HTTP client is not of [NewHTTPClient], behind a proxy,
// and without TLS.
func (c *Client) Connect(ctx context.Context) (end func()) {
	t, ours := c.http.Transport.(*transport)
	u, err := url.Parse(c.broker)
	if !ours || t.dialer == nil || err != nil || u.Scheme != "https" {
		return func() {}
	}
	return t.dialer.begin(ctx, net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), "443")))
}

// A dialer opens TLS connections.
type dialer struct {
	file *tls.Config                 // trusts the certificates of the CA file only; nil: there is none
	all  func() (*tls.Config, error) // trusts the system's, too; the first call may take ten milliseconds
	both atomic.Bool                 // the file's are known not to suffice
	next atomic.Pointer[earlyConn]   // nil: none was begun
}

// newDialer reads the CA file; "" is none. base is what each connection has.
func newDialer(caFile string, base *tls.Config) (*dialer, error) {
	d := &dialer{all: func() (*tls.Config, error) { return base, nil }}
	if caFile == "" {
		return d, nil
	}
	pem, err := os.ReadFile(caFile)
	if err != nil {
		return nil, Failf(Misconfigured, "", "reading the CA file: %w", err)
	}
	d.file = base.Clone()
	d.file.RootCAs = x509.NewCertPool()
	if !d.file.RootCAs.AppendCertsFromPEM(pem) {
		return nil, Failf(Misconfigured, "", "%s has no certificate in PEM", caFile)
	}
	d.all = sync.OnceValues(func() (*tls.Config, error) {
		roots, err := x509.SystemCertPool()
		if err != nil {
			return nil, fmt.Errorf("reading the system's certificates: %w", err)
		}
		roots.AppendCertsFromPEM(pem)
		config := base.Clone()
		config.RootCAs = roots
		return config, nil
	})
	return d, nil
}

// dial returns the connection that was begun, or another.
func (d *dialer) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	if early := d.take(addr); early != nil {
		return early.wait(ctx)
	}
	return d.connect(ctx, network, addr)
}

// connect opens a connection. A server with a certificate of the CA file's is
// trusted for that alone: to parse the system's takes longer than all else that a
// cold start does. Any other is asked again, and may have one of either.
func (d *dialer) connect(ctx context.Context, network, addr string) (net.Conn, error) {
	if d.file != nil && !d.both.Load() {
		conn, err := shake(ctx, network, addr, d.file)
		if _, strange := errors.AsType[*tls.CertificateVerificationError](err); !strange {
			return conn, err
		}
		d.both.Store(true)
	}
	all, err := d.all()
	if err != nil {
		return nil, err
	}
	return shake(ctx, network, addr, all)
}

// shake connects and makes the handshake, within dialTimeout.
func shake(ctx context.Context, network, addr string, config *tls.Config) (net.Conn, error) {
	return (&tls.Dialer{NetDialer: &net.Dialer{Timeout: dialTimeout}, Config: config}).DialContext(ctx, network, addr)
}

// An earlyConn is a connection that was begun before there was a request for it.
type earlyConn struct {
	addr   string
	cancel context.CancelFunc
	done   chan struct{}

	conn net.Conn // valid when done is closed, as err
	err  error
}

// begin opens a connection to addr, which the next call of dial returns. One at a
// time will do.
func (d *dialer) begin(ctx context.Context, addr string) (end func()) {
	ctx, cancel := context.WithCancel(ctx)
	early := &earlyConn{addr: addr, cancel: cancel, done: make(chan struct{})}
	if !d.next.CompareAndSwap(nil, early) {
		cancel()
		return func() {}
	}
	var running sync.WaitGroup
	if d.file == nil {
		running.Go(func() { x509.SystemCertPool() }) // parsed once, and by now rather than when the broker's certificate has come
	}
	running.Go(func() {
		defer close(early.done)
		early.conn, early.err = d.connect(ctx, "tcp", addr)
	})
	return func() {
		if d.next.CompareAndSwap(early, nil) {
			early.close()
		}
		running.Wait()
		cancel()
	}
}

// take returns the connection to addr that was begun, once; nil if there is none.
func (d *dialer) take(addr string) *earlyConn {
	early := d.next.Load()
	if early == nil || early.addr != addr || !d.next.CompareAndSwap(early, nil) {
		return nil
	}
	return early
}

// wait returns the connection when it is made, or why it was not. One that the
// broker has given up meanwhile fails its request, which is tried again.
func (e *earlyConn) wait(ctx context.Context) (net.Conn, error) {
	select {
	case <-e.done:
		return e.conn, e.err
	case <-ctx.Done():
		e.close()
		return nil, ctx.Err()
	}
}

// close gives the connection up.
func (e *earlyConn) close() {
	e.cancel()
	<-e.done
	if e.conn != nil {
		e.conn.Close() // nothing was sent
	}
}
