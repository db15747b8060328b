package hostinit

import (
	"errors"
	"fmt"
	"os"
	"os/exec"

	"golang.org/x/sys/unix"
)

// InHost is the hidden command that becomes the command of `exec` once it is inside the host's namespaces.
const InHost = "in-host"

// RunInHost replaces this process by the command that follows "--" in args, tied to the life of the process that
// started it. It returns only with an error.
//
// The standard library's own way of tying compares process ids after the fork, which differ between pid namespaces,
// and kills every such child.
func RunInHost(args []string) error {
	if len(args) < 2 || args[0] != "--" {
		return errors.New("in-host: is called by `drover-lab exec`, not by hand")
	}
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
		return fmt.Errorf("in-host: %w", err)
	}
	path, err := exec.LookPath(args[1])
	if err != nil {
		return err
	}
	return fmt.Errorf("%s: %w", path, unix.Exec(path, args[1:], os.Environ()))
}
