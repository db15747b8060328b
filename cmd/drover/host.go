package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"drover/cmd/internal/cliargs"
	"drover/cmd/internal/out"
	"drover/hypervisor"
	"drover/scheduler/fleet"
)

// cordonHolder is whose cordon "host cordon" sets: runs have their own, which it leaves alone.
const cordonHolder = "admin"

func hostCommand() *cli.Command {
	reason := &cli.StringFlag{Name: "reason", Usage: "why, for others to read"}
	return &cli.Command{
		Name: "host", Usage: "KVM hosts: list, look at, cordon, drain and restore",
		Subcommands: []*cli.Command{
			{
				Name: "list", Aliases: []string{"ls"}, Usage: "all hosts with their load",
				Flags: []cli.Flag{watchFlag()}, Action: takes(0, 0, "", listing(listHosts)),
			},
			{
				Name: "show", Usage: "everything known about one host", ArgsUsage: "HOST",
				Flags: []cli.Flag{watchFlag()}, Action: takes(1, 1, "HOST", listing(showHost)),
			},
			{
				Name: "cordon", Usage: "let no VM come to a host", ArgsUsage: "HOST...",
				Description: "A cordoned host takes no VMs by migration. What runs there stays, and migrations\n" +
					"that were already ordered go on.",
				Flags: []cli.Flag{reason}, Action: cordonAction(true),
			},
			{
				Name: "uncordon", Usage: "let VMs come to a host again", ArgsUsage: "HOST...",
				Description: "Removes the cordon that an admin set. One that a run (a drain) holds stays until\n" +
					"that run gives it up.",
				Action: cordonAction(false),
			},
			drainCommand(), restoreCommand(), hostCheckCommand(), forgetCommand(),
		},
	}
}

// hostView is a host as the answer shows it. Byte counts are bytes.
type hostView struct {
	Name     string              `json:"name"`
	State    string              `json:"state"`
	Note     string              `json:"note,omitempty"`
	Cordons  []fleet.Cordon      `json:"cordons,omitempty"`
	Labels   map[string]string   `json:"labels,omitempty"`
	Capacity hypervisor.Capacity `json:"capacity"`
	CPU      hypervisor.Cores    `json:"cpu"`
	Memory   hypervisor.Bytes    `json:"memory"`
	VMs      *int                `json:"vms,omitempty"`       // nil when it does not report now
	LastSeen []string            `json:"last_seen,omitempty"` // VMs, when it does not
	Outgoing int                 `json:"outgoing"`
	Incoming int                 `json:"incoming"`
	Agent    string              `json:"agent,omitempty"` // its version
}

// The states of a host.
const (
	hostReady    = "ready"
	hostCordoned = "cordoned"
	hostAway     = "away"     // no agent
	hostStarting = "starting" // an agent that has not reported yet
	hostProblem  = "problem"  // its libvirt does not answer
)

func viewHost(x index, h *fleet.Host) hostView {
	v := hostView{
		Name: h.Name, Cordons: h.Record.Cordons, Labels: h.Record.Labels, Capacity: h.Capacity(),
	}
	v.State, v.Note = hostState(h)
	if h.Session != nil {
		v.Agent = h.Session.Version
	}
	if h.Load != nil {
		v.CPU, v.Memory = h.Load.CPU, h.Load.Memory
	}
	if h.Alive() {
		v.VMs = new(0)
	}
	for _, d := range h.Domains() {
		if d.Running() && v.VMs != nil {
			*v.VMs++
		}
	}
	for _, t := range x.gone {
		if t.host.Name == h.Name {
			v.LastSeen = append(v.LastSeen, t.Name)
		}
	}
	for _, m := range x.unfinished {
		if m.Phase.Holds() && m.Source == h.Name {
			v.Outgoing++
		}
		if m.Phase.Holds() && m.Target == h.Name {
			v.Incoming++
		}
	}
	return v
}

// hostState puts the worst first: what a person must do something about.
func hostState(h *fleet.Host) (state, note string) {
	var by []string
	for _, c := range h.Record.Cordons {
		by = append(by, cordonText(c))
	}
	cordoned := ""
	if len(by) > 0 {
		cordoned = "cordoned by " + strings.Join(by, "; ")
	}
	switch {
	case h.Session == nil:
		return hostAway, joinNotes("no agent reports", cordoned)
	case !h.Alive():
		return hostStarting, joinNotes("agent is there, no report yet", cordoned)
	case h.Load.Problem != "":
		return hostProblem, joinNotes(h.Load.Problem, cordoned)
	case cordoned != "":
		return hostCordoned, cordoned
	}
	return hostReady, ""
}

