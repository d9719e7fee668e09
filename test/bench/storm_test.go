package main

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/brevet-dev/brevet/plugins/exchange"
)

// newFunction returns a function that asks the server of l.
func newFunction(t *testing.T, l load) *function {
	t.Helper()
	key, err := exchange.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return &function{workload: fewClients, key: key, client: &http.Client{Transport: l.transport(new(atomic.Int64))}}
}

// A function that is told to wait comes again, with another proof; any other
// refusal is its error.
func TestFunctionComesAgain(t *testing.T) {
	var proofs []string
	l := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		proofs = append(proofs, r.Header.Get("DPoP"))
		if len(proofs) == 1 {
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	got := newFunction(t, l).exchange(t.Context(), l.url, time.Now())
	if got.err != nil || got.tries != 2 || got.workload != fewClients || got.latency < time.Second || got.latency > 10*time.Second || proofs[0] == proofs[1] {
		t.Errorf("it saw %+v, with %d proofs", got, len(proofs))
	}
	refusing := serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }))
	if got := newFunction(t, refusing).exchange(t.Context(), refusing.url, time.Now()); got.err == nil || got.tries != 1 || !strings.Contains(got.err.Error(), "503") {
		t.Errorf("without Retry-After it saw %+v, want an error", got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if got := newFunction(t, l).exchange(ctx, l.url, time.Now()); !errors.Is(got.err, context.Canceled) {
		t.Errorf("at the end of the run it saw %+v", got)
	}
}

func TestWorkloadOf(t *testing.T) {
	few := 0
	for i := range 100 {
		if workloadOf(i) == fewClients {
			few++
		}
	}
	if few != 100/fewOf {
		t.Errorf("%d of 100 are few", few)
	}
}
