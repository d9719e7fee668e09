package main

import (
	"crypto/x509"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/brevet-dev/brevet/broker/api"
)

// serve serves h over TLS and returns a load for it that ends with its
// requests.
func serve(t *testing.T, h http.Handler) load {
	t.Helper()
	server := httptest.NewTLSServer(h)
	t.Cleanup(server.Close)
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	return load{url: server.URL + api.PathToken, roots: roots, duration: time.Minute}
}

func TestLoad(t *testing.T) {
	for _, c := range []struct {
		name        string
		fresh       bool
		connections int
	}{
		{"keep-alive opens a connection for each client", false, 4},
		{"new opens one for each exchange", true, 40},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := serve(t, floorHandler(100))
			l.clients, l.fresh = 4, c.fresh
			var calls atomic.Int64
			var arrived sync.WaitGroup // until every client has asked, none gets a request
			arrived.Add(l.clients)
			next := once(make([]request, 40))
			got := l.run(t.Context(), func() *request {
				if calls.Add(1) <= int64(l.clients) {
					arrived.Done()
					arrived.Wait()
				}
				return next()
			})
			if got.firstError != nil || len(got.latencies) != 40 {
				t.Fatalf("run: %d answers, %v; want 40", len(got.latencies), got.firstError)
			}
			if got.connections != c.connections {
				t.Errorf("run opened %d connections, want %d", got.connections, c.connections)
			}
		})
	}
}

func TestLoadCountsErrors(t *testing.T) {
	l := serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, `{"error":"invalid_request"}`, http.StatusBadRequest)
	}))
	l.clients = 2
	got := l.run(t.Context(), once(make([]request, 10)))
	if got.errors != 10 || len(got.latencies) != 0 {
		t.Errorf("run: %d errors and %d answers, want 10 and 0", got.errors, len(got.latencies))
	}
	if got.firstError == nil || !strings.Contains(got.firstError.Error(), "status 400") || !strings.Contains(got.firstError.Error(), "invalid_request") {
		t.Errorf("first error = %v, want status and body", got.firstError)
	}
}

func TestLoadEnds(t *testing.T) {
	l := serve(t, floorHandler(1))
	l.clients, l.duration = 2, 50*time.Millisecond
	got := l.run(t.Context(), cycle(make([]request, 1)))
	if got.firstError != nil || len(got.latencies) == 0 || got.elapsed < l.duration {
		t.Errorf("run: %d answers in %s, %v; want some in %s or a little more", len(got.latencies), got.elapsed, got.firstError, l.duration)
	}
}

func TestFloorAnswersInSize(t *testing.T) {
	for _, c := range []struct {
		method, body string
		status, size int
	}{
		{http.MethodPost, "a=b", http.StatusOK, 1234},
		{http.MethodPost, strings.Repeat("a", api.MaxBody+1), http.StatusBadRequest, 0},
		{http.MethodGet, "", http.StatusMethodNotAllowed, 0},
	} {
		w := httptest.NewRecorder()
		floorHandler(1234).ServeHTTP(w, httptest.NewRequest(c.method, api.PathToken, strings.NewReader(c.body)))
		if w.Code != c.status || w.Code == http.StatusOK && w.Body.Len() != c.size {
			t.Errorf("%s with %d bytes: status %d, %d bytes; want %d, %d", c.method, len(c.body), w.Code, w.Body.Len(), c.status, c.size)
		}
	}
}

func TestOnceAndCycle(t *testing.T) {
	requests := make([]request, 3)
	next, again := once(requests), cycle(requests)
	for i := range 7 {
		got, want := next(), (*request)(nil)
		if i < 3 {
			want = &requests[i]
		}
		if got != want {
			t.Errorf("once, call %d: %p, want %p", i, got, want)
		}
		if got := again(); got != &requests[i%3] {
			t.Errorf("cycle, call %d: %p, want %p", i, got, &requests[i%3])
		}
	}
}
