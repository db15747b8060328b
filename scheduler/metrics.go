package scheduler

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"drover/precopy"
	"drover/scheduler/fleet"
)

// Metrics are the leader's own; their labels are closed sets, never hosts or domains.
type Metrics struct {
	pass      prometheus.Histogram
	decisions *prometheus.CounterVec
	hosts     *prometheus.GaugeVec
	phases    *prometheus.GaugeVec
	auto      autoMetrics
	allotted  prometheus.Gauge
	achieved  prometheus.Gauge
	writes    prometheus.Counter
	disobeyed prometheus.Counter
}

// NewMetrics registers the leader's metrics.
func NewMetrics(r prometheus.Registerer) *Metrics {
	m := &Metrics{
		pass: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: "drover", Subsystem: "scheduler", Name: "decide_seconds",
			Help:    "Time of one pure decision pass over the fleet.",
			Buckets: prometheus.ExponentialBuckets(1e-5, 4, 9), // 10 us to 0.65 s
		}),
		decisions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "drover", Subsystem: "scheduler", Name: "decisions_total",
			Help: "Decisions about migrations, by the phase they led to and the reason code.",
		}, []string{"phase", "reason"}),
		hosts: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Namespace: "drover", Subsystem: "scheduler", Name: "hosts",
			Help: "Hosts known, by whether an agent reports from them.",
		}, []string{"state"}),
		phases: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Namespace: "drover", Subsystem: "scheduler", Name: "migrations",
			Help: "Unfinished migrations, by phase.",
		}, []string{"phase"}),
	}
	m.auto = newAutoMetrics(r)
	m.allotted = prometheus.NewGauge(prometheus.GaugeOpts{
		Namespace: "drover", Subsystem: "scheduler", Name: "shares_bytes_per_second",
		Help: "Bandwidth that is given to the migrations under way, by their shares.",
	})
	m.achieved = prometheus.NewGauge(prometheus.GaugeOpts{
		Namespace: "drover", Subsystem: "scheduler", Name: "achieved_bytes_per_second",
		Help: "Bandwidth that the migrations under way use, as their agents say.",
	})
	m.writes = prometheus.NewCounter(prometheus.CounterOpts{
		Namespace: "drover", Subsystem: "scheduler", Name: "share_writes_total",
		Help: "Changes of shares that were written.",
	})
	m.disobeyed = prometheus.NewCounter(prometheus.CounterOpts{
		Namespace: "drover", Subsystem: "scheduler", Name: "shares_not_obeyed_total",
		Help: "Streams that were found to send more than their share for several seconds.",
	})
	r.MustRegister(m.pass, m.decisions, m.hosts, m.phases, m.allotted, m.achieved, m.writes, m.disobeyed)
	return m
}

// shared counts shares that were written.
func (m *Metrics) shared(n int) {
	if m != nil {
		m.writes.Add(float64(n))
	}
}

// deaf counts a stream that does not keep to its share.
func (m *Metrics) deaf() {
	if m != nil {
		m.disobeyed.Inc()
	}
}

// streams tells what is given to migrations and what they use.
func (m *Metrics) streams(s *fleet.Snapshot) {
	if m == nil {
		return
	}
	var allotted, achieved float64
	for id, share := range s.Shares {
		allotted += float64(share.Bandwidth)
		achieved += float64(s.Progress[id].Achieved)
	}
	m.allotted.Set(allotted)
	m.achieved.Set(achieved)
}

func (m *Metrics) passed(took time.Duration, s *fleet.Snapshot) {
	if m == nil {
		return
	}
	m.pass.Observe(took.Seconds())
	var alive int
	for _, h := range s.Hosts {
		if h.Alive() {
			alive++
		}
	}
	m.hosts.WithLabelValues("alive").Set(float64(alive))
	m.hosts.WithLabelValues("away").Set(float64(len(s.Hosts) - alive))
	paused := 0.0
	if s.Pause != nil {
		paused = 1
	}
	m.auto.paused.Set(paused)
	count := map[precopy.Phase]int{}
	for _, mg := range s.Migrations {
		count[mg.Phase]++
	}
	for _, p := range precopy.Phases() {
		if !p.Final() {
			m.phases.WithLabelValues(string(p)).Set(float64(count[p]))
		}
	}
}

func (m *Metrics) decided(p precopy.Phase, code string) {
	if m == nil {
		return
	}
	m.decisions.WithLabelValues(string(p), code).Inc()
}
