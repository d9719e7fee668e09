package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// exampleFunctions has three starts of each variant at each distance; those with brevet
// wait for three round trips, and for two when they are thawed.
func exampleFunctions() *functionResult {
	f := &functionResult{Bare: 6 << 20, With: 7 << 20}
	for _, trip := range roundTrips {
		var all []start
		for i := range time.Duration(3) {
			wobble := i * time.Millisecond
			all = append(all, start{variant: bare, ready: 2*time.Millisecond + wobble, cpu: time.Millisecond, warm: []time.Duration{wobble / 10}})
			for _, variant := range []string{withFile, withSystem, withSlow} {
				all = append(all, start{
					variant: variant, ready: 5*time.Millisecond + 3*trip + 2*wobble, cpu: 3 * time.Millisecond, warm: []time.Duration{wobble / 5},
					thawed: 4*time.Millisecond + 2*trip, cold: handshakes{full: 1}, thaw: handshakes{resumed: 1},
				})
			}
		}
		f.add(trip, all)
	}
	return f
}

func TestFunctionResult(t *testing.T) {
	f := exampleFunctions()
	near, far := f.of(0, withFile), f.of(50*time.Millisecond, withFile)
	if near == nil || far == nil || f.of(time.Second, withFile) != nil || f.of(0, "another") != nil {
		t.Fatalf("the results are of other functions: %+v", f.Cells)
	}
	for _, c := range []struct {
		name      string
		got, want float64
	}{
		{"p50", near.P50, 7}, {"p99", near.P99, 9},
		{"added p50", near.Added50, 4}, {"added p99", near.Added99, 5}, {"added CPU", near.AddedCPU, 2},
		{"added p50, far", far.Added50, 4 + 3*50}, {"round trips, near", near.Trips, 0}, {"round trips", far.Trips, 3},
		{"handshakes", far.Full, 1}, {"resumed", far.Resumed, 0}, {"warm p50", far.Warm50, 0.2},
		{"thaw p50", near.Thaw50, 4}, {"round trips of a thaw", far.ThawTrips, 2}, {"its handshakes", far.ThawFull, 0}, {"resumed", far.ThawResumed, 1},
		{"added without brevet", f.of(0, bare).Added50, 0},
	} {
		if c.got != c.want {
			t.Errorf("%s is %v, want %v", c.name, c.got, c.want)
		}
	}
	if none := newColdResult(0, withFile, nil); none.Starts != 0 || none.P99 != 0 || none.Full != 0 {
		t.Errorf("of no start there is %+v", none)
	}
}

// echo starts a server that sends back what it gets.
func echo(t *testing.T) (addr string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			go io.Copy(c, c)
		}
	}()
	return listener.Addr().String()
}

func openLine(t *testing.T, target string, trip time.Duration) *line {
	t.Helper()
	l, err := newLine(target)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.close(); err != nil {
			t.Errorf("close = %v", err)
		}
	})
	l.roundTrip.Store(int64(trip))
	return l
}

// A round trip takes what it should, one more with a new connection; what is sent
// while something is under way does not wait for it.
func TestLine(t *testing.T) {
	const trip = 20 * time.Millisecond
	l := openLine(t, echo(t), trip)
	begin := time.Now()
	c, err := net.Dial("tcp", l.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	exchange := func(text string) time.Duration {
		began := time.Now()
		if _, err := io.WriteString(c, text); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(text))
		if _, err := io.ReadFull(c, got); err != nil || string(got) != text {
			t.Fatalf("read %q, %v", got, err)
		}
		return time.Since(began)
	}
	exchange("first")
	if took := time.Since(begin); took < 2*trip {
		t.Errorf("the first round trip took %s, with the connection; want %s", took, 2*trip)
	}
	best := time.Hour // this machine may be busy
	for range 10 {
		best = min(best, exchange("more"))
	}
	if best < trip || best > trip+trip/2 {
		t.Errorf("a round trip took %s at the least, want %s", best, trip)
	}
	many := strings.Repeat("x", 200<<10) // several chunks
	if took := exchange(many); took > 10*trip {
		t.Errorf("%d bytes took %s", len(many), took)
	}
}

func TestLineEnds(t *testing.T) {
	addr, err := freeAddr()
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("tcp", openLine(t, addr, 0).addr) // nothing listens there
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if n, err := c.Read(make([]byte, 1)); err == nil {
		t.Errorf("read %d bytes from nowhere", n)
	}
}

