// Package feasible holds the hard filters: why a domain may not move to a host, judged from a fleet
// snapshot alone. Each filter has one name (its [hypervisor.BlockerCode]) and gives numbers and a
// remedy.
//
//	of the domain   host-away, host-stale, host-degraded (its source's)   not-running   pinned   policy
//	                migration-under-way   what its hypervisor says (job-under-way, host-device, non-shared-disk, ...)
//	of the target   unknown-host   same-host   host-away, host-stale, host-degraded   host-cordoned (or draining)
//	of the pair     architecture   accelerator   machine-unknown   agent-version   name-taken
//	                memory (on both hosts while it moves, over the target's reserve)   vcpus (where the target has a
//	                limit)   anti-affinity
//
// "drover vm check", the leader's admission of every migration, drains and automatic moves all ask [Check], or
// [Source] and [Target]. What only a hypervisor can say, such as CPU features and whether a disk can be reached,
// is asked of the agents afterwards (scheduler.Preflight). What is a matter of when is not here: the streams
// that a host may have (scheduler.Limits), and the rest after a move and a target's CPU, which stop moves that
// nobody asked for only (scheduler/auto). Whether the fleet could still lose a host is asked of scheduler/headroom.
//
// Everything here is pure and safe for concurrent use.
package feasible

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"drover/hypervisor"
	"drover/precopy"
	"drover/scheduler/fleet"
)

// What the fleet's picture adds to the reasons that a hypervisor can give.
const (
	UnknownHost  hypervisor.BlockerCode = "unknown-host"
	SameHost     hypervisor.BlockerCode = "same-host"
	HostAway     hypervisor.BlockerCode = "host-away"     // no living agent
	HostStale    hypervisor.BlockerCode = "host-stale"    // living agent, old report
	HostDegraded hypervisor.BlockerCode = "host-degraded" // its libvirt does not answer
	HostCordoned hypervisor.BlockerCode = "host-cordoned"
	UnderWay     hypervisor.BlockerCode = "migration-under-way"
	Protocol     hypervisor.BlockerCode = "agent-version"
	Pinned       hypervisor.BlockerCode = "pinned"
	Policy       hypervisor.BlockerCode = "policy" // what is promised to the VM can't be told
	VCPUs        hypervisor.BlockerCode = "vcpus"  // the target would have more of them than it may
)

// StaleAfter is the age from which a host's load report no longer counts: four missed reports.
const StaleAfter = 20 * time.Second

// Request is one wish to move a domain.
type Request struct {
	Domain fleet.Domain
	// CopyStorage allows non-shared disks, which are copied then.
	CopyStorage bool
	// Migration is the record that asks, which is not in its own way; empty for a question.
	Migration string
}

// Source returns what stops the domain from leaving its host, wherever to.
func Source(s *fleet.Snapshot, r Request) []hypervisor.Blocker {
	var out []hypervisor.Blocker
	d := r.Domain
	if b := Up(s, d.Host); b != nil {
		out = append(out, *b)
	}
	// A state that libvirt did not tell at the moment of the sample, as right after a migration, is no
	// reason: the source is asked before anything starts.
	switch d.Load.State {
	case hypervisor.StateShutoff, hypervisor.StateCrashed, hypervisor.StateAbsent:
		out = append(out, hypervisor.Blocker{
			Code:   hypervisor.BlockNotRunning,
			Detail: fmt.Sprintf("%s is %s on %s", d.Facts.Name, d.Load.State, d.Host.Name),
			Remedy: "live migration needs a running guest: start it first",
		})
	}
	if b := intent(s, d); b != nil {
		out = append(out, *b)
	}
	for _, m := range s.Unfinished() {
		if m.UUID == d.Facts.ID && m.ID != r.Migration {
			out = append(out, hypervisor.Blocker{
				Code:   UnderWay,
				Detail: fmt.Sprintf("migration %s (%s, asked for by %s) is under way", m.ID, m.Phase, m.RequestedBy),
				Remedy: "wait for it, or: drover migration cancel " + m.ID,
			})
		}
	}
	return append(out, WithoutCopied(d.Facts.Blockers, r.CopyStorage)...)
}

