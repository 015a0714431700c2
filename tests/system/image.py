"""The trees that containers boot from: a Debian with all that the package depends on, and the same with the package.

Both are cached in `build/images`, keyed by what they were made from, and never written to again: a container puts its
own layer over them. The network is used for the first one only.
"""

from __future__ import annotations

import configparser
import contextlib
import fcntl
import hashlib
import os
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
IMAGES = REPOSITORY / "build" / "images"
CONTROL = REPOSITORY / "packaging" / "debian" / "control"
CA_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")

# What a small server has, and what its applications and these tests use.
EXTRA = ["acl", "attr", "ca-certificates", "curl", "dbus-user-session", "iproute2", "libglib2.0-bin", "libpam-systemd"]
EXTRA += ["minisign", "polkitd", "procps", "python3-venv", "restic", "sqlite3", "systemd-sysv"]
# Nobody logs in, and nothing may start by itself in the middle of a test.
MASKED = ("apt-daily-upgrade.timer", "apt-daily.timer", "console-getty.service", "dpkg-db-backup.timer", "getty.target")


class ImageError(AssertionError):
    """A tree that cannot be built: the command and the end of what it printed."""


@dataclass(frozen=True, slots=True)
class Image:
    """`layers` are directories, the top one first; `bind` are host paths that its pip configuration names."""

    layers: tuple[Path, ...]
    bind: tuple[Path, ...]


def base_image() -> Image:
    """A Debian of the host's release, without slotd but with everything that it depends on."""
    packages = sorted({*EXTRA, *_depends(CONTROL.read_text())})
    key = _digest(" ".join(packages), _codename(), Path(__file__).read_text())
    pip = PipConfiguration.of_host(os.environ)
    return Image((_cached(f"base-{key}", lambda target: _debootstrap(target, packages)),), pip.paths)


def slotd_image(deb: Path) -> Image:
    """`base_image()` with the package installed by apt, without a network."""
    base = base_image()
    key = _digest(base.layers[0].name, hashlib.sha256(deb.read_bytes()).hexdigest())
    layer = _cached(f"slotd-{key}", lambda target: _install(base, target, deb))
    return Image((layer, *base.layers), base.bind)


def _cached(name: str, build: Callable[[Path], None]) -> Path:
    """The tree of this name, built once; older ones of its kind go. One builder at a time."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    target = IMAGES / name
    with (IMAGES / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.is_dir():
            unfinished = IMAGES / f"{name}.unfinished"
            _remove(unfinished)
            unfinished.mkdir()
            build(unfinished)
            unfinished.rename(target)
            kind = name.partition("-")[0]
            # A running container may still stand on one: the few latest stay.
            old = sorted(IMAGES.glob(f"{kind}-*"), key=lambda path: path.stat().st_mtime)[:-3]
            for path in old:
                _remove(path)
    os.utime(target)
    return target


def _debootstrap(target: Path, packages: Sequence[str]) -> None:
    excluded = ("/usr/share/doc/*", "/usr/share/info/*", "/usr/share/locale/*", "/usr/share/man/*")
    options = [f"--dpkgopt=path-exclude={pattern}" for pattern in excluded]
    options += [f"--aptopt={line}" for line in _apt_proxy()]
    options += ['--aptopt=APT::Install-Recommends "false"', '--aptopt=Acquire::Languages "none"']
    options += [f"--include={','.join(packages)}"]
    sources = [str(path) for path in _apt_sources()]
    start = ["mmdebstrap", "--mode=root", "--format=directory", "--variant=apt"]
    _run([*start, *options, _codename(), str(target), *sources])
    for unit in MASKED:
        (target / "etc/systemd/system" / unit).symlink_to("/dev/null")
    (target / "var/log/journal").mkdir(exist_ok=True)  # what happened before a reboot is still to be read
    _run(["chroot", str(target), "useradd", "--create-home", "--shell=/bin/bash", "alice"])
    _trust_hosts_authorities(target)
    pip = PipConfiguration.of_host(os.environ)
    (target / "etc/pip.conf").write_text(pip.text)
    (target / "etc/resolv.conf").unlink(missing_ok=True)  # every container gets the host's of its day


def _trust_hosts_authorities(target: Path) -> None:
    """Certificate authorities that the host trusts and a plain Debian does not (a proxy's, a company's)."""
    pattern = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)
    bundle = target / CA_BUNDLE.relative_to("/")
    known = {"".join(found.split()) for found in pattern.findall(bundle.read_text())}
    here = pattern.findall(CA_BUNDLE.read_text()) if CA_BUNDLE.exists() else []
    extra = [found for found in here if "".join(found.split()) not in known]
    for number, certificate in enumerate(extra):
        (target / f"usr/local/share/ca-certificates/host-{number:03}.crt").write_text(certificate + "\n")
    if extra:
        _run(["chroot", str(target), "update-ca-certificates"])


def image_with(base: Image, packages: Sequence[str]) -> Image:
    """`base` with more of Debian's packages, from the network the first time."""
    key = _digest(base.layers[0].name, " ".join(packages))
    options = [word for line in _apt_proxy() for word in ("-o", line)]
    layer = _cached(f"more-{key}", lambda target: _add(base, target, [*options, *packages], update=options))
    return Image((layer, *base.layers), base.bind)


