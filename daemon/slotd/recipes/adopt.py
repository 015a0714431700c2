"""An installation that is there already becomes slot a, and can be given back.

`adopt` copies the directory while the app runs, points `current` at the copy, and writes a drop-in for each unit that
says again what starts from the directory, from `current` instead. The app is restarted once. The directory stays as it
is. `release` takes the drop-ins away again. Both are undone by whatever goes wrong in them, a crash too; the unit files
themselves are never touched.
"""

from __future__ import annotations

import grp
import os
import pwd
import re
import stat
from pathlib import Path

from slotd.core import unitfile
from slotd.core.words import last_words
from slotd.data.copytree import TreeCopy
from slotd.data.places import spot
from slotd.errors import Failed, NothingToDo
from slotd.host import failpoint, files
from slotd.host.offloop import off_loop
from slotd.host.process import run
from slotd.model import Result, Slot, SlotName, SlotState
from slotd.recipes import preserve
from slotd.recipes.context import Work
from slotd.recipes.copies import require_room
from slotd.recipes.run import Step, tell_once
from slotd.recipes.trial import wait_until_healthy

FILE = "45-slotd-adopted.conf"  # before what `slotctl enable` writes, and before a person's own override.conf
MARKER = "# Written by slotctl adopt"
FILE_BYTES = 64 * 1024
SHOW_S = 30.0
BEFORE, NEW = ".before-release", ".slotd-new"  # beside the directory, while and after it gets the present version


async def adopt(work: Work) -> Result:
    """See the module. Raises `Failed`, `NoSpace`."""
    source, version = Path(work.plan.source), work.plan.version
    await preserve.require_units(work)
    texts = await _drop_ins(work, source)
    wanted = await off_loop(files.tree_size, source)
    require_room(f"adopt {source}", wanted, work.engine.root, await off_loop(work.engine.free_bytes))
    await off_loop(work.host.store.save, Slot(work.app.name, SlotName.A, SlotState.STAGING, version))
    readers, closed = await off_loop(_who_reads, work, source)
    await off_loop(_copy, work, source, readers)
    await failpoint.reach("adopt:copied")
    record = Slot(work.app.name, SlotName.A, SlotState.WHOLE, version, installed_at=work.host.clock.now())
    whole = await off_loop(lambda: work.engine.finish(SlotName.A, record, readers, closed=closed))
    work.too_late = True
    await off_loop(work.engine.switch, SlotName.A)
    await failpoint.reach("adopt:switched")
    await _write(work, texts)
    await failpoint.reach("adopt:written")
    await _restart(work)
    await _ask(work, version)
    await failpoint.reach("adopt:healthy")
    good = Slot(work.app.name, SlotName.A, SlotState.GOOD, version, whole.digest, whole.manifest, record.installed_at)
    await off_loop(work.host.store.save, good)
    units = ", ".join(texts)
    await work.tell("adopted", f"{source} was adopted as {version} in slot a; {units} start from there {_when(work)}")
    return Result.DONE


async def undo_adopt(work: Work) -> None:
    """Before the commit nothing stays of it: the units start what they started before, from where it still lies."""
    if await _remove(work) or work.plan.stopped_at:
        await work.host.systemd.reload()
        await _restart(work)
    await off_loop(work.engine.switch, None)
    await off_loop(_empty, work)


async def release(work: Work) -> Result:
    """Give the app back to its own unit and directory: as it was, or with the present version."""
    source = Path(work.plan.source)
    if work.plan.brings_present:
        await work.remember(source_inode=(await off_loop(os.lstat, source)).st_ino)
        await off_loop(_put_present, work, source)
        await failpoint.reach("release:exchanged")
    await _remove(work)
    await failpoint.reach("release:removed")
    await work.host.systemd.reload()
    await _restart(work)
    await _ask(work, work.plan.version)
    await failpoint.reach("release:healthy")
    await off_loop(work.engine.switch, None)  # from here on it goes forward only
    await failpoint.reach("release:unlinked")
    return await _forget(work)


async def _forget(work: Work) -> Result:
    """The end of a release: the slots are emptied, and it is told."""
    await off_loop(_empty, work)
    what = "the present version" if work.plan.brings_present else "as it was"
    again = f"its units start {work.plan.version} from {work.plan.source} again, {what}, {_when(work)}"
    await tell_once(work, "given-back", again)
    return Result.DONE


async def undo_release(work: Work) -> Result | None:
    if await off_loop(work.engine.active) is None:
        return await _forget(work)  # it was given back already
    source = Path(work.plan.source)
    if work.plan.brings_present:
        await off_loop(_take_present_away, source, work.plan.source_inode)
    await _write(work, dict(work.plan.drop_ins))
    await _restart(work)
    return None


STEPS_ADOPT: tuple[Step, ...] = (Step("adopt", adopt, undo=undo_adopt),)
STEPS_RELEASE: tuple[Step, ...] = (Step("release", release, undo=undo_release),)


# -- units -------------------------------------------------------------------------------------------------


