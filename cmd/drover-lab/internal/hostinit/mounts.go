package hostinit

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// setup turns fresh namespaces into the configured host. The order matters: private directories before what is put
// into them, /proc and /sys last because the network and cgroup namespaces they show must be complete.
func setup(cfg Config) error {
	if err := unix.Sethostname([]byte(cfg.Hostname)); err != nil {
		return fmt.Errorf("host name: %w", err)
	}
	// Nothing mounted from here on may reach the machine.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	for _, o := range cfg.Overlays {
		if err := mountOverlay(o); err != nil {
			return err
		}
	}
	for _, dir := range cfg.Tmpfs {
		if err := mount("tmpfs", dir, "mode=755"); err != nil {
			return err
		}
	}
	for _, b := range cfg.Binds {
		if err := os.MkdirAll(b.Target, 0o755); err != nil {
			return fmt.Errorf("bind %s: %w", b.Target, err)
		}
		if err := unix.Mount(b.Source, b.Target, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("bind %s to %s: %w", b.Source, b.Target, err)
		}
	}
	if err := mountKernel(cfg); err != nil {
		return err
	}
	for _, f := range cfg.Files {
		if err := writeFile(f); err != nil {
			return err
		}
	}
	for _, l := range cfg.Links {
		if err := link(l); err != nil {
			return err
		}
	}
	return nil
}

func mount(kind, target, options string) error {
	if err := unix.Mount(kind, target, kind, 0, options); err != nil {
		return fmt.Errorf("mount %s on %s: %w", kind, target, err)
	}
	return nil
}

func mountOverlay(o Overlay) error {
	if _, err := os.Stat(o.Dir); errors.Is(err, fs.ErrNotExist) {
		return nil // a machine without it has nothing to hide
	}
	return mount("overlay", o.Dir, fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", o.Dir, o.Upper, o.Work))
}

// mountKernel shows the host's own processes, interfaces and control groups. A fresh sysfs hides the machine's
// control groups, so they are mounted again, rooted at the host's own.
func mountKernel(cfg Config) error {
	if err := mount("proc", "/proc", ""); err != nil {
		return err
	}
	if err := mount("sysfs", "/sys", ""); err != nil {
		return err
	}
	for _, m := range cfg.Cgroups {
		if err := os.MkdirAll(m.Target, 0o755); err != nil {
			return fmt.Errorf("mount %s: %w", m.Target, err)
		}
		if err := mount(m.Type, m.Target, m.Options); err != nil {
			return err
		}
	}
	if !cfg.V2Leaf {
		return nil
	}
	if err := os.WriteFile("/sys/fs/cgroup/init/cgroup.procs", []byte("1"), 0); err != nil {
		return fmt.Errorf("move into leaf group: %w", err)
	}
	return nil
}

func writeFile(f File) error {
	if err := os.MkdirAll(filepath.Dir(f.Path), 0o755); err != nil {
		return fmt.Errorf("write %s: %w", f.Path, err)
	}
	if err := os.WriteFile(f.Path, []byte(f.Content), f.Mode); err != nil {
		return fmt.Errorf("write %s: %w", f.Path, err)
	}
	return nil
}

func link(l Link) error {
	if err := os.MkdirAll(filepath.Dir(l.Path), 0o755); err != nil {
		return fmt.Errorf("link %s: %w", l.Path, err)
	}
	if err := os.Remove(l.Path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("link %s: %w", l.Path, err)
	}
	if err := os.Symlink(l.Target, l.Path); err != nil {
		return fmt.Errorf("link %s: %w", l.Path, err)
	}
	return nil
}
