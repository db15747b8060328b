package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"drover/precopy"
	"drover/precopy/forecast"
)

func TestAccuracies(t *testing.T) {
	moved := func(basis forecast.Confidence, expected, took float64, pause int64) precopy.Migration {
		return precopy.Migration{
			Phase: precopy.Done, Policy: precopy.DefaultPolicy(),
			Forecast: &precopy.Forecast{Seconds: expected, SecondsLow: 0.8 * expected, SecondsHigh: 1.25 * expected, Bytes: 80, PauseMS: 100, Confidence: basis},
			Outcome:  &precopy.Outcome{Seconds: took, Bytes: 100, PauseMS: pause, PauseKnown: true},
		}
	}
	list := []precopy.Migration{
		moved(forecast.Sample, 10, 20, 200),
		moved(forecast.Agreed, 10, 10, 90),
		moved(forecast.Agreed, 9, 10, 100),
		moved(forecast.Agreed, 11, 10, 1000),
	}
	unknown := moved(forecast.Agreed, 20, 10, 0)
	unknown.Outcome.PauseKnown = false
	aborted := moved(forecast.Agreed, 10, 50, 0)
	aborted.Phase = precopy.Aborted
	unforeseen := moved(forecast.Agreed, 10, 50, 0)
	unforeseen.Forecast = nil
	got := accuracies(append(list, unknown, aborted, unforeseen))
	kept, ceiling, broken, lost := precopy.PromiseKept, precopy.PromiseCeiling, precopy.PromiseBroken, precopy.PromiseUnknown
	want := []accuracy{
		{
			Basis: "agreed", Migrations: 4, Seconds: errorOf{0.1, 1}, Bytes: errorOf{0.2, 0.2}, PauseMS: errorOf{10, 900}, InRange: 0.75,
			Promises: map[precopy.Promise]int{kept: 2, broken: 1, lost: 1},
		},
		{
			Basis: "sample", Migrations: 1, Seconds: errorOf{0.5, 0.5}, Bytes: errorOf{0.2, 0.2}, PauseMS: errorOf{100, 100},
			Promises: map[precopy.Promise]int{ceiling: 1},
		},
		{
			Basis: "all", Migrations: 5, Seconds: errorOf{0.1, 1}, Bytes: errorOf{0.2, 0.2}, PauseMS: errorOf{10, 900}, InRange: 0.6,
			Promises: map[precopy.Promise]int{kept: 2, ceiling: 1, broken: 1, lost: 1},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got := accuracies(nil); len(got) != 0 {
		t.Errorf("of nothing: %+v", got)
	}
}