def drop_in(work_user_mode: bool, unit: str) -> Path:
    """Where the drop-in of a unit lies."""
    config = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    folder = Path(config) / "systemd/user" if work_user_mode else Path("/etc/systemd/system")
    return folder / f"{unit}.d" / FILE


def written(user_mode: bool, units: tuple[str, ...]) -> tuple[dict[str, str], str, str]:
    """The drop-ins that `adopt` wrote: their texts by unit, the directory, its version; nothing if there are none."""
    texts: dict[str, str] = {}
    source = version = ""
    for unit in units:
        try:
            text = files.read_bounded(drop_in(user_mode, unit), FILE_BYTES).decode("utf-8", "replace")
        except FileNotFoundError:
            continue
        found = re.match(rf"{re.escape(MARKER)} [^\n]*\n# From: ([^\n]+)\n# Version: ([^\n]+)\n", text)
        if found:
            texts[unit], source, version = text, found[1], found[2]
    return texts, source, version


async def _drop_ins(work: Work, source: Path) -> dict[str, str]:
    """The text for each unit that starts from the directory. Raises `Failed` if none does."""
    head = f"{MARKER} for {work.app.name}: `slotctl release {work.app.name}` takes it back.\n"
    head += f"# From: {source}\n# Version: {work.plan.version}\n"
    staying = [*work.app.data.paths, *work.app.slots.links.values()]
    texts = {}
    for unit in work.app.service.units:
        manager = ["--user"] if work.host.user_mode else []
        shown = await run(["systemctl", *manager, "--no-pager", "cat", "--", unit], timeout_s=SHOW_S)
        if shown.status != 0:
            raise Failed(f"cannot read the unit {unit}. {last_words(shown.output)}")
        body = unitfile.moved(shown.output, str(source), str(work.engine.root / "current"), staying)
        if body:
            texts[unit] = head + body
    if not texts:
        raise Failed(
            f"cannot adopt {source} as {work.app.name}: none of its units starts anything from there.",
            hint=f"See `systemctl cat {work.app.service.units[0]}`: ExecStart= must name a path below {source}.",
        )
    return texts


async def _write(work: Work, texts: dict[str, str]) -> None:
    """slotd itself may not write there: a unit of its own does, which may write nowhere else."""
    for number, (unit, text) in enumerate(texts.items()):
        path = drop_in(work.host.user_mode, unit)
        await _in_units(work, f"write{number}", _WRITE, str(path), text)
    await work.host.systemd.reload()


async def _remove(work: Work) -> bool:
    """Whether there was one to remove."""
    texts, _, _ = await off_loop(written, work.host.user_mode, work.app.service.units)
    for number, unit in enumerate(texts):
        await _in_units(work, f"remove{number}", _REMOVE, str(drop_in(work.host.user_mode, unit)))
    return bool(texts)


_WRITE = 'mkdir -p "${1%/*}" && printf %s "$2" >"$1.new" && sync "$1.new" && mv "$1.new" "$1" && sync "${1%/*}"'
_REMOVE = 'rm -f "$1" "$1.new" && sync "${1%/*}" && rmdir --ignore-fail-on-non-empty "${1%/*}"'


async def _in_units(work: Work, verb: str, script: str, *args: str) -> None:
    folder = drop_in(work.host.user_mode, "x").parent.parent
    if work.host.user_mode:
        await off_loop(lambda: folder.mkdir(parents=True, exist_ok=True))
    done = await work.host.workers.command(
        ["/bin/sh", "-c", script, "sh", *args],
        unit=work.unit(verb),
        user="root",
        cwd=Path("/"),
        writable=[folder],
        network=False,
        timeout_s=SHOW_S,
        environment={},
    )
    if done.status != 0:
        raise Failed(f"cannot change {args[0]}. {last_words(done.output)}")


async def _restart(work: Work) -> None:
    """All units down and up again; those that a person had stopped stay so."""
    if not work.plan.stopped_at:
        await work.remember(stopped_at=work.host.clock.now(), resting=await preserve.resting_units(work))
    if not work.plan.dependents:
        await work.remember(dependents=tuple(await preserve.dependents_of(work)))
    await preserve.stop_all(work)
    await preserve.start_all(work)


async def _ask(work: Work, version: str) -> None:
    """Only an app that runs can be asked."""
    if not work.plan.resting:
        await wait_until_healthy(work, version)


def _when(work: Work) -> str:
    return "once they are started: they were stopped, and were not asked" if work.plan.resting else "now"


# -- directories -------------------------------------------------------------------------------------------


def require_adoptable(work_root: Path, source: Path, staying: tuple[str, ...], links: tuple[str, ...]) -> None:
    """Raises `Failed` for a directory that cannot become a slot. Blocking."""
    if not unitfile.PLAIN_PATH.fullmatch(str(source)) or source.parent == source or ".." in source.parts:
        raise Failed(f"cannot adopt {files.shown(source)}: it must be an absolute path of plain letters.")
    if source.resolve() != source or not source.is_dir():
        raise Failed(f"cannot adopt {source}: it is not a directory itself (a link counts for where it leads).")
    if source == work_root or source in work_root.parents or work_root in source.parents:
        raise Failed(f"cannot adopt {source}: the slots lie there.")
    linked = [source / link for link in links]
    for path in map(Path, staying):
        if path == source or path in source.parents:
            raise Failed(f"cannot adopt {source}: it is data of the app ({path}).")
        if source in path.parents and not any(path == each or each in path.parents for each in linked):
            raise Failed(
                f"cannot adopt {source}: the data {path} lie in it, and every version would have its own.",
                hint=f'Name it under [slots] links, as `"{path.relative_to(source)}" = "{path}"`.',
            )


