package forecast

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"drover/hypervisor"
	"drover/precopy/model"
)

const (
	mib = hypervisor.MiB
	gib = hypervisor.GiB
)

var t0 = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// input is a guest of 2 GiB that holds half of it, on a link of 400 Mbit/s.
func input() Input {
	return Input{
		Now: t0, Memory: 2 * gib, Basis: Basis{Resident: gib}, Bandwidth: 45e6, CacheFree: 8 * gib,
		Can:    Capabilities{XBZRLE: true, Zstd: true, PostCopy: true},
		Intent: Intent{MaxPause: 150 * time.Millisecond, Ceiling: 900 * time.Millisecond, MaxSlowdown: 0.3},
	}
}

func sampled(rate hypervisor.Bytes) *hypervisor.DirtySample {
	return &hypervisor.DirtySample{Rate: hypervisor.BytesPerSecond(rate), Window: time.Second}
}

// receipt is one of the input's guest, moved an hour ago.
func receipt(id, strategy string, seconds float64, pause int64) Receipt {
	in := input()
	return Receipt{
		ID: id, At: t0.Add(-time.Hour), Strategy: strategy, Done: true, Memory: in.Memory, FirstPass: gib,
		Bandwidth: in.Bandwidth, Achieved: in.Bandwidth, Growth: model.Growth{Set: 100 * mib, Rate: 10 << 20}, Ratio: 1,
		Seconds: seconds, PauseMS: pause, Intent: in.Intent, Basis: in.Basis, LeastShare: 1, Limit: 20 * time.Millisecond,
	}
}

func with(receipts ...Receipt) Input {
	in := input()
	in.Profile, _ = in.Profile.Learn(receipts...)
	return in
}

func TestConfidence(t *testing.T) {
	dirty := func(in Input, rate hypervisor.Bytes, age time.Duration) Input {
		in.Basis.Dirty, in.Basis.DirtyAge = sampled(rate), age
		return in
	}
	changed := func(r Receipt, f func(*Receipt)) Receipt { f(&r); return r }
	before := func(r Receipt, rate hypervisor.Bytes) Receipt { r.Basis.Dirty = sampled(rate); return r }
	a, b := receipt("1", plain, 30, 60), receipt("2", plain, 31, 62)
	tests := []struct {
		name  string
		in    Input
		want  Confidence
		rests string
	}{
		{"nothing", input(), None, "never seen, no sample"},
		{"sample", dirty(input(), mib, 40*time.Second), Sample, "never seen, memory sampled 40s ago"},
		{"one", with(a), Once, "one earlier migration, or another strategy than before"},
		{"two that agree", with(a, b), Agreed, "2 earlier migrations that agree"},
		{"two that took as long, of a guest that is hard to measure", with(a, changed(b, func(r *Receipt) { r.Growth = model.Growth{Set: gib, Rate: 20 << 20} })), Agreed, ""},
		{"two that do not agree", with(a, changed(b, func(r *Receipt) { r.Growth, r.Seconds = model.Growth{Set: gib, Rate: 20 << 20}, 50 })), Mixed, "2 earlier migrations that do not agree"},
		{"old ones", with(changed(a, func(r *Receipt) { r.At = t0.Add(-31 * 24 * time.Hour) })), Stale, "earlier migrations that are old, or of another load"},
		{"the guest does something else now", dirty(with(before(a, mib), before(b, mib)), 100*mib, 0), Stale, ""},
		{"the guest does the same now", dirty(with(before(a, 9*mib), before(b, 9*mib)), 12*mib, 0), Agreed, ""},
		{"an old sample says nothing", dirty(with(before(a, mib), before(b, mib)), 100*mib, time.Hour), Agreed, ""},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			f := Of(tc.in)
			if f.Confidence != tc.want {
				t.Errorf("confidence %s, want %s", f.Confidence, tc.want)
			}
			if tc.rests != "" && f.Rests() != tc.rests {
				t.Errorf("rests on %q, want %q", f.Rests(), tc.rests)
			}
		})
	}
}

