package kvm

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"libvirt.org/go/libvirt"

	"drover/hypervisor"
)

func TestRemoveDisksWaitsForEveryVM(t *testing.T) {
	h := openHost(t, nil)
	ctx := soon(t)
	path := filepath.Join(t.TempDir(), "a")
	if err := h.CreateDisks(ctx, "m", []hypervisor.Disk{{Target: "vda", Source: path, Size: hypervisor.MiB}}); err != nil {
		t.Fatal(err)
	}
	g := guest{name: "silent", uuid: "6c1f0000-0000-4000-8000-000000000015"}
	g.define(t)
	// What it uses was read before, but not now: another call about it hangs.
	if _, err := h.Facts(ctx); err != nil {
		t.Fatal(err)
	}
	var hanging ending
	r := request{op: "hangs", domain: g.id()}
	h.t.abandon(&hanging, r)
	wantClass(t, h.RemoveDisks(ctx, "m"), hypervisor.ClassBusy)
	if !exists(path) {
		t.Error("a file was removed that a VM may use")
	}
	h.t.finish(&hanging, r)
	if err := h.RemoveDisks(ctx, "m"); err != nil || exists(path) {
		t.Errorf("afterwards: %v, the file there: %v", err, exists(path))
	}
}

// A call that goes on though its caller left must not make files after they were discarded.
func TestDiscardFollowsStragglingCreate(t *testing.T) {
	h := openHost(t, nil)
	dir := t.TempDir()
	path := filepath.Join(dir, "a")
	disks := []hypervisor.Disk{{Target: "vda", Source: path, Size: hypervisor.MiB}}
	end := h.copies.work("m") // a file system that is slow
	short, cancel := context.WithTimeout(soon(t), 100*time.Millisecond)
	defer cancel()
	wantClass(t, h.CreateDisks(short, "m", disks), hypervisor.ClassUnknownOutcome)
	end()
	if err := h.RemoveDisks(soon(t), "m"); err != nil {
		t.Error(err)
	}
	eventually(t, "the late call to end", func() bool { return h.Stragglers() == 0 })
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the file of a call that came too late: %v, want none", err)
	}
}

func TestOneCallMakesFilesOfOneMigration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &ledger{}
		var mu sync.Mutex
		var order []string
		step := func(name, migration string, d time.Duration) {
			defer l.work(migration)()
			time.Sleep(d)
			mu.Lock()
			defer mu.Unlock()
			order = append(order, name)
		}
		go step("slow", "m", time.Minute)
		synctest.Wait()
		if !l.working("m") || l.working("other") {
			t.Error("want m worked on, and no other")
		}
		step("other", "other", 0)
		time.Sleep(time.Hour)
		synctest.Wait()
		step("next", "m", 0)
		mu.Lock()
		defer mu.Unlock()
		if len(order) != 3 || order[0] != "other" || order[1] != "slow" {
			t.Errorf("order %v: want each migration's calls in turn, others not held up", order)
		}
		if len(l.works) != 0 {
			t.Errorf("%d left when all is done", len(l.works))
		}
	})
}

func TestReasonsOfShutoff(t *testing.T) {
	for raw, want := range map[libvirt.DomainShutoffReason]hypervisor.StateReason{
		libvirt.DOMAIN_SHUTOFF_UNKNOWN:   hypervisor.ReasonOther,
		libvirt.DOMAIN_SHUTOFF_SHUTDOWN:  hypervisor.ReasonShutdown,
		libvirt.DOMAIN_SHUTOFF_DESTROYED: hypervisor.ReasonDestroyed,
		libvirt.DOMAIN_SHUTOFF_CRASHED:   hypervisor.ReasonCrashed,
		libvirt.DOMAIN_SHUTOFF_MIGRATED:  hypervisor.ReasonMigrated,
		libvirt.DOMAIN_SHUTOFF_SAVED:     hypervisor.ReasonOther,
		libvirt.DOMAIN_SHUTOFF_FAILED:    hypervisor.ReasonFailed,
	} {
		if state, got := stateOf(libvirt.DOMAIN_SHUTOFF, int(raw)); state != hypervisor.StateShutoff || got != want {
			t.Errorf("%d: %s, %q, want %q", raw, state, got, want)
		}
	}
}
