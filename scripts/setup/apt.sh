# Sourced by scripts/setup.sh: Debian packages. Three sources, none of which changes what is already installed:
#   - the system's own suite, installed with apt-get (nothing is removed, nothing named is upgraded);
#   - single packages of the system's own suite that are only unpacked below .cache (kernel, static busybox);
#   - packages of other suites, fetched through a private package list and only unpacked below .cache.

# The suites that the unpacked packages come from.
SYSROOT_SUITE=trixie
SYSROOT_PACKAGES=(quickjs libquickjs libc6 libc6-dev linux-libc-dev libcrypt-dev libseccomp2 libseccomp-dev)
VSOCK_SUITE=sid
VSOCK_PACKAGES=(vhost-device-vsock)
PRIVATE_SUITES=("$SYSROOT_SUITE" "$VSOCK_SUITE")
# The tests run against these containerds besides the system's: series and the suite that has it.
CONTAINERDS=(1.7:trixie 2.1:sid)

# Short waits, so that a mirror that cannot be reached is an error and not a hang; APT_WAIT bounds the wait for
# another apt or dpkg that holds the lock.
APT_WAIT=300
APT_OPTIONS=(-q -o "DPkg::Lock::Timeout=$APT_WAIT" -o Acquire::Retries=2 -o Acquire::http::Timeout=30
  -o Acquire::https::Timeout=30 -o Acquire::Languages=none -o Dpkg::Use-Pty=0 -o APT::Sandbox::User=root)

# What the programs of the project and its tests call: a file that must exist, and the package that holds it.
# A file already put there by another package (Docker's containerd.io, say) satisfies its line.
system_requirements() {
  cat <<'LIST'
bin/containerd containerd
bin/ctr containerd
sbin/runc runc
bin/qemu-system-x86_64 qemu-system-x86
share/qemu/qboot.rom qemu-system-data
share/seabios/bios-256k.bin seabios
bin/gcc gcc
include/stdio.h libc6-dev
bin/kmod kmod
bin/xz xz-utils
bin/zstd zstd
bin/unshare util-linux
bin/systemd-run systemd
bin/script bsdutils
bin/chromium chromium
bin/lintian lintian
bin/man man-db
bin/zsh zsh
bin/fish fish
sbin/ip iproute2
sbin/debootstrap debootstrap
sbin/mkfs.ext4 e2fsprogs
bin/ssh openssh-client
lib/cni/bridge containernetworking-plugins
share/keyrings/debian-archive-keyring.gpg debian-archive-keyring
LIST
  # The addon is compiled against the headers of the Node that runs it; a Node without its own takes libuv's from Debian
  # (and Node-API's from npm).
  [[ -e ${NODE_HEADERS:-}/uv.h ]] || echo 'include/uv.h libuv1-dev'
  # Debian 12 ships the C virtiofsd with QEMU, Debian 13 the Rust one in a package of its own.
  if [[ $VERSION_CODENAME == bookworm ]]; then
    echo 'lib/qemu/virtiofsd qemu-system-common'
  else
    echo 'libexec/virtiofsd virtiofsd'
  fi
}

# Packages whose file is absent, one per line, each once.
missing_system_packages() {
  local file package
  while read -r file package; do
    case $file in
      bin/* | sbin/*) [[ -e /usr/bin/${file#*/} || -e /usr/sbin/${file#*/} || -e /usr/local/bin/${file#*/} ||
        -e /usr/local/sbin/${file#*/} || -e /bin/${file#*/} || -e /sbin/${file#*/} ]] || echo "$package" ;;
      *) [[ -e /usr/$file || -e /usr/local/$file ]] || echo "$package" ;;
    esac
  done < <(system_requirements) | sort -u
}

apt_update() {
  apt-get "${APT_OPTIONS[@]}" update || {
    echo "apt-get update failed: check the network and the apt configuration in /etc/apt"
    return 1
  }
}

# install_system_packages PACKAGE...: installs what is missing. Fails, naming the package, when one cannot be had.
install_system_packages() {
  local package
  local -a install=(apt-get "${APT_OPTIONS[@]}" install -y --no-install-recommends --no-remove --no-upgrade)
  export DEBIAN_FRONTEND=noninteractive
  "${install[@]}" "$@" && return
  # Lists that are absent or older than the mirror: fetch them once and try again.
  apt_update || return
  for package in "$@"; do
    apt-cache show "$package" >/dev/null 2>&1 || {
      echo "Debian package \"$package\" is not offered by this system's apt sources (Debian $VERSION_CODENAME main is needed)"
      return 1
    }
  done
  "${install[@]}" "$@" || {
    echo "cannot install: $*. Fix what apt says above, or install them by hand, then run this again"
    return 1
  }
}

