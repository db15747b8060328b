//go:build bench

package lab

import (
	"crypto/sha256"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"drover/precopy"
	"drover/precopy/tune"
	"drover/test/lab/runs"
)

// workload is what a guest of the pre-copy benchmark does.
type workload struct {
	name  string
	flags []string
}

// The workloads, from easy to impossible without help on the rates below. Each guest has one vCPU.
var workloads = []workload{
	{"idle", []string{"--memory", "512MiB", "--wss", "16MiB", "--pattern", "idle"}},
	{"word", []string{"--memory", "384MiB", "--wss", "96MiB", "--rate", "20000", "--pattern", "word"}},
	{"hot", []string{"--memory", "384MiB", "--wss", "96MiB", "--rate", "12000", "--pattern", "page"}},
	{"wide", []string{"--memory", "640MiB", "--wss", "256MiB", "--rate", "9000", "--pattern", "page"}},
	{"sweep", []string{"--memory", "640MiB", "--wss", "256MiB", "--rate", "9000", "--pattern", "sweep"}},
	{"bursts", []string{"--memory", "512MiB", "--wss", "192MiB", "--rate", "16000", "--pattern", "burst"}},
}

var rates = []string{"400mbit", "200mbit"}

// shipped are runs of fixed policies that need not be made again.
const shipped = "testdata/precopy-fixed.json"

// matrix is the benchmark under way.
type matrix struct {
	*Lab
	all      []runs.Run
	path     string
	platform string
	version  string // of drover
	cells    *regexp.Regexp
	policies *regexp.Regexp
	fresh    bool // fixed policies are measured although the shipped file has them
	until    time.Time
}

func env(name, otherwise string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return otherwise
}

// TestPrecopy runs the matrix: DROVER_CELLS and DROVER_POLICIES (regular expressions) choose,
// DROVER_RUNS (3) says how often, DROVER_RESULTS where the results go, DROVER_FRESH=1 that fixed policies
// are measured again, DROVER_FOR after how long no run is begun any more. A run that is in the results, or among those of fixed policies that are shipped, is
// not made again, so that an interrupted benchmark goes on where it stopped.
func TestPrecopy(t *testing.T) {
	times, err := strconv.Atoi(env("DROVER_RUNS", "3"))
	if err != nil {
		t.Fatal(err)
	}
	limit, err := time.ParseDuration(env("DROVER_FOR", "1000h"))
	if err != nil {
		t.Fatal(err)
	}
	m := &matrix{
		until: time.Now().Add(limit),
		Lab:   begin(t, "1gbit"), cells: regexp.MustCompile(env("DROVER_CELLS", ".")),
		policies: regexp.MustCompile(env("DROVER_POLICIES", ".")), fresh: env("DROVER_FRESH", "0") == "1",
	}
	m.path = env("DROVER_RESULTS", m.Build+"/bench-precopy.json")
	m.platform = platform(t, m.Lab)
	m.version = strings.Fields(m.MustDrover(t, "version").Stdout)[1] // "drover VERSION", then what it was built with
	if m.all, err = runs.Load(m.path); err != nil {
		t.Fatal(err)
	}
	have := runs.Keys(runs.Undisturbed(m.all))
	known, err := runs.Load(shipped)
	if err != nil {
		t.Fatal(err)
	}
	if !m.fresh {
		for key := range runs.Keys(known) {
			have[key] = true
		}
	}
	for _, rate := range rates {
		shaped := false
		for n := 1; n <= times; n++ {
			for _, w := range workloads {
				// The policies in turn, so that the machine's moods strike all alike.
				for _, p := range append([]string{runs.Own, runs.OwnHalf}, tune.FixedNames()...) {
					r := m.run(w, rate, p, n)
					if !m.cells.MatchString(r.Cell()) || !m.policies.MatchString(p) || have[r.Key()] || time.Now().After(m.until) {
						continue
					}
					if !shaped {
						m.shape(t, rate)
						shaped = true
					}
					m.add(t, m.measure(t, w, r))
				}
			}
		}
	}
	mine := runs.Select(runs.Merge(known, runs.Undisturbed(m.all)), func(r runs.Run) bool {
		return r.Platform == m.platform && (!r.Own() || r.Version == m.version)
	})
	t.Log("\n" + runs.Table(mine) + "\n" + runs.Verdict(mine))
}

// platform is what the figures of a fixed policy depend on besides the machine and the workload.
func platform(t *testing.T, l *Lab) string {
	t.Helper()
	text := l.Virsh(t, "kvm1", "version", "--daemon")
	find := func(what string) string {
		found := regexp.MustCompile(what + `:? (?:QEMU )?([\d.]+)`).FindStringSubmatch(text)
		if found == nil {
			t.Fatalf("no %q in:\n%s", what, text)
		}
		return found[1]
	}
	program, err := os.ReadFile("../../cmd/drover-lab/guest/program/init.c")
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("qemu-%s libvirt-%s guest-%.4x", find("Running hypervisor"), find("Running against daemon"), sha256.Sum256(program))
}

