package main

import (
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"

	"drover/cmd/internal/cliargs"
)

// The scripts ask the program itself what may come next, so that they never grow old.
const (
	bashCompletion = `# drover completion for bash: source <(drover completion bash)
_drover() {
    local cur=${COMP_WORDS[COMP_CWORD]} words=("${COMP_WORDS[@]:1:COMP_CWORD-1}")
    [[ $cur == -* ]] && words+=("$cur")
    COMPREPLY=($(compgen -W "$(drover "${words[@]}" --generate-bash-completion 2>/dev/null | cut -d: -f1)" -- "$cur"))
}
complete -o bashdefault -o default -F _drover drover
`
	zshCompletion = `#compdef drover
# drover completion for zsh: source <(drover completion zsh)
_drover() {
    local -a args options
    args=("${(@)words[2,CURRENT-1]}")
    [[ ${words[CURRENT]} == -* ]] && args+=("${words[CURRENT]}")
    options=("${(@f)$(drover "${args[@]}" --generate-bash-completion 2>/dev/null)}")
    if [[ -n ${options[1]} ]]; then _describe 'drover' options; else _files; fi
}
compdef _drover drover
`
)

func completionCommand() *cli.Command {
	return &cli.Command{
		Name: "completion", Usage: "write a completion script for a shell", ArgsUsage: "bash|zsh|fish",
		Description: "For example: drover completion bash > /etc/bash_completion.d/drover",
		Action: takes(1, 1, "the shell (bash, zsh or fish)", func(c *cli.Context) error {
			var err error
			script, shell := "", c.Args().First()
			switch shell {
			case "bash":
				script = bashCompletion
			case "zsh":
				script = zshCompletion
			case "fish":
				if script, err = c.App.ToFishCompletion(); err != nil {
					return fmt.Errorf("completion: %w", err)
				}
				script = strings.TrimSpace(script) + "\n"
			default:
				return cliargs.Usagef(c, "shell %q: want bash, zsh or fish", shell)
			}
			_, err = fmt.Fprint(c.App.Writer, script)
			return err
		}),
	}
}
