package cliargs

import (
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"
)

// level is one step of the path from the program to the command to run, with the flags given to it.
type level struct {
	name   string
	path   string
	flags  []cli.Flag
	subs   []*cli.Command
	raw    bool // takes what follows as it stands
	tokens []string
}

// given is a flag as it was written.
type given struct {
	name  string
	value string
	has   bool // a value was given, by "=" or as the next word
}

// Arrange returns args with every flag moved to the command that defines it, the deepest one of the
// path if several do, and with the arguments behind "--". What stands behind a "--" in args stays an
// argument; behind a command with SkipFlagParsing everything does. Errors are of type [UsageError].
func Arrange(app *cli.App, args []string) ([]string, error) {
	if n := len(args); n == 0 || args[n-1] == "--generate-bash-completion" {
		return args, nil
	}
	a := arranger{levels: []*level{{
		name: args[0], path: app.Name, flags: app.Flags, subs: app.Commands,
	}}}
	if err := a.read(args[1:]); err != nil {
		return nil, err
	}
	if err := a.assign(); err != nil {
		return nil, err
	}
	return a.result(), nil
}

type arranger struct {
	levels []*level
	flags  []given
	rest   []string
}

func (a *arranger) current() *level { return a.levels[len(a.levels)-1] }

func (a *arranger) usage(format string, args ...any) error {
	return &UsageError{Command: a.current().path, Err: fmt.Errorf(format, args...)}
}

// read sorts the words into commands, flags and arguments.
func (a *arranger) read(words []string) error {
	for i := 0; i < len(words); i++ {
		w := words[i]
		switch {
		case a.current().raw:
			a.rest = append(a.rest, words[i:]...)
			return nil
		case w == "--":
			a.rest = append(a.rest, words[i+1:]...)
			return nil
		case strings.HasPrefix(w, "-") && w != "-":
			used, err := a.readFlag(w, words[i+1:])
			if err != nil {
				return err
			}
			i += used
		case len(a.current().subs) > 0:
			if err := a.descend(w); err != nil {
				return err
			}
		default:
			a.rest = append(a.rest, w)
		}
	}
	return nil
}

// readFlag notes the flag w and returns how many of the following words are its value.
func (a *arranger) readFlag(w string, following []string) (int, error) {
	name := strings.TrimPrefix(strings.TrimPrefix(w, "-"), "-")
	g := given{}
	g.name, g.value, g.has = strings.Cut(name, "=")
	f := a.find(g.name)
	if f == nil {
		return 0, a.unknown(g.name)
	}
	used := 0
	if takesValue(f) && !g.has {
		if len(following) == 0 {
			return 0, a.usage("--%s needs a value", f.Names()[0])
		}
		g.value, g.has, used = following[0], true, 1
	}
	a.flags = append(a.flags, g)
	return used, nil
}

func (a *arranger) descend(word string) error {
	cur := a.current()
	for _, c := range cur.subs {
		if c.HasName(word) {
			a.levels = append(a.levels, &level{
				name: c.Name, path: cur.path + " " + c.Name,
				flags: c.Flags, subs: c.Subcommands, raw: c.SkipFlagParsing,
			})
			return nil
		}
	}
	if word == "help" && len(a.levels) == 1 {
		// "help host list" is "host list --help": the library's own command looks one word deep.
		a.flags = append(a.flags, given{name: "help"})
		return nil
	}
	names := make([]string, 0, len(cur.subs))
	for _, c := range cur.subs {
		names = append(names, c.Name)
	}
	return a.usage("unknown command %q%s", word, didYouMean(word, names, ""))
}

// find looks for the flag along the path so far, then in the commands below, as it may stand before
// its command.
func (a *arranger) find(name string) cli.Flag {
	if f := a.onPath(name); f >= 0 {
		return lookup(a.levels[f].flags, name)
	}
	var below func(cs []*cli.Command) cli.Flag
	below = func(cs []*cli.Command) cli.Flag {
		for _, c := range cs {
			if f := lookup(c.Flags, name); f != nil {
				return f
			}
			if f := below(c.Subcommands); f != nil {
				return f
			}
		}
		return nil
	}
	if f := below(a.current().subs); f != nil {
		return f
	}
	if isHelp(name) {
		return cli.HelpFlag
	}
	return nil
}

// onPath returns the index of the deepest level that defines the flag, or -1.
func (a *arranger) onPath(name string) int {
	for i := len(a.levels) - 1; i >= 0; i-- {
		if lookup(a.levels[i].flags, name) != nil {
			return i
		}
	}
	return -1
}

// assign hands each flag to its command, now that the path is known.
func (a *arranger) assign() error {
	for _, g := range a.flags {
		i := a.onPath(g.name)
		var f cli.Flag
		switch {
		case isHelp(g.name):
			// Help about a command needs no arguments, and the library would take them for topics.
			i, f, a.rest = len(a.levels)-1, cli.HelpFlag, nil
		case i >= 0:
			f = lookup(a.levels[i].flags, g.name)
		default:
			return a.unknown(g.name)
		}
		// The first name of the flag: two spellings of one flag would be an error in the library.
		token := "--" + f.Names()[0]
		if g.has {
			token += "=" + g.value
		}
		a.levels[i].tokens = append(a.levels[i].tokens, token)
	}
	return nil
}

func (a *arranger) result() []string {
	var out []string
	for _, l := range a.levels {
		out = append(append(out, l.name), l.tokens...)
	}
	if len(a.rest) > 0 {
		if !a.current().raw {
			out = append(out, "--")
		}
		out = append(out, a.rest...)
	}
	return out
}

func (a *arranger) unknown(name string) error {
	var names []string
	for _, l := range a.levels {
		for _, f := range l.flags {
			names = append(names, f.Names()...)
		}
	}
	dashes := "--"
	if len(name) == 1 {
		dashes = "-"
	}
	return a.usage("unknown flag %s%s%s", dashes, name, didYouMean(name, names, "--"))
}

func lookup(flags []cli.Flag, name string) cli.Flag {
	for _, f := range flags {
		for _, n := range f.Names() {
			if n == name {
				return f
			}
		}
	}
	return nil
}

func isHelp(name string) bool { return name == "help" || name == "h" }

func takesValue(f cli.Flag) bool {
	d, ok := f.(cli.DocGenerationFlag)
	return ok && d.TakesValue()
}

// didYouMean returns a hint when one of the names is at most two letters away from the word.
func didYouMean(word string, names []string, prefix string) string {
	best, at := "", 3
	for _, n := range names {
		if d := distance(word, n); d < at && d < len(word) {
			best, at = n, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf(": did you mean %s%s?", prefix, best)
}

// distance is Levenshtein's.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
