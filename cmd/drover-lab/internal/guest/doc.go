// Package guest makes, lists and removes the lab's guests: small virtual machines that dirty memory in a known way
// and tell on a serial port how they fare (see the guest program's source for the protocol).
//
// Kernel and initramfs are built once into a cache that all labs share. A guest's serial port is a file in the lab's
// shared directory that every host appends to, so one file tells the guest's whole life across migrations.
package guest
