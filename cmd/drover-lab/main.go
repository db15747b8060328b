// Command drover-lab runs real libvirt hosts side by side on one Linux machine, for development and tests: each in
// namespaces and a control group of its own, with guests worth migrating and a probe that sees what a user would feel.
package main

import (
	"os"
	"runtime"

	"drover/cmd/drover-lab/internal/app"
)

func init() {
	// Keeps work that enters a host's namespaces off the main thread, whose /proc/self is the program's.
	runtime.LockOSThread()
}

func main() { os.Exit(app.Main(os.Args)) }
