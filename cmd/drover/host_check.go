package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/sync/errgroup"

	"drover/cmd/internal/cliargs"
	"drover/cmd/internal/out"
	"drover/hypervisor"
	"drover/precopy"
	"drover/scheduler/fleet"
	"drover/store"
	"drover/store/etcd"
)

const hostCheckHelp = `Has every host try the others as a migration would: libvirt over TLS with the host's own certificate,
and the ports of the memory stream. Looks at certificates that are missing, of another name, or end
within 30 days, at clocks, image locks, post-copy, and at room in the store. With HOST only what
concerns that host: from it and to it. Changes nothing.

A firewall that refuses instead of dropping looks like an open port with nobody behind it.
Exit status 1 when something would stop a migration.`

const (
	// checkTime bounds one host's answer to one question.
	checkTime = 15 * time.Second
	// checkChunk is how many peers one question names, so that its answer comes in time even if a
	// firewall drops everything.
	checkChunk = 64
	// checkHosts is how many hosts are asked at once.
	checkHosts = 32
	// clockLimit is how far a clock may be off before it is worth a word.
	clockLimit = time.Second
	// allFindings is up to how many findings a table shows those that are fine, too.
	allFindings = 60
)

func hostCheckCommand() *cli.Command {
	return &cli.Command{
		Name: "check", Usage: "between every two hosts, what would stop a migration", ArgsUsage: "[HOST...]",
		Description: hostCheckHelp, Action: takes(0, -1, "", long(checkHostsAction)),
	}
}

// asker puts a question to a host's agent: the store does.
type asker interface {
	Ask(ctx context.Context, host string, q precopy.Question) (precopy.Answer, error)
}

func checkHostsAction(ctx context.Context, s *session) error {
	rctx, cancel := context.WithTimeout(ctx, storeTimeout(s.cli))
	defer cancel()
	snap, err := s.snapshot(rctx)
	if err != nil {
		return err
	}
	named := s.cli.Args().Slice()
	for _, name := range named {
		if _, err := findHost(snap, name); err != nil {
			return err
		}
	}
	if len(snap.Hosts) == 0 {
		return errors.New("no hosts yet: start drover-agent on them")
	}
	findings := checkFleet(ctx, s.Store, snap, named)
	if err := ctx.Err(); err != nil {
		return err
	}
	findings = append(findings, storeFindings(s.client.Space(rctx))...)
	return s.reportFindings(findings)
}

// checkFleet asks every host about itself, and then about its peers. The findings are in the order of
// hosts, and those about whole hosts come first.
func checkFleet(ctx context.Context, a asker, snap *fleet.Snapshot, named []string) []hypervisor.Finding {
	concerns := func(host string) bool { return len(named) == 0 || slices.Contains(named, host) }
	hosts := snap.HostNames()
	c := &fleetCheck{asker: a, reports: make([]*hypervisor.PeerReport, len(hosts)), clocks: make([]clock, len(hosts))}
	own := make([][]hypervisor.Finding, len(hosts))
	each(len(hosts), func(i int) { own[i] = c.self(ctx, hosts[i], i) })
	var all []hypervisor.Finding
	for i, host := range hosts {
		// Of a host that nobody named it matters only whether the others can be tried against it.
		for _, f := range own[i] {
			if concerns(host) || f.Check == hypervisor.CheckAgent {
				all = append(all, f)
			}
		}
	}
	for _, f := range clockFindings(hosts, c.clocks) {
		if concerns(f.Host) {
			all = append(all, f)
		}
	}
	pairs := make([][]hypervisor.Finding, len(hosts))
	each(len(hosts), func(i int) {
		var peers []hypervisor.Peer
		for j, peer := range hosts {
			if i == j || c.reports[i] == nil || c.reports[j] == nil || !(concerns(hosts[i]) || concerns(peer)) {
				continue
			}
			f := snap.Hosts[peer].Facts
			if f == nil {
				continue
			}
			peers = append(peers, hypervisor.Peer{Host: peer, URI: f.PeerURI, StreamAddress: f.MigrationAddress, Ports: c.reports[j].Ports})
		}
		pairs[i] = c.peers(ctx, hosts[i], peers)
	})
	return append(all, slices.Concat(pairs...)...)
}

// each calls do for 0 to n-1, some at a time.
func each(n int, do func(int)) {
	var g errgroup.Group
	g.SetLimit(checkHosts)
	for i := range n {
		g.Go(func() error { do(i); return nil })
	}
	_ = g.Wait()
}

type fleetCheck struct {
	asker   asker
	reports []*hypervisor.PeerReport // nil for hosts that could not be asked
	clocks  []clock
}

// clock is a host's clock against this program's: it is off by offset, give or take doubt.
type clock struct {
	known         bool
	offset, doubt time.Duration
}

// self asks a host about itself.
func (c *fleetCheck) self(ctx context.Context, host string, i int) []hypervisor.Finding {
	before := time.Now()
	report, fault := c.ask(ctx, host, nil)
	if fault != nil {
		return []hypervisor.Finding{*fault}
	}
	// The answer was begun somewhere between question and answer.
	took := time.Since(before)
	c.clocks[i] = clock{true, report.Clock.Sub(before.Add(took / 2)), took / 2}
	c.reports[i] = report
	return report.Findings
}

