package probe

import "time"

// Report is what a probe saw. Durations are in the units their names say.
type Report struct {
	Guest   string    `json:"guest"`
	Started time.Time `json:"started"`
	Seconds float64   `json:"seconds"`
	// Alive says that the guest gave output within the last second.
	Alive bool `json:"alive"`
	// SilenceMS is the longest time without output, which began at SilenceAt, SilenceAfter seconds into the probe. A live,
	// idle machine has 5 to 20 ms.
	SilenceMS    float64   `json:"silence_ms"`
	SilenceAt    time.Time `json:"silence_at"`
	SilenceAfter float64   `json:"silence_after_seconds"`
	// Silences lists those of 50 ms and more.
	Silences []SilenceReport `json:"silences"`
	Beats    int64           `json:"beats"`
	// WorkRate is what the guest did per second before (pages), WorkLost how many seconds of work at that rate are missing
	// over WorkOver seconds. Under emulation expect a few hundredths of noise.
	WorkRate float64 `json:"work_rate_pages_per_second"`
	Work     int64   `json:"work_pages"`
	WorkLost float64 `json:"work_lost_seconds"`
	WorkOver float64 `json:"work_over_seconds"`
	// Mismatches are pages that lost what was written to them since the mark; MismatchesTotal since the guest booted.
	Mismatches      int64 `json:"mismatches"`
	MismatchesTotal int64 `json:"mismatches_total"`
	DiskErrors      int64 `json:"disk_errors"`
	// DiskWrites is the number of disk writes that were read back right since boot; -1 without a disk.
	DiskWrites int64 `json:"disk_writes"`
	Reboots    int64 `json:"reboots"`
	Panicked   bool  `json:"panicked"`
	// Duplicates are counter lines that were not newer than the one before: two copies of the guest are running.
	Duplicates int64 `json:"duplicates"`
	// Mark is the end of what was read; a later probe with --since counts on from there.
	Mark int64 `json:"mark"`
}

// SilenceReport is one silence in a [Report].
type SilenceReport struct {
	After float64 `json:"after_seconds"`
	MS    float64 `json:"ms"`
}

// Intact reports whether the guest lives and nothing was lost.
func (r Report) Intact() bool {
	return r.Alive && r.Mismatches == 0 && r.DiskErrors == 0 && r.Reboots == 0 && !r.Panicked && r.Duplicates == 0
}

// Report closes the analysis at a time and gives its figures.
func (a *Analysis) Report(end time.Time) Report {
	a.quiet(end)
	t := a.parser.Tally
	lost, over := a.lost()
	r := Report{
		Started: a.begin, Seconds: end.Sub(a.begin).Seconds(), Alive: a.grown && end.Sub(a.lastAt) < aliveWithin,
		SilenceMS: ms(a.longest.Length), SilenceAt: a.longest.Start, SilenceAfter: a.longest.Start.Sub(a.begin).Seconds(),
		Beats: t.Beats, WorkRate: a.rate(), WorkLost: lost.Seconds(), WorkOver: over.Seconds(),
		Mismatches: t.Mismatches, MismatchesTotal: t.Last.Bad, DiskErrors: t.DiskErrors, DiskWrites: t.Last.Disk,
		Reboots: t.Boots, Panicked: t.Panicked, Duplicates: t.Duplicates, Silences: []SilenceReport{},
	}
	if a.first != nil {
		r.Work = a.last.Work - a.first.Work
	}
	for _, s := range a.silences {
		r.Silences = append(r.Silences, SilenceReport{After: s.Start.Sub(a.begin).Seconds(), MS: ms(s.Length)})
	}
	return r
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
