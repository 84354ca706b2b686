#!/usr/bin/env bash
# Everything that building, testing and the demo need, on Debian 12 or 13 with Node 20.18 or later and root.
# Runs again in well under a second when nothing changed. What it fetches and builds is below .cache, dist and
# node_modules; on the system it only installs missing Debian packages. CAISSON_SETUP_FORCE=1 ignores the stamp.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
CACHE="$ROOT/.cache"
cd "$ROOT"
mkdir -p "$CACHE/log"
# shellcheck source=scripts/setup/steps.sh
source "$ROOT/scripts/setup/steps.sh"
# shellcheck source=scripts/setup/apt.sh
source "$ROOT/scripts/setup/apt.sh"

STARTED=$EPOCHREALTIME
STAMP="$CACHE/setup.stamp"
SYSROOT_KEY="2 $SYSROOT_SUITE ${SYSROOT_PACKAGES[*]}"
TOOLS_KEY="2 $VSOCK_SUITE ${VSOCK_PACKAGES[*]} busybox-static"
CONTAINERD_KEY=1

check_system() {
  command -v node >/dev/null || setup_fail "Node.js is not installed; version 20.18 or later is needed"
  node -e 'const [major, minor] = process.versions.node.split("."); process.exit(major * 100 + +minor < 2018 ? 1 : 0)' ||
    setup_fail "Node.js $(node --version) is too old; version 20.18 or later is needed"
  NODE_HEADERS=$(node -p 'require("node:path").resolve(process.execPath, "../../include/node")')
  command -v npm >/dev/null || setup_fail "npm is not installed; it comes with Node.js or as the Debian package npm"
  [[ $(uname -m) == x86_64 ]] || setup_fail "this machine is $(uname -m); only x86_64 is supported"
  [[ -r /etc/os-release ]] || setup_fail "/etc/os-release is missing; Debian 12 or 13 is needed"
  VERSION_CODENAME=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release | tr -d '"')
  case $VERSION_CODENAME in
    bookworm | trixie) ;;
    *) setup_fail "this system is \"${VERSION_CODENAME:-unknown}\"; Debian 12 (bookworm) or 13 (trixie) is needed" ;;
  esac
  ((EUID == 0)) || setup_fail "must run as root (packages, mounts, namespaces)"
}

