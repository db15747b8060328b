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
	forecasts  *prometheus.HistogramVec
	promises   *prometheus.CounterVec
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
		forecasts: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: "drover", Subsystem: "agent", Name: "forecast_ratio",
			Help:    "Time of completed migrations over the time that was forecast, by what the forecast rested on.",
			Buckets: []float64{.25, .5, .67, .8, .9, 1, 1.11, 1.25, 1.5, 2, 4},
		}, []string{"basis"}),
		promises: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "drover", Subsystem: "agent", Name: "promises_total",
			Help: "Completed migrations, by what became of what was promised of pause, slowdown and time.",
		}, []string{"result"}),
	}
	for _, p := range precopy.Promises() {
		m.promises.WithLabelValues(string(p)) // there from the start, so that the first one is an increase
	}
	r.MustRegister(m.migrations, m.seconds, m.pause, m.bytes, m.forecasts, m.promises, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
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
	if p, ok := mg.Promise(); ok {
		m.promises.WithLabelValues(string(p)).Inc()
	}
	if mg.Phase == precopy.Done {
		if f := mg.Forecast; f != nil && f.Seconds > 0 {
			m.forecasts.WithLabelValues(string(f.Confidence)).Observe(mg.Outcome.Seconds / f.Seconds)
		}
		m.seconds.Observe(mg.Outcome.Seconds)
		if mg.Outcome.PauseKnown {
			m.pause.Observe(float64(mg.Outcome.PauseMS) / 1000)
		}
	}
}
