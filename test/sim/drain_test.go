package sim_test

import (
	"fmt"
	"testing"
	"time"

	"drover/hypervisor"
	"drover/scheduler/fleet"
	"drover/test/sim"
	"drover/test/sim/guest"
	"drover/test/sim/load"
)

// TestDrainKeepsTheLinkBusy: while one VM of a host is sent the next is prepared, so that a drain takes hardly longer
// than its bytes do, of short VMs and of long ones, and one is sent at a time all the same.
func TestDrainKeepsTheLinkBusy(t *testing.T) {
	const link = hypervisor.BytesPerSecond(10e9 / 8)
	for _, used := range []hypervisor.Bytes{3, 12} {
		t.Run(fmt.Sprintf("%d GiB each", used), func(t *testing.T) {
			const n = 10
			most := 0
			w := sim.New(sim.Config{Hooks: sim.Hooks{Poll: func(w *sim.World, _ *sim.Running) {
				sent := 0
				for _, r := range w.Running() {
					if r.Rate() > 2*hypervisor.BytesPerSecond(hypervisor.MiB) {
						sent++
					}
				}
				most = max(most, sent)
			}}})
			for i := range 4 {
				if _, err := w.AddHost(sim.HostConfig{Name: fmt.Sprintf("h%d", i), Cores: 32, Memory: 512 * hypervisor.GiB, Link: link}); err != nil {
					t.Fatal(err)
				}
			}
			for i := range n {
				// A quarter of what is allotted holds nothing.
				memory := guest.Memory{Total: used * 4 / 3 * hypervisor.GiB, Used: used * hypervisor.GiB, Regions: []guest.Region{guest.Idle()}}
				if _, err := w.AddGuest("h0", sim.GuestConfig{Name: fmt.Sprintf("vm%d", i), VCPUs: 1, Memory: memory, Load: load.Steady{Level: 0.1}}); err != nil {
					t.Fatal(err)
				}
			}
			w.Run(time.Minute)
			id := w.Drain("h0")
			if !w.Until(time.Hour, func() bool { return w.RunRecord(id).Phase.Final() }) {
				t.Fatal("the drain does not end")
			}
			run := w.RunRecord(id)
			if run.Phase != fleet.RunDone {
				t.Fatalf("the drain is %s: %s", run.Phase, run.Reason)
			}
			took := run.Finished.Sub(run.Created)
			sending := hypervisor.BytesPerSecond(0.9 * float64(link)).Time(n * used * hypervisor.GiB)
			if idle := took - sending; idle > 2*time.Second+n*250*time.Millisecond {
				t.Errorf("it took %s, of which its bytes take %s", took, sending)
			}
			if most > 1 {
				t.Errorf("%d were sent at once", most)
			}
		})
	}
}