// intent is what people decided about the domain.
func intent(s *fleet.Snapshot, d fleet.Domain) *hypervisor.Blocker {
	p, err := s.PolicyOf(d)
	switch {
	case err != nil:
		return &hypervisor.Blocker{
			Code: Policy, Detail: err.Error(),
			Remedy: "drover policy show tells what there is; drover vm set " + d.Facts.Name + " --class NAME gives it another class",
		}
	case p.Pinned:
		return &hypervisor.Blocker{
			Code: Pinned, Detail: fmt.Sprintf("%s is pinned to %s (class %s, %s)", d.Facts.Name, d.Host.Name, p.Class, p.Origin("pinned")),
			Remedy: "drover vm set " + d.Facts.Name + " --pinned=false",
		}
	}
	return nil
}

// WithoutCopied drops the blockers that a storage copy overcomes.
func WithoutCopied(in []hypervisor.Blocker, copyStorage bool) []hypervisor.Blocker {
	if !copyStorage {
		return in
	}
	return slices.DeleteFunc(slices.Clone(in), func(b hypervisor.Blocker) bool {
		return b.Code == hypervisor.BlockLocalDisk
	})
}

// Target returns what stops the domain from going to the host.
func Target(s *fleet.Snapshot, r Request, host string) []hypervisor.Blocker {
	h := s.Hosts[host]
	if h == nil {
		return []hypervisor.Blocker{{
			Code: UnknownHost, Detail: "no host is called " + host,
			Remedy: "drover host list shows the names",
		}}
	}
	if host == r.Domain.Host.Name {
		return []hypervisor.Blocker{{Code: SameHost, Detail: "the VM is on " + host + " already"}}
	}
	var out []hypervisor.Blocker
	if b := Closed(s, h); b != nil {
		out = append(out, *b)
	}
	if b := Up(s, h); b != nil {
		return append(out, *b)
	}
	out = append(out, Suits(h, r.Domain.Facts)...)
	for _, check := range []func(*fleet.Snapshot, Request, *fleet.Host) *hypervisor.Blocker{memory, vcpus, apart} {
		if b := check(s, r, h); b != nil {
			out = append(out, *b)
		}
	}
	return out
}

// Closed returns why a host takes no domains at all: it is cordoned, or a drain is about to do so. Nil when it
// is open.
func Closed(s *fleet.Snapshot, h *fleet.Host) *hypervisor.Blocker {
	if len(h.Record.Cordons) > 0 {
		c, remedy := h.Record.Cordons[0], "drover host uncordon "+h.Name
		if strings.HasPrefix(c.Holder, fleet.RunHolder) {
			remedy = "drover host restore " + h.Name
		}
		return &hypervisor.Blocker{
			Code: HostCordoned, Detail: fmt.Sprintf("%s is cordoned by %s (%s)", h.Name, c.By, c.Holder), Remedy: remedy,
		}
	}
	if r := s.Closing(h.Name); r != nil {
		return &hypervisor.Blocker{
			Code: HostCordoned, Detail: fmt.Sprintf("%s is being drained, or about to be, by %s (%s)", h.Name, r.RequestedBy, r.Holder()),
			Remedy: "drover run cancel " + r.ID + " --uncordon",
		}
	}
	return nil
}

// Suits returns what about the host, whatever else is there, stops the domain from running on it.
func Suits(h *fleet.Host, f hypervisor.DomainFacts) []hypervisor.Blocker {
	var out []hypervisor.Blocker
	for _, check := range []func(*fleet.Host, hypervisor.DomainFacts) *hypervisor.Blocker{arch, virtType, machine, protocol, nameTaken} {
		if b := check(h, f); b != nil {
			out = append(out, *b)
		}
	}
	return out
}

