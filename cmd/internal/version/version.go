// Package version holds the version that the build stamps into every program.
package version

// Version is set by the linker; see the Makefile.
var Version = "unknown"
