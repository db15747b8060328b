package guest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"drover/cmd/drover-lab/internal/host"
)

// Domain is a domain as one host's libvirt has it.
type Domain struct {
	Name       string `json:"name"`
	State      string `json:"state"` // libvirt's word, such as running, paused, shut off
	Active     bool   `json:"active"`
	Persistent bool   `json:"persistent"`
}

// listTimeout bounds what a libvirtd that hangs, or was stopped by a signal, can cost. One that ends a guest answers
// only when its QEMU has gone, which is given 15 s and longer.
const listTimeout = 40 * time.Second

// Domains lists all domains of a host that runs, whoever made them.
func (m *Manager) Domains(ctx context.Context, h string) ([]Domain, error) {
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	all, err := m.hosts.Virsh(ctx, h, "-c", host.LocalURI, "list", "--all")
	if err != nil {
		return nil, err
	}
	persistent, err := m.hosts.Virsh(ctx, h, "-c", host.LocalURI, "list", "--all", "--persistent", "--name")
	if err != nil {
		return nil, err
	}
	return parseDomains(all, strings.Fields(persistent)), nil
}

// parseDomains reads virsh's table of id, name and state; the id of an inactive domain is a dash.
func parseDomains(table string, persistent []string) []Domain {
	var ds []Domain
	for line := range strings.Lines(table) {
		f := strings.Fields(line)
		if len(f) < 3 {
			continue
		}
		ds = append(ds, Domain{
			Name: f[1], State: strings.Join(f[2:], " "), Active: f[0] != "-", Persistent: slices.Contains(persistent, f[1]),
		})
	}
	return ds
}

// Status is a guest of the lab and where it is.
type Status struct {
	Record
	// RunsOn lists the hosts where the domain is active: exactly one, unless it is off, in the middle of a migration,
	// or something went badly wrong.
	RunsOn []Place `json:"runs_on"`
	// DefinedOn lists the hosts with a persistent definition.
	DefinedOn []string `json:"defined_on"`
}

// Place is one host and the domain's state there.
type Place struct {
	Host  string `json:"host"`
	State string `json:"state"`
}

// List returns the lab's guests by name. Hosts that are down, or whose libvirtd does not answer, are left out and
// reported in the error beside the list.
func (m *Manager) List(ctx context.Context) ([]Status, error) {
	l, err := m.store.Up()
	if err != nil {
		return nil, fmt.Errorf("guest list: %w", err)
	}
	names, err := m.store.GuestNames()
	if err != nil {
		return nil, fmt.Errorf("guest list: %w", err)
	}
	all := make([]Status, len(names))
	for i, n := range names {
		if err := m.store.Guest(n, &all[i].Record); err != nil {
			return nil, fmt.Errorf("guest list: %w", err)
		}
		all[i].RunsOn, all[i].DefinedOn = []Place{}, []string{}
	}
	var errs []error
	for _, h := range l.Hosts {
		if _, err := m.hosts.Running(h); errors.Is(err, host.ErrDown) {
			continue
		}
		ds, err := m.Domains(ctx, h)
		errs = append(errs, err)
		for _, d := range ds {
			i := slices.Index(names, d.Name)
			if i < 0 {
				continue
			}
			if d.Active {
				all[i].RunsOn = append(all[i].RunsOn, Place{Host: h, State: d.State})
			}
			if d.Persistent {
				all[i].DefinedOn = append(all[i].DefinedOn, h)
			}
		}
	}
	return all, errors.Join(errs...)
}
