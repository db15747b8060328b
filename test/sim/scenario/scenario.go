package scenario

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"drover/test/sim"
)

// Command is one command of a scenario.
type Command struct {
	// Pos is where it stands, for errors.
	Pos   string
	Name  string
	Words []string          // besides those of the form key=value
	Args  map[string]string // of that form
	Input string            // the lines below
}

// Read reads a scenario. What its commands are expected to answer is left out.
func Read(name string, r io.Reader) ([]Command, error) {
	raw, err := io.ReadAll(r)
	if err != nil {
		return nil, fmt.Errorf("read scenario %s: %w", name, err)
	}
	var out []Command
	open, expected := -1, false
	for n, line := range strings.Split(string(raw), "\n") {
		text := strings.TrimSpace(line)
		switch {
		case expected:
			expected = text != ""
		case text == "----":
			open, expected = -1, true
		case text == "" || strings.HasPrefix(text, "#"):
			if text == "" {
				open = -1
			}
		case open >= 0:
			out[open].Input += text + "\n"
		default:
			open = len(out)
			out = append(out, Parse(fmt.Sprintf("%s:%d", name, n+1), text))
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("read scenario %s: it has no commands", name)
	}
	return out, nil
}

// Parse takes a command's first line apart.
func Parse(pos, line string) Command {
	c := Command{Pos: pos, Args: map[string]string{}}
	for i, word := range strings.Fields(line) {
		key, value, pair := strings.Cut(word, "=")
		switch {
		case i == 0:
			c.Name = word
		case pair:
			c.Args[key] = value
		default:
			c.Words = append(c.Words, word)
		}
	}
	return c
}

// Player plays one scenario. It is for one goroutine.
type Player struct {
	seed uint64
	w    *sim.World
	runs []string // asked for
	errs []error  // of events, which happen later than they are asked for
	due  int      // events that have not happened yet
}

// New returns a player at the beginning of a scenario.
func New() *Player { return &Player{seed: 1} }

// World is the world as it is now; nil before the first command that needs one.
func (p *Player) World() *sim.World { return p.w }

// Do carries one command out and returns its answer.
func (p *Player) Do(c Command) (string, error) {
	out, err := p.do(c)
	if err == nil {
		err = errors.Join(p.errs...)
		p.errs = nil
	}
	if err != nil {
		return "", fmt.Errorf("%s: %s: %w", c.Pos, c.Name, err)
	}
	return out, nil
}

func (p *Player) do(c Command) (string, error) {
	do, known := commands[c.Name]
	if !known {
		return "", errors.New("no such command")
	}
	if p.w == nil && c.Name != "seed" {
		p.w = sim.New(sim.Config{Seed: p.seed})
	}
	a := &args{Command: c}
	out, err := do(p, a)
	if err == nil {
		err = a.rest()
	}
	return out, err
}

var commands map[string]func(*Player, *args) (string, error)

func init() {
	commands = map[string]func(*Player, *args) (string, error){
		"seed": (*Player).setSeed, "fleet": (*Player).fleet, "host": (*Player).host, "guest": (*Player).guest,
		"auto": (*Player).auto, "rule": (*Player).rule, "uplink": (*Player).uplink, "at": (*Player).at,
		"run": (*Player).run, "until-idle": (*Player).untilIdle, "evaluate": (*Player).evaluate, "assert": (*Player).assert,
	}
}
