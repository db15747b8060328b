package balance

import (
	"fmt"
	"math"
	"reflect"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"drover/hypervisor"
)

const gibB = hypervisor.GiB

// drawProblem draws a small fleet, tight enough that room and rules matter; its start may break rules and
// hosts may have more than they can hold.
func drawProblem(t *rapid.T) *Problem {
	p := &Problem{}
	for i := range rapid.IntRange(1, 6).Draw(t, "hosts") {
		mem := hypervisor.Bytes(rapid.IntRange(4, 32).Draw(t, "memory")) * gibB
		p.Hosts = append(p.Hosts, Host{
			Name: fmt.Sprint("h", i), Cores: hypervisor.Cores(rapid.IntRange(1, 16).Draw(t, "cores")),
			Memory: mem, Reserved: hypervisor.Bytes(rapid.IntRange(0, 2).Draw(t, "reserved")) * gibB, Link: 1.25e9,
			VCPUs:    max(rapid.IntRange(-40, 40).Draw(t, "most vcpus"), 0),
			Cordoned: rapid.IntRange(0, 7).Draw(t, "cordoned") == 0, Draining: rapid.IntRange(0, 5).Draw(t, "draining") == 0,
		})
	}
	for i := range rapid.IntRange(0, 24).Draw(t, "vms") {
		cpu := rapid.Float64Range(0, 3).Draw(t, "cpu")
		v := VM{
			Name: fmt.Sprint("v", i), Host: rapid.IntRange(0, len(p.Hosts)-1).Draw(t, "host"),
			Memory: hypervisor.Bytes(rapid.IntRange(1, 8).Draw(t, "gib")) * gibB, VCPUs: rapid.IntRange(0, 8).Draw(t, "vcpus"),
			Mean: Load{CPU: hypervisor.Cores(cpu)}, Peak: Load{CPU: hypervisor.Cores(cpu * rapid.Float64Range(0, 3).Draw(t, "peak"))},
			Dirty:  hypervisor.BytesPerSecond(rapid.IntRange(0, 2000).Draw(t, "dirty")) << 20,
			Pinned: rapid.IntRange(0, 9).Draw(t, "pinned") == 0, Resting: rapid.IntRange(0, 9).Draw(t, "resting") == 0,
		}
		if rapid.IntRange(0, 9).Draw(t, "moving") == 0 {
			v.Moving, v.Target = true, rapid.IntRange(0, len(p.Hosts)-1).Draw(t, "target")
		}
		if rapid.IntRange(0, 5).Draw(t, "avoids") == 0 {
			v.Avoid = []int{rapid.IntRange(0, len(p.Hosts)-1).Draw(t, "avoid")}
		}
		p.VMs = append(p.VMs, v)
	}
	if len(p.VMs) == 0 {
		return p
	}
	for i := range rapid.IntRange(0, 4).Draw(t, "groups") {
		p.Groups = append(p.Groups, Group{
			Name:  fmt.Sprint("g", i),
			VMs:   rapid.SliceOfNDistinct(rapid.IntRange(0, len(p.VMs)-1), 1, min(4, len(p.VMs)), rapid.ID).Draw(t, "members"),
			Apart: rapid.Bool().Draw(t, "apart"), Required: rapid.Bool().Draw(t, "required"),
		})
	}
	return p
}

func drawOptions(t *rapid.T, p *Problem) Options {
	o := Options{
		Mode:      rapid.SampledFrom([]Mode{Balance, Consolidate, Drain}).Draw(t, "mode"),
		Objective: rapid.SampledFrom([]Objective{Contention, Score}).Draw(t, "objective"),
		MaxMoves:  rapid.IntRange(0, 5).Draw(t, "most moves"), MaxBytes: hypervisor.Bytes(rapid.IntRange(0, 20).Draw(t, "most GiB")) * gibB,
		MaxTime:     time.Duration(rapid.SampledFrom([]int{0, 0, 3, 20}).Draw(t, "most seconds")) * time.Second,
		Evaluations: 3000, Explain: rapid.Bool().Draw(t, "explain"),
	}
	if !slices.ContainsFunc(p.Hosts, func(h Host) bool { return h.Draining }) && o.Mode == Drain {
		o.Mode = Balance
	}
	if o.Objective == Score && rapid.Bool().Draw(t, "until given") {
		o.Until = rapid.Float64Range(0.001, 0.5).Draw(t, "until")
	}
	return o
}