// What happened in like circumstances is what is expected, and what differs shows by the model.
func TestForecastFollowsWhatHappened(t *testing.T) {
	like := with(receipt("1", plain, 39, 110), receipt("2", plain, 43, 120), receipt("3", plain, 41, 100))
	f := Of(like)
	if f.Duration < 40*time.Second || f.Duration > 42*time.Second || f.Pause != 110*time.Millisecond || f.Strategy.Name() != plain || !f.Converges {
		t.Errorf("alike: %+v", f)
	}
	if f.Prior.Receipts != 3 || f.Prior.Limit != 20*time.Millisecond || f.Prior.Ratio != 1 || f.Prior.Growth.Rate != 10<<20 {
		t.Errorf("prior %+v", f.Prior)
	}
	tests := []struct {
		name      string
		change    func(*Input)
		low, high float64 // of the duration before
	}{
		{"half the bandwidth", func(in *Input) { in.Bandwidth /= 2 }, 1.9, 3},
		{"twice the bandwidth", func(in *Input) { in.Bandwidth *= 2 }, 0.35, 0.55},
		{"half as much memory again", func(in *Input) { in.Basis.Resident += gib / 2 }, 1.3, 1.7},
		{"disks", func(in *Input) { in.Disks = hypervisor.Bytes(45e6 * 41) }, 1.95, 2.05},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			in := like
			tc.change(&in)
			got := Of(in)
			if r := got.Duration.Seconds() / f.Duration.Seconds(); r < tc.low || r > tc.high {
				t.Errorf("%s instead of %s: %.2f times, want %.2f to %.2f", got.Duration, f.Duration, r, tc.low, tc.high)
			}
		})
	}
}

// A pause that is far longer than may be is not worth trying; one that is a little longer may turn out shorter.
func TestPauseFarTooLong(t *testing.T) {
	slow := func(id string) Receipt {
		r := receipt(id, plain, 40, 280)
		r.Sending, r.Limit = 10*time.Millisecond, 20*time.Millisecond
		return r
	}
	in := with(slow("1"), slow("2"))
	for ceiling, want := range map[time.Duration]bool{150 * time.Millisecond: false, 200 * time.Millisecond: true, 900 * time.Millisecond: true} {
		if in.Intent.Ceiling = ceiling; Of(in).Converges != want {
			t.Errorf("at most %s: %+v", ceiling, Of(in))
		}
	}
}

// However long disks take to copy, they are within a budget that nobody ordered.
func TestDisksAreWithinTheBudget(t *testing.T) {
	in := with(receipt("1", plain, 39, 110), receipt("2", plain, 43, 120))
	in.Disks = 4096 * gib
	if f := Of(in); !f.Converges {
		t.Errorf("takes %s: %s", f.Duration, f.Why)
	}
	in.Intent.Budget = time.Hour
	if f := Of(in); f.Converges {
		t.Errorf("takes %s, within an hour", f.Duration)
	}
}

// What pauses had besides sending is learned of the domain: the controller is told the most of the last
// three, and a forecast goes by their median.
func TestSwitchoverIsLearned(t *testing.T) {
	took := func(id, strategy string, pause int64, sending time.Duration, done bool) Receipt {
		r := receipt(id, strategy, 40, pause)
		r.Sending, r.Done = sending, done
		return r
	}
	copied := took("1", plain, 140, 1, true)
	copied.CopyStorage = true
	allowed := func(r Receipt, limit time.Duration) Receipt {
		r.Limit = limit
		return r
	}
	for _, tc := range []struct {
		name         string
		receipts     []Receipt
		median, most time.Duration
	}{
		{"nothing known", nil, Switchover, 0},
		{"less than is usual", []Receipt{took("1", plain, 55, 5*time.Millisecond, true)}, 50 * time.Millisecond, 50 * time.Millisecond},
		{"the last three", []Receipt{
			took("1", plain, 500, 1, true), took("2", plain, 100, 10*time.Millisecond, true), took("3", plain, 140, 20*time.Millisecond, true), took("4", plain, 80, time.Millisecond, true),
		}, 90 * time.Millisecond, 120 * time.Millisecond},
		{"the last that tell", []Receipt{took("1", plain, 130, 10*time.Millisecond, true), took("2", plain, 0, 0, false), took("3", plain, 0, 0, false), took("4", plain, 0, 0, false)}, 120 * time.Millisecond, 120 * time.Millisecond},
		{"more was expected for sending than it all took", []Receipt{took("1", plain, 45, 80*time.Millisecond, true)}, 40 * time.Millisecond, 40 * time.Millisecond},
		{"what was expected is not known", []Receipt{took("1", plain, 140, 0, true)}, Switchover, 0},
		{"disks were copied too", []Receipt{copied}, Switchover, 0},
		{"another way to migrate", []Receipt{took("1", plain+UsedPostCopy, 45, 1, true)}, Switchover, 0},
		{"given up", []Receipt{took("1", plain, 45, 1, false)}, Switchover, 0},
		{"the limit allowed most of it", []Receipt{allowed(took("1", plain, 2942, 1, true), 3032*time.Millisecond)}, Switchover, 0},
		{"the limit allowed some of it", []Receipt{allowed(took("1", plain, 400, 1, true), 100*time.Millisecond)}, 300 * time.Millisecond, 300 * time.Millisecond},
		{"no more than is believed", []Receipt{allowed(took("1", plain, 150, 20*time.Millisecond, true), 120*time.Millisecond)}, 130 * time.Millisecond, 130 * time.Millisecond},
	} {
		t.Run(tc.name, func(t *testing.T) {
			in := with(tc.receipts...)
			if got := know(in).switchover; got != tc.median {
				t.Errorf("a forecast goes by %s, want %s", got, tc.median)
			}
			if got := Of(in).Prior.Switchover; got != tc.most {
				t.Errorf("the controller is told %s, want %s", got, tc.most)
			}
		})
	}
}

