//go:build bench

package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"drover/precopy"
	"drover/precopy/tune"
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

// budget is the finish-by of every run: fixed policies are ended there too.
const budget = 75 * time.Second

// measured is one run of one policy in one cell.
type measured struct {
	Workload   string            `json:"workload"`
	Rate       string            `json:"rate"`
	Policy     string            `json:"policy"`
	Run        int               `json:"run"`
	Receipts   int               `json:"receipts"` // earlier migrations of the same VM
	Version    string            `json:"version"`
	Phase      precopy.Phase     `json:"phase"`
	ReasonCode string            `json:"reason_code,omitempty"`
	Seconds    float64           `json:"seconds"` // from order to end, as the record has it
	Pause      float64           `json:"pause_ms"`
	LostWork   float64           `json:"lost_work_seconds"`
	Mismatches int64             `json:"mismatches"`
	Idle       float64           `json:"idle_cpu_percent"` // of the machine, during the run
	Outcome    *precopy.Outcome  `json:"outcome,omitempty"`
	Forecast   *precopy.Forecast `json:"forecast,omitempty"`
}

func (m measured) cell() string { return m.Workload + "@" + m.Rate }
func (m measured) key() string {
	return fmt.Sprintf("%s/%s/%d/%d/%s", m.cell(), m.Policy, m.Run, m.Receipts, m.Version)
}

// own is drover's policy. Its guests are moved several times in a row: never seen before, with one
// receipt, and with two.
const (
	own   = "drover"
	moves = 3
)

// name is the policy, and for drover's own how often it had moved the guest before.
func (m measured) name() string {
	if m.Policy == own {
		return fmt.Sprintf("%s (%d receipts)", own, m.Receipts)
	}
	return m.Policy
}

// kept says whether the run kept the promise: the pause within the ceiling, done within the budget.
func (m measured) kept() bool {
	return m.Phase == precopy.Done && m.Pause <= 900 && m.Seconds <= budget.Seconds() && m.Mismatches == 0
}

func envOr(name, otherwise string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return otherwise
}

// TestPrecopy runs the matrix: DROVER_CELLS and DROVER_POLICIES (regular expressions) choose,
// DROVER_RUNS (3) says how often, DROVER_RESULTS where the results go. A run that is in the results
// already is not made again, so that an interrupted benchmark goes on where it stopped.
func TestPrecopy(t *testing.T) {
	cells := regexp.MustCompile(envOr("DROVER_CELLS", "."))
	policies := regexp.MustCompile(envOr("DROVER_POLICIES", "."))
	runs, err := strconv.Atoi(envOr("DROVER_RUNS", "3"))
	if err != nil {
		t.Fatal(err)
	}
	l := begin(t, "1gbit")
	path := envOr("DROVER_RESULTS", l.Build+"/bench-precopy.json")
	all := load(t, path)
	qemu := strings.TrimSpace(l.Virsh(t, "kvm1", "version", "--daemon"))
	version := regexp.MustCompile(`[^\w.]+`).ReplaceAllString(qemu[strings.LastIndex(qemu, "\n")+1:], "-")
	// What was measured of fixed policies with the same versions of libvirt and QEMU is not measured again.
	for _, m := range load(t, "testdata/precopy-fixed.json") {
		if m.Version == version && !slices.ContainsFunc(all, func(o measured) bool { return o.key() == m.key() }) {
			all = append(all, m)
		}
	}
	have := map[string]bool{}
	for _, m := range all {
		have[m.key()] = true
	}
	for _, rate := range rates {
		// The agents are told what their links carry, as an admin would configure it.
		l.Do(t, "shape", "all", rate)
		l.Do(t, "drover", "stop")
		l.Do(t, "drover", "start")
		l.Ready(t)
		for run := 1; run <= runs; run++ {
			for _, w := range workloads {
				// The policies in turn, so that the machine's moods strike all alike.
				for _, p := range append([]string{own}, tune.FixedNames()...) {
					m := measured{Workload: w.name, Rate: rate, Policy: p, Run: run, Version: version}
					if p == own {
						m.Version = strings.TrimSpace(l.MustDrover(t, "version").Stdout)
					}
					if !cells.MatchString(m.cell()) || !policies.MatchString(p) || have[m.key()] {
						continue
					}
					for _, m := range l.measure(t, w, m) {
						all = append(all, m)
						t.Logf("%-14s %-14s run %d/%d: %-8s %6.1f s  pause %5.0f ms  lost %5.1f s  idle %2.0f %% %s", m.cell(), p, run, m.Receipts, m.Phase, m.Seconds, m.Pause, m.LostWork, m.Idle, m.ReasonCode)
					}
					save(t, path, all)
				}
			}
		}
	}
	t.Log("\n" + table(all) + "\n" + verdict(all))
}

