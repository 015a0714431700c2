"""What of a release is here already: the kept file of the version that is installed, and what tells its parts.

Which parts the new file has in common with it, the fetch worker finds out: by the directory of a ZIP archive (a wheel
is one), or by the chunk indexes of both, where the publisher puts them beside the release.
"""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from slotd.core import bundle, chunkindex
from slotd.core.pieces import GAP
from slotd.core.plain import from_plain
from slotd.core.zipindex import MAGIC
from slotd.errors import SlotdError
from slotd.host import files
from slotd.host.offloop import off_loop
from slotd.model import Asset, JobKind
from slotd.recipes import asking
from slotd.recipes.cache import cached_path, index_path
from slotd.recipes.context import Artifact, Plan, Work

LEAST_BYTES = 4 * GAP  # a smaller release is fetched sooner than compared
JOBS = 100  # how far back the job is looked for that installed what is active

_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
_WRITE = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Seed:
    """`kind` as the fetch worker knows it, `zip` or `chunks`, or empty if there is nothing; open for reading."""

    kind: str = ""
    descriptors: tuple[int, ...] = ()


async def bring_index(work: Work, artifact: Artifact, path: Path) -> bool:
    """Fetch the chunk index that lies beside a release file, if its source lists one, to go with `path`.

    A download goes on without; what is in it is proven by nothing but the file that comes of it.
    """
    asset = work.plan.release.asset(artifact.name + chunkindex.SUFFIX)
    if asset is None or bundle.digest_of(asset.url) or work.app.source.type == "directory":
        return False
    descriptor = await off_loop(os.open, index_path(path), _WRITE, 0o644)
    try:
        os.fchmod(descriptor, 0o644)
        await _fetch_index(work, asset, descriptor)
    except SlotdError as error:
        _log.info("%s: %s is done without: %s", work.app.name, asset.name, error)
        await off_loop(index_path(path).unlink, True)
        return False
    finally:
        os.close(descriptor)
    return True


async def _fetch_index(work: Work, asset: Asset, descriptor: int) -> None:
    settled = work.host.settings.limits
    limits = dataclasses.replace(settled, download_s=min(settled.index_s, settled.download_s))  # it is a small file
    more = {
        "limit_bytes": limits.delta_index_bytes,
        "expected_size": asset.size,
        "bandwidth": work.host.settings.bandwidth,
    }
    await asking.fetch(
        work.host.workers, limits, work.app, asset.url, [descriptor], more, unit=work.unit("fetch-index")
    )


async def find(work: Work, artifact: Artifact) -> str:
    """The digest of the kept file that is most likely to hold much of `artifact`; empty if there is none."""
    active = await off_loop(work.engine.active)
    if active is None or work.app.source.type == "directory" or 0 < artifact.size < LEAST_BYTES:
        return ""
    names = [each.name for each in work.plan.artifacts]
    return await off_loop(_kept, work, work.plan.old_digest, names.index(artifact.name))


def _kept(work: Work, old_digest: str, number: int) -> str:
    cache = work.host.cache(work.app.name)
    found = old_digest.removeprefix("sha256:")
    if number > 0:
        found = ""
        for job in work.host.store.jobs(app=work.app.name, limit=JOBS, checks=False):
            if job.kind is not JobKind.UPDATE or job.id == work.job.id:
                continue
            try:
                plan = from_plain(Plan, job.plan)
            except SlotdError:
                continue  # an older slotd's
            if plan.digest == old_digest and number < len(plan.artifacts):
                found = plan.artifacts[number].sha256
                break
    return found if found and cached_path(cache, found).is_file() else ""


@contextmanager
def opened(cache: Path, digest: str, new_index: Path | None) -> Iterator[Seed]:
    """The kept file and the indexes, read only, while the worker has them. Blocks only to open them."""
    with ExitStack() as stack:
        yield _open(stack, cached_path(cache, digest), new_index) if digest else Seed()


def _open(stack: ExitStack, path: Path, new_index: Path | None) -> Seed:
    def take(each: Path) -> int:
        return stack.enter_context(files.opened(each, _READ))

    try:
        seed = take(path)
        if new_index is not None and index_path(path).is_file():
            return Seed("chunks", (seed, take(index_path(path)), take(new_index)))
        return Seed("zip", (seed,)) if os.pread(seed, len(MAGIC), 0) == MAGIC else Seed()
    except OSError:
        return Seed()
