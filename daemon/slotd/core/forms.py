"""The forms that names, paths and addresses in a definition must have.

Each function takes the text as it was found and gives it back, normalised where its docstring says so; it raises
`ValueError` with words that fit behind "… is <value>: ".
"""

from __future__ import annotations

import ipaddress
import posixpath
import re
from collections.abc import Iterator
from urllib.parse import SplitResult, urlsplit

from slotd.core.template import MIRROR_WORDS, PROBE_WORDS, check_argument, check_text, expand_name, words_in

NAME_LIMIT = 64
UNIT_SUFFIXES = (".service", ".socket", ".timer", ".path", ".target")
ALGORITHMS = ("sha256", "sha512")

_APP = re.compile(r"[a-z0-9][a-z0-9._-]*", re.ASCII)
_UNIT = re.compile(r"[A-Za-z0-9:_.\\@-]+", re.ASCII)
_USER = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,30}", re.ASCII)
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]*", re.ASCII)
_REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*/[A-Za-z0-9_.-]+", re.ASCII)
_PROJECT = re.compile(r"[1-9][0-9]{0,17}", re.ASCII)
_GROUPS = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(?:/[A-Za-z0-9_.-]+)+", re.ASCII)
_PYPI = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?", re.ASCII)  # the core metadata specification, "Name"
_NPM = re.compile(r"(?:@[a-z0-9~-][a-z0-9._~-]*/)?[a-z0-9~-][a-z0-9._~-]*", re.ASCII)
_FINGERPRINT = re.compile(r"(?:[0-9A-F]{40}|[0-9A-F]{64})", re.ASCII)

# What the host itself, or slotd, cannot live without: stopping it would stop the update half-way.
_NEEDED = """
    slotd.service slotd-boot.service slotd-recover.service dbus.service dbus.socket dbus-broker.service
    systemd-journald.service systemd-logind.service basic.target sysinit.target multi-user.target
"""
_NEEDED_UNITS = frozenset(_NEEDED.split())
# Directories that belong to the whole system: to replace or restore one would take the host with it.
_SYSTEM = """
    / /bin /boot /dev /efi /etc /home /lib /lib32 /lib64 /libx32 /lost+found /media /mnt /opt /proc /root /run /sbin
    /srv /sys /tmp /usr /usr/bin /usr/include /usr/lib /usr/lib64 /usr/libexec /usr/local /usr/local/bin
    /usr/local/lib /usr/local/share /usr/sbin /usr/share /usr/src /var /var/backups /var/cache /var/lib
    /var/lib/private /var/local /var/lock /var/log /var/log/journal /var/mail /var/opt /var/run /var/spool /var/tmp
    /etc/systemd /etc/systemd/system /etc/slotd /usr/lib/systemd /usr/lib/slotd /run/systemd
    /var/lib/dpkg /var/lib/rpm /var/lib/systemd
"""
_SYSTEM_DIRECTORIES = frozenset(_SYSTEM.split())
_NO_FILES_BELOW = ("/proc", "/sys", "/dev", "/run/systemd", "/var/lib/dpkg", "/var/lib/systemd")


def app_name(text: str) -> str:
    """A name that is safe as part of a path, a unit's name and a bus path."""
    if len(text) > NAME_LIMIT:
        raise ValueError(f"a name has at most {NAME_LIMIT} characters")
    if not _APP.fullmatch(text) or ".." in text:
        raise ValueError(
            'a name is made of a-z, 0-9, ".", "_" and "-", begins with a letter or digit, and has no ".." in it'
        )
    return text


def unit_name(text: str) -> str:
    """The whole name of a unit that may be stopped and started: `astrbot.service`, `worker@2.service`."""
    suffix = posixpath.splitext(text)[1]
    if suffix not in UNIT_SUFFIXES:
        raise ValueError(
            f'a unit is written with its whole name, like "{text.split("/")[-1][:40] or "app"}.service"'
            if suffix == "" or len(suffix) > 10
            else f"a unit's name ends in one of {', '.join(UNIT_SUFFIXES)}"
        )
    if len(text) > 255 or not _UNIT.fullmatch(text) or text == suffix:
        raise ValueError('a unit\'s name is made of letters, digits and ":", "-", "_", ".", "\\", "@"')
    if text.endswith(f"@{suffix}"):
        raise ValueError('a template cannot be started; name an instance, like "app@1.service"')
    if text in _NEEDED_UNITS or text.startswith("slotd-worker-"):
        raise ValueError("slotd or the host itself needs this unit; it cannot be stopped for an update")
    return text