func TestStrategy(t *testing.T) {
	busy := func(in Input, rate hypervisor.Bytes) Input { // in a set of about 200 MiB
		in.Basis.Dirty, in.DirtyLong = sampled(rate), &hypervisor.DirtySample{Rate: hypervisor.BytesPerSecond(rate * 2 / 3), Window: 5 * time.Second}
		return in
	}
	can := func(in Input, c Capabilities) Input { in.Can = c; return in }
	better := func(id, strategy string, seconds, ratio float64) Receipt {
		r := receipt(id, strategy, seconds, 60)
		r.Growth, r.Ratio = model.Growth{Set: 200 * mib, Rate: 36 << 20}, ratio
		return r
	}
	failed := func(id, strategy string) Receipt {
		r := receipt(id, strategy, 100, 0)
		r.Done, r.Code, r.Growth = false, "not-converging", model.Growth{Set: 600 * mib, Rate: 300 << 20}
		return r
	}
	fast := func(in Input) Input { in.Bandwidth = 1100e6; return in }
	tight := func(in Input) Input { in.CacheFree = gib / 2; return in }
	tests := []struct {
		name string
		in   Input
		want string
	}{
		{"an idle guest", busy(input(), 0), zstd},
		{"an idle guest, a fast link", fast(busy(input(), 0)), plain},
		{"a busy one, never seen", busy(input(), 60*mib), xbzrle},
		{"no room for its cache", tight(busy(input(), 60*mib)), zstd},
		{"hosts that can't", can(busy(input(), 60*mib), Capabilities{}), plain},
		{"XBZRLE was tried and did well", with(better("1", xbzrle, 31, 0.05)), xbzrle},
		{"XBZRLE was tried and gained nothing, zstd may", with(better("1", xbzrle, 45, 1)), zstd},
		{"XBZRLE was tried and gained nothing, as a plain stream", can(with(better("1", xbzrle, 45, 1)), Capabilities{XBZRLE: true}), xbzrle},
		{"a plain stream was tried, another may be much better", with(better("1", plain, 46, 1)), xbzrle},
		{"a plain stream was tried and took little more than one pass", with(receipt("1", plain, 26, 60)), zstd},
		{"plain streams kept the promise twice", with(receipt("1", plain, 26, 60), receipt("2", plain, 26, 60)), plain},
		{"both were tried", with(better("1", plain, 40, 1), better("2", xbzrle, 60, 1)), plain},
		{"one failed", with(failed("1", xbzrle)), zstd},
		{"all failed", with(failed("1", plain), failed("2", xbzrle), failed("3", zstd)), plain},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			f := Of(tc.in)
			if f.Strategy.Name() != tc.want {
				t.Errorf("%s, want %s: %+v", f.Strategy.Name(), tc.want, f)
			}
			for _, o := range f.Prior.Others {
				if o.Strategy == f.Strategy || o.First <= 0 || o.Ratio <= 0 {
					t.Errorf("another strategy to begin again with: %+v", o)
				}
			}
			if n := len(f.Prior.Others); tc.in.Can.XBZRLE && tc.in.CacheFree >= gib && n == 0 {
				t.Error("no other strategy to begin again with")
			}
		})
	}
}

