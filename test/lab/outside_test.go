package lab

import (
	"slices"
	"strings"
	"testing"
	"time"

	"drover/precopy"
)

// What people and other tools do to a guest while drover moves it, or before.

func TestAutostartFollowsTheGuest(t *testing.T) {
	l := begin(t, "1gbit")
	l.Guest(t, "boots", "kvm1", idle...)
	l.Virsh(t, "kvm1", "autostart", "boots")
	l.MustDrover(t, "migrate", "boots", "--to", "kvm2", "--wait")
	l.Eventually(t, time.Minute, "the target starts it at boot", func() bool {
		return slices.Contains(strings.Fields(l.Virsh(t, "kvm2", "list", "--all", "--autostart", "--name")), "boots")
	})
	l.OnOnly(t, "boots", "kvm2")
}

func TestAutostartIsRestoredAfterCancel(t *testing.T) {
	l := begin(t, "100mbit")
	l.Guest(t, "flag", "kvm1", busy...)
	l.Virsh(t, "kvm1", "autostart", "flag")
	l.MustDrover(t, "migrate", "flag", "--to", "kvm2")
	m := l.WaitPhase(t, "flag", time.Minute, precopy.Copying)
	if on := l.Virsh(t, "kvm1", "list", "--all", "--autostart", "--name"); strings.Contains(on, "flag") {
		t.Error("the flag stands on the source in mid-copy: a reboot of it would start a second copy")
	}
	l.MustDrover(t, "migration", "cancel", m.ID)
	l.WaitPhase(t, "flag", time.Minute, precopy.Aborted)
	if on := l.Virsh(t, "kvm1", "list", "--all", "--autostart", "--name"); !strings.Contains(on, "flag") {
		t.Error("the flag was not restored on the source")
	}
	l.OnOnly(t, "flag", "kvm1")
}

func TestTransientGuestLeavesNothing(t *testing.T) {
	l := begin(t, "1gbit")
	l.Guest(t, "passing", "kvm1", append(idle[:len(idle):len(idle)], "--transient")...)
	l.MustDrover(t, "migrate", "passing", "--to", "kvm2", "--wait")
	l.OnOnly(t, "passing", "kvm2")
	if p := l.Virsh(t, "kvm2", "dominfo", "passing"); !strings.Contains(p, "Persistent:     no") {
		t.Errorf("the guest became persistent on the target:\n%s", p)
	}
}

func TestAbortedOutside(t *testing.T) {
	l := begin(t, "100mbit")
	l.Guest(t, "outside", "kvm1", busy...)
	l.MustDrover(t, "migrate", "outside", "--to", "kvm2")
	l.WaitPhase(t, "outside", time.Minute, precopy.Copying)
	l.Virsh(t, "kvm1", "domjobabort", "outside")
	m := l.WaitPhase(t, "outside", time.Minute, precopy.Aborted, precopy.Failed, precopy.Done)
	if m.Phase != precopy.Aborted || m.ReasonCode != "aborted-outside" {
		t.Errorf("record: %s %s (%s), want aborted aborted-outside", m.Phase, m.ReasonCode, m.Reason)
	}
	l.OnOnly(t, "outside", "kvm1")
}

func TestGuestStoppedInMidCopy(t *testing.T) {
	l := begin(t, "100mbit")
	l.Guest(t, "stopped", "kvm1", busy...)
	l.MustDrover(t, "migrate", "stopped", "--to", "kvm2")
	l.WaitPhase(t, "stopped", time.Minute, precopy.Copying)
	l.Virsh(t, "kvm1", "destroy", "stopped")
	m := l.WaitPhase(t, "stopped", time.Minute, precopy.Aborted, precopy.Failed, precopy.Done)
	if m.Phase != precopy.Failed || m.ReasonCode != "guest-stopped" {
		t.Errorf("record: %s %s (%s), want failed guest-stopped", m.Phase, m.ReasonCode, m.Reason)
	}
	if on := l.RunningOn(t, "stopped"); len(on) > 0 {
		t.Errorf("the guest that was stopped runs on %v", on)
	}
}

func TestMigrationOfAnotherToolUnderWay(t *testing.T) {
	l := begin(t, "100mbit")
	l.Guest(t, "theirs", "kvm1", busy...)
	done := make(chan string, 1)
	go func() {
		r := l.run(t.Context(), "drover-lab", "exec", "kvm1", "--", "virsh", "-q", "migrate", "--live", "--p2p", "--persistent",
			"--undefinesource", "--tls", "theirs", "qemu+tls://kvm2/system")
		done <- r.String()
	}()
	l.Eventually(t, time.Minute, "their migration runs", func() bool {
		return strings.Contains(l.Virsh(t, "kvm1", "domjobinfo", "theirs"), "Unbounded")
	})
	r := l.Drover(t.Context(), "migrate", "theirs", "--to", "kvm3")
	if r.Code != 1 || !strings.Contains(r.Stderr, "job-under-way") {
		t.Errorf("want a refusal that names the job: %s", r)
	}
	l.Virsh(t, "kvm1", "domjobabort", "theirs")
	<-done
	l.OnOnly(t, "theirs", "kvm1")
}