def _install(base: Image, target: Path, deb: Path) -> None:
    _add(base, target, [f"/root/{deb.name}"], file=deb)


def _add(
    base: Image, target: Path, words: Sequence[str], *, file: Path | None = None, update: Sequence[str] | None = None
) -> None:
    """Runs `apt-get install` over `base`, with `file` in /root; `target` becomes the layer of what that changed.

    With `update` (options), the lists are fetched first.
    """
    work = target.with_name(f"{target.name}.work")
    root = target.with_name(f"{target.name}.root")
    for path in (work, root):
        _remove(path)
        path.mkdir()
    apt = f"apt-get install --yes --no-install-recommends {shlex.join(words)}"
    if update is not None:
        apt = f"apt-get --quiet {shlex.join(update)} update && {apt} && apt-get clean"
    try:
        lower = ":".join(str(layer) for layer in base.layers)
        script = (
            'mount -t overlay overlay -o "lowerdir=$1,upperdir=$2,workdir=$3" "$4" && '
            'if [ -n "$5" ]; then cp "$5" "$4/root/"; else cp /etc/resolv.conf "$4/etc/"; fi && '
            "systemd-nspawn --quiet --register=no --keep-unit --as-pid2 --pipe --resolv-conf=off --timezone=off "
            '--directory="$4" '
            '--setenv=DEBIAN_FRONTEND=noninteractive --setenv=PATH=/usr/sbin:/usr/bin:/sbin:/bin sh -c "$6"'
        )
        paths = [lower, str(target), str(work), str(root), str(file or ""), apt]
        with own_cgroup(f"slotd-install-{os.getpid()}") as enter:
            _run(["unshare", "--mount", "--propagation=private", *enter, "sh", "-c", script, "sh", *paths])
    finally:
        _remove(work)
        _remove(root)


@contextlib.contextmanager
def own_cgroup(name: str) -> Iterator[list[str]]:
    """Control groups of this name in the hierarchies that systemd uses; gives the words that start a command in them.

    Without, a container would put its processes beside those of whoever runs the tests.
    """
    groups = [root / name for root in cgroup_roots()]
    for group in groups:
        group.mkdir(exist_ok=True)
    try:
        join = 'for group in $1; do echo $$ >"$group/cgroup.procs" || exit; done; shift; exec "$@"'
        yield ["sh", "-c", join, "sh", " ".join(map(str, groups))]
    finally:
        for group in groups:
            remove_cgroup(group)


