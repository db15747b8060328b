package main

import "drover/test/sim"

// rule is one manager's.
type rule struct {
	name   string
	rule   sim.Rule
	drover bool
}

// rules are drover's first, then the others' limits with drover's convergence controller, so that only these
// differ, and with the way in which the manager itself drives a migration.
var rules = []rule{
	{"drover", nil, true},
	{"oVirt: two at once per host", sim.Peer{Name: "oVirt", Outgoing: 2, Incoming: 2}, false},
	{"oVirt, driven as by vdsm", sim.Peer{Name: "oVirt", Outgoing: 2, Incoming: 2, Tuning: "vdsm-minimal"}, false},
	{"Nova: one at once per host", sim.Peer{Name: "Nova", Outgoing: 1}, false},
	{"Nova, driven as by Nova", sim.Peer{Name: "Nova", Outgoing: 1, Tuning: "nova"}, false},
	{"KubeVirt: five in all, two per host", sim.Peer{Name: "KubeVirt", Outgoing: 2, Fleet: 5}, false},
	{"KubeVirt, driven as by KubeVirt", sim.Peer{Name: "KubeVirt", Outgoing: 2, Fleet: 5, Tuning: "kubevirt"}, false},
	{"all at once", sim.Peer{Name: "all"}, false},
}
