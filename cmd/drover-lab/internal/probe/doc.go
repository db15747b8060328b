// Package probe measures from outside what a user of a guest would feel.
//
// The guest writes a beat to its serial port every 5 ms, if it was not started with another period, and its counters every 100 ms; the port is a file, and the
// probe stamps each growth of it with this machine's clock. It has to be done from outside: while a guest is
// paused its own clock stands still, so it can never see its own pause.
//
// [Parser] and [Analysis] are pure. [Run] watches the file with inotify, which costs two hundred short wake-ups a second.
package probe
