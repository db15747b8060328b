package kvm

import (
	"context"
	"time"

	"libvirt.org/go/libvirt"

	"drover/hypervisor"
)

// JobStats reads the job that libvirt runs on the domain now. Kind is JobNone when there is none and
// JobIncoming, without figures, on the target of a migration: only the source has them.
func (h *Host) JobStats(ctx context.Context, id hypervisor.DomainID) (hypervisor.JobStats, error) {
	return onTuned(ctx, h, request{op: "job stats", domain: id}, jobStats)
}

// CompletedStats reads the statistics of the domain's last migration and leaves them with libvirt.
// They exist after success only, while no other job runs, and until libvirtd restarts; false means
// that there are none.
func (h *Host) CompletedStats(ctx context.Context, id hypervisor.DomainID) (hypervisor.JobStats, bool, error) {
	stats, err := onDomain(ctx, h, request{op: "completed stats", domain: id}, func(d *libvirt.Domain) (hypervisor.JobStats, error) {
		info, err := d.GetJobStats(libvirt.DOMAIN_JOB_STATS_COMPLETED | libvirt.DOMAIN_JOB_STATS_KEEP_COMPLETED)
		if err != nil {
			return hypervisor.JobStats{}, err
		}
		return statsOf(info, time.Now()), nil
	})
	if hypervisor.IsClass(err, hypervisor.ClassNoDomain) {
		return hypervisor.JobStats{}, false, nil
	}
	if err != nil || stats.Kind == hypervisor.JobNone {
		return hypervisor.JobStats{}, false, err
	}
	return stats, true, nil
}

// Migrations lists the domains that are leaving this host now, whoever started it. It asks about
// every active domain in turn, so it is for start-up and after a reset, not for polling. With an
// error the list is of those that answered; a domain whose QEMU hangs is no error, it can't be known.
func (h *Host) Migrations(ctx context.Context) ([]hypervisor.DomainID, error) {
	ids, err := h.activeDomains(ctx)
	if err != nil {
		return nil, err
	}
	var leaving []hypervisor.DomainID
	for _, id := range ids {
		s, serr := h.sightWithin(ctx, id, 5*time.Second)
		switch {
		case serr == nil && s.Job == hypervisor.JobOutgoing:
			leaving = append(leaving, id)
			h.outgoing.seen(id)
		case serr == nil:
		case ctx.Err() == nil && h.t.isStuck(id):
			h.log.Warn("VM does not answer libvirt; whether it is migrating is not known", "domain", id, "err", serr)
		default:
			err = serr
		}
	}
	return leaving, err
}

func (h *Host) activeDomains(ctx context.Context) ([]hypervisor.DomainID, error) {
	return onHost(ctx, h, "list domains", func(lv *libvirt.Connect) ([]hypervisor.DomainID, error) {
		doms, err := lv.ListAllDomains(libvirt.CONNECT_LIST_DOMAINS_ACTIVE)
		if err != nil {
			return nil, err
		}
		var ids []hypervisor.DomainID
		for i := range doms {
			uuid, err := doms[i].GetUUIDString()
			_ = doms[i].Free()
			if err == nil {
				ids = append(ids, hypervisor.DomainID(uuid))
			}
		}
		return ids, nil
	})
}

// jobStats reads the running job of one domain.
func jobStats(d *libvirt.Domain) (hypervisor.JobStats, error) {
	info, err := d.GetJobStats(0)
	switch {
	case isCode(err, libvirt.ERR_OPERATION_UNSUPPORTED):
		// Libvirt has no statistics on the receiving side, and says so with this number.
		return hypervisor.JobStats{Kind: hypervisor.JobIncoming, At: time.Now()}, nil
	case isCode(err, libvirt.ERR_OPERATION_INVALID):
		// The domain is not running, so nothing runs on it.
		return hypervisor.JobStats{Kind: hypervisor.JobNone, At: time.Now()}, nil
	case err != nil:
		return hypervisor.JobStats{}, err
	}
	s := statsOf(info, time.Now())
	if s.Kind == hypervisor.JobOutgoing {
		// The count of page requests lags; the state reason says it at once.
		if state, reason, err := d.GetState(); err == nil {
			_, why := stateOf(state, reason)
			s.PostcopyBroken = why == hypervisor.ReasonPostcopyFailed
			s.Postcopy = s.Postcopy || s.PostcopyBroken || why == hypervisor.ReasonPostcopy
		}
	}
	return s, nil
}

// kindOf tells the jobs apart that drover acts on.
func kindOf(info *libvirt.DomainJobInfo) hypervisor.JobKind {
	switch {
	case info.Type == libvirt.DOMAIN_JOB_NONE:
		return hypervisor.JobNone
	case !info.OperationSet:
		return hypervisor.JobOther
	case info.Operation == libvirt.DOMAIN_JOB_OPERATION_MIGRATION_OUT:
		return hypervisor.JobOutgoing
	case info.Operation == libvirt.DOMAIN_JOB_OPERATION_MIGRATION_IN:
		return hypervisor.JobIncoming
	}
	return hypervisor.JobOther
}

// statsOf turns libvirt's units (milliseconds, pages, bytes) into drover's.
func statsOf(info *libvirt.DomainJobInfo, at time.Time) hypervisor.JobStats {
	s := hypervisor.JobStats{
		Kind:          kindOf(info),
		At:            at,
		Elapsed:       milliseconds(info.TimeElapsedSet, info.TimeElapsed),
		Setup:         milliseconds(info.SetupTimeSet, info.SetupTime),
		Downtime:      milliseconds(info.DowntimeSet, info.Downtime),
		DowntimeNet:   milliseconds(info.DowntimeNetSet, info.DowntimeNet),
		MemTotal:      bytesIf(info.MemTotalSet, info.MemTotal),
		MemProcessed:  bytesIf(info.MemProcessedSet, info.MemProcessed),
		MemRemaining:  bytesIf(info.MemRemainingSet, info.MemRemaining),
		MemNormal:     bytesIf(info.MemNormalBytesSet, info.MemNormalBytes),
		DiskTotal:     bytesIf(info.DiskTotalSet, info.DiskTotal),
		DiskProcessed: bytesIf(info.DiskProcessedSet, info.DiskProcessed),
		DiskRemaining: bytesIf(info.DiskRemainingSet, info.DiskRemaining),
		PageSize:      bytesIf(info.MemPageSizeSet, info.MemPageSize),
		Postcopy:      info.MemPostcopyReqsSet && info.MemPostcopyReqs > 0,
	}
	pages := s.PageSize
	if pages == 0 {
		pages = 4 * hypervisor.KiB
	}
	s.MemZero = bytesIf(info.MemConstantSet, info.MemConstant) * pages
	s.Bandwidth = hypervisor.BytesPerSecond(bytesIf(info.MemBpsSet, info.MemBps))
	s.DirtyRate = hypervisor.BytesPerSecond(bytesIf(info.MemDirtyRateSet, info.MemDirtyRate) * pages)
	if info.MemIterationSet {
		s.Round = int(info.MemIteration)
	}
	if info.AutoConvergeThrottleSet {
		s.Throttle = info.AutoConvergeThrottle
	}
	return s
}

func milliseconds(set bool, n uint64) time.Duration {
	if !set || n > 1<<40 {
		return 0
	}
	return time.Duration(n) * time.Millisecond
}

// bytesIf is n when it was given and can be meant: libvirt's counters are unsigned, and a figure
// past 2^62 is one that went below zero.
func bytesIf(set bool, n uint64) hypervisor.Bytes {
	if !set || n > 1<<62 {
		return 0
	}
	return hypervisor.Bytes(n)
}
