#!/usr/bin/env bash
# Makes the disk of a host: debootstrap, the host's settings and packages (host/finish.sh), an ext4 file system. The tree
# is in memory, in a mount namespace of this process, and gone with it; dpkg's many syncs cost nothing there.
#
#   make-disk.sh DIR MIRROR PACKAGE_CACHE SUITE DISK_KB TIMEOUT_SCALE KERNEL PACKAGE...
#
# Leaves disk.raw.new, vmlinuz and initrd.img in DIR. Preconditions: DIR/ssh-key.pub; runs in a mount namespace of its own.
set -euo pipefail
dir=$1 mirror=$2 packages=$3 suite=$4 disk_kb=$5 timeout_scale=$6 kernel=$7
shift 7
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
tree=$dir/tree

mkdir -p "$tree"
mount -t tmpfs -o mode=0755,size=6g tmpfs "$tree"
debootstrap --variant=minbase --cache-dir="$packages" "$suite" "$tree" "$mirror"

cp -rT "$here/host" "$tree"
sed -i "s/@TIMEOUT_SCALE@/$timeout_scale/" "$tree"/etc/{systemd/system.conf.d,ssh/sshd_config.d}/lab.conf
install -D -m 600 "$dir/ssh-key.pub" "$tree/root/.ssh/authorized_keys"
mount -t proc proc "$tree/proc"
mount -t tmpfs tmpfs "$tree/run"
mount --rbind /dev "$tree/dev"
# What was downloaded serves the next build.
mkdir -p "$packages/partial"
mount --bind "$packages" "$tree/var/cache/apt/archives"
chroot "$tree" /finish.sh "$suite" "$kernel" "$@"
umount -l "$tree/proc" "$tree/run" "$tree/dev" "$tree/var/cache/apt/archives"

# QEMU loads the kernel itself: the disk needs no boot loader.
cp "$tree"/boot/vmlinuz-* "$dir/vmlinuz"
cp "$tree"/boot/initrd.img-* "$dir/initrd.img"
rm -f "$dir/disk.raw.new"
mkfs.ext4 -q -F -m 0 -E lazy_itable_init=1 -d "$tree" "$dir/disk.raw.new" "$disk_kb"
