package kvm

import (
	"context"
	"time"

	"libvirt.org/go/libvirt"

	"drover/hypervisor"
)

// Sight asks libvirt what it has of the domain now. That it has none is an answer (StateAbsent), not
// an error; an error means that nothing is known, least of all that the domain is gone.
func (h *Host) Sight(ctx context.Context, id hypervisor.DomainID) (hypervisor.Sighting, error) {
	return h.sightWithin(ctx, id, slowLimit)
}

func (h *Host) sightWithin(ctx context.Context, id hypervisor.DomainID, limit time.Duration) (hypervisor.Sighting, error) {
	v, err := h.vantage(ctx, id, limit)
	return v.Sighting, err
}

// vantage is a sighting with libvirt's own reason number, which tells more states apart.
type vantage struct {
	hypervisor.Sighting
	raw int
}

func (h *Host) vantage(ctx context.Context, id hypervisor.DomainID, limit time.Duration) (vantage, error) {
	r := request{op: "sight", domain: id, limit: limit}
	v, err := onDomain(ctx, h, r, func(d *libvirt.Domain) (vantage, error) { return look(d, id) })
	if hypervisor.IsClass(err, hypervisor.ClassNoDomain) {
		return vantage{Sighting: hypervisor.Sighting{
			Domain: id, State: hypervisor.StateAbsent, Job: hypervisor.JobNone, At: time.Now(),
		}}, nil
	}
	return v, err
}

func look(d *libvirt.Domain, id hypervisor.DomainID) (vantage, error) {
	state, reason, err := d.GetState()
	if err != nil {
		return vantage{}, err
	}
	v := vantage{Sighting: hypervisor.Sighting{Domain: id, Job: hypervisor.JobNone, At: time.Now()}, raw: reason}
	v.State, v.Reason = stateOf(state, reason)
	if !v.Active() {
		return v, nil
	}
	stats, err := jobStats(d)
	if err != nil {
		return vantage{}, err
	}
	v.Job = stats.Kind
	return v, nil
}

// reasons are the state reasons that tell what a migration left behind, by libvirt's state.
var reasons = map[libvirt.DomainState]map[int]hypervisor.StateReason{
	libvirt.DOMAIN_RUNNING: {
		int(libvirt.DOMAIN_RUNNING_MIGRATED):           hypervisor.ReasonMigrated,
		int(libvirt.DOMAIN_RUNNING_MIGRATION_CANCELED): hypervisor.ReasonMigrationCanceled,
		int(libvirt.DOMAIN_RUNNING_POSTCOPY):           hypervisor.ReasonPostcopy,
		int(libvirt.DOMAIN_RUNNING_POSTCOPY_FAILED):    hypervisor.ReasonPostcopyFailed,
	},
	libvirt.DOMAIN_PAUSED: {
		int(libvirt.DOMAIN_PAUSED_USER):            hypervisor.ReasonUser,
		int(libvirt.DOMAIN_PAUSED_MIGRATION):       hypervisor.ReasonMigration,
		int(libvirt.DOMAIN_PAUSED_IOERROR):         hypervisor.ReasonIOError,
		int(libvirt.DOMAIN_PAUSED_POSTCOPY):        hypervisor.ReasonPostcopy,
		int(libvirt.DOMAIN_PAUSED_POSTCOPY_FAILED): hypervisor.ReasonPostcopyFailed,
		int(libvirt.DOMAIN_PAUSED_API_ERROR):       hypervisor.ReasonAPIError,
	},
	libvirt.DOMAIN_SHUTOFF: {
		int(libvirt.DOMAIN_SHUTOFF_SHUTDOWN):  hypervisor.ReasonShutdown,
		int(libvirt.DOMAIN_SHUTOFF_DESTROYED): hypervisor.ReasonDestroyed,
		int(libvirt.DOMAIN_SHUTOFF_CRASHED):   hypervisor.ReasonCrashed,
		int(libvirt.DOMAIN_SHUTOFF_MIGRATED):  hypervisor.ReasonMigrated,
		int(libvirt.DOMAIN_SHUTOFF_FAILED):    hypervisor.ReasonFailed,
	},
}

// stateOf puts libvirt's state and reason into drover's words.
func stateOf(state libvirt.DomainState, reason int) (hypervisor.DomainState, hypervisor.StateReason) {
	why := reasons[state][reason]
	switch state {
	case libvirt.DOMAIN_RUNNING, libvirt.DOMAIN_BLOCKED:
		return hypervisor.StateRunning, why
	case libvirt.DOMAIN_PAUSED:
		return hypervisor.StatePaused, why
	case libvirt.DOMAIN_SHUTOFF:
		return hypervisor.StateShutoff, why
	case libvirt.DOMAIN_CRASHED:
		return hypervisor.StateCrashed, why
	default:
		return hypervisor.StateOther, why
	}
}

// FindDomain returns the ID of the domain that has the name on this host.
func (h *Host) FindDomain(ctx context.Context, name string) (hypervisor.DomainID, error) {
	return onHost(ctx, h, "find domain", func(lv *libvirt.Connect) (hypervisor.DomainID, error) {
		dom, err := lv.LookupDomainByName(name)
		if err != nil {
			return "", err
		}
		defer dom.Free()
		uuid, err := dom.GetUUIDString()
		return hypervisor.DomainID(uuid), err
	})
}
