#!/bin/sh
# Runs TestKernel on a machine of its own that has control groups v2 only, emulated.
#
#   v2.sh KERNEL    a Linux image with a console on ttyS0, such as Debian's cloud kernel
#
# Needs go, qemu-system-x86_64, a static busybox and cpio. Exit status 0: the test passed.
set -eu
[ $# = 1 ] || { echo "usage: v2.sh KERNEL" >&2; exit 2; }
kernel=$(realpath "$1")
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/root/bin" "$work/root/proc" "$work/root/sys" "$work/root/dev" "$work/root/tmp"
CGO_ENABLED=0 go test -tags lab -c -o "$work/root/throttle.test" .
cp "$(command -v busybox)" "$work/root/bin/busybox"
cat > "$work/root/init" <<'INIT'
#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox mount -t cgroup2 cgroup2 /sys/fs/cgroup
/throttle.test -test.run TestKernel -test.v
echo "status $?"
/bin/busybox poweroff -f
INIT
chmod +x "$work/root/init"
(cd "$work/root" && find . | cpio -o -H newc --quiet) > "$work/initrd"
timeout 180 qemu-system-x86_64 -machine q35 -accel tcg -cpu qemu64 -smp 2 -m 512 -nodefaults -display none \
  -serial stdio -no-reboot -kernel "$kernel" -initrd "$work/initrd" \
  -append "console=ttyS0 quiet panic=-1 cgroup_no_v1=all" | tee "$work/out"
grep -q "^status 0" "$work/out"
