package fleet

import "time"

// Told is by how much the end was wrong that stood in the record when a share of the run's time was over, as a
// share of the time that the run took: above 0 if it came sooner than told. False for a run that is not over, or
// told nothing.
func (r Run) Told(share float64) (off float64, known bool) {
	if r.Started == nil || r.Finished == nil || len(r.Forecasts) == 0 || !r.Finished.After(*r.Started) {
		return 0, false
	}
	took := r.Finished.Sub(*r.Started)
	at := r.Started.Add(time.Duration(share * float64(took)))
	last := r.Forecasts[0]
	for _, f := range r.Forecasts {
		if !f.At.After(at) {
			last = f
		}
	}
	return float64(last.End.Sub(*r.Finished)) / float64(took), true
}