// Parallel streams are no candidate for a guest that dirties much, before something shows that its pages
// change as a whole.
func TestParallelStreamsAreNoGuess(t *testing.T) {
	sampledAt := func(rate hypervisor.Bytes) Input {
		in := input()
		in.Basis.Dirty = sampled(rate)
		return in
	}
	moved := func(strategy string, ratio float64) Input {
		r := receipt("1", strategy, 30, 60)
		r.Growth, r.Ratio = model.Growth{Set: 200 * mib, Rate: 60 << 20}, ratio
		return with(r)
	}
	alone := sampledAt(80 * mib)
	alone.Can.XBZRLE = false
	for _, tc := range []struct {
		name string
		in   Input
		want bool
	}{
		{"dirties little", sampledAt(8 * mib), true},
		{"dirties much", sampledAt(80 * mib), false},
		{"dirties much, and nothing else is to be had", alone, true},
		{"XBZRLE shrank its pages to little", moved(xbzrle, 0.05), false},
		{"XBZRLE was tried, what it gained is not known", moved(xbzrle, 0), false},
		{"XBZRLE gained little", moved(xbzrle, 0.8), true},
		{"they were tried", moved(zstd, 0.9), true},
	} {
		got := slices.ContainsFunc(know(tc.in).candidates(), func(c candidate) bool { return c.name == zstd })
		if got != tc.want {
			t.Errorf("%s: a candidate %v, want %v", tc.name, got, tc.want)
		}
	}
}

// A way to send that excludes post-copy is not tried where post-copy is allowed, as it is the net, unless
// the guest was moved so before.
func TestStrategyKeepsTheNet(t *testing.T) {
	moved := func(in Input) Input {
		in.Can.XBZRLE, in.Intent.PostCopy = false, true
		return in
	}
	quick := receipt("1", zstd, 5, 60)
	failed := quick
	failed.Done = false
	for _, tc := range []struct {
		name, want string
		in         Input
	}{
		{"never seen, no post-copy", zstd, func() Input { in := input(); in.Can.XBZRLE = false; return in }()},
		{"never seen", plain, moved(input())},
		{"the target can't", zstd, func() Input { in := moved(input()); in.Can.PostCopy = false; return in }()},
		{"moved so before", zstd, moved(with(quick))},
		{"given up so before", plain, moved(with(failed))},
	} {
		if got := Of(tc.in).Strategy.Name(); got != tc.want {
			t.Errorf("%s: %s, want %s", tc.name, got, tc.want)
		}
	}
}

// What can't end within the intent says so, with what would have to change; only several receipts make
// it sure.
func TestNever(t *testing.T) {
	failed := func(id string) Receipt {
		r := receipt(id, plain, 100, 0)
		r.Done, r.Code, r.Growth = false, "not-converging", model.Growth{Set: 600 * mib, Rate: 300 << 20}
		return r
	}
	only := func(in Input) Input { in.Can = Capabilities{}; return in }
	f := Of(only(with(failed("1"), failed("2"))))
	if f.Converges || !f.Hopeless() {
		t.Errorf("two that failed: %+v", f)
	}
	for _, part := range []string{"given up 2026-03-01 11:00 (not-converging)", "300 MiB/s", "a pause of about", "bandwidth"} {
		if !strings.Contains(f.Why, part) {
			t.Errorf("%q: want %q in it", f.Why, part)
		}
	}
	if f := Of(only(with(failed("1")))); f.Converges || f.Hopeless() {
		t.Errorf("one that failed: %+v", f)
	}
	cancelled := failed("2")
	cancelled.Code = "cancelled"
	if f := Of(only(with(receipt("1", plain, 60, 60), cancelled))); !f.Converges {
		t.Errorf("a cancel proves nothing: %+v", f)
	}
	in := only(with(failed("1"), failed("2")))
	in.Can.PostCopy, in.Intent.PostCopy = true, true
	if f := Of(in); !f.Converges || !strings.Contains(f.Beyond, "post-copy") {
		t.Errorf("with post-copy: %+v", f)
	}
	in = with(receipt("1", plain, 60, 60), receipt("2", plain, 60, 60))
	in.Intent.Budget = 40 * time.Second
	if f := Of(in); f.Converges || !strings.Contains(f.Why, "40s are allowed") {
		t.Errorf("with a deadline: %+v", f)
	}
}

