package main

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/urfave/cli/v2"

	"drover/cmd/internal/out"
	"drover/hypervisor"
	"drover/scheduler"
	"drover/scheduler/fleet"
	"drover/scheduler/policy"
)

func snapshotCommand() *cli.Command {
	return &cli.Command{
		Name: "snapshot", Usage: "write the fleet as the planner's input, in JSON",
		Description: "Hosts without a living agent are left out, as nothing is known about them; stderr names them.\n" +
			"So are VMs that do not run. Where the speed of the migration network is not known, it reads 1 Gbit/s.",
		Action: takes(0, 0, "", quick(writeSnapshot)),
	}
}

// The planner's input. The names are a contract with outside tools.
type (
	planInput struct {
		Hosts []planHost `json:"hosts"`
		VMs   []planVM   `json:"vms"`
		// Groups of at least two VMs that are there.
		AntiAffinity []planGroup `json:"anti_affinity,omitempty"`
		Affinity     []planGroup `json:"affinity,omitempty"`
	}
	planGroup struct {
		Name     string   `json:"name"`
		VMs      []string `json:"vms"`
		Required bool     `json:"required"`
	}
	planHost struct {
		Name        string            `json:"name"`
		Cores       float64           `json:"cores"`
		MemMiB      float64           `json:"mem_mib"`
		ReservedMiB float64           `json:"reserved_mib"`
		VCPUs       int               `json:"vcpus,omitempty"` // that its VMs may have together
		NetGbit     float64           `json:"net_gbit"`
		Cordoned    bool              `json:"cordoned"`
		Labels      map[string]string `json:"labels,omitempty"`
	}
	planVM struct {
		Name      string            `json:"name"`
		UUID      string            `json:"uuid"`
		Host      string            `json:"host"`
		VCPUs     int               `json:"vcpus"`
		MemMiB    float64           `json:"mem_mib"`
		CPULoad   float64           `json:"cpu_load"` // cores in use
		DirtyMiBs float64           `json:"dirty_mib_s"`
		NetMiBs   float64           `json:"net_mib_s"`
		DiskGiB   float64           `json:"disk_gib"`
		Pinned    bool              `json:"pinned"`
		Labels    map[string]string `json:"labels,omitempty"`
	}
)

func writeSnapshot(ctx context.Context, s *session) error {
	snap, err := s.snapshot(ctx)
	if err != nil {
		return err
	}
	input, remarks := planInputOf(snap)
	for _, text := range remarks {
		s.note("drover: %s", text)
	}
	if s.format == out.AsYAML {
		return s.answer(input, nil)
	}
	text, err := json.MarshalIndent(input, "", "  ")
	if err != nil {
		return fmt.Errorf("snapshot: %w", err)
	}
	_, err = fmt.Fprintf(s.cli.App.Writer, "%s\n", text)
	return err
}

// planInputOf renders a snapshot as the planner's input and remarks what is not in it as it should be. A
// VM under migration stands once, on its source.
func planInputOf(snap *fleet.Snapshot) (input planInput, remarks []string) {
	x := indexOf(snap)
	input = planInput{Hosts: []planHost{}, VMs: []planVM{}}
	for _, name := range snap.HostNames() {
		h := snap.Hosts[name]
		if !h.Alive() {
			remarks = append(remarks, name+" is left out: no agent reports from it")
			continue
		}
		c := h.Capacity()
		if c.Bandwidth <= 0 {
			c.Bandwidth = scheduler.UnknownLink
		}
		input.Hosts = append(input.Hosts, planHost{
			Name: name, Cores: float64(c.Cores), MemMiB: mib(c.Memory), ReservedMiB: mib(c.Reserved), VCPUs: max(c.VCPUs, 0),
			NetGbit: c.Bandwidth.Mbit() / 1000, Cordoned: len(h.Record.Cordons) > 0, Labels: h.Record.Labels,
		})
		for _, d := range h.Domains() {
			if d.Running() && !x.half(d) {
				v, remark := planVMOf(snap, d)
				input.VMs = append(input.VMs, v)
				remarks = append(remarks, remark...)
			}
		}
	}
	input.AntiAffinity = planGroups(snap, input.VMs, policy.Apart)
	input.Affinity = planGroups(snap, input.VMs, policy.Together)
	return input, remarks
}

// planGroups are the policy's groups of one kind with their members among the VMs.
func planGroups(snap *fleet.Snapshot, vms []planVM, kind policy.Kind) []planGroup {
	var out []planGroup
	for _, g := range snap.Policy.Groups {
		if g.Kind != kind {
			continue
		}
		p := planGroup{Name: g.Name, Required: g.Strength == policy.Required}
		for _, v := range vms {
			if g.Has(v.Name, v.Labels) {
				p.VMs = append(p.VMs, v.Name)
			}
		}
		if len(p.VMs) > 1 {
			out = append(out, p)
		}
	}
	return out
}

// planVMOf renders one VM. One whose policy is not known stays where it is.
func planVMOf(snap *fleet.Snapshot, d fleet.Domain) (planVM, []string) {
	decided, err := snap.PolicyOf(d)
	v := planVM{
		Name: d.Facts.Name, UUID: string(d.Facts.ID), Host: d.Host.Name, VCPUs: d.Facts.VCPUs,
		MemMiB: mib(d.Facts.Memory), CPULoad: float64(d.Load.CPU),
		NetMiBs: mib(hypervisor.Bytes(d.Load.Rx + d.Load.Tx)),
		Pinned:  decided.Pinned || err != nil, Labels: snap.VMs[d.Facts.ID].Labels,
	}
	if s := d.Load.Dirty; s != nil {
		v.DirtyMiBs = mib(hypervisor.Bytes(s.Rate))
	}
	for _, disk := range d.Facts.Disks {
		v.DiskGiB += gib(disk.Size)
	}
	if err != nil {
		return v, []string{fmt.Sprintf("%s stands as pinned: %v", d.Facts.Name, err)}
	}
	return v, nil
}

func mib(b hypervisor.Bytes) float64 { return float64(b) / float64(hypervisor.MiB) }
