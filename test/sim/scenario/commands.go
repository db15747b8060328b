package scenario

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"drover/hypervisor"
	"drover/scheduler/auto"
	"drover/scheduler/fleet"
	"drover/test/sim"
	"drover/test/sim/guest"
	"drover/test/sim/load"
)

func (p *Player) setSeed(a *args) (string, error) {
	if p.w != nil {
		return "", errors.New("it comes before anything else")
	}
	n, err := strconv.ParseUint(a.word("a number"), 10, 64)
	if err != nil {
		return "", err
	}
	p.seed = n
	return "", nil
}

func (p *Player) fleet(a *args) (string, error) {
	var f sim.Fleet
	get(a, "hosts", &f.Hosts, strconv.Atoi)
	get(a, "vms", &f.VMs, strconv.Atoi)
	get(a, "fill", &f.Fill, number)
	get(a, "hot", &f.Hot, number)
	get(a, "load", &f.Load, text)
	get(a, "racks", &f.Racks, strconv.Atoi)
	get(a, "uneven", &f.Uneven, strconv.Atoi)
	p.machine(a, &f.Host)
	if file, there := a.value("trace"); there {
		rows, err := load.Read(file)
		if err != nil {
			return "", err
		}
		f.Trace = rows
	}
	if a.err != nil {
		return "", a.err
	}
	return "", p.w.Make(f)
}

func (p *Player) machine(a *args, h *sim.HostConfig) {
	get(a, "cores", &h.Cores, cores)
	get(a, "memory", &h.Memory, bytes)
	get(a, "reserved", &h.Reserved, bytes)
	get(a, "vcpus", &h.VCPUs, strconv.Atoi)
	get(a, "link", &h.Link, rate)
	get(a, "rack", &h.Rack, text)
}

func (p *Player) host(a *args) (string, error) {
	h := sim.HostConfig{Name: a.word("a name"), Cores: 16, Memory: 64 * hypervisor.GiB, Link: 1e9 / 8}
	p.machine(a, &h)
	if a.err != nil {
		return "", a.err
	}
	_, err := p.w.AddHost(h)
	return "", err
}

func (p *Player) guest(a *args) (string, error) {
	g := sim.GuestConfig{Name: a.word("a name"), VCPUs: 1, Memory: guest.Memory{Total: hypervisor.GiB, Regions: []guest.Region{guest.Idle()}}}
	var host string
	var share float64
	var r guest.Region
	get(a, "host", &host, text)
	get(a, "vcpus", &g.VCPUs, strconv.Atoi)
	get(a, "memory", &g.Memory.Total, bytes)
	get(a, "used", &g.Memory.Used, bytes)
	get(a, "load", &share, number)
	get(a, "set", &r.Size, bytes)
	get(a, "rate", &r.Rate, rate)
	get(a, "on", &r.On, duration)
	get(a, "off", &r.Off, duration)
	r.Sweep = a.flag("sweep")
	if r.Size > 0 {
		g.Memory.Regions = []guest.Region{r}
	}
	g.Load = load.Steady{Level: share}
	if a.err != nil {
		return "", a.err
	}
	_, err := p.w.AddGuest(host, g)
	return "", err
}

func (p *Player) auto(a *args) (string, error) {
	s := auto.DefaultSettings()
	get(a, "level", &s.Level, func(s string) (auto.Level, error) {
		l := auto.Level(s)
		if !slices.Contains([]auto.Level{auto.Manual, auto.Partial, auto.Full}, l) {
			return "", errors.New("want manual, partial or full")
		}
		return l, nil
	})
	get(a, "least", &s.Rule.Least, number)
	get(a, "hold", &s.Rule.Hold, duration)
	get(a, "mark", &s.Rule.Mark, number)
	get(a, "at-once", &s.AtOnce, strconv.Atoi)
	p.w.Auto = &s
	return "", nil
}

// Rules are the rules that a scenario may name, by name.
func Rules() map[string]sim.Rule {
	return map[string]sim.Rule{
		"drover":      sim.Drover{},
		"nova":        sim.Peer{Name: "nova", Outgoing: 1, Tuning: "nova"},
		"ovirt":       sim.Peer{Name: "ovirt", Outgoing: 2, Incoming: 2, Tuning: "vdsm-minimal"},
		"kubevirt":    sim.Peer{Name: "kubevirt", Fleet: 5, Outgoing: 2, Tuning: "kubevirt"},
		"all-at-once": sim.Peer{Name: "all-at-once", Tuning: "default"},
	}
}

