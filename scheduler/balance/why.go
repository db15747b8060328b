package balance

// Why says why something is not possible.
type Why string

// The reasons.
const (
	Pinned        Why = "pinned"
	UnderWay      Why = "under-way"      // it is being migrated
	Resting       Why = "resting"        // it moved lately, or its owner wants it left alone
	NoConvergence Why = "no-convergence" // it writes memory faster than the link takes it
	NoMemory      Why = "memory"
	NoCPU         Why = "cpu"
	NoVCPUs       Why = "vcpus" // the host would have more of them than it may
	AntiAffinity  Why = "anti-affinity"
	Avoided       Why = "avoided"       // the VM may not go to that host
	Closed        Why = "cordoned"      // the host takes no VMs
	NoOrder       Why = "no-order"      // VMs wait for each other's room
	Bounded       Why = "bounded"       // the plan's bound on moves, bytes or time is reached
	Together      Why = "affinity"      // it must stay with one that can't move
	Contradiction Why = "contradiction" // it must be with one that it must not be with
	NotWorth      Why = "not-worth"
)
