package main

import (
	"context"
	"time"

	"drover/hypervisor"
	"drover/hypervisor/kvm"
	"drover/hypervisor/kvm/peercheck"
)

// peerReport finds out what would stop migrations from this host to the peers. Without peers it is
// about this host alone.
func (a *agent) peerReport(ctx context.Context, peers []hypervisor.Peer) *hypervisor.PeerReport {
	now := time.Now()
	settings := a.host.PeerSettings()
	cfg := peercheck.Config{
		MigrationTLS: a.conf.MigrationTLS, MigrationDir: settings.MigrationDir,
		StreamAddress: a.conf.MigrationAddress, PeerURI: a.conf.PeerURI, AgentCert: a.conf.Cert,
	}
	report := &hypervisor.PeerReport{Clock: now, Ports: settings.Ports}
	if len(peers) > 0 {
		report.Findings = peercheck.Peers(ctx, cfg, peers)
	} else {
		report.Findings = append(peercheck.Certificates(cfg, now), locks(settings), postCopy(settings, a.host.LibvirtVersion()))
	}
	for i := range report.Findings {
		report.Findings[i].Host = a.conf.Name
	}
	return report
}

// locks says what keeps two copies of a guest from writing to one disk.
func locks(s kvm.PeerSettings) hypervisor.Finding {
	f := hypervisor.Finding{Check: hypervisor.CheckLocks, Level: hypervisor.CheckOK}
	if s.LockManager != "" {
		f.Detail = "libvirt's " + s.LockManager + " guards the guests' disks"
		return f
	}
	f.Detail = "only QEMU's own image locks guard the guests' disks"
	f.Remedy = "where shared storage has no working locks use virtlockd: lock_manager in qemu.conf"
	return f
}

// postCopy says whether guests may come here by post-copy, and what becomes of one whose stream breaks.
func postCopy(s kvm.PeerSettings, libvirtVersion uint32) hypervisor.Finding {
	f := hypervisor.Finding{Check: hypervisor.CheckPostCopy, Level: hypervisor.CheckOK, Detail: "guests may come here by post-copy"}
	if !s.PostCopy {
		f.Detail = "no guest can come here by post-copy: QEMU may not handle page faults"
		f.Remedy = "only if a policy allows post-copy: sysctl vm.unprivileged_userfaultfd=1"
	} else if !kvm.Recovers(libvirtVersion) {
		f.Detail += ", but one whose stream breaks on the way stands still until libvirt is updated: 11.2 and 11.3 crash of going on"
		f.Remedy = "only if a policy allows post-copy: libvirt 11.4 or later"
	}
	return f
}
