package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"drover/cmd/internal/out"
	"drover/hypervisor"
	"drover/precopy"
	"drover/scheduler"
	"drover/scheduler/budget"
	"drover/scheduler/fleet"
)

const linkHelp = `A link is one direction of a host's migration network ("kvm1 out", "kvm1 in"), or what several hosts
share beyond it, as the policy's network.links name it. Migrations divide what tenants leave of it.`

func linkCommand() *cli.Command {
	return &cli.Command{
		Name: "link", Usage: "the migration network's links, and who uses them", Description: linkHelp,
		Subcommands: []*cli.Command{
			{
				Name: "list", Aliases: []string{"ls"}, Usage: "all links: capacity, what is kept for tenants, shares, achieved",
				Flags:  []cli.Flag{watchFlag(), toggle("busy", "only those that a migration crosses")},
				Action: takes(0, 0, "", listing(listLinks)),
			},
			{
				Name: "show", Usage: "one link, or both of a host's, and the migrations on it", ArgsUsage: "HOST|LINK",
				Flags: []cli.Flag{watchFlag()}, Action: takes(1, 2, "HOST or LINK", listing(showLink)),
			},
		},
	}
}

// linksOf is the links of a fleet as a leader divides them now.
func linksOf(snap *fleet.Snapshot, now time.Time) []budget.LinkView {
	network, _ := snap.Policy.Network.At(now)
	limits := scheduler.LimitsOf(network, scheduler.DefaultLimits())
	var traffic budget.Traffic
	traffic.Look(snap, now)
	return budget.Links(budget.Input{
		Fleet: snap, Network: network, Traffic: &traffic,
		Outgoing: limits.Outgoing, Incoming: limits.Incoming, Now: now,
	})
}

func listLinks(ctx context.Context, s *session) (any, func() out.Table, error) {
	snap, err := s.snapshot(ctx)
	if err != nil {
		return nil, nil, err
	}
	links := []budget.LinkView{}
	for _, l := range linksOf(snap, time.Now()) {
		if len(l.Streams) > 0 || !s.cli.Bool("busy") {
			links = append(links, l)
		}
	}
	return links, func() out.Table { return linksTable(links) }, nil
}

func linksTable(links []budget.LinkView) out.Table {
	t := out.Table{
		Head: []string{"LINK", "CAPACITY", "RESERVED", "TENANTS", "USABLE", "SHARES", "ACHIEVED", "STREAMS"}, None: "no links",
	}
	for _, l := range links {
		t.Add(l.Name, rateText(l.Capacity), rateText(l.Reserved), rateText(l.Tenants), rateText(l.Usable),
			rateText(l.Shares), rateText(l.Achieved), fmt.Sprint(len(l.Streams)))
	}
	return t
}

// rateText is a rate of a link; empty for what is not known or nothing.
func rateText(r hypervisor.BytesPerSecond) string {
	if r <= 0 {
		return ""
	}
	return r.String()
}

func showLink(ctx context.Context, s *session) (any, func() out.Table, error) {
	snap, err := s.snapshot(ctx)
	if err != nil {
		return nil, nil, err
	}
	word := strings.Join(s.cli.Args().Slice(), " ")
	found := []budget.LinkView{}
	for _, l := range linksOf(snap, time.Now()) {
		if l.Name == word || strings.HasPrefix(l.Name, word+" ") {
			found = append(found, l)
		}
	}
	if len(found) == 0 {
		return nil, nil, fmt.Errorf("no link %q (drover link list shows them)", word)
	}
	return found, func() out.Table {
		var t out.Table
		for _, l := range found {
			t.Add("Link:", l.Name)
			t.Add("Capacity:", orUnknown(l.Capacity))
			t.Add("For tenants:", fmt.Sprintf("%s reserved, %s left to them at present", l.Reserved, l.Tenants))
			if l.Limit > 0 {
				t.Add("Limit:", l.Limit.String()+" by policy")
			}
			t.Add("Usable:", orUnknown(l.Usable))
			t.Add("Shares:", fmt.Sprintf("%s given, %s achieved", l.Shares, l.Achieved))
			for _, v := range l.Streams {
				t.Add("Stream:", joinNotes(fmt.Sprintf("%s, %s to %s, %s", v.Domain, v.Source, v.Target, v.Phase), streamText(v)))
			}
		}
		return t
	}, nil
}

func orUnknown(r hypervisor.BytesPerSecond) string {
	if r <= 0 {
		return "not known: nobody is limited by it"
	}
	return r.String()
}

// streamText says what a stream has and what keeps it from more.
func streamText(v budget.StreamView) string {
	text := "has " + v.Share.String()
	if v.Achieved > 0 {
		text += ", uses " + v.Achieved.String()
	}
	if v.Need > 0 {
		text += ", needs " + v.Need.String()
	}
	if v.Limit != "" {
		text += "; limited by " + v.Limit
	}
	return joinNotes(text, v.Why)
}

// streamOf is what a migration has of its links; false when it has nothing any more, or not yet.
func streamOf(snap *fleet.Snapshot, m precopy.Migration) (budget.StreamView, bool) {
	if !m.Phase.Holds() {
		return budget.StreamView{}, false
	}
	for _, l := range linksOf(snap, time.Now()) {
		for _, v := range l.Streams {
			if v.Migration == m.ID {
				return v, true
			}
		}
	}
	return budget.StreamView{}, false
}
