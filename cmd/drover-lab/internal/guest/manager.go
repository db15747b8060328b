package guest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"

	"drover/cmd/drover-lab/internal/host"
	"drover/cmd/drover-lab/internal/state"
)

// Errors that callers branch on.
var (
	// ErrExists says that the lab has a guest of that name already.
	ErrExists = errors.New("guest exists already")
	// ErrSilent says that a guest did not come to life in time.
	ErrSilent = errors.New("guest says nothing")
)

// Manager makes and removes guests of one lab. It is safe for concurrent use, on different guests.
type Manager struct {
	store *state.Store
	hosts *host.Manager
	log   *slog.Logger
}

// NewManager returns the manager of the guests of the lab kept in store.
func NewManager(store *state.Store, hosts *host.Manager, log *slog.Logger) *Manager {
	return &Manager{store: store, hosts: hosts, log: log}
}

// Record returns what the lab remembers of a guest; [state.ErrNotFound] when there is none of that name.
func (m *Manager) Record(name string) (Record, error) {
	var r Record
	if _, err := m.store.Up(); err != nil {
		return r, err
	}
	return r, m.store.Guest(name, &r)
}

// Start makes a guest and returns once its working set is filled and its load has begun. On failure nothing is left.
func (m *Manager) Start(ctx context.Context, spec Spec) (Record, error) {
	l, err := m.store.Up()
	if err != nil {
		return Record{}, fmt.Errorf("guest start: %w", err)
	}
	if err := spec.Check(); err != nil {
		return Record{}, fmt.Errorf("guest start: %w", err)
	}
	for _, h := range append([]string{spec.Host}, spec.Prepare...) {
		if !slices.Contains(l.Hosts, h) {
			return Record{}, fmt.Errorf("guest start: host %s: %w", h, state.ErrNotFound)
		}
	}
	if _, err := m.hosts.Running(spec.Host); err != nil {
		return Record{}, fmt.Errorf("guest start: %w", err)
	}
	if _, err := m.Record(spec.Name); err == nil {
		return Record{}, fmt.Errorf("guest start: %s: %w", spec.Name, ErrExists)
	}
	dom, err := m.plan(ctx, l, spec)
	if err != nil {
		return Record{}, fmt.Errorf("guest start: %w", err)
	}
	if err := m.start(ctx, l, dom); err != nil {
		err = fmt.Errorf("guest start: %w", err)
		// The caller's context may be what ended the start.
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
		defer cancel()
		return Record{}, errors.Join(err, m.Stop(clean, spec.Name))
	}
	return dom.Record, nil
}

// cleanupTimeout bounds the removal of a guest that failed to start.
const cleanupTimeout = 30 * time.Second

func (m *Manager) plan(ctx context.Context, l state.Lab, spec Spec) (machine, error) {
	img, err := BuildImage(ctx, l.Cache)
	if err != nil {
		return machine{}, err
	}
	mt, err := machineType(ctx)
	if err != nil {
		return machine{}, err
	}
	p := host.PathsOf(l)
	r := Record{Spec: spec, UUID: UUID(l.Name, spec.Name).String(), Serial: filepath.Join(p.Shared, spec.Name+".serial")}
	switch spec.Disk {
	case SharedDisk:
		r.DiskPath = filepath.Join(p.Shared, spec.Name+".qcow2")
	case LocalDisk:
		r.DiskPath = filepath.Join(host.ImagesDir, spec.Name+".qcow2")
	}
	return machine{Record: r, Type: img.Type, Machine: mt, Kernel: img.Kernel, Initrd: img.Initrd}, nil
}

func (m *Manager) start(ctx context.Context, l state.Lab, dom machine) error {
	// First of all, so that whatever follows is known to `guest stop` and `down`.
	if err := m.store.PutGuest(dom.Name, dom.Record); err != nil {
		return err
	}
	if err := os.WriteFile(dom.Serial, nil, 0o644); err != nil {
		return err
	}
	for _, path := range m.images(l, dom.Record) {
		if err := run(ctx, "/", "qemu-img", "create", "-q", "-f", "qcow2", path, strconv.FormatInt(int64(dom.DiskSize), 10)); err != nil {
			return err
		}
	}
	text, err := dom.xml()
	if err != nil {
		return err
	}
	file := xmlPath(l, dom.Name)
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		return err
	}
	if dom.Transient {
		_, err = m.hosts.Virsh(ctx, dom.Host, "create", file)
	} else if _, err = m.hosts.Virsh(ctx, dom.Host, "define", file); err == nil {
		_, err = m.hosts.Virsh(ctx, dom.Host, "start", dom.Name)
	}
	if err != nil {
		return err
	}
	return waitReady(ctx, dom.Record)
}

func xmlPath(l state.Lab, name string) string {
	return filepath.Join(host.PathsOf(l).Shared, name+".xml")
}

// images lists the disk files to make, as the machine sees them.
func (m *Manager) images(l state.Lab, r Record) []string {
	p := host.PathsOf(l)
	switch r.Disk {
	case SharedDisk:
		return []string{r.DiskPath}
	case LocalDisk:
		var all []string
		for _, h := range append([]string{r.Host}, r.Prepare...) {
			all = append(all, filepath.Join(p.PrivateImages(h), filepath.Base(r.DiskPath)))
		}
		return all
	}
	return nil
}

// Stop destroys and undefines the guest wherever it is and deletes its files. On hosts that are down, its definition
// is deleted from their disks.
func (m *Manager) Stop(ctx context.Context, name string) error {
	l, err := m.store.Up()
	if err != nil {
		return fmt.Errorf("guest stop: %w", err)
	}
	r, err := m.Record(name)
	if err != nil {
		return fmt.Errorf("guest stop: %w", err)
	}
	g, gctx := errgroup.WithContext(ctx)
	for _, h := range l.Hosts {
		g.Go(func() error { return m.stopOn(gctx, l, h, r) })
	}
	if err := g.Wait(); err != nil {
		return fmt.Errorf("guest stop: %s: %w", name, err)
	}
	files := []string{r.Serial, xmlPath(l, name), filepath.Join(host.PathsOf(l).Shared, name+".qcow2")}
	for _, h := range l.Hosts {
		files = append(files, filepath.Join(host.PathsOf(l).PrivateImages(h), name+".qcow2"))
	}
	for _, f := range files {
		if err := os.Remove(f); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("guest stop: %s: %w", name, err)
		}
	}
	return m.store.DropGuest(name)
}

func (m *Manager) stopOn(ctx context.Context, l state.Lab, h string, r Record) error {
	if _, err := m.hosts.Running(h); errors.Is(err, host.ErrDown) {
		err := os.Remove(filepath.Join(host.PathsOf(l).Hosts, h, "libvirt-etc", "qemu", r.Name+".xml"))
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		return err
	}
	for try := 1; ; try++ {
		doms, err := m.Domains(ctx, h)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(doms, func(d Domain) bool { return d.Name == r.Name })
		if i < 0 {
			return nil
		}
		err = m.end(ctx, h, r.UUID, doms[i])
		if err == nil || try == endTries {
			return err
		}
		// It may have ended by itself in between, or gone with its migration: the next look tells.
	}
}

// endTries is how often a domain is looked at and ended before an error counts.
const endTries = 3

// end destroys and undefines a domain as it was seen.
func (m *Manager) end(ctx context.Context, h, uuid string, d Domain) error {
	var errs []error
	if d.Active {
		_, err := m.hosts.Virsh(ctx, h, "destroy", uuid)
		errs = append(errs, err)
	}
	if d.Persistent {
		_, err := m.hosts.Virsh(ctx, h, "undefine", uuid)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
