package main

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/brevet-dev/brevet/broker/api"
)

// A load is a closed loop: each of its clients sends the next request when it
// has read the answer to the last. The clients speak HTTP/1.1 over TLS 1.3 and
// never resume a TLS session.
type load struct {
	url      string
	roots    *x509.CertPool // that certify the server
	clients  int
	fresh    bool // a new connection for each request
	duration time.Duration
}

// settle is how long answers may still take when a load's time is up.
const settle = 30 * time.Second

// A sample is what the clients saw.
type sample struct {
	latencies   []time.Duration // of the answers with status 200, unsorted
	elapsed     time.Duration
	connections int // that were opened
	errors      int
	firstError  error
}

func (s *sample) perSecond() float64 { return float64(len(s.latencies)) / s.elapsed.Seconds() }

// add appends a later run.
func (s *sample) add(later *sample) {
	s.latencies = append(s.latencies, later.latencies...)
	s.elapsed += later.elapsed
	s.connections += later.connections
	s.errors += later.errors
	if s.firstError == nil {
		s.firstError = later.firstError
	}
}

// run loads the server until the time is up, next returns nil, or ctx ends.
// next is called by all clients at once.
func (l load) run(ctx context.Context, next func() *request) *sample {
	ctx, cancel := context.WithTimeout(ctx, l.duration+settle)
	defer cancel()
	results := make([]sample, l.clients)
	start := time.Now()
	var wg sync.WaitGroup
	for i := range results {
		wg.Go(func() { l.client(ctx, start.Add(l.duration), next, &results[i]) })
	}
	wg.Wait()
	total := &sample{}
	for i := range results {
		total.add(&results[i])
	}
	total.elapsed = time.Since(start)
	return total
}

// client is one client's loop.
func (l load) client(ctx context.Context, until time.Time, next func() *request, out *sample) {
	var dialed atomic.Int64
	transport := l.transport(&dialed)
	client := &http.Client{Transport: transport}
	for time.Now().Before(until) && ctx.Err() == nil {
		r := next()
		if r == nil {
			break
		}
		start := time.Now()
		if _, err := send(ctx, client, l.url, r); err != nil {
			out.errors++
			if out.firstError == nil {
				out.firstError = err
			}
			continue
		}
		out.latencies = append(out.latencies, time.Since(start))
	}
	transport.CloseIdleConnections()
	out.connections = int(dialed.Load())
}

// transport returns a client's own connection pool, which counts what it opens.
// Without a session cache crypto/tls does a whole handshake each time.
func (l load) transport(dialed *atomic.Int64) *http.Transport {
	var dialer net.Dialer
	return &http.Transport{
		TLSClientConfig:    &tls.Config{RootCAs: l.roots, MinVersion: tls.VersionTLS13},
		DisableKeepAlives:  l.fresh,
		DisableCompression: true,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			dialed.Add(1)
			return dialer.DialContext(ctx, network, addr)
		},
	}
}

// An answer is what came back with status 200.
type answer struct {
	body []byte
	tls  *tls.ConnectionState
}

// send sends one exchange and reads its answer to the end. Any status but 200
// is an error with the body, which then is an OAuth error and holds no secret.
func send(ctx context.Context, client *http.Client, url string, r *request) (_ *answer, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(r.body))
	if err != nil {
		return nil, fmt.Errorf("making the request: %w", err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("DPoP", r.proof)
	req.Header.Set(api.HeaderRetryKey, rand.Text()) // as the runner plugin does
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, resp.Body.Close()) }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("reading the answer: %w", err)
	}
	if err := busy(resp, body); err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("status %d: %.500s", resp.StatusCode, body)
	}
	return &answer{body: body, tls: resp.TLS}, nil
}

// percentile returns the smallest latency that p percent do not exceed (nearest
// rank), and 0 of none. sorted is in ascending order, p above 0 and at most 100.
func percentile(sorted []time.Duration, p int) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	rank := (len(sorted)*p + 99) / 100 // rounded up
	return sorted[rank-1]
}

// sortedLatencies returns the latencies in ascending order.
func (s *sample) sortedLatencies() []time.Duration {
	return slices.Sorted(slices.Values(s.latencies))
}