func (p *Player) rule(a *args) (string, error) {
	name := a.word("a name")
	r, known := Rules()[name]
	if !known {
		return "", fmt.Errorf("%q is not known", name)
	}
	p.w.Rule = r
	return "", nil
}

func (p *Player) uplink(a *args) (string, error) {
	rack := a.word("a rack")
	r := parse(a, a.word("a rate"), rate)
	if a.err != nil {
		return "", a.err
	}
	return "", p.w.AddUplink(rack, r)
}

func (p *Player) run(a *args) (string, error) {
	d := parse(a, a.word("a time"), duration)
	if a.err == nil {
		p.w.Run(d)
	}
	return "", nil
}

func (p *Player) untilIdle(a *args) (string, error) {
	d := parse(a, a.word("a time"), duration)
	if a.err != nil {
		return "", a.err
	}
	if !p.w.Until(d, func() bool { return p.due == 0 && p.w.Idle() }) {
		return "", fmt.Errorf("after %s something is still under way", d)
	}
	return "", nil
}

// at has an event happen later.
func (p *Player) at(a *args) (string, error) {
	d := parse(a, a.word("a time"), duration)
	name := a.word("an event")
	act, known := events[name]
	if !known {
		return "", fmt.Errorf("no such event: %q", name)
	}
	do := act(p, a)
	if err := a.rest(); err != nil {
		return "", err
	}
	p.due++
	p.w.After(d, func() {
		p.due--
		if err := do(); err != nil {
			p.errs = append(p.errs, fmt.Errorf("%s: %s: %w", a.Pos, name, err))
		}
	})
	return "", nil
}

// events take their arguments now and return what is done later.
var events = map[string]func(p *Player, a *args) func() error{
	"drain": func(p *Player, a *args) func() error {
		r := fleet.Run{Kind: fleet.RunDrain, OnBlocked: fleet.BlockedSkip, Hosts: a.words("hosts")}
		get(a, "parallel", &r.MaxParallel, strconv.Atoi)
		return func() error { p.runs = append(p.runs, p.w.Ask(r)); return nil }
	},
	"restore": func(p *Player, a *args) func() error {
		hosts := a.words("hosts")
		return func() error { p.runs = append(p.runs, p.w.Restore(hosts...)); return nil }
	},
	"cancel": func(p *Player, a *args) func() error {
		c := fleet.RunCancel{Abort: a.flag("abort"), Uncordon: a.flag("uncordon")}
		return func() error {
			if len(p.runs) == 0 {
				return errors.New("no run was asked for")
			}
			return p.w.CancelRun(p.runs[len(p.runs)-1], c)
		}
	},
	"migrate": func(p *Player, a *args) func() error {
		vm, to := a.word("a VM"), ""
		get(a, "to", &to, text)
		return func() error { _, err := p.w.Migrate(vm, to); return err }
	},
	"cordon":      onHost(func(w *sim.World, h string) error { w.Cordon(h, false); return nil }),
	"uncordon":    onHost(func(w *sim.World, h string) error { w.Cordon(h, true); return nil }),
	"open":        onHost(func(w *sim.World, h string) error { w.Open(h); return nil }),
	"kill-host":   onHost((*sim.World).KillHost),
	"start-host":  onHost((*sim.World).StartHost),
	"kill-agent":  onHostFor((*sim.World).KillAgent),
	"cut":         onHostFor((*sim.World).CutAgent),
	"kill-leader": func(p *Player, _ *args) func() error { return func() error { p.w.KillLeader(); return nil } },
	"pause":       func(p *Player, _ *args) func() error { return func() error { p.w.Pause("asked for"); return nil } },
	"resume":      func(p *Player, _ *args) func() error { return func() error { p.w.Pause(""); return nil } },
	"tenants": func(p *Player, a *args) func() error {
		host := a.word("a host")
		var out, in hypervisor.BytesPerSecond
		get(a, "out", &out, rate)
		get(a, "in", &in, rate)
		return func() error { return p.w.Tenants(host, out, in) }
	},
}

func onHost(do func(*sim.World, string) error) func(*Player, *args) func() error {
	return func(p *Player, a *args) func() error {
		h := a.word("a host")
		return func() error { return do(p.w, h) }
	}
}

func onHostFor(do func(*sim.World, string, time.Duration) error) func(*Player, *args) func() error {
	return func(p *Player, a *args) func() error {
		h, d := a.word("a host"), 30*time.Second
		get(a, "for", &d, duration)
		return func() error { return do(p.w, h, d) }
	}
}
