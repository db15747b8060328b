package order_test

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"drover/hypervisor"
	"drover/scheduler/order"
	"drover/scheduler/order/ordertest"
)

// inputs draws small fleets in which much goes wrong: little room, unequal links, groups, overcommitted
// hosts, moves that never fit.
func inputs(t *rapid.T) order.Input {
	var in order.Input
	number := func(least, most int, label string) int { return rapid.IntRange(least, most).Draw(t, label) }
	n := number(2, 6, "hosts")
	name := func(i int) string { return fmt.Sprintf("h%d", i) }
	for i := range n {
		in.Hosts = append(in.Hosts, order.Host{
			Name: name(i), FreeMemory: hypervisor.Bytes(number(-2, 8, "free")) * hypervisor.GiB,
			In: hypervisor.BytesPerSecond(number(1, 4, "in")) << 28, Out: hypervisor.BytesPerSecond(number(1, 4, "out")) << 28,
			MaxIn: number(0, 3, "max in"), MaxOut: number(0, 3, "max out"), Staging: rapid.Bool().Draw(t, "staging"),
		})
	}
	for i := range number(0, 12, "moves") {
		from := number(0, n-1, "from")
		to := (from + number(1, n-1, "to")) % n
		in.Moves = append(in.Moves, order.Move{
			VM: fmt.Sprintf("vm%d", i), From: name(from), To: name(to),
			Memory: hypervisor.Bytes(number(1, 6, "memory")) * hypervisor.GiB, Bytes: hypervisor.Bytes(number(0, 3, "bytes")) * hypervisor.GiB,
			DirtyRate: hypervisor.BytesPerSecond(number(0, 3, "dirty")) << 27, MaxRate: hypervisor.BytesPerSecond(number(0, 3, "rate")) << 27,
		})
	}
	for g := range number(0, 3, "groups") {
		group := order.Group{Name: fmt.Sprintf("g%d", g)}
		for i := range in.Moves {
			if number(0, 3, "member") == 0 {
				group.VMs = append(group.VMs, in.Moves[i].VM)
			}
		}
		if number(0, 3, "elsewhere") == 0 {
			group.Hosts = []string{name(number(0, n-1, "member's host"))}
		}
		in.Apart = append(in.Apart, group)
	}
	return in
}

// Every moment of the schedule, of its prefixes and waves, and of executions that take other times, is
// feasible; every move is there.
func TestEveryMomentIsFeasible(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := inputs(t)
		o := order.Options{WholeLink: rapid.Bool().Draw(t, "whole link"), Evaluations: rapid.IntRange(0, 40).Draw(t, "evaluations")}
		res, err := order.Schedule(in, o)
		if err != nil {
			t.Fatal(err)
		}
		if err := ordertest.Check(in, res, rapid.Uint64().Draw(t, "seed")); err != nil {
			t.Fatalf("%v\n%+v", err, res)
		}
	})
}

// The schedule does not depend on the order in which hosts, moves and groups come.
func TestInputOrderDoesNotMatter(t *testing.T) {
	type step struct {
		vm, from, to string
		s            order.Step
	}
	named := func(in order.Input) (out []step, blocked []string) {
		res, err := order.Schedule(in, order.Options{Evaluations: 10})
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range res.Steps {
			vm := in.Moves[s.Move].VM
			s.Move = 0
			out = append(out, step{vm, s.From, s.To, s})
		}
		for _, b := range res.Blocked {
			blocked = append(blocked, in.Moves[b.Move].VM+" "+b.Reason)
		}
		return out, blocked
	}
	rapid.Check(t, func(t *rapid.T) {
		in := inputs(t)
		other := order.Input{
			Hosts: rapid.Permutation(in.Hosts).Draw(t, "hosts"),
			Moves: rapid.Permutation(in.Moves).Draw(t, "moves"),
			Apart: rapid.Permutation(in.Apart).Draw(t, "groups"),
		}
		a, ba := named(in)
		b, bb := named(other)
		if fmt.Sprint(a) != fmt.Sprint(b) || !slices.Equal(ba, bb) {
			t.Fatalf("got\n%+v %v\nwant\n%+v %v", b, bb, a, ba)
		}
	})
}