// replay carries a plan out on plain maps, with nothing of the planner's own, and fails at the first
// prefix that breaks something.
func replay(t rapid.TB, p *Problem, o Options, plan *Plan) []int {
	at := make([]int, len(p.VMs))
	mem := make([]hypervisor.Bytes, len(p.Hosts))
	cpu := make([]float64, len(p.Hosts))
	vcpus := make([]int, len(p.Hosts))
	for i, v := range p.VMs {
		at[i] = v.at()
		vcpus[at[i]] += v.VCPUs
		mem[at[i]] += v.Memory
		cpu[at[i]] += float64(v.Mean.CPU)
		if v.Moving && v.Target != v.Host {
			mem[v.Host] += v.Memory
			vcpus[v.Host] += v.VCPUs
		}
	}
	cpuBefore := slices.Clone(cpu)
	broken := breaches(p, at)
	fleet := meanUtilisation(p)
	for k, m := range plan.Moves {
		v := p.VMs[m.VM]
		to := p.Hosts[m.To]
		if m.From != at[m.VM] || m.From == m.To {
			t.Fatalf("move %d: %s is on %d, moves from %d to %d", k, v.Name, at[m.VM], m.From, m.To)
		}
		if v.Pinned || v.Moving || v.Resting && !p.Hosts[v.Host].Draining {
			t.Fatalf("move %d: %+v may not move", k, v)
		}
		if to.Cordoned || to.Draining || slices.Contains(v.Avoid, m.To) {
			t.Fatalf("move %d: %s goes to %+v, avoiding %v", k, v.Name, to, v.Avoid)
		}
		for _, a := range m.After {
			if a >= k {
				t.Fatalf("move %d waits for move %d", k, a)
			}
		}
		if k > 0 && m.Wave < plan.Moves[k-1].Wave {
			t.Fatalf("move %d of wave %d comes after wave %d", k, m.Wave, plan.Moves[k-1].Wave)
		}
		mem[m.To] += v.Memory
		cpu[m.To] += float64(v.Mean.CPU)
		if mem[m.To] > to.Memory-to.Reserved {
			t.Fatalf("move %d: %s has %s of %s", k, to.Name, mem[m.To], to.Memory-to.Reserved)
		}
		if vcpus[m.To] += v.VCPUs; to.VCPUs > 0 && v.VCPUs > 0 && vcpus[m.To] > to.VCPUs {
			t.Fatalf("move %d: %s has %d vCPUs of %d", k, to.Name, vcpus[m.To], to.VCPUs)
		}
		limit := max(float64(to.Cores)*max(1, fleet), cpuBefore[m.To])
		if v.Mean.CPU > 0 && cpu[m.To] > limit+1e-6 {
			t.Fatalf("move %d: %s has a load of %v, limit %v", k, to.Name, cpu[m.To], limit)
		}
		mem[m.From] -= v.Memory
		vcpus[m.From] -= v.VCPUs
		cpu[m.From] -= float64(v.Mean.CPU)
		at[m.VM] = m.To
		for g, n := range breaches(p, at) {
			moving := !p.Groups[g].Apart && broken[g] == 0 && k+1 < len(plan.Moves) &&
				slices.ContainsFunc(plan.Moves[k+1:], func(n Move) bool { return slices.Contains(p.Groups[g].VMs, n.VM) && n.To == m.To })
			if p.Groups[g].Required && n > broken[g] && !moving {
				t.Fatalf("move %d: group %+v is broken %d times, was %d", k, p.Groups[g], n, broken[g])
			}
		}
	}
	if o.MaxMoves > 0 && len(plan.Moves) > o.MaxMoves {
		t.Fatalf("%d moves, at most %d", len(plan.Moves), o.MaxMoves)
	}
	if o.MaxTime > 0 && plan.Makespan > o.MaxTime {
		t.Fatalf("takes %s, at most %s", plan.Makespan, o.MaxTime)
	}
	if size := sent(p, plan); o.MaxBytes > 0 && size > o.MaxBytes {
		t.Fatalf("moves of %s, at most %s", size, o.MaxBytes)
	}
	return at
}

