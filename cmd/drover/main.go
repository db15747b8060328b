// Command drover is the admin's side of a fleet of KVM hosts, and its scheduler.
//
// main.go starts it, app.go lists the commands, session.go reaches the store; every noun has a file
// of its own. scheduler.go wires the scheduler: all its parts in one visible place.
package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"syscall"

	"drover/cmd/internal/cliargs"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// After the first signal a second one ends the process at once.
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx, os.Args, os.Stdin, os.Stdout, os.Stderr))
}

// run runs one command line and returns the exit status.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	return cliargs.Run(ctx, newApp(stdin, stdout, stderr), args)
}
