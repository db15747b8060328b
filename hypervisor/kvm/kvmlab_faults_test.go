//go:build lab

package kvm

import (
	"testing"
	"time"

	"drover/hypervisor"
)

func testSourceDaemonDies(t *testing.T) {
	from, to, id := pair(t)
	events := from.Events()
	spec := to.spec(id)
	spec.Bandwidth = 1 << 20
	done := make(chan error, 1)
	go func() { done <- from.Migrate(within(t, time.Minute), spec) }()
	copying(t, from, id)
	labTool(t, "signal", from.name, "libvirtd", "KILL")
	err := <-done
	t.Logf("source's libvirtd killed: %v", err)
	if c := hypervisor.ClassOf(err); c != hypervisor.ClassUnknownOutcome && c != hypervisor.ClassFailed {
		t.Errorf("class %q of %v: want the outcome unknown, or a failure that was seen", c, err)
	}
	reset := false
	for timeout := time.After(30 * time.Second); !reset; {
		select {
		case e := <-events:
			reset = e.Kind == hypervisor.EventReset
		case <-timeout:
			t.Fatal("no reset event")
		}
	}
	eventually(t, "the guest runs on the source without a job", func() bool {
		s, err := from.Sight(t.Context(), id)
		return err == nil && s.State == hypervisor.StateRunning && s.Job == hypervisor.JobNone
	})
	eventually(t, "the target has let go", func() bool {
		s, err := to.Sight(t.Context(), id)
		return err == nil && s.State == hypervisor.StateAbsent
	})
	if l, err := from.Load(within(t, 10*time.Second)); err != nil || len(l.Domains) == 0 {
		t.Errorf("Load afterwards: %+v, %v", l, err)
	}
	spec.Bandwidth = 100 << 20
	if err := from.Migrate(within(t, time.Minute), spec); err != nil {
		t.Errorf("the same migration again: %v", err)
	}
}

func testTargetDaemonDies(t *testing.T) {
	from, to, id := pair(t)
	spec := to.spec(id)
	spec.Bandwidth = 1 << 20
	done := make(chan error, 1)
	go func() { done <- from.Migrate(within(t, 2*time.Minute), spec) }()
	copying(t, from, id)
	labTool(t, "signal", to.name, "libvirtd", "KILL")
	err := <-done
	t.Logf("target's libvirtd killed: %v", err)
	wantClass(t, err, hypervisor.ClassFailed)
	s, err := from.Sight(t.Context(), id)
	if err != nil || s.State != hypervisor.StateRunning || s.Job != hypervisor.JobNone {
		t.Errorf("source afterwards: %+v, %v", s, err)
	}
	eventually(t, "the target's libvirtd is back and has let go", func() bool {
		s, err := to.Sight(t.Context(), id)
		return err == nil && s.State == hypervisor.StateAbsent
	})
}

func testForeignMigration(t *testing.T) {
	from, to, id := pair(t)
	if _, err := from.Load(t.Context()); err != nil { // nothing leaves yet
		t.Fatal(err)
	}
	// virsh's own end comes with the migration's.
	labTool(t, "spawn", "kvm1", "virsh", "--", "/usr/bin/virsh", "migrate", "--live", "--p2p", "--bandwidth", "2", string(id), to.uri)
	t.Cleanup(func() { labTool(t, "unspawn", "kvm1", "virsh") })
	copying(t, from, id)
	eventually(t, "the load shows it", func() bool {
		l, err := from.Load(t.Context())
		return err == nil && domainIn(l, id).Migrating
	})
	seen, err := from.Inspect(t.Context(), id)
	if err != nil || codes(seen.Facts.Blockers) != "job-under-way" {
		t.Errorf("Inspect: %v, %v, want the job as a blocker", seen.Facts.Blockers, err)
	}
	wantClass(t, from.Migrate(t.Context(), to.spec(id)), hypervisor.ClassInvalid)
	if err := from.SetBandwidth(t.Context(), id, 100<<20); err != nil {
		t.Errorf("SetBandwidth: %v", err)
	}
	eventually(t, "it is over", func() bool {
		there, err := to.Sight(t.Context(), id)
		here, herr := from.Sight(t.Context(), id)
		return err == nil && herr == nil && there.State == hypervisor.StateRunning && !here.Active()
	})
	wantMigrating(t, from, id, false)
}

func testNetworkCut(t *testing.T) {
	from, to, id := pair(t)
	spec := to.spec(id)
	spec.Bandwidth = 1 << 20
	done := make(chan error, 1)
	go func() { done <- from.Migrate(within(t, 3*time.Minute), spec) }()
	copying(t, from, id)
	labTool(t, "cut", to.name)
	healed := false
	heal := func() {
		if !healed {
			labTool(t, "heal", to.name)
			healed = true
		}
	}
	t.Cleanup(heal)
	begun := time.Now()
	// The source's libvirtd misses the target's after 30 s; until then everything must stay usable.
	if _, err := from.JobStats(t.Context(), id); err != nil {
		t.Errorf("JobStats while the link is down: %v", err)
	}
	wantMigrating(t, from, id, true)
	err := <-done
	t.Logf("answered %s after the cut: %v", time.Since(begun).Round(time.Second), err)
	wantClass(t, err, hypervisor.ClassFailed)
	s, err := from.Sight(t.Context(), id)
	if err != nil || s.State != hypervisor.StateRunning || s.Job != hypervisor.JobNone {
		t.Errorf("source afterwards: %+v, %v", s, err)
	}
	heal()
	eventually(t, "the target has let go", func() bool {
		s, err := to.Sight(t.Context(), id)
		return err == nil && s.State == hypervisor.StateAbsent
	})
}

// Whenever the target's libvirtd dies in the middle of switchover, the class must not say more than
// is true: a failure only if the guest does not run on the target.
func testTargetDiesAtSwitchover(t *testing.T) {
	from, to, id := pair(t)
	events := from.Events()
	done := make(chan error, 1)
	go func() { done <- from.Migrate(within(t, 2*time.Minute), to.spec(id)) }()
	for e := range events {
		if e.Domain == id && e.Kind == hypervisor.EventSuspended {
			labTool(t, "signal", to.name, "libvirtd", "KILL")
			break
		}
	}
	err := <-done
	class := hypervisor.ClassOf(err)
	var here, there hypervisor.Sighting
	eventually(t, "both hosts answer", func() bool {
		var herr, terr error
		here, herr = from.Sight(t.Context(), id)
		there, terr = to.Sight(t.Context(), id)
		return herr == nil && terr == nil && here.Job == hypervisor.JobNone
	})
	t.Logf("class %q, source %s (%s), target %s (%s): %v", class, here.State, here.Reason, there.State, there.Reason, err)
	switch {
	case err == nil && (here.Active() || there.State != hypervisor.StateRunning):
		t.Error("success was reported of a guest that is not on the target alone")
	case err != nil && class != hypervisor.ClassUnknownOutcome && (there.Active() || here.State != hypervisor.StateRunning):
		t.Error("a failure was reported of a guest that is not on the source alone")
	}
}