// Check returns everything that stops the move, source first; nothing when it is feasible as far as
// the snapshot tells.
func Check(s *fleet.Snapshot, r Request, host string) []hypervisor.Blocker {
	return append(Source(s, r), Target(s, r, host)...)
}

// Up returns why nothing can be said of a host, or asked of it, at the moment: its agent is away, has
// not reported or not for long, or its libvirt does not answer. A restart shows as this for a few
// seconds. Nil when the host is up.
func Up(s *fleet.Snapshot, h *fleet.Host) *hypervisor.Blocker {
	name := h.Name
	switch {
	case h.Session == nil:
		return &hypervisor.Blocker{
			Code: HostAway, Detail: "no agent reports from " + name,
			Remedy: "check drover-agent there: systemctl status drover-agent",
		}
	case !h.Alive():
		return &hypervisor.Blocker{Code: HostStale, Detail: name + " has not reported yet", Remedy: "wait a few seconds"}
	case !h.LoadSeen.IsZero() && s.Now.Sub(h.LoadSeen) > StaleAfter:
		return &hypervisor.Blocker{
			Code:   HostStale,
			Detail: fmt.Sprintf("%s reported last %s ago", name, s.Now.Sub(h.LoadSeen).Round(time.Second)),
			Remedy: "check drover-agent and libvirtd there",
		}
	case h.Load.Problem != "":
		return &hypervisor.Blocker{
			Code: HostDegraded, Detail: name + ": " + h.Load.Problem,
			Remedy: "check libvirtd there",
		}
	}
	return nil
}

func arch(h *fleet.Host, d hypervisor.DomainFacts) *hypervisor.Blocker {
	if d.Arch == "" || h.Facts.Arch == "" || d.Arch == h.Facts.Arch {
		return nil
	}
	return &hypervisor.Blocker{
		Code:   hypervisor.BlockArch,
		Detail: fmt.Sprintf("the VM is %s, %s is %s", d.Arch, h.Name, h.Facts.Arch),
	}
}

func virtType(h *fleet.Host, d hypervisor.DomainFacts) *hypervisor.Blocker {
	if d.VirtType == "" || len(h.Facts.VirtTypes) == 0 || slices.Contains(h.Facts.VirtTypes, d.VirtType) {
		return nil
	}
	return &hypervisor.Blocker{
		Code:   hypervisor.BlockVirtType,
		Detail: fmt.Sprintf("the VM runs under %s, which %s does not offer", d.VirtType, h.Name),
		Remedy: "check /dev/kvm and the BIOS settings there",
	}
}

func machine(h *fleet.Host, d hypervisor.DomainFacts) *hypervisor.Blocker {
	if d.Machine == "" || len(h.Facts.MachineTypes) == 0 || slices.Contains(h.Facts.MachineTypes, d.Machine) {
		return nil
	}
	return &hypervisor.Blocker{
		Code:   hypervisor.BlockMachine,
		Detail: fmt.Sprintf("QEMU on %s does not know machine type %s", h.Name, d.Machine),
		Remedy: "upgrade QEMU there, or give the VM an older machine type at its next start",
	}
}

func protocol(h *fleet.Host, _ hypervisor.DomainFacts) *hypervisor.Blocker {
	f := h.Facts
	if f.ProtocolMax == 0 || f.ProtocolMin <= protocolVersion && protocolVersion <= f.ProtocolMax {
		return nil
	}
	return &hypervisor.Blocker{
		Code:   Protocol,
		Detail: fmt.Sprintf("the agent of %s speaks record versions %d to %d, needed is %d", h.Name, f.ProtocolMin, f.ProtocolMax, protocolVersion),
		Remedy: "upgrade drover-agent there",
	}
}

// protocolVersion is the record schema that orders are written in.
const protocolVersion = 1

