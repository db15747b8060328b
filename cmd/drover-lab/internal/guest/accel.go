package guest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"
)

// kvmPatience is how long a guest under KVM may take to its first word; it needs a tenth of that where KVM works.
const kvmPatience = 4 * time.Second

// domainType returns "kvm" if a guest really boots with it on this machine, else "qemu". That /dev/kvm opens proves
// nothing: some clouds have one in which no guest gets anywhere. The answer is kept until the machine boots again.
func domainType(ctx context.Context, cache string, img Image) (string, error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("accelerator: %w", err)
	}
	note := filepath.Join(cache, "accelerator")
	if known, err := os.ReadFile(note); err == nil {
		if kind, ok := strings.CutPrefix(string(known), string(boot)); ok && kind != "" {
			return kind, nil
		}
	}
	kind := "qemu"
	if _, err := os.Stat("/dev/kvm"); err == nil {
		works, err := tryKVM(ctx, cache, img)
		if err != nil {
			return "", fmt.Errorf("accelerator: %w", err)
		}
		if works {
			kind = "kvm"
		}
	}
	if err := os.WriteFile(note, []byte(string(boot)+kind), 0o644); err != nil {
		return "", fmt.Errorf("accelerator: %w", err)
	}
	return kind, nil
}

func tryKVM(ctx context.Context, cache string, img Image) (bool, error) {
	dir, err := os.MkdirTemp(cache, ".kvm-")
	if err != nil {
		return false, err
	}
	defer os.RemoveAll(dir)
	serial := filepath.Join(dir, "serial")
	ctx, cancel := context.WithTimeout(ctx, kvmPatience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", "-machine", "pc,accel=kvm", "-cpu", "host", "-m", "256",
		"-display", "none", "-nodefaults", "-no-user-config", "-serial", "file:"+serial,
		"-kernel", img.Kernel, "-initrd", img.Initrd, "-append", "console=ttyS0 quiet wss=1048576 rate=1 pattern=idle")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return false, err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	defer func() { cancel(); <-ended }()
	for {
		if data, _ := os.ReadFile(serial); bytes.Contains(data, []byte("\nB ")) {
			return true, nil
		}
		select {
		case err := <-ended:
			ended <- err
			// Ended by itself: KVM refused. Ended by the caller: no answer at all.
			if errors.Is(context.Cause(ctx), context.Canceled) {
				return false, ctx.Err()
			}
			return false, nil
		case <-time.After(20 * time.Millisecond):
		}
	}
}

var aliasRE = regexp.MustCompile(`(?m)^pc\s.*\(alias of (pc-i440fx-[0-9.]+)\)`)

// machineType returns the versioned name of the machine that boots quickest.
func machineType(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "qemu-system-x86_64", "-machine", "help").Output()
	if err != nil {
		return "", fmt.Errorf("machine type: %w", err)
	}
	m := aliasRE.FindSubmatch(out)
	if m == nil {
		return "", errors.New("machine type: QEMU lists no pc machine")
	}
	return string(m[1]), nil
}
