#!/bin/sh
# Builds the Debian packages drover and drover-agent from programs that are built already.
#
#   build.sh VERSION BUILDDIR DISTDIR
#
# Needs dpkg-deb and binutils only. The same input gives the same packages, byte for byte: all times
# are SOURCE_DATE_EPOCH (default: the last commit's).
set -eu
[ $# = 3 ] || { echo "usage: build.sh VERSION BUILDDIR DISTDIR" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
deploy=$(dirname "$here")
build=$(cd "$2" && pwd)
mkdir -p "$3"
dist=$(cd "$3" && pwd)
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git -C "$here" log -1 --format=%ct 2>/dev/null || date +%s)}
export SOURCE_DATE_EPOCH LC_ALL=C TZ=UTC
umask 022
version=$("$here/version.sh" "$1")
arch=$(dpkg --print-architecture)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# put MODE SOURCE TARGET
put() { install -D -m "$1" "$2" "$root$3"; }

# libc VERSION that a program needs at least: the newest symbol version that it refers to.
libc() { objdump -T "$1" | grep -o 'GLIBC_[0-9.]*' | sort -Vu | tail -n 1 | cut -d_ -f2; }

# docs PACKAGE
docs() {
  put 644 "$deploy/README.md" "/usr/share/doc/$1/README.md"
  {
    echo 'Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/'
    echo
    echo 'Files: *'
    echo "Copyright: $(date -u -d "@$SOURCE_DATE_EPOCH" +%Y) the drover authors"
    echo 'License: Apache-2.0'
    echo ' On Debian systems the text of this licence is in /usr/share/common-licenses/Apache-2.0.'
  } > "$root/usr/share/doc/$1/copyright"
  printf '%s (%s) unstable; urgency=medium\n\n  * Built from %s.\n\n -- %s  %s\n' \
    "$1" "$version" "$deb_source" "$maintainer" "$(date -u -R -d "@$SOURCE_DATE_EPOCH")" |
    gzip -9n > "$root/usr/share/doc/$1/changelog.gz"
}

# pack PACKAGE: adds the control files to $root and builds. @WORDS@ in control are filled in.
pack() {
  install -d -m 755 "$root/DEBIAN"
  for f in postinst prerm postrm; do install -m 755 "$here/$1/$f" "$root/DEBIAN/$f"; done
  (cd "$root" && find etc -type f | sort | sed 's,^,/,') > "$root/DEBIAN/conffiles"
  (cd "$root" && find . -type f ! -path './DEBIAN/*' -printf '%P\n' | sort | xargs -d '\n' md5sum) > "$root/DEBIAN/md5sums"
  size=$(find "$root" -type f ! -path '*/DEBIAN/*' -printf '%s\n' | awk '{ s += int(($1 + 1023) / 1024) } END { print s }')
  sed -e "s|@VERSION@|$version|; s|@ARCH@|$arch|; s|@SIZE@|$size|; s|@LIBC@|${libc:-}|; s|@MAINTAINER@|$maintainer|" \
    "$here/$1/control" > "$root/DEBIAN/control"
  find "$root" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
  # One thread: how xz cuts its blocks among several would depend on the machine.
  dpkg-deb --root-owner-group --threads-max=1 -Zxz --build "$root" "$dist/$1_${version}_$arch.deb" >/dev/null
  echo "$dist/$1_${version}_$arch.deb"
}

deb_source=$1
maintainer=${DEB_MAINTAINER:-drover <drover@localhost>}

root=$work/drover
put 755 "$build/drover" /usr/bin/drover
put 644 "$deploy/systemd/drover-scheduler.service" /usr/lib/systemd/system/drover-scheduler.service
put 644 "$deploy/systemd/drover.sysusers" /usr/lib/sysusers.d/drover.conf
put 644 "$deploy/config/scheduler.yaml" /etc/drover/scheduler.yaml
put 644 "$deploy/prometheus/drover.rules.yaml" /usr/share/doc/drover/examples/drover.rules.yaml
put 644 "$deploy/grafana/drover.json" /usr/share/doc/drover/examples/grafana-drover.json
for shell in bash:/usr/share/bash-completion/completions/drover \
  zsh:/usr/share/zsh/vendor-completions/_drover \
  fish:/usr/share/fish/vendor_completions.d/drover.fish; do
  "$build/drover" completion "${shell%%:*}" > "$work/completion"
  put 644 "$work/completion" "${shell#*:}"
done
docs drover
pack drover

root=$work/drover-agent
libc=$(libc "$build/drover-agent")
put 755 "$build/drover-agent" /usr/bin/drover-agent
put 644 "$deploy/systemd/drover-agent.service" /usr/lib/systemd/system/drover-agent.service
put 644 "$deploy/config/agent.yaml" /etc/drover/agent.yaml
docs drover-agent
pack drover-agent