// XBZRLE's cache is a power of two that holds the working set, and at most a quarter of what is free.
func TestCache(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		k := &known{Input: Input{CacheFree: hypervisor.Bytes(rapid.Int64Range(0, int64(64*gib)).Draw(t, "free"))}}
		k.growth.Set = hypervisor.Bytes(rapid.Int64Range(0, int64(32*gib)).Draw(t, "set"))
		c := k.cache()
		switch {
		case c == 0 && max(2*k.growth.Set, leastCache) < k.CacheFree/cacheShare:
			t.Fatalf("no cache for a set of %s in %s", k.growth.Set, k.CacheFree)
		case c != 0 && (c&(c-1) != 0 || c < k.growth.Set || c > k.CacheFree/cacheShare):
			t.Fatalf("cache of %s for a set of %s in %s", c, k.growth.Set, k.CacheFree)
		}
	})
}

func drawReceipt(t *rapid.T, n int) Receipt {
	amount := func(name string) hypervisor.Bytes {
		return hypervisor.Bytes(rapid.Int64Range(0, int64(64*gib)).Draw(t, name))
	}
	rate := func(name string) hypervisor.BytesPerSecond { return hypervisor.BytesPerSecond(amount(name)) }
	span := func(name string) time.Duration {
		return time.Duration(rapid.Int64Range(0, int64(time.Hour)).Draw(t, name))
	}
	return Receipt{
		ID: fmt.Sprintf("m%03d", n), At: t0.Add(-time.Duration(rapid.IntRange(0, 100).Draw(t, "days")) * 24 * time.Hour),
		Strategy: rapid.SampledFrom([]string{plain, xbzrle, zstd, "", "postcopy"}).Draw(t, "strategy"),
		Done:     rapid.Bool().Draw(t, "done"), Code: rapid.SampledFrom([]string{"", "cancelled", "not-converging"}).Draw(t, "code"),
		Memory: amount("memory"), FirstPass: amount("first"), Bandwidth: rate("bandwidth"), Achieved: rate("achieved"),
		Growth: model.Growth{Set: amount("set"), Rate: rate("dirty")}, Ratio: rapid.Float64Range(0, 3).Draw(t, "ratio"),
		Setup: span("setup"), Sending: span("sending"), Seconds: rapid.Float64Range(0, 1e6).Draw(t, "seconds"),
		PauseMS: rapid.Int64Range(0, 1e6).Draw(t, "pause"), Limit: span("limit"), LeastShare: rapid.Float64Range(0, 1).Draw(t, "share"),
		FloorShare: rapid.Float64Range(0, 1).Draw(t, "floor"),
		Slowdown:   rapid.Float64Range(0, 1).Draw(t, "slowdown"),
	}
}

// Whatever is known, a forecast is finite, within its range, and one of what both hosts can do; the order
// in which receipts were learned does not matter.
func TestForecastProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := Input{
			Now: t0, Memory: hypervisor.Bytes(rapid.Int64Range(0, int64(64*gib)).Draw(t, "memory")),
			Bandwidth: hypervisor.BytesPerSecond(rapid.Int64Range(0, 4<<30).Draw(t, "bandwidth")),
			CacheFree: hypervisor.Bytes(rapid.Int64Range(0, int64(64*gib)).Draw(t, "free")),
			Can:       Capabilities{XBZRLE: rapid.Bool().Draw(t, "can xbzrle"), Zstd: rapid.Bool().Draw(t, "can zstd"), PostCopy: rapid.Bool().Draw(t, "can post-copy")},
			Intent: Intent{
				MaxPause: time.Duration(rapid.IntRange(0, 2000).Draw(t, "pause")) * time.Millisecond, MaxSlowdown: rapid.Float64Range(0, 0.95).Draw(t, "slowdown"),
				PostCopy: rapid.Bool().Draw(t, "post-copy"),
			},
		}
		in.Intent.Ceiling = in.Intent.MaxPause * 2
		if rapid.Bool().Draw(t, "sampled") {
			in.Basis.Dirty = sampled(hypervisor.Bytes(rapid.Int64Range(0, int64(8*gib)).Draw(t, "sample")))
		}
		var list []Receipt
		for n := range rapid.IntRange(0, 10).Draw(t, "receipts") {
			list = append(list, drawReceipt(t, n))
		}
		in.Profile, _ = Profile{}.Learn(list...)
		f := Of(in)
		switch {
		case f.Duration <= 0 || f.Low > f.Duration || f.High < f.Duration && f.High < 1<<60:
			t.Fatalf("duration %s, from %s to %s", f.Duration, f.Low, f.High)
		case f.Bytes < 0 || f.Pause < 0 || f.Slowdown < 0 || f.Slowdown > 1:
			t.Fatalf("%+v", f)
		case f.Converges == (f.Why != ""):
			t.Fatalf("converges %v: %q", f.Converges, f.Why)
		case !in.Can.XBZRLE && f.Strategy.Name() == xbzrle, !in.Can.Zstd && f.Strategy.Name() == zstd:
			t.Fatalf("%s, which the hosts can't do", f.Strategy.Name())
		case f.Confidence == None && len(list) > 0 && slices.ContainsFunc(list[max(0, len(list)-Keep):], func(r Receipt) bool { return r.Done }):
			t.Fatal("nothing is known, though a migration was done")
		}
		shuffled := slices.Clone(list)
		rand.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		var p Profile
		for _, r := range shuffled {
			p, _ = p.Learn(r)
		}
		if again, isNew := p.Learn(shuffled...); isNew || len(again.Receipts) > Keep {
			t.Fatalf("learned again: new %v, %d receipts", isNew, len(again.Receipts))
		}
		in.Profile = p
		if diff := cmp.Diff(f, Of(in)); diff != "" {
			t.Fatalf("another order of learning, another forecast:\n%s", diff)
		}
	})
}

