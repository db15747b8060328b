package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"drover/hypervisor"
	"drover/scheduler/fleet"
)

// trace is where a VM was when a host was last heard of that does not report now.
type trace struct {
	fleet.SeenDomain
	host *fleet.Host
}

// String is "web-1 was last seen on kvm1, which is away (no agent reports)".
func (t trace) String() string {
	state, note := hostState(t.host)
	return fmt.Sprintf("%s was last seen on %s, which is %s (%s)", t.Name, t.host.Name, state, note)
}

// traces returns the VMs that no host reports now, in order of host, then name. A completed migration
// counts above what its hosts said before it.
func traces(snap *fleet.Snapshot, x index) []trace {
	here := map[hypervisor.DomainID]bool{}
	for _, d := range snap.Domains() {
		if d.Host.Alive() && !x.half(d) {
			here[d.Facts.ID] = true
		}
	}
	moved := snap.LastMoves()
	found := map[hypervisor.DomainID]trace{}
	for _, name := range snap.HostNames() {
		h := snap.Hosts[name]
		for _, d := range h.Seen {
			m := moved[d.ID]
			left := m.Source == name && m.EndedAt() > h.SeenRevision
			if !h.Alive() && !here[d.ID] && !left {
				found[d.ID] = trace{d, h}
			}
		}
	}
	for id, m := range moved {
		h := snap.Hosts[m.Target]
		if _, seen := found[id]; !seen && !here[id] && h != nil && !h.Alive() && h.SeenRevision < m.EndedAt() {
			found[id] = trace{fleet.SeenDomain{ID: id, Name: m.Domain}, h}
		}
	}
	list := make([]trace, 0, len(found))
	for _, t := range found {
		list = append(list, t)
	}
	slices.SortFunc(list, func(a, b trace) int {
		return strings.Compare(a.host.Name+"/"+a.Name+"/"+string(a.ID), b.host.Name+"/"+b.Name+"/"+string(b.ID))
	})
	return list
}

// goneAs says of each VM of that name or UUID that no host reports now where it was last seen.
func (x index) goneAs(word string) []string {
	var out []string
	for _, t := range x.gone {
		if t.Name == word || string(t.ID) == strings.ToLower(word) {
			out = append(out, t.String())
		}
	}
	return out
}

// notFound says what is known of a VM that no host reports under that word.
func notFound(snap *fleet.Snapshot, x index, word string) error {
	host, name, byHost := strings.Cut(word, "/")
	if byHost {
		var where []string
		for _, d := range slices.DeleteFunc(snap.FindVM(name), x.half) {
			where = append(where, d.Host.Name+"/"+d.Facts.Name)
		}
		if len(where) > 0 {
			return fmt.Errorf("no VM is called %q on %s: there is %s", name, host, strings.Join(where, ", "))
		}
	} else {
		name = word
	}
	if gone := x.goneAs(name); len(gone) > 0 {
		return errors.New(strings.Join(gone, "; "))
	}
	return fmt.Errorf("no VM is called %q (drover vm list shows all)", word)
}
