package policy

import (
	"strings"
	"testing"
	"time"
)

const networkText = `
schema: 1
network:
  reserve: 10%
  limits: {migration: 5gbit, host_out: 8gbit, streams_out: 1}
  hosts:
    - {name: "old*", out: 400mbit, reserve: 100mbit}
    - {labels: {rack: a}, in: 2gbit}
  links:
    - {name: uplink-a, labels: {rack: a}, capacity: 40gbit, reserve: 25%}
  windows:
    - {name: night, cron: "0 22 * * *", duration: 8h, reserve: 0%, limits: {streams_out: 4, fleet: 20gbit}}
`

func TestNetworkAt(t *testing.T) {
	n := parsed(t, networkText).Network
	for _, tc := range []struct {
		at      time.Time
		window  string
		reserve string
		limits  NetworkLimits
	}{
		{time.Date(2026, 5, 4, 21, 59, 59, 0, time.UTC), "", "10%", NetworkLimits{Migration: 5e9 / 8, HostOut: 1e9, StreamsOut: 1}},
		{time.Date(2026, 5, 4, 22, 0, 0, 0, time.UTC), "night", "0%", NetworkLimits{Migration: 5e9 / 8, HostOut: 1e9, Fleet: 20e9 / 8, StreamsOut: 4}},
		{time.Date(2026, 5, 5, 5, 59, 0, 0, time.UTC), "night", "0%", NetworkLimits{Migration: 5e9 / 8, HostOut: 1e9, Fleet: 20e9 / 8, StreamsOut: 4}},
		{time.Date(2026, 5, 5, 6, 0, 0, 0, time.UTC), "", "10%", NetworkLimits{Migration: 5e9 / 8, HostOut: 1e9, StreamsOut: 1}},
	} {
		now, window := n.At(tc.at)
		if window != tc.window || now.Reserve.String() != tc.reserve || now.Limits != tc.limits {
			t.Errorf("at %s: window %q, reserve %s, limits %+v; want %q, %s, %+v", tc.at, window, now.Reserve, now.Limits, tc.window, tc.reserve, tc.limits)
		}
	}
	if n.Limits.StreamsOut != 1 || n.Reserve.String() != "10%" {
		t.Errorf("the policy itself has changed: %+v", n)
	}
}

func TestNetworkHost(t *testing.T) {
	n := parsed(t, networkText).Network
	for _, tc := range []struct {
		name    string
		labels  map[string]string
		out, in Rate
		reserve string
	}{
		{"kvm1", nil, 1e9, 0, "10%"},
		{"old7", nil, 50e6, 0, "100mbit"},
		{"old7", map[string]string{"rack": "a"}, 50e6, 0, "100mbit"}, // the first that matches
		{"kvm1", map[string]string{"rack": "a"}, 1e9, 250e6, "10%"},
	} {
		out, in, reserve := n.Host(tc.name, tc.labels)
		if out != tc.out || in != tc.in || reserve.String() != tc.reserve {
			t.Errorf("%s %v: out %s, in %s, reserve %s; want %s, %s, %s", tc.name, tc.labels, out, in, reserve, tc.out, tc.in, tc.reserve)
		}
	}
	if l := n.Links[0]; !l.Holds(map[string]string{"rack": "a"}) || l.Holds(map[string]string{"rack": "b"}) || l.Reserve.Of(4000) != 1000 {
		t.Errorf("%+v", l)
	}
}

func TestNetworkFaults(t *testing.T) {
	for _, tc := range []struct{ network, want string }{
		{"limits: {streams_out: 9}", "network.limits.streams_out: 9: want 1 to 8"},
		{"limits: {streams_in: -1}", "network.limits.streams_in: -1: want 1 to 8"},
		{"limits: {fleet: fast}", "network.limits.fleet"},
		{"reserve: 95%", "network.reserve: 95%: want at most 90%"},
		{"sharing: often", `network.sharing: "often": want live`},
		{"hosts: [{out: 1gbit}]", "network.hosts[1]: says nothing"},
		{`hosts: [{name: "[", out: 1gbit}]`, "network.hosts[1].name"},
		{"links: [{name: Up!, labels: {rack: a}, capacity: 1gbit}]", `network.links[1].name: "Up!"`},
		{"links: [{name: up, labels: {rack: a}, capacity: 1gbit}, {name: up, labels: {rack: b}, capacity: 1gbit}]", "network.links[2].name: there is another link"},
		{"links: [{name: up, labels: {rack: a}}]", "network.links[1].capacity: is missing"},
		{"links: [{name: up, capacity: 1gbit}]", "network.links[1].labels: is missing"},
		{`windows: [{name: night, cron: "0 99 * * *", duration: 8h}]`, "network.windows[1]"},
		{`windows: [{name: night, cron: "0 22 * * *", duration: 8h, limits: {streams_out: 99}}]`, "network.windows[1].limits.streams_out"},
	} {
		_, err := Parse([]byte("schema: 1\nnetwork: {" + tc.network + "}\n"))
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: got %v, want %q", tc.network, err, tc.want)
		}
	}
}
