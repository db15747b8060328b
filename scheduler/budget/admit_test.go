package budget

import (
	"strings"
	"testing"
	"time"

	"drover/hypervisor"
	"drover/precopy"
	"drover/scheduler/fleet"
	"drover/scheduler/policy"
)

const link400 = 400 * hypervisor.BytesPerSecond(1e6) / 8 // of which migrations may use 42 MiB/s

func candidate(id, source, target string, need hypervisor.BytesPerSecond, change ...func(*Candidate)) Candidate {
	c := Candidate{Target: target, Need: need, Migration: precopy.Stored{Migration: precopy.Migration{
		ID: id, Domain: "vm-" + id, Source: source, Target: target, Created: t0, Phase: precopy.Queued, RequestedBy: "somebody",
	}}}
	for _, f := range change {
		f(&c)
	}
	return c
}

// A migration waits for other traffic to become less, but not for ever, as others wait behind it; and not at all where even
// all of the link would not be what it needs.
func TestWaitsForTenantsOnlySoLong(t *testing.T) {
	s := fleetOf(3, func(int) hypervisor.BytesPerSecond { return link400 })
	at, traffic := t0, &Traffic{}
	for range 5 {
		at = at.Add(time.Second)
		s.Hosts["h0"].Link, s.Hosts["h0"].LinkSeen = &hypervisor.LinkLoad{At: at, Tx: 8 * mib, Streams: true}, at
		traffic.Look(s, at)
	}
	in := Input{Fleet: s, Traffic: traffic, Outgoing: 1, Incoming: 2, Now: at}
	a := New(in)
	if v := a.Admit(candidate("m1", "h0", "h1", 40*mib)); v.OK || !strings.Contains(v.Reason, "other traffic") || a.Blocked("h0", "h2") == "" {
		t.Errorf("%+v, and the next %q", v, a.Blocked("h0", "h2"))
	}
	if v := New(in).Admit(candidate("m1", "h0", "h1", 20*mib)); !v.OK {
		t.Errorf("what tenants leave is enough: %+v", v)
	}
	if v := New(in).Admit(candidate("m1", "h0", "h1", link400)); !v.OK || v.Share < 20*mib {
		t.Errorf("the whole link would not do: %+v", v)
	}
	in.Now = at.Add(calmer + time.Second)
	for range 3 { // the tenants are still heard of
		s.Hosts["h0"].Link, s.Hosts["h0"].LinkSeen = &hypervisor.LinkLoad{At: in.Now, Tx: 8 * mib, Streams: true}, in.Now
		traffic.Look(s, in.Now)
	}
	if v := New(in).Admit(candidate("m1", "h0", "h1", 40*mib)); !v.OK {
		t.Errorf("after ten minutes: %+v", v)
	}
}

// Copies of disks keep what they begin with: they are not prepared beside what is being sent, and begin with their whole part.
func TestDisksBeginWhole(t *testing.T) {
	s := fleetOf(3, func(int) hypervisor.BytesPerSecond { return link400 })
	running(s, "m0001", "h0", "h1", 42*mib, 0)
	disks := func(c *Candidate) { c.Migration.CopyStorage = true }
	in := Input{Fleet: s, Outgoing: 2, Incoming: 2, Now: t0}
	if v := New(in).Admit(candidate("m2", "h0", "h2", 0, disks, func(c *Candidate) { c.Behind = true })); v.OK || !strings.Contains(v.Reason, "disks") {
		t.Errorf("behind another: %+v", v)
	}
	share := s.Shares["m0001"]
	share.Bandwidth = 30 * mib
	s.Shares["m0001"] = share
	if v := New(in).Admit(candidate("m2", "h0", "h2", 0)); !v.OK || v.Share != 12*mib {
		t.Errorf("without disks: %+v, want what is free at once", v)
	}
	a := New(in)
	if v := a.Admit(candidate("m2", "h0", "h2", 0, disks)); v.OK {
		t.Errorf("with disks: %+v, want it to wait for its half", v)
	}
	w := a.Writes()
	if len(w) != 1 || w[0].New.Bandwidth != 21*mib {
		t.Fatalf("%+v, want the other to make room", w)
	}
	s.Shares["m0001"] = fleet.StoredShare{Share: w[0].New, Revision: 2}
	s.Progress["m0001"] = fleet.SeenProgress{Seen: t0, Progress: precopy.Progress{ID: "m0001", Serial: 2}}
	if v := New(in).Admit(candidate("m2", "h0", "h2", 0, disks)); !v.OK || v.Share != 21*mib {
		t.Errorf("once there is room: %+v", v)
	}
}

// What has had no more than what it was prepared with is still only prepared, whoever leads and whatever else leaves its host.
func TestPreparedOnce(t *testing.T) {
	s := fleetOf(4, func(int) hypervisor.BytesPerSecond { return link400 })
	running(s, "m0001", "h0", "h1", 41*mib, 0)
	s.Progress["m0001"] = fleet.SeenProgress{Seen: t0, Progress: precopy.Progress{ID: "m0001", Serial: 1, Round: 2, ETA: time.Second, Remaining: 40 << 20}}
	in := Input{Fleet: s, Outgoing: 1, Incoming: 4, Now: t0}
	if !New(in).Prepare("h3", "h1", "h1") {
		t.Error("one that ends soon: the next is not prepared")
	}
	running(s, "m0002", "h2", "h1", mib, 30*mib)
	if !New(in).Prepare("h3", "h1", "h1") {
		t.Error("beside one that merely has little")
	}
	share := s.Shares["m0002"]
	share.Limit = whilePrepared
	s.Shares["m0002"] = share
	if New(in).Prepare("h3", "h1", "h1") {
		t.Error("another is prepared beside one that is")
	}
	delete(s.Migrations, "m0001")
	if n := settle(s, in, t0.Add(time.Second)); n != 1 || s.Shares["m0002"].Bandwidth != 42*mib {
		t.Errorf("alone: %s after %d writes", s.Shares["m0002"].Bandwidth, n)
	}
}

