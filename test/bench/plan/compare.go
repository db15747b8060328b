package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
)

// result is one plan on one cluster, as score.py measures it.
type result struct {
	Score     float64 `json:"score"`
	Moves     int     `json:"moves"`
	GiB       float64 `json:"gib"`
	WireGiB   float64 `json:"wire_gib"`
	SerialS   float64 `json:"serial_s"`   // one move after another
	MakespanS float64 `json:"makespan_s"` // side by side as the plan says; for hbal, in its jobsets
}

// outcome is everything about one cluster.
type outcome struct {
	Size string `json:"size"`
	Seed int    `json:"seed"`
	// Hbal is hbal's plan; Priced are those of one-move greedy that takes the largest gain per GiB^P, down to
	// hbal's final score; Descent is hbal's algorithm without its minimum gain.
	Hbal    result            `json:"hbal"`
	Priced  map[string]result `json:"priced"`
	Descent result            `json:"descent"`
	// AsHbal is drover's plan to hbal's final score with at most as many moves; Cheapest the one without that
	// bound; End the one that goes on; Default what "drover plan" gives, which has another objective.
	AsHbal   result  `json:"as_hbal"`
	Cheapest result  `json:"cheapest"`
	End      result  `json:"end"`
	Default  result  `json:"default"`
	CPUS     float64 `json:"plan_cpu_s"` // of Cheapest
	WallS    float64 `json:"plan_wall_s"`
	PeakMiB  float64 `json:"plan_peak_mib"`
}

// exponents of GiB that one-move greedy is tried with.
var exponents = []string{"0.1", "0.25", "0.5", "0.7"}

func (b *bench) compare(z size, seed int) (outcome, error) {
	o := outcome{Size: z.String(), Seed: seed, Priced: map[string]result{}}
	cluster, err := b.cluster(z, seed)
	if err != nil {
		return o, err
	}
	greedy := func(name string, args ...string) (result, error) {
		out := cluster + "." + name
		if _, err := os.Stat(out); err != nil {
			text, err := b.script("greedy.py", append([]string{cluster + ".json"}, args...)...)
			if err != nil {
				return result{}, err
			}
			if err := os.WriteFile(out, text, 0o644); err != nil {
				return result{}, err
			}
		}
		return b.score(cluster, out)
	}
	if o.Hbal, err = greedy("hbal"); err != nil {
		return o, err
	}
	// A little above, as rounding of hbal's output must not decide.
	until := fmt.Sprintf("%.9f", o.Hbal.Score)
	for _, p := range exponents {
		if o.Priced[p], err = greedy("priced"+p, "--per-gib", p, "--until", until, "-g", "0"); err != nil {
			return o, err
		}
	}
	if o.Descent, err = greedy("descent", "-g", "0"); err != nil {
		return o, err
	}
	for _, run := range []struct {
		to   *result
		name string
		args []string
	}{
		{&o.AsHbal, "as-hbal", []string{"--objective", "score", "--until", until, "--max-moves", fmt.Sprint(o.Hbal.Moves)}},
		{&o.Cheapest, "cheapest", []string{"--objective", "score", "--until", until}},
		{&o.End, "end", []string{"--objective", "score"}},
		{&o.Default, "default", nil},
	} {
		out := cluster + "." + run.name + ".plan"
		u, err := b.plan(cluster, out, run.args...)
		if err != nil {
			return o, err
		}
		if *run.to, err = b.score(cluster, out); err != nil {
			return o, err
		}
		if run.name == "cheapest" {
			o.WallS, o.CPUS, o.PeakMiB = u.Wall.Seconds(), u.CPU.Seconds(), u.PeakMiB
		}
	}
	return o, nil
}

// score replays a plan. It is an error if a step of it is not feasible, or if it leaves more rules broken.
func (b *bench) score(cluster, plan string) (result, error) {
	read := func(args ...string) (r result, err error) {
		text, err := b.script("score.py", append([]string{cluster + ".json", plan, "--json"}, args...)...)
		if err != nil {
			return r, err
		}
		var doc struct {
			After struct {
				Score float64 `json:"soft_load"`
			} `json:"after"`
			Plan struct {
				Moves    int     `json:"moves"`
				GiB      float64 `json:"gib_moved"`
				Wire     float64 `json:"wire_gib"`
				Serial   float64 `json:"serial_s"`
				Makespan float64 `json:"makespan_s"`
			} `json:"plan"`
		}
		if err := json.Unmarshal(text, &doc); err != nil {
			return r, fmt.Errorf("score.py: %w", err)
		}
		return result{doc.After.Score, doc.Plan.Moves, doc.Plan.GiB, doc.Plan.Wire, doc.Plan.Serial, doc.Plan.Makespan}, nil
	}
	return read("--jobsets")
}

// atMost is the least GiB of hbal's and the priced plans that have no more moves than that.
func (o outcome) atMost(moves int) float64 {
	best := 0.0
	for _, r := range append(slices.Collect(values(o.Priced)), o.Hbal) {
		if r.Moves <= moves && (best == 0 || r.GiB < best) {
			best = r.GiB
		}
	}
	return best
}

func values(m map[string]result) func(func(result) bool) {
	return func(yield func(result) bool) {
		for _, p := range exponents {
			if r, ok := m[p]; ok && !yield(r) {
				return
			}
		}
	}
}

var hbalMove = regexp.MustCompile(`(?m)^ *\d+\. (\S+) +(\S+) +=> +(\S+)`)

// sameAsHbal checks that greedy.py decides as hbal does, on a small cluster.
func (b *bench) sameAsHbal() error {
	cluster, err := b.cluster(size{10, 200}, b.first)
	if err != nil {
		return err
	}
	text, err := os.ReadFile(cluster + ".json")
	if err != nil {
		return err
	}
	var doc struct {
		VMs []struct {
			Name   string `json:"name"`
			Pinned bool   `json:"pinned"`
		} `json:"vms"`
	}
	if err := json.Unmarshal(text, &doc); err != nil {
		return err
	}
	args := []string{"-t", cluster + ".data", "--ignore-dynu"}
	var pinned []string
	for _, v := range doc.VMs {
		if v.Pinned {
			pinned = append(pinned, v.Name)
		}
	}
	if len(pinned) > 0 {
		args = append(args, "--exclude-instances="+strings.Join(pinned, ","))
	}
	hbal, err := exec.Command("hbal", args...).Output()
	if err != nil {
		return fmt.Errorf("hbal: %w", err)
	}
	ours, err := b.script("greedy.py", cluster+".json")
	if err != nil {
		return err
	}
	want, got := hbalMove.FindAllString(string(hbal), -1), hbalMove.FindAllString(string(ours), -1)
	if len(want) == 0 || len(want) != len(got) {
		return fmt.Errorf("hbal makes %d moves, greedy.py %d", len(want), len(got))
	}
	for k := range want {
		if strings.Join(strings.Fields(want[k]), " ") != strings.Join(strings.Fields(got[k]), " ") {
			return fmt.Errorf("hbal: %s, greedy.py: %s", want[k], got[k])
		}
	}
	fmt.Printf("greedy.py makes hbal's %d moves on %s, seed %d\n", len(want), size{10, 200}, b.first)
	return nil
}
