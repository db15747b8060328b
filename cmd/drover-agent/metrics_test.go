package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"drover/precopy"
	"drover/precopy/forecast"
)

func TestMetricsOfWhatWasForecastAndPromised(t *testing.T) {
	m := newMetrics(prometheus.NewRegistry(), nil)
	moved := func(seconds float64, pause int64, f *precopy.Forecast) precopy.Migration {
		return precopy.Migration{
			Phase: precopy.Done, Policy: precopy.DefaultPolicy(), Forecast: f,
			Outcome: &precopy.Outcome{Seconds: seconds, PauseMS: pause, PauseKnown: true},
		}
	}
	m.ended(moved(12, 60, &precopy.Forecast{Seconds: 10, Confidence: forecast.Agreed}))
	m.ended(moved(12, 300, nil))
	m.ended(moved(12, 2000, &precopy.Forecast{Confidence: forecast.None}))
	aborted := moved(12, 2000, &precopy.Forecast{Seconds: 10, Confidence: forecast.Agreed})
	aborted.Phase = precopy.Aborted
	m.ended(aborted)
	// The sum of each labelled metric: of a histogram that of what was observed.
	got := map[string]float64{}
	r := prometheus.NewRegistry()
	r.MustRegister(m.promises, m.forecasts)
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, one := range f.GetMetric() {
			got[one.GetLabel()[0].GetValue()] = one.GetCounter().GetValue() + one.GetHistogram().GetSampleSum()
		}
	}
	want := map[string]float64{"kept": 1, "ceiling": 1, "broken": 1, "unknown": 0, "agreed": 1.2}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
