// Package sockets looks at the TCP connections of migration streams and keeps the queue in front of
// their link short. It is Linux's own interfaces only, and knows nothing of libvirt.
//
// # Why a queue is kept short
//
// The last pages of a pre-copy migration, sent while the guest stands still, wait behind all that QEMU
// has written before them. QEMU writes as fast as the kernel takes it: with the send buffer that
// the kernel tunes by itself (some MiB) and a link that is the bottleneck, that is 60 to 130 ms at 400 Mbit/s,
// more on slower links, and under a cap, which QEMU keeps to in slices of 100 ms, up to one slice. All
// of it is added to the pause. A send buffer that holds what the link carries in some milliseconds
// makes QEMU wait instead, at no cost in speed: idle guests pause 74 ms instead of 164 at 400 Mbit/s, and 98
// instead of 198 at 200. A stream that such a buffer would starve, beside somebody else's long queue, is left
// to the kernel.
//
// The buffer is set on QEMU's own socket, of which pidfd_getfd(2) gives a copy for a moment
// (Linux 5.6; needs CAP_SYS_PTRACE, and CAP_NET_ADMIN for SO_SNDBUFFORCE). Nothing of it outlives the
// connection, and [Keeper.Release] gives the buffer back to the kernel before; that of an agent which was killed
// stays until another takes the migration up.
//
// The rooms: diag.go (what the kernel tells of connections), keeper.go (the buffer of one domain's
// streams), stream.go (how large it is to be, and when it is left alone).
package sockets
