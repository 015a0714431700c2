"""A TUF repository is asked: collected beside the network, judged away from it, and what was accepted is kept for good.

The kept metadata are what a rollback or a freeze by the server is noticed by. They lie in the state directory, one file
for each, and a new one is on the disk before anything is made of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from slotd.core.plain import to_plain
from slotd.core.tufwalk import MOST_BYTES
from slotd.core.verifyplan import TUF
from slotd.errors import Misconfigured, SourceFailed
from slotd.host import failpoint, files, tuflib
from slotd.host.definitions import read_keys
from slotd.host.offloop import off_loop
from slotd.host.run import error_of
from slotd.recipes import asking
from slotd.recipes.context import Work
from slotd.sources import Listing
from slotd.sources.work import listing_from_json
from slotd.verify import tuf

_ENDING = ".json"


async def ask_repository(work: Work) -> Listing:
    """What the repository offers. Raises `SourceFailed`."""
    limits = work.host.settings.limits
    request = {"source": to_plain(work.app.source), "limits": to_plain(limits)}
    request |= asking.credential(work.app)
    timeout_s = limits.index_s + asking.WORKER_GRACE_S
    known = await judged_by(work)
    collected = await work.host.workers.call(
        "collect", {**request, **known}, unit=work.unit("collect"), timeout_s=timeout_s
    )
    offered = tuflib.decoded(collected.get("offered"))
    verdict = await work.host.workers.call(
        "judge",
        {"source": request["source"], **known, "offered": tuflib.encoded(offered)},
        unit=work.unit("judge"),
        timeout_s=limits.verify_s,
    )
    accepted = verdict.get("accepted")
    if not isinstance(accepted, list) or not all(isinstance(name, str) and name in offered for name in accepted):
        raise SourceFailed("cannot use the TUF repository: what the worker accepts was never offered")
    await off_loop(keep, _directory(work), {name: offered[name] for name in accepted})
    raise_problem(collected.get("problem"))
    raise_problem(verdict.get("problem"))
    return listing_from_json({**verdict, "state": {}}, work.app.source, limits)


def _directory(work: Work) -> Path:
    return work.host.paths.state / "tuf" / work.app.name


async def judged_by(work: Work) -> dict[str, Any]:
    """{pinned, kept, now}: what the repository's metadata are judged by. Raises `Misconfigured` without a root."""
    keys = await off_loop(read_keys, work.host.paths, work.app.verify.keys)
    roots = [data for data in keys.values() if tuf.is_root(data)]
    if len(roots) != 1:
        raise Misconfigured(
            f"cannot use the TUF repository of {work.app.name}: {len(roots)} of its keys are a root.json, not one.",
            hint="Get it from a place that you trust, put it into keys.d, and name it in `keys` under [verify].",
        )
    metadata = await off_loop(kept, _directory(work))
    pinned = tuflib.encoded({"pinned": roots[0]})
    return {**pinned, "kept": tuflib.encoded(metadata), "now": work.host.clock.now()}


async def looked_up_in(work: Work) -> dict[str, Any]:
    """What the verify worker needs for `require = ["tuf"]`, besides the file; empty where that is not required."""
    if TUF not in work.app.verify.require:
        return {}
    return {**await judged_by(work), "source": to_plain(work.app.source), "version": work.plan.version}


def kept(directory: Path) -> dict[str, bytes]:
    """Name -> metadata. A file that cannot be read is an error: without it a rollback would go unseen."""
    if not directory.is_dir():
        return {}
    found = [path for path in sorted(directory.iterdir()) if path.name.endswith(_ENDING) and path.name[0] != "."]
    return {unquote(path.name.removesuffix(_ENDING)): files.read_bounded(path, MOST_BYTES) for path in found}


def keep(directory: Path, accepted: Mapping[str, bytes]) -> None:
    """One after the other, each on the disk before the next: after a power cut there is a beginning of these, whole."""
    if accepted:
        for place in (directory.parent, directory):
            if not place.is_dir():
                place.mkdir(mode=0o700)
                files.fsync_dir(place.parent)
    for name, data in accepted.items():
        files.write_atomic(directory / f"{quote(name, safe='')}{_ENDING}", data, 0o600)
        failpoint.hit("resolve:kept")


def raise_problem(problem: Any, verb: str = "read the TUF repository") -> None:
    """Raise what a worker says was in its way, if anything."""
    if problem:
        raise error_of({"name": "SourceFailed", **problem} if isinstance(problem, dict) else problem, verb)
