package runs_test

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"drover/precopy"
	"drover/test/lab/runs"
)

// of is a completed run in a cell.
func of(cell, policy string, number, receipts int, seconds, pause float64) runs.Run {
	workload, rate, _ := strings.Cut(cell, "@")
	r := runs.Run{
		Workload: workload, Rate: rate, Policy: policy, Number: number, Receipts: receipts, Flags: "--memory 1MiB", Platform: "qemu-1",
		Phase: precopy.Done, Seconds: seconds, PauseMS: pause, RecordedSeconds: seconds, RecordedPause: int64(pause),
	}
	if r.Own() {
		r.Version = "v1"
		r.Forecast = &runs.Forecast{Seconds: seconds, PauseMS: int64(pause)}
		r.PassError = 0.1
	}
	return r
}

func TestFilesKeepEverything(t *testing.T) {
	path := filepath.Join(t.TempDir(), "not", "there", "runs.json")
	if all, err := runs.Load(path); err != nil || all != nil {
		t.Fatalf("no file: %v, %v", all, err)
	}
	want := []runs.Run{of("a@1", "default", 1, 0, 3, 100), of("a@1", runs.Own, 1, 2, 3, 100)}
	want[0].Strategy, want[0].Others = "plain", 1.5
	if err := runs.Save(path, []runs.Run{want[1], want[0]}); err != nil {
		t.Fatal(err)
	}
	got, err := runs.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

// A run is made again only where something that its figures depend on is another.
func TestKeysTellWhatIsToBeMeasured(t *testing.T) {
	r := of("a@1", "default", 1, 0, 3, 100)
	changes := map[string]func(*runs.Run){
		"guest": func(r *runs.Run) { r.Flags = "--memory 2MiB" }, "platform": func(r *runs.Run) { r.Platform = "qemu-2" },
		"number": func(r *runs.Run) { r.Number = 2 }, "link": func(r *runs.Run) { r.Rate = "2" }, "version": func(r *runs.Run) { r.Version = "v2" },
		"receipts": func(r *runs.Run) { r.Receipts = 1 }, "policy": func(r *runs.Run) { r.Policy = "nova" },
	}
	for what, change := range changes {
		other := r
		change(&other)
		if other.Key() == r.Key() {
			t.Errorf("another %s is the same run", what)
		}
	}
	again := r
	again.Seconds, again.PauseMS = 5, 7
	if again.Key() != r.Key() {
		t.Error("the same run measured twice has two keys")
	}
	if got := runs.Merge([]runs.Run{r}, []runs.Run{again}); len(got) != 1 || got[0].Seconds != 5 {
		t.Errorf("merged %+v, want the newer only", got)
	}
}

func TestDisturbedRunsDoNotCount(t *testing.T) {
	quiet, noisy, stolen := of("a@1", "default", 1, 0, 3, 100), of("a@1", "default", 2, 0, 3, 100), of("a@1", "default", 3, 0, 3, 100)
	quiet.Others, noisy.Others, stolen.Stolen = 5, 40, 40
	if got := runs.Undisturbed([]runs.Run{noisy, quiet, stolen}); len(got) != 1 || got[0].Number != 1 {
		t.Errorf("%v count, want only the quiet one", got)
	}
}

func TestRiskyPolicies(t *testing.T) {
	for platform, want := range map[string]bool{
		"qemu-10.0.2 libvirt-11.3.0 guest-1": true, "qemu-10.2 libvirt-11.3.0 guest-1": false, "qemu-8.2.2 libvirt-10.0.0 guest-1": false, "lab": false,
	} {
		zstd, plain := of("idle@1", "multifd-zstd", 1, 0, 3, 100), of("idle@1", "default", 1, 0, 6, 100)
		zstd.Platform, plain.Platform = platform, platform
		if zstd.Risky() != want || plain.Risky() {
			t.Errorf("%s: risky %v and %v, want only %v", platform, zstd.Risky(), plain.Risky(), want)
		}
		if text := runs.Verdict([]runs.Run{zstd, plain}); strings.Contains(text, "Without multifd-zstd") != want {
			t.Errorf("%s: %s", platform, text)
		}
	}
}

// The best fixed policy of a cell is looked for also among those that do only what the class allows.
func TestPoliciesThatTheClassForbids(t *testing.T) {
	all := []runs.Run{
		of("hot@1", "postcopy", 1, 0, 5, 100), of("hot@1", "default", 1, 0, 9, 100),
		of("hot@1", runs.Own, 1, 0, 8, 100), of("hot@1", runs.Own, 1, 2, 8, 100),
	}
	text := runs.Verdict(all)
	with, without, found := strings.Cut(text, "Without post-copy")
	if !found || !strings.Contains(with, "hot@1 1.60") || strings.Contains(without, "hot@1 1.60") {
		t.Errorf("it is 1.6 times post-copy's time, and less than the default's:\n%s", text)
	}
	if text := runs.Verdict(all[1:]); strings.Contains(text, "Without post-copy") {
		t.Errorf("nothing to leave out:\n%s", text)
	}
}

// good is a benchmark in which all holds: a cell where a fixed policy does, and one where none does.
func good() []runs.Run {
	var all []runs.Run
	for n := 1; n <= 3; n++ {
		hopeless := of("wide@1", "default", n, 0, 75, 20)
		hopeless.Phase, hopeless.Code = precopy.Aborted, "over-budget"
		refused := of("wide@1", runs.Own, n, 0, 10, 20)
		refused.Phase, refused.Code = precopy.Aborted, "not-converging"
		lossy := of("idle@1", "nova", n, 0, 10, 140)
		lossy.LostWork = 1
		all = append(all,
			lossy, of("idle@1", "xbzrle", n, 0, 5, 950), of("idle@1", "least-pause", n, 0, 11, 60),
			of("idle@1", runs.Own, n, 0, 11, 80), of("idle@1", runs.Own, n, 2, 9, 80),
			hopeless, refused, of("wide@1", runs.OwnHalf, n, 0, 60, 140))
	}
	return all
}

func TestJudge(t *testing.T) {
	for _, l := range runs.Judge(good()) {
		if l.Holds() != "yes" {
			t.Errorf("%s: %s, %s %v", l.What, l.Holds(), l.Note, l.Failed)
		}
	}
	for _, l := range runs.Judge(nil) {
		if l.Holds() != "not measured" {
			t.Errorf("nothing measured: %s: %s", l.What, l.Holds())
		}
	}
	set := func(cell string, policy string, receipts int, change func(*runs.Run)) func([]runs.Run) {
		return func(all []runs.Run) {
			for i := range all {
				if all[i].Cell() == cell && all[i].Policy == policy && all[i].Receipts == receipts {
					change(&all[i])
				}
			}
		}
	}
	for _, tc := range []struct {
		line   string
		change func([]runs.Run)
	}{
		{"keeps the promise", set("idle@1", runs.Own, 0, func(r *runs.Run) { r.Phase = precopy.Aborted })},
		{"refuses or gives up", set("wide@1", runs.Own, 0, func(r *runs.Run) { r.Seconds = 20 })},
		{"refuses or gives up", set("wide@1", runs.Own, 0, func(r *runs.Run) { r.Code = "over-budget" })},
		{"pause of at most 150 ms", set("idle@1", runs.Own, 0, func(r *runs.Run) { r.PauseMS = 151 })},
		{"idle guests pause", set("idle@1", runs.Own, 2, func(r *runs.Run) { r.PauseMS = 120 })},
		{"never a pause beyond", set("wide@1", runs.OwnHalf, 0, func(r *runs.Run) { r.PauseMS = 901 })},
		{"time of guests never seen", set("idle@1", runs.Own, 0, func(r *runs.Run) { r.Seconds = 12.6 })},
		{"time after two receipts", set("idle@1", runs.Own, 2, func(r *runs.Run) { r.Seconds = 11.1 })},
		{"geometric mean", set("idle@1", runs.Own, 2, func(r *runs.Run) { r.Seconds = 9.6 })},
		{"guest work lost", set("idle@1", runs.Own, 2, func(r *runs.Run) { r.LostWork = 1.1 })},
		{"where no fixed policy", set("wide@1", runs.OwnHalf, 0, func(r *runs.Run) { r.Phase = precopy.Aborted })},
		{"forecast durations", set("idle@1", runs.Own, 2, func(r *runs.Run) { r.Forecast.Seconds = 6.7 })},
		{"forecast pauses", set("idle@1", runs.Own, 2, func(r *runs.Run) { r.Forecast.PauseMS = 141 })},
		{"no page of a guest", set("idle@1", runs.Own, 2, func(r *runs.Run) { r.Mismatches = 1 })},
	} {
		all := good()
		tc.change(all)
		lines := runs.Judge(all)
		at := slices.IndexFunc(lines, func(l runs.Line) bool { return strings.HasPrefix(l.What, tc.line) })
		if at < 0 || lines[at].Holds() != "NO" {
			t.Errorf("%s: holds although it should not: %+v", tc.line, lines)
		}
	}
}

func TestVerdictNamesTheBest(t *testing.T) {
	text := runs.Verdict(good()) + runs.Table(good())
	for _, want := range []string{"nova", "none", "0.90", "drover (2 receipts)", "3 aborted over-budget", "off by 10 % in the median"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
}
