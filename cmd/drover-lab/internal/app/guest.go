package app

import "github.com/urfave/cli/v2"

func guestCommands() []*cli.Command { return nil }
