package signal

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"pgregory.net/rapid"

	"drover/hypervisor"
	"drover/precopy"
)

var start = time.Date(2026, 5, 4, 0, 0, 0, 0, time.UTC)

// feed gives the series one report a minute, from start on, of a load by the minute.
func feed(s *Series, from, to time.Duration, load func(minute int) float64) {
	for at := from + time.Minute; at <= to; at += time.Minute {
		s.Add(start.Add(at), hypervisor.Cores(load(int(at/time.Minute)-1)), 4)
	}
}

func near(t *testing.T, what string, got hypervisor.Cores, want, by float64) {
	t.Helper()
	if math.Abs(float64(got)-want) > by {
		t.Errorf("%s = %.4f, want %.4f within %g", what, got, want, by)
	}
}

func TestSteadyLoad(t *testing.T) {
	var s Series
	if got := s.Estimate(start, time.Hour); got != (Estimate{}) {
		t.Errorf("nothing seen: %+v", got)
	}
	feed(&s, 0, time.Hour, func(int) float64 { return 1.5 })
	if s.Estimate(start, time.Hour).Ready {
		t.Error("ready before the hour's last slot is closed")
	}
	feed(&s, time.Hour, 8*time.Hour, func(int) float64 { return 1.5 })
	e := s.Estimate(start, time.Hour)
	near(t, "mean", e.Mean, 1.5, 1e-5)
	near(t, "deviation", e.SD, 0, 1e-3)
	near(t, "95 %", e.P95, 1.5, 4.0/31)
	if !e.Ready || e.Daily {
		t.Errorf("%+v: want ready, without a day", e)
	}
	near(t, "excess over 1.6", e.Excess(1.6, 0), 0, 1e-9)
	near(t, "excess over 1.4", e.Excess(1.4, 0), 0.1, 1e-5)
}

// TestNoise: of independent slots the deviation and the mean's error are measured as they are.
func TestNoise(t *testing.T) {
	const sd = 0.4
	var squares, errors, sds float64
	const runs = 200
	for seed := range uint64(runs) {
		r := rand.New(rand.NewPCG(seed, 1))
		var s Series
		x := 0.0
		feed(&s, 0, 20*time.Hour, func(m int) float64 {
			if m%5 == 0 {
				x = 2 + sd*r.NormFloat64()
			}
			return x
		})
		e := s.Estimate(start, time.Hour)
		squares += float64((e.Mean - 2) * (e.Mean - 2))
		errors += float64(e.Error)
		sds += float64(e.SD)
	}
	near(t, "deviation", hypervisor.Cores(sds/runs), sd, 0.02)
	// The mean's real error over the runs, against what it was said to be.
	real := math.Sqrt(squares / runs)
	near(t, "error of the mean, said over real", hypervisor.Cores(errors/runs/real), 1, 0.15)
}

// TestAlike: slots that follow each other's level make the mean less sure than as many independent ones.
func TestAlike(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 7))
	var s, lone Series
	x, y := 0.0, 0.0
	for m := range 60 * 24 {
		if m%5 == 0 {
			x, y = 0.8*x+0.6*r.NormFloat64(), r.NormFloat64() // of equal deviation
		}
		at := start.Add(time.Duration(m+1) * time.Minute)
		s.Add(at, hypervisor.Cores(5+x), 8)
		lone.Add(at, hypervisor.Cores(5+y), 8)
	}
	a, b := s.Estimate(start, 0), lone.Estimate(start, 0)
	if a.Error/a.SD < 1.5*b.Error/b.SD {
		t.Errorf("alike: error %.3f of deviation %.3f; independent: %.3f of %.3f", a.Error, a.SD, b.Error, b.SD)
	}
}

// TestDrift: a level that moves slowly is followed with the half-life.
func TestDrift(t *testing.T) {
	var s Series
	noise := func(m int) float64 { return float64(m/5%2) - 0.5 } // a deviation of 0.5
	feed(&s, 0, 24*time.Hour, func(m int) float64 { return 3 + noise(m) })
	feed(&s, 24*time.Hour, 26*time.Hour+time.Minute, func(m int) float64 { return 3.5 + noise(m) })
	near(t, "after a half-life", s.Estimate(start, 0).Mean, 3.25, 0.03)
	// A gap ages what was before.
	feed(&s, 50*time.Hour, 51*time.Hour, func(m int) float64 { return 4 + noise(m) })
	near(t, "after a gap", s.Estimate(start, 0).Mean, 4, 0.1)
}

