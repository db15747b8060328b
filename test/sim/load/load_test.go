package load

import (
	"compress/gzip"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestMake(t *testing.T) {
	for _, kind := range Kinds() {
		sum, n := 0.0, 0
		for i := range 40 {
			a, err := Make(kind, 7, i)
			if err != nil {
				t.Fatal(err)
			}
			b, _ := Make(kind, 7, i)
			for h := range 24 {
				at := time.Duration(h)*time.Hour + 7*time.Minute
				x := a.At(at)
				if x != b.At(at) || x < 0 || x > 1 {
					t.Fatalf("%s %d at %s: %g and %g", kind, i, at, x, b.At(at))
				}
				sum += x
				n++
			}
		}
		if mean := sum / float64(n); mean < 0.05 || mean > 0.6 {
			t.Errorf("%s: %g in the mean", kind, mean)
		}
	}
	if _, err := Make("odd", 1, 1); err == nil {
		t.Error("an unknown kind is made")
	}
}

func TestPatterns(t *testing.T) {
	for _, tc := range []struct {
		name   string
		series Series
		at     time.Duration
		want   float64
	}{
		{"steady", Steady{Level: 0.3}, time.Hour, 0.3},
		{"daily, at its peak", Daily{Low: 0.1, High: 0.5, Peak: 14 * time.Hour}, 38 * time.Hour, 0.5},
		{"daily, at its low", Daily{Low: 0.1, High: 0.5, Peak: 14 * time.Hour}, 2 * time.Hour, 0.1},
		{"burst, on", Bursts{Low: 0.1, High: 0.9, On: time.Minute, Off: time.Minute}, 130 * time.Second, 0.9},
		{"burst, off", Bursts{Low: 0.1, High: 0.9, On: time.Minute, Off: time.Minute}, 70 * time.Second, 0.1},
		{"step, before", Step{Before: 0.2, After: 0.8, When: time.Hour}, 59 * time.Minute, 0.2},
		{"step, after", Step{Before: 0.2, After: 0.8, When: time.Hour}, time.Hour, 0.8},
		{"recorded, over and over", Recorded{Every: time.Minute, Values: []float64{0.1, 0.2}}, 3*time.Minute + 1, 0.2},
	} {
		if got := tc.series.At(tc.at); fmt.Sprintf("%.4f", got) != fmt.Sprintf("%.4f", tc.want) {
			t.Errorf("%s: %g, want %g", tc.name, got, tc.want)
		}
	}
}

func TestRead(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	rows, err := Read(write("percent.csv", "vm,t0,t5\na,10,20\nb,0,100\n"))
	if err != nil || len(rows) != 2 || rows[1].Name != "b" || rows[0].Series.At(6*time.Minute) != 0.2 || rows[1].VCPUs != 0 {
		t.Errorf("%+v, %v", rows, err)
	}
	zipped := filepath.Join(dir, "mille.csv.gz")
	f, err := os.Create(zipped)
	if err != nil {
		t.Fatal(err)
	}
	z := gzip.NewWriter(f)
	fmt.Fprint(z, "vm,cores,capacity_mhz,mem_mib,t0,t5,t10\n116,4,11704,6068,14,,20\n")
	if z.Close() != nil || f.Close() != nil {
		t.Fatal("not written")
	}
	rows, err = Read(zipped)
	if err != nil || len(rows) != 1 || rows[0].VCPUs != 4 || rows[0].MemoryMiB != 6068 || rows[0].Series.At(6*time.Minute) != 0.014 || rows[0].Series.At(10*time.Minute) != 0.02 {
		t.Errorf("%+v, %v", rows, err)
	}
	for name, text := range map[string]string{
		"no VMs": "vm,t0\n", "no loads": "vm,x\na,1\n", "ragged": "vm,t0\na,1,2\n", "a word": "vm,t0\na,x\n",
		"too much": "vm,t0\na,101\n", "not a number": "vm,t0\na,NaN\n", "cores": "vm,cores,t0\na,x,1\n",
	} {
		path := write("bad.csv", text)
		if _, err := Read(path); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v, want an error that names the file", name, err)
		}
	}
}
