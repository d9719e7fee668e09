package runnertest

import (
	"encoding/json"
	"io"
	"net/http"
	"slices"

	"github.com/brevet-dev/brevet/broker/api"
)

// Leaks returns what jobs reported to be in their output.
func (b *Broker) Leaks() []api.Leak {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.leaks)
}

// FailLeaks makes the next n reports of leaks end in 503.
func (b *Broker) FailLeaks(n int) { b.set(func() { b.noLeaks = n }) }

// leak is the endpoint of such reports.
func (b *Broker) leak(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, api.MaxBody))
	b.mu.Lock()
	defer b.mu.Unlock()
	report, problem := api.DecodeLeakReport(body)
	if err != nil || problem != nil || r.URL.RawQuery != "" || r.Header.Get("Content-Type") != "application/json" {
		refuse(w, http.StatusBadRequest, &api.Error{Code: api.CodeInvalidRequest, Description: "not a report of leaks"})
		return
	}
	if _, status, refused := b.authenticate(r); refused != nil {
		refuse(w, status, refused)
		return
	}
	if b.noLeaks > 0 {
		b.noLeaks--
		refuse(w, http.StatusServiceUnavailable, &api.Error{Code: api.CodeTemporarily})
		return
	}
	var answer api.LeakAnswer
	for _, leak := range report.Leaks {
		b.leaks = append(b.leaks, leak)
		for _, l := range b.leases {
			answer.Revoked = answer.Revoked || l.LeaseID == leak.LeaseID && l.OnLeak == api.OnLeakRevoke
		}
	}
	if answer.Revoked {
		b.end(bearer(r))
	}
	json.NewEncoder(w).Encode(answer) // see token
}