// shape gives the links a rate. The agents are told what their links carry, as an admin would configure it.
func (m *matrix) shape(t *testing.T, rate string) {
	t.Helper()
	m.Do(t, "shape", "all", rate)
	m.Do(t, "drover", "stop")
	m.Do(t, "drover", "start")
	m.Ready(t)
}

func (m *matrix) run(w workload, rate, policy string, number int) runs.Run {
	r := runs.Run{
		Workload: w.name, Rate: rate, Policy: policy, Number: number,
		Flags: strings.Join(w.flags, " "), Platform: m.platform,
	}
	if r.Own() {
		r.Version = m.version
	}
	return r
}

func (m *matrix) add(t *testing.T, more []runs.Run) {
	t.Helper()
	for _, r := range more {
		t.Logf("%-14s %-14s run %d/%d: %-8s %6.1f s  pause %5.0f ms  lost %5.1f s  %s  others %2.0f %% %s", r.Cell(), r.Policy, r.Number, r.Receipts,
			r.Phase, r.Seconds, r.PauseMS, r.LostWork, r.Strategy, r.Others, r.Code)
	}
	m.all = runs.Merge(m.all, more)
	if err := runs.Save(m.path, m.all); err != nil {
		t.Fatal(err)
	}
}

// measure starts a guest, moves it by the policy, and notes what was seen from outside: once, or for
// drover's own policy as often as its receipts matter.
func (m *matrix) measure(t *testing.T, w workload, r runs.Run) []runs.Run {
	t.Helper()
	guest := fmt.Sprintf("b-%s-%s-%s-%d", w.name, strings.TrimSuffix(r.Rate, "bit"), r.Policy, r.Number) // at most 31 characters
	m.Do(t, append([]string{"guest", "start", guest, "--host", "kvm1"}, w.flags...)...)
	defer m.Do(t, "guest", "stop", guest)
	if !r.Own() {
		time.Sleep(3 * time.Second)
		m.move(t, guest, "kvm2", &r, "--tuning", r.Policy)
		return []runs.Run{r}
	}
	// Long enough for its first report, and the sample of its dirty rate, to be there.
	time.Sleep(25 * time.Second)
	var flags []string
	if r.Policy == runs.OwnHalf {
		flags = []string{"--max-slowdown", "50%"}
	}
	var out []runs.Run
	for n, at := 0, 1; n < runs.Moves; n++ {
		next := r
		next.Receipts = n
		m.move(t, guest, fmt.Sprint("kvm", 3-at), &next, flags...)
		out = append(out, next)
		if next.Phase == precopy.Done {
			at = 3 - at
		}
		time.Sleep(6 * time.Second)
	}
	return out
}

// move moves the guest once.
func (m *matrix) move(t *testing.T, guest, to string, r *runs.Run, flags ...string) {
	t.Helper()
	args := append([]string{"migrate", guest, "--to", to, "--wait", "--deadline", runs.Budget.String()}, flags...)
	before := m.newest(t, guest)
	probe, watch := m.Probe(t, guest), watchMachine(t)
	time.Sleep(2 * time.Second)
	res := m.Drover(t.Context(), args...)
	time.Sleep(500 * time.Millisecond)
	seen, machine := probe.Stop(t), watch.end(t)
	r.PauseMS, r.LostWork, r.Mismatches = seen.SilenceMS, seen.LostS, seen.Mismatches
	r.Idle, r.Others, r.Stolen = tenth(machine.idle), tenth(machine.others), tenth(machine.stolen)
	rec := m.newest(t, guest)
	if rec.ID == before.ID {
		if res.Code == 0 {
			t.Fatalf("%s: moved without a record: %s", guest, res)
		}
		r.Phase, r.Reason = runs.Refused, strings.TrimSpace(res.Stderr)
		return
	}
	if !rec.Phase.Final() {
		t.Fatalf("%s: not over: %s", guest, res)
	}
	note(r, rec)
}

// newest is the guest's newest migration; the zero one when there was none.
func (m *matrix) newest(t *testing.T, guest string) precopy.Migration {
	t.Helper()
	all := m.records(t, guest, "migration", "list")
	if len(all) == 0 {
		return precopy.Migration{}
	}
	return all[len(all)-1]
}

// note takes over what the record says.
func note(r *runs.Run, rec precopy.Migration) {
	r.Phase, r.Code = rec.Phase, rec.ReasonCode
	if rec.Phase != precopy.Done {
		r.Reason = rec.Reason
	}
	if rec.Started != nil {
		r.Seconds = rec.Finished.Sub(*rec.Started).Seconds()
	}
	if o := rec.Outcome; o != nil {
		r.Strategy, r.MiB, r.Rounds, r.Throttle = o.Strategy, int64(o.Bytes>>20), o.Rounds, o.ThrottleMaxPercent
		r.RecordedSeconds, r.RecordedPause = o.Seconds, o.PauseMS
		if o.Receipt != nil {
			r.PassError = o.Receipt.PassError
		}
	}
	if f := rec.Forecast; f != nil && r.Own() {
		r.Forecast = &runs.Forecast{Seconds: f.Seconds, PauseMS: f.PauseMS, Strategy: f.Strategy, Confidence: string(f.Confidence)}
	}
}

func tenth(x float64) float64 { return float64(int(x*10+0.5)) / 10 }
