// Package runs keeps and judges what the pre-copy benchmark measured.
//
// A [Run] is one migration of one guest by one policy, as the record has it and as a probe outside the
// guest saw it. Runs are kept in files, one a line: those of a benchmark in its results, those of fixed
// policies besides in a file that is shipped, so that they need not be measured again where the same
// versions of QEMU, libvirt and the guest run the same workload. Which runs are the same is [Run.Key].
//
// The rooms: run.go (a run and what makes it the same as another), file.go (reading, merging, writing),
// table.go (medians per cell and policy), verdict.go (drover against the best of the others, line by line).
package runs
