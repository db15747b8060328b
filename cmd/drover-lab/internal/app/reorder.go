package app

import (
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

// rawAfter says after how many arguments of a command the rest is somebody else's command line.
var rawAfter = map[string]int{"exec": 1, "spawn": 2, "run": 0}

// reorder puts flags before arguments, wherever the user wrote them: the library silently takes a flag after an
// argument as one more argument. Arguments come out behind a "--".
func reorder(a *cli.App, args []string) []string {
	if len(args) == 0 {
		return args
	}
	out := args[:1:1]
	rest := args[1:]
	cmds := a.Commands
	var leaf *cli.Command
	var early []string // flags before the command's name
	for leaf == nil || len(leaf.Subcommands) > 0 {
		if len(rest) == 0 {
			return append(out, early...)
		}
		word := rest[0]
		if isFlag(word) {
			n := 1
			if takesValue(anyFlags(a.Commands), word) && len(rest) > 1 {
				n = 2
			}
			early = append(early, rest[:n]...)
			rest = rest[n:]
			continue
		}
		i := slices.IndexFunc(cmds, func(c *cli.Command) bool { return c.HasName(word) })
		if i < 0 {
			return append(append(out, early...), rest...) // the library says what is wrong
		}
		leaf, cmds = cmds[i], cmds[i].Subcommands
		out, rest = append(out, word), rest[1:]
	}
	flags, positional := split(leaf, append(early, rest...))
	out = append(out, flags...)
	if len(positional) > 0 {
		out = append(append(out, "--"), positional...)
	}
	return out
}

func split(leaf *cli.Command, rest []string) (flags, positional []string) {
	limit, raw := rawAfter[leaf.Name]
	for len(rest) > 0 {
		word := rest[0]
		switch {
		case word == "--":
			return flags, append(positional, rest[1:]...)
		case isFlag(word):
			n := 1
			if takesValue(leaf.Flags, word) && len(rest) > 1 {
				n = 2
			}
			flags, rest = append(flags, rest[:n]...), rest[n:]
		case raw && len(positional) == limit:
			return flags, append(positional, rest...)
		default:
			positional, rest = append(positional, word), rest[1:]
		}
	}
	return flags, positional
}

// isFlag takes negative numbers and a lone dash for arguments.
func isFlag(word string) bool {
	return len(word) > 1 && word[0] == '-' && word != "--" && (word[1] < '0' || word[1] > '9')
}

// takesValue reports whether word is a flag whose value is the next word.
func takesValue(flags []cli.Flag, word string) bool {
	name := strings.TrimLeft(word, "-")
	if strings.Contains(name, "=") {
		return false
	}
	for _, f := range flags {
		if slices.Contains(f.Names(), name) {
			_, isBool := f.(*cli.BoolFlag)
			return !isBool
		}
	}
	return false
}

func anyFlags(cmds []*cli.Command) []cli.Flag {
	var all []cli.Flag
	for _, c := range cmds {
		all = append(append(all, c.Flags...), anyFlags(c.Subcommands)...)
	}
	return all
}
