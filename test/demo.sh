#!/usr/bin/env bash
# Three real libvirt hosts on this machine, drover on them with TLS everywhere, and a guest that moves.
# KEEP=1 leaves it running and says how to use it; FORCE=1 runs it on a machine that has guests.
set -euo pipefail
cd "$(dirname "$0")/.."
export DROVER_LAB=${DROVER_LAB:-demo}
lab=build/drover-lab
step() { printf '\n== %s\n' "$*"; }
die() { echo "demo: $*" >&2; exit 1; }

[ "$(id -u)" = 0 ] || die "run as root: it makes network namespaces and starts libvirt in them"
command -v go >/dev/null || die "Go is missing: install Go 1.26 or later first (see README.md)"
if [ "${FORCE:-}" != 1 ]; then
  # The demo's own hosts live in namespaces with a libvirt each; a guest or a libvirtd outside of
  # them is somebody's, and so is the machine's memory and CPU.
  others=
  for p in /proc/[0-9]*; do
    read -r name 2>/dev/null <"$p/comm" || continue # it has ended meanwhile
    case $name in libvirtd* | virtqemud* | qemu-system*)
      [ "$(readlink "$p/ns/pid")" != "$(readlink /proc/self/ns/pid)" ] || others+="  ${p#/proc/} $name"$'\n' ;;
    esac
  done
  [ -z "$others" ] || { printf %s "$others" >&2; die "this machine runs guests or a libvirt of its own; FORCE=1 runs the demo all the same, beside them"; }
fi

step "what is missing is installed (packages only)"
deploy/lab/install-deps.sh
step "build"
make --no-print-directory build

finish() {
  code=$?
  trap - EXIT
  if [ "${KEEP:-}" = 1 ] && [ "$code" = 0 ]; then
    cat <<TEXT

The lab stays up. As root, from this directory:
  export DROVER_LAB=$DROVER_LAB
  $lab drover run -- vm list              any drover command, as an administrator
  $lab drover run -- migrate web --wait
  $lab guest start db --host kvm2         another guest
  $lab --help                             cut, heal, kill and restart hosts, shape links, probe guests
  $lab down                               removes everything
TEXT
  else
    step "clean up"
    $lab down
  fi
  exit "$code"
}
$lab down 2>/dev/null || true
trap finish EXIT
trap 'exit 130' INT TERM

step "three hosts, 400 Mbit/s between them"
$lab up --hosts 3 --shape 400mbit --dir "$PWD/build/lab"
step "the scheduler with its store, and an agent on each host"
$lab drover start
drover() { $lab drover run -- "$@"; }
step "guests"
$lab guest start web --host kvm1 --memory 256MiB --wss 96MiB --rate 1500 --pattern page --disk shared
$lab guest start idle --host kvm1 --memory 128MiB --wss 16MiB --pattern idle --disk shared
sleep 6
drover host list
echo
drover vm list
step "web moves to kvm2, watched from outside"
$lab probe web >build/demo-probe.txt &
probe=$!
sleep 1
drover migrate web --to kvm2 --wait
sleep 1
kill -INT "$probe"
wait "$probe"
step "the record, and what was seen from outside"
drover migration list
drover migration show "$(drover migration list -o json | sed -n 's/.*"id": *"\([^"]*\)".*/\1/p' | head -1)"
echo
echo "seen from outside:"
cat build/demo-probe.txt
rm -f build/demo-probe.txt
step "idle moves to wherever drover thinks best"
drover migrate idle --wait
drover vm list
step "kvm2 is drained: what it would take, then the progress"
drover host drain kvm2 --dry-run
drover host drain kvm2 --wait --reason "new fans"
drover host list
step "and restored: what it had comes home"
drover host restore kvm2 --wait
drover vm list
