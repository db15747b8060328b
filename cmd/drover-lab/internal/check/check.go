// Package check looks for what migrations left behind: domains, QEMU processes, control groups and files that no guest
// of the lab explains. It is meant for a lab at rest; in the middle of a migration both sides show something.
package check

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"drover/cmd/drover-lab/internal/guest"
	"drover/cmd/drover-lab/internal/host"
	"drover/cmd/drover-lab/internal/state"
)

// Kind says what sort of thing was left.
type Kind string

// The kinds of leftovers.
const (
	KindDomain  Kind = "domain"
	KindProcess Kind = "process"
	KindCgroup  Kind = "cgroup"
	KindFile    Kind = "file"
)

// Leftover is one thing that nothing explains.
type Leftover struct {
	Host string `json:"host"` // empty for what all hosts share
	Kind Kind   `json:"kind"`
	What string `json:"what"`
	Why  string `json:"why"`
}

// Checker looks at one lab. It changes nothing.
type Checker struct {
	store  *state.Store
	hosts  *host.Manager
	guests *guest.Manager
}

// New returns the checker of the lab kept in store.
func New(store *state.Store, hosts *host.Manager, guests *guest.Manager) *Checker {
	return &Checker{store: store, hosts: hosts, guests: guests}
}

// Find lists all leftovers, by host. Hosts that are down are left out. What could not be looked at is in the error,
// beside what was found.
func (c *Checker) Find(ctx context.Context) ([]Leftover, error) {
	l, err := c.store.Up()
	if err != nil {
		return nil, fmt.Errorf("check: %w", err)
	}
	known, err := c.guests.List(ctx)
	if err != nil {
		return nil, fmt.Errorf("check: %w", err)
	}
	p := host.PathsOf(l)
	found, err := sharedFiles(p.Shared, known)
	errs := []error{err}
	for _, name := range l.Hosts {
		h, err := c.hosts.Running(name)
		if errors.Is(err, host.ErrDown) {
			continue
		} else if err != nil {
			errs = append(errs, err)
			continue
		}
		doms, err := c.guests.Domains(ctx, name)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		found = append(found, strayDomains(name, doms, known)...)
		var active []string
		for _, d := range doms {
			if d.Active {
				active = append(active, d.Name)
			}
		}
		on := hostView{name: name, pid: h.Init.PID, active: active}
		for _, look := range []func() ([]Leftover, error){
			on.processes,
			func() ([]Leftover, error) { return on.groups(l.Name) },
			on.runtimeFiles,
			func() ([]Leftover, error) { return privateImages(name, p.PrivateImages(name), known) },
		} {
			more, err := look()
			found, errs = append(found, more...), append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return found, fmt.Errorf("check: %w", err)
	}
	return found, nil
}

// strayDomains are a host's domains that are no guest of the lab's, or a guest's second self.
func strayDomains(host string, doms []guest.Domain, known []guest.Status) []Leftover {
	var found []Leftover
	stray := func(d guest.Domain, why string) {
		found = append(found, Leftover{Host: host, Kind: KindDomain, What: d.Name + " (" + d.State + ")", Why: why})
	}
	for _, d := range doms {
		i := slices.IndexFunc(known, func(g guest.Status) bool { return g.Name == d.Name })
		if i < 0 {
			stray(d, "the lab has no guest of that name")
			continue
		}
		g := known[i]
		elsewhere := slices.IndexFunc(g.RunsOn, func(p guest.Place) bool { return p.Host != host })
		switch {
		case d.Active && elsewhere >= 0:
			stray(d, "also active on "+g.RunsOn[elsewhere].Host)
		case !d.Active && elsewhere >= 0:
			stray(d, "defined here, but the guest runs on "+g.RunsOn[elsewhere].Host)
		case !d.Active && len(g.DefinedOn) > 1:
			stray(d, "defined on several hosts: "+strings.Join(g.DefinedOn, ", "))
		}
	}
	return found
}
