// Package guest is a guest's memory, and its pre-copy, by regions: for fleets of thousands.
//
// A [Memory] is a few regions that are written alike. What is dirtied of one within a while is a formula, not
// a bitmap, so that a round of pre-copy costs the same for a guest of any size:
//
//	spread over the region:  size (1 - exp(-rate t / size)), which saturates at the size
//	swept through:           min(rate t, size)
//
// A [Job] is what QEMU does of one migration, as a thing that is moved on in time by its owner: it says when
// something will happen next at the rate that its stream has, and the owner says when that is, or that the
// rate is another one by now. What is kept of QEMU is what hypervisor/sim keeps, whose pages are the measure
// of this package (calibrate_test.go): the dirty log is synchronised at each round's start, regions go in
// order at the capped rate, zero pages cost nearly nothing, the rest is compared every 100 ms with bandwidth
// times downtime limit, the cap is lifted once the vCPUs stop.
//
// Nothing here is precopy/model's: what is planned by the one is judged by the other. It is deterministic, and
// not safe for concurrent use. All times are virtual, counted from a beginning that the owner chooses.
package guest