def user_name(text: str) -> str:
    if not _USER.fullmatch(text):
        raise ValueError('a user is given by name: letters, digits, "_" and "-", at most 31 characters')
    return text


def absolute_path(text: str) -> str:
    """An absolute path, written in its shortest form."""
    if not text.startswith("/"):
        raise ValueError("a path begins with /")
    if ".." in text.split("/"):
        raise ValueError('a path has no ".." in it')
    normal = "/" + posixpath.normpath(text).lstrip("/")
    if text != normal:
        raise ValueError(f'write it in its shortest form, "{normal}"')
    if len(text.encode()) > 1024 or any(len(part.encode()) > 255 for part in text.split("/")):
        raise ValueError("the path is too long")
    return text


def own_path(text: str) -> str:
    """A path that one app can have for itself: no directory of the whole system."""
    absolute_path(text)
    if text in _SYSTEM_DIRECTORIES or any(is_inside(text, place) for place in _NO_FILES_BELOW):
        raise ValueError("this belongs to the whole system; give a directory of the app's own below it")
    return text


def repository_address(text: str) -> str:
    """A restic repository anywhere: a directory, or an address without a password in it."""
    if text.startswith("/"):
        return own_path(text)
    kind, colon, rest = text.partition(":")
    if not colon or kind not in ("sftp", "rest", "s3", "b2", "azure", "gs", "swift", "rclone") or not rest:
        raise ValueError("a directory, or an address as restic has them, like sftp:backup@nas:/srv/slotd")
    user = rest.partition("@")[0].rpartition("/")[2] if "@" in rest else ""
    if ":" in user or any(char.isspace() or not char.isprintable() for char in text):
        raise ValueError("no blanks, and no password: that goes into the credential of push_environment")
    return text


def local_repository(text: str) -> str:
    """A repository that the way back can count on: a directory of this host."""
    if not text.startswith("/") and ":" in text:
        raise ValueError("it must be a directory of this host: the way back needs no network")
    return own_path(text)


def relative_path(text: str) -> str:
    """A path below some directory, in its shortest form; also a pattern of such paths."""
    if not text or text.startswith("/") or ".." in text.split("/"):
        raise ValueError('it is a path inside a directory: it does not begin with "/" and has no ".."')
    if text != posixpath.normpath(text) or text == ".":
        raise ValueError(f'write it in its shortest form, "{posixpath.normpath(text)}"')
    return text


def link_name(text: str) -> str:
    """Where in a slot a link is put."""
    relative_path(text)
    if text.split("/")[0] == ".slotd":
        raise ValueError("`.slotd` is where slotd keeps its own record of a slot")
    return text


def is_inside(path: str, directory: str) -> bool:
    """True for `directory` itself and everything below it; both are normalised."""
    return path == directory or path.startswith(directory.rstrip("/") + "/")


def above(path: str) -> Iterator[str]:
    """The directories that a normalised absolute path is in, the nearest first; none for other words."""
    while path.startswith("/") and path != "/":
        path = posixpath.dirname(path)
        yield path


def overlap(one: str, other: str) -> bool:
    return is_inside(one, other) or is_inside(other, one)


def web_url(text: str) -> str:
    """An http(s) address; plain http only to this host."""
    parts = _split_url(text)
    if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        raise ValueError(
            "plain http could be changed on its way, and is allowed to this host only (127.0.0.1, ::1, localhost); "
            "write https"
        )
    if parts.fragment:
        raise ValueError('an address has no "#" in it')
    return text


