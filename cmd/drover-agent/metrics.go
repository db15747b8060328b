package main

import (
	"github.com/prometheus/client_golang/prometheus"

	"drover/hypervisor/kvm"
	"drover/precopy"
)

// metrics are the agent's own; no label names a domain.
type metrics struct {
	migrations *prometheus.CounterVec
	seconds    prometheus.Histogram
	pause      prometheus.Histogram
	bytes      prometheus.Counter
}

func newMetrics(r prometheus.Registerer, host *kvm.Host) *metrics {
	m := &metrics{
		migrations: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "drover", Subsystem: "agent", Name: "migrations_total",
			Help: "Migrations that left this host and ended, by final phase and reason code.",
		}, []string{"phase", "reason"}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: "drover", Subsystem: "agent", Name: "migration_seconds",
			Help:    "Time of completed migrations.",
			Buckets: prometheus.ExponentialBuckets(0.25, 2, 14), // 0.25 s to 34 min
		}),
		pause: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: "drover", Subsystem: "agent", Name: "migration_pause_seconds",
			Help:    "Pause of the guest in completed migrations, as libvirt measured it.",
			Buckets: []float64{.01, .025, .05, .075, .1, .15, .2, .3, .5, .9, 1.5, 3, 10},
		}),
		bytes: prometheus.NewCounter(prometheus.CounterOpts{
			Namespace: "drover", Subsystem: "agent", Name: "migrated_bytes_total",
			Help: "Bytes sent by migrations that left this host.",
		}),
	}
	r.MustRegister(m.migrations, m.seconds, m.pause, m.bytes, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Namespace: "drover", Subsystem: "agent", Name: "libvirt_stragglers",
		Help: "Calls to libvirt that were given up on and have not returned.",
	}, func() float64 { return float64(host.Stragglers()) }))
	return m
}

func (m *metrics) ended(mg precopy.Migration) {
	m.migrations.WithLabelValues(string(mg.Phase), mg.ReasonCode).Inc()
	if mg.Outcome == nil {
		return
	}
	m.bytes.Add(float64(mg.Outcome.Bytes))
	if mg.Phase == precopy.Done {
		m.seconds.Observe(mg.Outcome.Seconds)
		if mg.Outcome.PauseKnown {
			m.pause.Observe(float64(mg.Outcome.PauseMS) / 1000)
		}
	}
}
