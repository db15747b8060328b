package scheduler

import (
	"github.com/prometheus/client_golang/prometheus"

	"drover/scheduler/auto"
	"drover/scheduler/fleet"
)

// autoMetrics are those of automatic moves.
type autoMetrics struct {
	hot     prometheus.Gauge
	paused  prometheus.Gauge
	waiting prometheus.Gauge
	plans   *prometheus.CounterVec
	moves   *prometheus.CounterVec
}

func newAutoMetrics(r prometheus.Registerer) autoMetrics {
	m := autoMetrics{
		hot: prometheus.NewGauge(prometheus.GaugeOpts{
			Namespace: "drover", Subsystem: "scheduler", Name: "hot_hosts",
			Help: "Hosts that have been above the policy's mark for its hold time.",
		}),
		paused: prometheus.NewGauge(prometheus.GaugeOpts{
			Namespace: "drover", Subsystem: "scheduler", Name: "paused",
			Help: "1 while automatic moves are paused.",
		}),
		waiting: prometheus.NewGauge(prometheus.GaugeOpts{
			Namespace: "drover", Subsystem: "scheduler", Name: "plans_waiting",
			Help: "Automatic plans that have not begun: they recommend, or wait for approval or a window.",
		}),
		plans: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "drover", Subsystem: "scheduler", Name: "plans_total",
			Help: "Plans by what became of them: made, approved, done, expired, withdrawn, outdated.",
		}, []string{"event"}),
		moves: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "drover", Subsystem: "scheduler", Name: "automatic_moves_total",
			Help: "Moves of automatic runs by what became of them: moved; stays, as it was refused, has failed or has lost its sense; left, as others did it.",
		}, []string{"state"}),
	}
	for _, e := range []string{"made", "approved", string(fleet.PlanDone), string(fleet.PlanExpired), string(fleet.PlanWithdrawn), string(fleet.PlanOutdated)} {
		m.plans.WithLabelValues(e)
	}
	for _, s := range []fleet.MoveState{fleet.MoveMoved, fleet.MoveStays, fleet.MoveLeft} {
		m.moves.WithLabelValues(string(s))
	}
	r.MustRegister(m.hot, m.paused, m.waiting, m.plans, m.moves)
	return m
}

// looked notes what the leader sees of the fleet, once in a slot.
func (m *Metrics) looked(s *fleet.Snapshot, memory *auto.Memory) {
	if m == nil {
		return
	}
	m.auto.hot.Set(float64(len(memory.HotHosts())))
	waiting := 0
	for _, p := range s.Plans {
		if p.Run == "" && p.Ended == nil {
			waiting++
		}
	}
	m.auto.waiting.Set(float64(waiting))
}

// over forgets what a leader saw when its term ends.
func (m *Metrics) over() {
	if m != nil {
		m.auto.hot.Set(0)
		m.auto.waiting.Set(0)
	}
}

// planned notes what has become of a plan.
func (m *Metrics) planned(old, p fleet.Plan) {
	if m == nil {
		return
	}
	if old.ID == "" {
		m.auto.plans.WithLabelValues("made").Inc()
	}
	if old.Approved == nil && p.Approved != nil || p.Run != "" && old.Run == "" && p.Approved.By != auto.Scheduler {
		m.auto.plans.WithLabelValues("approved").Inc()
	}
	if p.Ended != nil {
		m.auto.plans.WithLabelValues(string(p.Ending)).Inc()
	}
}

// moved notes the moves of an automatic run that have ended.
func (m *Metrics) moved(old, r fleet.Run) {
	if m == nil {
		return
	}
	for i, move := range r.Moves {
		if move.State.Final() && (i >= len(old.Moves) || !old.Moves[i].State.Final()) {
			m.auto.moves.WithLabelValues(string(move.State)).Inc()
		}
	}
}