// That the last migration was given up is told, also after others that ended.
func TestGivenUpLast(t *testing.T) {
	done, up := receipt("1", plain, 60, 100), receipt("2", plain, 20, 0)
	up.Done, up.Code = false, "not-converging"
	if p := Of(with(done, up)).Prior; !p.GaveUp || !p.Ended {
		t.Errorf("done, then given up: %+v", p)
	}
	done.ID = "3"
	if p := Of(with(up, done)).Prior; p.GaveUp || !p.Ended {
		t.Errorf("given up, then done: %+v", p)
	}
}

// A guest whose migrations showed a sweep sweeps.
func TestSweepIsRemembered(t *testing.T) {
	for _, linear := range []bool{false, true} {
		var list []Receipt
		for _, id := range []string{"1", "2", "3"} {
			r := receipt(id, plain, 60, 100)
			r.Growth = model.Growth{Set: 250 * mib, Rate: 35 << 20, Linear: linear && id != "2"}
			list = append(list, r)
		}
		if g := know(with(list...)).growth; g.Linear != linear || Of(with(list...)).Prior.Growth.Linear != linear {
			t.Errorf("linear: %t, want %t", g.Linear, linear)
		}
	}
}

// How far a guest can be slowed is known from its earlier migrations: it depends on what it uses of its CPU, and is half of
// that where it may be silent for twice as long. That it was not slowed, or could not be then, says nothing.
func TestFloorIsLearned(t *testing.T) {
	for _, tc := range []struct {
		floor float64
		pause time.Duration // promised now, where it was 150 ms
		want  float64
	}{
		{0, 150 * time.Millisecond, LeastShare},
		{0.1, 150 * time.Millisecond, LeastShare},
		{0.6, 150 * time.Millisecond, 0.6},
		{0.6, 300 * time.Millisecond, 0.3},
		{0.6, 50 * time.Millisecond, 1},
		{1, 300 * time.Millisecond, LeastShare},
	} {
		r := receipt("1", plain, 60, 100)
		r.FloorShare = tc.floor
		r.Growth = model.Growth{Set: 400 * mib, Rate: 50 << 20}
		in := with(r)
		in.Intent.MaxPause, in.Intent.Ceiling = tc.pause, tc.pause
		k := know(in)
		floor := k.floor(tc.pause)
		if math.Abs(floor-tc.want) > 1e-9 {
			t.Errorf("%v at 150 ms is taken for %v at %s, want %v", tc.floor, floor, tc.pause, tc.want)
		}
		slowed := k.play(k.candidates()[0], circumstances{bandwidth: in.Bandwidth, memory: in.Memory, first: gib, intent: in.Intent})
		if slowed.share < 1 && slowed.share < floor || slowed.share < 1 == (tc.want == 1) {
			t.Errorf("%v at 150 ms: slowed to %v at %s", tc.floor, slowed.share, tc.pause)
		}
	}
}

