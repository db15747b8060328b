package main

import (
	"compress/gzip"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// made is a day of n VMs: noise about levels of which some change a third into it.
func made(n, steps int) trace {
	r := rand.New(rand.NewPCG(1, 1))
	t := make(trace, n)
	for i := range t {
		level, rises := 5+20*r.Float64(), r.Float64() < 0.15
		for s := range steps {
			if s == steps/3 && rises {
				level = min(level*4, 90)
			}
			t[i] = append(t[i], min(max(level+4*r.NormFloat64(), 0), 100))
		}
	}
	return t
}

// TestDay: the figures are the same twice, drover moves no VM back, and leaves a quarter of the overload at most.
func TestDay(t *testing.T) {
	data := made(150, 100)
	a, err := compare(data, 0)
	if err != nil {
		t.Fatal(err)
	}
	b, err := compare(data, 0)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(a, b); diff != "" {
		t.Errorf("twice the same data (-first +second):\n%s", diff)
	}
	own, none := a.Results[standard], a.Results[len(leasts)]
	if a.Returns > 0 || own.Moves == 0 || none.Moves != 0 || own.Over[judged] > none.Over[judged]/4 {
		t.Errorf("%d returns\ndrover: %+v\nno moves: %+v", a.Returns, own, none)
	}
}

func TestJudge(t *testing.T) {
	d := day{Results: make([]result, standard+4)}
	for i := range d.Results {
		d.Results[i].Rule = "peer"
	}
	set := func(i, moves, over int) { d.Results[i].Moves, d.Results[i].Over[judged] = moves, over }
	for i := range standard + 1 {
		d.Results[i].Rule = "drover"
		d.Results[i].Returns = 1
		set(i, 10, 100)
	}
	d.Results[standard+1].Setting = "better"
	set(standard+1, 9, 99)
	set(standard+2, 9, 100)
	set(standard+3, 11, 101)
	d.judge()
	if diff := cmp.Diff([]string{"peer better"}, d.Beaten); diff != "" || d.Returns != standard+1 {
		t.Errorf("beaten (-want +got):\n%s%d returns", diff, d.Returns)
	}
	if !d.Results[standard+3].Beats || d.Results[standard+2].Beats || d.Results[standard+1].Beats {
		t.Errorf("%+v", d.Results)
	}
}

// script makes the given moves at the given minutes.
type script map[int][]move

func (script) learn(*fleet, []float64, int) {}
func (s script) decide(v *view) []move      { return s[v.minute] }

func TestPlay(t *testing.T) {
	flat := func(share float64) (row []float64) {
		for range 2 * warmup {
			row = append(row, share)
		}
		return row
	}
	f, err := pack(trace{flat(100), flat(100), flat(100), flat(100)}, 0) // 1, 2, 2 and 4 vCPUs
	if err != nil {
		t.Fatal(err)
	}
	if f.hosts != 2 || f.vms[3].memory != 8 {
		t.Fatalf("%+v", f)
	}
	big := f.vms[3].host
	for i := range f.vms[:3] {
		f.vms[i].host = big // 9 cores
		f.vms[i].load = append([]float64(nil), f.vms[i].load...)
	}
	for s := range f.vms[0].load {
		f.vms[0].load[s] = 9.4 // 17.4 cores in all
	}
	got := play(f, script{
		9:  {{3, 1 - big}, {1, 1 - big}, {0, big}}, // the second has no stream, the third goes nowhere
		19: {{3, big}},
	})
	// Copying 1.3 x 8 GiB takes 2 minutes, so the VM leaves after minute 11 and is back after 21. Its host is
	// above all marks before and after; in between it has 13.4 cores, above the first, and while the VM comes
	// back half a core more. The other host is never.
	want := result{Moves: 2, GiB: 20.8, Refused: 2, Returns: 1, Most: 2, Over: [3]int{60, 50, 50}}
	if diff := cmp.Diff(want, got, cmp.Transformer("", func(x float64) string { return fmt.Sprintf("%.6f", x) })); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestReadTrace(t *testing.T) {
	dir := t.TempDir()
	row := "vm" + strings.Repeat(",7", 2*warmup) + "\n"
	good := "vm" + strings.Repeat(",t", 2*warmup) + "\n" + row
	zipped := filepath.Join(dir, "good.csv.gz")
	file, err := os.Create(zipped)
	if err != nil {
		t.Fatal(err)
	}
	z := gzip.NewWriter(file)
	fmt.Fprint(z, good)
	if z.Close() != nil || file.Close() != nil {
		t.Fatal("not written")
	}
	if got, err := readTrace(zipped); err != nil || len(got) != 1 || len(got[0]) != 2*warmup || got[0][5] != 7 {
		t.Errorf("%v, %v", got, err)
	}
	for name, text := range map[string]string{
		"no VMs": strings.SplitAfter(good, "\n")[0], "ragged": good + "vm,1\n", "short": "vm,t\na,1\n",
		"a word": strings.Replace(good, ",7", ",x", 1), "too much": strings.Replace(good, ",7", ",101", 1),
		"not a number": strings.Replace(good, ",7", ",NaN", 1),
	} {
		path := filepath.Join(dir, "bad.csv")
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := readTrace(path); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v, want an error that names the file", name, err)
		}
	}
}

// TestPeers: each rule moves what it should in a fleet of three hosts of which one is hot.
func TestPeers(t *testing.T) {
	f := fleet{hosts: 3}
	for i := range 12 {
		v := vm{vcpus: 4, memory: 8, host: min(i/4, 2)}
		v.load = []float64{float64(4 - v.host)} // 16, 12 and 8 cores
		f.vms = append(f.vms, v)
	}
	f.vms[2].load = []float64{2.5}
	v := &view{fleet: &f, busy: make([]bool, 12), busyHost: make([]bool, 3), memory: []float64{32, 32, 32}, hostLoad: []float64{14.5, 12, 8}}
	for _, x := range f.vms {
		v.at = append(v.at, x.host)
		v.vmLoad = append(v.vmLoad, x.load[0])
	}
	held := &static{high: 0.8}
	held.decide(v)
	for _, tc := range []struct {
		name string
		rule rule
		want []move
	}{
		{"static, not held yet", &static{high: 0.8}, nil},
		{"static: the smallest to the emptiest", held, []move{{2, 2}}},
		{"static, too high", &static{high: 0.95, since: map[int]int{0: 5}}, nil},
		{"spread: the first of the two best", spread{0.1}, []move{{0, 2}}},
		{"spread, even enough", spread{0.3}, nil},
		{"apart: the first that stays on its side of the middle", &apart{0.2, map[int]int{}}, []move{{2, 2}}},
		{"apart, rested", &apart{0.2, map[int]int{2: -300}}, nil},
		{"apart, not far enough", &apart{0.5, map[int]int{}}, nil},
		{"evict: the first, wherever fewest are asked for", evict{0.1, 2}, []move{{0, 1}, {1, 2}}},
		{"none", none{}, nil},
	} {
		if diff := cmp.Diff(tc.want, tc.rule.decide(v), cmp.AllowUnexported(move{})); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tc.name, diff)
		}
	}
}
