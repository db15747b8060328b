//go:build lab

package lab

import (
	"slices"
	"strings"
	"testing"
	"time"

	"drover/precopy"
)

// quotas are the CPU bandwidths of the vCPUs on a host, however its control groups are laid out.
func (l *Lab) quotas(t testing.TB, host string) []string {
	t.Helper()
	out := l.Do(t, "exec", host, "--", "sh", "-c",
		`find /sys/fs/cgroup -path '*vcpu*' \( -name cpu.cfs_quota_us -o -name cpu.max \) -exec cat {} +`)
	var all []string
	for line := range strings.Lines(out) {
		if f := strings.Fields(line); len(f) > 0 {
			all = append(all, f[0])
		}
	}
	return all
}

// slowed reports whether any vCPU on the host may not use all of a core.
func (l *Lab) slowed(t testing.TB, host string) bool {
	t.Helper()
	return slices.ContainsFunc(l.quotas(t, host), func(q string) bool { return q != "-1" && q != "max" })
}

// An agent that is killed while it slows a guest, and does not come back, leaves the guest at full speed
// within seconds; one that comes back later brings the migration to its end.
func TestSlowedGuestHasItsSpeedBackWhenTheAgentIsKilled(t *testing.T) {
	l := begin(t, "200mbit")
	l.Guest(t, "slowed", "kvm1", "--memory", "256MiB", "--wss", "96MiB", "--rate", "12000", "--pattern", "page")
	l.MustDrover(t, "migrate", "slowed", "--to", "kvm2", "--max-slowdown", "90%")
	l.Eventually(t, time.Minute, "the guest is slowed", func() bool { return l.slowed(t, "kvm1") })
	l.Do(t, "signal", "kvm1", "agent", "KILL")
	l.Do(t, "unspawn", "kvm1", "agent")
	l.Eventually(t, 5*time.Second, "the quota is given back, with no agent there", func() bool { return !l.slowed(t, "kvm1") })
	if q := l.quotas(t, "kvm1"); len(q) == 0 {
		t.Error("no vCPU's quota was found: nothing was tested")
	}
	l.Do(t, "drover", "start", "--build", l.Build)
	m := l.WaitPhase(t, "slowed", 2*time.Minute, precopy.Done, precopy.Failed, precopy.Aborted)
	t.Logf("ended %s: %s", m.Phase, m.Reason)
	where := map[precopy.Phase]string{precopy.Done: "kvm2", precopy.Failed: "kvm1", precopy.Aborted: "kvm1"}[m.Phase]
	l.OnOnly(t, "slowed", where)
	if l.slowed(t, where) {
		t.Error("it is slowed although its migration is over")
	}
}
