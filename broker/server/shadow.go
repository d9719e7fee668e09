package server

import (
	"maps"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// maxShadow bounds how many policies in mode shadow are counted by name; the
// grants of further ones are counted together, as of otherShadow.
const (
	maxShadow   = 1000
	otherShadow = "other policies"
)

// shadowCounts counts, by policy, the credentials that policies in mode shadow
// would have granted since the start.
type shadowCounts struct {
	desc   *prometheus.Desc
	mu     sync.Mutex
	counts map[string]uint64
}

func newShadowCounts() *shadowCounts {
	return &shadowCounts{
		desc:   prometheus.NewDesc("brevet_shadow_grants_total", "Credentials that a policy in mode shadow would have granted, by policy.", []string{"policy"}, nil),
		counts: map[string]uint64{},
	}
}

func (s *shadowCounts) add(policies []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, name := range policies {
		if _, known := s.counts[name]; !known && len(s.counts) >= maxShadow {
			name = otherShadow
		}
		s.counts[name]++
	}
}

// Shadow returns how many credentials each policy in mode shadow would have
// granted since the start.
func (m *Metrics) Shadow() map[string]uint64 {
	m.shadow.mu.Lock()
	defer m.shadow.mu.Unlock()
	return maps.Clone(m.shadow.counts)
}

// Describe implements [prometheus.Collector].
func (s *shadowCounts) Describe(out chan<- *prometheus.Desc) { out <- s.desc }

// Collect implements [prometheus.Collector].
func (s *shadowCounts) Collect(out chan<- prometheus.Metric) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, n := range s.counts {
		out <- prometheus.MustNewConstMetric(s.desc, prometheus.CounterValue, float64(n), name)
	}
}
