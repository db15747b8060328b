package main

import (
	"context"
	"fmt"
	"math"
	"slices"

	"drover/cmd/internal/out"
	"drover/precopy"
	"drover/precopy/forecast"
)

// accuracyLimit is how many finished migrations --accuracy looks at if --limit does not say.
const accuracyLimit = 1000

// accuracy is how well completed migrations were forecast, and what became of what was promised.
type accuracy struct {
	// Basis is the confidence of the forecasts, "all" for all of them.
	Basis      string `json:"basis"`
	Migrations int    `json:"migrations"`
	// Seconds and Bytes are shares of what it took, PauseMS milliseconds; of the error either way.
	Seconds errorOf `json:"seconds"`
	Bytes   errorOf `json:"bytes"`
	PauseMS errorOf `json:"pause_ms"`
	// InRange is the share whose duration was in the range that was given.
	InRange float64 `json:"in_range"`
	// Promises counts what became of them.
	Promises map[precopy.Promise]int `json:"promises"`
}

// errorOf is the middle of an error, and what nine in ten stay below.
type errorOf struct {
	Median float64 `json:"median"`
	P90    float64 `json:"p90"`
}

// bases are the confidences in the order in which they are shown, the surest first.
var bases = []forecast.Confidence{forecast.Agreed, forecast.Once, forecast.Mixed, forecast.Stale, forecast.Sample, forecast.None}

// showAccuracy is drover history --accuracy.
func showAccuracy(ctx context.Context, s *session) (any, func() out.Table, error) {
	limit := accuracyLimit
	if s.cli.IsSet("limit") {
		limit = s.cli.Int("limit")
	}
	list, err := finishedOnes(ctx, s, limit)
	if err != nil {
		return nil, nil, err
	}
	rows := accuracies(list)
	return rows, func() out.Table { return accuracyTable(rows) }, nil
}

// accuracies judges the completed migrations that had a forecast: those of each confidence, and all.
func accuracies(list []precopy.Migration) []accuracy {
	byBasis := map[forecast.Confidence][]precopy.Migration{}
	var all []precopy.Migration
	for _, m := range list {
		if m.Phase == precopy.Done && m.Forecast != nil && m.Outcome != nil {
			byBasis[m.Forecast.Confidence] = append(byBasis[m.Forecast.Confidence], m)
			all = append(all, m)
		}
	}
	rows := []accuracy{}
	for _, b := range bases {
		if len(byBasis[b]) > 0 {
			rows = append(rows, accuracyOf(string(b), byBasis[b]))
		}
	}
	if len(all) > 0 {
		rows = append(rows, accuracyOf("all", all))
	}
	return rows
}

func accuracyOf(basis string, list []precopy.Migration) accuracy {
	a := accuracy{Basis: basis, Migrations: len(list), Promises: map[precopy.Promise]int{}}
	var seconds, bytes, pauses []float64
	inRange := 0
	for _, m := range list {
		f, o := m.Forecast, m.Outcome
		seconds = append(seconds, math.Abs(f.Seconds-o.Seconds)/max(o.Seconds, 0.1))
		bytes = append(bytes, math.Abs(float64(f.Bytes-o.Bytes))/max(float64(o.Bytes), 1))
		if o.PauseKnown {
			pauses = append(pauses, math.Abs(float64(f.PauseMS-o.PauseMS)))
		}
		if f.SecondsLow <= o.Seconds && o.Seconds <= f.SecondsHigh {
			inRange++
		}
		if p, ok := m.Promise(); ok {
			a.Promises[p]++
		}
	}
	a.Seconds, a.Bytes, a.PauseMS = spreadOf(seconds), spreadOf(bytes), spreadOf(pauses)
	a.InRange = float64(inRange) / float64(len(list))
	return a
}

// spreadOf takes the nearest ranks; zero of nothing.
func spreadOf(errs []float64) errorOf {
	if len(errs) == 0 {
		return errorOf{}
	}
	slices.Sort(errs)
	at := func(share float64) float64 { return errs[max(int(math.Ceil(share*float64(len(errs))))-1, 0)] }
	return errorOf{Median: at(0.5), P90: at(0.9)}
}

func accuracyTable(rows []accuracy) out.Table {
	t := out.Table{
		Head: []string{"BASIS", "MIGRATIONS", "DURATION", "SENT", "PAUSE", "IN RANGE", "KEPT", "CEILING", "BROKEN"},
		None: "no completed migration had a forecast",
	}
	percent := func(e errorOf) string { return fmt.Sprintf("%.0f %% / %.0f %%", 100*e.Median, 100*e.P90) }
	for _, a := range rows {
		t.Add(a.Basis, fmt.Sprint(a.Migrations), percent(a.Seconds), percent(a.Bytes),
			fmt.Sprintf("%.0f / %.0f ms", a.PauseMS.Median, a.PauseMS.P90), fmt.Sprintf("%.0f %%", 100*a.InRange),
			fmt.Sprint(a.Promises[precopy.PromiseKept]), fmt.Sprint(a.Promises[precopy.PromiseCeiling]), fmt.Sprint(a.Promises[precopy.PromiseBroken]))
	}
	return t
}
