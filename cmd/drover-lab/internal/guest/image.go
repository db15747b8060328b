package guest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"

	"golang.org/x/sys/unix"

	guestsrc "drover/cmd/drover-lab/guest"
)

// Image is a bootable kernel and initramfs.
type Image struct {
	Kernel string
	Initrd string
	Type   string // libvirt's domain type that boots it here: kvm or qemu
}

// kernelPackage is Debian's kernel for virtual machines; it depends on the package with the newest version.
const kernelPackage = "linux-image-cloud-amd64"

// modules are put into the initramfs where the kernel has them as files.
var modules = []string{"virtio", "virtio_ring", "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_pci", "virtio_blk"}

// BuildImage returns the image from the cache, and makes it first if it is not there: it downloads a Debian kernel
// package without installing it, and compiles the guest program. It also says how guests run on this machine, see
// domainType. Only one process at a time does any of that.
func BuildImage(ctx context.Context, cache string) (Image, error) {
	img, err := locked(ctx, cache)
	if err != nil {
		return Image{}, fmt.Errorf("guest image: %w", err)
	}
	return img, nil
}

func locked(ctx context.Context, cache string) (Image, error) {
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return Image{}, err
	}
	lock, err := os.OpenFile(filepath.Join(cache, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return Image{}, err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return Image{}, fmt.Errorf("lock: %w", err)
	}
	kernel := filepath.Join(cache, "kernel")
	img := Image{Kernel: filepath.Join(kernel, "vmlinuz")}
	if _, err := os.Stat(img.Kernel); errors.Is(err, os.ErrNotExist) {
		if err := fetchKernel(ctx, cache, kernel); err != nil {
			return Image{}, fmt.Errorf("kernel: %w", err)
		}
	}
	files, err := readModules(kernel)
	if err != nil {
		return Image{}, err
	}
	sum := sha256.New()
	sum.Write(guestsrc.Source)
	for _, f := range files {
		sum.Write(f.data)
	}
	img.Initrd = filepath.Join(cache, fmt.Sprintf("initramfs-%x.cpio", sum.Sum(nil)[:8]))
	if _, err := os.Stat(img.Initrd); errors.Is(err, os.ErrNotExist) {
		if err := buildInitrd(ctx, cache, img.Initrd, files); err != nil {
			return Image{}, err
		}
	}
	img.Type, err = domainType(ctx, cache, img)
	return img, err
}

func buildInitrd(ctx context.Context, cache, path string, files []cpioFile) error {
	tmp, err := os.MkdirTemp(cache, ".build-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	src, exe := filepath.Join(tmp, "init.c"), filepath.Join(tmp, "init")
	if err := os.WriteFile(src, guestsrc.Source, 0o644); err != nil {
		return err
	}
	if err := run(ctx, tmp, "gcc", "-O2", "-Wall", "-static", "-pthread", "-s", "-o", exe, src); err != nil {
		return err
	}
	program, err := os.ReadFile(exe)
	if err != nil {
		return err
	}
	var archive bytes.Buffer
	if err := writeCPIO(&archive, append([]cpioFile{{name: "init", data: program}}, files...)); err != nil {
		return err
	}
	out := filepath.Join(tmp, "initramfs")
	if err := os.WriteFile(out, archive.Bytes(), 0o644); err != nil {
		return err
	}
	return os.Rename(out, path)
}

func readModules(kernel string) ([]cpioFile, error) {
	var files []cpioFile
	for _, m := range modules {
		data, err := os.ReadFile(filepath.Join(kernel, m+".ko"))
		if errors.Is(err, os.ErrNotExist) {
			continue
		} else if err != nil {
			return nil, err
		}
		files = append(files, cpioFile{name: m + ".ko", data: data})
	}
	return files, nil
}

var dependsRE = regexp.MustCompile(`linux-image-[0-9][^ ,(]*`)

// fetchKernel puts vmlinuz and the modules into dir, whole or not at all.
func fetchKernel(ctx context.Context, cache, dir string) error {
	out, err := exec.CommandContext(ctx, "apt-cache", "show", "--no-all-versions", kernelPackage).Output()
	if err != nil {
		return fmt.Errorf("apt knows no %s (run apt-get update): %w", kernelPackage, err)
	}
	pkg := dependsRE.FindString(dependsLine(string(out)))
	if pkg == "" {
		return fmt.Errorf("%s names no kernel among its dependencies", kernelPackage)
	}
	tmp, err := os.MkdirTemp(cache, ".kernel-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	// The sandbox user may not write to a private directory, and apt says so at length.
	if err := run(ctx, tmp, "apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", pkg); err != nil {
		return err
	}
	debs, err := filepath.Glob(filepath.Join(tmp, "*.deb"))
	if err != nil || len(debs) != 1 {
		return fmt.Errorf("download of %s left %d files: %w", pkg, len(debs), errors.Join(err))
	}
	tree, ready := filepath.Join(tmp, "tree"), filepath.Join(tmp, "ready")
	if err := run(ctx, tmp, "dpkg", "-x", debs[0], tree); err != nil {
		return err
	}
	if err := os.Mkdir(ready, 0o755); err != nil {
		return err
	}
	if err := pick(ctx, tree, ready); err != nil {
		return err
	}
	return os.Rename(ready, dir)
}

func dependsLine(show string) string {
	for line := range strings.Lines(show) {
		if rest, ok := strings.CutPrefix(line, "Depends:"); ok {
			return rest
		}
	}
	return ""
}

// pick moves what a guest needs from an unpacked kernel package; newer ones have their modules compressed.
func pick(ctx context.Context, tree, ready string) error {
	kernels, err := filepath.Glob(filepath.Join(tree, "boot", "vmlinuz-*"))
	if err != nil || len(kernels) != 1 {
		return fmt.Errorf("package has %d kernels: %w", len(kernels), errors.Join(err))
	}
	if err := os.Rename(kernels[0], filepath.Join(ready, "vmlinuz")); err != nil {
		return err
	}
	want := map[string]bool{}
	for _, m := range modules {
		want[m] = true
	}
	return filepath.WalkDir(tree, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, packed := strings.CutSuffix(d.Name(), ".xz")
		module, isModule := strings.CutSuffix(name, ".ko")
		if !isModule || !want[strings.ReplaceAll(module, "-", "_")] {
			return nil
		}
		if packed {
			if err := run(ctx, tree, "xz", "-d", path); err != nil {
				return err
			}
			path = strings.TrimSuffix(path, ".xz")
		}
		return os.Rename(path, filepath.Join(ready, strings.ReplaceAll(module, "-", "_")+".ko"))
	})
}

// run runs a tool and makes its last words part of the error.
func run(ctx context.Context, dir string, argv ...string) error {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %s: %w", argv[0], strings.TrimSpace(string(out)), err)
	}
	return nil
}
