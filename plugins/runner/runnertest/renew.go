package runnertest

import (
	"fmt"
	"maps"
	"net/http"
	"time"

	"github.com/brevet-dev/brevet/broker/api"
)

// Terms say how long the leases of a credential live.
type Terms struct {
	TTL   time.Duration // from an exchange or a renewal
	Times int           // how often one can be renewed; less than 0: without end
	Keeps bool          // a renewal does not tell the values again: they stay
}

// terms of a credential, and what was made of them.
type terms struct {
	Terms
	given   int            // values so far
	renewed map[string]int // session token → how often
}

// SetTerms makes leases of a credential renewable. Each exchange and renewal
// after the first gives the values with "-2", "-3" … at their end.
func (b *Broker) SetTerms(credential string, t Terms) {
	b.set(func() { b.terms[credential] = &terms{Terms: t, renewed: map[string]int{}} })
}

// OnRenewal makes f decide on the n-th renewal, from 1; an error refuses it, and
// one of invalid_target ends the session as well.
func (b *Broker) OnRenewal(f func(n int) *api.Error) { b.set(func() { b.onRenewal = f }) }

// Renewals counts the renewals that were asked for.
func (b *Broker) Renewals() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.renewals
}

// apply gives l its time and value, if its credential has terms.
func (b *Broker) apply(l *api.Lease, token string) {
	t, ok := b.terms[l.Credential]
	if !ok {
		return
	}
	left := t.Times - t.renewed[token]
	l.ExpiresAt, l.Renewable = time.Now().Add(t.TTL).UTC(), left != 0
	if t.given++; t.given > 1 && !t.Keeps {
		l.Values = maps.Clone(l.Values)
		for name, v := range l.Values {
			l.Values[name] = api.NewSecret(fmt.Sprint(v.Reveal(), "-", t.given))
		}
	}
}

// renew is the endpoint of renewals.
func (b *Broker) renew(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.renewals++
	body, status, refused := b.doRenew(r)
	if refused != nil {
		refuse(w, status, refused)
		return
	}
	w.Write(body) // see token
}

func (b *Broker) doRenew(r *http.Request) ([]byte, int, *api.Error) {
	l, status, refused := b.owned(r)
	if refused != nil {
		return nil, status, refused
	}
	t, ok := b.terms[l.Credential]
	if b.onRenewal != nil {
		refused = b.onRenewal(b.renewals)
	}
	token := bearer(r)
	if refused != nil && refused.Code == api.CodeInvalidTarget {
		b.end(token)
	}
	if refused == nil && (!ok || t.renewed[token] == t.Times) {
		refused = &api.Error{Code: api.CodeInvalidRequest, Description: "it cannot be renewed"}
	}
	if refused != nil {
		return nil, http.StatusBadRequest, refused
	}
	t.renewed[token]++
	b.apply(&l, token)
	if t.Keeps {
		l.Values, l.Env, l.Sensitive = nil, nil, nil
	}
	recipient, err := api.ParseSealKey(r.PostFormValue("seal_key"))
	if err != nil {
		return encoded(nil, err)
	}
	return encoded(l.EncodeSealed(recipient, b.sealContext(r)))
}

// leaseState is the endpoint that tells of one lease.
func (b *Broker) leaseState(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	defer b.mu.Unlock()
	l, status, refused := b.owned(r)
	if refused != nil {
		refuse(w, status, refused)
		return
	}
	fmt.Fprintf(w, `{"lease_id": %q, "state": "active"}`, l.LeaseID)
}

// owned returns the lease that r is about, if its session has it.
func (b *Broker) owned(r *http.Request) (api.Lease, int, *api.Error) {
	if _, status, refused := b.authenticate(r); refused != nil {
		return api.Lease{}, status, refused
	}
	for _, l := range b.leases {
		if l.LeaseID == r.PathValue("id") {
			return l, 0, nil
		}
	}
	return api.Lease{}, http.StatusNotFound, &api.Error{Code: api.CodeNotFound, Description: "this session has no such lease"}
}
