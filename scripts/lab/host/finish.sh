#!/bin/sh
# Runs in the new host's tree, as its root: packages, then the settings that make it one of the lab.
#   finish.sh OTHER_KERNEL PACKAGE...
set -eu
export DEBIAN_FRONTEND=noninteractive LC_ALL=C
other_kernel=$1
shift

# Nothing starts while packages are installed.
printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
chmod 755 /usr/sbin/policy-rc.d
apt-get -q update
apt-get -q -y --no-install-recommends install "$@"

# The second kernel for the tests of an upgrade; with what it needs that is not there.
mkdir -p /var/lib/lab/kernel
real=$(apt-cache depends "$other_kernel" | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)/\1/p' | head -n 1)
apt-get -q -y --no-install-recommends --download-only -o Dir::Cache::archives=/var/lib/lab/kernel install "$real"
rm -rf /var/lib/lab/kernel/lock /var/lib/lab/kernel/partial

# Only what the tests do shall run here.
for timer in apt-daily apt-daily-upgrade dpkg-db-backup fstrim e2scrub_all systemd-tmpfiles-clean; do
    systemctl mask "$timer.timer"
done
systemctl mask serial-getty@ttyS0.service getty@tty1.service
systemctl enable systemd-networkd.service lab-ready.service ssh.service
systemctl disable systemd-networkd-wait-online.service || true
echo '/dev/vda / ext4 rw,noatime 0 1' >/etc/fstab
: >/etc/resolv.conf
chown -R root:root /root/.ssh /etc/hosts /etc/hostname
chmod 700 /root/.ssh
chmod 600 /root/.ssh/authorized_keys

apt-get clean
rm -rf /var/lib/apt/lists/* /usr/sbin/policy-rc.d /finish.sh
# Installing must not look for package lists that are not there.
: >/etc/apt/sources.list
rm -f /etc/apt/sources.list.d/*
