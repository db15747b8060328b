// Package qmp reads what QEMU knows about a migration and libvirt does not pass on, through
// libvirt's own monitor: QEMU has one monitor, and libvirt holds it.
//
// Every command, even a query, makes libvirt mark the domain as tainted, once per run of the domain.
// So nothing here is ever asked unless the configuration says so, every answer is a bonus that the
// callers can do without, and only the queries of an allow-list get through.
//
// [Monitor] implements go-qemu's qmp.Monitor on that path. The structures of the answers are this
// package's own: the generated ones of go-qemu follow an old schema and reject what today's QEMU
// says.
package qmp
