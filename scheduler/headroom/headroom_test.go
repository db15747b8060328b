package headroom_test

import (
	"fmt"
	"strings"
	"testing"

	"drover/hypervisor"
	"drover/precopy"
	"drover/scheduler/fleet"
	"drover/scheduler/headroom"
)

// fleetOf makes hosts from "name:GiB vm:GiB vm:GiB".
func fleetOf(specs ...string) *fleet.Snapshot {
	s := &fleet.Snapshot{Hosts: map[string]*fleet.Host{}, Migrations: map[string]precopy.Stored{}}
	for _, spec := range specs {
		var h *fleet.Host
		for i, f := range strings.Fields(spec) {
			name, size, _ := strings.Cut(f, ":")
			var n int
			fmt.Sscan(size, &n)
			memory := hypervisor.Bytes(n) * hypervisor.GiB
			if i == 0 {
				h = &fleet.Host{
					Name: name, Session: &fleet.Session{}, Load: &hypervisor.HostLoad{},
					Facts: &hypervisor.HostFacts{Capacity: hypervisor.Capacity{Memory: memory}, Arch: "x86_64"},
				}
				continue
			}
			id := hypervisor.DomainID("id-" + name)
			arch := "x86_64"
			if strings.HasPrefix(name, "arm") {
				arch = "aarch64"
			}
			h.Facts.Domains = append(h.Facts.Domains, hypervisor.DomainFacts{ID: id, Name: name, Memory: memory, Arch: arch})
			state := hypervisor.StateRunning
			if strings.HasPrefix(name, "off") {
				state = hypervisor.StateShutoff
			}
			h.Load.Domains = append(h.Load.Domains, hypervisor.DomainLoad{ID: id, State: state})
		}
		s.Hosts[h.Name] = h
	}
	return s
}

func TestLosses(t *testing.T) {
	tests := []struct {
		name  string
		hosts []string
		setup func(p *headroom.Picture)
		want  string
	}{
		{"each fits on the others", []string{"h1:8 a:2 b:2", "h2:8 c:4", "h3:8"}, nil, ""},
		{"two full hosts", []string{"h1:8 a:5", "h2:8 b:4"}, nil, "h1: a 5.0 GiB of 5.0 GiB; h2: b 4.0 GiB of 4.0 GiB"},
		{"room in pieces is none", []string{"h1:8 a:5 b:1", "h2:8 c:4", "h3:8 d:4"}, nil, "h1: a 5.0 GiB of 6.0 GiB"},
		{"what is off needs none", []string{"h1:8 off:8", "h2:8 c:1"}, nil, ""},
		{
			"a closed host gives none, and its VMs need some",
			[]string{"h1:8 a:4", "h2:8 b:1", "h3:4 c:2"},
			func(p *headroom.Picture) { p.Closed = []string{"h2"} },
			"h1: a 4.0 GiB of 4.0 GiB",
		},
		{
			"VMs count where they go",
			[]string{"h1:8 a:4", "h2:8 b:4", "h3:7"},
			func(p *headroom.Picture) {
				p.Closed = []string{"h1"}
				p.To = map[hypervisor.DomainID]string{"id-a": "h2"}
			},
			"h2: b 4.0 GiB of 8.0 GiB",
		},
		{
			"also those on their way",
			[]string{"h1:8 a:4", "h2:8 b:4", "h3:7"},
			func(p *headroom.Picture) {
				p.Closed = []string{"h1"}
				p.Fleet.Migrations["m"] = precopy.Stored{Migration: precopy.Migration{
					UUID: "id-a", Source: "h1", Target: "h2", Phase: precopy.Copying,
				}}
			},
			"h2: b 4.0 GiB of 8.0 GiB",
		},
		{
			"a limit on vCPUs",
			[]string{"h1:8 a:1 b:1", "h2:8 c:1", "h3:8"},
			func(p *headroom.Picture) {
				for name, limit := range map[string]int{"h2": 4, "h3": 1} {
					p.Fleet.Hosts[name].Facts.Capacity.VCPUs = limit
				}
				for _, h := range p.Fleet.Hosts {
					for i := range h.Facts.Domains {
						h.Facts.Domains[i].VCPUs = 2
					}
				}
			},
			"h1: b 1.0 GiB of 2.0 GiB",
		},
		{"a host that can't run them gives none", []string{"h1:8 arm:1", "h2:8"}, nil, "h1: arm 1.0 GiB of 1.0 GiB"},
		{
			"one that is down is lost already",
			[]string{"h1:8 a:8", "h2:8"},
			func(p *headroom.Picture) { p.Fleet.Hosts["h1"].Session = nil },
			"",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := headroom.Picture{Fleet: fleetOf(tt.hosts...)}
			if tt.setup != nil {
				tt.setup(&p)
			}
			var got []string
			for _, l := range headroom.Losses(p) {
				got = append(got, fmt.Sprintf("%s: %s %s of %s", l.Host, strings.Join(l.VMs, " "), l.Short, l.All))
				if !strings.Contains(l.String(), l.Host) {
					t.Errorf("%q does not name %s", l, l.Host)
				}
			}
			if text := strings.Join(got, "; "); text != tt.want {
				t.Errorf("got %q, want %q", text, tt.want)
			}
		})
	}
}
