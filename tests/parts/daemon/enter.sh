#!/bin/sh
# Usage: enter.sh WORLD UID GID. A user's session in namespaces of its own: a tmpfs on /run, cgroup v2 whatever the host
# has, none of the host's own user units. It lives as long as standard input is open; what runs in it ends with it.
set -eu
world=$1 uid=$2 gid=$3

if [ "${4:-}" != inside ]; then
    # Outside of the process namespace: tidies up the control groups when all else has ended.
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
    group=/sys/fs/cgroup/slotd-session-$$
    mkdir "$group"
    chown "$uid:$gid" "$group" "$group"/cgroup.procs "$group"/cgroup.subtree_control "$group"/cgroup.threads
    GROUP=$group unshare --mount --pid --fork --mount-proc --kill-child sh "$0" "$world" "$uid" "$gid" inside || true
    find "$group" -depth -type d -exec rmdir {} + 2>/dev/null || true
    exit 0
fi

echo $$ >"$GROUP/cgroup.procs"
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/systemd/system
for directory in /usr/lib/systemd/user /etc/systemd/user /usr/local/lib/systemd/user /usr/share/systemd/user \
    /usr/lib/systemd/user-generators /usr/lib/systemd/user-environment-generators; do
    if [ -d "$directory" ]; then
        mount -t tmpfs tmpfs "$directory"
    fi
done
cd "$world"
# shellcheck disable=SC2046  # the words are meant to be split
env -i $(cat environment) NOTIFY_SOCKET="$world/ready" setpriv --reuid "$uid" --regid "$gid" --clear-groups \
    /lib/systemd/systemd --user --log-target=console --log-level=notice >systemd.log 2>&1 </dev/null &
cat >/dev/null