// measure starts a guest, moves it by the policy, and notes what was seen from outside: once, or for
// drover's own policy as often as its receipts matter.
func (l *Lab) measure(t *testing.T, w workload, m measured) []measured {
	t.Helper()
	guest := fmt.Sprintf("b-%s-%s-%s-%d", w.name, m.Rate, m.Policy, m.Run)
	l.Do(t, append([]string{"guest", "start", guest, "--host", "kvm1"}, w.flags...)...)
	defer l.Do(t, "guest", "stop", guest)
	if m.Policy != own {
		time.Sleep(3 * time.Second)
		l.move(t, guest, "kvm2", &m, "--tuning", m.Policy)
		return []measured{m}
	}
	// Long enough for its first report, and the sample of its dirty rate, to be there.
	time.Sleep(25 * time.Second)
	var out []measured
	for n := range moves {
		m.Receipts = n
		l.move(t, guest, []string{"kvm2", "kvm1"}[n%2], &m)
		out = append(out, m)
		if m.Phase != precopy.Done {
			break
		}
		time.Sleep(6 * time.Second)
	}
	return out
}

// move moves the guest once.
func (l *Lab) move(t *testing.T, guest, to string, m *measured, flags ...string) {
	t.Helper()
	args := append([]string{"migrate", guest, "--to", to, "--wait", "--deadline", budget.String()}, flags...)
	probe, before := l.Probe(t, guest), idleTicks(t)
	time.Sleep(2 * time.Second)
	r := l.Drover(t.Context(), args...)
	time.Sleep(500 * time.Millisecond)
	seen, after := probe.Stop(t), idleTicks(t)
	rec := l.Last(t, guest)
	if !rec.Phase.Final() {
		t.Fatalf("%s: not over: %s", guest, r)
	}
	m.Phase, m.ReasonCode, m.Outcome, m.Forecast = rec.Phase, rec.ReasonCode, rec.Outcome, rec.Forecast
	m.Pause, m.LostWork, m.Mismatches = seen.SilenceMS, seen.LostS, seen.Mismatches
	if rec.Started != nil {
		m.Seconds = rec.Finished.Sub(*rec.Started).Seconds()
	}
	m.Idle = 100 * float64(after[0]-before[0]) / float64(max(after[1]-before[1], 1))
}

// idleTicks reads the machine's idle and total CPU time.
func idleTicks(t *testing.T) [2]int64 {
	t.Helper()
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		t.Fatal(err)
	}
	line, _, _ := strings.Cut(string(text), "\n")
	var out [2]int64
	for i, f := range strings.Fields(line)[1:] {
		n, _ := strconv.ParseInt(f, 10, 64)
		if i == 3 || i == 4 {
			out[0] += n
		}
		out[1] += n
	}
	return out
}

func load(t *testing.T, path string) []measured {
	t.Helper()
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	var all []measured
	unmarshal(t, string(text), &all)
	return all
}

