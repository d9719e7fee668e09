package function_test

import (
	"context"
	"strings"
	"testing"

	"github.com/brevet-dev/brevet/plugins/exchange"
	"github.com/brevet-dev/brevet/plugins/function"
	"github.com/brevet-dev/brevet/test/cloud"
)

func atVercel() place {
	return place{preset: "vercel", match: `{project_id: prj_3sTwPq3hvkfKNPUZGnVvzoJtEKWq, environment: production}`}
}

// TestInstancesAtVercel: one token comes with the requests of all instances, and
// each of them has another from it, which it binds to its key.
func TestInstancesAtVercel(t *testing.T) {
	p := atVercel()
	w := newWorld(t, p)
	ids := map[string]bool{}
	server := cloud.Vercel(t, func(audience, id string) (string, error) {
		ids[id] = true
		token, err := w.labs["vercel"].Mint(audience, map[string]any{"jti": id, "act": map[string]any{"aud": team}})
		w.tokens = append(w.tokens, token)
		return token, err
	})
	ctx := w.request(t, p)
	o := function.Options{}.On(env("VERCEL", "1"), nil, "", "").ExchangingAt(server.URL + "/~token")
	for range 3 {
		s, err := o.New(ctx, w.broker.URL, "database")
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close(context.Background())
		if _, err := s.Get(ctx, "database"); err != nil {
			t.Fatal(err)
		}
	}
	if len(ids) != 3 || ids[""] || server.Requests() != 3 {
		t.Errorf("Vercel was asked %d times for tokens with the ids %v, want three", server.Requests(), ids)
	}
	for _, token := range w.tokens {
		if strings.Contains(w.broker.Told(), token) {
			t.Error("the broker's logs have a token")
		}
	}
}

// TestVercelRefuses: what is no token goes nowhere, and what Vercel does not take is
// no reason to show the broker a token that is not for it.
func TestVercelRefuses(t *testing.T) {
	p := atVercel()
	w := newWorld(t, p)
	server := cloud.Vercel(t, func(audience, id string) (string, error) { return dummy(audience) })
	o := function.Options{}.On(env("VERCEL", "1", "VERCEL_OIDC_TOKEN", "<html>canary</html>"), nil, "", "").ExchangingAt(server.URL + "/~token")
	if err := tryNew(t, o); err == nil || server.Requests() != 0 || strings.Contains(err.Error(), "canary") {
		t.Errorf("New with a page for a token = %v, after %d requests", err, server.Requests())
	}
	server.Absent()
	o = function.Options{}.On(env("VERCEL", "1"), nil, "", "").ExchangingAt(server.URL + "/~token")
	_, err := o.New(w.request(t, p), w.broker.URL, "database")
	if !exchange.IsKind(err, exchange.Misconfigured) || !strings.Contains(err.Error(), "OIDC federation") {
		t.Errorf("New = %v", err)
	}
	if n := len(w.broker.Events("exchange", "denied")); n != 0 {
		t.Errorf("the broker was shown %d tokens", n)
	}
}