// sent is the memory of all moves.
func sent(p *Problem, plan *Plan) hypervisor.Bytes {
	size := hypervisor.Bytes(0)
	for _, m := range plan.Moves {
		size += p.VMs[m.VM].Memory
	}
	return size
}

func meanUtilisation(p *Problem) float64 {
	load, cores := 0.0, 0.0
	for _, v := range p.VMs {
		load += float64(v.Mean.CPU)
	}
	for _, h := range p.Hosts {
		if !h.Draining {
			cores += float64(h.Cores)
		}
	}
	if cores == 0 {
		return 0
	}
	return load / cores
}

// breaches counts, by group.
func breaches(p *Problem, at []int) []int {
	out := make([]int, len(p.Groups))
	for g, x := range p.Groups {
		count := map[int]int{}
		for _, v := range x.VMs {
			count[at[v]]++
		}
		for _, n := range count {
			if x.Apart {
				out[g] += n - 1
			}
		}
		if !x.Apart && len(count) > 0 {
			out[g] = len(count) - 1
		}
	}
	return out
}

func TestEveryPrefixHolds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := drawProblem(t)
		o := drawOptions(t, p)
		plan, err := Make(p, o)
		if err != nil {
			t.Fatal(err)
		}
		replay(t, p, o, plan)
	})
}

func TestSameInputSamePlan(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := drawProblem(t)
		o := drawOptions(t, p)
		a, err := Make(p, o)
		if err != nil {
			t.Fatal(err)
		}
		if b, _ := Make(p, o); !reflect.DeepEqual(a, b) {
			t.Fatalf("two plans:\n%+v\n%+v", a, b)
		}
	})
}

// The sums that are kept are those that a fresh count gives, whatever was moved.
func TestSumsAreKept(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := drawProblem(t)
		o := drawOptions(t, p)
		o, _ = o.withDefaults()
		s := newState(compile(p, o))
		for range rapid.IntRange(0, 30).Draw(t, "moves") {
			if len(s.items) == 0 {
				return
			}
			i := int32(rapid.IntRange(0, len(s.items)-1).Draw(t, "item"))
			h := int32(rapid.IntRange(0, len(s.hosts)-1).Draw(t, "to"))
			if h == s.at[i] {
				continue
			}
			want := s.after(i, h)
			s.move(i, h)
			same(t, "foreseen", want, s.totals)
		}
		fresh := newState(s.compiled)
		for i, h := range s.at {
			if fresh.at[i] != h {
				fresh.move(int32(i), h)
			}
		}
		same(t, "fresh", fresh.totals, s.totals)
	})
}

func same(t rapid.TB, what string, want, got totals) {
	for name, d := range map[string]float64{
		"f1": want.f1 - got.f1, "f2": want.f2 - got.f2, "l1": want.l1 - got.l1, "l2": want.l2 - got.l2,
		"contention": want.contention - got.contention, "price": want.price - got.price, "gib": want.gib - got.gib,
		"broken": float64(want.broken[0] - got.broken[0] + 1000*(want.broken[1]-got.broken[1])),
		"others": float64(want.stranded - got.stranded + 1000*(want.moves-got.moves)),
	} {
		if math.Abs(d) > 1e-6 {
			t.Fatalf("%s %s is off by %v: %+v, %+v", what, name, d, want, got)
		}
	}
}

