package server

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/brevet-dev/brevet/broker"
)

// Metrics are the broker's, in Prometheus form. Label values come from fixed
// sets and from the configuration, never from a token.
type Metrics struct {
	registry   *prometheus.Registry
	requests   *prometheus.HistogramVec
	exchanges  *prometheus.CounterVec
	issued     *prometheus.CounterVec
	heartbeats *prometheus.CounterVec
	shadow     *shadowCounts
	leaks      *prometheus.CounterVec
}

// NewMetrics returns empty metrics with the Go runtime's beside them.
func NewMetrics() *Metrics {
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "brevet_http_request_duration_seconds", Help: "Time to answer, by route and status.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 14), // 0.5 ms to 4 s
		}, []string{"route", "status"}),
		exchanges: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "brevet_exchanges_total", Help: "Exchanges, by outcome and OAuth error code.",
		}, []string{"outcome", "code"}),
		issued: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "brevet_leases_issued_total", Help: "Leases issued, by credential and policy.",
		}, []string{"credential", "policy"}),
		heartbeats: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "brevet_heartbeats_total", Help: "Heartbeats, by outcome.",
		}, []string{"outcome"}),
		shadow: newShadowCounts(),
		leaks: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "brevet_leaks_total", Help: "Values that jobs printed, as they say, by credential and the first word of the encoding.",
		}, []string{"credential", "encoding"}),
	}
	m.registry.MustRegister(m.requests, m.exchanges, m.issued, m.heartbeats, m.leaks, m.shadow,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// Gauge adds a gauge that is read when the metrics are.
func (m *Metrics) Gauge(name, help string, labels map[string]string, value func() float64) {
	m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help, ConstLabels: labels}, value))
}

// CounterFunc adds a counter that is read when the metrics are.
func (m *Metrics) CounterFunc(name, help string, value func() float64) {
	m.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help}, value))
}

// Info adds a gauge that is always 1 and tells something by the values of its
// labels, which are read when the metrics are.
func (m *Metrics) Info(name, help string, labels []string, values func() []string) {
	m.registry.MustRegister(&info{prometheus.NewDesc(name, help, labels, nil), values})
}

type info struct {
	desc   *prometheus.Desc
	values func() []string
}

// Describe implements [prometheus.Collector].
func (i *info) Describe(out chan<- *prometheus.Desc) { out <- i.desc }

// Collect implements [prometheus.Collector].
func (i *info) Collect(out chan<- prometheus.Metric) {
	out <- prometheus.MustNewConstMetric(i.desc, prometheus.GaugeValue, 1, i.values()...)
}

// Counter adds a counter.
func (m *Metrics) Counter(name, help string) prometheus.Counter {
	c := prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	m.registry.MustRegister(c)
	return c
}

func (m *Metrics) handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}

func (m *Metrics) observe(route string, status int, took time.Duration) {
	if route == "" {
		route = "none"
	}
	m.requests.WithLabelValues(route, strconv.Itoa(status)).Observe(took.Seconds())
}

func (m *Metrics) heartbeat(err error) {
	outcome := broker.Granted
	if err != nil {
		outcome = broker.Refuse(err).Outcome()
	}
	m.heartbeats.WithLabelValues(string(outcome)).Inc()
}

// leak counts what was found. Of an encoding the first word is told, which is one
// of a dozen: see [api.DecodeLeakReport].
func (m *Metrics) leak(ev *broker.Event) {
	for _, f := range ev.Found {
		encoding, _, _ := strings.Cut(strings.TrimPrefix(f.Encoding, "an "), " ")
		m.leaks.WithLabelValues(ev.Leases[0].Credential, encoding).Add(float64(f.Count))
	}
}

func (m *Metrics) exchange(ev *broker.Event) {
	m.exchanges.WithLabelValues(string(ev.Outcome), ev.Code).Inc()
	m.shadow.add(ev.Shadow)
	if ev.Outcome != broker.Granted {
		return
	}
	for _, l := range ev.Leases {
		m.issued.WithLabelValues(l.Credential, l.Policy).Inc()
	}
}
