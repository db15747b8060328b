package qmp

import (
	"context"
	"time"

	"drover/hypervisor"
)

// Detail is what QEMU says about a migration. A figure that it did not give is zero.
type Detail struct {
	// Status is QEMU's own word, finer than libvirt's: "setup", "active", "device",
	// "pre-switchover", "postcopy-active", "completed", "failed" and more; empty when there never
	// was a migration.
	Status    string
	ErrorDesc string // why it failed
	Setup     time.Duration
	Elapsed   time.Duration

	Remaining    hypervisor.Bytes
	Transferred  hypervisor.Bytes
	Precopy      hypervisor.Bytes // sent while the guest ran
	Downtime     hypervisor.Bytes // sent while it was stopped
	Postcopy     hypervisor.Bytes
	Multifd      hypervisor.Bytes
	PagesPerSec  int64
	DirtySyncs   int
	CacheMiss    int64   // XBZRLE: pages not found in the cache
	EncodingRate float64 // XBZRLE: how much smaller pages got

	BlockedReasons []string
}

// migrateInfo is the part of query-migrate's answer that is read. Unknown fields and unknown status
// words are let pass, since each QEMU version brings some.
type migrateInfo struct {
	Status         string   `json:"status"`
	ErrorDesc      string   `json:"error-desc"`
	TotalTime      int64    `json:"total-time"`
	SetupTime      int64    `json:"setup-time"`
	BlockedReasons []string `json:"blocked-reasons"`
	RAM            struct {
		Remaining   int64 `json:"remaining"`
		Transferred int64 `json:"transferred"`
		Precopy     int64 `json:"precopy-bytes"`
		Downtime    int64 `json:"downtime-bytes"`
		Postcopy    int64 `json:"postcopy-bytes"`
		Multifd     int64 `json:"multifd-bytes"`
		PagesPerSec int64 `json:"pages-per-second"`
		DirtySyncs  int   `json:"dirty-sync-count"`
	} `json:"ram"`
	XBZRLE struct {
		CacheMiss    int64   `json:"cache-miss"`
		EncodingRate float64 `json:"encoding-rate"`
	} `json:"xbzrle-cache"`
}

// MigrationDetail asks QEMU about the domain's migration, under way or past.
func MigrationDetail(ctx context.Context, to Commander, id hypervisor.DomainID) (Detail, error) {
	var m migrateInfo
	if err := query(ctx, to, id, "query-migrate", &m); err != nil {
		return Detail{}, err
	}
	return Detail{
		Status:         m.Status,
		ErrorDesc:      m.ErrorDesc,
		Setup:          time.Duration(m.SetupTime) * time.Millisecond,
		Elapsed:        time.Duration(m.TotalTime) * time.Millisecond,
		Remaining:      hypervisor.Bytes(m.RAM.Remaining),
		Transferred:    hypervisor.Bytes(m.RAM.Transferred),
		Precopy:        hypervisor.Bytes(m.RAM.Precopy),
		Downtime:       hypervisor.Bytes(m.RAM.Downtime),
		Postcopy:       hypervisor.Bytes(m.RAM.Postcopy),
		Multifd:        hypervisor.Bytes(m.RAM.Multifd),
		PagesPerSec:    m.RAM.PagesPerSec,
		DirtySyncs:     m.RAM.DirtySyncs,
		CacheMiss:      m.XBZRLE.CacheMiss,
		EncodingRate:   m.XBZRLE.EncodingRate,
		BlockedReasons: m.BlockedReasons,
	}, nil
}

// BlockedReasons asks QEMU why it would refuse to migrate the domain; none when it would not.
func BlockedReasons(ctx context.Context, to Commander, id hypervisor.DomainID) ([]string, error) {
	d, err := MigrationDetail(ctx, to, id)
	return d.BlockedReasons, err
}
