#!/bin/sh
# Runs in the new host's tree, as its root: packages, then the settings that make it one of the lab.
#   finish.sh SUITE KERNEL PACKAGE...
set -eu
export DEBIAN_FRONTEND=noninteractive LC_ALL=C
suite=$1
kernel=$2
shift 2

# Nothing starts while packages are installed.
printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
chmod 755 /usr/sbin/policy-rc.d
apt-get -q update
apt-get -q -y --no-install-recommends install "$@"

# A second kernel for the tests of an upgrade: that of the backports, not installed.
mkdir -p /var/lib/lab/kernel/partial
sed "s/ $suite / $suite-backports /" /etc/apt/sources.list >/etc/apt/sources.list.d/backports.list
apt-get -q update
apt-get -q -y --no-install-recommends --download-only -o Dir::Cache::archives=/var/lib/lab/kernel \
    -t "$suite-backports" install "$kernel"
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

rm -rf /var/lib/apt/lists/* /usr/sbin/policy-rc.d /finish.sh
# Installing must not look for package lists that are not there.
: >/etc/apt/sources.list
rm -f /etc/apt/sources.list.d/*
