package balance

import (
	"errors"
	"fmt"
	"time"

	"drover/hypervisor"
)

// Mode is what a plan is for.
type Mode string

// The modes. Whatever the mode, required rules that are broken are mended.
const (
	Balance     Mode = "balance"     // even the fleet out
	Consolidate Mode = "consolidate" // leave hosts empty
	Drain       Mode = "drain"       // empty the hosts that are draining, and no more
)

// Objective is how placements are compared.
type Objective string

// The objectives.
const (
	// Contention weighs guest work lost to contention against guest work lost to moves.
	Contention Objective = "contention"
	// Score is the sum of the standard deviations of hosts' free memory and CPU load, as hbal's.
	Score Objective = "score"
)

// ErrOptions is wrapped by errors about options that make no sense.
var ErrOptions = errors.New("planner options")

// Options say what is wanted of a plan. The zero value balances.
type Options struct {
	Mode      Mode      // Balance unless given
	Objective Objective // Contention unless given
	// Horizon is how long the load is expected to stay: contention is weighed over it. An hour unless given.
	Horizon time.Duration
	// Weights are those of the objectives; zero fields are the defaults.
	Weights Weights
	// Until is the Score that suffices: the plan is the cheapest found that reaches it. 0: as low as is worth it.
	Until float64
	// MaxMoves and MaxBytes bound the plan's moves and their memory, MaxTime the sum over the moves of the time
	// that each takes, on the busiest host; 0 is no bound.
	MaxMoves int
	MaxBytes hypervisor.Bytes
	MaxTime  time.Duration
	// Reserve is the share of CPU and memory that consolidation leaves free on hosts in use; 0.2 unless given.
	Reserve float64
	// Evaluations is the search's budget; 0 is chosen by the problem's size.
	Evaluations int
	Seed        uint64
	// Explain asks for the alternatives of each move, and why the others stay.
	Explain bool
}

// Weights of the objectives.
type Weights struct {
	// Knee is the utilisation above which demand counts as contention.
	Knee float64
	// Even is what a host's distance from the fleet's mean costs: core-seconds per second, per core and
	// squared distance, for CPU and again for memory.
	Even float64
	// MoveGiB is how many GiB a move costs besides its memory, by default less where their number is bounded;
	// ScoreGiB is how many a Score of 1 is worth.
	MoveGiB, ScoreGiB float64
}

// The defaults.
const (
	defaultHorizon  = time.Hour
	defaultReserve  = 0.2
	defaultKnee     = 0.8
	defaultEven     = 0.02
	defaultMoveGiB  = 25
	defaultScoreGiB = 1e6
	cpuLimit        = 1.0 // of a host's cores, that no move may exceed
)

// Where moves are bounded they have a price already, and a search finds plans of fewer GiB when a move itself costs
// less. On fleets of more than smallFleet VMs it then spends its budget on moves beyond the bound.
const (
	smallFleet      = 1500
	boundedMoveGiB  = 12
	boundedLargeGiB = 20
)

// suited are the options for a fleet of that many VMs.
func (o Options) suited(vms int) Options {
	if o.Weights.MoveGiB == 0 && o.Until > 0 && o.MaxMoves > 0 {
		o.Weights.MoveGiB = boundedMoveGiB
		if vms > smallFleet {
			o.Weights.MoveGiB = boundedLargeGiB
		}
	}
	return o
}

// withDefaults fills in what is not given.
func (o Options) withDefaults() (Options, error) {
	for _, d := range []struct {
		field *float64
		value float64
	}{
		{&o.Reserve, defaultReserve},
		{&o.Weights.Knee, defaultKnee},
		{&o.Weights.Even, defaultEven},
		{&o.Weights.MoveGiB, defaultMoveGiB},
		{&o.Weights.ScoreGiB, defaultScoreGiB},
	} {
		if *d.field == 0 {
			*d.field = d.value
		}
		if !(*d.field > 0) {
			return o, fmt.Errorf("%w: a weight or share of %v", ErrOptions, *d.field)
		}
	}
	if o.Mode == "" {
		o.Mode = Balance
	}
	if o.Objective == "" {
		o.Objective = Contention
	}
	if o.Horizon == 0 {
		o.Horizon = defaultHorizon
	}
	switch {
	case o.Mode != Balance && o.Mode != Consolidate && o.Mode != Drain:
		return o, fmt.Errorf("%w: mode %q: want balance, consolidate or drain", ErrOptions, o.Mode)
	case o.Objective != Contention && o.Objective != Score:
		return o, fmt.Errorf("%w: objective %q: want contention or score", ErrOptions, o.Objective)
	case !(o.Until >= 0) || o.Until > 0 && o.Objective != Score:
		return o, fmt.Errorf("%w: until %v: only a score above 0 can be reached", ErrOptions, o.Until)
	case o.Horizon < 0 || o.MaxMoves < 0 || o.MaxBytes < 0 || o.MaxTime < 0 || o.Evaluations < 0:
		return o, fmt.Errorf("%w: a bound below 0", ErrOptions)
	case o.Reserve >= 1:
		return o, fmt.Errorf("%w: a reserve of %v leaves nothing", ErrOptions, o.Reserve)
	}
	return o, nil
}