// Annealing finds what trying every placement finds, or most of it: fleets of 3 hosts and 6 domains.
func TestNearTheBest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := &Problem{}
		for i := range 3 {
			p.Hosts = append(p.Hosts, Host{Name: fmt.Sprint("h", i), Cores: 8, Memory: 32 * gibB, Link: 1.25e9})
		}
		for i := range 6 {
			p.VMs = append(p.VMs, VM{
				Name: fmt.Sprint("v", i), Host: rapid.IntRange(0, 2).Draw(t, "host"),
				Memory: hypervisor.Bytes(rapid.IntRange(1, 8).Draw(t, "gib")) * gibB,
				Mean:   Load{CPU: hypervisor.Cores(rapid.Float64Range(0, 2).Draw(t, "cpu"))},
			})
		}
		o := Options{Objective: rapid.SampledFrom([]Objective{Contention, Score}).Draw(t, "objective")}
		o, _ = o.withDefaults()
		s := newState(compile(p, o))
		x := newSearch(s, s.movable())
		start, best := x.cost(&x.totals), math.Inf(1)
		for k := range 729 {
			for i := range s.items {
				if h := int32(k % 3); s.at[i] != h {
					s.move(int32(i), h)
				}
				k /= 3
			}
			fits := true
			for h := range s.hosts {
				fits = fits && s.loads[h].mem <= s.hosts[h].memMax && s.loads[h].cpu <= s.hosts[h].cpuMax
			}
			if fits {
				s.resum() // what moves leave in the sums counts, where hosts are nearly even
				best = min(best, x.cost(&x.totals))
			}
		}
		s = newState(s.compiled)
		found := find(s)
		if got := found.cost(&found.totals); got > best+0.1*(start-best)+1e-6 {
			t.Fatalf("from %v to %v, best is %v", start, got, best)
		}
	})
}

func TestExcess(t *testing.T) {
	for _, tc := range []struct{ mean, variance, want float64 }{
		{0, 0, 0}, {2, 0, 2}, {-2, 0, 0}, {0, 1, 0.3989}, {1, 1, 1.0833}, {-1, 1, 0.0833}, {-2, 4, 0.1666}, {50, 4, 50}, {-50, 4, 0},
	} {
		if got := excess(tc.mean, tc.variance); math.Abs(got-tc.want) > 2e-3 {
			t.Errorf("excess(%v, %v) = %v, want %v", tc.mean, tc.variance, got, tc.want)
		}
	}
}

// A drain with room everywhere leaves nothing behind; one that can't be says of each VM why.
func TestDrain(t *testing.T) {
	p := &Problem{Hosts: []Host{
		{Name: "a", Cores: 8, Memory: 32 * gibB, Link: 1.25e9, Draining: true},
		{Name: "b", Cores: 8, Memory: 16 * gibB, Link: 1.25e9},
		{Name: "c", Cores: 8, Memory: 16 * gibB, Link: 1.25e9},
	}}
	for i, size := range []hypervisor.Bytes{12, 4, 4, 2} {
		p.VMs = append(p.VMs, VM{Name: fmt.Sprint("v", i), Memory: size * gibB, Mean: Load{CPU: 0.5}})
	}
	// What is on b has to make room for v0.
	p.VMs = append(p.VMs, VM{Name: "w1", Host: 1, Memory: 6 * gibB}, VM{Name: "w2", Host: 2, Memory: 4 * gibB, Pinned: true})
	plan, err := Make(p, Options{Mode: Drain})
	if err != nil || plan.After.OnDraining != 0 || len(plan.Blocked) != 0 {
		t.Errorf("%+v, %v: want nothing left", plan, err)
	}
	p.VMs[0].Memory, p.VMs[1].Pinned = 17*gibB, true
	plan, err = Make(p, Options{Mode: Drain})
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]Why{}
	for _, b := range plan.Blocked {
		got[p.VMs[b.VM].Name] = b.Why
	}
	if want := map[string]Why{"v0": NoMemory, "v1": Pinned}; !reflect.DeepEqual(got, want) {
		t.Errorf("blocked %v, want %v", got, want)
	}
}

