package main

import (
	"maps"

	"drover/hypervisor"
	"drover/precopy"
	"drover/scheduler/fleet"
)

// settle returns the fleet with moves that are done counted before the next reports say so.
//
// Only a domain's newest migration has a say. A host that a domain left and came back to has the same
// facts as before, and so no newer report than the first move, which would else be made again.
func settle(s *fleet.Snapshot) *fleet.Snapshot {
	if s == nil {
		return nil
	}
	newest := map[hypervisor.DomainID]precopy.Stored{}
	for _, m := range s.Migrations {
		if m.Phase == precopy.Done && m.Revision > newest[m.UUID].Revision {
			newest[m.UUID] = m
		}
	}
	relevant := *s
	relevant.Migrations = maps.Clone(s.Migrations)
	maps.DeleteFunc(relevant.Migrations, func(id string, m precopy.Stored) bool {
		return m.Phase == precopy.Done && newest[m.UUID].ID != id
	})
	out := *fleet.Settle(&relevant)
	out.Migrations = s.Migrations
	return &out
}
