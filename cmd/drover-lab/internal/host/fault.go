package host

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"drover/cmd/drover-lab/internal/hostinit"
	"drover/cmd/drover-lab/internal/netns"
	"drover/cmd/drover-lab/internal/state"
	"drover/hypervisor"
)

// ErrNotForControl says that something can be done to hosts with a libvirtd only.
var ErrNotForControl = errors.New("the control host has no libvirtd and no migration link")

// locked runs fn on a lab that is up, with its lock held.
func (m *Manager) locked(ctx context.Context, fn func(state.Lab) error) error {
	unlock, err := m.store.Lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	l, err := m.store.Up()
	if err != nil {
		if _, lerr := m.store.Lab(); errors.Is(lerr, state.ErrNoLab) {
			return errors.Join(err, m.store.Remove()) // taking the lock made the directory
		}
		return err
	}
	return fn(l)
}

// Shape limits the host's migration link, both ways; zero removes the limit. It outlives a reboot of the host.
func (m *Manager) Shape(ctx context.Context, name string, rate hypervisor.BytesPerSecond) error {
	return m.change(ctx, "shape", name, func(control int, h *state.Host) error {
		h.Shape = rate
		if !h.Init.Alive() {
			return nil // takes effect at its next boot
		}
		return netns.Shape(ctx, control, h.Init.PID, h.Name, rate)
	})
}

// SetCut takes the host's ports of the given networks down, or up again. It outlives a reboot of the host.
func (m *Manager) SetCut(ctx context.Context, name string, nets []netns.Network, link netns.LinkState) error {
	return m.change(ctx, "link "+string(link), name, func(control int, h *state.Host) error {
		for _, n := range nets {
			h.Cut = slices.DeleteFunc(h.Cut, func(c string) bool { return c == n.Name })
			if link == netns.LinkDown {
				h.Cut = append(h.Cut, n.Name)
			}
			if !h.Init.Alive() {
				continue
			}
			if err := netns.SetLink(ctx, control, h.Name, n, link); err != nil {
				return err
			}
		}
		return nil
	})
}

// change applies fn to a host other than control and stores what it made of the record.
func (m *Manager) change(ctx context.Context, op, name string, fn func(control int, h *state.Host) error) error {
	err := m.locked(ctx, func(state.Lab) error {
		if name == state.Control {
			return ErrNotForControl
		}
		h, err := m.store.Host(name)
		if err != nil {
			return err
		}
		control, err := m.Running(state.Control)
		if err != nil {
			return err
		}
		if err := fn(control.Init.PID, &h); err != nil {
			return err
		}
		return m.store.PutHost(h)
	})
	if err != nil {
		return fmt.Errorf("%s %s: %w", op, name, err)
	}
	return nil
}

// Kill ends a host as a power cut would: its first process and with it everything inside. Its disks stay.
func (m *Manager) Kill(ctx context.Context, name string) error {
	err := m.locked(ctx, func(state.Lab) error {
		h, err := m.Running(name)
		if err != nil {
			return err
		}
		if err := h.Init.Kill(killTimeout); err != nil {
			return err
		}
		h.Init = state.Proc{}
		return m.store.PutHost(h)
	})
	if err != nil {
		return fmt.Errorf("kill %s: %w", name, err)
	}
	return nil
}

// Boot starts a host that was killed, and returns when its libvirtd answers. Definitions, disks, shaping and cuts are
// as they were; guests and daemons are not started. [ErrUp] when it runs.
func (m *Manager) Boot(ctx context.Context, name string) error {
	err := m.locked(ctx, func(l state.Lab) error {
		h, err := m.store.Host(name)
		if err != nil {
			return err
		}
		if h.Init.Alive() {
			return ErrUp
		}
		if err := forgetGuests(l, name); err != nil {
			return err
		}
		if err := m.startHost(ctx, l, name); err != nil {
			h, herr := m.store.Host(name)
			return errors.Join(err, herr, h.Init.Kill(killTimeout))
		}
		if name != state.Control {
			return nil
		}
		// The bridges went with the old control host, and every host's links with them.
		for _, other := range l.Hosts {
			if h, err := m.Running(other); err == nil {
				if err := m.connect(ctx, l, h); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("boot %s: %w", name, err)
	}
	return nil
}

// forgetGuests deletes what libvirt keeps on disk for running guests, and would have deleted itself had the power not
// gone; it never does so later, and it would look like something a migration left behind.
func forgetGuests(l state.Lab, name string) error {
	dirs, err := filepath.Glob(filepath.Join(PathsOf(l).Hosts, name, "libvirt-lib", "qemu", "domain-*"))
	if err != nil {
		return err
	}
	for _, d := range dirs {
		if err := os.RemoveAll(d); err != nil {
			return err
		}
	}
	return nil
}

// RestartLibvirt ends the host's libvirtd with sig and returns when a new one answers. Guests run on.
func (m *Manager) RestartLibvirt(ctx context.Context, name string, sig syscall.Signal) error {
	if err := m.restartLibvirt(ctx, name, sig); err != nil {
		return fmt.Errorf("restart %s: %w", name, err)
	}
	return nil
}

func (m *Manager) restartLibvirt(ctx context.Context, name string, sig syscall.Signal) error {
	if name == state.Control {
		return ErrNotForControl
	}
	c, err := m.Client(name)
	if err != nil {
		return err
	}
	old, err := libvirtPID(ctx, c)
	if err != nil {
		return err
	}
	if err := c.Restart(ctx, daemonLibvirtd, sig); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, libvirtTimeout)
	defer cancel()
	// The old one may answer until its last moment.
	for {
		now, err := libvirtPID(ctx, c)
		if err != nil {
			return err
		}
		if now != 0 && now != old {
			return m.waitLibvirt(ctx, name)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("libvirtd does not end: %w", context.Cause(ctx))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// libvirtPID is the process id of libvirtd inside the host; 0 while it is down.
func libvirtPID(ctx context.Context, c *hostinit.Client) (int, error) {
	ds, err := c.List(ctx)
	for _, d := range ds {
		if d.Name == daemonLibvirtd {
			return d.PID, err
		}
	}
	return 0, err
}

// Counters returns the totals of the host's interface on a network, as seen inside.
func (m *Manager) Counters(name string, n netns.Network) (netns.Counters, error) {
	h, err := m.Running(name)
	if err != nil {
		return netns.Counters{}, err
	}
	if name == state.Control {
		return netns.ReadCounters(h.Init.PID, n.Bridge)
	}
	return netns.ReadCounters(h.Init.PID, n.Iface)
}
