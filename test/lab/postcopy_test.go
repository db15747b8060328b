package lab

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"drover/precopy"
)

// hopeless are the flags of a guest that rewrites its memory faster than a link of 150 Mbit/s takes it.
var hopeless = []string{"--memory", "192MiB", "--wss", "64MiB", "--rate", "9000", "--pattern", "page"}

// postCopyPolicy allows post-copy for guests by name, and no slowing, so that there is no other way.
const postCopyPolicy = `schema: 1
classes:
  postcopy: {max_pause: 100ms, max_pause_ceiling: 100ms, max_slowdown: 0%, post_copy: allowed}
rules:
  - match: {name: "pc-*"}
    class: postcopy
`

// postCopy starts a guest that only post-copy can move, watched from outside.
func postCopy(t *testing.T, guest string) (*Lab, *Probe) {
	t.Helper()
	l := begin(t, "1gbit")
	file := filepath.Join(t.TempDir(), "policy.yaml")
	if err := os.WriteFile(file, []byte(postCopyPolicy), 0o600); err != nil {
		t.Fatal(err)
	}
	l.MustDrover(t, "policy", "apply", file)
	l.Guest(t, guest, "kvm1", hopeless...)
	l.Do(t, "shape", "all", "150mbit")
	return l, l.Probe(t, guest)
}

// moved checks what is left after a post-copy migration to kvm2, and what its record says.
func moved(t *testing.T, l *Lab, guest string, p *Probe, m precopy.Migration) {
	t.Helper()
	if m.Phase != precopy.Done || m.Outcome == nil || !strings.HasSuffix(m.Outcome.Strategy, "+postcopy") || !m.Outcome.PauseKnown {
		t.Errorf("record: %s (%s), outcome %+v; want done by post-copy, the pause known", m.Phase, m.Reason, m.Outcome)
	}
	time.Sleep(time.Second)
	seen := p.Stop(t)
	t.Logf("record %+v; from outside %+v; notes %q", m.Outcome, seen, m.Notes)
	if seen.Mismatches > 0 || !seen.Alive {
		t.Errorf("from outside %+v: want the guest alive and its memory intact", seen)
	}
	l.OnOnly(t, guest, "kvm2")
}

func TestPostCopyMovesWhatNeverConverges(t *testing.T) {
	l, p := postCopy(t, "pc-plain")
	if r := l.Drover(t.Context(), "migrate", "pc-plain", "--to", "kvm2", "--wait"); r.Code != 0 {
		t.Errorf("migrate: %s", r)
	} else if !strings.Contains(r.Stderr, "the guest runs on kvm2, the rest follows") {
		t.Errorf("the wait does not say that the guest runs on the target: %s", r)
	}
	moved(t, l, "pc-plain", p, l.Last(t, "pc-plain"))
}

// TestPostCopyOutlastsACut cuts the migration network in the middle of post-copy for less than TCP gives up.
func TestPostCopyOutlastsACut(t *testing.T) {
	l, p := postCopy(t, "pc-cut")
	l.MustDrover(t, "migrate", "pc-cut", "--to", "kvm2")
	m := l.WaitPhase(t, "pc-cut", 2*time.Minute, precopy.Postcopy, precopy.Done, precopy.Failed, precopy.Aborted)
	if m.Phase != precopy.Postcopy {
		t.Fatalf("record: %s (%s), want it in post-copy", m.Phase, m.Reason)
	}
	l.Do(t, "cut", "kvm2", "--network", "migration")
	l.MustDrover(t, "migration", "cancel", m.ID) // must not touch it
	time.Sleep(8 * time.Second)
	l.Do(t, "heal", "kvm2", "--network", "migration")
	m = l.WaitPhase(t, "pc-cut", 2*time.Minute, precopy.Done, precopy.Failed, precopy.Aborted)
	if m.ReasonCode != "cancelled-too-late" {
		t.Errorf("reason code %q, want cancelled-too-late", m.ReasonCode)
	}
	moved(t, l, "pc-cut", p, m)
}

