"""`stage` and `compare`: the release becomes a whole slot, with the app running untouched beside it."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path

from slotd.core import bundle
from slotd.core.artifact import place_name
from slotd.core.words import last_words
from slotd.errors import Failed
from slotd.host import failpoint, files
from slotd.host.offloop import off_loop
from slotd.model import Blocked, Result, Slot, SlotState
from slotd.recipes import hooks, shelf, space
from slotd.recipes.context import Artifact, Work
from slotd.recipes.copies import check_copy
from slotd.recipes.obtain import verified_descriptor
from slotd.recipes.undoing import empty_slot

_WHEELS = ".wheels"  # beside the slots, while prepare commands run
_AGAIN = "The disk may be failing; import the bundle again."


async def fill_slot(work: Work) -> None:
    """Empty the inactive slot, unpack into it, check, prepare, check again, record, sync."""
    slot, engine, store = work.new_slot, work.engine, work.host.store
    await space.require(work)
    if work.plan.brings:
        await check_copy(work, work.plan.brings)
    await off_loop(store.save, Slot(app=work.app.name, name=slot, state=SlotState.STAGING, version=work.plan.version))
    await failpoint.reach("stage:recorded")
    await off_loop(engine.empty, slot)
    await failpoint.reach("stage:emptied")
    for number, artifact in enumerate(work.plan.artifacts):
        await _unpack(work, artifact)
        work.progress(0.4 * (number + 1) / len(work.plan.artifacts))
    await failpoint.reach("stage:unpacked")
    await off_loop(engine.settle, slot)
    await failpoint.reach("stage:settled")
    await prepare(work)
    await failpoint.reach("stage:prepared")
    await _share(work)
    record = Slot(
        app=work.app.name,
        name=slot,
        state=SlotState.WHOLE,
        version=work.plan.version,
        digest=work.plan.digest,
        installed_at=work.host.clock.now(),
    )
    whole = await off_loop(engine.finish, slot, record)
    await failpoint.reach("stage:finished")
    await off_loop(store.save, whole)  # only now is the slot more than a half-built one


async def _share(work: Work) -> None:
    """What is the same as in the active slot takes no room of its own, on a file system that can do that."""
    shared = await off_loop(work.engine.share, work.new_slot)
    if shared:
        share = f"{shared / 1024**2:.1f} MiB of {work.plan.version} are shared with {work.plan.old_version}"
        await work.tell("shared", f"{share}: they take no room of their own", shared=str(shared))


async def _unpack(work: Work, artifact: Artifact) -> None:
    """Unpack the bytes that were verified: by their descriptor, whatever became of the path."""
    slots, limits = work.app.slots, work.host.settings.limits
    descriptor = await verified_descriptor(work, artifact)
    directory = await off_loop(work.engine.open, work.new_slot)
    try:
        request = {
            "name": artifact.name,
            "kind": slots.unpack,
            "strip": slots.strip,
            "target_name": place_name(artifact.name, work.app.name, alone=len(work.plan.artifacts) == 1),
            "limits": {
                "max_size": slots.max_size,
                "max_files": slots.max_files,
                "path_bytes": limits.path_bytes,
                "path_depth": limits.path_depth,
            },
        }
        await work.host.workers.call(
            "unpack", request, [descriptor, directory], unit=work.unit("unpack"), timeout_s=limits.unpack_s
        )
    finally:
        os.close(directory)


async def prepare(work: Work) -> None:
    """Run the prepare commands in the new slot as the app's user; the first that fails ends the update."""
    slots = work.app.slots
    if not slots.prepare:
        return
    await off_loop(work.engine.lend, work.new_slot)
    path = work.engine.path(work.new_slot)
    user = work.app.service.user if work.app.service.user not in ("", "root") else "slotd-worker"
    wheels = await off_loop(_lay_out_wheels, work)
    offline = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels)} if wheels else {}
    try:
        await _run_prepare(work, path, user, offline)
    finally:
        await off_loop(files.remove_tree, work.engine.root / _WHEELS)


def _lay_out_wheels(work: Work) -> Path | None:
    """What came in the bundle with the release, under the names that pip knows, where the app's user can read it."""
    folder, cache = work.engine.root / _WHEELS, work.host.cache(work.app.name)
    files.remove_tree(folder)
    is_imported = any(bundle.digest_of(artifact.url) for artifact in work.plan.artifacts)
    found = shelf.dependencies(cache, work.plan.version) if is_imported else {}
    if not found:
        return None
    with files.explaining(f"cannot lay out what {work.app.name} depends on in {folder}"):
        folder.mkdir(mode=0o755)
        folder.chmod(0o755)
        for name, source in found.items():
            if files.hash_path(source) != source.name:
                raise Failed(f"cannot use {name}, which came in a bundle: its bytes have changed.", hint=_AGAIN)
            shutil.copyfile(source, folder / name)
            (folder / name).chmod(0o644)
    return folder


async def _run_prepare(work: Work, path: Path, user: str, offline: Mapping[str, str]) -> None:
    slots = work.app.slots
    for number, template in enumerate(slots.prepare):
        argv = hooks.expand(work, template)
        done = await work.host.workers.command(
            argv,
            unit=work.unit(f"prepare{number}"),
            user=user,
            cwd=path,
            writable=[path],
            network=slots.network and not offline,
            timeout_s=work.host.settings.limits.prepare_s,
            environment={
                "SLOTD_APP": work.app.name,
                "SLOTD_VERSION": work.plan.version,
                "SLOTD_SLOT": str(path),
                **offline,
            },
        )
        if done.status != 0:
            how = "took too long" if done.timed_out else f"ended with status {done.status}"
            raise Failed(
                f"cannot prepare {work.app.name} {work.plan.version}: `{shlex.join(argv)}` {how}."
                f" {last_words(done.output)}",
                hint=f"Run it by hand as {user}, or see `journalctl -u slotd`.",
            )
        work.progress(0.4 + 0.5 * (number + 1) / len(slots.prepare))


async def end_if_unchanged(work: Work) -> Result | None:
    """A release that holds what is installed already ends here: no stop, no switch, and it is not offered again.

    That is decided once, on disk: whoever resumes this finds the slot emptied, and nothing in it to compare.
    """
    version, old_version = work.plan.version, work.plan.old_version
    if not work.plan.unchanged:
        if not await _is_unchanged(work):
            return None
        reason = f"it holds the same files as {old_version}, which is installed"
        blocked = Blocked(work.app.name, version, work.plan.digest, reason, at=work.host.clock.now())
        await work.remember(blocked, unchanged=True)
    work.too_late = True  # to be cancelled: it has its result
    await failpoint.reach("compare:blocked")
    await empty_slot(work)
    await work.tell("unchanged", f"{version} holds the same files as {old_version}; nothing was touched")
    return Result.UNCHANGED


async def _is_unchanged(work: Work) -> bool:
    old = work.plan.old_slot
    if old is None or work.plan.force or work.plan.kept:
        return False
    slots = await off_loop(work.host.store.slots, work.app.name)
    return bool(slots[old].manifest) and slots[work.new_slot].manifest == slots[old].manifest
