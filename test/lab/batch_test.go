//go:build bench

package lab

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"drover/precopy"
)

// batchRule is a way to share the links among the moves of a batch.
type batchRule struct {
	name, sharing string
	out, in       int
	serial        bool // one at a time in the whole fleet
	fixed         bool // one of those that drover is held against
}

var batchRules = []batchRule{
	{name: "drover", sharing: "live", out: 1, in: 2},
	{name: "fixed halves", sharing: "equal", out: 2, in: 2, fixed: true},
	{name: "one at a time", sharing: "none", out: 1, in: 1, serial: true, fixed: true},
	{name: "no limit", sharing: "none", out: 8, in: 8, fixed: true},
	{name: "one out of each host", sharing: "none", out: 1, in: 2},
}

// batchRun is one batch by one rule.
type batchRun struct {
	Rule    string                       `json:"rule"`
	Run     int                          `json:"run"`
	Version string                       `json:"version"`
	Link    string                       `json:"link"`
	Seconds float64                      `json:"makespan_seconds"` // until the last that moved: no makespan if some did not
	Moved   int                          `json:"moved"`
	Again   int                          `json:"again"` // how many were asked for a second time
	Kept    int                          `json:"kept"`
	Peak    float64                      `json:"peak_mib_s"` // most that left a host over two seconds
	Spare   float64                      `json:"spare_cpu_percent"`
	Bytes   map[string]int64             `json:"bytes"`
	Records map[string]precopy.Migration `json:"records"`
}

// batch is who moves where: from each of two hosts four guests, one of which converges only with most of a link.
func batch() (guests map[string][]string, from, to map[string]string, order []string) {
	guests, from, to = map[string][]string{}, map[string]string{}, map[string]string{}
	calm := []string{"--memory", "640MiB", "--wss", "400MiB", "--rate", "300", "--pattern", "sweep"}
	for i := range 8 {
		g := fmt.Sprintf("bat%d", i+1)
		guests[g], from[g], to[g] = calm, []string{"kvm1", "kvm2"}[i%2], []string{"kvm3", "kvm4"}[(i/2+i)%2]
		if i/2 == 1 {
			guests[g] = []string{"--memory", "512MiB", "--wss", "160MiB", "--rate", "4000", "--pattern", "page"}
		}
		order = append(order, g)
	}
	return guests, from, to, order
}

// batchLink is the rate of the links: over faster ones encryption and the guests' own work leave two cores nothing to
// spare, and what is measured then is the processor. linkCarries is what it carries of memory beside headers, in bytes per
// second.
const (
	batchLink   = "200mbit"
	linkCarries = 200e6 / 8 * 0.955
)