// TestPostCopyIsRecovered breaks the stream for good while the network is away: the agent, and the one
// after it, try until it goes on. Where libvirt would crash of that a person is asked, and nothing touched.
func TestPostCopyIsRecovered(t *testing.T) {
	l, p := postCopy(t, "pc-broken")
	t.Cleanup(func() {
		// What is left of a guest that can't go on is ended by its stop, once libvirt has let go of it. A libvirtd
		// that waits for the other side would take half a minute to be ended in order.
		for _, host := range []string{"kvm1", "kvm2"} {
			l.Do(t, "signal", host, "libvirtd", "KILL")
		}
		l.Eventually(t, time.Minute, "libvirt is back", func() bool {
			for _, host := range []string{"kvm1", "kvm2"} {
				if l.run(context.Background(), "drover-lab", "exec", host, "--", "virsh", "-q", "-c", "qemu:///system", "list").Code != 0 {
					return false
				}
			}
			return true
		})
	})
	l.MustDrover(t, "migrate", "pc-broken", "--to", "kvm2")
	m := l.WaitPhase(t, "pc-broken", 2*time.Minute, precopy.Postcopy, precopy.Done, precopy.Failed, precopy.Aborted)
	if m.Phase != precopy.Postcopy {
		t.Fatalf("record: %s (%s), want it in post-copy", m.Phase, m.Reason)
	}
	l.Do(t, "cut", "kvm2", "--network", "migration")
	l.Virsh(t, "kvm1", "domjobabort", "pc-broken", "--postcopy")
	broken := func(alarm string) func() bool {
		return func() bool {
			m = l.Last(t, "pc-broken")
			return m.Phase == precopy.Unknown && m.ReasonCode == "postcopy-interrupted" && strings.Contains(m.Reason, alarm)
		}
	}
	l.Eventually(t, time.Minute, "the record says that post-copy is interrupted", broken("drover goes on by itself"))
	l.Do(t, "signal", "kvm1", "agent", "KILL")
	time.Sleep(5 * time.Second)
	l.Do(t, "heal", "kvm2", "--network", "migration")
	if v := l.libvirt(t, "kvm2"); v >= 11_002_000 && v < 11_004_000 {
		l.Eventually(t, time.Minute, "the record asks for a person", broken("ALARM: a person must see to this"))
		t.Logf("with libvirt %d: %s", v, m.Reason)
		time.Sleep(5 * time.Second)
		// The target hears of it only when it has something to send: where the guest waits for a page that it
		// asked for before, that is never.
		for host, want := range map[string][]string{
			"kvm1": {"paused (post-copy failed)"},
			"kvm2": {"running (post-copy failed)", "running (post-copy)"},
		} {
			if got := strings.TrimSpace(l.Virsh(t, host, "domstate", "pc-broken", "--reason")); !slices.Contains(want, got) {
				t.Errorf("%s has it %s, want %q: nothing touched", host, got, want)
			}
		}
		return
	}
	m = l.WaitPhase(t, "pc-broken", 2*time.Minute, precopy.Done, precopy.Failed, precopy.Aborted)
	if !slices.ContainsFunc(m.Notes, func(n string) bool { return strings.HasPrefix(n, "post-copy was interrupted") }) {
		t.Errorf("notes %q do not say for how long it was interrupted", m.Notes)
	}
	moved(t, l, "pc-broken", p, m)
}

var daemonVersion = regexp.MustCompile(`daemon: (\d+)\.(\d+)\.(\d+)`)

// libvirt is the version of a host's libvirtd, in libvirt's notation.
func (l *Lab) libvirt(t *testing.T, host string) int {
	t.Helper()
	m := daemonVersion.FindStringSubmatch(l.Virsh(t, host, "version", "--daemon"))
	if m == nil {
		t.Fatal("libvirt does not tell its version")
	}
	v := 0
	for _, part := range m[1:] {
		n, err := strconv.Atoi(part)
		if err != nil {
			t.Fatal(err)
		}
		v = 1000*v + n
	}
	return v
}