// TestJump: a new level is known a quarter of an hour later, with the uncertainty of three slots; a burst of two
// slots is none, nor are three to both sides.
func TestJump(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 5))
	noise := func(int) float64 { return 0.1 * r.NormFloat64() }
	var before Series
	feed(&before, 0, 10*time.Hour, func(m int) float64 { return 1 + noise(m) })
	for _, tc := range []struct {
		name   string
		levels []float64 // of the slots that follow
		jumps  bool
	}{
		{"up", []float64{3, 3, 3}, true},
		{"down", []float64{0.2, 0.2, 0.2}, true},
		{"a burst", []float64{3, 3, 1}, false},
		{"up and down", []float64{3, 0.1, 3}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := before
			feed(&s, 10*time.Hour, 10*time.Hour+16*time.Minute, func(m int) float64 {
				return tc.levels[min((m-600)/5, len(tc.levels)-1)]
			})
			e := s.Estimate(start, 0)
			if got := math.Abs(float64(e.Mean)-tc.levels[0]) < 0.05; got != tc.jumps {
				t.Errorf("the mean is %.3f, want the new level: %t", e.Mean, tc.jumps)
			}
			if !e.Ready {
				t.Error("not ready")
			}
			if tc.jumps && math.Abs(float64(e.Error/e.SD)-1/math.Sqrt(3)) > 0.05 {
				t.Errorf("error %.3f of deviation %.3f, want that of three slots", e.Error, e.SD)
			}
		})
	}
}

func TestReportsThatDontCount(t *testing.T) {
	var s, want Series
	feed(&s, 0, time.Hour, func(int) float64 { return 1 })
	want = s
	at := start.Add(time.Hour)
	s.Add(at, 3, 4)                   // twice
	s.Add(at.Add(-time.Minute), 3, 4) // late
	for _, x := range []float64{-1, math.NaN(), math.Inf(1)} {
		s.Add(at.Add(time.Minute), hypervisor.Cores(x), 4)
	}
	if s != want {
		t.Errorf("changed: %s", cmp.Diff(want, s))
	}
}

func TestQuantile(t *testing.T) {
	var s Series
	// One report in ten is 3 of 4 vCPUs, the others 1.
	feed(&s, 0, 10*time.Hour, func(m int) float64 {
		if m%10 == 0 {
			return 3
		}
		return 1
	})
	near(t, "95 %", s.Estimate(start, 0).P95, 3, 4.0/31)
	near(t, "80 %", hypervisor.Cores(s.quantile(0.8)), 1, 4.0/31)
}

// TestDay: a load that follows the clock is foretold by it from the fourth day on, one that does not is not.
func TestDay(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 3))
	daily := func(m int) float64 { return 2 + math.Sin(2*math.Pi*float64(m)/1440) + 0.2*r.NormFloat64() }
	noise := func(int) float64 { return 2 + 0.5*r.NormFloat64() }
	level := 2.0
	walk := func(int) float64 { level = min(max(level+0.02*r.NormFloat64(), 0.5), 4); return level }
	for _, tc := range []struct {
		name string
		load func(int) float64
		want bool
	}{{"by the clock", daily, true}, {"noise", noise, false}, {"a walk", walk, false}} {
		t.Run(tc.name, func(t *testing.T) {
			var s Series
			feed(&s, 0, 3*24*time.Hour, tc.load)
			if s.Foretells() {
				t.Error("foretells after two days that it had something to foretell by")
			}
			feed(&s, 3*24*time.Hour, 10*24*time.Hour, tc.load)
			if s.Foretells() != tc.want {
				t.Errorf("foretells %t, want %t: squared error %.3f by the hour, %.3f by the mean", s.Foretells(), tc.want, s.ErrDay, s.ErrMean)
			}
			e := s.Estimate(start.Add(10*24*time.Hour+4*time.Hour), 4*time.Hour)
			if e.Daily != tc.want {
				t.Errorf("%+v", e)
			}
			if tc.want { // the mean of the sine from 4 to 8 o'clock
				near(t, "forecast", e.Mean, 2+(math.Cos(math.Pi/3)-math.Cos(2*math.Pi/3))/(math.Pi/3), 0.1)
			}
		})
	}
}

