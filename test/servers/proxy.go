package servers

import (
	"bytes"
	"io"
	"net"
	"sync"
	"testing"
)

// A Proxy is a TCP proxy that can hold back, or lose, what a server answers.
type Proxy struct {
	Addr string // where to connect to

	t      testing.TB
	target string

	mu    sync.Mutex
	word  []byte        // in a request: what follows is not answered
	held  chan struct{} // closed when it was seen
	conns []net.Conn
}

// NewProxy starts a proxy to target that ends with the test.
func NewProxy(t testing.TB, target string) *Proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{Addr: l.Addr().String(), t: t, target: target}
	var loops sync.WaitGroup
	loops.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			loops.Go(func() { p.carry(c) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		p.Cut()
		loops.Wait()
	})
	return p
}

// Hold makes the proxy hold back the answer to the next request that holds word,
// and everything after it on that connection. The channel is closed when the
// request has gone through to the server.
func (p *Proxy) Hold(word string) (seen <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.word, p.held = []byte(word), make(chan struct{})
	return p.held
}

// Cut ends all connections: what was held back is lost.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		c.Close()
	}
	p.conns = nil
}

func (p *Proxy) carry(client net.Conn) {
	server, err := net.Dial("tcp", p.target)
	if err != nil {
		client.Close()
		return
	}
	p.mu.Lock()
	p.conns = append(p.conns, client, server)
	p.mu.Unlock()
	held := make(chan struct{})
	var both sync.WaitGroup
	both.Go(func() { p.requests(server, client, held); server.Close() })
	both.Go(func() { answers(client, server, held); client.Close() })
	both.Wait()
}

// requests carries what the client sends, and closes held before it passes on
// the word.
func (p *Proxy) requests(server, client net.Conn, held chan struct{}) {
	buf := make([]byte, 64<<10)
	for {
		n, err := client.Read(buf)
		if err != nil {
			return
		}
		p.mu.Lock()
		hit := p.word != nil && bytes.Contains(buf[:n], p.word)
		seen := p.held
		if hit {
			p.word = nil
			close(held)
		}
		p.mu.Unlock()
		if _, err := server.Write(buf[:n]); err != nil {
			return
		}
		if hit {
			close(seen)
		}
	}
}

// answers carries what the server sends until held is closed; then it swallows
// it, and the connection looks as if the server hung.
func answers(client, server net.Conn, held chan struct{}) {
	buf := make([]byte, 64<<10)
	for {
		n, err := server.Read(buf)
		if err != nil {
			return
		}
		select {
		case <-held:
			io.Copy(io.Discard, server)
			return
		default:
		}
		if _, err := client.Write(buf[:n]); err != nil {
			return
		}
	}
}
