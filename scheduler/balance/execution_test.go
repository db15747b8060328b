package balance

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"drover/hypervisor"
)

// execution carries a plan out in any order that its moves' After allows, however long each takes: a domain has
// memory, CPU and vCPUs on both hosts while it moves.
type execution struct {
	p       *Problem
	plan    *Plan
	at      []int
	mem     []hypervisor.Bytes
	cpu     []float64
	vcpus   []int
	limit   []float64
	started []bool
	done    []bool
}

func newExecution(p *Problem, plan *Plan) *execution {
	e := &execution{
		p: p, plan: plan, at: make([]int, len(p.VMs)), mem: make([]hypervisor.Bytes, len(p.Hosts)), cpu: make([]float64, len(p.Hosts)),
		vcpus:   make([]int, len(p.Hosts)),
		started: make([]bool, len(plan.Moves)), done: make([]bool, len(plan.Moves)),
	}
	for i, v := range p.VMs {
		e.at[i] = v.at()
		e.mem[e.at[i]] += v.Memory
		e.cpu[e.at[i]] += float64(v.Mean.CPU)
		e.vcpus[e.at[i]] += v.VCPUs
		if v.Moving && v.Target != v.Host {
			e.mem[v.Host] += v.Memory
			e.vcpus[v.Host] += v.VCPUs
		}
	}
	for h, x := range p.Hosts {
		e.limit = append(e.limit, max(float64(x.Cores)*max(1, meanUtilisation(p)), e.cpu[h]))
	}
	return e
}

// may are the moves that can start, or that are under way and can end.
func (e *execution) may(start bool) []int {
	var out []int
	for k, m := range e.plan.Moves {
		waits := slices.ContainsFunc(m.After, func(a int) bool { return !e.done[a] })
		if start && !e.started[k] && !waits || !start && e.started[k] && !e.done[k] {
			out = append(out, k)
		}
	}
	return out
}

// start begins a move and says what it breaks.
func (e *execution) start(k int) error {
	m := e.plan.Moves[k]
	v, to := e.p.VMs[m.VM], e.p.Hosts[m.To]
	e.started[k] = true
	e.mem[m.To] += v.Memory
	e.cpu[m.To] += float64(v.Mean.CPU)
	e.vcpus[m.To] += v.VCPUs
	switch {
	case e.at[m.VM] != m.From:
		return fmt.Errorf("move %d: %s is on %d, moves from %d", k, v.Name, e.at[m.VM], m.From)
	case e.mem[m.To] > to.Memory-to.Reserved:
		return fmt.Errorf("move %d: %s has %s of %s", k, to.Name, e.mem[m.To], to.Memory-to.Reserved)
	case to.VCPUs > 0 && v.VCPUs > 0 && e.vcpus[m.To] > to.VCPUs:
		return fmt.Errorf("move %d: %s has %d vCPUs of %d", k, to.Name, e.vcpus[m.To], to.VCPUs)
	case v.Mean.CPU > 0 && e.cpu[m.To] > e.limit[m.To]+1e-6:
		return fmt.Errorf("move %d: %s has a load of %v, limit %v", k, to.Name, e.cpu[m.To], e.limit[m.To])
	}
	for _, g := range e.p.Groups {
		if !g.Apart || !g.Required || !slices.Contains(g.VMs, m.VM) {
			continue
		}
		for _, i := range g.VMs {
			comes := slices.ContainsFunc(e.may(false), func(n int) bool { return n != k && e.plan.Moves[n].VM == i && e.plan.Moves[n].To == m.To })
			if i != m.VM && (e.at[i] == m.To || comes) {
				return fmt.Errorf("move %d: %s meets %s on %s", k, v.Name, e.p.VMs[i].Name, to.Name)
			}
		}
	}
	return nil
}

func (e *execution) end(k int) {
	m := e.plan.Moves[k]
	v := e.p.VMs[m.VM]
	e.done[k] = true
	e.mem[m.From] -= v.Memory
	e.cpu[m.From] -= float64(v.Mean.CPU)
	e.vcpus[m.From] -= v.VCPUs
	e.at[m.VM] = m.To
}

func TestEveryExecutionHolds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := drawProblem(t)
		plan, err := Make(p, drawOptions(t, p))
		if err != nil {
			t.Fatal(err)
		}
		e := newExecution(p, plan)
		for {
			starts, ends := e.may(true), e.may(false)
			n := len(starts) + len(ends)
			if n == 0 {
				break
			}
			if k := rapid.IntRange(0, n-1).Draw(t, "next"); k < len(starts) {
				if err := e.start(starts[k]); err != nil {
					t.Fatalf("%v\n%+v", err, plan.Moves)
				}
			} else {
				e.end(ends[k-len(starts)])
			}
		}
		if k := slices.Index(e.done, false); k >= 0 {
			t.Fatalf("move %d never starts: %+v", k, plan.Moves)
		}
	})
}

// On hosts that are short of CPU moves wait for each other, but only those that must.
func TestScarceCPUIsNoQueue(t *testing.T) {
	p := &Problem{}
	for h := range 20 {
		p.Hosts = append(p.Hosts, Host{Name: fmt.Sprint("h", h), Cores: 8, Memory: 64 * gibB, Link: 1.25e9})
		for k := range 15 {
			p.VMs = append(p.VMs, VM{Name: fmt.Sprint("v", h, "-", k), Host: h, Memory: hypervisor.Bytes(1+h%2*3) * gibB, Mean: Load{CPU: 0.5}})
		}
	}
	plan, err := Make(p, Options{Objective: Score, Evaluations: 100_000})
	if err != nil || len(plan.Moves) < 20 {
		t.Fatalf("%d moves, %+v, %v: want 20 or more", len(plan.Moves), plan, err)
	}
	if last := plan.Moves[len(plan.Moves)-1].Wave; last > len(plan.Moves)/3 {
		t.Errorf("%d moves in %d waves", len(plan.Moves), last)
	}
}
