package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// A line is a TCP proxy that makes a server as far away as it is told: what is sent
// arrives half a round trip later, in either direction, whatever else is under way.
// A connection takes a round trip to open. It counts TLS handshakes.
type line struct {
	addr, target string
	roundTrip    atomic.Int64 // in nanoseconds, of connections from now on

	full, resumed atomic.Int64 // handshakes that the server answered

	listener net.Listener
	carrying sync.WaitGroup
	mu       sync.Mutex
	open     map[net.Conn]bool
}

// newLine starts a line to target.
func newLine(target string) (*line, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listening: %w", err)
	}
	l := &line{addr: listener.Addr().String(), target: target, listener: listener, open: map[net.Conn]bool{}}
	l.carrying.Go(l.accept)
	return l, nil
}

// close ends the line and all its connections.
func (l *line) close() error {
	err := l.listener.Close()
	l.mu.Lock()
	for c := range l.open {
		c.Close()
	}
	l.mu.Unlock()
	l.carrying.Wait()
	return err
}

func (l *line) accept() {
	for {
		client, err := l.listener.Accept()
		if err != nil {
			return // closed
		}
		l.carrying.Go(func() { l.carry(client, time.Now()) })
	}
}

// keep notes a connection that close must end.
func (l *line) keep(c net.Conn, open bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if open {
		l.open[c] = true
	} else {
		delete(l.open, c)
		c.Close()
	}
}

// carry serves one connection. The client's kernel believes it open at once, so
// that the first that it sends is a round trip too early.
func (l *line) carry(client net.Conn, opened time.Time) {
	l.keep(client, true)
	defer l.keep(client, false)
	server, err := net.Dial("tcp", l.target)
	if err != nil {
		return
	}
	l.keep(server, true)
	defer l.keep(server, false)
	trip := time.Duration(l.roundTrip.Load())
	var both sync.WaitGroup
	both.Go(func() { delay(server, client, trip/2, opened.Add(trip), nil) })
	both.Go(func() { delay(client, server, trip/2, opened, l.count) })
	both.Wait()
}

// A chunk is what was read at once.
type chunk struct {
	data []byte
	due  time.Time // when it arrives
}

// delay carries what src sends to dst, later by half a round trip; nothing counts as
// sent before opened. first, if not nil, sees the first chunk.
func delay(dst, src net.Conn, half time.Duration, opened time.Time, first func([]byte)) {
	way := make(chan chunk, 1024) // more than a connection of the benchmark has under way
	var reading sync.WaitGroup
	reading.Go(func() {
		defer close(way)
		for {
			buf := make([]byte, 32<<10)
			n, err := src.Read(buf)
			if n > 0 {
				way <- chunk{buf[:n], later(time.Now(), opened).Add(half)}
			}
			if err != nil {
				return
			}
		}
	})
	for c := range way {
		if first != nil {
			first(c.data)
			first = nil
		}
		sleepUntil(c.due)
		if _, err := dst.Write(c.data); err != nil {
			break
		}
	}
	dst.Close()
	src.Close()
	for range way { // until the reader has noticed
	}
	reading.Wait()
}

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

// sleepUntil is exact to a tenth of a millisecond; the runtime's timers wake up to
// a whole one late, because epoll_wait(2) counts in those.
func sleepUntil(t time.Time) {
	for d := time.Until(t); d > 0; d = time.Until(t) {
		left := syscall.NsecToTimespec(int64(d))
		syscall.Nanosleep(&left, nil) // an interrupted one is gone on with
	}
}

// count counts the handshake that begins with what the server sent.
func (l *line) count(data []byte) {
	resumed, err := resumes(data)
	switch {
	case err != nil: // plain HTTP, or an alert
	case resumed:
		l.resumed.Add(1)
	default:
		l.full.Add(1)
	}
}

// The numbers of RFC 8446: sections 5.1, 4 and 4.2.
const (
	recordHandshake       = 22
	messageServerHello    = 2
	extensionPreSharedKey = 41
)

var errServerHello = errors.New("not a ServerHello")

// resumes reports whether a ServerHello goes on with a session of TLS 1.3: it then
// names the key that the client had, RFC 8446, section 4.2.11. Other versions' it
// takes for whole handshakes.
func resumes(data []byte) (bool, error) {
	r := reader{data: data}
	kind := r.number(1)
	r.skip(4) // version and length of the record
	message := r.number(1)
	r.skip(3 + 2 + 32) // length; version; random
	r.skip(r.number(1))
	r.skip(2 + 1) // cipher suite; compression
	extensions := reader{data: r.take(r.number(2))}
	if r.short || kind != recordHandshake || message != messageServerHello {
		return false, errServerHello
	}
	for len(extensions.data) > 0 && !extensions.short {
		if extensions.number(2) == extensionPreSharedKey {
			return true, nil
		}
		extensions.skip(extensions.number(2))
	}
	return false, nil
}

// A reader takes a TLS message apart.
type reader struct {
	data  []byte
	short bool // it ended too early
}

func (r *reader) take(n int) []byte {
	if n > len(r.data) {
		r.short, r.data = true, nil
		return nil
	}
	out := r.data[:n]
	r.data = r.data[n:]
	return out
}

func (r *reader) skip(n int) { r.take(n) }

// number reads a number of so many bytes, 4 at the most.
func (r *reader) number(bytes int) int {
	var full [4]byte
	copy(full[4-bytes:], r.take(bytes))
	return int(binary.BigEndian.Uint32(full[:]))
}