def _who_reads(work: Work, source: Path) -> tuple[frozenset[int], bool]:
    """The users whose own files a slot's group may read: the app's. And whether nobody else could get to the directory.

    Raises `Failed` if that group has others in it, who could then read what they could not before.
    """
    name = work.app.service.user
    if work.host.user_mode or not name or name == "root":
        return frozenset({os.geteuid()}), _is_closed(source)
    user = pwd.getpwnam(name)
    group = grp.getgrgid(user.pw_gid)
    others = {*group.gr_mem, *(each.pw_name for each in pwd.getpwall() if each.pw_gid == user.pw_gid)} - {name}
    if others and (private := _private(source, user.pw_uid)):
        raise Failed(
            f"cannot adopt {source}: {files.shown(private)} is for {name} alone, and in a slot all of the group"
            f" {group.gr_name} could read it, which has {', '.join(sorted(others)[:3])} in it, too.",
            hint=f"Let the group read it (`chmod g+r`), or give {name} a group of its own (`usermod --gid`).",
        )
    return frozenset({user.pw_uid}), _is_closed(source)


def _is_closed(source: Path) -> bool:
    return not all(above.stat().st_mode & 0o001 for above in (source, *source.parents))


def _private(source: Path, uid: int) -> str:
    """Something in the directory that only its owner can read; empty if there is nothing."""
    for top, directories, names in os.walk(source):
        for name in (".", *directories, *names):
            found = os.lstat(os.path.join(top, name))
            if found.st_uid == uid and not stat.S_ISLNK(found.st_mode) and not found.st_mode & 0o044:
                return os.path.normpath(os.path.join(top, name))
    return ""


def _copy(work: Work, source: Path, readers: frozenset[int]) -> None:
    """The directory into slot a, without what the slots link to. Nothing follows a link."""
    engine, slot = work.engine, SlotName.A
    links = {link.strip("/") for link in work.app.slots.links}
    engine.empty(slot)
    os.close(engine.open(slot))  # made, and the root with it
    with (
        files.explaining(f"cannot copy {source}"),
        files.opened(engine.root, files.DIRECTORY) as root,
        spot(source) as at,  # no link on the way that the app could have put there since it was looked at
    ):
        if at is None or at.found is None or not stat.S_ISDIR(at.found.st_mode):
            raise Failed(f"cannot adopt {source}: it is not there any more.")
        files.remove_at(root, slot.value)
        TreeCopy(lambda rel: rel in links or rel == ".slotd").run(at.parent, at.name, root, slot.value)
    if links:
        engine.settle(slot, readers)


def _empty(work: Work) -> None:
    for slot in SlotName:
        work.host.store.save(Slot(work.app.name, slot))
        work.engine.empty(slot)


def _put_present(work: Work, source: Path) -> None:
    """The version that runs to where the app lay before; what was there stays beside it."""
    active = work.engine.active()
    if active is None:
        raise NothingToDo(f"cannot give {work.app.name} back: nothing of it is installed.")
    new, before = source.with_name(source.name + NEW), source.with_name(source.name + BEFORE)
    with (
        files.explaining(f"cannot write {new}"),
        files.opened(work.engine.root, files.DIRECTORY) as root,
        files.opened(source.parent, files.DIRECTORY) as above,
    ):
        if files.exists_at(before.name, above):
            raise Failed(f"cannot give {work.app.name} back: {before} is there already.", hint="Move it away.")
        files.remove_at(above, new.name)
        TreeCopy(lambda rel: rel == ".slotd").run(root, active.value, above, new.name)
        files.syncfs_fd(above)
        files.rename_new(source.name, before.name, src_dir_fd=above, dst_dir_fd=above)
        files.rename_new(new.name, source.name, src_dir_fd=above, dst_dir_fd=above)
        os.fsync(above)


def _take_present_away(source: Path, inode: int) -> None:
    """Undo of `_put_present`, however far it came. Only the directory that it moved comes back, and in place of nothing
    but the copy: what else is called so was there before.
    """
    new, before = source.with_name(source.name + NEW), source.with_name(source.name + BEFORE)
    with files.explaining(f"cannot bring {source} back"), files.opened(source.parent, files.DIRECTORY) as above:
        moved = files.exists_at(before.name, above) and os.stat(before.name, dir_fd=above, follow_symlinks=False)
        if moved and moved.st_ino == inode:
            files.remove_at(above, source.name)
            files.rename_new(before.name, source.name, src_dir_fd=above, dst_dir_fd=above)
        files.remove_at(above, new.name)
        os.fsync(above)