func nameTaken(h *fleet.Host, d hypervisor.DomainFacts) *hypervisor.Blocker {
	for _, other := range h.Facts.Domains {
		if other.Name == d.Name && other.ID != d.ID {
			return &hypervisor.Blocker{
				Code:   hypervisor.BlockNameTaken,
				Detail: fmt.Sprintf("%s has another VM called %s (%s)", h.Name, d.Name, other.ID),
				Remedy: "rename or undefine the other one",
			}
		}
	}
	return nil
}

func memory(s *fleet.Snapshot, r Request, h *fleet.Host) *hypervisor.Blocker {
	free := FreeMemory(s, h, r.Migration)
	if r.Domain.Facts.Memory <= free {
		return nil
	}
	return &hypervisor.Blocker{
		Code:   hypervisor.BlockMemory,
		Detail: fmt.Sprintf("the VM needs %s, %s has %s to give", r.Domain.Facts.Memory, h.Name, max(free, 0)),
		Remedy: "move something off it first, or choose another host",
	}
}

// vcpus keeps to the limit that a host may have. A domain without any asks for nothing.
func vcpus(s *fleet.Snapshot, r Request, h *fleet.Host) *hypervisor.Blocker {
	need := r.Domain.Facts.VCPUs
	if free := FreeVCPUs(s, h, r.Migration); need > 0 && need > free {
		return &hypervisor.Blocker{
			Code:   VCPUs,
			Detail: fmt.Sprintf("the VM has %d vCPUs, %s has room for %d of the %d that it may have", need, h.Name, max(free, 0), h.Capacity().VCPUs),
			Remedy: "move something off it first, choose another host, or raise capacity-vcpus in its agent's settings",
		}
	}
	return nil
}

// FreeVCPUs is what the host's limit on vCPUs leaves, reckoned as [FreeMemory] is; more than anybody has where
// there is none.
func FreeVCPUs(s *fleet.Snapshot, h *fleet.Host, except string) int {
	limit := h.Capacity().VCPUs
	if limit <= 0 {
		return math.MaxInt
	}
	_, there := promised(s, h, except)
	return limit - there
}

// FreeMemory is what the host can still promise: its memory less its reserve, less the allotments of
// the domains there, less those of the domains on their way there (except is not counted).
func FreeMemory(s *fleet.Snapshot, h *fleet.Host, except string) hypervisor.Bytes {
	c := h.Capacity()
	memory, _ := promised(s, h, except)
	return c.Memory - c.Reserved - memory
}

// promised is what the domains on a host, and those on their way there except by one migration, may use of it.
func promised(s *fleet.Snapshot, h *fleet.Host, except string) (memory hypervisor.Bytes, vcpus int) {
	here := map[hypervisor.DomainID]bool{}
	for _, d := range h.Domains() {
		if d.Load.State != "" && d.Load.State != hypervisor.StateShutoff {
			memory, vcpus = memory+d.Facts.Memory, vcpus+d.Facts.VCPUs
			here[d.Facts.ID] = true
		}
	}
	for _, m := range s.Migrations {
		if m.Target != h.Name || m.ID == except || !m.Phase.Holds() || here[m.UUID] {
			continue
		}
		d := onTheWay(s, m)
		memory, vcpus = memory+d.Memory, vcpus+d.VCPUs
	}
	return memory, vcpus
}

// onTheWay is a domain that is being moved: as its order says, which stands however long the source does not
// report, or as the source reports.
func onTheWay(s *fleet.Snapshot, m precopy.Stored) hypervisor.DomainFacts {
	if m.Order != nil && m.Order.Domain != nil {
		return *m.Order.Domain
	}
	if src := s.Hosts[m.Source]; src != nil {
		for _, d := range src.Domains() {
			if d.Facts.ID == m.UUID {
				return d.Facts
			}
		}
	}
	return hypervisor.DomainFacts{}
}
