package function_test

import (
	"context"
	"encoding/pem"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/brevet-dev/brevet/plugins/function"
)

// A wire carries connections, until they are forgotten: then they stay open, and
// nothing comes through, as after a freeze behind a NAT that drops packets.
type wire struct {
	net.Listener

	mu   sync.Mutex
	lost chan struct{} // closed when the connections of now are forgotten
	all  []net.Conn
}

func newWire(t *testing.T) *wire {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{Listener: listener, lost: make(chan struct{})}
	t.Cleanup(func() {
		w.Close()
		for _, c := range w.all {
			c.Close()
		}
	})
	return w
}

// forget loses the connections that there are, and returns how many.
func (w *wire) forget() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	close(w.lost)
	w.lost = make(chan struct{})
	return len(w.all)
}

// to carries each connection to addr.
func (w *wire) to(addr string) {
	for {
		from, err := w.Accept()
		if err != nil {
			return
		}
		to, err := net.Dial("tcp", addr)
		if err != nil {
			from.Close()
			continue
		}
		w.mu.Lock()
		w.all = append(w.all, from, to)
		lost := w.lost
		w.mu.Unlock()
		go carry(to, from, lost)
		go carry(from, to, lost)
	}
}

func carry(to io.Writer, from io.Reader, lost chan struct{}) {
	buffer := make([]byte, 16<<10)
	for {
		n, err := from.Read(buffer)
		select {
		case <-lost:
			n = 0
		default:
		}
		if err != nil {
			return
		}
		to.Write(buffer[:n]) // an end is that of the other one, too
	}
}

// serve has f answer over HTTP/2, behind a wire. caFile is for its certificate.
func (f *fake) serve(t *testing.T) (w *wire, caFile string) {
	t.Helper()
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		resp, err := f.RoundTrip(r)
		if err != nil || r.ProtoMajor != 2 {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		w.Header().Set("Date", resp.Header.Get("Date"))
		w.WriteHeader(resp.StatusCode)
		io.Copy(w, resp.Body) // who has gone needs no more
	}))
	server.EnableHTTP2, server.Config.ErrorLog = true, log.New(io.Discard, "", 0) // a connection may be closed while it begins
	server.StartTLS()
	t.Cleanup(server.Close)
	w = newWire(t)
	go w.to(server.Listener.Addr().String())
	f.url = "https://" + w.Addr().String()
	caFile = filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(caFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	return w, caFile
}

// TestLostConnection: with HTTP/2 a connection that a freeze has killed does not look
// idle while a request is on it. Another is used all the same, at once.
func TestLostConnection(t *testing.T) {
	t.Parallel()
	f, box := newFake(), &sandbox{}
	w, caFile := f.serve(t)
	o := function.Options{Source: platform{}, CAFile: caFile}.On(none, box.now, "", "")
	s, err := o.New(t.Context(), f.url, "database", "queue")
	if err != nil {
		t.Fatal(err)
	}
	hold := make(chan struct{})
	f.set(func() { f.hold = hold })
	box.freeze(f, time.Hour)
	waiting := make(chan error, 1)
	go func() { _, err := value(s); waiting <- err }()
	for tries := 1; tries < 2; {
		_, tries, _ = f.counts()
	}
	f.set(func() { f.hold = nil })
	before := w.forget()
	close(hold)
	box.freeze(f, time.Hour) // with an exchange on its way
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	if _, err := s.Get(ctx, "database"); err != nil {
		t.Errorf("Get after the freeze = %v", err)
	}
	if err := <-waiting; err != nil {
		t.Errorf("who waited has %v", err)
	}
	w.mu.Lock()
	after := len(w.all)
	w.mu.Unlock()
	if after < before+2 {
		t.Errorf("%d connections, want more than %d", after/2, before/2)
	}
	began := time.Now()
	w.forget()
	box.freeze(f, time.Hour)
	if err := s.Close(context.Background()); err != nil || time.Since(began) > 2*time.Second {
		t.Errorf("Close = %v after %v", err, time.Since(began))
	}
}

// TestSilentConnection: a broker, or what is before it, has gone without a word, and no
// clock tells of it. One question without an answer is enough.
func TestSilentConnection(t *testing.T) {
	t.Parallel()
	f := newFake()
	w, caFile := f.serve(t)
	var passed atomic.Int64
	now := func() (steady, wall time.Time) {
		n := time.Now().Add(time.Duration(passed.Load()))
		return n, n
	}
	s, err := function.Options{Source: platform{}, CAFile: caFile}.On(none, now, "", "").New(t.Context(), f.url, "database", "queue")
	if err != nil {
		t.Fatal(err)
	}
	w.forget()
	passed.Store(int64(2 * time.Minute))
	want(t, s, "1") // after a question, for two seconds
	passed.Store(int64(time.Hour))
	began := time.Now()
	want(t, s, "2")
	if err := s.Close(context.Background()); err != nil || time.Since(began) > 2*time.Second {
		t.Errorf("Close = %v after %v", err, time.Since(began))
	}
}
