"""Slots as two directories, `a` and `b`, and a symlink `current` that is replaced in one rename.

ROOT/a  ROOT/b        one version each, at their final path from the first byte on
ROOT/current -> a     the switch
ROOT/a/.slotd/        slot.json (what is in here) and manifest (every file's digest)
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import pwd
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from slotd.core.plain import from_plain, to_plain
from slotd.core.schema import App, Limits
from slotd.errors import Failed, SlotdError
from slotd.host import files, sharing, tree
from slotd.host.failpoint import hit
from slotd.model import Slot, SlotName, SlotState

UNPACK_USER = "slotd-worker"
OWN = ".slotd"
_RECORD_BYTES = 64 * 1024


class DirectoryEngine:
    """See `slotd.engines.Engine`."""

    def __init__(self, app: App, root: Path, limits: Limits, *, user_mode: bool = False) -> None:
        self.app = app
        self.root = root
        self._limits = limits
        self._user_mode = user_mode
        self._settled: SlotName | None = None  # checked, root's, and in nobody else's hands since

    def path(self, slot: SlotName) -> Path:
        return self.root / slot.value

    def active(self) -> SlotName | None:
        try:
            target = os.readlink(self.root / "current")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise Failed(
                f"cannot read {self.root / 'current'}: {error.strerror}.", hint="It must be a symlink to `a` or `b`."
            ) from error
        if target not in (SlotName.A, SlotName.B):
            raise Failed(f"cannot use {self.root / 'current'}: it points at {target!r}, not at `a` or `b`.")
        return SlotName(target)

    def record(self, slot: SlotName) -> Slot | None:
        try:
            text = files.read_bounded(self.path(slot) / OWN / "slot.json", _RECORD_BYTES)
            return from_plain(Slot, json.loads(text))
        except (FileNotFoundError, NotADirectoryError, ValueError, TypeError, SlotdError):
            return None

    def _require_inactive(self, slot: SlotName) -> None:
        if self.active() == slot:
            raise Failed(f"cannot write into slot {slot} of {self.app.name}: it is the active one.")

    def empty(self, slot: SlotName) -> None:
        self._require_inactive(slot)
        self._settled = None
        self._forget_record(slot)
        files.remove_tree(self.path(slot))

    def _forget_record(self, slot: SlotName) -> None:
        """Before all else goes: a tree that is half removed must not say that it is whole."""
        with files.explaining(f"cannot empty {self.path(slot)}"):
            try:
                with _opened(self.path(slot)) as top, files.opened(OWN, files.DIRECTORY, dir_fd=top) as own:
                    os.unlink("slot.json", dir_fd=own)
                    os.fsync(own)
            except (FileNotFoundError, NotADirectoryError):
                return  # there is none
            except OSError as error:
                if error.errno != errno.ELOOP:  # a link in its place, which is nobody's record
                    raise

    def open(self, slot: SlotName) -> int:
        self._require_inactive(slot)
        self._settled = None
        self.root.mkdir(mode=0o755, parents=True, exist_ok=True)
        path = self.path(slot)
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            pass
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        os.fchmod(descriptor, 0o700)
        self._give(descriptor, UNPACK_USER)
        return descriptor

    def _give(self, descriptor: int, user: str) -> tuple[int, int]:
        if self._user_mode or os.geteuid() != 0:
            return os.geteuid(), os.getegid()
        entry = self._user(user)
        os.fchown(descriptor, entry.pw_uid, entry.pw_gid)
        return entry.pw_uid, entry.pw_gid

    def _user(self, name: str) -> pwd.struct_passwd:
        try:
            return pwd.getpwnam(name)
        except KeyError:
            raise Failed(
                f"cannot find user {name!r}, which {self.app.name} needs.",
                hint="Create it, or mend `user` under [service].",
            ) from None

    def settle(self, slot: SlotName, readers: frozenset[int] | None = None) -> None:
        with _opened(self.path(slot)) as descriptor:
            self._take(descriptor, self.path(slot), readers, system_links=False)
            if self.app.slots.links:
                tree.copy_links(descriptor, self.app.slots.links)
            elif not self.app.slots.writable:
                self._settled = slot

    def _take(self, descriptor: int, path: Path, readers: frozenset[int] | None, *, system_links: bool) -> None:
        slots = self.app.slots
        uid, gid = (0, 0) if not self._user_mode and os.geteuid() == 0 else (os.geteuid(), os.getegid())
        if uid == 0 and self.app.service.user:
            gid = self._user(self.app.service.user).pw_gid  # what is not for everybody is still for the app to read
        if slots.writable and system_links and self.app.service.user and not self._user_mode and os.geteuid() == 0:
            entry = self._user(self.app.service.user)
            uid, gid = entry.pw_uid, entry.pw_gid
        tree.check_and_own(
            descriptor,
            uid=uid,
            gid=gid,
            max_size=slots.max_size,
            max_files=slots.max_files,
            path_depth=self._limits.path_depth,
            allowed_links={"/".join(p for p in k.split("/") if p not in ("", ".")): v for k, v in slots.links.items()},
            writable=slots.writable,
            system_links=system_links,
            slot_path=str(path),
            readers=readers,
        )

    def lend(self, slot: SlotName) -> None:
        self._require_inactive(slot)
        self._settled = None
        if self._user_mode or os.geteuid() != 0:
            return
        name = self.app.service.user if self.app.service.user not in ("", "root") else UNPACK_USER
        entry = self._user(name)
        with _opened(self.path(slot)) as descriptor:
            _lend(descriptor, entry.pw_uid, entry.pw_gid)

    def share(self, slot: SlotName) -> int:
        self._require_inactive(slot)
        active = self.active()
        if active is None or self.app.slots.writable:  # an active slot that its app writes is not what was verified
            return 0
        with _opened(self.path(slot)) as descriptor, _opened(self.path(active)) as old:
            if self._settled != slot:
                self._take(descriptor, self.path(slot), None, system_links=True)
                self._settled = slot
            with files.explaining(f"cannot share files of slot {active} of {self.app.name} with slot {slot}"):
                return sharing.share(descriptor, old).bytes

    def finish(
        self, slot: SlotName, record: Slot, readers: frozenset[int] | None = None, *, closed: bool = False
    ) -> Slot:
        self._require_inactive(slot)
        path = self.path(slot)
        with _opened(path) as descriptor, ThreadPoolExecutor(1) as beside:
            if self._settled != slot:
                self._take(descriptor, path, readers, system_links=True)
            written = beside.submit(files.syncfs, path)  # most of it, while the files are hashed
            manifest = tree.manifest(descriptor, str(path))
            written.result()
            os.fchmod(descriptor, 0o750 if closed else 0o755)
            whole = dataclasses.replace(
                record, state=SlotState.WHOLE, manifest=f"sha256:{hashlib.sha256(manifest).hexdigest()}"
            )
            # Made anew and reached by its descriptor: the prepare commands, or in a writable slot the app's user, could
            # have put a link there, and root would write where it leads.
            files.remove_at(descriptor, OWN)
            os.mkdir(OWN, 0o755, dir_fd=descriptor)
            with files.opened(OWN, files.DIRECTORY, dir_fd=descriptor) as directory:
                if os.fstat(directory).st_uid != os.geteuid():
                    raise Failed(f"cannot finish slot {slot} of {self.app.name}: someone else made {OWN} in it.")
                own = Path(f"/proc/self/fd/{directory}")
                files.write_atomic(own / "manifest", manifest, 0o644)
                # The record last, and everything on disk before anyone may trust it.
                files.syncfs(path)
                hit("stage:manifest")
                text = json.dumps(to_plain(whole), indent=2, sort_keys=True) + "\n"
                files.write_atomic(own / "slot.json", text.encode(), 0o644)
            hit("stage:record")
            files.fsync_dir(self.root)
        return whole

    def switch(self, slot: SlotName | None) -> None:
        link = self.root / "current"
        if slot is None:
            self.forget_switch()
            try:
                os.unlink(link)
            except FileNotFoundError:
                return
            files.fsync_dir(self.root)
            return
        if self.record(slot) is None:
            raise Failed(f"cannot switch {self.app.name} to slot {slot}: it holds no whole version.")
        files.syncfs(self.root)  # what was written before is on disk before the link says so
        hit("switch:synced")
        files.switch_symlink(link, slot.value)

    def forget_switch(self) -> None:
        files.forget_switch(self.root / "current")

    def free_bytes(self) -> int:
        path = self.root
        while not path.exists():
            path = path.parent
        return files.free_bytes(path)


def _lend(descriptor: int, uid: int, gid: int) -> None:
    """Give a checked tree, in which nobody else writes, to a user. Links themselves, never what they point at."""
    for _, directories, names, at in os.fwalk(".", dir_fd=descriptor, follow_symlinks=False):
        for name in (*directories, *names):
            os.chown(name, uid, gid, dir_fd=at, follow_symlinks=False)
    os.fchown(descriptor, uid, gid)


class _opened:
    """A directory's descriptor, closed at the end."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)

    def __enter__(self) -> int:
        return self._fd

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)
