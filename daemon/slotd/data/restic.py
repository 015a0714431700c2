"""The store for data that are many, large or change little: a snapshot for each backup in a restic repository.

The repository is on this host: the way back needs no network (promise 10). Hot: `restic backup` while the app runs.
Cold: the same again with the hot snapshot as parent, so that only what changed since is read. A snapshot is whole or
not there, and it is a backup only once `restic.json` says so.

What the hot pass saved stays unread in the cold pass when size and times are the same. Times cannot tell of a file that
changed in the very moment of the hot pass, or is written through a mapping: of those the cold pass first makes the
change time new, which only makes restic read them. The hot snapshot is never restored, so that a database that was
written meanwhile needs no copy of its own: the cold pass saves its files as the app left them, log and journal too.

What a snapshot holds, and what has changed since, is asked of the repository. Coming back, it is first brought back
whole beside, as a sealed tree copy, before any data are touched; then all is as in the tree store: through quarantine,
links and mounts minded.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from slotd import errors
from slotd.data import Change, CopyStats, Damage, DataSpec, Entry
from slotd.data import restic_keep as keeping
from slotd.data import restic_list as listing
from slotd.data.layout import JSON_LIMIT, Layout
from slotd.data.listing import Reader, changes, contents, parts, written
from slotd.data.manifest import Manifest, unknown
from slotd.data.restic_keep import Keep, Note
from slotd.data.restic_places import excluded, held, renew, sync
from slotd.data.tree import TreeStore
from slotd.host import files
from slotd.host.failpoint import hit
from slotd.host.restic import HURRIED_S, PATIENT_S, UNREADABLE

REPACKED: Final = "1G"  # packs that are used in part: no removal rewrites more; what is used by nobody goes at once
SETTLE_NS: Final = 2_000_000_000  # coarser than the time stamps of any file system in use


@dataclasses.dataclass(frozen=True, slots=True)
class _Made:
    """What a pass made: the snapshot, its bytes, where each place really lay, and what could not be read."""

    snapshot: str
    bytes: int
    real: tuple[tuple[int, str], ...]
    notes: tuple[str, ...]


class ResticStore:
    """Implements `slotd.data.DataStore`, for copies in a repository and, where it finds one, for tree copies."""

    def __init__(self, keep: Keep | None = None) -> None:
        self._keep = keep
        self._tree = TreeStore()

    # -- making ------------------------------------------------------------------------------------------------------

    def needs(self, spec: DataSpec, base: Path | None) -> int:
        """All of it, whatever the repository shares: the way back brings the data beside themselves."""
        return self._tree.needs(spec, base if self._keep is None else None)

    def hot(self, spec: DataSpec, dest: Path, base: Path | None, cancelled: Callable[[], bool]) -> CopyStats:
        if self._keep is None:
            return self._tree.hot(spec, dest, base, cancelled)
        self._keep.make()
        layout = Layout(dest)
        layout.make()
        layout.begin("backup", spec)
        since = time.time_ns()
        Note(self._keep, since).write(dest)
        sync(spec)
        before = keeping.read(base) if base else None
        parent = before.cold if before and before.keep.repository == self._keep.repository else ""
        made = self._pass(spec, dest, parent, "hot", cancelled, good=(0, UNREADABLE), patience=PATIENT_S)
        hit("data.restic.hot")
        Note(self._keep, since, hot=made.snapshot, bytes=made.bytes).write(dest)
        return CopyStats(bytes=made.bytes, notes=made.notes)

    def cold(self, spec: DataSpec, dest: Path) -> CopyStats:
        note = keeping.read(dest)
        if note is None:
            return self._cold_first(spec, dest)
        dataclasses.replace(note, header=None).write(dest)  # from here on it is no backup until it is sealed
        parent = note.hot if renew(spec, note.since_ns - SETTLE_NS) else ""
        made = self._pass(spec, dest, parent, "cold", lambda: False, good=(0,), patience=HURRIED_S)
        hit("data.restic.cold")
        dataclasses.replace(note, cold=made.snapshot, bytes=made.bytes, real=made.real, header=None).write(dest)
        return CopyStats(bytes=made.bytes, notes=made.notes)

    def _cold_first(self, spec: DataSpec, dest: Path) -> CopyStats:
        """Data that came to be only after the hot pass."""
        if self._keep is None:
            return self._tree.cold(spec, dest)
        self._keep.make()
        Layout(dest).make()
        Layout(dest).begin("backup", spec)
        Note(self._keep, time.time_ns()).write(dest)
        return self.cold(spec, dest)

    def _pass(
        self,
        spec: DataSpec,
        dest: Path,
        parent: str,
        which: str,
        cancelled: Callable[[], bool],
        good: Sequence[int],
        patience: Sequence[float],
    ) -> _Made:
        keep = self._kept(dest).keep
        with held(spec) as places:
            if not places:
                raise errors.Failed(f"cannot back up to {dest}: none of the data are there.")
            found = [place.path for place in places.values()]
            labels = (f"id={dest.name}", f"pass={which}", *spec.labels)
            arguments = ["backup", "--json"]
            arguments += [f"--tag={label.replace(',', '_')}" for label in ("slotd", *labels)]
            arguments += [f"--exclude={pattern}" for pattern in excluded(spec, found)]
            if parent and keeping.snapshot_is_there(keep.repository, parent):
                arguments.append(f"--parent={parent}")
            else:
                arguments.append("--force")  # no guess at another parent
            hit("data.restic.looked")
            shown = [*places.values()]
            words = (*arguments, "--", *map(str, found))
            ended = keep.open().run(*words, shown=shown, cancelled=cancelled, good=good, unlock_after=patience)
        snapshot, size = keeping.full_id(keep.repository, ended.out)
        real = tuple((number, str(place.path)) for number, place in places.items())
        return _Made(snapshot, size, real, (f"restic: {ended.why}",) if ended.status else ())

    def check(
        self, spec: DataSpec, dest: Path, most: int, most_s: float, base: Path | None, cancelled: Callable[[], bool]
    ) -> Sequence[Damage]:
        """Of a snapshot nothing lies here to look at."""
        return () if keeping.is_kept(dest) else self._tree.check(spec, dest, most, most_s, base, cancelled)

    def unsound(self, dest: Path) -> Sequence[str]:
        return self._tree.unsound(dest)

    def seal(self, dest: Path, header: Mapping[str, Any]) -> int:
        note = keeping.read(dest)
        if note is None:
            return self._tree.seal(dest, header)
        if not note.cold or not keeping.snapshot_is_there(note.keep.repository, note.cold):
            raise errors.Failed(f"cannot seal {dest}: its snapshot is not in {note.keep.repository}.")
        with files.explaining(f"cannot seal {dest}"):
            files.syncfs(note.keep.repository)
            files.syncfs(dest)
        hit("data.restic.seal")
        dataclasses.replace(note, header=dict(header)).write(dest)
        return note.bytes

    # -- asking ------------------------------------------------------------------------------------------------------

    def is_sealed(self, dest: Path) -> bool:
        if not keeping.is_kept(dest):
            return self._tree.is_sealed(dest)
        note = keeping.read(dest)
        if note is None or note.header is None:
            return False
        return keeping.snapshot_is_there(note.keep.repository, note.cold)

    def complete(self, dest: Path) -> None:
        if not keeping.is_kept(dest):
            self._tree.complete(dest)
            return
        with files.explaining(f"cannot tidy up {dest}"):  # what was brought back to be restored or looked at
            self._tree.remove(dest / "tree")
            (dest / listing.FILE).unlink(missing_ok=True)
            keeping.remove_parts(dest)

    def header(self, dest: Path) -> dict[str, Any]:
        """What `seal` was given for a sealed copy. Raises Failed for any other."""
        note = keeping.read(dest)
        if note is None:
            return self._tree.header(dest)
        if note.header is None or not self.is_sealed(dest):
            raise errors.Failed(f"cannot read the backup in {dest}: it is not whole.")
        return dict(note.header)

    def contents(self, dest: Path) -> list[Entry]:
        return contents(Layout(dest), self._reader(dest)) if keeping.is_kept(dest) else self._tree.contents(dest)

    def changes(self, spec: DataSpec, dest: Path) -> list[Change]:
        if not keeping.is_kept(dest):
            return self._tree.changes(spec, dest)
        with files.explaining(f"cannot compare with the backup in {dest}"):
            return changes(Layout(dest), spec, self._reader(dest))

    def parts(self, spec: DataSpec, dest: Path, wanted: Sequence[str]) -> tuple[Path, ...]:
        if not keeping.is_kept(dest):
            return self._tree.parts(spec, dest, wanted)
        return parts(Layout(dest), spec, wanted, self._reader(dest)) if wanted else ()

    def _reader(self, dest: Path) -> Reader:
        """What tells of the entries: the repository, without bringing them back, unless it cannot say their names."""
        if not self.is_sealed(dest):
            raise errors.Failed(f"cannot read the backup in {dest}: it is not whole.")
        note = self._kept(dest)
        with suppress(listing.UnclearError):
            if found := listing.written(note, dest):
                return listing.reader(found)
            with files.explaining(f"cannot list the backup in {dest}"), keeping.part_of(dest) as part:
                listing.make(note, part)
                (part / listing.FILE).rename(dest / listing.FILE)
            return listing.reader(listing.written(note, dest) or {})
        self.ready(dest)
        return lambda _layout: written(Layout(dest / "tree"))

    def verify(self, dest: Path) -> list[str]:
        """The way back is walked: all of the snapshot is brought back beside, and removed again.

        Not `restic dump`: that of 0.14 ends with status 0 over blobs that it cannot decrypt. Not `restic check`: that
        reads the whole repository, and wants it for itself.
        """
        if not keeping.is_kept(dest):
            return self._tree.verify(dest)
        if not self.is_sealed(dest):
            return [f"{dest} is not a sealed backup, or its snapshot is gone"]
        note = self._kept(dest)
        try:
            listed = note.keep.open().run("snapshots", "--json", "--no-lock", note.cold).rows
            tags = {tag for each in listed for tag in each.get("tags") or []}
            if f"id={dest.name}" not in tags:
                return [f"snapshot {note.cold[:8]} does not carry the tag id={dest.name}"]
            with keeping.part_of(dest) as part:
                self._bring(note, dest, part)
        except errors.NoSpace:
            raise  # that says nothing of the backup
        except errors.SlotdError as error:
            return [error.message]
        return []

    # -- coming back -------------------------------------------------------------------------------------------------

    def ready(self, src: Path, aside: Path | None = None) -> None:
        """Bring the snapshot back beside, as a sealed tree copy in `src/tree`. Nothing if it is there."""
        if not keeping.is_kept(src) or self._tree.is_sealed(src / "tree"):
            return
        if not self.is_sealed(src):
            raise errors.Failed(f"cannot restore from {src}: it is not a whole backup.")
        with files.explaining(f"cannot bring back the snapshot of {src}"), keeping.part_of(src) as part:
            self._bring(self._kept(src), src, part)
            if not self._tree.is_sealed(src / "tree"):
                self._tree.remove(src / "tree")
            try:
                part.rename(src / "tree")
            except OSError:
                if not self._tree.is_sealed(src / "tree"):  # by somebody else, meanwhile
                    raise
            files.fsync_dir(src)

    @contextmanager
    def lent(self, dest: Path) -> Iterator[Path]:
        if not keeping.is_kept(dest):
            yield dest
            return
        if not self.is_sealed(dest):
            raise errors.Failed(f"cannot read the backup in {dest}: it is not whole.")
        with keeping.part_of(dest) as part:
            self._bring(self._kept(dest), dest, part)
            yield part

    def _bring(self, note: Note, dest: Path, part: Path) -> None:
        """Make the snapshot of `dest` a sealed tree copy in the empty directory `part`."""
        with files.explaining(f"cannot bring back the snapshot of {dest}"):
            layout = Layout(part)
            layout.make()
            free = files.free_bytes(dest)
            try:
                note.keep.open().run("restore", "--no-lock", "--target", str(layout.tmp), note.cold)
            except errors.NoSpace:
                raise errors.NoSpace(
                    f"cannot bring back the snapshot of {dest}: all of it, {-(-note.bytes >> 20)} MiB, needs room"
                    f" there, and {free >> 20} MiB are free.",
                    hint="Free some space there, then try again; nothing was changed.",
                ) from None
            hit("data.restic.restored")
            for number, real in reversed(note.real):  # what lies in another place before that
                (layout.tmp / real.lstrip("/")).rename(layout.data / str(number))
            files.remove_tree(layout.tmp)
            layout.tmp.mkdir(mode=0o700)
            files.write_atomic(part / "tree.json", files.read_bounded(dest / "tree.json", JSON_LIMIT), 0o600)
            seen = Manifest(unknown).walk(layout)
            layout.write_manifest(seen.lines.values())
            layout.write_header(seen.bytes, note.header or {})

    def quarantine(self, spec: DataSpec, dest: Path) -> int:
        return self._tree.quarantine(spec, dest)

    def restore(self, spec: DataSpec, src: Path, aside: Path) -> None:
        if not keeping.is_kept(src):
            self._tree.restore(spec, src, aside)
            return
        self.ready(src)
        self._tree.restore(spec, src / "tree", aside)
        hit("data.restic.back")

    def put_back(self, spec: DataSpec, src: Path, aside: Path) -> None:
        self._tree.put_back(spec, src / "tree" if keeping.is_kept(src) else src, aside)

    def remove(self, dest: Path) -> None:
        """Forget the snapshots of `dest`, those of a killed pass too, then its directory."""
        note = keeping.read(dest)
        if note is not None and (note.keep.repository / "config").exists():
            restic = note.keep.open()
            said = restic.run("snapshots", "--json", "--no-lock", "--tag", f"slotd,id={dest.name}").rows
            found = [str(each["id"]) for each in said]
            if found:
                restic.run("forget", *found)
                hit("data.restic.forgotten")
                with suppress(errors.SlotdError):  # the next removal frees the room, if another process holds it now
                    restic.run("prune", f"--max-repack-size={REPACKED}")
        elif note is not None and note.cold:
            raise errors.Failed(
                f"cannot remove {dest}: its restic repository {note.keep.repository} is not there.",
                hint="Mount its disk, or remove the directory by hand.",
            )
        self._tree.remove(dest)

    def _kept(self, dest: Path) -> Note:
        note = keeping.read(dest)
        if note is None:
            raise errors.Failed(f"cannot use the copy in {dest}: its restic.json is damaged.")
        return note
