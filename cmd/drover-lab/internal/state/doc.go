// Package state keeps what a lab must remember between commands: which processes are its hosts, what was asked of
// them, where its files are.
//
// Everything lives in [RunRoot]/NAME: small JSON files, each replaced in one rename, and the hosts' control sockets.
// Bulky files live elsewhere ([Lab.Dir]). A process is named by its pid and start time ([Proc]), so that a record
// which outlived its process never points at a stranger; records of an earlier boot count as dead.
//
// Commands that change a lab hold its lock ([Store.Lock]). Reading needs no lock.
package state
