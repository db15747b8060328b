package order

import (
	"time"

	"drover/hypervisor"
)

// Streams at once that a host has when its limits are not given: two outgoing ones starve each other.
const (
	DefaultMaxOut = 1
	DefaultMaxIn  = 2
)

// Input is the fleet as far as the moves touch it, at the moment when the first of them may start.
type Input struct {
	Hosts []Host
	Moves []Move
	Apart []Group // required anti-affinity
}

// Host is an end of moves, or a staging host for them.
type Host struct {
	Name string
	// FreeMemory is what it can still give, the domains there and on their way there taken off; below zero
	// when more was promised than there is.
	FreeMemory hypervisor.Bytes
	// In and Out are what its migration link takes in each direction, above zero.
	In, Out hypervisor.BytesPerSecond
	// MaxIn and MaxOut are the streams at once; 0 means [DefaultMaxIn], [DefaultMaxOut].
	MaxIn, MaxOut int
	// Staging allows domains to be here for a while between two hops.
	Staging bool
}

// Move is a domain that has to get from one host to another.
type Move struct {
	VM       string // unique among the moves
	From, To string
	// Memory is what the domain takes on a host, above zero.
	Memory hypervisor.Bytes
	// Bytes is what the first pass sends; 0 means Memory.
	Bytes hypervisor.Bytes
	// DirtyRate is how fast the guest makes sent memory stale. It counts up to three quarters of the
	// stream's rate: beyond, the guest is slowed or the migration given up. 0 when Bytes has everything.
	DirtyRate hypervisor.BytesPerSecond
	// MaxRate caps the stream; 0 means that only the links do.
	MaxRate hypervisor.BytesPerSecond
}

// Group is a set of domains of which no two may be on one host. Two that are together at the start may be.
type Group struct {
	Name string
	VMs  []string // members that move; other names are ignored
	// Hosts are those where members are that don't move.
	Hosts []string
}

// Options tunes the search. The zero value is the default.
type Options struct {
	// WholeLink starts a stream only when it gets all that its slower end has, never with what is left.
	WholeLink bool
	// Evaluations is how many schedules may be tried; 0 means a number that suits the size.
	Evaluations int
	// MayStage says whether the domain may be on the host for a while; nil means that it may. It is asked
	// for hosts with [Host.Staging] only, and must be pure.
	MayStage func(vm, host string) bool
}

// Result is the schedule.
type Result struct {
	Steps    []Step // by start; every prefix is feasible
	Makespan time.Duration
	// Bound is below every possible makespan of the moves that are not blocked.
	Bound   time.Duration
	Blocked []Blocked // the moves that are not carried out, by VM
}

// Step is one migration: a move, or one of the two hops of a move through a staging host.
type Step struct {
	Move     int // index in Input.Moves
	From, To string
	// Start and End count from the start of the first step.
	Start, End time.Duration
	Rate       hypervisor.BytesPerSecond
	// Wave is 1 or more. All steps of one wave may be under way at once as far as memory and groups go; a
	// wave begins when those before it are done.
	Wave int
	// After are the steps, as indexes in Result.Steps, which must be done before this one starts. That and
	// free streams is all that it needs.
	After []int
	Leg   Leg
}

// Leg says which part of its move a step is.
type Leg int

// The legs: a move is either one whole step or one to staging and one from there.
const (
	Whole Leg = iota
	ToStaging
	FromStaging
)

// Blocked is a move that can't be carried out: its domain stays where it is.
type Blocked struct {
	Move   int // index in Input.Moves
	Code   Code
	Reason string
	// Waits are the VMs that stand in the way in a chain, each waiting for the next; with [Cycle] the last
	// one waits for the first, which is the move's own or one that it waits for.
	Waits []string
}

// Code names why a move is blocked.
type Code string

// The reasons.
const (
	NoRoom Code = "no-room" // the target lacks memory, and no move makes enough of it free
	Apart  Code = "apart"   // the target has a member of the same group, which does not leave
	Cycle  Code = "cycle"   // moves wait for each other, and no staging host can take one of them
)
