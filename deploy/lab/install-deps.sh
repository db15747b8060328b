#!/bin/sh
# Installs what building drover and running real lab hosts needs, on Debian 12 or 13.
#
# It installs packages only, says which, starts no service, and does nothing when all is there.
# QEMU and libvirt come from bookworm-backports on Debian 12: QEMU 7.2 of that release corrupts the
# memory of TCG guests in pre-copy with several rounds, so a lab with it would prove nothing.
set -eu

say() { echo "deps: $*"; }
die() { echo "deps: $*" >&2; exit 1; }

build_pkgs="gcc libc6-dev make"
lab_pkgs="busybox-static cpio iproute2 kmod nftables procps util-linux"
virt_pkgs="libvirt-daemon-driver-qemu libvirt-daemon libvirt-clients qemu-system-x86 qemu-utils"

. /etc/os-release
case "${ID:-}:${VERSION_ID:-}" in
  debian:12) suite=bookworm-backports virt_pkgs="$virt_pkgs libvirt-daemon-system" ;;
  debian:13) suite= ;;
  *) die "Debian 12 or 13 is needed for the lab, this is ${PRETTY_NAME:-unknown}" ;;
esac

installed() { dpkg-query -W -f='${db:Status-Abbrev}' "$1" 2>/dev/null | grep -q '^ii'; }
missing=
for p in $build_pkgs $lab_pkgs $virt_pkgs; do installed "$p" || missing="$missing $p"; done
# The stock QEMU 7.2 may be there already: it must be replaced, or nothing measured here holds.
if [ -n "$suite" ] && installed qemu-system-x86; then
  dpkg --compare-versions "$(dpkg-query -W -f='${Version}' qemu-system-x86)" ge 1:9 ||
    missing="$missing qemu-system-x86 qemu-utils"
fi
[ -z "$missing" ] && exit 0

[ "$(id -u)" = 0 ] || die "missing:$missing; run this as root, or install them"
if [ -n "$suite" ] && ! apt-cache policy 2>/dev/null | grep -q "$suite"; then
  # The mirror that this machine already uses serves backports too: take its address from apt.
  mirror=$(apt-get indextargets --format '$(SITE)|$(CODENAME)|$(ORIGIN)' 2>/dev/null |
    awk -F'|' '$2 == "bookworm" { print $1; exit }')
  [ -n "$mirror" ] || die "no Debian mirror is configured: run apt-get update, or add $suite to apt's sources"
  say "adding $suite to apt's sources (/etc/apt/sources.list.d/drover-lab-backports.list)"
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" \
    > /etc/apt/sources.list.d/drover-lab-backports.list
fi
say "installing:$missing"
export DEBIAN_FRONTEND=noninteractive
# Installing libvirt must not start a libvirtd, nor its default network, on a machine that had none.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
  printf '#!/bin/sh\nexit 101\n' > "$policy"
  chmod 755 "$policy"
  trap 'rm -f "$policy"' EXIT
fi
apt-get update -qq
log=$(mktemp)
# shellcheck disable=SC2086
apt-get install -y -qq --no-install-recommends ${suite:+-t "$suite"} $missing >"$log" 2>&1 ||
  { tail -n 20 "$log" >&2; rm -f "$log"; die "apt-get failed, see above"; }
rm -f "$log"
say "done"
