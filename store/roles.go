package store

import "drover/store/kv"

// Role is a kind of participant, by what it needs of the store.
type Role string

// The roles.
const (
	RoleAgent     Role = "agent"
	RoleScheduler Role = "scheduler"
	RoleAdmin     Role = "admin"
	RoleViewer    Role = "viewer"
)

// Roles returns all roles in a fixed order.
func Roles() []Role { return []Role{RoleAgent, RoleScheduler, RoleAdmin, RoleViewer} }

// Access returns what every holder of the role may do. Agents need [HostAccess] besides. An unknown
// role may do nothing.
//
// Everybody reads everything: agents, because transactions compare keys of others; and what a fleet
// knows of itself is no secret among its members. Who writes what follows the writers in the layout,
// with one addition: who puts a question removes it and its answer, and etcd lets nobody attach a key
// to a lease that holds keys which he may not write. So all who ask or answer write both ranges.
func (r Role) Access() []kv.Access {
	list := []kv.Access{{Key: Root, Prefix: true}}
	write := func(prefixes ...string) {
		for _, p := range prefixes {
			list = append(list, kv.Access{Key: p, Prefix: true, Write: true})
		}
	}
	switch r {
	case RoleAgent:
		// The last write of a migration removes what only the migration needed.
		write(migrationsPrefix, progressPrefix, activePrefix, sharesPrefix, asksPrefix, answersPrefix)
	case RoleScheduler:
		write(hostsPrefix, vmsPrefix, migrationsPrefix, progressPrefix, activePrefix, sharesPrefix, runsPrefix,
			plansPrefix, asksPrefix, answersPrefix, historyPrefix, eventsPrefix, pastPlansPrefix, inputsPrefix, profilesPrefix, loadPrefix)
		list = append(list, kv.Access{Key: leaderKey, Write: true})
	case RoleAdmin:
		// A restore writes everything.
		return []kv.Access{{Key: Root, Prefix: true, Write: true}}
	case RoleViewer:
	default:
		return nil
	}
	return list
}

// HostAccess returns what the agent of that one host may do besides: write its reports.
func HostAccess(host string) ([]kv.Access, error) {
	if err := checkName("host", host); err != nil {
		return nil, err
	}
	return []kv.Access{{Key: reportsPrefix + host + "/", Prefix: true, Write: true}}, nil
}
