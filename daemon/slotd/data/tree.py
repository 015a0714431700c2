"""The store for data that are ordinary files: a copy of each tree, shared with the one before where nothing changed.

`layout` says what a copy looks like, `places` what patterns and paths mean, `passes` how it is made, `aside` and
`restore` how it comes back.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any

from slotd import errors
from slotd.data import Change, CopyStats, Damage, DataSpec, Entry, digests, elsewhere, snapshots, soundness
from slotd.data.aside import Aside
from slotd.data.index import Recent, boot_id
from slotd.data.layout import Layout
from slotd.data.listing import changes, contents, parts
from slotd.data.manifest import Manifest, differences, read
from slotd.data.mounts import require_same
from slotd.data.needs import needs
from slotd.data.passes import Pass
from slotd.data.places import beside
from slotd.data.putback import PutBack
from slotd.data.restore import Restore
from slotd.host import files
from slotd.host.failpoint import hit


class TreeStore:
    """Implements `slotd.data.DataStore`. One of them makes both passes of a copy."""

    def __init__(self) -> None:
        self._recent: Recent | None = None  # between the passes

    def needs(self, spec: DataSpec, base: Path | None) -> int:
        return needs(spec, base)

    def hot(self, spec: DataSpec, dest: Path, base: Path | None, cancelled: Callable[[], bool]) -> CopyStats:
        with files.explaining(f"cannot back up to {dest}"):
            if base:
                digests.complete(Layout(base))
            hot = Pass(spec, dest, base, app_runs=True, cancelled=cancelled)
            stats = hot.run()
            self._recent = hot.recent
            return stats

    def cold(self, spec: DataSpec, dest: Path) -> CopyStats:
        with files.explaining(f"cannot back up to {dest}"):
            recent, self._recent = self._recent, None
            return Pass(spec, dest, None, app_runs=False, cancelled=lambda: False, recent=recent).run()

    def check(
        self, spec: DataSpec, dest: Path, most: int, most_s: float, base: Path | None, cancelled: Callable[[], bool]
    ) -> Sequence[Damage]:
        with files.explaining(f"cannot check the databases in {dest}"):
            return soundness.check(Layout(dest), spec, most, most_s, Layout(base) if base else None, cancelled)

    def unsound(self, dest: Path) -> Sequence[str]:
        known = soundness.read(Layout(dest))
        found = known[0].values() if known else ()
        return [f"the database {each.path} is damaged: {each.said}" for each in found if each.verdict == "damaged"]

    def seal(self, dest: Path, header: Mapping[str, Any]) -> int:
        layout = Layout(dest)
        scope = layout.scope()
        if scope is None or layout.unfinished.exists() or not layout.has_snapshots():
            raise errors.Failed(f"cannot seal {dest}: its last copy was not finished.")
        index = layout.index_head()
        if index.boot != boot_id():  # what a pass left unsynced may be gone with the power
            raise errors.Failed(f"cannot seal {dest}: the host was restarted since its last copy.")
        with files.explaining(f"cannot seal {dest}"):
            layout.unseal()
            hit("data.seal.manifest")
            layout.write_header(index.bytes, header)
        return index.bytes

    def is_sealed(self, dest: Path) -> bool:
        return Layout(dest).sealed() is not None

    def header(self, dest: Path) -> dict[str, Any]:
        """What `seal` was given for a sealed copy. Raises Failed for any other."""
        sealed = Layout(dest).sealed()
        if sealed is None:
            raise errors.Failed(f"cannot read the backup in {dest}: it is not whole.")
        return dict(sealed["header"])

    def contents(self, dest: Path) -> list[Entry]:
        with files.explaining(f"cannot read the backup in {dest}"):
            return contents(Layout(dest))

    def changes(self, spec: DataSpec, dest: Path) -> list[Change]:
        with files.explaining(f"cannot compare with the backup in {dest}"):
            return changes(Layout(dest), spec)

    def parts(self, spec: DataSpec, dest: Path, wanted: Sequence[str]) -> tuple[Path, ...]:
        with files.explaining(f"cannot read the backup in {dest}"):
            return parts(Layout(dest), spec, wanted)

    def verify(self, dest: Path) -> list[str]:
        layout = Layout(dest)
        if layout.sealed() is None:
            return [f"{dest} is not a sealed backup"]
        with suppress(errors.NoSpace), files.explaining(f"cannot read the backup in {dest}"):
            snapshots.complete(layout)  # on a full disk it is only read
        written = digests.completed(layout)
        return sorted(differences(written, Manifest(read).walk(layout).lines))

    def ready(self, src: Path, aside: Path | None = None) -> None:
        with files.explaining(f"cannot restore from {src}"):
            require_same(src, aside)

    def lent(self, dest: Path) -> AbstractContextManager[Path]:
        return nullcontext(dest)

    def complete(self, dest: Path) -> None:
        with files.explaining(f"cannot complete the backup in {dest}"):
            digests.complete(Layout(dest))

    def quarantine(self, spec: DataSpec, dest: Path) -> int:
        with files.explaining(f"cannot set the data aside in {dest}"):
            return Aside(spec, dest).run()

    def restore(self, spec: DataSpec, src: Path, aside: Path) -> None:
        with files.explaining(f"cannot restore from {src}"):
            Restore(spec, src, aside).run()

    def put_back(self, spec: DataSpec, src: Path, aside: Path) -> None:
        with files.explaining(f"cannot put the data back from {aside}"):
            PutBack(spec, src, aside).run()

    def remove(self, dest: Path) -> None:
        """Remove a copy, also a half-made one; but not a half-made quarantine: it may be all there is of the data."""
        self._recent = None
        going = dest.with_name(beside(dest.name, "removing"))
        if dest.exists():
            layout = Layout(dest)
            if not layout.header.exists() and _may_be_the_only_copy(layout):
                raise errors.Failed(
                    f"cannot remove {dest}: data were being set aside there, and it may hold the only copy.",
                    hint="Finish the rollback first, or move the data out by hand.",
                )
            elsewhere.require(layout)
            _remove(going)
            with files.explaining(f"cannot remove {dest}"):
                dest.rename(going)  # from now on it is no backup, however far the removal comes
            files.fsync_dir(dest.parent)
        hit("data.remove.begun")
        _remove(going)


def _remove(dest: Path) -> None:
    elsewhere.remove(Layout(dest))
    _remove_snapshots(dest)
    files.remove_tree(dest)


def _remove_snapshots(dest: Path) -> None:
    """What is read-only as a whole cannot be emptied first."""
    with files.explaining(f"cannot remove {dest}"):
        for holder in (dest / "data", dest / "tmp"):
            if holder.is_dir():
                with files.opened(holder, files.DIRECTORY) as fd:
                    for name in os.listdir(fd):
                        snapshots.discard(fd, name)


def _may_be_the_only_copy(layout: Layout) -> bool:
    scope = layout.scope()
    return scope is not None and scope.kind == "quarantine" and layout.data.exists() and any(layout.data.iterdir())
