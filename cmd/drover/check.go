package main

import (
	"context"
	"fmt"

	"github.com/urfave/cli/v2"

	"drover/cmd/internal/cliargs"
	"drover/cmd/internal/out"
	"drover/hypervisor"
	"drover/scheduler"
	"drover/scheduler/feasible"
	"drover/scheduler/fleet"
)

func checkCommand() *cli.Command {
	return &cli.Command{
		Name: "check", Usage: "where a VM could move to, and why not elsewhere", ArgsUsage: "VM",
		Description: "Asks the VM's host and every other host's libvirt; changes nothing.\n" +
			"Exit status 1 when there is nowhere to go.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "to", Usage: "check only this `HOST`"},
			toggle("copy-storage", "reckon with disks that are not shared being copied"),
		},
		Action: takes(1, 1, "VM", long(checkVM)),
	}
}

// verdict is what a check found.
type verdict struct {
	VM     string        `json:"vm"`
	UUID   string        `json:"uuid"`
	Source string        `json:"source"`
	Hosts  []hostVerdict `json:"hosts"`
}

type hostVerdict struct {
	Host     string               `json:"host"`
	OK       bool                 `json:"ok"`
	Blockers []hypervisor.Blocker `json:"blockers"`
}

func (v verdict) anyOK() bool {
	for _, h := range v.Hosts {
		if h.OK {
			return true
		}
	}
	return false
}

func checkVM(ctx context.Context, s *session) error {
	v, err := check(ctx, s, s.word())
	if err != nil {
		return err
	}
	if err := s.answer(v, v.table); err != nil {
		return err
	}
	if !v.anyOK() {
		return cli.Exit(fmt.Sprintf("%s can't move", v.VM), cliargs.ExitFailed)
	}
	return nil
}

// check runs the preflight that the scheduler runs before it orders, for --to or every other host.
func check(ctx context.Context, s *session, word string) (verdict, error) {
	rctx, cancel := context.WithTimeout(ctx, storeTimeout(s.cli))
	defer cancel()
	snap, err := s.snapshot(rctx)
	if err != nil {
		return verdict{}, err
	}
	d, err := findVM(snap, word)
	if err != nil {
		return verdict{}, err
	}
	hosts, err := candidates(snap, d, s.cli.String("to"))
	if err != nil {
		return verdict{}, err
	}
	request := feasible.Request{Domain: d, CopyStorage: s.cli.Bool("copy-storage")}
	found := scheduler.CheckAll(ctx, s.Store, snap, request, hosts)
	v := verdict{VM: d.Facts.Name, UUID: string(d.Facts.ID), Source: d.Host.Name, Hosts: []hostVerdict{}}
	for _, h := range hosts {
		blockers := append([]hypervisor.Blocker{}, found[h]...)
		v.Hosts = append(v.Hosts, hostVerdict{Host: h, OK: len(blockers) == 0, Blockers: blockers})
	}
	return v, ctx.Err()
}

// candidates are the hosts to check: the named one, or all but the VM's own.
func candidates(snap *fleet.Snapshot, d fleet.Domain, to string) ([]string, error) {
	if to != "" {
		_, err := findHost(snap, to)
		return []string{to}, err
	}
	var hosts []string
	for _, name := range snap.HostNames() {
		if name != d.Host.Name {
			hosts = append(hosts, name)
		}
	}
	return hosts, nil
}

func (v verdict) table() out.Table {
	t := out.Table{
		Head: []string{"HOST", "VERDICT", "REASON"},
		None: "there is no host but " + v.Source,
	}
	for _, h := range v.Hosts {
		if h.OK {
			t.Add(h.Host, "ok", "")
		}
		for i, b := range h.Blockers {
			if i == 0 {
				t.Add(h.Host, "no", blockerText(b))
			} else {
				t.Add("", "", blockerText(b))
			}
		}
	}
	return t
}
