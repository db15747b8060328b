package kvm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"libvirt.org/go/libvirt"

	"drover/hypervisor"
)

const (
	imageLimit = time.Minute
	// imageTool makes disk images; it comes with QEMU.
	imageTool = "qemu-img"
)

// CreateDisks makes the files that a storage copy will fill, each of the disk's virtual size and
// format, in the name of the migration. It may be repeated. A file that exists and wasn't made for
// this migration is refused (ClassInvalid), and whatever was made in the same call is taken back. The
// files of one migration are made and removed by one call at a time, also when nobody waits for it
// any more.
func (h *Host) CreateDisks(ctx context.Context, migration string, disks []hypervisor.Disk) error {
	if migration == "" {
		return refuse("create disks", "", hypervisor.ClassArgument, "no migration given to make them for")
	}
	r := request{op: "create disks", limit: imageLimit, slots: h.fileSlots}
	_, err := ask(ctx, h.t, r, func() (struct{}, error) {
		defer h.copies.work(migration)()
		if ctx.Err() != nil {
			return struct{}{}, gaveUp(r.op, "", ctx.Err())
		}
		var fresh []string
		for _, disk := range disks {
			path, err := h.createDisk(migration, disk)
			if err != nil {
				return struct{}{}, errors.Join(err, h.takeBack(migration, fresh))
			}
			if path != "" {
				fresh = append(fresh, path)
			}
		}
		return struct{}{}, nil
	})
	h.refreshPools(ctx, disks)
	return err
}

// createDisk makes one file and returns its path, empty when it was there from an earlier call.
func (h *Host) createDisk(migration string, disk hypervisor.Disk) (string, error) {
	bad := func(class hypervisor.Class, format string, args ...any) (string, error) {
		return "", refuse("create disk "+disk.Target, "", class, format, args...)
	}
	format := orElse(disk.Format, "raw")
	switch {
	case !filepath.IsAbs(disk.Source) || strings.HasPrefix(filepath.Clean(disk.Source), "/dev/"):
		return bad(hypervisor.ClassUnsupported, "%q is no file: only files can be made", disk.Source)
	case format != "raw" && format != "qcow2":
		return bad(hypervisor.ClassUnsupported, "format %q: want raw or qcow2", format)
	case disk.Size <= 0:
		return bad(hypervisor.ClassArgument, "size of %s is not known", disk.Source)
	}
	if ours, _ := h.copies.owns(migration, disk.Source); ours {
		if info, err := os.Stat(disk.Source); err != nil || info.Size() > 0 {
			return "", nil
		}
		// An earlier call was cut off between making the file and giving it its size. Nothing is being copied
		// into an empty one: whoever asked has no answer yet.
		if err := makeImage(disk.Source, format, disk.Size); err != nil {
			return bad(hypervisor.ClassFailed, "%v", errors.Join(err, h.takeBack(migration, []string{disk.Source})))
		}
		return disk.Source, nil
	}
	// Exclusive, so that nothing that exists is ever touched, even by a race.
	f, err := os.OpenFile(disk.Source, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, os.ErrExist) {
		return bad(hypervisor.ClassInvalid, "%s exists already and was not made for this migration", disk.Source)
	}
	if err != nil {
		return bad(hypervisor.ClassFailed, "%s", reasonOf(err, disk.Source))
	}
	_ = f.Close()
	err = h.copies.record(migration, disk.Source)
	if err == nil {
		err = makeImage(disk.Source, format, disk.Size)
	}
	if err != nil {
		return bad(hypervisor.ClassFailed, "%v", errors.Join(err, h.takeBack(migration, []string{disk.Source})))
	}
	return disk.Source, nil
}

// makeImage gives an empty file the format and the size.
func makeImage(path, format string, size hypervisor.Bytes) error {
	ctx, cancel := context.WithTimeout(context.Background(), imageLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, imageTool, "create", "-q", "-f", format, path, strconv.FormatInt(int64(size), 10))
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", imageTool, path, err, strings.TrimSpace(string(out)))
	}
	return nil
}

