//go:build soak

package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"drover/precopy"
	"drover/scheduler/fleet"
)

// places is where guests are by what each host's libvirt says.
type places struct{ running, known map[string][]string }

// places asks each host once.
func (l *Lab) places(t testing.TB) places {
	t.Helper()
	p := places{map[string][]string{}, map[string][]string{}}
	for _, h := range l.Hosts {
		for line := range strings.Lines(l.Virsh(t, h, "list", "--all")) {
			f := strings.Fields(line)
			if len(f) < 3 {
				continue
			}
			p.known[f[1]] = append(p.known[f[1]], h)
			if f[2] == "running" {
				p.running[f[1]] = append(p.running[f[1]], h)
			}
		}
	}
	return p
}

// settled asserts that each guest runs on one host, is known to no other, and lost nothing, and returns where
// they are.
func settled(t *testing.T, l *Lab, guests []string) map[string]string {
	t.Helper()
	p, at := l.places(t), map[string]string{}
	for _, g := range guests {
		if len(p.running[g]) != 1 || !slices.Equal(p.running[g], p.known[g]) {
			t.Errorf("%s runs on %v and is known to %v, want one host", g, p.running[g], p.known[g])
			continue
		}
		at[g] = p.running[g][0]
		l.Verify(t, g)
	}
	return at
}

// on are the hosts that have guests.
func on(at map[string]string) []string {
	var out []string
	for _, h := range at {
		if !slices.Contains(out, h) {
			out = append(out, h)
		}
	}
	slices.Sort(out)
	return out
}

// run reads a run's record; false while it can't be read.
func (l *Lab) run1by(t testing.TB, id string) (fleet.Run, bool) {
	t.Helper()
	var r fleet.Run
	res := l.Drover(t.Context(), "run", "show", id, "-o", "json", "--timeout", "3s")
	return r, res.Code == 0 && json.Unmarshal([]byte(res.Stdout), &r) == nil
}

// over waits for the run's end.
func (l *Lab) over(t *testing.T, id string, limit time.Duration) fleet.Run {
	t.Helper()
	var r fleet.Run
	l.Eventually(t, limit, "run "+id+" is over", func() bool {
		next, ok := l.run1by(t, id)
		if ok {
			r = next
		}
		return ok && r.Phase.Final()
	})
	return r
}

// startDrain asks for a drain of where the guests are, all at once, and returns its ID.
func (l *Lab) startDrain(t *testing.T, hosts []string, flags ...string) string {
	t.Helper()
	l.open(t)
	r := l.MustDrover(t, append(append([]string{"host", "drain"}, hosts...), flags...)...)
	return strings.TrimSpace(r.Stdout)
}

// small starts guests of 112 to 128 MiB on kvm1; every third writes all the time.
func small(t *testing.T, l *Lab, n int) []string {
	t.Helper()
	var guests []string
	for i := range n {
		g := fmt.Sprintf("small%02d", i+1)
		flags := []string{"--disk", "shared", "--memory", fmt.Sprintf("%dMiB", 112+8*(i%3))}
		if i%3 == 0 {
			flags = append(flags, "--wss", "8MiB", "--rate", "300", "--pattern", "page")
		} else {
			flags = append(flags, "--wss", "8MiB", "--pattern", "idle", "--beat", "20ms")
		}
		l.Guest(t, g, "kvm1", flags...)
		guests = append(guests, g)
	}
	return guests
}

var (
	movedText = regexp.MustCompile(`(\d+) of (\d+) moved`)
	byText    = regexp.MustCompile(`done by (\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)`)
	doneText  = regexp.MustCompile(`(\d+) VMs? moved in ([^,\n]+?)(?:, longest pause (\d+) ms \((\S+)\))?\n`)
)

// span reads a time as it is printed, such as "1 min 3 s"; what is below its last unit is cut off.
func span(text string) time.Duration {
	d, _ := time.ParseDuration(strings.NewReplacer("min", "m", " ", "").Replace(text))
	return d
}