# One hash over every input of the build, the tools that read them and the kernels on offer.
inputs_key() {
  {
    find src guest-agent osbuilder proto configs scripts/setup scripts/setup.sh scripts/build*.mjs package.json \
      package-lock.json tsconfig.json -name node_modules -prune -o -type f -print0 2>/dev/null | sort -z | xargs -0 sha256sum
    node --version
    uname -r
    ls -d /lib/modules/*/modules.dep /boot/vmlinuz-* 2>/dev/null || true
    echo "$ROOT $VERSION_CODENAME $SYSROOT_KEY $TOOLS_KEY $CONTAINERD_KEY ${CONTAINERDS[*]}"
  } | sha256sum | cut -d ' ' -f 1
}

outputs_exist() {
  local file
  for file in dist/bin/containerd-shim-caisson-v2 dist/bin/osbuilder dist/lib/shim-server.cjs dist/guest/agent \
    dist/native/caisson.node node_modules/.package-lock.json .cache/tools/.stamp .cache/sysroot/.stamp \
    .cache/containerd-1.7/.stamp .cache/containerd-2.1/.stamp .cache/images/caisson-initrd.img .cache/images/vmlinuz.container; do
    [[ -e $file ]] || return 1
  done
}

# Compares what npm installed with the lock file, so that a node_modules made by hand counts too.
node_modules_current() {
  [[ -f node_modules/.package-lock.json ]] || return
  node -e '
    const read = (path) => JSON.parse(require("node:fs").readFileSync(path, "utf8")).packages;
    const have = read("node_modules/.package-lock.json");
    const stale = Object.entries(read("package-lock.json")).some(([path, want]) =>
      path !== "" && (have[path] === undefined ? want.optional !== true : have[path].version !== want.version));
    process.exit(stale ? 1 : 0);'
}

install_node_modules() {
  npm ci --no-audit --no-fund --loglevel=warn
}

fetch_sysroot() {
  update_private_lists || return
  download_debs "$CACHE/apt/sysroot.$$" private_apt "${SYSROOT_PACKAGES[@]/%//$SYSROOT_SUITE}" || return
  unpack_tree "$CACHE/sysroot" "$SYSROOT_KEY" "$CACHE/apt/sysroot.$$"
}

fetch_tools() {
  update_private_lists || return
  download_debs "$CACHE/apt/tools.$$" private_apt "${VSOCK_PACKAGES[@]/%//$VSOCK_SUITE}" || return
  if ! (download_debs "$CACHE/apt/tools.$$" apt-get busybox-static); then
    apt_update || return
    download_debs "$CACHE/apt/tools.$$" apt-get busybox-static || return
  fi
  unpack_tree "$CACHE/tools" "$TOOLS_KEY" "$CACHE/apt/tools.$$" || return
  "$CACHE/tools/usr/bin/vhost-device-vsock" --version || {
    echo "vhost-device-vsock of Debian $VSOCK_SUITE does not start on this system"
    return 1
  }
}

# fetch_containerd SERIES SUITE: unpacked only; the system's own containerd, and its runc, stay as they are.
fetch_containerd() {
  local target="$CACHE/containerd-$1" version
  update_private_lists || return
  download_debs "$CACHE/apt/containerd.$$" private_apt "containerd/$2" || return
  unpack_tree "$target" "$CONTAINERD_KEY $1 $2" "$CACHE/apt/containerd.$$" || return
  version=$("$target/usr/bin/containerd" --version) || {
    echo "containerd of Debian $2 does not start on this system"
    return 1
  }
  echo "note: $(cut -d ' ' -f 3 <<<"$version")"
}

# A kernel for the guests: one whose modules are on this system, else Debian's cloud kernel, unpacked below .cache.
# The choice is osbuilder's own: the running kernel, else the newest in /lib/modules.
have_system_kernel() {
  local release
  release=$(uname -r)
  if [[ ! -f /lib/modules/$release/modules.dep ]]; then release=$(find /lib/modules/ -mindepth 1 -maxdepth 1 -printf '%f\n' 2>/dev/null | sort -V | tail -n 1); fi
  [[ -f /lib/modules/$release/modules.dep && (-f /boot/vmlinuz-$release || -f /lib/modules/$release/vmlinuz) ]]
}

fetch_kernel() {
  local package release fresh="$CACHE/kernel.new.$$"
  package=$(apt-cache depends linux-image-cloud-amd64 2>/dev/null | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)/\1/p' | head -n 1)
  if [[ -z $package ]]; then
    apt_update || return
    package=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)/\1/p' | head -n 1)
  fi
  [[ -n $package ]] || {
    echo "Debian package \"linux-image-cloud-amd64\" is not offered by this system's apt sources"
    return 1
  }
  download_debs "$CACHE/apt/kernel.$$" apt-get "$package" || return
  unpack_tree "$fresh" "$package" "$CACHE/apt/kernel.$$" || return
  # The package's own set-up would write modules.dep.
  release=${package#linux-image-}
  depmod -b "$fresh" "$release" || return
  replace_tree "$fresh" "$CACHE/kernel"
  echo "note: $release, unpacked only"
}

build_image() {
  local -a kernel=()
  local release
  if [[ -f $CACHE/kernel/.stamp ]]; then
    release=$(ls "$CACHE/kernel/lib/modules")
    kernel=(--modules-dir "$CACHE/kernel/lib/modules/$release" --kernel-image "$CACHE/kernel/boot/vmlinuz-$release")
  fi
  dist/bin/osbuilder generate -c --image-dir "$CACHE/images" "${kernel[@]}"
}

run_steps() {
  local -a missing
  mapfile -t missing < <(missing_system_packages)
  if ((${#missing[@]} > 0)); then
    step "system packages" install_system_packages "${missing[@]}"
    mapfile -t missing < <(missing_system_packages)
    ((${#missing[@]} == 0)) || setup_fail "still missing after the installation: ${missing[*]}"
  fi
  if ! node_modules_current; then step "npm packages" install_node_modules; fi
  if ! tree_is_fresh "$CACHE/sysroot" "$SYSROOT_KEY"; then step "build libraries of $SYSROOT_SUITE" fetch_sysroot; fi
  if ! tree_is_fresh "$CACHE/tools" "$TOOLS_KEY"; then step "tools" fetch_tools; fi
  local entry
  for entry in "${CONTAINERDS[@]}"; do
    if ! tree_is_fresh "$CACHE/containerd-${entry%%:*}" "$CONTAINERD_KEY ${entry%%:*} ${entry#*:}"; then
      step "containerd ${entry%%:*}" fetch_containerd "${entry%%:*}" "${entry#*:}"
    fi
  done
  if ! have_system_kernel && [[ ! -f $CACHE/kernel/.stamp ]]; then step "guest kernel" fetch_kernel; fi
  step "build" node scripts/build.mjs
  step "guest image" build_image
}

check_system
# One set-up at a time in this checkout; the lock goes with the process.
exec 9>"$CACHE/setup.lock"
if ! flock -n 9; then
  echo "setup: another set-up runs in this checkout; waiting for it (at most 15 minutes)"
  flock -w 900 9 || setup_fail "another set-up still holds $CACHE/setup.lock"
fi
KEY=$(inputs_key)
if [[ -z ${CAISSON_SETUP_FORCE:-} && -f $STAMP && $(<"$STAMP") == "$KEY" && -z $(missing_system_packages) ]] && outputs_exist; then
  printf 'setup: up to date (%s s)\n' "$(seconds_since "$STARTED")"
  exit 0
fi
run_steps 9>&-
rm -f "$CACHE"/apt/fresh-*
inputs_key >"$STAMP"
printf 'setup: ready in %s s\n' "$(seconds_since "$STARTED")"