// cordonText is who holds a cordon and why, as "ada@desk: new fans" or "run/7 (ada@desk)".
func cordonText(c fleet.Cordon) string {
	text := c.Holder
	switch {
	case c.By != "" && c.Holder == cordonHolder:
		text = c.By
	case c.By != "":
		text += " (" + c.By + ")"
	}
	if c.Reason != "" {
		text += ": " + c.Reason
	}
	return text
}

func joinNotes(parts ...string) string {
	return strings.Join(slices.DeleteFunc(parts, func(s string) bool { return s == "" }), "; ")
}

func listHosts(ctx context.Context, s *session) (any, func() out.Table, error) {
	snap, err := s.snapshot(ctx)
	if err != nil {
		return nil, nil, err
	}
	x, views := indexOf(snap), []hostView{}
	for _, name := range snap.HostNames() {
		views = append(views, viewHost(x, snap.Hosts[name]))
	}
	return views, func() out.Table {
		s.notePause(snap.Pause)
		t := out.Table{
			Head: []string{"HOST", "STATE", "CPU", "MEMORY", "VMS", "OUT", "IN", "NOTE"},
			None: "no hosts yet: start drover-agent on them",
		}
		for _, v := range views {
			vms, cpu, memory := "", "", ""
			if v.VMs != nil {
				vms, cpu, memory = fmt.Sprint(*v.VMs), cpuOf(v.CPU, v.Capacity.Cores), memoryOf(v.Memory, v.Capacity.Memory)
			}
			t.Add(v.Name, v.State, cpu, memory, vms, fmt.Sprint(v.Outgoing), fmt.Sprint(v.Incoming), out.Shorten(v.Note, 100))
		}
		return t
	}, nil
}

func cpuOf(used, of hypervisor.Cores) string {
	if of <= 0 {
		return ""
	}
	return fmt.Sprintf("%.1f/%.4g", float64(used), float64(of))
}

func memoryOf(used, of hypervisor.Bytes) string {
	if of <= 0 {
		return ""
	}
	return fmt.Sprintf("%.1f/%.1f GiB", gib(used), gib(of))
}

func gib(b hypervisor.Bytes) float64 { return float64(b) / float64(hypervisor.GiB) }

// findHost returns the host, or an error that lists what there is.
func findHost(snap *fleet.Snapshot, name string) (*fleet.Host, error) {
	if h := snap.Hosts[name]; h != nil {
		return h, nil
	}
	names := snap.HostNames()
	if len(names) == 0 {
		return nil, fmt.Errorf("no host is called %q: no host has reported yet", name)
	}
	return nil, fmt.Errorf("no host is called %q: there are %s", name, out.Shorten(strings.Join(names, ", "), 200))
}

func showHost(ctx context.Context, s *session) (any, func() out.Table, error) {
	snap, err := s.snapshot(ctx)
	if err != nil {
		return nil, nil, err
	}
	h, err := findHost(snap, s.word())
	if err != nil {
		return nil, nil, err
	}
	value := struct {
		hostView
		Session *fleet.Session        `json:"session,omitempty"`
		Facts   *hypervisor.HostFacts `json:"facts,omitempty"`
		Load    *hypervisor.HostLoad  `json:"load,omitempty"`
	}{viewHost(indexOf(snap), h), h.Session, h.Facts, h.Load}
	return value, func() out.Table { return hostTable(value.hostView, h) }, nil
}

func hostTable(v hostView, h *fleet.Host) out.Table {
	var t out.Table
	t.Add("Host:", v.Name)
	t.Add("State:", joinNotes(v.State, v.Note))
	if h.Load != nil { // else nothing is known of it at present
		t.Add("CPU:", cpuOf(v.CPU, v.Capacity.Cores)+" cores")
		t.Add("Memory:", fmt.Sprintf("%s in use, %s reserved for the host", memoryOf(v.Memory, v.Capacity.Memory), v.Capacity.Reserved))
	}
	if n := v.Capacity.VCPUs; n > 0 {
		t.Add("vCPUs:", fmt.Sprintf("%d at most", n))
	}
	if bw := v.Capacity.Bandwidth; bw > 0 {
		t.Add("Migration link:", fmt.Sprintf("%.0f Mbit/s", bw.Mbit()))
	}
	t.Add("Migrations:", fmt.Sprintf("%d out, %d in", v.Outgoing, v.Incoming))
	for _, k := range slices.Sorted(maps.Keys(v.Labels)) {
		t.Add("Label:", k+"="+v.Labels[k])
	}
	if h.Session != nil {
		t.Add("Agent:", fmt.Sprintf("version %s, since %s", v.Agent, stamp(h.Session.Started)))
	}
	if f := h.Facts; f != nil {
		t.Add("Libvirt, QEMU:", fmt.Sprintf("%s, %s", libvirtVersion(f.LibvirtVersion), libvirtVersion(f.QEMUVersion)))
		t.Add("CPU model:", joinNotes(f.CPUModel, f.Arch))
		t.Add("Reached by:", joinNotes(f.PeerURI, f.MigrationAddress))
		t.Add("Libvirt UUID:", f.LibvirtUUID)
	}
	for _, d := range h.Domains() {
		t.Add("VM:", fmt.Sprintf("%s (%s, %d vCPU, %s)", d.Facts.Name, orDash(string(d.Load.State)), d.Facts.VCPUs, d.Facts.Memory))
	}
	for _, name := range v.LastSeen {
		t.Add("Last seen VM:", name)
	}
	return t
}