// VMs that rules want both together and apart stay, and are named: no host is right for both. The others go.
func TestContradictionStays(t *testing.T) {
	p := &Problem{Hosts: []Host{{Name: "a", Cores: 8, Memory: 32 * gibB, Link: 1.25e9, Draining: true}}}
	for _, name := range []string{"b", "c"} {
		p.Hosts = append(p.Hosts, Host{Name: name, Cores: 8, Memory: 32 * gibB, Link: 1.25e9})
	}
	for i := range 4 {
		p.VMs = append(p.VMs, VM{Name: fmt.Sprint("v", i), Memory: gibB, Mean: Load{CPU: 1}})
	}
	p.Groups = []Group{
		{Name: "with", VMs: []int{0, 1}, Required: true},
		{Name: "too", VMs: []int{1, 2}, Required: true},
		{Name: "never", VMs: []int{0, 2}, Apart: true, Required: true},
	}
	plan, err := Make(p, Options{Mode: Drain})
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]Why{}
	for _, b := range plan.Blocked {
		got[p.VMs[b.VM].Name] = b.Why
	}
	if want := map[string]Why{"v0": Contradiction, "v1": Together, "v2": Contradiction}; !reflect.DeepEqual(got, want) || len(plan.Moves) != 1 {
		t.Errorf("blocked %v, %d moves; want %v, and one", got, len(plan.Moves), want)
	}
}

// A drain with room moves what is on the host, and nothing else.
func TestDrainMovesNothingElse(t *testing.T) {
	p := &Problem{Hosts: []Host{{Name: "a", Cores: 8, Memory: 64 * gibB, Link: 1.25e9, Draining: true}}}
	for i := range 12 {
		p.Hosts = append(p.Hosts, Host{Name: fmt.Sprint("h", i), Cores: 8, Memory: 64 * gibB, Link: 1.25e9})
		p.VMs = append(p.VMs, VM{Name: fmt.Sprint("v", i), Host: i % 3, Memory: 8 * gibB, Mean: Load{CPU: 1.5}})
	}
	plan, err := Make(p, Options{Mode: Drain})
	if err != nil || len(plan.Moves) != 4 || plan.After.OnDraining != 0 {
		t.Errorf("%d moves, %+v, %v: want the 4 that are on the host", len(plan.Moves), plan.After, err)
	}
}

// Hosts are emptied as far as the reserve allows.
func TestConsolidate(t *testing.T) {
	p := &Problem{}
	for i := range 4 {
		p.Hosts = append(p.Hosts, Host{Name: fmt.Sprint("h", i), Cores: 8, Memory: 32 * gibB, Link: 1.25e9})
		p.VMs = append(p.VMs, VM{Name: fmt.Sprint("v", i), Host: i, Memory: 8 * gibB, Mean: Load{CPU: 1}})
	}
	plan, err := Make(p, Options{Mode: Consolidate})
	// A reserve of a fifth leaves room for three domains of 8 GiB on a host.
	if err != nil || plan.After.HostsUsed != 2 || plan.After.MemMax > 0.8 {
		t.Errorf("%+v, %v: want 2 hosts in use, none above 0.8", plan.After, err)
	}
}

