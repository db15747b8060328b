package cliargs

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
)

// level is one step of the path from the program to the command to run, with the flags given to it.
type level struct {
	name   string
	path   string
	flags  []cli.Flag
	subs   []*cli.Command
	tokens []string
}

// given is a flag as it was written.
type given struct {
	word  string // "--wait", "-w"
	name  string
	value string
	has   bool // a value was given, by "=" or as the next word
}

// Arrange returns args with every flag moved to the command that defines it, the deepest one of the
// path if several do, and with the arguments behind "--". What stands behind a "--" in args stays an
// argument, and so does a negative number. foreign says of commands, by name, after how many arguments
// the next one begins somebody else's command line, which stays as it is; nil for none. Errors are of
// type [UsageError].
func Arrange(app *cli.App, args []string, foreign map[string]int) ([]string, error) {
	if n := len(args); n == 0 || args[n-1] == "--generate-bash-completion" {
		return args, nil
	}
	a := arranger{foreign: foreign, levels: []*level{{
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
	foreign map[string]int
	levels  []*level
	flags   []given
	rest    []string
}

func (a *arranger) current() *level { return a.levels[len(a.levels)-1] }

func (a *arranger) usage(format string, args ...any) error {
	return &UsageError{Command: a.current().path, Err: fmt.Errorf(format, args...)}
}

// read sorts the words into commands, flags and arguments.
func (a *arranger) read(words []string) error {
	for i := 0; i < len(words); i++ {
		w := words[i]
		after, foreign := a.foreign[a.current().name]
		switch {
		case w == "--":
			a.rest = append(a.rest, words[i+1:]...)
			return nil
		case isFlag(w):
			used, err := a.readFlag(w, words[i+1:])
			if err != nil {
				return err
			}
			i += used
		case len(a.current().subs) > 0:
			if err := a.descend(w); err != nil {
				return err
			}
		case foreign && len(a.rest) == after:
			a.rest = append(a.rest, words[i:]...)
			return nil
		default:
			a.rest = append(a.rest, w)
		}
	}
	return nil
}

// isFlag takes a lone dash and negative numbers for arguments.
func isFlag(w string) bool {
	return len(w) > 1 && w[0] == '-' && (w[1] < '0' || w[1] > '9')
}

// readFlag notes the flag w and returns how many of the following words are its value.
func (a *arranger) readFlag(w string, following []string) (int, error) {
	name := strings.TrimPrefix(strings.TrimPrefix(w, "-"), "-")
	g := given{}
	g.name, g.value, g.has = strings.Cut(name, "=")
	g.word = strings.TrimSuffix(w, "="+g.value)
	f := a.find(g.name)
	if f == nil {
		return 0, a.unknown(g)
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
				flags: c.Flags, subs: c.Subcommands,
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
			return a.unknown(g)
		}
		if g.has && !isHelp(g.name) {
			if err := readable(f, g.value); err != nil {
				return a.usage("--%s %w", f.Names()[0], err)
			}
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
		out = append(append(out, "--"), a.rest...)
	}
	return out
}

// readable refuses values that the library would refuse in its own words.
func readable(f cli.Flag, value string) error {
	var err error
	switch f.(type) {
	case *cli.DurationFlag:
		if _, err = time.ParseDuration(value); err == nil {
			return nil
		}
		if _, err = strconv.ParseFloat(value, 64); err == nil {
			return fmt.Errorf("%s: the unit is missing, as in %[1]sms, %[1]ss or %[1]sm", value)
		}
		return fmt.Errorf("%q: want a time with its unit, such as 150ms, 30s or 10m", value)
	case *cli.IntFlag, *cli.Int64Flag:
		if _, err = strconv.ParseInt(value, 0, strconv.IntSize); err != nil {
			return fmt.Errorf("%q: want a whole number", value)
		}
	case *cli.Float64Flag:
		if _, err = strconv.ParseFloat(value, 64); err != nil {
			return fmt.Errorf("%q: want a number", value)
		}
	case *cli.BoolFlag:
		if _, err = strconv.ParseBool(value); err != nil {
			return fmt.Errorf("%q: want true or false, or no value", value)
		}
	}
	return nil
}

func (a *arranger) unknown(g given) error {
	if apart := a.apart(g); apart != "" {
		return a.usage("unknown flag %s: write %s", g.word, apart)
	}
	var names []string
	for _, l := range a.levels {
		for _, f := range l.flags {
			for _, n := range f.Names() {
				if len(n) > 1 {
					names = append(names, n)
				}
			}
		}
	}
	return a.usage("unknown flag %s%s", g.word, didYouMean(g.name, names, "--"))
}

// apart returns the flags of one letter that were written as one, "-n -w" for "-nw"; empty when that is
// not what g is.
func (a *arranger) apart(g given) string {
	var out []string
	for _, letter := range g.name {
		if strings.HasPrefix(g.word, "--") || a.find(string(letter)) == nil {
			return ""
		}
		out = append(out, "-"+string(letter))
	}
	return strings.Join(out, " ")
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
