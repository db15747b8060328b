package host

import (
	"fmt"
	"net/netip"

	"drover/cmd/drover-lab/internal/netns"
	"drover/cmd/drover-lab/internal/state"
	"drover/cmd/internal/pki"
)

// issueAll makes the lab's authority and every certificate in it: one for each host, one for the control host's
// scheduler and etcd, one for people who may do everything and one for people who may look.
func issueAll(l state.Lab) error {
	dir := PathsOf(l).PKI
	ca, err := pki.CreateCA(dir, pki.CAOptions{Name: "drover-lab " + l.Name})
	if err != nil {
		return fmt.Errorf("certificates: %w", err)
	}
	loopback := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	reqs := []pki.Request{
		{Role: pki.RoleScheduler, Name: state.Control, DNS: []string{"localhost"}, IPs: []netip.Addr{netns.Mgmt.Addr(0), loopback}},
		{Role: pki.RoleAdmin, Name: "lab"},
		{Role: pki.RoleViewer, Name: "lab"},
	}
	for i, h := range l.Hosts {
		reqs = append(reqs, pki.Request{
			// The migration stream is checked against the address it goes to, the control connection against the name.
			Role: pki.RoleAgent, Name: h, DNS: []string{h + "-mig"},
			IPs: []netip.Addr{netns.Mgmt.Addr(i + 1), netns.Migration.Addr(i + 1), loopback},
		})
	}
	for _, r := range reqs {
		if _, err := ca.Issue(r); err != nil {
			return fmt.Errorf("certificates: %w", err)
		}
	}
	return nil
}
