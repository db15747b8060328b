package netns

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"strings"

	"drover/hypervisor"
)

// SetupControl makes the bridges in the network namespace of process control.
func SetupControl(ctx context.Context, control int) error {
	return Do(control, Net, func() error {
		if err := noIPv6(); err != nil {
			return err
		}
		return batch(ctx, "ip", controlBatch())
	})
}

// Attach gives host number num (1 and up), whose first process is pid, its two interfaces.
func Attach(ctx context.Context, control, pid, num int, host string) error {
	err := Do(control, Net, func() error {
		// The kernel takes a dead host's interfaces away some time later; a reboot may come sooner.
		for _, n := range Networks() {
			// It may go between the look and the deletion, so only what follows can fail.
			if _, err := net.InterfaceByName(n.Port(host)); err == nil {
				_ = batch(ctx, "ip", "link del "+n.Port(host)+"\n")
			}
		}
		return batch(ctx, "ip", attachBatch(host, pid))
	})
	if err != nil {
		return fmt.Errorf("attach %s: %w", host, err)
	}
	err = Do(pid, Net, func() error {
		if err := noIPv6(); err != nil {
			return err
		}
		return batch(ctx, "ip", hostBatch(num))
	})
	if err != nil {
		return fmt.Errorf("attach %s: %w", host, err)
	}
	return nil
}

// Shape limits what the host sends and receives on the migration network; zero removes the limit.
func Shape(ctx context.Context, control, pid int, host string, rate hypervisor.BytesPerSecond) error {
	ends := []struct {
		pid   int
		iface string
	}{{pid, Migration.Iface}, {control, Migration.Port(host)}}
	for _, e := range ends {
		err := Do(e.pid, Net, func() error {
			if rate <= 0 && !shaped(ctx, e.iface) {
				return nil
			}
			return batch(ctx, "tc", shapeBatch(e.iface, rate))
		})
		if err != nil {
			return fmt.Errorf("shape %s: %w", host, err)
		}
	}
	return nil
}

// SetLink takes the host's port of a network down, so that its carrier goes, or up again.
func SetLink(ctx context.Context, control int, host string, n Network, state LinkState) error {
	return Do(control, Net, func() error {
		return batch(ctx, "ip", fmt.Sprintf("link set %s %s\n", n.Port(host), state))
	})
}

// LinkState is what [SetLink] can make of a link.
type LinkState string

// The states of a link.
const (
	LinkUp   LinkState = "up"
	LinkDown LinkState = "down"
)

// shaped reports whether iface has a limit now; deleting one that is not there is an error to tc.
func shaped(ctx context.Context, iface string) bool {
	out, err := exec.CommandContext(ctx, "tc", "qdisc", "show", "dev", iface).Output()
	return err == nil && strings.Contains(string(out), "tbf")
}

func batch(ctx context.Context, tool, text string) error {
	cmd := exec.CommandContext(ctx, tool, "-batch", "-")
	cmd.Stdin = strings.NewReader(text)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %s: %w", tool, strings.TrimSpace(string(out)), err)
	}
	return nil
}

// noIPv6 keeps address detection and router solicitations out of the lab's counters. /proc/sys/net shows the
// namespace of the thread that opens it.
func noIPv6() error {
	for _, which := range []string{"all", "default"} {
		err := os.WriteFile("/proc/sys/net/ipv6/conf/"+which+"/disable_ipv6", []byte("1"), 0)
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // a kernel without IPv6 needs nothing
			return err
		}
	}
	return nil
}