func save(t *testing.T, path string, all []measured) {
	t.Helper()
	text, err := json.MarshalIndent(all, "", " ")
	if err == nil {
		err = os.WriteFile(path+".new", text, 0o644)
	}
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// table is one row per cell and policy: medians, and the spread of the pause.
func table(all []measured) string {
	groups := map[string][]measured{}
	for _, m := range all {
		k := m.cell() + "\t" + m.name()
		groups[k] = append(groups[k], m)
	}
	keys := make([]string, 0, len(groups))
	for k := range groups {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "CELL\tPOLICY\tRUNS\tKEPT\tSECONDS\tPAUSE MS\t(MOST)\tLOST S\tMIB\tENDED")
	for _, k := range keys {
		g := groups[k]
		var secs, pause, lost, mib []float64
		kept, ended := 0, map[string]int{}
		for _, m := range g {
			secs, pause, lost = append(secs, m.Seconds), append(pause, m.Pause), append(lost, m.LostWork)
			if m.Outcome != nil {
				mib = append(mib, float64(m.Outcome.Bytes)/(1<<20))
			}
			if m.kept() {
				kept++
			}
			ended[strings.TrimSpace(string(m.Phase)+" "+m.ReasonCode)]++
		}
		if len(mib) == 0 {
			mib = []float64{0}
		}
		fmt.Fprintf(w, "%s\t%d\t%d\t%.1f\t%.0f\t%.0f\t%.1f\t%.0f\t%v\n", k, len(g), kept, median(secs), median(pause), slices.Max(pause), median(lost), median(mib), ended)
	}
	_ = w.Flush()
	return b.String()
}

// verdict compares drover with the best fixed policy of each cell that kept the promise in every run,
// chosen with hindsight.
func verdict(all []measured) string {
	groups := map[string]map[string][]measured{}
	for _, m := range all {
		if groups[m.cell()] == nil {
			groups[m.cell()] = map[string][]measured{}
		}
		groups[m.cell()][m.name()] = append(groups[m.cell()][m.name()], m)
	}
	secs := func(m measured) float64 { return m.Seconds }
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "CELL\tBEST FIXED\tSECONDS\tLEAST PAUSE OF ANY\tRATIO UNSEEN\tRATIO KNOWN\tPAUSE UNSEEN\tKNOWN\tKEPT")
	logs := map[string][]float64{}
	lost := map[string]float64{}
	for _, cell := range slices.Sorted(maps.Keys(groups)) {
		best, least := "", math.Inf(1)
		for name, g := range groups[cell] {
			for _, m := range g {
				if m.Phase == precopy.Done && m.Policy != own {
					least = min(least, m.Pause)
				}
			}
			keeps := !slices.ContainsFunc(g, func(m measured) bool { return !m.kept() })
			if g[0].Policy != own && keeps && (best == "" || medianOf(g, secs) < medianOf(groups[cell][best], secs)) {
				best = name
			}
		}
		unseen, known := groups[cell][own+" (0 receipts)"], groups[cell][fmt.Sprintf("%s (%d receipts)", own, moves-1)]
		if len(unseen) == 0 {
			continue
		}
		kept := 0
		for _, m := range append(slices.Clone(unseen), known...) {
			if m.kept() {
				kept++
			}
		}
		pause := func(m measured) float64 { return m.Pause }
		row := fmt.Sprintf("%.0f\t%.0f\t%d of %d", medianOf(unseen, pause), medianOf(known, pause), kept, len(unseen)+len(known))
		if best == "" {
			fmt.Fprintf(w, "%s\tnone\t-\t%.0f\t%.1f s\t%.1f s\t%s\n", cell, least, medianOf(unseen, secs), medianOf(known, secs), row)
			continue
		}
		g := groups[cell][best]
		ratio, again := medianOf(unseen, secs)/medianOf(g, secs), medianOf(known, secs)/medianOf(g, secs)
		logs["unseen"], logs["known"] = append(logs["unseen"], math.Log(ratio)), append(logs["known"], math.Log(again))
		work := func(m measured) float64 { return m.LostWork }
		lost["fixed"] += medianOf(g, work)
		lost["unseen"] += medianOf(unseen, work)
		lost["known"] += medianOf(known, work)
		fmt.Fprintf(w, "%s\t%s\t%.1f\t%.0f\t%.2f\t%.2f\t%s\n", cell, best, medianOf(g, secs), least, ratio, again, row)
	}
	_ = w.Flush()
	for _, k := range []string{"unseen", "known"} {
		sum := 0.0
		for _, l := range logs[k] {
			sum += l
		}
		fmt.Fprintf(&b, "%s: geometric mean of the ratios %.2f; guest work lost %.1f s, by the best fixed policies %.1f s\n",
			k, math.Exp(sum/float64(max(len(logs[k]), 1))), lost[k], lost["fixed"])
	}
	return b.String()
}

func medianOf(g []measured, f func(measured) float64) float64 {
	if len(g) == 0 {
		return math.NaN()
	}
	var v []float64
	for _, m := range g {
		v = append(v, f(m))
	}
	return median(v)
}
