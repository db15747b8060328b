package order_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"drover/hypervisor"
	"drover/scheduler/order"
	"drover/scheduler/order/ordertest"
)

// host has a link of 1 GiB/s and so much free memory in GiB.
func host(name string, free int, staging bool) order.Host {
	return order.Host{
		Name: name, FreeMemory: hypervisor.Bytes(free) * hypervisor.GiB, In: 1 << 30, Out: 1 << 30, Staging: staging,
	}
}

func move(vm, from, to string, gib int) order.Move {
	return order.Move{VM: vm, From: from, To: to, Memory: hypervisor.Bytes(gib) * hypervisor.GiB}
}

// told writes a result so that it can be read: "vm from>to start-end wave after", "vm: code: reason".
func told(in order.Input, res order.Result) []string {
	var out []string
	for _, s := range res.Steps {
		out = append(out, fmt.Sprintf("%s %s>%s %v-%v w%d %v", in.Moves[s.Move].VM, s.From, s.To, s.Start, s.End, s.Wave, s.After))
	}
	for _, b := range res.Blocked {
		out = append(out, fmt.Sprintf("%s: %s: %s", in.Moves[b.Move].VM, b.Code, b.Reason))
	}
	return out
}

const noStaging = ", and no staging host was found that can take one of them meanwhile"

func TestCases(t *testing.T) {
	for _, tc := range []struct {
		name string
		in   order.Input
		o    order.Options
		want []string
	}{
		{name: "nothing"},
		{
			name: "one stream out, two in",
			in: order.Input{
				Hosts: []order.Host{host("a", 0, false), host("b", 0, false), host("c", 9, false)},
				Moves: []order.Move{
					{VM: "x", From: "a", To: "c", Memory: 1 << 30, MaxRate: 1 << 29},
					{VM: "y", From: "a", To: "c", Memory: 1 << 30, MaxRate: 1 << 29},
					{VM: "z", From: "b", To: "c", Memory: 1 << 30, MaxRate: 1 << 29},
				},
			},
			want: []string{"x a>c 0s-2s w1 []", "z b>c 0s-2s w1 []", "y a>c 2s-4s w1 []"},
		},
		{
			name: "room that another one leaves",
			in: order.Input{
				Hosts: []order.Host{host("a", 0, false), host("b", 0, false), host("c", 2, false)},
				Moves: []order.Move{move("x", "a", "b", 2), move("y", "b", "c", 2)},
			},
			want: []string{"y b>c 0s-2s w1 []", "x a>b 2s-4s w2 [0]"},
		},
		{
			name: "an overcommitted host has to be paid first",
			in: order.Input{
				Hosts: []order.Host{host("a", 0, false), host("b", -2, false), host("c", 9, false)},
				Moves: []order.Move{move("x", "a", "b", 1), move("y", "b", "c", 2), move("z", "b", "c", 1)},
			},
			want: []string{"z b>c 0s-1s w1 []", "y b>c 1s-3s w1 []", "x a>b 3s-4s w2 [0 1]"},
		},
		{
			name: "two that can't both be where they should",
			in: order.Input{
				Hosts: []order.Host{host("a", 0, true), host("b", 0, true), host("c", 9, true)},
				Moves: []order.Move{move("x", "a", "b", 2), move("y", "b", "a", 1)},
			},
			want: []string{
				"x: no-room: x needs 2.0 GiB, b can give 1.0 GiB after all other moves",
				"y: no-room: y waits for x to leave a, x needs 2.0 GiB, b can give 1.0 GiB after all other moves",
			},
		},
		{
			name: "three in a ring through a staging host",
			in: order.Input{
				Hosts: []order.Host{host("a", 0, true), host("b", 0, true), host("c", 0, true), host("d", 2, true)},
				Moves: []order.Move{move("x", "a", "b", 2), move("y", "b", "c", 2), move("z", "c", "a", 2)},
			},
			want: []string{
				"x a>d 0s-2s w1 []", "z c>a 2s-4s w2 [0]", "y b>c 4s-6s w3 [1]", "x d>b 6s-8s w4 [0 2]",
			},
		},
		{
			name: "the staging host must not be used",
			in: order.Input{
				Hosts: []order.Host{host("a", 0, true), host("b", 0, true), host("c", 2, true)},
				Moves: []order.Move{move("x", "a", "b", 2), move("y", "b", "a", 2)},
			},
			o: order.Options{MayStage: func(vm, host string) bool { return host != "c" }},
			want: []string{
				"x: cycle: x waits for y to leave b, which waits for x to leave a" + noStaging,
				"y: cycle: y waits for x to leave a, which waits for y to leave b" + noStaging,
			},
		},
		{
			name: "members of a group swap",
			in: order.Input{
				Hosts: []order.Host{host("a", 9, false), host("b", 9, false), host("c", 9, true)},
				Moves: []order.Move{move("x", "a", "b", 1), move("y", "b", "a", 2)},
				Apart: []order.Group{{Name: "g", VMs: []string{"x", "y", "elsewhere"}}},
			},
			want: []string{"x a>c 0s-1s w1 []", "y b>a 1s-3s w2 [0]", "x c>b 3s-4s w3 [0 1]"},
		},
		{
			name: "a member of the group stays",
			in: order.Input{
				Hosts: []order.Host{host("a", 0, true), host("b", 9, true)},
				Moves: []order.Move{move("x", "a", "b", 1)},
				Apart: []order.Group{{Name: "g", VMs: []string{"x"}, Hosts: []string{"b"}}},
			},
			want: []string{"x: apart: x must not be on b, where a VM of the same anti-affinity group is or goes"},
		},
		{
			name: "waits for one that never leaves, the others move",
			in: order.Input{
				Hosts: []order.Host{host("a", 0, true), host("b", 0, true), host("c", 1, true)},
				Moves: []order.Move{move("x", "a", "b", 2), move("y", "b", "c", 2), move("z", "a", "c", 1)},
			},
			want: []string{
				"z a>c 0s-1s w1 []",
				"x: no-room: x waits for y to leave b, y needs 2.0 GiB, c can give 0 B after all other moves",
				"y: no-room: y needs 2.0 GiB, c can give 0 B after all other moves",
			},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			res, err := order.Schedule(tc.in, tc.o)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, told(tc.in, res)); diff != "" {
				t.Errorf("schedule (-want +got):\n%s", diff)
			}
			if err := ordertest.Check(tc.in, res, 1); err != nil {
				t.Error(err)
			}
		})
	}
}