// TestBandwidth moves a batch by each rule: DROVER_RUNS (3) times, and goes on where it was interrupted. What was given up is
// asked for once more when the others have ended, as an admin would: the batch is done when all have moved.
func TestBandwidth(t *testing.T) {
	runs, err := strconv.Atoi(cmp.Or(os.Getenv("DROVER_RUNS"), "3"))
	if err != nil {
		t.Fatal(err)
	}
	l := links(t, batchLink, "live", 1, 2)
	if len(l.Hosts) < 4 {
		t.Fatal("a batch needs four hosts: DROVER_HOSTS=4")
	}
	path := cmp.Or(os.Getenv("DROVER_RESULTS"), l.Build+"/bench-bandwidth.json")
	var all []batchRun
	if text, err := os.ReadFile(path); err == nil {
		unmarshal(t, string(text), &all)
	} else if !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	all = slices.DeleteFunc(all, func(r batchRun) bool { return r.Link != batchLink }) // not comparable
	version := strings.TrimSpace(l.MustDrover(t, "version").Stdout)
	for run := 1; run <= runs; run++ {
		for _, rule := range batchRules {
			if slices.ContainsFunc(all, func(r batchRun) bool { return r.Rule == rule.name && r.Run == run && r.Version == version }) {
				continue
			}
			r := l.batch(t, rule)
			r.Run, r.Version, r.Link = run, version, batchLink
			all = append(all, r)
			t.Logf("RESULT %s run %d: %d of 8 moved, %d kept, %.1f s, peak %.1f MiB/s, spare CPU %.0f %%", r.Rule, run, r.Moved, r.Kept, r.Seconds, r.Peak, r.Spare)
			text, err := json.MarshalIndent(all, "", " ")
			if err == nil {
				err = os.WriteFile(path, text, 0o644)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Log("\n" + batchTable(all))
}

func (l *Lab) batch(t *testing.T, rule batchRule) batchRun {
	t.Helper()
	l.share(t, rule.sharing, rule.out, rule.in)
	guests, from, to, order := batch()
	for _, g := range order {
		l.Do(t, append([]string{"guest", "start", g, "--host", from[g]}, guests[g]...)...)
		defer l.Do(t, "guest", "stop", g)
	}
	time.Sleep(30 * time.Second)
	before := spareTicks(t)
	peaks := []func() float64{l.watchUse(t, "kvm1"), l.watchUse(t, "kvm2")}
	began := time.Now()
	r := batchRun{Rule: rule.name, Bytes: map[string]int64{}, Records: map[string]precopy.Migration{}}
	l.move(t, rule, order, to, r.Records)
	var left []string
	for _, g := range order {
		if r.Records[g].Phase != precopy.Done {
			t.Logf("%s: %s is %s %s: %s", rule.name, g, r.Records[g].Phase, r.Records[g].ReasonCode, r.Records[g].Reason)
			left = append(left, g)
		}
	}
	r.Again = len(left)
	l.move(t, rule, left, to, r.Records)
	after := spareTicks(t)
	for _, p := range peaks {
		r.Peak = max(r.Peak, p()/(1<<20))
	}
	for g, m := range r.Records {
		if m.Phase != precopy.Done {
			t.Logf("%s: %s is %s %s: %s", rule.name, g, m.Phase, m.ReasonCode, m.Reason)
			continue
		}
		r.Moved++
		r.Seconds = max(r.Seconds, m.Finished.Sub(began).Seconds())
		r.Bytes[g] = int64(m.Outcome.Bytes)
		if p, ok := m.Promise(); ok && p == precopy.PromiseKept {
			r.Kept++
		}
	}
	r.Spare = 100 * float64(after[0]-before[0]) / float64(max(after[1]-before[1], 1))
	return r
}

// move asks for the guests to be moved by the rule, waits until all have ended, and notes how.
func (l *Lab) move(t *testing.T, rule batchRule, guests []string, to map[string]string, ends map[string]precopy.Migration) {
	t.Helper()
	began := time.Now()
	for _, g := range guests {
		args := []string{"migrate", g, "--to", to[g], "--deadline", "6m"}
		if rule.serial {
			args = append(args, "--wait")
		}
		l.Drover(t.Context(), args...)
	}
	for ended := 0; ended < len(guests) && time.Since(began) < 10*time.Minute; {
		time.Sleep(500 * time.Millisecond)
		ended = 0
		for _, g := range guests {
			if m := l.Last(t, g); m.Phase.Final() && m.Created.After(began.Add(-time.Second)) {
				ends[g] = m
				ended++
			}
		}
	}
}

// spareTicks reads the CPU time that nobody used or that anybody could have had, and all of it: work of the lowest
// priority gives way to guests.
func spareTicks(t *testing.T) [2]int64 {
	t.Helper()
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		t.Fatal(err)
	}
	line, _, _ := strings.Cut(string(text), "\n")
	var out [2]int64
	for i, f := range strings.Fields(line)[1:] {
		n, _ := strconv.ParseInt(f, 10, 64)
		if i == 1 || i == 3 || i == 4 { // niced, idle, waiting for a disk
			out[0] += n
		}
		out[1] += n
	}
	return out
}

// batchTable is the medians by rule, against the least time that the links allow.
func batchTable(all []batchRun) string {
	_, from, to, order := batch()
	least := map[string]float64{} // the fewest bytes that any run moved the guest with
	for _, r := range all {
		for g, b := range r.Bytes {
			if least[g] == 0 || float64(b) < least[g] {
				least[g] = float64(b)
			}
		}
	}
	use := map[string]float64{}
	bound := 0.0
	for _, g := range order {
		use[from[g]] += least[g] / linkCarries
		use[to[g]] += least[g] / linkCarries
		bound = max(bound, use[from[g]], use[to[g]])
	}
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
	fmt.Fprintf(w, "bound by the busiest link: %.1f s\n", bound)
	fmt.Fprintln(w, "RULE\tRUNS\tMOVED\tKEPT\tMAKESPAN S\tOF BOUND\tPEAK MIB/S\tSPARE CPU %")
	for _, rule := range batchRules {
		var secs, moved, kept, peak, spare []float64
		for _, r := range all {
			if r.Rule == rule.name {
				secs, moved, kept = append(secs, r.Seconds), append(moved, float64(r.Moved)), append(kept, float64(r.Kept))
				peak, spare = append(peak, r.Peak), append(spare, r.Spare)
			}
		}
		if len(secs) == 0 {
			continue
		}
		makespan := fmt.Sprintf("%.1f\t%.2f", median(secs), median(secs)/max(bound, 0.1))
		if slices.Min(moved) < float64(len(order)) {
			makespan = fmt.Sprintf("none (%.1f)\t", median(secs)) // guests are left: that is no makespan
		}
		fmt.Fprintf(w, "%s\t%d\t%.0f to %.0f of 8\t%.0f\t%s\t%.1f\t%.0f\n", rule.name, len(secs), slices.Min(moved), slices.Max(moved), median(kept),
			makespan, slices.Max(peak), slices.Min(spare))
	}
	_ = w.Flush()
	return b.String()
}
