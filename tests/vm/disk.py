"""The disk that guests start from: the tree of `tests.system.image`, Debian's kernel, and what a guest adds to it.

The kernel is started by QEMU itself, with a small initial file system that holds the few modules such a machine needs;
all else is on the disk. Cached in `build/images` like the trees of the containers.
"""

from __future__ import annotations

import gzip
import lzma
import re
import shutil
import stat
import struct
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.system.image import Image, ImageError, _cached, _digest, _run

HERE = Path(__file__).parent
DISK_BYTES = 3 << 30  # sparse
NEEDED = ("virtio_pci", "virtio_blk", "ext4", "virtio_net", "virtio_console", "i6300esb")

PROXY = "/lib/systemd/systemd-socket-proxyd"
# Where the app and the source of its releases are, in the guest; outside they have other ports.
APP_PORT, RELEASES_PORT = 8901, 8900

FILES: Mapping[str, str] = {
    "etc/hostname": "testhost\n",
    "etc/machine-id": "0123456789abcdef0123456789abcdef\n",
    "etc/resolv.conf": "",
    "etc/hosts": "127.0.0.1 localhost testhost\n",
    "etc/systemd/journald.conf.d/small.conf": "[Journal]\nStorage=persistent\nSystemMaxUse=64M\nSyncIntervalSec=1s\n",
    "usr/lib/systemd/system/agent.service": """\
[Unit]
Description=What the host asks for
DefaultDependencies=no
After=local-fs.target
Before=shutdown.target
Conflicts=shutdown.target
[Service]
ExecStart=/usr/bin/python3 -I /usr/local/lib/agent.py
OOMScoreAdjust=-1000
Restart=always
StandardOutput=null
[Install]
WantedBy=sysinit.target
""",
    "usr/lib/systemd/system/net.service": """\
[Unit]
Description=The network of the guest
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=ip address replace 10.0.2.15/24 dev eth0
ExecStart=ip link set eth0 up
[Install]
WantedBy=multi-user.target
""",
    "usr/lib/systemd/system/releases.socket": f"""\
[Socket]
ListenStream=127.0.0.1:{RELEASES_PORT}
[Install]
WantedBy=sockets.target
""",
    "usr/lib/systemd/system/releases.service": f"""\
[Service]
ExecStart=/bin/sh -c 'exec {PROXY} 10.0.2.2:$(sed "s/.*releases=//" /proc/cmdline)'
""",
    "usr/lib/systemd/system/outside.socket": f"""\
[Socket]
ListenStream=10.0.2.15:{APP_PORT}
FreeBind=yes
[Install]
WantedBy=sockets.target
""",
    "usr/lib/systemd/system/outside.service": f"[Service]\nExecStart={PROXY} 127.0.0.1:{APP_PORT}\n",
    # The app is nobody; what it does to the machine, the machine does for it.
    "usr/lib/systemd/system/trap.path": """\
[Path]
PathExists=/var/lib/notes/trap
[Install]
WantedBy=multi-user.target
""",
    "usr/lib/systemd/system/trap.service": """\
[Service]
Type=oneshot
ExecStart=/bin/sh -c 'how=$(cat /var/lib/notes/trap); rm /var/lib/notes/trap; sync; exec /usr/local/lib/trap "$how"'
""",
    "usr/local/lib/trap": """\
#!/bin/sh
case $1 in
panic) echo 1 >/proc/sys/kernel/sysrq; echo c >/proc/sysrq-trigger ;;
spin) echo -1 >/proc/sys/kernel/sched_rt_runtime_us; exec chrt --fifo 99 sh -c 'while :; do :; done' ;;
esac
""",
}
# What a machine without a seat, users and devices does not need; emulated, each costs a second of every boot.
MASKED = (
    *(
        "dev-hugepages.mount",
        "dev-mqueue.mount",
        "getty.target",
        "modprobe@.service",
        "proc-sys-fs-binfmt_misc.automount",
    ),
    *("sys-kernel-debug.mount", "sys-kernel-tracing.mount", "sys-fs-fuse-connections.mount", "sys-kernel-config.mount"),
    *("systemd-logind.service", "systemd-random-seed.service", "systemd-update-utmp.service", "fstrim.timer"),
    *("systemd-update-utmp-runlevel.service", "systemd-user-sessions.service", "systemd-sysusers.service"),
    *("systemd-modules-load.service", "systemd-sysctl.service", "systemd-binfmt.service", "e2scrub_all.timer"),
    *("e2scrub_reap.service", "systemd-pstore.service", "systemd-tmpfiles-setup-dev.service"),
)
ENABLED = ("agent.service", "net.service", "releases.socket", "outside.socket", "trap.path")

INIT = """\
#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox mount -t proc proc /proc
for module in {modules}; do /bin/busybox insmod /$module.ko || echo "cannot load $module"; done
tries=0
until [ -b /dev/vda ]; do tries=$((tries+1)); [ $tries -lt 100 ] || exec /bin/busybox sh; /bin/busybox sleep 0.1; done
/bin/busybox mount -t ext4 -o rw /dev/vda /root || exec /bin/busybox sh
/bin/busybox mount --move /dev /root/dev
/bin/busybox umount /proc
exec /bin/busybox switch_root /root /lib/systemd/systemd
"""


@dataclass(frozen=True, slots=True)
class Disk:
    """A raw disk that nobody writes to again, and what starts it."""

    raw: Path
    kernel: Path
    initrd: Path


