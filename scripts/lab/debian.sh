#!/usr/bin/env bash
# What the lab takes from Debian's archive, with the set-up's own way of asking for it (scripts/setup/apt.sh).
#
#   debian.sh mirror              prints the address of the archive that this system's apt configuration names
#   debian.sh install PACKAGE...  installs what is missing; removes and upgrades nothing
#   debian.sh qemu TARGET SUITE   unpacks QEMU of SUITE into TARGET; the system's own stays as it is
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
CACHE="$ROOT/.cache/lab"
mkdir -p "$CACHE/apt"
# shellcheck source=scripts/setup/apt.sh
source "$ROOT/scripts/setup/apt.sh"
VERSION_CODENAME=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release | tr -d '"')

mirror() {
  local uri
  uri=$(archive_uri)
  if [[ -z $uri ]]; then
    apt_update >&2
    uri=$(archive_uri)
  fi
  [[ -n $uri ]] || {
    echo "no apt source of this system offers \"$VERSION_CODENAME main\": cannot tell which mirror to use" >&2
    return 1
  }
  printf '%s\n' "$uri"
}

install() { install_system_packages "$@"; }

qemu() {
  local target=$1
  PRIVATE_SUITES=("$2")
  update_private_lists
  download_debs "$CACHE/apt/qemu.$$" private_apt "${@:3}"
  unpack_tree "$target" "$2 ${*:3}" "$CACHE/apt/qemu.$$"
}

"$@"