// A stream that waits for room on the way into its target does not hold up those that go elsewhere.
func TestWaitsWhereItIsFull(t *testing.T) {
	s := fleetOf(4, func(int) hypervisor.BytesPerSecond { return link400 })
	running(s, "m0001", "h0", "h1", 42*mib, 0)
	a := New(Input{Fleet: s, Outgoing: 1, Incoming: 2, Now: t0})
	if v := a.Admit(candidate("m2", "h2", "h1", 0)); v.OK || v.Reason != "" {
		t.Fatalf("%+v, want it to wait for a moment", v)
	}
	if why := a.Blocked("h2", "h3"); why != "" {
		t.Errorf("to an idle host: %s", why)
	}
	if a.Blocked("h3", "h1") == "" {
		t.Error("it is passed by on the link that it waits for")
	}
	running(s, "m0002", "h2", "h3", 42*mib, 0)
	a = New(Input{Fleet: s, Outgoing: 2, Incoming: 2, Now: t0})
	a.Admit(candidate("m3", "h0", "h1", 0))
	for _, w := range a.Writes() {
		if w.New.ID == "m0002" {
			t.Errorf("a stream makes room on links that nobody waits for: %+v", w.New)
		}
	}
}

// That a stream is about to switch over is not said of it once it is not.
func TestSaysWhatIsTrue(t *testing.T) {
	s := fleetOf(2, func(int) hypervisor.BytesPerSecond { return link400 })
	running(s, "m0001", "h0", "h1", 42*mib, 0)
	share := s.Shares["m0001"]
	share.Why = whyNear
	s.Shares["m0001"] = share
	now := t0.Add(time.Minute)
	if n := settle(s, Input{Fleet: s, Outgoing: 1, Incoming: 1}, now); n != 1 || s.Shares["m0001"].Why != "" || s.Shares["m0001"].Bandwidth != 42*mib {
		t.Errorf("%d writes: %+v", n, s.Shares["m0001"])
	}
}

// A stream that was held back is not so for ever when links are no longer divided live.
func TestFixedRulesLater(t *testing.T) {
	for sharing, want := range map[policy.Sharing]hypervisor.BytesPerSecond{policy.SharingNone: 42 * mib, policy.SharingEqual: 21 * mib} {
		s := fleetOf(2, func(int) hypervisor.BytesPerSecond { return link400 })
		running(s, "m0001", "h0", "h1", mib, 0)
		in := Input{Fleet: s, Network: policy.Network{Sharing: sharing}, Outgoing: 2, Incoming: 2}
		if n := settle(s, in, t0.Add(time.Minute)); n != 1 || s.Shares["m0001"].Bandwidth != want {
			t.Errorf("%s: %s after %d writes, want %s", sharing, s.Shares["m0001"].Bandwidth, n, want)
		}
	}
}

// Who waits for room that another was told to make is told so when that takes long.
func TestNotHeeded(t *testing.T) {
	s := fleetOf(3, func(int) hypervisor.BytesPerSecond { return link400 })
	running(s, "m0001", "h0", "h1", 42*mib, 0)
	share := s.Shares["m0001"]
	share.Share = share.Next(21*mib, 1, t0)
	s.Shares["m0001"] = share // which its agent does not acknowledge
	for after, want := range map[time.Duration]string{time.Second: "", slowToShrink + time.Second: "vm-m0001 was told"} {
		v := New(Input{Fleet: s, Outgoing: 2, Incoming: 2, Now: t0.Add(after)}).Admit(candidate("m2", "h0", "h2", 0))
		if v.OK || (v.Reason == "") != (want == "") || !strings.Contains(v.Reason, want) {
			t.Errorf("after %s: %+v", after, v)
		}
	}
}

// Where nothing is shared a limit of the policy still holds.
func TestLimitWithoutSharing(t *testing.T) {
	s := fleetOf(2, func(int) hypervisor.BytesPerSecond { return link400 })
	n := policy.Network{Sharing: policy.SharingNone}
	n.Limits.Migration = policy.Rate(20 * mib)
	if got := New(Input{Fleet: s, Network: n, Outgoing: 2, Incoming: 2, Now: t0}).Bandwidth("h0", "h1"); got != 20*mib {
		t.Errorf("%s, the policy allows 20 MiB/s", got)
	}
}

// What a migration is forecast for is what the links on its way could carry of it, not only those of its hosts.
func TestAlone(t *testing.T) {
	s := fleetOf(2, func(int) hypervisor.BytesPerSecond { return link400 })
	running(s, "m0001", "h0", "h1", 10*mib, 0)
	n := policy.Network{}
	in := Input{Fleet: s, Outgoing: 2, Incoming: 2, Now: t0}
	if a := New(in); a.Alone("h0", "h1") != a.Bandwidth("h0", "h1") {
		t.Errorf("%s of %s: others do not count", a.Alone("h0", "h1"), a.Bandwidth("h0", "h1"))
	}
	n.Limits.Fleet = policy.Rate(12 * mib)
	in.Network = n
	if got := New(in).Alone("h0", "h1"); got != 12*mib {
		t.Errorf("%s, the fleet may send 12 MiB/s", got)
	}
	in.Network.Sharing = policy.SharingNone
	if got := New(in).Alone("h0", "h1"); got != link400 {
		t.Errorf("%s, nobody is limited", got)
	}
}