// Pages of zeros that were not sent are no compression: a move by parallel streams of a small part of the resident
// memory says how much there is to send, and that it hardly shrinks.
func TestZerosAreNoCompression(t *testing.T) {
	r := receipt("1", zstd, 8, 60)
	r.FirstPass, r.FirstWhole = 250*mib, 256*mib // of a GiB resident: the rest held zeros
	k := know(with(r))
	if got := k.firstPass(); got != 256*mib {
		t.Errorf("the next first pass has %s to send, want 256 MiB", got)
	}
	c := k.candidate(hypervisor.Strategy{Compression: "zstd", Connections: zstdStreams}, unseenZstdFirst, unseenZstd)
	if c.first < 0.95 || c.first > 1 {
		t.Errorf("parallel streams are thought to send %.2f of each byte, want 250/256", c.first)
	}
	old := r
	old.FirstWhole = 0
	if got := know(with(old)).firstPass(); got != gib {
		t.Errorf("a receipt that does not tell leaves %s to send, want what is resident", got)
	}
}

// TestWorthSlowing is of a guest that is slowed to 0.4 of its speed for its landing, after 20 s: what it loses is the rest of
// the time that the landing takes, the time that the model does not know of included.
func TestWorthSlowing(t *testing.T) {
	for name, tc := range map[string]struct {
		fast, slow, lost time.Duration
		slowdown         float64
		want             bool
		lean             float64
	}{
		"far sooner over":      {10 * time.Second, time.Second / 2, 0, 0.3, true, 1},
		"too much is lost":     {10 * time.Second, 2 * time.Second, 0, 0.3, false, 1},
		"with what was lost":   {10 * time.Second, time.Second / 2, time.Second, 0.3, false, 1},
		"the class allows not": {10 * time.Second, time.Second / 2, 0, 0.05, false, 1},
		"hardly sooner over":   {5 * time.Second, time.Second / 2, 0, 0.3, false, 1},
		"as was foretold":      {6 * time.Second, time.Second / 2, 0, 0.3, true, lean},
		"which was not":        {7 * time.Second, time.Second / 2, 0, 0.3, false, 1 / lean},
		"nor always":           {10 * time.Second, time.Second / 2, 0, 0.05, false, lean},
	} {
		if got := WorthSlowing(tc.fast, tc.slow, 0.4, tc.lost, 20*time.Second, tc.slowdown, tc.lean); got != tc.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}

// TestLean: what was forecast from migrations decides where passes near the margin would, one way or the other.
func TestLean(t *testing.T) {
	one, two := receipt("1", plain, 100, 60), receipt("2", plain, 100, 60)
	for name, tc := range map[string]struct {
		k     *known
		share float64
		want  float64
	}{
		"never moved":     {know(input()), 0.4, 0},
		"moved once":      {know(with(one)), 0.4, 0},
		"it is slowed":    {know(with(one, two)), 0.4, lean},
		"it is not":       {know(with(one, two)), 1, 1 / lean},
		"it does another": {&known{Input: with(one, two), receipts: []Receipt{one, two}, change: 3}, 1, 0},
	} {
		if got := tc.k.prior(course{share: tc.share}).Lean; got != tc.want {
			t.Errorf("%s: %v, want %v", name, got, tc.want)
		}
	}
}

// TestSlowedForWantOfTime is of a guest that sweeps over its memory nearly as fast as the link takes it. Left to itself it is
// over in its own time; where there is too little of that it is slowed, as late as will do.
func TestSlowedForWantOfTime(t *testing.T) {
	r := receipt("1", plain, 100, 60)
	r.Growth = model.Growth{Set: 400 * mib, Rate: 38 << 20, Linear: true}
	k := know(with(r))
	play := func(budget time.Duration) course {
		at := circumstances{bandwidth: 45e6, memory: gib, first: gib, intent: input().Intent}
		at.intent.Budget = budget
		return k.play(k.candidates()[0], at)
	}
	free := play(0)
	if free.end != promised {
		t.Fatalf("with all the time: %+v", free)
	}
	if c := play(free.took * 3 / 2); c.share != free.share || c.took != free.took {
		t.Errorf("%s are enough: slowed to %.2f, over after %s", free.took, c.share, c.took)
	}
	budget := free.took * 2 / 3
	if c := play(budget); c.end != promised || c.share == 1 || c.took > budget || c.slowdown > 0.3 || c.took < budget/2 {
		t.Errorf("in %s: %+v", budget, c)
	}
}
