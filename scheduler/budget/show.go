package budget

import (
	"cmp"
	"slices"
	"strings"

	"drover/hypervisor"
	"drover/precopy"
	"drover/scheduler/policy"
)

// LinkView is one link as people see it. Rates are bytes per second; a capacity or usable of 0 is not known.
type LinkView struct {
	Name     string                    `json:"name"`
	Capacity hypervisor.BytesPerSecond `json:"capacity"`
	Reserved hypervisor.BytesPerSecond `json:"reserved"`
	// Tenants is what tenants are left at present.
	Tenants hypervisor.BytesPerSecond `json:"tenants"`
	Limit   hypervisor.BytesPerSecond `json:"limit,omitempty"`
	Usable  hypervisor.BytesPerSecond `json:"usable"`
	// Shares is the sum of the streams' shares, InForce the most that may be in force until all agents have
	// said that they keep to them, Achieved what is sent.
	Shares   hypervisor.BytesPerSecond `json:"shares"`
	InForce  hypervisor.BytesPerSecond `json:"in_force"`
	Achieved hypervisor.BytesPerSecond `json:"achieved"`
	Streams  []StreamView              `json:"streams"`
}

// StreamView is one migration's part in a link.
type StreamView struct {
	Migration string                    `json:"migration"`
	Domain    string                    `json:"domain"`
	Source    string                    `json:"source"`
	Target    string                    `json:"target"`
	Phase     precopy.Phase             `json:"phase"`
	Need      hypervisor.BytesPerSecond `json:"need"`
	Share     hypervisor.BytesPerSecond `json:"share"`
	Achieved  hypervisor.BytesPerSecond `json:"achieved"`
	// Limit names what keeps the share from being more, Why adds to it.
	Limit string `json:"limit,omitempty"`
	Why   string `json:"why,omitempty"`
}

// Links is every link of the fleet as of a moment: of each host both directions, the shared ones, and the
// fleet's if the policy bounds it.
func Links(in Input) []LinkView {
	a := New(in)
	for _, name := range in.Fleet.HostNames() {
		a.hostLink(name, in.Fleet.Hosts[name], "out")
		a.hostLink(name, in.Fleet.Hosts[name], "in")
	}
	for _, l := range in.Network.Links {
		a.sharedLink(l, "out")
		a.sharedLink(l, "in")
	}
	if limit := hypervisor.BytesPerSecond(in.Network.Limits.Fleet); limit > 0 {
		a.link(Link{Name: "fleet", Limit: limit})
	}
	out := make([]LinkView, len(a.links))
	for i, l := range a.links {
		out[i] = LinkView{
			Name: l.Name, Capacity: l.Capacity, Reserved: l.Reserved, Tenants: l.Tenants, Limit: l.Limit,
			Usable: l.Usable, Streams: []StreamView{},
		}
		if l.Usable == Unlimited {
			out[i].Usable = 0
		}
	}
	for _, f := range a.flows {
		v := StreamView{
			Migration: f.ID, Domain: f.m.Domain, Source: f.m.Source, Target: f.m.Target, Phase: f.m.Phase,
			Need: f.Need, Share: f.share.Bandwidth, Limit: f.share.Limit, Why: f.share.Why,
		}
		if f.share.Revision == 0 {
			v.Share = f.inForce
		}
		if f.progress != nil {
			v.Achieved = f.progress.Achieved
		}
		for _, l := range f.Links {
			out[l].Shares += v.Share
			out[l].InForce += f.inForce
			out[l].Achieved += v.Achieved
			out[l].Streams = append(out[l].Streams, v)
		}
	}
	hosts := map[string]bool{}
	for name := range in.Fleet.Hosts {
		hosts[name] = true
	}
	rank := func(name string) int {
		if host, _, _ := strings.Cut(name, " "); hosts[host] {
			return 0
		}
		return 1
	}
	slices.SortFunc(out, func(x, y LinkView) int {
		hx, dx, _ := strings.Cut(x.Name, " ")
		hy, dy, _ := strings.Cut(y.Name, " ")
		return cmp.Or(cmp.Compare(rank(x.Name), rank(y.Name)), strings.Compare(hx, hy), strings.Compare(dy, dx))
	})
	return out
}

// Divided says in words how links are divided.
func Divided(n policy.Network) string {
	switch n.Sharing {
	case policy.SharingEqual:
		return "fixed equal parts"
	case policy.SharingNone:
		return "no limits"
	}
	return "by need, live"
}