def cgroup_roots() -> list[Path]:
    """Where systemd's own hierarchy, and version 2's if that is another, are mounted."""
    roots = []
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, where, kind, options, *_ = line.split()
        if kind == "cgroup2" or (kind == "cgroup" and "name=systemd" in options.split(",")):
            roots.append(Path(where))
    return roots


def remove_cgroup(group: Path) -> None:
    """Removes a control group and those below it. Processes that are still in it are on their way out."""
    deadline = time.monotonic() + 5
    while group.exists() and time.monotonic() < deadline:
        for path, _, _ in os.walk(group, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(path)
        if group.exists():
            time.sleep(0.02)


@dataclass(frozen=True, slots=True)
class PipConfiguration:
    """How the host's pip finds packages, as one file for the container, and the host paths it names."""

    text: str
    paths: tuple[Path, ...]

    @classmethod
    def of_host(cls, environment: Mapping[str, str]) -> PipConfiguration:
        """From the files that pip reads, in its order, and `PIP_*`, which wins; the authorities are the image's own."""
        home = Path(environment.get("HOME", "/root"))
        files: list[str | Path] = [
            "/etc/xdg/pip/pip.conf",
            "/etc/pip.conf",
            home / ".pip/pip.conf",
            home / ".config/pip/pip.conf",
        ]
        parser = configparser.RawConfigParser()
        parser.read([*files, environment.get("PIP_CONFIG_FILE", os.devnull)])
        for name, value in environment.items():
            if name.startswith("PIP_") and name != "PIP_CONFIG_FILE":
                if not parser.has_section("global"):
                    parser.add_section("global")
                parser.set("global", name.removeprefix("PIP_").lower().replace("_", "-"), value)
        lines, paths = [], set()
        for section in parser.sections():
            lines.append(f"[{section}]")
            for key, value in parser.items(section):
                if key == "cert":
                    continue
                lines.append(f"{key} = " + "\n    ".join(value.split("\n")))
                words = [
                    Path(word.removeprefix("file://")) for word in value.split() if word.startswith(("/", "file:///"))
                ]
                # A simple index refers to files beside it.
                paths |= {path.parent if path.name == "simple" else path for path in words if path.exists()}
        return cls("\n".join(lines) + "\n", tuple(sorted(paths)))


def _depends(control: str) -> list[str]:
    """The names in the package's `Depends`, without versions and substitutions."""
    field = re.search(r"^Depends:(.*?)^(?=\S)", control, re.DOTALL | re.MULTILINE)
    assert field is not None
    words = [part.split("|")[0].split("(")[0].strip() for part in field[1].split(",")]
    return [word for word in words if word and not word.startswith("$")]


def _codename() -> str:
    found = re.search(r"^VERSION_CODENAME=(\w+)$", Path("/etc/os-release").read_text(), re.MULTILINE)
    if found is None:
        raise ImageError("cannot tell which Debian this is: /etc/os-release has no VERSION_CODENAME.")
    return found[1]


def _apt_sources() -> list[Path]:
    """The host's own lists of the Debian archive; those of other publishers are left out."""
    suite = re.compile(rf"(?:^|\s){_codename()}(?:-updates|-security|-backports)?(?:\s|$)", re.MULTILINE)
    etc = Path("/etc/apt")
    candidates = [etc / "sources.list", *sorted((etc / "sources.list.d").glob("*.list"))]
    candidates += sorted((etc / "sources.list.d").glob("*.sources"))
    return [path for path in candidates if path.exists() and suite.search(_without_comments(path.read_text()))]


def _without_comments(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))


def _apt_proxy() -> list[str]:
    out = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=True).stdout
    return [line for line in out.splitlines() if re.match(r'Acquire::https?::(Proxy|CaInfo|Verify)[\w:.-]* "."', line)]


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _remove(path: Path) -> None:
    if path.exists():
        shutil.rmtree(path)


def _run(argv: Sequence[str]) -> None:
    result = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if result.returncode:
        raise ImageError(f"cannot build an image: {argv[0]} ended with {result.returncode}:\n{result.stderr[-4000:]}")
