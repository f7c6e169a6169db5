# Runs as process 1 of its own PID and mount namespace, so that everything here ends and
# every mount vanishes with it. $1 is an empty directory, $2 a name for its cgroups; what
# follows is for nspawn.
set -eu

mount --make-rprivate /
mount -t proc proc /proc

# A cgroup of its own: nspawn makes fixed names below the one it is in.
for hierarchy in /sys/fs/cgroup /sys/fs/cgroup/systemd /sys/fs/cgroup/unified; do
	[ -e "$hierarchy/cgroup.procs" ] || continue
	mkdir "$hierarchy/$2"
	echo $$ >"$hierarchy/$2/cgroup.procs"
done

mount -t tmpfs -o mode=0755 tmpfs "$1"
cd "$1"
mkdir upper work root
mount -t overlay overlay -o lowerdir=/,upperdir=upper,workdir=work root

# What this machine starts by itself, mounts, logs and deploys is none of the host's.
cd root/etc
rm -rf systemd/system rc?.d fstab hostname machine-id sando ../opt ../var/log/journal
mkdir systemd/system ../opt ../var/log/journal
: >fstab
tr -d - </proc/sys/kernel/random/uuid >machine-id
for unit in console-getty.service getty.target systemd-logind.service systemd-update-utmp.service \
	systemd-update-utmp-runlevel.service systemd-random-seed.service systemd-networkd.service \
	systemd-resolved.service systemd-timesyncd.service ldconfig.service; do
	ln -s /dev/null "systemd/system/$unit"
done
cd "$1"
group=$2
shift 2

# 133 is a reboot.
while :; do
	code=0
	systemd-nspawn --quiet --directory=root --boot --machine="$group" --register=no --keep-unit \
		--console=pipe --notify-ready=yes "$@" systemd.firstboot=off </dev/null || code=$?
	[ "$code" = 133 ] || exit "$code"
done