// RemoveDisks removes the files that were made for a migration which did not happen. It removes
// nothing else: a file that was replaced meanwhile, or that a domain here uses, stays, and as long as
// one domain can't tell what it uses, all stay (ClassBusy). It may be repeated, and is done when there
// is nothing left.
func (h *Host) RemoveDisks(ctx context.Context, migration string) error {
	if len(h.copies.files(migration)) == 0 && !h.copies.working(migration) {
		return nil
	}
	used, err := h.usedPaths(ctx)
	if err != nil {
		return err
	}
	r := request{op: "discard disks", limit: imageLimit, slots: h.fileSlots}
	removed, err := ask(ctx, h.t, r, func() ([]hypervisor.Disk, error) {
		// A call that makes files for this migration and that nobody waits for any more comes first.
		defer h.copies.work(migration)()
		if ctx.Err() != nil {
			return nil, gaveUp(r.op, "", ctx.Err())
		}
		var free []string
		var disks []hypervisor.Disk
		var kept []error
		for _, path := range h.copies.files(migration) {
			if by, ok := used[path]; ok {
				kept = append(kept, refuse("discard disk", by, hypervisor.ClassInvalid, "%s is in use by a VM here and stays", path))
				continue
			}
			free, disks = append(free, path), append(disks, hypervisor.Disk{Source: path})
		}
		return disks, errors.Join(append(kept, h.takeBack(migration, free))...)
	})
	h.refreshPools(ctx, removed)
	return err
}

// usedPaths are the disk sources of all domains here, active or defined, read afresh. A domain that
// can't be read makes it fail: its disks would pass for unused.
func (h *Host) usedPaths(ctx context.Context) (map[string]hypervisor.DomainID, error) {
	listed, err := h.listDomains(ctx)
	if err != nil {
		return nil, err
	}
	used := map[string]hypervisor.DomainID{}
	shared := h.sharedDir()
	for _, l := range listed {
		r := request{op: "used disks", domain: l.id, limit: factsLimit}
		read, err := onDomain(ctx, h, r, func(d *libvirt.Domain) (definition, error) { return readDomain(d, shared) })
		if hypervisor.IsClass(err, hypervisor.ClassNoDomain) {
			continue
		}
		if err != nil {
			return nil, &hypervisor.Error{
				Op: "discard disks", Domain: l.id, Class: hypervisor.ClassBusy, Err: err,
				Message: fmt.Sprintf("which disks VM %s uses can't be known now, so none is removed", l.name),
			}
		}
		for _, disk := range read.facts.Disks {
			used[disk.Source] = l.id
		}
	}
	return used, nil
}

// takeBack removes files that are still the ones that were made.
func (h *Host) takeBack(migration string, paths []string) error {
	var errs []error
	for _, path := range paths {
		switch same, err := h.copies.owns(migration, path); {
		case errors.Is(err, os.ErrNotExist):
		case err != nil:
			errs = append(errs, err)
			continue
		case !same:
			h.log.Warn("file made for a migration was replaced, it stays", "path", path, "migration", migration)
		default:
			if err := os.Remove(path); err != nil {
				errs = append(errs, err)
				continue
			}
		}
		errs = append(errs, h.copies.strike(migration, path))
	}
	return errors.Join(errs...)
}

// refreshPools lets libvirt's storage pools see files that came or went in their directories.
func (h *Host) refreshPools(ctx context.Context, disks []hypervisor.Disk) {
	dirs := map[string]bool{}
	for _, d := range disks {
		dirs[filepath.Dir(d.Source)] = true
	}
	_, err := onHost(ctx, h, "refresh pools", func(lv *libvirt.Connect) (struct{}, error) {
		for dir := range dirs {
			pool, err := lv.LookupStoragePoolByTargetPath(dir)
			if err != nil {
				continue // no pool there, or no storage driver
			}
			if err := pool.Refresh(0); err != nil {
				h.log.Debug("storage pool not refreshed", "path", dir, "err", err)
			}
			_ = pool.Free()
		}
		return struct{}{}, nil
	})
	if err != nil {
		h.log.Debug("storage pools not refreshed", "err", err)
	}
}

// identity is what tells a file from another of the same name, even one that was given the freed
// inode: the number and the moment of birth. A file system that keeps no birth times gives 0 there.
type identity struct {
	Device uint64 `json:"device"`
	Inode  uint64 `json:"inode"`
	Born   int64  `json:"born"` // nanoseconds since 1970
}

// identify reads a file's identity; os.ErrNotExist when there is none.
func identify(path string) (identity, error) {
	var x unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_INO|unix.STATX_BTIME, &x)
	if err != nil {
		return identity{}, &os.PathError{Op: "statx", Path: path, Err: err}
	}
	id := identity{Device: unix.Mkdev(x.Dev_major, x.Dev_minor), Inode: x.Ino}
	if x.Mask&unix.STATX_BTIME != 0 {
		id.Born = x.Btime.Sec*1e9 + int64(x.Btime.Nsec)
	}
	return id, nil
}