func libvirtVersion(v uint32) string {
	return fmt.Sprintf("%d.%d.%d", v/1_000_000, v/1000%1000, v%1000)
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// stamp renders a moment in the reader's zone.
func stamp(t time.Time) string { return t.Local().Format("2006-01-02 15:04:05") }

func cordonAction(on bool) cli.ActionFunc {
	return takes(1, -1, "HOST", quick(func(ctx context.Context, s *session) error { return cordon(ctx, s, on) }))
}

// cordon sets or removes the admin's cordon on each named host. What failed is said per host; some
// failing is status 3.
func cordon(ctx context.Context, s *session, on bool) error {
	names := s.cli.Args().Slice()
	snap, err := s.snapshot(ctx)
	if err != nil {
		return err
	}
	failed := 0
	for _, name := range names {
		if _, err = findHost(snap, name); err == nil {
			err = cordonOne(ctx, s, name, on)
		}
		if err != nil {
			failed++
			if len(names) > 1 {
				s.note("drover: %s: %v", name, err)
			}
		}
	}
	switch {
	case failed == 0:
		return nil
	case len(names) == 1:
		return err
	case failed < len(names):
		return cli.Exit(fmt.Sprintf("%d of %d hosts failed", failed, len(names)), cliargs.ExitPartial)
	}
	return fmt.Errorf("all %d hosts failed", failed)
}

// errCordoned: the cordon that was asked for is there already.
var errCordoned = errors.New("cordoned already")

func cordonOne(ctx context.Context, s *session, name string, on bool) error {
	var before, after []fleet.Cordon
	var mine *fleet.Cordon // the admin's, before
	reason := s.cli.String("reason")
	_, err := s.UpdateHost(ctx, nil, name, func(r *fleet.HostRecord) error {
		before, after, mine = r.Cordons, nil, nil
		for _, c := range before {
			if c.Holder == cordonHolder {
				mine = &c
			} else {
				after = append(after, c)
			}
		}
		if on && mine != nil && (reason == "" || reason == mine.Reason) {
			return errCordoned
		}
		if on {
			after = append(after, fleet.Cordon{Holder: cordonHolder, By: s.actor, At: time.Now().UTC(), Reason: reason})
		}
		r.Cordons = after
		return nil
	})
	switch {
	case errors.Is(err, errCordoned):
		s.note("%s is cordoned already, by %s (since %s)", name, cordonText(*mine), stamp(mine.At))
		return nil
	case isNotFound(err):
		return fmt.Errorf("%s is not bound yet: a scheduler does that when it first sees the agent; start one and try again", name)
	case err != nil:
		return err
	case on:
		s.record(ctx, "host-cordoned", name, reason)
	case len(before) > len(after):
		s.record(ctx, "host-uncordoned", name, "")
	}
	switch {
	case on && mine != nil:
		s.note("%s was cordoned already; the reason is now: %s", name, reason)
	case on:
		s.note("%s is cordoned: no VM comes to it any more", name)
	case len(after) > 0:
		// What was asked for is not done.
		remedy := ""
		if id, held := strings.CutPrefix(after[0].Holder, fleet.RunHolder); held {
			remedy = " (drover host restore " + name + " opens it; while the drain is under way, drover run cancel " + id + " --uncordon)"
		}
		return cli.Exit(fmt.Sprintf("%s stays cordoned by %s%s", name, cordonText(after[0]), remedy), cliargs.ExitPartial)
	case len(before) == 0:
		s.note("%s was not cordoned", name)
	default:
		s.note("%s is open for VMs again", name)
	}
	return nil
}
