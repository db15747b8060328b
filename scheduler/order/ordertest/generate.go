package ordertest

import (
	"fmt"
	"math/rand/v2"

	"drover/hypervisor"
	"drover/scheduler/order"
)

// Shape is what a set of moves is like.
type Shape struct {
	Hosts, Moves int
	Links        []hypervisor.BytesPerSecond // each host has one of these
	Streams      int                         // at once per host and direction; 0 for the defaults
	// Slack is up to how much memory hosts have free. With none given there is room for everything; with
	// it, VMs take the places of others of their size, and one host in twenty is a staging host.
	Slack hypervisor.Bytes
}

// Generate makes moves between random hosts, of VMs of 1 to 16 GiB that dirty up to 50 MiB/s. All fit when
// all are done. The same seed gives the same.
func Generate(s Shape, seed uint64) order.Input {
	rng := rand.New(rand.NewPCG(seed, 1))
	in := order.Input{}
	for i := range s.Hosts {
		link := s.Links[rng.IntN(len(s.Links))]
		h := order.Host{Name: fmt.Sprintf("kvm%d", i), FreeMemory: 1 << 50, In: link, Out: link, MaxIn: s.Streams, MaxOut: s.Streams}
		if s.Slack > 0 {
			h.Staging = i%20 == 0
			h.FreeMemory = hypervisor.Bytes(rng.Int64N(int64(s.Slack) + 1))
		}
		in.Hosts = append(in.Hosts, h)
	}
	sized := map[hypervisor.Bytes][]int{}
	for i := range s.Moves {
		from := rng.IntN(s.Hosts)
		to := (from + 1 + rng.IntN(s.Hosts-1)) % s.Hosts
		memory := hypervisor.GiB << rng.IntN(5)
		in.Moves = append(in.Moves, order.Move{
			VM: fmt.Sprintf("vm%d", i), From: in.Hosts[from].Name, To: in.Hosts[to].Name,
			Memory: memory, DirtyRate: hypervisor.BytesPerSecond(rng.IntN(50)) << 20,
		})
		sized[memory] = append(sized[memory], i)
	}
	if s.Slack == 0 {
		return in
	}
	// A ring through the VMs of a size: each goes where the next one is. Those on one host stay.
	for memory := hypervisor.GiB; memory <= 16*hypervisor.GiB; memory *= 2 {
		ring := sized[memory]
		for n, i := range ring {
			in.Moves[i].To = in.Moves[ring[(n+1)%len(ring)]].From
		}
	}
	moves := in.Moves[:0]
	for _, m := range in.Moves {
		if m.From != m.To {
			moves = append(moves, m)
		}
	}
	in.Moves = moves
	return in
}