// peers asks a host about its ways to others.
func (c *fleetCheck) peers(ctx context.Context, host string, peers []hypervisor.Peer) []hypervisor.Finding {
	var found []hypervisor.Finding
	for chunk := range slices.Chunk(peers, checkChunk) {
		report, fault := c.ask(ctx, host, chunk)
		if fault != nil {
			return append(found, *fault)
		}
		found = append(found, report.Findings...)
	}
	return found
}

func (c *fleetCheck) ask(ctx context.Context, host string, peers []hypervisor.Peer) (*hypervisor.PeerReport, *hypervisor.Finding) {
	ctx, cancel := context.WithTimeout(ctx, checkTime)
	defer cancel()
	a, err := c.asker.Ask(ctx, host, precopy.Question{Kind: precopy.AskPeerCheck, Peers: peers})
	f := &hypervisor.Finding{Host: host, Check: hypervisor.CheckAgent, Level: hypervisor.CheckStop}
	switch {
	case errors.Is(err, store.ErrNoAgent):
		f.Detail, f.Remedy = "no agent reports", "start drover-agent there"
	case err != nil:
		f.Detail = err.Error()
	case a.PeerReport == nil:
		f.Level, f.Detail, f.Remedy = hypervisor.CheckWarn, orDash(a.Error), "upgrade drover-agent there"
	default:
		return a.PeerReport, nil
	}
	return nil, f
}

// clockFindings compares each clock with the middle one of all, not with this program's, which may be
// the one that is wrong. It is pure.
func clockFindings(hosts []string, clocks []clock) []hypervisor.Finding {
	var offsets []time.Duration
	for _, c := range clocks {
		if c.known {
			offsets = append(offsets, c.offset)
		}
	}
	if len(offsets) == 0 {
		return nil
	}
	slices.Sort(offsets)
	middle := offsets[(len(offsets)-1)/2]
	var found []hypervisor.Finding
	for i, c := range clocks {
		if !c.known {
			continue
		}
		off := c.offset - middle
		f := hypervisor.Finding{Host: hosts[i], Check: hypervisor.CheckClock, Level: hypervisor.CheckOK, Detail: "agrees with the others"}
		if off.Abs() > clockLimit+c.doubt {
			side := "ahead of"
			if off < 0 {
				side = "behind"
			}
			f.Level, f.Detail = hypervisor.CheckWarn, fmt.Sprintf("%s %s the other hosts", off.Abs().Round(100*time.Millisecond), side)
			f.Remedy = "run an NTP client there"
		}
		found = append(found, f)
	}
	return found
}

// storeFindings judges the room in each member. It is pure.
func storeFindings(members []etcd.Space) []hypervisor.Finding {
	var found []hypervisor.Finding
	for _, m := range members {
		f := hypervisor.Finding{Peer: m.Endpoint, Check: hypervisor.CheckStore, Level: hypervisor.CheckOK}
		switch {
		case m.Err != nil:
			f.Level, f.Detail = hypervisor.CheckWarn, m.Err.Error()
		case m.Full:
			f.Level, f.Detail = hypervisor.CheckStop, fmt.Sprintf("full: %s, and takes no writes", m.File)
			f.Remedy = "etcdctl compact, defrag, alarm disarm; or a higher quota"
		case m.Quota > 0 && m.File > m.Quota/10*8:
			f.Level, f.Detail = hypervisor.CheckWarn, fmt.Sprintf("%s of %s, %s in use", m.File, m.Quota, m.Used)
			f.Remedy = "etcdctl defrag, or a higher quota"
		case m.Quota > 0:
			f.Detail = fmt.Sprintf("%s of %s", m.File, m.Quota)
		default:
			f.Detail = fmt.Sprintf("%s; this etcd does not tell its quota", m.File)
		}
		found = append(found, f)
	}
	return found
}

// reportFindings prints them, and fails when one would stop a migration.
func (s *session) reportFindings(findings []hypervisor.Finding) error {
	stops, warns := 0, 0
	for _, f := range findings {
		switch f.Level {
		case hypervisor.CheckStop:
			stops++
		case hypervisor.CheckWarn:
			warns++
		}
	}
	value := struct {
		OK       bool                 `json:"ok"`
		Findings []hypervisor.Finding `json:"findings"`
	}{stops == 0, append([]hypervisor.Finding{}, findings...)}
	err := s.answer(value, func() out.Table { return findingsTable(findings) })
	if fine := len(findings) - stops - warns; len(findings) > allFindings && s.format == out.AsTable {
		s.note("%s are fine and not shown (-o json shows them)", plural(fine, "check"))
	}
	if err == nil && stops > 0 {
		return cli.Exit(plural(stops, "finding")+" would stop migrations", cliargs.ExitFailed)
	}
	return err
}

// findingsTable shows the worst first; of many findings only those that are not fine.
func findingsTable(findings []hypervisor.Finding) out.Table {
	t := out.Table{Head: []string{"RESULT", "HOST", "PEER", "CHECK", "DETAIL"}, None: "all is fine"}
	for _, level := range []hypervisor.CheckLevel{hypervisor.CheckStop, hypervisor.CheckWarn, hypervisor.CheckOK} {
		if level == hypervisor.CheckOK && len(findings) > allFindings {
			break
		}
		for _, f := range findings {
			if f.Level != level {
				continue
			}
			detail := f.Detail
			if f.Remedy != "" {
				detail += " (" + f.Remedy + ")"
			}
			t.Add(string(f.Level), orDash(f.Host), orDash(f.Peer), string(f.Check), detail)
		}
	}
	return t
}