// certificate makes one for loopback, as writeCertificate does for brokers.
func certificate(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	dir := t.TempDir()
	roots, err := writeCertificate(dir)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, certFile), filepath.Join(dir, keyFile))
	if err != nil {
		t.Fatal(err)
	}
	return pair, roots
}

// The line counts whole handshakes and resumed ones as the server does.
func TestLineCountsHandshakes(t *testing.T) {
	pair, roots := certificate(t)
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{pair}})
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			go io.Copy(c, c)
		}
	}()
	l := openLine(t, listener.Addr().String(), 0)
	config := &tls.Config{RootCAs: roots, ClientSessionCache: tls.NewLRUClientSessionCache(1)}
	for i, want := range []handshakes{{1, 0}, {1, 1}, {1, 2}} {
		c, err := tls.Dial("tcp", l.addr, config)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(c, "x"); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil { // the ticket came before
			t.Fatal(err)
		}
		c.Close()
		if got := l.handshakes(); got != want || c.ConnectionState().DidResume != (i > 0) {
			t.Errorf("after %d connections: %+v, want %+v", i+1, got, want)
		}
	}
}

// FuzzResumes: a server may answer anything.
func FuzzResumes(f *testing.F) {
	hello, err := hex.DecodeString("16030300380200003403030000000000000000000000000000000000000000000000000000000000000000001301000" + "00c002b00020304002900020000")
	if err != nil {
		f.Fatal(err)
	}
	if resumed, err := resumes(hello); err != nil || !resumed {
		f.Fatalf("resumes = %t, %v of one that does", resumed, err)
	}
	f.Add(hello)
	f.Add([]byte("HTTP/1.1 400 Bad Request\r\n\r\n"))
	f.Add([]byte{21, 3, 3, 0, 2, 2, 40})
	f.Fuzz(func(t *testing.T, data []byte) {
		if resumed, err := resumes(data); err != nil && resumed {
			t.Errorf("it resumes, and %v", err)
		}
	})
}

func TestWriteBundle(t *testing.T) {
	dir := t.TempDir()
	if _, err := writeCertificate(dir); err != nil {
		t.Fatal(err)
	}
	own, bundle := filepath.Join(dir, certFile), filepath.Join(dir, "bundle.pem")
	if err := writeBundle(bundle, own); err != nil {
		t.Fatal(err)
	}
	cert, err := os.ReadFile(own)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(bundle); err != nil || !bytes.HasSuffix(got, cert) {
		t.Errorf("the bundle ends with something else, %v", err)
	}
	if err := writeBundle(bundle, filepath.Join(dir, "absent")); err == nil {
		t.Error("no certificate, and no error")
	}
}

// Each variant but the first finds the broker, and none more than it needs.
func TestVariants(t *testing.T) {
	all := variants("dir", "https://127.0.0.1:1", "127.0.0.1:2", "bundle")
	for i, v := range all {
		if slices.Contains(v.env, "BREVET_BROKER=https://127.0.0.1:1") != (i > 0) || (v.name == bare) != (i == 0) || (v.program == "bare") != (i == 0) {
			t.Errorf("variant %d is %+v", i, v)
		}
	}
}

// A function is started, serves, and ends; one that ends early says why.
func TestStart(t *testing.T) {
	c := &cold{sys: &system{dir: t.TempDir()}}
	if err := c.build(t.Context()); err != nil {
		t.Fatal(err)
	}
	if c.bytes[0] == 0 || c.bytes[1] <= c.bytes[0] {
		t.Errorf("the functions have %d bytes", c.bytes)
	}
	var out start
	f, err := c.start(t.Context(), variant{bare, "bare", nil}, &out)
	if err != nil {
		t.Fatal(err)
	}
	defer f.stop()
	if out.variant != bare || out.ready <= 0 || out.cpu <= 0 {
		t.Errorf("the start was %+v", out)
	}
	if took, cpu, err := f.request(t.Context(), "/"); took <= 0 || cpu < out.cpu || err != nil {
		t.Errorf("a request took %s, and %s of processor time by then, %v", took, cpu, err)
	}
	v := variant{withFile, "with", []string{"BREVET_BROKER=https://127.0.0.1:1", "BREVET_TOKEN_FILE=absent"}}
	if _, err := c.start(t.Context(), v, &out); err == nil || !strings.Contains(err.Error(), "BREVET_TOKEN_FILE") {
		t.Errorf("without a token: %v", err)
	}
}
