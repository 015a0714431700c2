"""Data whose file system is not mounted, as at boot with `nofail` or over the network, are not taken for gone.

What is at such a path then is not the data, and what was put there would be hidden by them later. Two things say where
data ought to be: what is declared (fstab, units), and where they were when they were saved the last time, which holds
for what declares its mounts elsewhere, as ZFS does.
"""

from __future__ import annotations

import os
from pathlib import Path

from slotd import errors
from slotd.data import DataSpec
from slotd.data.layout import Layout, Scope
from slotd.data.places import is_below, is_holder, matcher, real_of
from slotd.host import mounts


def require_mounted(spec: DataSpec, *copies: Path | None, root: Path = Path("/")) -> None:
    """Raise `Failed` if a file system that the data lie on is not mounted; `copies` may say where they were."""
    wanted = spec.parts or spec.paths
    paths = [(path, real) for path in wanted for real in {path, real_of(path)}]
    there = mounts.present()
    is_excluded = matcher(spec.exclude)
    for each in mounts.declared(root):
        for path, real in paths:
            if each.where in there:
                continue
            below = str(each.where.relative_to(real)) if real in each.where.parents else ""
            if each.where == real or each.where in real.parents or (below and not is_below(below, is_excluded)):
                raise errors.Failed(
                    f"cannot touch {path}: the file system of {each.where} is not mounted.",
                    hint=f"`mount {each.where}`, then try again. If its data live elsewhere now, mend {each.by}.",
                )
    for copy in copies:
        scope = Layout(copy).scope() if copy else None
        if scope:
            _require_same(scope, {str(path) for path in wanted}, there)


def require_same(copy: Path, aside: Path | None = None) -> None:
    """The same for all that a copy covers. Once they are being set aside, that knows better where they lay: a copy may
    be of before they were moved, and that nothing is at a place may be our own doing.
    """
    if scope := (Layout(aside).scope() if aside else None) or Layout(copy).scope():
        _require_same(scope, {place.path for place in scope.places}, mounts.present())


def _require_same(scope: Scope, paths: set[str], there: set[Path]) -> None:
    for place in scope.places:
        point = Path(place.mount)
        if place.mount and place.path in paths and point not in there and _is_bare(Path(place.path)):
            raise errors.Failed(
                f"cannot touch {place.path}: when it was saved it lay on the file system of {point}, which is not"
                " mounted, and nothing is there now.",
                hint=f"Mount it, then try again. If that disk is gone for good: `mkdir -p {place.path} && touch"
                f" {place.path}/here`, so that there is something.",
            )


def _is_bare(path: Path) -> bool:
    try:
        return all(is_holder(name) for name in os.listdir(path))
    except FileNotFoundError:
        return True
    except OSError:
        return False