def mirror_url(text: str) -> str:
    """A template of a file's whole address at a mirror, {asset}, {version} and {tag} in it."""
    server, _, path = check_text(text, MIRROR_WORDS).partition("://")[2].partition("/")
    if "{" in server:
        raise ValueError("which server it is, no placeholder decides; write its name")
    if not words_in(path) & set(MIRROR_WORDS):
        raise ValueError("each release has an address of its own; put {asset}, {version} or {tag} in")
    web_url(expand_name(text, dict.fromkeys(MIRROR_WORDS, "0")))
    return text


def base_url(text: str) -> str:
    """The address of a server, to which paths are added. Gives it without a slash at its end."""
    if urlsplit(web_url(text)).query:
        raise ValueError('the address of a server has no "?" in it')
    return text.rstrip("/")


def loopback_url(text: str) -> str:
    """An http(s) address on this host, {version} and {slot} in it: the daemon can reach no other."""
    parts = _split_url(check_argument(text, PROBE_WORDS).replace("{version}", "0").replace("{slot}", "0"))
    if not is_loopback(parts.hostname or ""):
        raise ValueError("probes reach this host only (127.0.0.1, ::1, localhost): the daemon has no other network")
    return text


def loopback_host(text: str) -> str:
    if not is_loopback(text):
        raise ValueError("probes reach this host only (127.0.0.1, ::1, localhost): the daemon has no other network")
    return text


def is_loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _split_url(text: str) -> SplitResult:
    if not text.isascii() or any(c.isspace() or c in '<>"\\^`{|}' for c in text):
        raise ValueError("an address has no blanks, quotes or letters beyond ASCII in it")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise ValueError("it is no address; write one like https://example.org/path") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise ValueError("it is no http or https address; write one like https://example.org/path")
    if "@" in parts.netloc:
        raise ValueError("a name or password in an address would show in logs; use `credential`")
    return parts


def credential_name(text: str) -> str:
    return _file(text, 'a credential is named by letters, digits and ".", "_", "-", like "github-token"')


def key_file(text: str) -> str:
    """The bare name of a file in keys.d."""
    return _file(text, 'a key is the name of a file in keys.d, without a path, like "astrbot.gpg"')


def _file(text: str, why: str) -> str:
    if not _FILE.fullmatch(text) or ".." in text or len(text) > 200:
        raise ValueError(why)
    return text


def fingerprint(text: str) -> str:
    """The fingerprint of an OpenPGP key, in upper case without blanks."""
    bare = text.replace(" ", "").replace(":", "").upper().removeprefix("0X")
    if not _FINGERPRINT.fullmatch(bare):
        raise ValueError("a fingerprint has 40 or 64 hexadecimal digits; key ids are too short to be safe")
    return bare


def repository(text: str) -> str:
    """`owner/name`."""
    if not _REPOSITORY.fullmatch(text) or ".." in text or text.endswith((".git", "/.")):
        raise ValueError('a repository is "owner/name", as in its address behind the host')
    return text


def repository_path(text: str) -> str:
    """`group/name`, with any number of groups in between, or the project's number (GitLab)."""
    if not _PROJECT.fullmatch(text) and (not _GROUPS.fullmatch(text) or ".." in text):
        raise ValueError('a repository is "group/name", as in its address behind the host, or the project\'s number')
    return text


def pypi_package(text: str) -> str:
    if not _PYPI.fullmatch(text) or len(text) > 200:
        raise ValueError('a package is its name on the index, like "radicale"')
    return text


def npm_package(text: str) -> str:
    if not _NPM.fullmatch(text) or len(text) > 214:
        raise ValueError('a package is its name in the registry, like "n8n" or "@scope/name"')
    return text


def image(text: str) -> str:
    """A container image without a tag: slotd chooses it."""
    name, _, tag = text.rpartition("/")[2].partition(":")
    if tag == "latest":
        raise ValueError('"latest" is not a version; leave the tag out, slotd chooses it by `versions` and `channel`')
    if tag or "@" in text or not name or any(c.isspace() for c in text):
        raise ValueError('an image is written without a tag or digest, like "ghcr.io/owner/name"')
    return text
