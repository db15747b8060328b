package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"drover/cmd/internal/out"
	"drover/hypervisor"
	"drover/scheduler/fleet"
)

func vmCommand() *cli.Command {
	return &cli.Command{
		Name: "vm", Usage: "virtual machines: list, look at, check whether they can move, set class and labels",
		Subcommands: []*cli.Command{
			{
				Name: "list", Aliases: []string{"ls"}, Usage: "all VMs with their load",
				Flags: []cli.Flag{
					watchFlag(),
					&cli.StringFlag{Name: "host", Usage: "only those on this `HOST`"},
				},
				Action: takes(0, 0, "", listing(listVMs)),
			},
			{
				Name: "show", Usage: "everything known about one VM", ArgsUsage: "VM",
				Flags: []cli.Flag{watchFlag()}, Action: takes(1, 1, "VM", listing(showVM)),
			},
			checkCommand(),
			vmSetCommand(),
		},
	}
}

// vmView is a VM as the answer shows it. Rates are bytes per second, CPU is in cores.
type vmView struct {
	Name      string                    `json:"name"`
	UUID      hypervisor.DomainID       `json:"uuid"`
	Host      string                    `json:"host"`
	State     hypervisor.DomainState    `json:"state"`
	VCPUs     int                       `json:"vcpus"`
	Memory    hypervisor.Bytes          `json:"memory"`
	CPU       hypervisor.Cores          `json:"cpu"`
	DirtyRate hypervisor.BytesPerSecond `json:"dirty_rate,omitempty"`
	NetRate   hypervisor.BytesPerSecond `json:"net_rate"`
	Migration string                    `json:"migration,omitempty"` // the unfinished one, as "to HOST, PHASE"
	Problem   string                    `json:"problem,omitempty"`   // why the figures are old
	Blockers  []hypervisor.Blocker      `json:"blockers,omitempty"`
}

// goneVM is a VM that no host reports now. Nothing else is known of it.
type goneVM struct {
	Name string              `json:"name"`
	UUID hypervisor.DomainID `json:"uuid"`
	Host string              `json:"host"` // where it was last seen
	// LastSeen is always true: it tells these from the others.
	LastSeen bool `json:"last_seen"`
}

func viewVM(x index, d fleet.Domain) vmView {
	v := vmView{
		Name: d.Facts.Name, UUID: d.Facts.ID, Host: d.Host.Name, State: d.Load.State,
		VCPUs: d.Facts.VCPUs, Memory: d.Facts.Memory, CPU: d.Load.CPU,
		NetRate: d.Load.Rx + d.Load.Tx, Blockers: d.Facts.Blockers, Problem: d.Load.Problem,
	}
	if d.Load.Dirty != nil {
		v.DirtyRate = d.Load.Dirty.Rate
	}
	if m, ok := x.moving[d.Facts.ID]; ok {
		switch d.Host.Name {
		case m.Target:
			v.Migration = fmt.Sprintf("from %s, %s", m.Source, m.Phase)
		case m.Source:
			v.Migration = fmt.Sprintf("to %s, %s", orDash(m.Target), m.Phase)
		}
	}
	return v
}

func listVMs(ctx context.Context, s *session) (any, func() out.Table, error) {
	snap, err := s.snapshot(ctx)
	if err != nil {
		return nil, nil, err
	}
	host := s.cli.String("host")
	if host != "" {
		if _, err := findHost(snap, host); err != nil {
			return nil, nil, err
		}
	}
	t := out.Table{
		Head: []string{"VM", "HOST", "STATE", "VCPUS", "MEMORY", "CPU", "DIRTY", "MIGRATION", "PROBLEM"},
		None: "no VMs",
	}
	x, views := indexOf(snap), []any{}
	for _, d := range snap.Domains() {
		if host != "" && d.Host.Name != host {
			continue
		}
		v, dirty := viewVM(x, d), ""
		if v.DirtyRate > 0 {
			dirty = v.DirtyRate.String()
		}
		views = append(views, v)
		t.Add(v.Name, v.Host, string(v.State), fmt.Sprint(v.VCPUs), v.Memory.String(),
			fmt.Sprintf("%.1f", float64(v.CPU)), dirty, v.Migration, v.Problem)
	}
	for _, g := range x.gone {
		if host != "" && g.host.Name != host {
			continue
		}
		state, _ := hostState(g.host)
		views = append(views, goneVM{g.Name, g.ID, g.host.Name, true})
		t.Add(g.Name, g.host.Name, "host "+state, "", "", "", "", "", "last seen there, not reported now")
	}
	return views, func() out.Table { return t }, nil
}

