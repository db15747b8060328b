package cliargs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/urfave/cli/v2"
	"pgregory.net/rapid"
)

// call is what a command of the test program saw.
type call struct {
	Command, Endpoints, Output, To string
	Wait, Insecure                 bool
	Labels                         []string
	Args                           []string
}

func testApp(saw *call) *cli.App {
	note := func(c *cli.Context) error {
		*saw = call{
			Command: strings.TrimPrefix(c.Command.HelpName, "prog "), Endpoints: c.String("endpoints"), Output: c.String("output"),
			To: c.String("to"), Wait: c.Bool("wait"), Insecure: c.Bool("insecure"),
			Labels: c.StringSlice("label"), Args: c.Args().Slice(),
		}
		return nil
	}
	out := &bytes.Buffer{}
	return &cli.App{
		Name: "prog", Writer: out, ErrWriter: out,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "endpoints"},
			&cli.StringFlag{Name: "output", Aliases: []string{"o"}},
			&cli.BoolFlag{Name: "insecure"},
		},
		Commands: []*cli.Command{
			{Name: "host", Subcommands: []*cli.Command{
				{Name: "list", Aliases: []string{"ls"}, Action: note},
				{Name: "cordon", Action: note, Flags: []cli.Flag{&cli.BoolFlag{Name: "wait", Aliases: []string{"w"}}}},
			}},
			{Name: "migrate", Action: note, Flags: []cli.Flag{
				&cli.StringFlag{Name: "to"},
				&cli.BoolFlag{Name: "wait", Aliases: []string{"w"}},
				&cli.StringSliceFlag{Name: "label"},
				&cli.DurationFlag{Name: "deadline"},
				&cli.IntFlag{Name: "limit", Aliases: []string{"l"}},
				&cli.Float64Flag{Name: "share"},
			}},
		},
	}
}

func TestRunOrder(t *testing.T) {
	tests := []struct {
		line string
		want call
	}{
		{"host list", call{Command: "host list"}},
		{"host ls -o json", call{Command: "host list", Output: "json"}},
		{"-o json host list", call{Command: "host list", Output: "json"}},
		{"host -o=json list", call{Command: "host list", Output: "json"}},
		{"host list --output=json --endpoints http://a", call{Command: "host list", Output: "json", Endpoints: "http://a"}},
		{"host list -o json --output yaml", call{Command: "host list", Output: "yaml"}},
		{"host cordon kvm1 --wait", call{Command: "host cordon", Wait: true, Args: []string{"kvm1"}}},
		{"host cordon --wait kvm1", call{Command: "host cordon", Wait: true, Args: []string{"kvm1"}}},
		{"host cordon kvm1 -w=false", call{Command: "host cordon", Args: []string{"kvm1"}}},
		{"migrate web --to kvm2 -w --insecure", call{Command: "migrate", To: "kvm2", Wait: true, Insecure: true, Args: []string{"web"}}},
		{"migrate --to kvm2 web --wait", call{Command: "migrate", To: "kvm2", Wait: true, Args: []string{"web"}}},
		{"--to kvm2 -w migrate web", call{Command: "migrate", To: "kvm2", Wait: true, Args: []string{"web"}}},
		{"migrate -to kvm2 web", call{Command: "migrate", To: "kvm2", Args: []string{"web"}}},
		{"migrate web --to= ", call{Command: "migrate", Args: []string{"web"}}},
		{"migrate --to --wait web", call{Command: "migrate", To: "--wait", Args: []string{"web"}}},
		{"migrate web --label a --label b,c", call{Command: "migrate", Labels: []string{"a", "b", "c"}, Args: []string{"web"}}},
		{"migrate -- --wait", call{Command: "migrate", Args: []string{"--wait"}}},
		{"migrate web -w -- --to x", call{Command: "migrate", Wait: true, Args: []string{"web", "--to", "x"}}},
		{"migrate -", call{Command: "migrate", Args: []string{"-"}}},
		{"migrate help", call{Command: "migrate", Args: []string{"help"}}},
		{"migrate host list", call{Command: "migrate", Args: []string{"host", "list"}}},
		{"migrate -5 --to kvm2", call{Command: "migrate", To: "kvm2", Args: []string{"-5"}}},
	}
	for _, tt := range tests {
		t.Run(tt.line, func(t *testing.T) {
			var got call
			app := testApp(&got)
			if code := Run(context.Background(), app, append([]string{"/bin/prog"}, strings.Fields(tt.line)...)); code != 0 {
				t.Fatalf("exit %d: %s", code, app.ErrWriter)
			}
			if len(got.Args) == 0 {
				got.Args = nil
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("command saw (-want +got):\n%s", diff)
			}
		})
	}
}