// A faster stream sends less again: 2 GiB at 1 GiB/s while 512 MiB/s are dirtied take 4 s; a guest that
// dirties faster than the stream counts as slowed.
func TestDirtiedMemoryIsSentAgain(t *testing.T) {
	for dirty, want := range map[hypervisor.BytesPerSecond]string{0: "2s", 1 << 29: "4s", 1 << 40: "8s"} {
		m := move("x", "a", "b", 2)
		m.DirtyRate = dirty
		res, err := order.Schedule(order.Input{Hosts: []order.Host{host("a", 0, false), host("b", 2, false)}, Moves: []order.Move{m}}, order.Options{})
		if err != nil || res.Makespan.String() != want {
			t.Errorf("dirty rate %s: makespan %s, %v; want %s", dirty, res.Makespan, err, want)
		}
	}
}

// Whole links are slower here: the long stream from b to d leaves half of d's link, which a's can use.
func TestWhatIsLeftOfALink(t *testing.T) {
	in := order.Input{
		Hosts: []order.Host{host("a", 0, false), host("b", 0, false), host("d", 99, false)},
		Moves: []order.Move{move("x", "a", "d", 8), {VM: "y", From: "b", To: "d", Memory: 8 << 30, MaxRate: 1 << 29}},
	}
	for whole, want := range map[bool]string{true: "24s", false: "16s"} {
		res, err := order.Schedule(in, order.Options{WholeLink: whole})
		if err != nil || res.Makespan.String() != want {
			t.Errorf("whole link %v: makespan %s, %v; want %s", whole, res.Makespan, err, want)
		}
	}
}

func TestInputIsChecked(t *testing.T) {
	good := func() order.Input {
		return order.Input{Hosts: []order.Host{host("a", 1, false), host("b", 1, false)}, Moves: []order.Move{move("x", "a", "b", 1)}}
	}
	for want, spoil := range map[string]func(*order.Input){
		"host a is given twice":         func(in *order.Input) { in.Hosts[1].Name = "a" },
		"link of 0 B/s in":              func(in *order.Input) { in.Hosts[0].In = 0 },
		"-1 streams in":                 func(in *order.Input) { in.Hosts[0].MaxIn = -1 },
		`VM x: no host is called "c"`:   func(in *order.Input) { in.Moves[0].To = "c" },
		"VM x moves from a to itself":   func(in *order.Input) { in.Moves[0].To = "a" },
		"VM x moves twice":              func(in *order.Input) { in.Moves = append(in.Moves, in.Moves[0]) },
		"VM x: memory 0 B":              func(in *order.Input) { in.Moves[0].Memory = 0 },
		`group g: no host is called ""`: func(in *order.Input) { in.Apart = []order.Group{{Name: "g", Hosts: []string{""}}} },
	} {
		in := good()
		spoil(&in)
		if _, err := order.Schedule(in, order.Options{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

// The bound knows that one stream out can't fill a fast link when the other ends are slow.
func TestBoundKnowsStreams(t *testing.T) {
	in := order.Input{
		Hosts: []order.Host{host("a", 0, false), host("b", 9, false), host("c", 9, false)},
		Moves: []order.Move{move("x", "a", "b", 1), move("y", "a", "c", 1)},
	}
	in.Hosts[0].Out *= 8
	res, err := order.Schedule(in, order.Options{})
	if err != nil || res.Makespan.String() != "2s" || res.Bound.Round(time.Microsecond).String() != "2s" {
		t.Errorf("makespan %s, bound %s, %v; want 2s and all but 2s", res.Makespan, res.Bound, err)
	}
}