// inRecord asserts that each number that a wait printed stands in the run's record.
func inRecord(t *testing.T, printed string, r fleet.Run) {
	t.Helper()
	stamp := func(at time.Time) string { return at.Local().Format("2006-01-02 15:04:05") }
	ends := map[string]bool{}
	for _, f := range r.Forecasts {
		ends[stamp(f.End)] = true
	}
	n := 0
	for _, m := range byText.FindAllStringSubmatch(printed, -1) {
		if n++; !ends[m[1]] {
			t.Errorf("printed end %s is not among the record's forecasts", m[1])
		}
	}
	moved, most := 0, int64(0)
	for _, m := range r.Moves {
		if m.State == fleet.MoveMoved {
			moved++
			most = max(most, m.PauseMS)
		}
	}
	for _, m := range movedText.FindAllStringSubmatch(printed, -1) {
		if n++; m[2] != fmt.Sprint(len(r.Moves)) {
			t.Errorf("printed %q, the record has %d moves", m[0], len(r.Moves))
		}
	}
	last := doneText.FindStringSubmatch(printed)
	if last == nil {
		t.Errorf("no last line in %q", printed)
		return
	}
	off := r.Finished.Sub(r.Created) - span(last[2])
	if last[1] != fmt.Sprint(moved) || off < 0 || off >= time.Second || most > 0 && last[3] != fmt.Sprint(most) {
		t.Errorf("printed %q, the record says %d moved in %s, longest pause %d ms", last[0], moved, r.Finished.Sub(r.Created), most)
	}
	t.Logf("%d numbers held against the record", n+3)
}

// TestDrainTwelve: twelve guests leave kvm1 and come back, watched from outside.
func TestDrainTwelve(t *testing.T) {
	l := begin(t, "400mbit")
	guests := small(t, l, 12)
	probes := map[string]*Probe{}
	for _, g := range guests {
		probes[g] = l.Probe(t, g)
	}
	time.Sleep(2 * time.Second)
	for _, args := range [][]string{{"host", "drain", "kvm1", "--wait", "--deadline", "10m"}, {"host", "restore", "kvm1", "--wait"}} {
		r := l.MustDrover(t, args...)
		run, ok := l.run1(t)
		if !ok || run.Phase != fleet.RunDone {
			t.Fatalf("%s: run %s (%s)", r, run.Phase, run.Reason)
		}
		t.Logf("%s took %s:\n%s%s", run.Kind, r.Took.Round(time.Millisecond), r.Stderr, r.Stdout)
		inRecord(t, r.Stderr+r.Stdout, run)
		at := settled(t, l, guests)
		for g, h := range at {
			if (h == "kvm1") != (run.Kind == fleet.RunRestore) {
				t.Errorf("after the %s %s is on %s", run.Kind, g, h)
			}
		}
		keptPauses(t, l, run)
	}
	for _, g := range guests {
		seen := probes[g].Stop(t)
		t.Logf("%s from outside: longest silence %.0f ms, %d mismatches", g, seen.SilenceMS, seen.Mismatches)
		if !seen.Alive || seen.Mismatches > 0 {
			t.Errorf("%s from outside: %+v", g, seen)
		}
	}
}

// keptPauses asserts that no guest was paused for longer than promised.
func keptPauses(t *testing.T, l *Lab, run fleet.Run) {
	t.Helper()
	var all []precopy.Migration
	unmarshal(t, l.MustDrover(t, "migration", "list", "-o", "json").Stdout, &all)
	for _, m := range all {
		if m.Run != run.ID || m.Phase != precopy.Done {
			continue
		}
		if m.Outcome == nil || !m.Outcome.PauseKnown || m.Outcome.PauseMS > m.Policy.MaxPauseMS {
			t.Errorf("%s: outcome %+v, promised were %d ms", m.Domain, m.Outcome, m.Policy.MaxPauseMS)
		}
	}
}

// completed counts each VM's completed moves of a run.
func (l *Lab) completed(t *testing.T, run string) map[string]int {
	t.Helper()
	out, seen := map[string]int{}, map[string]bool{}
	for _, listing := range [][]string{{"migration", "list"}, {"history", "--limit", "10000"}} {
		var all []precopy.Migration
		unmarshal(t, l.MustDrover(t, append(listing, "-o", "json")...).Stdout, &all)
		for _, m := range all {
			if m.Run == run && m.Phase == precopy.Done && !seen[m.ID] {
				seen[m.ID] = true
				out[m.Domain]++
			}
		}
	}
	return out
}