# The address of the Debian archive that this system's own apt configuration names for its own suite.
archive_uri() {
  apt-get indextargets --format '$(RELEASE) $(CODENAME) $(COMPONENT) $(REPO_URI)' 'Identifier: Packages' 2>/dev/null |
    awk -v own="$VERSION_CODENAME" '($1 == own || $2 == own) && $3 == "main" { print $4; exit }'
}

# private_apt COMMAND...: apt with our own lists of the other suites; the system's lists and state stay as they are.
private_apt() {
  local program=$1
  shift
  "$program" "${APT_OPTIONS[@]}" -o "Dir::Etc::sourcelist=$CACHE/apt/sources.list" -o Dir::Etc::sourceparts=/dev/null \
    -o Dir::Etc::preferences=/dev/null -o Dir::Etc::preferencesparts=/dev/null -o "Dir::State::lists=$CACHE/apt/lists" \
    -o "Dir::Cache=$CACHE/apt/cache" -o Acquire::PDiffs=false -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false \
    -o Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled=false "$@"
}

# Fetches the package lists of the other suites, once per set-up run that needs them.
update_private_lists() {
  local uri keyring=/usr/share/keyrings/debian-archive-keyring.gpg
  [[ -e $CACHE/apt/fresh-$$ ]] && return
  uri=$(archive_uri)
  if [[ -z $uri ]]; then
    apt_update || return
    uri=$(archive_uri)
  fi
  [[ -n $uri ]] || {
    echo "no apt source of this system offers \"$VERSION_CODENAME main\": cannot tell which mirror to take" \
      "packages of ${PRIVATE_SUITES[*]} from"
    return 1
  }
  mkdir -p "$CACHE/apt/lists/partial" "$CACHE/apt/cache/archives/partial"
  printf "deb [signed-by=$keyring] $uri %s main\n" "${PRIVATE_SUITES[@]}" >"$CACHE/apt/sources.list"
  if ! private_apt apt-get update 2>&1 | tee "$CACHE/apt/update.log" || grep -q '^[EW]:.*\(Failed\|signature\|NO_PUBKEY\)' "$CACHE/apt/update.log"; then
    if grep -q NO_PUBKEY "$CACHE/apt/update.log"; then
      echo "the installed debian-archive-keyring is too old to check ${PRIVATE_SUITES[*]}:" \
        "run apt-get install debian-archive-keyring, then this again"
    else
      echo "cannot fetch the package lists of ${PRIVATE_SUITES[*]} from this system's mirror"
    fi
    return 1
  fi
  : >"$CACHE/apt/fresh-$$"
}

# download_debs DIR APT PACKAGE...: fetches and checks .deb files into DIR. APT is apt-get or private_apt.
download_debs() {
  local dir=$1 apt=("$2")
  shift 2
  case ${apt[0]} in
    private_apt) apt=(private_apt apt-get) ;;
    *) apt=(apt-get "${APT_OPTIONS[@]}") ;;
  esac
  mkdir -p "$dir"
  (cd "$dir" && "${apt[@]}" download "$@") || {
    echo "cannot download one of these Debian packages (apt says which above): $*"
    return 1
  }
}

# unpack_tree TARGET KEY DEB_DIR: unpacks every .deb of DEB_DIR and puts the result in place of TARGET in one step.
unpack_tree() {
  local target=$1 key=$2 dir=$3 fresh="$1.new.$$" deb
  rm -rf "$fresh"
  mkdir -p "$fresh"
  for deb in "$dir"/*.deb; do
    dpkg-deb -x "$deb" "$fresh" || return
  done
  merge_usr "$fresh"
  (cd "$dir" && ls) >"$fresh/packages.txt"
  printf '%s\n' "$key" >"$fresh/.stamp"
  replace_tree "$fresh" "$target"
  rm -rf "$dir"
}

# merge_usr TREE: one layout whatever the release: everything in usr, and links where older packages put things.
merge_usr() {
  local name
  for name in bin sbin lib; do
    if [[ -d $1/$name ]]; then
      mkdir -p "$1/usr/$name"
      cp -al "$1/$name/." "$1/usr/$name/"
      rm -rf "${1:?}/$name"
    fi
    if [[ -d $1/usr/$name ]]; then ln -s "usr/$name" "$1/$name"; fi
  done
}

# replace_tree NEW TARGET: renames NEW to TARGET; what stood there goes.
replace_tree() {
  local old="$2.old.$$"
  if [[ -e $2 || -L $2 ]]; then mv -T "$2" "$old"; fi
  mv -T "$1" "$2"
  rm -rf "$old"
}

# tree_is_fresh TARGET KEY
tree_is_fresh() { [[ -f $1/.stamp && $(<"$1/.stamp") == "$2" ]]; }
