package precopy

import (
	"context"
	"testing"
	"time"

	"drover/hypervisor"
	"drover/hypervisor/sim"
)

// Whatever follows what, InForce is never less than what an agent may still have.
func TestShareInForce(t *testing.T) {
	const mib = hypervisor.BytesPerSecond(hypervisor.MiB)
	s := Share{Bandwidth: 40 * mib, Serial: 1}
	shrunk := s.Next(20*mib, 1, time.Time{})
	for _, tc := range []struct {
		name  string
		share Share
		acked int64
		want  hypervisor.BytesPerSecond
	}{
		{"as ordered", s, 0, 40 * mib},
		{"shrunk, not applied", shrunk, 1, 40 * mib},
		{"shrunk and applied", shrunk, 2, 20 * mib},
		{"grown again before it was applied", shrunk.Next(30*mib, 1, time.Time{}), 1, 40 * mib},
		{"grown again, and only the one between applied", shrunk.Next(30*mib, 1, time.Time{}), 2, 40 * mib},
		{"shrunk twice", shrunk.Next(10*mib, 1, time.Time{}), 2, 40 * mib},
		{"shrunk twice and applied", shrunk.Next(10*mib, 1, time.Time{}), 3, 10 * mib},
		{"grown after it was applied", shrunk.Next(30*mib, 2, time.Time{}), 2, 30 * mib},
	} {
		if got := tc.share.InForce(tc.acked); got != tc.want {
			t.Errorf("%s: %s, want %s", tc.name, got, tc.want)
		}
	}
}

// A stream that the target no longer takes has no end in sight, whatever libvirt gives as its bandwidth.
func TestPaceOfASilentStream(t *testing.T) {
	var p pace
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for second, sent := range []hypervisor.Bytes{0, 10, 20, 20, 20, 20, 30} {
		p.note(at.Add(time.Duration(second)*time.Second), sent)
		want := time.Duration(0)
		if second == 5 {
			want = 3 * time.Second
		}
		if got := p.silent(at.Add(time.Duration(second) * time.Second)); got != want {
			t.Errorf("after %d s: silent for %s, want %s", second, got, want)
		}
	}
}

// A stream begins with its first share, follows what is written while it runs, and says so soon.
func TestWorkerKeepsToItsShare(t *testing.T) {
	inWorld(t, setting{domain: sim.DomainConfig{Memory: 512 * hypervisor.MiB}}, func(w *world) {
		const mib = hypervisor.BytesPerSecond(hypervisor.MiB)
		shares := make(chan ShareUpdate, 4)
		w.shares = func(context.Context) <-chan ShareUpdate { return shares }
		share := Share{ID: w.id, Source: "a", Bandwidth: 4 * mib, Serial: 1}
		shares <- ShareUpdate{Reset: true, Shares: []Share{share, {ID: "other", Source: "b", Bandwidth: 1, Serial: 9}}}
		time.Sleep(10 * time.Millisecond)
		w.src.start(kill{})
		w.dst.start(kill{})
		last := func() Progress {
			w.store.mu.Lock()
			defer w.store.mu.Unlock()
			if n := len(w.store.progress); n > 0 {
				return w.store.progress[n-1]
			}
			return Progress{}
		}
		time.Sleep(6 * time.Second)
		if p := last(); p.Serial != 1 || p.Cap != 4*mib || p.Achieved < 3*mib || p.Achieved > 5*mib {
			t.Errorf("with a share of 4 MiB/s: %+v", p)
		}
		shares <- ShareUpdate{Shares: []Share{share.Next(24*mib, 1, time.Now())}}
		time.Sleep(400 * time.Millisecond)
		if p := last(); p.Serial != 2 || p.Cap != 24*mib {
			t.Errorf("0.4 s after the share grew to 24 MiB/s: %+v", p)
		}
		time.Sleep(3 * time.Second)
		if p := last(); p.Achieved < 20*mib || p.Achieved > 26*mib {
			t.Errorf("with a share of 24 MiB/s it sends %s", p.Achieved)
		}
		if rec := w.awaitFinal(2 * time.Minute); rec.Phase != Done {
			t.Errorf("it is %s", rec.Phase)
		}
	})
}

// Copies of disks keep the limit that they began with, so that a smaller share is not in force before they are over; memory
// has all of it then.
func TestDiskCopiesKeepTheirLimit(t *testing.T) {
	const mib = hypervisor.BytesPerSecond(hypervisor.MiB)
	d := &drive{mirrors: 2, cap: 10 * mib}
	share := Share{Bandwidth: 20 * mib, Serial: 1}
	d.hold.take(share)
	if d.acknowledge(); d.serial != 1 || d.canCap() || d.perStream(20*mib) != 10*mib {
		t.Errorf("serial %d, can be capped: %t, each %s", d.serial, d.canCap(), d.perStream(20*mib))
	}
	d.hold.take(share.Next(8*mib, 1, time.Time{}))
	if d.acknowledge(); d.serial != 1 {
		t.Error("a share is said to be in force that is smaller than what disks are copied with")
	}
	d.last.MemTotal = 1
	if !d.canCap() || d.perStream(8*mib) != 8*mib {
		t.Errorf("memory may use %s of 8 MiB/s", d.perStream(8*mib))
	}
	d.cap = 8 * mib
	if d.acknowledge(); d.serial != 2 {
		t.Error("the share is not said to be in force")
	}
}

// An agent that takes over leaves the cap alone until it knows the share: what was ordered may be more by now than is left.
func TestAdoptedKeepsToItsShare(t *testing.T) {
	inWorld(t, setting{domain: sim.DomainConfig{Memory: 512 * hypervisor.MiB}}, func(w *world) {
		const mib = hypervisor.BytesPerSecond(hypervisor.MiB)
		share := Share{ID: w.id, Source: "a", Bandwidth: 4 * mib, Serial: 3}
		shares := make(chan ShareUpdate, 4)
		w.shares = func(context.Context) <-chan ShareUpdate { return shares }
		shares <- ShareUpdate{Reset: true, Shares: []Share{share}}
		time.Sleep(10 * time.Millisecond)
		w.src.start(kill{})
		w.dst.start(kill{})
		time.Sleep(4 * time.Second)
		w.src.stop()
		w.src.start(kill{})
		time.Sleep(4 * time.Second)
		w.store.mu.Lock()
		p := w.store.progress[len(w.store.progress)-1]
		w.store.mu.Unlock()
		if p.Achieved > 5*mib || p.Serial != 0 {
			t.Errorf("before it knows its share: %+v", p)
		}
		shares <- ShareUpdate{Reset: true, Shares: []Share{share}}
		time.Sleep(time.Second)
		w.store.mu.Lock()
		p = w.store.progress[len(w.store.progress)-1]
		w.store.mu.Unlock()
		if p.Cap > 4*mib || p.Cap < 3*mib || p.Serial != 3 {
			t.Errorf("once it knows: %+v", p)
		}
		shares <- ShareUpdate{Shares: []Share{share.Next(40*mib, 3, time.Now())}}
		if rec := w.awaitFinal(2 * time.Minute); rec.Phase != Done {
			t.Errorf("it is %s", rec.Phase)
		}
	})
}
