package extension_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/brevet-dev/brevet/broker"
	"github.com/brevet-dev/brevet/plugins/exchange"
	"github.com/brevet-dev/brevet/plugins/function/extension"
)

// live is how many leases of the broker live.
func (w *world) live() (n int) {
	w.Helper()
	err := w.broker.Lease.All(w.Context(), func(l *broker.Lease) error {
		if l.State == broker.Active {
			n++
		}
		return nil
	})
	if err != nil {
		w.Fatal(err)
	}
	return n
}

// TestBrokenEvents: an answer of the Extensions API that is no event ends the
// extension, which gives everything back, instead of being asked for again at once.
func TestBrokenEvents(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for name, body := range map[string]string{
		"nothing": "", "no JSON": "INVOKE", "null": "null", "an object": "{}", "another event": `{"eventType":"RESTORE"}`,
		"a list": `[{"eventType":"INVOKE"}]`, "large": `{"eventType":"INVOKE","x":"` + strings.Repeat("x", 2<<20) + `"}`,
	} {
		s := newStub(t)
		wait := run(w, s.options(w, "on-demand"))
		s.asked(t, 1)
		if n := w.live(); n != 1 {
			t.Errorf("%s: %d leases live before it, want 1", name, n)
		}
		s.events <- body
		if err := wait(); !exchange.IsKind(err, exchange.Protocol) || len(err.Error()) > 300 {
			t.Errorf("%s: Run = %v", name, err)
		}
		if n := w.live(); n != 0 {
			t.Errorf("%s: %d leases live after it", name, n)
		}
	}
}

// TestLambdaElsewhere: what answers in Lambda's place cannot send the extension to
// another.
func TestLambdaElsewhere(t *testing.T) {
	t.Parallel()
	w, s := newWorld(t), newStub(t)
	away := httptest.NewServer(http.RedirectHandler(s.URL+"/2020-01-01/extension/register", http.StatusTemporaryRedirect))
	t.Cleanup(away.Close)
	o := s.options(w, "on-demand")
	o.Runtime = away.Listener.Addr().String()
	if err := o.Run(t.Context()); !exchange.IsKind(err, exchange.Protocol) || !strings.Contains(err.Error(), "Lambda answered 307") || s.registered != nil {
		t.Errorf("Run = %v", err)
	}
}

// TestEventStorm: many invocations at once cost the broker nothing.
func TestEventStorm(t *testing.T) {
	t.Parallel()
	w, s := newWorld(t), newStub(t)
	wait := run(w, s.options(w, "on-demand"))
	for i := range 500 {
		s.events <- fmt.Sprintf(`{"eventType":"INVOKE","deadlineMs":%d}`, i-250)
	}
	s.events <- `{"eventType":"SHUTDOWN","deadlineMs":-9223372036854775808}`
	if err := wait(); err != nil {
		t.Error(err)
	}
	if n := len(w.broker.Events("exchange", "granted")); n != 1 || w.live() != 0 {
		t.Errorf("%d exchanges, want 1; %d leases live", n, w.live())
	}
}

// TestLargeXML: a document that costs more to read than it is worth is none.
func TestLargeXML(t *testing.T) {
	for name, doc := range map[string]string{
		"text and elements": "<a>" + strings.Repeat("xxxx<b/>", 120_000) + "</a>",
		"elements":          "<a>" + strings.Repeat("<b></b>", 140_000) + "</a>",
		"a long text":       "<a>" + strings.Repeat("x", 1<<20) + "</a>",
		"a long name":       "<" + strings.Repeat("a", 1<<20) + ">",
		"an open one":       strings.Repeat("<a>", 300_000),
	} {
		began := time.Now()
		if got, err := extension.TextAt(doc, "a"); got != "" || err == nil {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
		if took := time.Since(began); took > time.Second {
			t.Errorf("%s: it took %v", name, took)
		}
	}
	const doc = "<GetWebIdentityTokenResponse><GetWebIdentityTokenResult><WebIdentityToken>a.b<x/>.c</WebIdentityToken></GetWebIdentityTokenResult></GetWebIdentityTokenResponse>"
	if got, err := extension.TextAt(doc, "GetWebIdentityTokenResponse", "GetWebIdentityTokenResult", "WebIdentityToken"); got != "" {
		t.Errorf("a token with an element in it: %q, %v", got, err)
	}
}
