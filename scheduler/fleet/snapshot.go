package fleet

import (
	"slices"
	"strings"
	"time"

	"drover/hypervisor"
	"drover/precopy"
	"drover/scheduler/policy"
)

// HostRecord is the durable part of a host: what people and the leader decided about it.
type HostRecord struct {
	Schema int    `json:"schema"`
	Name   string `json:"name"`
	// LibvirtUUID is bound to the name at first contact: a second machine with the name is refused.
	LibvirtUUID string `json:"libvirt_uuid"`
	// Cordons are the holders of the host's cordon ("admin", "run/ID"), each of which removes only
	// its own. The host takes new domains only when there is none.
	Cordons []Cordon          `json:"cordons,omitempty"`
	Labels  map[string]string `json:"labels,omitempty"`
	// Capacity overrides what the agent reports, field by field; zero fields do not.
	Capacity hypervisor.Capacity `json:"capacity,omitzero"`
}

// Cordon is one holder's wish that a host take no new domains.
type Cordon struct {
	Holder string    `json:"holder"`
	By     string    `json:"by"`
	At     time.Time `json:"at"`
	Reason string    `json:"reason,omitempty"`
}

// Session is a living agent's claim to its host's name.
type Session struct {
	Schema      int       `json:"schema"`
	Host        string    `json:"host"`
	LibvirtUUID string    `json:"libvirt_uuid"`
	Instance    string    `json:"instance"` // new for each start of the agent
	Version     string    `json:"version"`
	Started     time.Time `json:"started"`
}

// LeaderInfo says who leads.
type LeaderInfo struct {
	Identity string    `json:"identity"`
	Since    time.Time `json:"since"`
	// Fence is the election key's create revision, in every write of that leader.
	Fence int64 `json:"-"`
}

// Host is one host as of the snapshot. Session is nil when no agent holds the name; Facts and Load
// are nil when never reported under the present session.
type Host struct {
	Name   string
	Record HostRecord
	// RecordRevision is the store revision of Record; 0 when there is none.
	RecordRevision int64
	Session        *Session
	Facts          *hypervisor.HostFacts
	Load           *hypervisor.HostLoad
	// Link is the newest sample of the migration network's interface, nil while no stream comes or goes;
	// LinkSeen is when this process received it.
	Link     *hypervisor.LinkLoad
	LinkSeen time.Time
	// LoadSeen is when this process received Load, by its own clock: ages never compare clocks of
	// two hosts.
	LoadSeen time.Time
	// FactsRevision and LoadRevision are the store revisions of the two reports. Load was taken after the
	// store's revision LoadAsOf: what happened up to then, it shows.
	FactsRevision int64
	LoadRevision  int64
	LoadAsOf      int64
	// Seen is which domains its agent reported last, in order of name; it outlives the agent.
	Seen         []SeenDomain
	SeenRevision int64
}

// SeenDomain is what is left of a domain when the host's agent is gone.
type SeenDomain struct {
	ID   hypervisor.DomainID `json:"id"`
	Name string              `json:"name"`
}

// Alive reports whether an agent holds the host's name and has reported both facts and load.
func (h *Host) Alive() bool { return h.Session != nil && h.Facts != nil && h.Load != nil }

// Capacity returns the reported capacity with the record's overrides.
func (h *Host) Capacity() hypervisor.Capacity {
	var c hypervisor.Capacity
	if h.Facts != nil {
		c = h.Facts.Capacity
	}
	o := h.Record.Capacity
	if o.Cores > 0 {
		c.Cores = o.Cores
	}
	if o.Memory > 0 {
		c.Memory = o.Memory
	}
	if o.Reserved > 0 {
		c.Reserved = o.Reserved
	}
	if o.VCPUs > 0 {
		c.VCPUs = o.VCPUs
	}
	if o.Bandwidth > 0 {
		c.Bandwidth = o.Bandwidth
	}
	return c
}

// Domain is one domain as reported by one host.
type Domain struct {
	Host  *Host
	Facts hypervisor.DomainFacts
	Load  hypervisor.DomainLoad
}

// StoredShare is a share as the store holds it.
type StoredShare struct {
	precopy.Share
	Revision int64
}

// SeenProgress is a migration's progress, and when this process received it.
type SeenProgress struct {
	precopy.Progress
	Seen time.Time
}

// Snapshot is the fleet at one revision. Now is the reader's clock when it was taken.
type Snapshot struct {
	Revision   int64
	Now        time.Time
	Hosts      map[string]*Host
	Migrations map[string]precopy.Stored
	Runs       map[string]StoredRun
	// Shares and Progress are by migration.
	Shares   map[string]StoredShare
	Progress map[string]SeenProgress
	// Plans are those that have not ended, and some that have lately.
	Plans map[string]StoredPlan
	// Pause is set while automatic moves are stopped.
	Pause  *Pause
	Leader *LeaderInfo
	// Policy is what people want of migrations, VMs what they decided about single VMs.
	Policy policy.Stored
	VMs    map[hypervisor.DomainID]policy.VMRecord
}

// HostNames returns the names in order.
func (s *Snapshot) HostNames() []string {
	names := make([]string, 0, len(s.Hosts))
	for n := range s.Hosts {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

// Domains returns every reported domain, in order of host, then name. A domain that is seen on two
// hosts (during a migration, or doubled) stands twice.
func (s *Snapshot) Domains() []Domain {
	var out []Domain
	for _, n := range s.HostNames() {
		out = append(out, s.Hosts[n].Domains()...)
	}
	return out
}

// Domains returns the host's domains in order of name.
func (h *Host) Domains() []Domain {
	if h.Facts == nil {
		return nil
	}
	loads := map[hypervisor.DomainID]hypervisor.DomainLoad{}
	if h.Load != nil {
		for _, l := range h.Load.Domains {
			loads[l.ID] = l
		}
	}
	out := make([]Domain, 0, len(h.Facts.Domains))
	for _, f := range h.Facts.Domains {
		out = append(out, Domain{Host: h, Facts: f, Load: loads[f.ID]})
	}
	slices.SortFunc(out, func(a, b Domain) int { return strings.Compare(a.Facts.Name, b.Facts.Name) })
	return out
}

// Running reports whether the domain has a running or paused process here that did not come in by
// an unfinished migration.
func (d Domain) Running() bool {
	return d.Load.State == hypervisor.StateRunning || d.Load.State == hypervisor.StatePaused
}

// FindVM resolves what a person typed: a domain's name when it is unique in the fleet, HOST/NAME, or
// a UUID. It returns every match, active ones only if there is any; the caller says "unknown" for
// none, and names the candidates for more than one.
func (s *Snapshot) FindVM(word string) []Domain {
	host, name, byHost := strings.Cut(word, "/")
	var active, inactive []Domain
	for _, d := range s.Domains() {
		switch {
		case byHost && (d.Host.Name != host || d.Facts.Name != name):
			continue
		case !byHost && d.Facts.Name != word && string(d.Facts.ID) != strings.ToLower(word):
			continue
		}
		if d.Running() {
			active = append(active, d)
		} else {
			inactive = append(inactive, d)
		}
	}
	if len(active) > 0 {
		return active
	}
	return inactive
}

// Unfinished returns the migrations that are not over, oldest first.
func (s *Snapshot) Unfinished() []precopy.Stored {
	var out []precopy.Stored
	for _, m := range s.Migrations {
		if !m.Phase.Final() {
			out = append(out, m)
		}
	}
	slices.SortFunc(out, func(a, b precopy.Stored) int { return strings.Compare(a.ID, b.ID) })
	return out
}
