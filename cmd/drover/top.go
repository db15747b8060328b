package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"drover/cmd/internal/out"
	"drover/precopy"
	"drover/scheduler/budget"
	"drover/scheduler/fleet"
)

func topCommand() *cli.Command {
	return &cli.Command{
		Name: "top", Usage: "hosts, links and running migrations at a glance, refreshed in place",
		Description: "It goes on until Ctrl-C: redrawn on a terminal, else printed when something changed.",
		Flags:       []cli.Flag{toggle("once", "print it once and end")},
		Action: takes(0, 0, "", func(c *cli.Context) error {
			if c.Bool("once") {
				return listing(showTop)(c)
			}
			return watching(showTop)(c)
		}),
	}
}

// topView is what top shows.
type topView struct {
	Hosts      []hostView          `json:"hosts"`
	Links      []budget.LinkView   `json:"links"` // that a migration crosses
	Migrations []precopy.Migration `json:"migrations"`
	Progress   []precopy.Progress  `json:"progress"`
}

func showTop(ctx context.Context, s *session) (any, func() out.Table, error) {
	snap, err := s.snapshot(ctx)
	if err != nil {
		return nil, nil, err
	}
	x := indexOf(snap)
	v := topView{Hosts: []hostView{}, Links: []budget.LinkView{}, Migrations: []precopy.Migration{}, Progress: []precopy.Progress{}}
	for _, name := range snap.HostNames() {
		v.Hosts = append(v.Hosts, viewHost(x, snap.Hosts[name]))
	}
	for _, l := range linksOf(snap, time.Now()) {
		if len(l.Streams) > 0 {
			v.Links = append(v.Links, l)
		}
	}
	for _, m := range snap.Unfinished() {
		v.Migrations = append(v.Migrations, m.Migration)
		if p, ok := snap.Progress[m.ID]; ok {
			v.Progress = append(v.Progress, p.Progress)
		}
	}
	return v, func() out.Table { return topTable(snap, v) }, nil
}

// topTable is three tables of the same width in one.
func topTable(snap *fleet.Snapshot, v topView) out.Table {
	t := out.Table{None: "no hosts"}
	t.Add("HOST", "STATE", "CPU", "MEMORY", "VMS", "")
	for _, h := range v.Hosts {
		vms := ""
		if h.VMs != nil {
			vms = fmt.Sprint(*h.VMs)
		}
		t.Add(h.Name, h.State, cpuOf(h.CPU, h.Capacity.Cores), memoryOf(h.Memory, h.Capacity.Memory), vms, h.Note)
	}
	if len(v.Links) > 0 {
		t.Add("LINK", "USED", "SHARES", "USABLE", "TENANTS", "")
		for _, l := range v.Links {
			t.Add(l.Name, bar(float64(l.Achieved), float64(l.Capacity)), rateText(l.Shares), rateText(l.Usable), rateText(l.Tenants), "")
		}
	}
	if len(v.Migrations) > 0 {
		t.Add("MIGRATION", "SENT", "SHARE", "RATE", "LEFT", "WHY")
		for _, m := range v.Migrations {
			p, known := snap.Progress[m.ID]
			share, left := "", ""
			if s, ok := snap.Shares[m.ID]; ok {
				share = rateText(s.Bandwidth)
			}
			why := m.Reason
			if known {
				why = p.Why
				if p.ETA > 0 {
					left = out.Span(p.ETA)
				}
			}
			t.Add(fmt.Sprintf("%s %s>%s", m.Domain, m.Source, m.Target), sentBar(m, p.Progress, known), share,
				rateText(p.Achieved), left, joinNotes(string(m.Phase), why))
		}
	}
	return t
}

// sentBar is how much of a migration's memory is on the target.
func sentBar(m precopy.Migration, p precopy.Progress, known bool) string {
	if !known || p.Total <= 0 || m.Phase == precopy.Requested {
		return ""
	}
	return bar(float64(p.Total-p.Remaining), float64(p.Total))
}

// bar draws a part of a whole; empty when the whole is not known.
func bar(part, whole float64) string {
	const width = 10
	if whole <= 0 {
		return ""
	}
	share := min(max(part/whole, 0), 1)
	full := int(share*width + 0.5)
	return fmt.Sprintf("[%s%s] %3.0f %%", strings.Repeat("#", full), strings.Repeat(".", width-full), 100*share)
}
