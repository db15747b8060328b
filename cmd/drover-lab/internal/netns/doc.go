// Package netns enters the namespaces of a running process, and plans and changes the lab's networks.
//
// A lab has two networks, both bridged inside the control host's network namespace, so that nothing appears in the
// machine's own and several labs may use the same addresses:
//
//	mgmt       10.77.0.0/24   libvirt's TLS port, etcd            mgmt0 in each host
//	migration  10.78.0.0/24   memory and disk streams, shaped     mig0 in each host
//
// Each host's interface is one end of a veth pair whose other end is a port of the bridge. Shaping is put on both
// ends, since a queue limits only what leaves it. Cutting a host takes the port down: the host sees its carrier go.
//
// Namespaces belong to threads. [Do] runs a function on a thread of its own which ends with it, so the rest of the
// process never changes. The interfaces are changed with ip(8) and tc(8), from batches that are pure text.
package netns
