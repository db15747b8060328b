package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"drover/cmd/internal/out"
	"drover/hypervisor"
	"drover/scheduler/balance"
)

// planView is the answer; its names are a contract with outside tools.
type planView struct {
	Moves   []planMove      `json:"moves"`
	Before  balance.Metrics `json:"before"`
	After   balance.Metrics `json:"after"`
	Blocked []planBlocked   `json:"blocked"`
	// Stays are the other VMs that are where they were, with --explain.
	Stays []planBlocked `json:"stays,omitempty"`

	problem  *balance.Problem
	makespan time.Duration
	bounded  bool   // it was asked for with bounds
	unit     string // of prices, gains and losses
}

type planMove struct {
	VM       string       `json:"vm"`
	From     string       `json:"from"`
	To       string       `json:"to"`
	Wave     int          `json:"wave"`
	After    []int        `json:"after,omitempty"`
	Reason   string       `json:"reason"`
	MemMiB   float64      `json:"mem_mib"`
	Forecast planForecast `json:"forecast"`
	// With --explain: what the plan would lose without the move, over its own price, and other hosts for it. All
	// these are in core-seconds, or GiB with --objective score.
	Gain         *float64          `json:"gain,omitempty"`
	Price        *float64          `json:"price,omitempty"`
	Alternatives []planAlternative `json:"alternatives,omitempty"`
}

type planForecast struct {
	Seconds float64          `json:"seconds"`
	Bytes   hypervisor.Bytes `json:"bytes"`
	PauseMS int64            `json:"pause_ms"`
}

type planAlternative struct {
	Host   string  `json:"host"`
	Why    string  `json:"why,omitempty"` // it can't
	Detail string  `json:"detail,omitempty"`
	Loss   float64 `json:"loss,omitempty"` // it can, but is so much worse
}

type planBlocked struct {
	VM     string `json:"vm"`
	Host   string `json:"host"`
	Code   string `json:"code"`
	Reason string `json:"reason"`
}

func planViewOf(p *balance.Problem, plan *balance.Plan, explain bool) planView {
	v := planView{
		Moves: []planMove{}, Before: plan.Before, After: plan.After, Blocked: []planBlocked{},
		problem: p, makespan: plan.Makespan,
	}
	used := usage(p)
	for _, m := range plan.Moves {
		vm := &p.VMs[m.VM]
		x := planMove{
			VM: vm.Name, From: p.Hosts[m.From].Name, To: p.Hosts[m.To].Name, Wave: m.Wave, After: m.After,
			Reason: planReason(p, m, used), MemMiB: mib(vm.Memory),
			Forecast: planForecast{Seconds: m.Price.Duration.Seconds(), Bytes: m.Price.Bytes, PauseMS: m.Price.Pause.Milliseconds()},
		}
		for _, a := range m.Alternatives {
			x.Alternatives = append(x.Alternatives, planAlternative{Host: p.Hosts[a.Host].Name, Why: string(a.Why), Detail: a.Detail, Loss: a.Loss})
		}
		if explain {
			x.Gain, x.Price = &m.Gain, &m.Cost
		}
		v.Moves = append(v.Moves, x)
	}
	for _, b := range plan.Blocked {
		x := planBlocked{VM: p.VMs[b.VM].Name, Host: p.Hosts[p.VMs[b.VM].Host].Name, Code: string(b.Why), Reason: stayText(b)}
		if b.Asked {
			v.Blocked = append(v.Blocked, x)
		} else if explain {
			v.Stays = append(v.Stays, x)
		}
	}
	return v
}

// share is how much of a host is in use.
type share struct{ cpu, memory float64 }

func usage(p *balance.Problem) []share {
	out := make([]share, len(p.Hosts))
	for _, v := range p.VMs {
		h := p.Hosts[v.Host]
		out[v.Host].cpu += float64(v.Mean.CPU) / float64(h.Cores)
		out[v.Host].memory += float64(v.Memory) / max(float64(h.Memory-h.Reserved), 1)
	}
	return out
}

