package kvm

import (
	"context"

	"libvirt.org/go/libvirt"

	"drover/hypervisor"
)

// SetAutostart says whether the domain is started with the host. Only persistent domains can be.
func (h *Host) SetAutostart(ctx context.Context, id hypervisor.DomainID, on bool) error {
	_, err := onDomain(ctx, h, request{op: "set autostart", domain: id}, func(d *libvirt.Domain) (struct{}, error) {
		return struct{}{}, d.SetAutostart(on)
	})
	// Libvirt sends no event for it.
	h.facts.forget(id)
	return err
}

// ShutDown asks the guest to shut down, by its agent if it has one, else as by its power button, and returns at
// once. The guest may not heed it; nothing is ever forced. A domain that a job runs on is refused (ClassBusy).
func (h *Host) ShutDown(ctx context.Context, id hypervisor.DomainID) error {
	_, err := onDomain(ctx, h, request{op: "shut down", domain: id, limit: slowLimit}, func(d *libvirt.Domain) (struct{}, error) {
		v, err := look(d, id)
		if err != nil {
			return struct{}{}, err
		}
		if v.Active() && v.Job != hypervisor.JobNone {
			return struct{}{}, &hypervisor.Error{Op: "shut down", Domain: id, Class: hypervisor.ClassBusy, Message: "a job runs on it"}
		}
		return struct{}{}, d.Shutdown()
	})
	return err
}

// Resume starts the vCPUs of a paused domain. The caller has proof that the domain runs nowhere
// else: this is how a guest is brought back after an interrupted switchover.
func (h *Host) Resume(ctx context.Context, id hypervisor.DomainID) error {
	_, err := onDomain(ctx, h, request{op: "resume", domain: id, limit: slowLimit}, func(d *libvirt.Domain) (struct{}, error) {
		return struct{}{}, d.Resume()
	})
	return err
}

// Undefine removes the persistent definition of an inactive domain and keeps its NVRAM and TPM
// state, which the running copy elsewhere may share. An active domain is refused (ClassInvalid), as
// is one with snapshots or a saved image; nil when there is no such domain.
func (h *Host) Undefine(ctx context.Context, id hypervisor.DomainID) error {
	_, err := onDomain(ctx, h, request{op: "undefine", domain: id}, func(d *libvirt.Domain) (struct{}, error) {
		active, err := d.IsActive()
		if err != nil {
			return struct{}{}, err
		}
		if active {
			// Libvirt would make the running domain transient instead.
			return struct{}{}, refuse("undefine", id, hypervisor.ClassInvalid, "the domain is active")
		}
		return struct{}{}, d.UndefineFlags(libvirt.DOMAIN_UNDEFINE_KEEP_NVRAM | libvirt.DOMAIN_UNDEFINE_KEEP_TPM)
	})
	h.facts.forget(id)
	if hypervisor.IsClass(err, hypervisor.ClassNoDomain) {
		return nil
	}
	return err
}
