#!/usr/bin/env bash
# What the lab takes from Debian's archive, with the set-up's own way of asking for it (scripts/setup/apt.sh).
#
#   debian.sh mirror              prints the address of the archive that this system's apt configuration names
#   debian.sh install PACKAGE...  installs what is missing; removes and upgrades nothing
#   debian.sh tree TARGET SUITE PACKAGE...  unpacks packages of SUITE with all they depend on into TARGET, the C library
#                                 among them; the system's own stay as they are
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

tree() {
  local target=$1 suite=$2 dir="$CACHE/apt/tree.$$"
  shift 2
  PRIVATE_SUITES=("$suite")
  update_private_lists
  # With no package installed apt names all that are needed.
  : >"$CACHE/apt/no-status"
  mapfile -t needed < <(private_apt apt-get -o "Dir::State::status=$CACHE/apt/no-status" -s \
    --no-install-recommends install "$@" | sed -n 's/^Inst \([^ ]*\) .*/\1/p')
  ((${#needed[@]} > 0)) || {
    echo "$suite does not offer $* with all they depend on" >&2
    return 1
  }
  echo "${#needed[@]} packages"
  download_debs "$dir" private_apt "${needed[@]}"
  unpack_tree "$target" "$suite $*" "$dir"
}

"$@"