func TestSumAndExcess(t *testing.T) {
	a := Estimate{Mean: 3, SD: 0.3, Error: 0.06, Ready: true}
	b := Estimate{Mean: 5, SD: 0.4, Error: 0.08, Ready: true}
	e := Sum(a, b)
	want := Estimate{Mean: 8, SD: 0.5, Error: 0.1, P95: 8 + 1.645*0.5, Ready: true}
	near(t, "mean", e.Mean, float64(want.Mean), 1e-9)
	near(t, "deviation", e.SD, float64(want.SD), 1e-9)
	near(t, "error", e.Error, float64(want.Error), 1e-9)
	// The part of a standard normal above 0, 1 and -1 is 0.39894, 0.08332 and 1.08332 on the average.
	near(t, "at the mean", e.Excess(8, 0), 0.5*0.39894, 1e-5)
	near(t, "one deviation up", e.Excess(8.5, 0), 0.5*0.08332, 1e-5)
	near(t, "one deviation down", e.Excess(7.5, 0), 0.5*1.08332, 1e-5)
	near(t, "for sure", e.Excess(7.9, -1), 0.5*0.39894, 1e-5)
	near(t, "possibly", e.Excess(8.1, 1), 0.5*0.39894, 1e-5)
	near(t, "far above", e.Excess(1, 0), 7, 1e-9)
	if Sum(a, Estimate{}).Ready {
		t.Error("ready with a VM that was never seen")
	}
}

// TestLess takes a part out of a sum again.
func TestLess(t *testing.T) {
	a := Estimate{Mean: 3, SD: 0.3, Error: 0.06}
	b := Estimate{Mean: 5, SD: 0.4, Error: 0.08}
	got := Sum(a, b).Less(b)
	near(t, "mean", got.Mean, 3, 1e-9)
	near(t, "deviation", got.SD, 0.3, 1e-9)
	near(t, "error", got.Error, 0.06, 1e-9)
	if none := a.Less(b); none.Mean != 0 || none.SD != 0 || none.Error != 0 {
		t.Errorf("more taken out than there is: %+v", none)
	}
}

func TestLatch(t *testing.T) {
	l := Latch{On: 0.2, Off: 0.1, Hold: 10 * time.Minute}
	var h Heat
	for _, step := range []struct {
		minute int
		figure float64
		hot    bool
	}{
		{0, 0.3, false},
		{5, 0.3, false},
		{6, 0.15, false}, // a break
		{7, 0.2, false},
		{16, 0.2, false},
		{17, 0.2, true},
		{18, 0.15, true}, // between the marks
		{60, 0.15, true},
		{61, 0.05, true},
		{65, 0.1, true}, // a break
		{66, 0, true},
		{75, 0, true},
		{76, 0, false},
		{77, 0.5, false},
	} {
		h = l.Step(h, step.figure, start.Add(time.Duration(step.minute)*time.Minute))
		if h.Hot != step.hot {
			t.Errorf("minute %d, figure %g: hot %t, want %t", step.minute, step.figure, h.Hot, step.hot)
		}
	}
}

// TestLatchHolds: between two changes there is at least the time to hold.
func TestLatchHolds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := Latch{On: 0.6, Off: 0.4, Hold: time.Duration(rapid.IntRange(1, 30).Draw(t, "hold")) * time.Minute}
		var h Heat
		now, changed := start, start
		for _, f := range rapid.SliceOfN(rapid.Float64Range(0, 1), 1, 200).Draw(t, "figures") {
			now = now.Add(time.Minute)
			next := l.Step(h, f, now)
			if next.Hot != h.Hot {
				if now.Sub(changed) <= l.Hold && changed != start {
					t.Fatalf("changed after %s", now.Sub(changed))
				}
				if next.Hot && f < l.On || !next.Hot && f >= l.Off {
					t.Fatalf("hot %t at %g", next.Hot, f)
				}
				changed = now
			}
			h = next
		}
	})
}