func TestRunUsageErrors(t *testing.T) {
	tests := []struct{ line, want string }{
		{"hots list", `prog: unknown command "hots": did you mean host? (see prog --help)`},
		{"host lits", `prog: unknown command "lits": did you mean list? (see prog host --help)`},
		{"help hots", `prog: unknown command "hots": did you mean host? (see prog --help)`},
		{"host xyzzy", `prog: unknown command "xyzzy" (see prog host --help)`},
		{"host", `prog: prog host needs one of: list, cordon (see prog host --help)`},
		{"host list --wait", `prog: unknown flag --wait (see prog host list --help)`},
		{"--wait host list", `prog: unknown flag --wait (see prog host list --help)`},
		{"migrate web --wiat", `prog: unknown flag --wiat: did you mean --wait? (see prog migrate --help)`},
		{"migrate web -x", `prog: unknown flag -x (see prog migrate --help)`},
		{"migrate web -wl", `prog: unknown flag -wl: write -w -l (see prog migrate --help)`},
		{"migrate web -wx", `prog: unknown flag -wx (see prog migrate --help)`},
		{"migrate web --wx=3", `prog: unknown flag --wx (see prog migrate --help)`},
		{"migrate web --wait=maybe", `prog: --wait "maybe": want true or false, or no value (see prog migrate --help)`},
		{"migrate web --deadline 150", `prog: --deadline 150: the unit is missing, as in 150ms, 150s or 150m (see prog migrate --help)`},
		{"migrate web --deadline soon", `prog: --deadline "soon": want a time with its unit, such as 150ms, 30s or 10m (see prog migrate --help)`},
		{"migrate web -l many", `prog: --limit "many": want a whole number (see prog migrate --help)`},
		{"migrate web --share x", `prog: --share "x": want a number (see prog migrate --help)`},
		{"migrate web --to", `prog: --to needs a value (see prog migrate --help)`},
	}
	for _, tt := range tests {
		t.Run(tt.line, func(t *testing.T) {
			var got call
			app := testApp(&got)
			code := Run(context.Background(), app, append([]string{"prog"}, strings.Fields(tt.line)...))
			if code != ExitUsage {
				t.Errorf("exit %d, want %d", code, ExitUsage)
			}
			if text := fmt.Sprint(app.ErrWriter); text != tt.want+"\n" {
				t.Errorf("printed %q, want %q", text, tt.want)
			}
			if got.Command != "" {
				t.Errorf("command %q ran", got.Command)
			}
		})
	}
}

func TestRunErrors(t *testing.T) {
	tests := []struct {
		name string
		err  error
		code int
		text string
	}{
		{"plain", errors.New("it broke\n  badly"), ExitFailed, "prog: it broke; badly\n"},
		{"own status", fmt.Errorf("outer: %w", cli.Exit("too late", ExitPartial)), ExitPartial, "prog: outer: too late\n"},
		{"silent", cli.Exit("", ExitFailed), ExitFailed, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			app := testApp(new(call))
			app.Commands[1].Action = func(*cli.Context) error { return tt.err }
			code := Run(context.Background(), app, []string{"prog", "migrate"})
			if text := fmt.Sprint(app.ErrWriter); code != tt.code || text != tt.text {
				t.Errorf("exit %d, printed %q; want %d, %q", code, text, tt.code, tt.text)
			}
		})
	}
}

func TestHelp(t *testing.T) {
	for _, line := range []string{"--help", "help", "help migrate", "help host list", "migrate web --help", "-h migrate", "host --help", "host list -h"} {
		t.Run(line, func(t *testing.T) {
			var got call
			app := testApp(&got)
			code := Run(context.Background(), app, append([]string{"prog"}, strings.Fields(line)...))
			text := fmt.Sprint(app.Writer)
			if code != 0 || !strings.Contains(text, "USAGE") || got.Command != "" {
				t.Errorf("exit %d, command %q ran, printed %q; want help and status 0", code, got.Command, text)
			}
		})
	}
}

// Wherever the flags of a command stand, it sees the same.
func TestArrangeAnyOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		groups := rapid.Permutation([][]string{
			{"--to", "kvm2"}, {"-w"}, {"--endpoints=http://a"}, {"-o", "json"}, {"migrate"}, {"--insecure"},
		}).Draw(t, "order")
		at := rapid.IntRange(0, 100).Draw(t, "argument")
		var words []string
		seen := false
		for i, g := range groups {
			words = append(words, g...)
			seen = seen || g[0] == "migrate"
			if seen && at >= 0 && (at <= i*20 || i == len(groups)-1) {
				words, at = append(words, "web"), -1
			}
		}
		var got call
		app := testApp(&got)
		if code := Run(context.Background(), app, append([]string{"prog"}, words...)); code != 0 {
			t.Fatalf("%v: exit %d: %s", words, code, app.ErrWriter)
		}
		want := call{Command: "migrate", Endpoints: "http://a", Output: "json", To: "kvm2", Wait: true, Insecure: true, Args: []string{"web"}}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("%v (-want +got):\n%s", words, diff)
		}
	})
}
