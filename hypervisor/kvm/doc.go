// Package kvm is drover's adapter for libvirt's QEMU driver: it samples a host and its domains,
// checks whether a domain can move, and starts, tunes and aborts peer-to-peer live migrations. It is
// cgo code; build it with the tag libvirt_dlopen, so that one binary runs on
// libvirt 9 to 12.
//
// # Connections
//
// A Host keeps three connections that reconnect by themselves, and one more for each migration that it
// started and that libvirt has not answered yet:
//
//   - view: events, bulk statistics, capabilities. Nothing that waits for one domain's lock.
//   - control: calls about one domain (abort, sight, preflight, definitions);
//   - probe: dirty-rate estimates, whose start a QEMU that hangs never answers;
//   - one per running migration: the migrate call itself, its statistics and its limits.
//
// libvirtd works on at most five requests of one client at a time (max_client_requests) and counts
// keepalive among them, so a client that fills them is cut off. Each connection therefore has fewer
// slots than that, and abort has slots of its own.
//
// # Time
//
// A libvirt call can't be cancelled and may hang for as long as a QEMU process does. Each runs on a
// goroutine of its own under a time limit; the caller returns when its context ends or the limit
// passes, with [hypervisor.ClassUnknownOutcome], and the call becomes a straggler ([Host.Stragglers])
// that keeps its slot until libvirt answers. A domain with a straggler takes no further calls but an
// abort, so that a domain that hangs costs two slots at most. Estimates of the dirty rate have a
// connection of their own because libvirt waits for their start without a limit; a domain that is
// silent, or that still owes the answer to one, is not estimated.
//
// # Locking
//
// All methods of [Host] are safe for concurrent use. Callbacks from libvirt run on the one event
// loop goroutine of the process and only copy data into a queue.
package kvm
