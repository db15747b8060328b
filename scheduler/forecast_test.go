package scheduler

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"drover/hypervisor"
	"drover/precopy"
	"drover/precopy/forecast"
	"drover/precopy/model"
	"drover/scheduler/fleet"
)

// busy is a receipt of a guest that rewrites more than the link takes.
func busy(id string, done bool) forecast.Receipt {
	r := forecast.Receipt{
		ID: id, At: t0.Add(-time.Hour), Strategy: "plain", Done: done, Memory: 2 * hypervisor.GiB, FirstPass: hypervisor.GiB,
		Bandwidth: 47.5e6, Achieved: 47e6, Seconds: 60, Intent: precopy.DefaultPolicy().Intent(),
		Growth: model.Growth{Set: 512 * hypervisor.MiB, Rate: 300 << 20}, Ratio: 1,
	}
	if !done {
		r.Code = "not-converging"
	}
	return r
}

func ordered(t *testing.T, change func(s *fleet.Snapshot, in *Inputs)) []Decision {
	t.Helper()
	s := snapshot(host("h1", 8*hypervisor.GiB, "a:2"), host("h2", 8*hypervisor.GiB), host("h3", 8*hypervisor.GiB))
	for _, h := range s.Hosts {
		h.Facts.Capacity.Bandwidth = 400e6 / 8
		h.Facts.Capabilities = []string{"xbzrle", "multifd-zstd"}
	}
	s.Hosts["h1"].Load.At = t0
	s.Hosts["h1"].Load.Domains[0].Memory = hypervisor.GiB
	in := inputs(s)
	add(s, "m1", "a", "h1", "h2", precopy.Requested)
	in.Memory.Preflights[Key{"m1", "h2"}] = Result{At: t0}
	change(s, &in)
	return Decide(in)
}

// What is expected is in the record when it is ordered, with what it rests on, and the agent is told how to
// send the stream.
func TestOrderCarriesTheForecast(t *testing.T) {
	sample := &hypervisor.DirtySample{Rate: 40 << 20, Window: time.Second, At: t0.Add(-time.Minute)}
	got := ordered(t, func(s *fleet.Snapshot, _ *Inputs) {
		s.Hosts["h1"].Load.Domains[0].Dirty = sample
		s.Hosts["h1"].LoadSeen = t0.Add(-2 * time.Second)
	})[0].Write.New
	f := got.Forecast
	if f == nil || f.Seconds < 20 || f.SecondsLow >= f.Seconds || f.SecondsHigh <= f.Seconds || f.Bytes < hypervisor.GiB || f.Confidence != forecast.Sample {
		t.Fatalf("forecast %+v", f)
	}
	want := forecast.Basis{Resident: hypervisor.GiB, Dirty: sample, DirtyAge: 62 * time.Second}
	if diff := cmp.Diff(want, f.Basis); diff != "" {
		t.Errorf("basis (-want +got):\n%s", diff)
	}
	// A guest that rewrites about what the link takes is first sent with XBZRLE.
	if s := got.Order.Strategy; s.Name() != "xbzrle" || f.Strategy != "xbzrle" || s.XBZRLECache < 64*hypervisor.MiB {
		t.Errorf("strategy %+v, in the forecast %s", s, f.Strategy)
	}
	if p := got.Order.Prior; p == nil || p.Growth.Rate == 0 || p.Receipts != 0 {
		t.Errorf("prior %+v", p)
	}
}

// A guest is not sent by parallel streams where its QEMU may end in an assertion when they are cancelled.
func TestNoStreamsThatMayLoseTheGuest(t *testing.T) {
	for _, tc := range []struct {
		qemu    uint32
		encrypt bool
		want    string
	}{
		{9_001_000, true, "multifd-zstd"},
		{9_002_000, true, "plain"},
		{10_000_002, true, "plain"},
		{10_001_003, true, "plain"},
		{10_000_002, false, "multifd-zstd"},
		{10_002_000, true, "multifd-zstd"},
	} {
		got := ordered(t, func(s *fleet.Snapshot, in *Inputs) {
			for _, h := range s.Hosts {
				h.Facts.Capabilities = []string{"multifd-zstd"}
			}
			s.Hosts["h1"].Facts.QEMUVersion = tc.qemu
			s.Hosts["h1"].Load.Domains[0].Dirty = &hypervisor.DirtySample{Rate: 1 << 20, Window: time.Second, At: t0}
			m := s.Migrations["m1"]
			m.Policy = precopy.DefaultPolicy()
			m.Policy.Encrypt = tc.encrypt
			s.Migrations["m1"] = m
		})[0].Write.New
		if s := got.Order.Strategy; s.Name() != tc.want {
			t.Errorf("QEMU %d, encrypted %t: %s, want %s", tc.qemu, tc.encrypt, s.Name(), tc.want)
		}
	}
}