// planReason says what a move is for, with the numbers before the plan.
func planReason(p *balance.Problem, m balance.Move, used []share) string {
	from, to := p.Hosts[m.From].Name, p.Hosts[m.To].Name
	switch m.Cause {
	case balance.ToDrain:
		return "drain: " + from + " is to be empty"
	case balance.ToEmpty:
		return "empty: " + from + " is not needed"
	case balance.ToMend:
		return "mend: rule " + m.Rule + " is broken"
	case balance.ToRoom:
		return "make-room: others need its room on " + from
	case balance.ToStage:
		return "staging: VMs wait for each other's room; this one waits on " + to
	}
	a, b := used[m.From], used[m.To]
	return fmt.Sprintf("balance: %s has CPU %.0f %%, memory %.0f %%; %s CPU %.0f %%, memory %.0f %%",
		from, 100*a.cpu, 100*a.memory, to, 100*b.cpu, 100*b.memory)
}

// stayText says why a VM stays.
func stayText(b balance.Blocked) string {
	text := map[balance.Why]string{
		balance.Pinned:        "it is pinned",
		balance.UnderWay:      "it is being migrated",
		balance.Resting:       "it moved lately",
		balance.NoConvergence: "it writes memory faster than the link takes it",
		balance.NoMemory:      "no host has the memory for it",
		balance.NoCPU:         "no host has the CPU for it",
		balance.NoVCPUs:       "no host may have so many more vCPUs",
		balance.AntiAffinity:  "every host has a VM that it must not be with",
		balance.Avoided:       "it may not go to any other host",
		balance.Closed:        "no other host takes VMs",
		balance.NoOrder:       "VMs wait for each other's room",
		balance.Bounded:       "the plan's bounds are reached",
		balance.Together:      "it must stay with a VM that can't move",
		balance.Contradiction: "its rules want it both together with another VM and apart from it",
		balance.NotWorth:      "no move of it is worth its price",
	}[b.Why]
	if b.Detail != "" {
		text += ": " + b.Detail
	}
	if b.Why != balance.NotWorth && len(b.Hosts) > 0 {
		var hosts []string
		for _, w := range slices.Sorted(maps.Keys(b.Hosts)) {
			hosts = append(hosts, fmt.Sprintf("%s %d", w, b.Hosts[w]))
		}
		text += " (hosts: " + strings.Join(hosts, ", ") + ")"
	}
	return text
}

func (v planView) table() out.Table {
	t := out.Table{Head: []string{"WAVE", "VM", "FROM", "TO", "MEMORY", "SECONDS", "WHY"}}
	total, wire := 0.0, hypervisor.Bytes(0)
	for _, m := range v.Moves {
		total += m.MemMiB / 1024
		wire += m.Forecast.Bytes
		t.Add(fmt.Sprint(m.Wave), m.VM, m.From, m.To, fmt.Sprintf("%.1f GiB", m.MemMiB/1024), fmt.Sprintf("%.0f", m.Forecast.Seconds), m.Reason)
		if m.Gain != nil {
			t.Add(" ", " ", " ", " ", " ", " ", fmt.Sprintf("it costs %.4g %s, and the plan would lose %.4g more without it", *m.Price, v.unit, *m.Gain))
		}
		for _, a := range m.Alternatives {
			why := fmt.Sprintf("not %s: worse by %.4g %s", a.Host, a.Loss, v.unit)
			if a.Why != "" {
				why = strings.TrimSuffix(fmt.Sprintf("not %s: %s: %s", a.Host, a.Why, a.Detail), ": ")
			}
			t.Add(" ", " ", " ", " ", " ", " ", why)
		}
	}
	for _, b := range v.Blocked {
		t.Add("blocked", b.VM, b.Host, "", "", "", b.Reason)
	}
	for _, b := range v.Stays {
		t.Add("stays", b.VM, b.Host, "", "", "", b.Reason)
	}
	if len(t.Rows) == 0 {
		t.None = "nothing is worth moving"
		if v.bounded {
			t.None = "nothing that keeps the bounds is worth moving"
		}
		return t
	}
	b, a := v.Before, v.After
	t.Add("total", plural(len(v.Moves), "move"), "", "", fmt.Sprintf("%.1f GiB", total), fmt.Sprintf("%.0f", v.makespan.Seconds()),
		fmt.Sprintf("%s on the wire; busiest CPU %.0f %% -> %.0f %%, memory %.0f %% -> %.0f %%; score %.4f -> %.4f",
			wire, 100*b.CPUMax, 100*a.CPUMax, 100*b.MemMax, 100*a.MemMax, b.Score, a.Score))
	return t
}
