// Package host makes and unmakes a lab's hosts: their certificates, files, control groups, networks and libvirtd.
//
// [Manager.Up] is all or nothing. Its order is chosen for being killed at any point: the lab's record, marked as not
// ready, comes before the first process; each process is recorded while it still waits for its configuration, and
// ends by itself if its maker dies before that. So whatever is left is either recorded or already going away, and
// [Manager.Down], which Up runs first on a half-made lab, finds it all.
package host