def make_disk(image: Image) -> Disk:
    sources = "".join(path.read_text() for path in (HERE / "disk.py", HERE / "agent.py"))
    package = _kernel_package()
    key = _digest(*(layer.name for layer in image.layers), package, sources)
    directory = _cached(f"vm-{key}", lambda target: _build(target, image, package))
    return Disk(directory / "disk.raw", directory / "vmlinux", directory / "initrd")


def _kernel_package() -> str:
    """The kernel that Debian's metapackage stands for; the cloud flavour has no watchdog of QEMU's kind."""
    shown = subprocess.run(["apt-cache", "depends", "linux-image-amd64"], capture_output=True, text=True, check=True)
    found = re.search(r"Depends: (linux-image-\S+)", shown.stdout)
    if found is None:
        raise ImageError(
            "cannot find a kernel: `apt-cache depends linux-image-amd64` names none. Run `apt-get update`."
        )
    return found[1]


def _build(target: Path, image: Image, package: str) -> None:
    parts = target / "parts"
    for name in (package, "busybox-static"):
        (parts / name).mkdir(parents=True)
        _run(
            ["sh", "-c", 'cd "$1" && apt-get -qq download "$2" && dpkg-deb -x ./*.deb .', "sh", str(parts / name), name]
        )
    (kernel,) = (parts / package / "boot").glob("vmlinuz-*")
    (target / "vmlinux").write_bytes(_unpacked(kernel.read_bytes()))
    modules = {path.stem.replace("-", "_"): path for path in (parts / package / "lib/modules").rglob("*.ko")}
    _make_initrd(target, modules, parts / "busybox-static/bin/busybox")
    _make_tree(target, image)
    shutil.rmtree(parts)


def _in_order(names: tuple[str, ...], modules: Mapping[str, Path]) -> list[str]:
    """Modules with those that they need before them. What is no file is part of the kernel."""
    found: list[str] = []
    for name in names:
        if name not in modules or name in found:
            continue
        needs = re.search(rb"\0depends=([^\0]*)\0", modules[name].read_bytes())
        before = tuple(filter(None, needs[1].decode().replace("-", "_").split(","))) if needs else ()
        # ext4 asks for its checksum by name, at run time.
        before += ("crc32c_generic",) if name == "ext4" else ()
        found += [each for each in _in_order(before, modules) if each not in found] + [name]
    return found


def _unsigned(module: bytes) -> bytes:
    """A kernel module without the signature at its end, whose check takes an emulated processor two seconds."""
    mark = b"~Module signature appended~\n"
    if not module.endswith(mark):
        return module
    size = int.from_bytes(module[-len(mark) - 4 : -len(mark)], "big")
    return module[: -len(mark) - 12 - size]


def _unpacked(kernel: bytes) -> bytes:
    """The kernel in a bzImage, as an ELF file that QEMU starts directly: to unpack itself takes it four seconds.

    See "The Linux/x86 Boot Protocol": setup_sects, payload_offset, payload_length.
    """
    offset, size = struct.unpack_from("<II", kernel, 0x248)
    begin = (kernel[0x1F1] + 1) * 512 + offset
    return lzma.LZMADecompressor().decompress(kernel[begin : begin + size])


def _make_initrd(target: Path, modules: Mapping[str, Path], busybox: Path) -> None:
    wanted = _in_order(NEEDED, modules)
    files = {f"{name}.ko": _unsigned(modules[name].read_bytes()) for name in wanted}
    files |= {"init": INIT.format(modules=" ".join(wanted)).encode(), "bin/busybox": busybox.read_bytes()}
    entries = [(name, stat.S_IFDIR | 0o755, b"") for name in ("bin", "dev", "proc", "root")]
    entries += [(name, stat.S_IFREG | 0o755, content) for name, content in files.items()]
    archive = bytearray()
    for number, (name, mode, content) in enumerate([*entries, ("TRAILER!!!", 0, b"")], start=1):
        # The "newc" form of cpio(5): numbers in hexadecimal, everything at multiples of four.
        head = [number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0]
        archive += b"070701" + b"".join(b"%08x" % value for value in head) + name.encode() + b"\0"
        archive += bytes(-len(archive) % 4) + content
        archive += bytes(-len(archive) % 4)
    (target / "initrd").write_bytes(gzip.compress(bytes(archive), 1))


def _make_tree(target: Path, image: Image) -> None:
    """The image's layers with the guest's files over them, as an ext4 file system."""
    upper, work, root = (target / "parts" / name for name in ("upper", "work", "root"))
    for path in (upper, work, root):
        path.mkdir()
    contents = {**FILES, "usr/local/lib/agent.py": (HERE / "agent.py").read_text()}
    for name, text in contents.items():
        (upper / name).parent.mkdir(parents=True, exist_ok=True)
        (upper / name).write_text(text)
    (upper / "usr/local/lib/trap").chmod(0o755)
    lower = ":".join(str(layer) for layer in image.layers)
    script = (
        'mount -t overlay overlay -o "lowerdir=$1,upperdir=$2,workdir=$3" "$4" && '
        f'systemctl --quiet --root="$4" mask {" ".join(MASKED)} && '
        f'systemctl --quiet --root="$4" enable {" ".join(ENABLED)} && '
        'mke2fs -q -t ext4 -E lazy_itable_init=0,lazy_journal_init=0 -d "$4" "$5" "$6"'
    )
    paths = [lower, str(upper), str(work), str(root), str(target / "disk.raw"), f"{DISK_BYTES >> 10}k"]
    _run(["unshare", "--mount", "--propagation=private", "sh", "-c", script, "sh", *paths])