// TestNoReturns plays weeks of automatic moves, and moves of people, by the trail alone: no automatic move goes
// to a host that the VM left within a day, nor comes before the cooldown is over. Leaders change in between,
// each with the records alone, in any order.
func TestNoReturns(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		hosts := rapid.IntRange(2, 6).Draw(t, "hosts")
		cooldown := time.Duration(rapid.IntRange(0, 180).Draw(t, "cooldown")) * time.Minute
		store := map[string]precopy.Migration{}
		at, now := 0, start
		var left []departure
		trail := NewTrail()
		for i := range rapid.IntRange(1, 120).Draw(t, "moves") {
			now = now.Add(time.Duration(rapid.IntRange(0, 600).Draw(t, "minutes")) * time.Minute)
			if rapid.IntRange(0, 4).Draw(t, "leader") == 0 {
				trail = NewTrail()
			}
			for _, m := range store {
				trail.See(m, now)
			}
			trail.Forget(now)
			to := rapid.IntRange(0, hosts-1).Draw(t, "to")
			if to == at {
				continue
			}
			host := fmt.Sprint(to)
			byHand := rapid.IntRange(0, 9).Draw(t, "who") == 0
			ok, why := trail.May("vm", host, now, cooldown)
			back, rests := false, false
			for _, d := range left {
				back = back || d.host == host && now.Sub(d.at) < 24*time.Hour
				rests = rests || now.Sub(d.at) < cooldown
			}
			if ok == (back || rests) {
				t.Fatalf("May = %t (%s) at %s; left %v", ok, why, now, left)
			}
			if !ok && !byHand {
				continue
			}
			phase := rapid.SampledFrom([]precopy.Phase{precopy.Done, precopy.Done, precopy.Aborted}).Draw(t, "phase")
			ended, id := now, fmt.Sprint(i)
			store[id] = precopy.Migration{ID: id, UUID: "vm", Source: fmt.Sprint(at), Target: host, Phase: phase, Finished: &ended}
			if phase == precopy.Done {
				left = append(left, departure{id, fmt.Sprint(at), now})
				at = to
			}
		}
	})
}

func TestTrailSays(t *testing.T) {
	ended := start.Add(-20 * time.Minute)
	trail := NewTrail()
	for _, m := range []precopy.Migration{
		{ID: "1", UUID: "a", Source: "h1", Target: "h2", Phase: precopy.Done, Finished: &ended},
		{ID: "2", UUID: "b", Source: "h3", Target: "h2", Phase: precopy.Done}, // says no time
	} {
		trail.See(m, start)
		trail.See(m, start.Add(time.Second)) // again in the next pass
	}
	for _, tc := range []struct {
		vm, host string
		cooldown time.Duration
		want     string
	}{
		{"a", "h3", 30 * time.Minute, "it moved less than 30m0s ago: rests for another 10m0s"},
		{"a", "h1", 10 * time.Minute, "it left h1 less than 24h0m0s ago"},
		{"a", "h3", 10 * time.Minute, ""},
		{"b", "h1", time.Minute, "it moved less than 1m0s ago: rests for another 1m0s"},
		{"c", "h1", time.Hour, ""},
	} {
		if _, why := trail.May(hypervisor.DomainID(tc.vm), tc.host, start, tc.cooldown); why != tc.want {
			t.Errorf("%s to %s: %q, want %q", tc.vm, tc.host, why, tc.want)
		}
	}
	if got := trail.Left("a", start); !cmp.Equal(got, []string{"h1"}) {
		t.Errorf("left %v", got)
	}
	trail.Forget(start.Add(NoReturn - 20*time.Minute))
	if len(trail.departures) != 1 || len(trail.departures["b"]) != 1 {
		t.Errorf("after a day less 20 minutes: %v", trail.departures)
	}
}