// TestDrainKilled kills what a drain needs at random moments; what was killed is started again as systemd would.
func TestDrainKilled(t *testing.T) {
	n := count(t, "DROVER_DRAIN", 5)
	l := begin(t, "200mbit")
	guests := small(t, l, 6)
	at := settled(t, l, guests)
	victims := map[string]func(sources []string) (host, daemon string){
		"scheduler":    func([]string) (string, string) { return "control", "scheduler" },
		"source agent": func(s []string) (string, string) { return s[rand.IntN(len(s))], "agent" },
		"target agent": func(s []string) (string, string) {
			targets := slices.DeleteFunc(slices.Clone(l.Hosts), func(h string) bool { return slices.Contains(s, h) })
			return targets[rand.IntN(len(targets))], "agent"
		},
	}
	if os.Getenv("DROVER_LAB_ETCD") != "" {
		victims["etcd"] = func([]string) (string, string) { return "control", "etcd" }
	} else {
		t.Log("the store is inside the scheduler, and dies with it; DROVER_LAB_ETCD=FILE has an etcd of its own killed")
	}
	usual := 12 * time.Second // how long a drain takes here
	for _, name := range []string{"scheduler", "etcd", "source agent", "target agent"} {
		victim := victims[name]
		for i := 0; victim != nil && i < n; i++ {
			from := on(at)
			id := l.startDrain(t, from)
			began := time.Now()
			after := time.Duration(rand.Int64N(int64(usual)))
			time.Sleep(after)
			host, daemon := victim(from)
			l.Do(t, "signal", host, daemon, "KILL")
			r := l.over(t, id, 5*time.Minute)
			took := time.Since(began)
			if took < 2*usual {
				usual = (usual + took) / 2
			}
			at = settled(t, l, guests)
			left := slices.DeleteFunc(on(at), func(h string) bool { return !slices.Contains(from, h) })
			done := l.completed(t, id)
			tries := 0
			for _, m := range r.Moves {
				tries += len(m.Tries)
			}
			t.Logf("%s on %s killed after %s: drain of %v is %s (%s) after %s, %d tries that failed", name, host, after.Round(time.Millisecond), from, r.Phase, r.Reason, took.Round(time.Second), tries)
			if r.Phase != fleet.RunDone || len(left) > 0 {
				t.Errorf("%s (%s), guests are left on %v: %+v", r.Phase, r.Reason, left, r.Moves)
			}
			for g, k := range done {
				if k > 1 {
					t.Errorf("%s was moved %d times by one drain", g, k)
				}
			}
			l.open(t)
		}
	}
}

// TestDrainCancelSeries cancels drains at random moments, in all ways.
func TestDrainCancelSeries(t *testing.T) {
	n := count(t, "DROVER_DRAIN", 20)
	l := begin(t, "200mbit")
	guests := small(t, l, 6)
	at := settled(t, l, guests)
	for i := range n {
		perHost := map[string]int{}
		for _, h := range at {
			perHost[h]++
		}
		from := l.Hosts[0]
		for _, h := range l.Hosts {
			if perHost[h] > perHost[from] {
				from = h
			}
		}
		id := l.startDrain(t, []string{from})
		after := time.Duration(rand.Int64N(int64(8 * time.Second)))
		time.Sleep(after)
		args := []string{"run", "cancel", id, "--wait"}
		abort, open := i%2 == 1, i%4 >= 2
		if abort {
			args = append(args, "--abort")
		}
		if open {
			args = append(args, "--uncordon")
		}
		res := l.Drover(t.Context(), args...)
		r, ok := l.run1by(t, id)
		if !ok || !r.Phase.Final() || res.Code != 0 && r.Phase != fleet.RunDone {
			t.Fatalf("cancelled after %s: %s, run %s (%s)", after, res, r.Phase, r.Reason)
		}
		at = settled(t, l, guests)
		time.Sleep(4 * time.Second)
		if later := settled(t, l, guests); fmt.Sprint(later) != fmt.Sprint(at) {
			t.Errorf("something went on after the cancel: %v, then %v", at, later)
		}
		var all []precopy.Migration
		unmarshal(t, l.MustDrover(t, "migration", "list", "-o", "json").Stdout, &all)
		for _, m := range all {
			if m.Run == id && !m.Phase.Final() {
				t.Errorf("migration of %s is %s after the cancel", m.Domain, m.Phase)
			}
		}
		var hosts []struct {
			Name    string `json:"name"`
			Cordons []struct {
				Holder string `json:"holder"`
			} `json:"cordons"`
		}
		unmarshal(t, l.MustDrover(t, "host", "list", "-o", "json").Stdout, &hosts)
		for _, h := range hosts {
			closed := len(h.Cordons) > 0
			want := h.Name == from && (!open || r.Phase == fleet.RunDone) && r.Started != nil
			if closed != want {
				t.Errorf("%s: closed %v, want %v", h.Name, closed, want)
			}
		}
		moved := 0
		for _, m := range r.Moves {
			if m.State == fleet.MoveMoved {
				moved++
			}
		}
		t.Logf("%d: drain of %s cancelled after %s (abort %v, uncordon %v): %s, %d moved, over %s after the cancel", i+1, from, after.Round(time.Millisecond), abort, open, r.Phase, moved, res.Took.Round(time.Millisecond))
	}
}

