#!/bin/sh
# Makes Caisson known to this node's container engines, containerd and CRI-O, and restarts those whose configuration
# changed. What it wrote it finds again: repeating it changes nothing, and --remove takes it away.
#
# Usage: install-node.sh [--remove] [--no-restart] [--root DIR]
#   --root DIR    the node's files are below DIR (default: /)
set -eu

share=$(cd "$(dirname "$0")/.." && pwd)
root=
action=install
restart=yes
begin="# >>> caisson >>>"
end="# <<< caisson <<<"

fail() {
    echo "install-node.sh: $*" >&2
    exit 1
}

while [ $# -gt 0 ]; do
    case $1 in
        --remove) action=remove ;;
        --no-restart) restart=no ;;
        --root)
            [ $# -ge 2 ] || fail "--root needs a directory"
            root=${2%/}
            shift
            ;;
        *) fail "unknown argument $1" ;;
    esac
    shift
done

# Puts standard input at $1 unless it is there already; sets changed=yes.
put() {
    mkdir -p "$(dirname "$1")"
    cat >"$1.caisson-new"
    if [ -e "$1" ] && cmp -s "$1" "$1.caisson-new"; then
        rm "$1.caisson-new"
        return
    fi
    [ ! -e "$1" ] || chmod "$(stat -c %a "$1")" "$1.caisson-new"
    mv "$1.caisson-new" "$1"
    changed=yes
}

take_away() {
    [ -e "$1" ] || return 0
    rm "$1"
    changed=yes
}

restart_engine() {
    [ "$changed" = yes ] && [ "$restart" = yes ] || return 0
    echo "restarting $1"
    systemctl restart "$1"
}

# The main file of containerd without what an earlier run added.
main_file_without_us() {
    [ ! -e "$main" ] || sed "/^$begin\$/,/^$end\$/d" "$main"
}

knows_caisson() {
    containerd --config "$1" config dump | grep -q 'runtimes\.caisson\]'
}

# containerd 1.6 and 1.7: an import would replace the whole section of the CRI plugin, so the tables go into the main file.
containerd_1() {
    main_file_without_us >"$scratch/main"
    if ! grep -q '^version *= *2' "$scratch/main"; then
        # Only a file without any setting can be taken for one of this version.
        ! grep -q '^[^#[:space:]]' "$scratch/main" || fail "$main is not of version 2: convert it first"
        echo "version = 2" >>"$scratch/main"
    fi
    cp "$scratch/main" "$scratch/whole"
    {
        echo "$begin"
        # Naming one runtime takes the others' defaults away.
        grep -q 'runtimes\.runc\]' "$scratch/main" || cat <<'RUNC'
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
RUNC
        grep -v '^version' "$share/containerd/caisson-v2.toml"
        echo "$end"
    } >>"$scratch/whole"
    knows_caisson "$scratch/whole" || fail "containerd does not take the new configuration; nothing was changed"
    put "$main" <"$scratch/whole"
}

# containerd 2: a drop-in of the version of the main file; one of another version would take its CRI settings away.
containerd_2() {
    [ -e "$main" ] || printf 'version = 3\n' >"$main"
    version=$(sed -n 's/^version *= *\([23]\).*/\1/p' "$main")
    [ -n "$version" ] || fail "$main is neither of version 2 nor 3: convert it first (containerd config migrate)"
    put "$root/etc/containerd/conf.d/50-caisson.toml" <"$share/containerd/caisson-v$version.toml"
    ! knows_caisson "$main" || return 0
    main_file_without_us >"$scratch/main"
    ! grep -q '^imports' "$scratch/main" || fail "add \"conf.d/*.toml\" to the imports in $main"
    # Keys of the document stand before its first table.
    { printf '%s\n' "$begin" 'imports = ["conf.d/*.toml"]' "$end" && cat "$scratch/main"; } | put "$main"
    knows_caisson "$main" || fail "containerd does not know Caisson with $main"
}

configure_containerd() {
    main=$root/etc/containerd/config.toml
    changed=no
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
    if [ "$action" = remove ]; then
        take_away "$root/etc/containerd/conf.d/50-caisson.toml"
        if [ -e "$main" ]; then
            main_file_without_us >"$scratch/main"
            put "$main" <"$scratch/main"
        fi
    else
        mkdir -p "$root/etc/containerd"
        case $(containerd --version) in
            *" 2."* | *" v2."*) containerd_2 ;;
            *" 1.6."* | *" 1.7."* | *" v1.6."* | *" v1.7."*) containerd_1 ;;
            *) fail "unknown containerd: $(containerd --version)" ;;
        esac
    fi
    restart_engine containerd
}

configure_crio() {
    changed=no
    if [ "$action" = remove ]; then
        take_away "$root/etc/crio/crio.conf.d/50-caisson"
    else
        put "$root/etc/crio/crio.conf.d/50-caisson" <"$share/crio/50-caisson"
    fi
    restart_engine crio
}

make_image() {
    [ "$action" = install ] && [ "$restart" = yes ] || return 0
    systemctl daemon-reload
    systemctl enable --now caisson-osbuilder-generate.service
}

found=no
make_image
if command -v containerd >/dev/null; then
    found=yes
    configure_containerd
fi
if [ -d "$root/etc/crio" ]; then
    found=yes
    configure_crio
fi
[ "$found" = yes ] || fail "there is neither containerd nor CRI-O on this node"
