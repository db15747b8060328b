// Package hostinit is the first process of a host's namespaces: it mounts what the host has of its own, reaps every
// orphan, keeps the host's daemons running and takes requests on a socket.
//
// It runs in two stages of the same program. Stage one ([Stage1]) is started in new namespaces and waits for its
// configuration on a pipe; the end of the pipe without one means that whoever started it died, so it ends too and
// nothing is left behind. It then enters its cgroup namespace, which only binds the calling thread, and for that
// reason replaces itself by stage two ([Stage2]), all of whose threads are inside.
//
// Without a reaper as first process, QEMUs that ended stay as zombies and libvirt waits forty seconds for each.
// When this process dies the kernel kills everything else in the namespace: that is how a host dies.
package hostinit
