package main

import (
	"fmt"
	"slices"
	"strconv"
	"time"

	"drover/hypervisor"
	"drover/precopy"
	"drover/scheduler/auto"
	"drover/scheduler/balance"
	"drover/scheduler/signal"
)

// leasts are drover's settings: the overload that a move must avoid in the next six hours, in core-minutes. The
// one at standard is what drover does when nobody says otherwise.
var leasts = []float64{1, 2.5, auto.DefaultRule().Least, 10, 20}

const standard = 2

func drovers() []contender {
	var out []contender
	for _, least := range leasts {
		r := auto.DefaultRule()
		r.Least = least
		out = append(out, contender{"drover", fmt.Sprintf("avoids %g core-min", least), func() rule { return newDrover(r) }})
	}
	return out
}

// drover is drover's own code: what its leader keeps, and how it chooses. It is told the load of every minute,
// and looks for moves every five.
type drover struct {
	rule   auto.Rule
	load   *signal.Memory
	trail  *signal.Trail
	heat   []signal.Heat
	ids    []hypervisor.DomainID
	moves  int
	cooled time.Duration
}

func newDrover(r auto.Rule) *drover {
	return &drover{rule: r, load: signal.NewMemory(0), trail: signal.NewTrail(), cooled: 30 * time.Minute}
}

// midnight is when the first column of the trace begins.
var midnight = time.Date(2011, 3, 3, 0, 0, 0, 0, time.UTC)

func (d *drover) see(vms []vm, load []float64, at time.Time) {
	for i := len(d.ids); i < len(load); i++ {
		d.ids = append(d.ids, hypervisor.DomainID(strconv.Itoa(i)))
	}
	for i, l := range load {
		d.load.Observe(signal.Sample{Domain: d.ids[i], At: at, CPU: hypervisor.Cores(l), VCPUs: int(vms[i].vcpus)})
	}
}

func (d *drover) learn(f *fleet, load []float64, s int) {
	for m := range step {
		d.see(f.vms, load, midnight.Add(time.Duration(s*step+m+1)*time.Minute))
	}
}

func (d *drover) decide(v *view) []move {
	now := midnight.Add(time.Duration(warmup*step+v.minute+1) * time.Minute)
	d.see(v.fleet.vms, v.vmLoad, now)
	if v.minute%step != 0 {
		return nil
	}
	p, loads := d.problem(v, now)
	hosts := make([][]signal.Estimate, len(p.Hosts))
	for i, h := range v.at {
		hosts[h] = append(hosts[h], loads[i])
	}
	if d.heat == nil {
		d.heat = make([]signal.Heat, len(hosts))
	}
	hot := make([]bool, len(hosts))
	for h := range hosts {
		d.heat[h] = d.rule.Latch().Step(d.heat[h], d.rule.Overload(signal.Sum(hosts[h]...), hostCores), now)
		hot[h] = d.heat[h].Hot
	}
	list, err := auto.Choose(p, loads, hot, d.rule)
	if err != nil {
		panic(err) // the problem is made here
	}
	var out []move
	from, to := map[int]bool{}, map[int]bool{}
	for _, c := range list {
		// One at a time for each host: the rest is looked at anew in five minutes.
		if from[c.From] || to[c.To] || len(c.After) > 0 {
			continue
		}
		from[c.From], to[c.To] = true, true
		out = append(out, move{c.VM, c.To})
		d.moves++
		d.trail.See(precopy.Migration{
			ID: strconv.Itoa(d.moves), UUID: d.ids[c.VM], Phase: precopy.Done,
			Source: strconv.Itoa(c.From), Target: strconv.Itoa(c.To),
		}, now)
	}
	return out
}

func (d *drover) problem(v *view, now time.Time) (*balance.Problem, []signal.Estimate) {
	p := &balance.Problem{VMs: make([]balance.VM, len(v.at))}
	for h := range v.hostLoad {
		p.Hosts = append(p.Hosts, balance.Host{
			Name: strconv.Itoa(h), Cores: hostCores, Memory: hostMemory * hypervisor.GiB, Link: link,
		})
	}
	loads := make([]signal.Estimate, len(v.at))
	for i, h := range v.at {
		loads[i] = d.load.Estimate(d.ids[i], now, d.rule.Horizon)
		x := &p.VMs[i]
		*x = balance.VM{
			Name: string(d.ids[i]), Host: h, Memory: hypervisor.Bytes(v.fleet.vms[i].memory * float64(hypervisor.GiB)),
			VCPUs: int(v.fleet.vms[i].vcpus), Dirty: dirty,
			Resting: v.busyHost[h] || d.trail.Rests(d.ids[i], now, d.cooled) > 0,
		}
		for _, name := range d.trail.Left(d.ids[i], now) {
			if host, err := strconv.Atoi(name); err == nil {
				x.Avoid = append(x.Avoid, host)
			}
		}
		for host, busy := range v.busyHost {
			if busy && !slices.Contains(x.Avoid, host) {
				x.Avoid = append(x.Avoid, host)
			}
		}
	}
	return p, loads
}