func fleetOf(n int, r *rand.Rand) (*Memory, []hypervisor.DomainID) {
	m := NewMemory(0)
	ids := make([]hypervisor.DomainID, n)
	for i := range ids {
		var u uuid.UUID
		for j := range u {
			u[j] = byte(r.Uint32())
		}
		ids[i] = hypervisor.DomainID(u.String())
		m.Observe(Sample{ids[i], start.Add(time.Duration(r.IntN(3600)) * time.Second), hypervisor.Cores(r.Float64()), 2})
	}
	return m, ids
}

// TestChangeOfLeader: a memory that was written down in parts and read again says the same.
func TestChangeOfLeader(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	m, ids := fleetOf(500, r)
	for slot := range 30 {
		for _, id := range ids {
			m.Observe(Sample{id, start.Add(time.Duration(slot+13) * Slot), hypervisor.Cores(r.Float64()), 2})
		}
	}
	next := NewMemory(0)
	for n := range Chunks {
		if err := next.Restore(m.Chunk(n)); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(m.series, next.series); diff != "" {
		t.Errorf("restored (-want +got):\n%s", diff)
	}
	// What is known better stays.
	later := start.Add(100 * Slot)
	m.Observe(Sample{ids[0], later, 1, 2})
	before := *m.series[ids[0]]
	for n := range Chunks {
		if err := m.Restore(next.Chunk(n)); err != nil {
			t.Fatal(err)
		}
	}
	if *m.series[ids[0]] != before {
		t.Error("a VM was overwritten with what is known less well")
	}
	m.Forget(later)
	if m.Len() != 1 {
		t.Errorf("%d VMs after all but one were forgotten", m.Len())
	}
}

func TestRestoreRefuses(t *testing.T) {
	m, _ := fleetOf(200, rand.New(rand.NewPCG(1, 2)))
	good := m.Chunk(3)
	nan := append([]byte(nil), good...)
	for i := len(chunkMagic) + 16 + 24; i < len(chunkMagic)+16+28; i++ {
		nan[i] = 0xff
	}
	for name, bad := range map[string][]byte{
		"empty": nil, "another version": append([]byte("drover-signal-9\n"), good[16:]...), "cut": good[:len(good)-1], "not a number": nan,
	} {
		next := NewMemory(0)
		if err := next.Restore(bad); !errors.Is(err, ErrChunk) || next.Len() != 0 {
			t.Errorf("%s: %v with %d VMs, want ErrChunk and none", name, err, next.Len())
		}
	}
}

func FuzzRestore(f *testing.F) {
	m, _ := fleetOf(100, rand.New(rand.NewPCG(1, 2)))
	f.Add(m.Chunk(1))
	f.Add(m.Chunk(2)[:50])
	f.Fuzz(func(t *testing.T, chunk []byte) {
		m := NewMemory(0)
		if err := m.Restore(chunk); err != nil {
			return
		}
		now := time.UnixMilli(math.MaxInt64 / 2)
		for id, s := range m.series {
			m.Observe(Sample{id, time.UnixMilli(s.LastMS + 1000), 1, 2})
			e := m.Estimate(id, now, 6*time.Hour)
			if math.IsNaN(float64(e.Mean + e.SD + e.Error + e.P95)) {
				t.Fatalf("%+v of %+v", e, s)
			}
		}
	})
}

// TestFleetSize holds the figures that doc.go states for 20,000 VMs.
func TestFleetSize(t *testing.T) {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	m, _ := fleetOf(20_000, rand.New(rand.NewPCG(5, 5)))
	runtime.GC()
	runtime.ReadMemStats(&after)
	t.Logf("%d bytes each in a chunk, %.1f MiB in memory, chunk 0 of %d KiB",
		SeriesBytes, float64(after.HeapAlloc-before.HeapAlloc)/(1<<20), len(m.Chunk(0))>>10)
	if got := after.HeapAlloc - before.HeapAlloc; got > 12<<20 {
		t.Errorf("20,000 VMs take %d MiB, want 10", got>>20)
	}
	for n := range Chunks {
		if got := len(m.Chunk(n)); got > 200<<10 {
			t.Errorf("chunk %d is %d KiB", n, got>>10)
		}
	}
}
