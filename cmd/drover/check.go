package main

import (
	"context"
	"fmt"
	"time"

	"github.com/urfave/cli/v2"

	"drover/cmd/internal/cliargs"
	"drover/cmd/internal/out"
	"drover/hypervisor"
	"drover/precopy"
	"drover/scheduler"
	"drover/scheduler/feasible"
	"drover/scheduler/fleet"
)

func checkCommand() *cli.Command {
	return &cli.Command{
		Name: "check", Usage: "where a VM could move to, and why not elsewhere", ArgsUsage: "VM",
		Description: "Asks the VM's host and every other host's libvirt; changes nothing. Says what to expect of a\n" +
			"move under the VM's policy, and what that rests on.\n" +
			"Exit status 1 when there is nowhere to go.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "to", Usage: "check only this `HOST`"},
			toggle("copy-storage", "reckon with disks that are not shared being copied"),
		},
		Action: takes(1, 1, "VM", long(func(ctx context.Context, s *session) error { return checkVM(ctx, s, wish{}) })),
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
	// Forecast is what to expect; nil where nothing is, as it can't move there.
	Forecast *precopy.Forecast `json:"forecast,omitempty"`
}

func (v verdict) anyOK() bool {
	for _, h := range v.Hosts {
		if h.OK {
			return true
		}
	}
	return false
}

func checkVM(ctx context.Context, s *session, w wish) error {
	v, err := check(ctx, s, s.word(), w)
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

// check runs the preflight that the scheduler runs before it orders, for --to or every other host, and
// forecasts a move under what is wished.
func check(ctx context.Context, s *session, word string, w wish) (verdict, error) {
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
	if s.cli.IsSet("to") && s.cli.String("to") == "" {
		return verdict{}, cliargs.Usagef(s.cli, "--to \"\": want a host, or leave --to away for all")
	}
	hosts, err := candidates(snap, d, s.cli.String("to"))
	if err != nil {
		return verdict{}, err
	}
	profile, err := s.Profile(rctx, d.Facts.ID)
	if err != nil {
		return verdict{}, err
	}
	promise, _, promised := w.promise(snap, d)
	request := feasible.Request{Domain: d, CopyStorage: s.cli.Bool("copy-storage")}
	found := scheduler.CheckAll(ctx, s.Store, snap, request, hosts)
	v := verdict{VM: d.Facts.Name, UUID: string(d.Facts.ID), Source: d.Host.Name, Hosts: []hostVerdict{}}
	for _, h := range hosts {
		hv := hostVerdict{Host: h, Blockers: append([]hypervisor.Blocker{}, found[h]...)}
		if promised != nil {
			hv.Blockers = append(hv.Blockers, hypervisor.Blocker{Code: feasible.Policy, Detail: promised.Error()})
		} else if len(hv.Blockers) == 0 {
			f := scheduler.Forecast(snap, d, h, promise, request.CopyStorage, profile, snap.Now)
			hv.Forecast = precopy.ForecastOf(f)
			if b := scheduler.HopelessBlocker(f, promise); b != nil {
				hv.Blockers = append(hv.Blockers, *b)
			}
		}
		hv.OK = len(hv.Blockers) == 0
		v.Hosts = append(v.Hosts, hv)
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
		Head: []string{"HOST", "VERDICT", "FORECAST OR REASON"},
		None: "there is no host but " + v.Source,
	}
	for _, h := range v.Hosts {
		if h.OK {
			t.Add(h.Host, "ok", expected(*h.Forecast))
			for _, more := range []string{h.Forecast.Beyond, h.Forecast.Unlikely} {
				if more != "" {
					t.Add("", "", more)
				}
			}
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

// expected is the one line about a forecast: "about 12 s (9 to 18 s), 600 MiB, pause 70 ms, xbzrle: one
// earlier migration".
func expected(f precopy.Forecast) string {
	if f.Unlikely != "" {
		return "it may not end within the intent: " + f.Rests
	}
	span := func(s float64) string { return out.Span(time.Duration(s * float64(time.Second))) }
	text := fmt.Sprintf("about %s (%s to %s), %s, pause %d ms", span(f.Seconds), span(f.SecondsLow), span(f.SecondsHigh), f.Bytes, f.PauseMS)
	if f.Slowdown > 0 {
		text += fmt.Sprintf(", %.0f %% of its work lost", 100*f.Slowdown)
	}
	return text + ", " + f.Strategy + ": " + f.Rests
}
