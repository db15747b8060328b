// Package embed runs one etcd server inside this process: the store of a site that has no etcd of
// its own. It is the only package that links the etcd server.
//
// One member means no failover: while the process is away, running migrations go on and nothing new
// starts. The server listens for clients only; it has no peers and opens no peer port. It compacts
// its history, defragments its file when that pays, and leaves a NOSPACE alarm by itself once
// compaction has made room.
//
// etcd ends the process when its disk fails. Here it does not: the cause comes out of [Server.Err],
// and the owner decides. Such a server answers no more; [Server.Close] gives up on it after a few
// seconds.
package embed