// A fleet that has more to do than it can is not filled further for the sake of an empty host: what limits
// a host is the whole fleet's load, not that of the hosts that consolidation leaves in use.
func TestConsolidateKeepsTheLimit(t *testing.T) {
	p := &Problem{Hosts: []Host{
		{Name: "a", Cores: 1, Memory: 16 * gibB, Link: 1.25e9, Draining: true},
		{Name: "b", Cores: 1, Memory: 16 * gibB, Link: 1.25e9},
		{Name: "c", Cores: 3, Memory: 16 * gibB, Link: 1.25e9, Cordoned: true},
	}}
	for i := range 12 {
		p.VMs = append(p.VMs, VM{Name: fmt.Sprint("v", i), Memory: gibB, Mean: Load{CPU: 1}})
	}
	p.VMs = append(p.VMs, VM{Name: "small", Host: 2, Memory: gibB, Mean: Load{CPU: 0.5}}, VM{Name: "idle", Host: 1, Memory: gibB})
	plan, err := Make(p, Options{Mode: Consolidate})
	if err != nil {
		t.Fatal(err)
	}
	load, limit := 0.0, 12.5/4
	for _, m := range plan.Moves {
		if m.To == 1 {
			load += float64(p.VMs[m.VM].Mean.CPU)
		}
	}
	if load > limit || load == 0 {
		t.Errorf("b gets a load of %v, want at most %v, and some", load, limit)
	}
}

// A move by way of a staging host is two, also for the bounds: two VMs that must never meet change places with
// three moves or not at all.
func TestStagingCountsTwice(t *testing.T) {
	p := &Problem{
		VMs: []VM{
			{Name: "v", Host: 2, Memory: gibB, Mean: Load{CPU: 1}, Peak: Load{CPU: 1}},
			{Name: "w", Host: 0, Memory: gibB, Mean: Load{CPU: 0.5}, Peak: Load{CPU: 0.5}, Pinned: true},
			{Name: "x", Host: 1, Memory: gibB, Mean: Load{CPU: 1}, Peak: Load{CPU: 1}, Pinned: true},
			{Name: "y", Host: 1, Memory: gibB, Mean: Load{CPU: 0.5}, Peak: Load{CPU: 0.5}},
		},
		Groups: []Group{{Name: "g", VMs: []int{0, 3}, Apart: true, Required: true}},
	}
	for i, cores := range []hypervisor.Cores{1, 3, 1} {
		p.Hosts = append(p.Hosts, Host{Name: fmt.Sprint("h", i), Cores: cores, Memory: 4 * gibB, Link: 1.25e9})
	}
	for _, tc := range []struct {
		most  int
		bytes hypervisor.Bytes
		want  int
	}{{0, 0, 3}, {3, 3 * gibB, 3}, {2, 0, 0}, {0, 2 * gibB, 0}} {
		plan, err := Make(p, Options{MaxMoves: tc.most, MaxBytes: tc.bytes})
		if err != nil || len(plan.Moves) != tc.want {
			t.Errorf("%+v: %d moves: %+v, %v", tc, len(plan.Moves), plan, err)
		}
	}
}

// A host that has more vCPUs than it may, from before it had a limit, gets none and keeps its own: that an even
// fleet is tried otherwise in the search leaves no moves behind.
func TestOverLimitOnVCPUs(t *testing.T) {
	p := &Problem{}
	for h := range 4 {
		p.Hosts = append(p.Hosts, Host{Name: fmt.Sprint("h", h), Cores: 8, Memory: 64 * gibB, Link: 1.25e9})
		for k := range 6 {
			p.VMs = append(p.VMs, VM{Name: fmt.Sprint("v", h, "-", k), Host: h, Memory: 4 * gibB, VCPUs: 2, Mean: Load{CPU: 0.5 + 0.1*hypervisor.Cores(k)}})
		}
	}
	p.Hosts[0].VCPUs, p.Hosts[1].VCPUs = 4, 11
	plan, err := Make(p, Options{Evaluations: 50_000})
	if err != nil || len(plan.Moves) > 0 {
		t.Errorf("an even fleet: %v, %+v", err, plan.Moves)
	}
	for k := range 6 { // h0 is twice as busy now
		p.VMs[k].Mean.CPU *= 2
	}
	plan, err = Make(p, Options{Evaluations: 50_000})
	if err != nil || len(plan.Moves) == 0 {
		t.Fatalf("a busy host: %v, %+v", err, plan.Moves)
	}
	for _, m := range plan.Moves {
		if m.To < 2 || m.Cause != ToEven {
			t.Errorf("%+v: want moves to hosts without a limit, to even out", m)
		}
	}
}