func TestOrderByAnotherManagersPolicyHasNoForecast(t *testing.T) {
	got := ordered(t, func(s *fleet.Snapshot, in *Inputs) {
		m := s.Migrations["m1"]
		m.Policy = precopy.DefaultPolicy()
		m.Policy.Tuning = "nova"
		s.Migrations["m1"] = m
		in.Memory.Preflights[Key{"m1", "h2"}] = Result{At: t0, Profile: forecast.Profile{Receipts: []forecast.Receipt{busy("r1", false), busy("r2", false)}}}
	})[0].Write.New
	if got.Phase != precopy.Queued || got.Forecast != nil || got.Order.Prior != nil || got.Order.Strategy != (hypervisor.Strategy{}) {
		t.Errorf("%s with forecast %+v, order %+v", got.Phase, got.Forecast, got.Order)
	}
}

// A migration that several earlier ones say would not end is refused; where only one says so, where they
// are of another time, or where there is another host with a faster link, it is tried.
func TestHopelessIsRefused(t *testing.T) {
	receipts := func(rs ...forecast.Receipt) forecast.Profile { return forecast.Profile{Receipts: rs} }
	old := func(r forecast.Receipt) forecast.Receipt { r.At = t0.Add(-60 * 24 * time.Hour); return r }
	plainOnly := func(s *fleet.Snapshot) {
		for _, h := range s.Hosts {
			h.Facts.Capabilities = nil
		}
	}
	profile := func(in *Inputs, p forecast.Profile, targets ...string) {
		for _, t := range targets {
			in.Memory.Preflights[Key{"m1", t}] = Result{At: t0, Profile: p}
		}
	}
	tests := []struct {
		name   string
		change func(s *fleet.Snapshot, in *Inputs)
		want   string
		reason string // that the record gives
	}{
		{"several agree", func(s *fleet.Snapshot, in *Inputs) {
			plainOnly(s)
			profile(in, receipts(busy("r1", false), busy("r2", false)), "h2")
		}, "m1 refused h2 forecast", "would not end within the intent"},
		{"one says so", func(s *fleet.Snapshot, in *Inputs) {
			plainOnly(s)
			profile(in, receipts(busy("r1", false)), "h2")
		}, "m1 queued h2", "may not end within the intent"},
		{"they are old", func(s *fleet.Snapshot, in *Inputs) {
			plainOnly(s)
			profile(in, receipts(old(busy("r1", false)), old(busy("r2", false))), "h2")
		}, "m1 queued h2", "may not end within the intent"},
		{"another strategy was never tried", func(_ *fleet.Snapshot, in *Inputs) {
			profile(in, receipts(busy("r1", false), busy("r2", false)), "h2")
		}, "m1 queued h2", "ordered"},
		{"another host has a faster link", func(s *fleet.Snapshot, in *Inputs) {
			plainOnly(s)
			s.Hosts["h1"].Facts.Capacity.Bandwidth, s.Hosts["h3"].Facts.Capacity.Bandwidth = 10e9/8, 10e9/8
			m := s.Migrations["m1"]
			m.Target = ""
			s.Migrations["m1"] = m
			profile(in, receipts(busy("r1", false), busy("r2", false)), "h2", "h3")
		}, "m1 queued h3", "ordered"},
		{"a longer pause is allowed", func(s *fleet.Snapshot, in *Inputs) {
			plainOnly(s)
			m := s.Migrations["m1"]
			m.Policy = precopy.Policy{MaxPauseMS: 20_000}
			s.Migrations["m1"] = m
			profile(in, receipts(busy("r1", false), busy("r2", false)), "h2")
		}, "m1 queued h2", "ordered"},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			got := ordered(t, tc.change)
			if diff := cmp.Diff([]string{tc.want}, brief(got)); diff != "" {
				t.Fatalf("decisions (-want +got):\n%s", diff)
			}
			if r := got[0].Write.New.Reason; !strings.Contains(r, tc.reason) {
				t.Errorf("reason %q, want %q in it", r, tc.reason)
			}
		})
	}
}

// A host that the domain has just come to has not told how much memory it has: what is forecast is still of all of it.
func TestForecastWithoutMemory(t *testing.T) {
	s := snapshot(host("h1", 8*hypervisor.GiB, "a:2"), host("h2", 8*hypervisor.GiB))
	for _, h := range s.Hosts {
		h.Facts.Capacity.Bandwidth = 400e6 / 8
	}
	d := fleet.Domain{Host: s.Hosts["h1"], Load: hypervisor.DomainLoad{Memory: hypervisor.GiB}}
	for _, profile := range []forecast.Profile{{}, {Receipts: []forecast.Receipt{busy("1", true)}}} {
		f := Forecast(s, d, "h2", precopy.DefaultPolicy(), false, profile, t0)
		if f.Bytes < hypervisor.GiB {
			t.Errorf("%d receipts: %+v", len(profile.Receipts), f)
		}
	}
}