func showVM(ctx context.Context, s *session) (any, func() out.Table, error) {
	snap, err := s.snapshot(ctx)
	if err != nil {
		return nil, nil, err
	}
	d, err := findVM(snap, s.word())
	if err != nil {
		return nil, nil, err
	}
	value := struct {
		vmView
		Policy policyView             `json:"policy"`
		Labels map[string]string      `json:"labels,omitempty"`
		Facts  hypervisor.DomainFacts `json:"facts"`
		Load   hypervisor.DomainLoad  `json:"load"`
	}{viewVM(indexOf(snap), d), viewPolicy(snap, d), snap.VMs[d.Facts.ID].Labels, d.Facts, d.Load}
	return value, func() out.Table {
		t := vmTable(value.vmView, d)
		t.Add("Policy:", value.Policy.text())
		if value.Policy.Pinned {
			t.Add("Pinned:", "yes")
		}
		for _, k := range slices.Sorted(maps.Keys(value.Labels)) {
			t.Add("Label:", k+"="+value.Labels[k])
		}
		return t
	}, nil
}

func vmTable(v vmView, d fleet.Domain) out.Table {
	var t out.Table
	t.Add("VM:", v.Name)
	t.Add("UUID:", string(v.UUID))
	t.Add("Host:", v.Host)
	t.Add("State:", string(v.State))
	t.Add("CPU:", fmt.Sprintf("%.1f of %d vCPUs", float64(v.CPU), v.VCPUs))
	t.Add("Memory:", fmt.Sprintf("%s; its process holds %s of the host's", v.Memory, d.Load.Memory))
	if s := d.Load.Dirty; s != nil {
		t.Add("Dirties memory:", fmt.Sprintf("%s, sampled over %s", s.Rate, out.Span(s.Window)))
	}
	t.Add("Network:", fmt.Sprintf("%s in, %s out", d.Load.Rx, d.Load.Tx))
	t.Add("Disks:", fmt.Sprintf("%s read, %s written", d.Load.Read, d.Load.Write))
	for _, disk := range d.Facts.Disks {
		t.Add("Disk "+disk.Target+":", diskText(disk))
	}
	t.Add("Machine:", joinNotes(d.Facts.Machine, d.Facts.Arch, d.Facts.VirtType))
	if !d.Facts.Persistent {
		t.Add("Definition:", "transient: gone when it stops")
	}
	if v.Migration != "" {
		t.Add("Migration:", v.Migration)
	}
	if v.Problem != "" {
		t.Add("Problem:", v.Problem)
	}
	for _, b := range v.Blockers {
		t.Add("Can't move:", blockerText(b))
	}
	return t
}

func diskText(d hypervisor.Disk) string {
	where := "this host's own"
	switch {
	case d.Source == "":
		return "empty"
	case d.Shared:
		where = "shared"
	}
	text := fmt.Sprintf("%s (%s, %s)", d.Source, d.Size, where)
	if d.ReadOnly {
		text += " read-only"
	}
	return text
}

func blockerText(b hypervisor.Blocker) string {
	if b.Remedy == "" {
		return b.String()
	}
	return b.String() + " (" + b.Remedy + ")"
}

// findVM resolves what a person typed to the one VM that is meant.
func findVM(snap *fleet.Snapshot, word string) (fleet.Domain, error) {
	x := indexOf(snap)
	found := slices.DeleteFunc(snap.FindVM(word), x.half)
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return fleet.Domain{}, notFound(snap, x, word)
	}
	var names []string
	for _, d := range found {
		names = append(names, fmt.Sprintf("%s/%s (%s)", d.Host.Name, d.Facts.Name, d.Facts.ID))
	}
	return fleet.Domain{}, fmt.Errorf("%q means more than one VM: say which of %s", word, strings.Join(names, ", "))
}
