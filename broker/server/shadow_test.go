package server

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/brevet-dev/brevet/broker"
)

// What policies in mode shadow would have granted is counted by policy,
// whether or not another policy granted it.
func TestShadowIsCounted(t *testing.T) {
	m := NewMetrics()
	m.exchange(&broker.Event{Outcome: broker.Granted, Shadow: []string{"a", "b"}})
	m.exchange(&broker.Event{Outcome: broker.Refused, Shadow: []string{"a"}})
	if got := m.Shadow(); len(got) != 2 || got["a"] != 2 || got["b"] != 1 {
		t.Errorf("Shadow() = %v, want a: 2, b: 1", got)
	}
	for _, want := range []string{`brevet_shadow_grants_total{policy="a"} 2`, `brevet_shadow_grants_total{policy="b"} 1`} {
		if text := scrape(t, m); !strings.Contains(text, want+"\n") {
			t.Errorf("/metrics has no line %s", want)
		}
	}
}

// However many policies there are, the series are bounded.
func TestShadowIsBounded(t *testing.T) {
	m := NewMetrics()
	for i := range 3 * maxShadow {
		m.exchange(&broker.Event{Shadow: []string{fmt.Sprint("p", i), "p0"}})
	}
	got := m.Shadow()
	if len(got) != maxShadow+1 || got[otherShadow] != 2*maxShadow || got["p0"] != 3*maxShadow+1 {
		t.Errorf("%d series, %d of others, %d of p0", len(got), got[otherShadow], got["p0"])
	}
}

func TestInfo(t *testing.T) {
	m, digest := NewMetrics(), "one"
	m.Info("brevet_test_info", "Of this test.", []string{"digest"}, func() []string { return []string{digest} })
	for _, digest = range []string{"one", "two"} {
		text := scrape(t, m)
		if strings.Count(text, "\nbrevet_test_info{") != 1 || !strings.Contains(text, fmt.Sprintf("brevet_test_info{digest=%q} 1\n", digest)) {
			t.Errorf("not the one series of %q in /metrics", digest)
		}
	}
}

func TestPoliciesForOperators(t *testing.T) {
	s := &Server{Metrics: NewMetrics(), Policies: func() any { return map[string]string{"digest": "sha256:x"} }}
	if got := get(t, s.Admin(), PathPolicies); got != "{\"digest\":\"sha256:x\"}\n" {
		t.Errorf("GET %s = %q", PathPolicies, got)
	}
}

func scrape(t *testing.T, m *Metrics) string { return get(t, m.handler(), "/metrics") }

func get(t *testing.T, h http.Handler, path string) string {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
	body, err := io.ReadAll(w.Result().Body)
	if err != nil || w.Code != http.StatusOK {
		t.Fatalf("GET %s = %d, %v", path, w.Code, err)
	}
	return string(body)
}