// TestDrainForecast holds the end that was told after a tenth of each drain against the one that came.
func TestDrainForecast(t *testing.T) {
	n := count(t, "DROVER_DRAIN", 10)
	l := begin(t, "200mbit")
	guests := small(t, l, 8)
	good := 0
	type told struct {
		Seconds float64 `json:"seconds"`
		Told    float64 `json:"told_after_a_tenth_seconds"`
		First   float64 `json:"told_first_seconds"`
		Off     float64 `json:"off_share"`
	}
	var all []told
	for i := range n {
		l.MustDrover(t, "host", "drain", "kvm1", "--wait")
		r, ok := l.run1(t)
		if !ok || r.Phase != fleet.RunDone || len(r.Forecasts) == 0 {
			t.Fatalf("drain %d: %s (%s), %d forecasts", i, r.Phase, r.Reason, len(r.Forecasts))
		}
		took := r.Finished.Sub(*r.Started)
		off, known := r.Told(0.1)
		if !known {
			t.Fatalf("drain %d told nothing", i)
		}
		one := told{
			took.Seconds(), (1 + off) * took.Seconds(), r.Forecasts[0].End.Sub(*r.Started).Seconds(), off,
		}
		all = append(all, one)
		if one.Off >= -0.2 && one.Off <= 0.2 {
			good++
		}
		t.Logf("drain %d took %.1f s; told first %.1f s, after a tenth %.1f s: off by %+.0f %%", i+1, one.Seconds, one.First, one.Told, 100*one.Off)
		l.MustDrover(t, "host", "restore", "kvm1", "--wait")
	}
	settled(t, l, guests)
	text, _ := json.MarshalIndent(all, "", "  ")
	if err := os.WriteFile(filepath.Join(l.Build, "drain-forecast.json"), text, 0o644); err != nil {
		t.Error(err)
	}
	if 10*good < 9*n {
		t.Errorf("%d of %d forecasts were within a fifth, want nine of ten", good, n)
	}
}

// TestDrainBlocked: what can't move is listed with its remedy before anything is changed, and a part is done if
// that was asked for.
func TestDrainBlocked(t *testing.T) {
	l := begin(t, "1gbit")
	guests := small(t, l, 5)
	l.Guest(t, "local", "kvm1", append([]string{"--disk", "local"}, idle...)...)
	file := filepath.Join(t.TempDir(), "policy.yaml")
	rule := "schema: 1\ngroups:\n- {name: apart, vms: [small01, small02, small03], kind: anti_affinity, strength: required}\n"
	if err := os.WriteFile(file, []byte(rule), 0o600); err != nil {
		t.Fatal(err)
	}
	l.MustDrover(t, "policy", "apply", file)
	without := filepath.Join(t.TempDir(), "without.yaml")
	if err := os.WriteFile(without, []byte("schema: 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Drover(context.Background(), "policy", "apply", without) })
	l.MustDrover(t, "vm", "set", "small05", "--pinned")
	time.Sleep(3 * time.Second)
	r := l.Drover(t.Context(), "host", "drain", "kvm1")
	t.Logf("%s", r)
	if r.Code != 1 || !strings.Contains(r.Stderr, "nothing was changed") {
		t.Errorf("want it refused: %s", r)
	}
	blocked := map[string]string{}
	for line := range strings.Lines(r.Stdout) {
		if f := strings.Fields(line); len(f) > 2 && f[2] == "BLOCKED" {
			blocked[f[0]] = line
		}
	}
	for _, vm := range []string{"local", "small05"} {
		if !strings.Contains(blocked[vm], "drover ") && !strings.Contains(blocked[vm], "(") {
			t.Errorf("%s: %q, want it blocked with a remedy", vm, blocked[vm])
		}
	}
	rules := 0
	for _, vm := range []string{"small01", "small02", "small03"} {
		if strings.Contains(blocked[vm], "drover policy edit") {
			rules++
		}
	}
	if rules == 0 || len(blocked) != 2+rules {
		t.Errorf("blocked: %v; want local, small05, and one of the three that must be kept apart", blocked)
	}
	r = l.Drover(t.Context(), "host", "drain", "kvm1", "--on-blocked", "skip", "--wait")
	t.Logf("%s", r)
	if r.Code != 3 {
		t.Errorf("exit status %d, want 3", r.Code)
	}
	settled(t, l, append(slices.Clone(guests), "local"))
	l.MustDrover(t, "vm", "set", "small05", "--pinned=false")
	// Two of the three that are to be kept apart came from the host that the third is still on.
	if r = l.Drover(t.Context(), "host", "restore", "kvm1", "--wait"); r.Code != 3 || !strings.Contains(r.Stderr, "keeps it apart from") {
		t.Errorf("want a part brought home: %s", r)
	}
	l.MustDrover(t, "policy", "apply", without)
	l.MustDrover(t, "host", "restore", "kvm1", "--wait")
}
