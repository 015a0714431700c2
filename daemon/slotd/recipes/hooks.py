"""The definition's commands around a backup and after a switch, run as the app's user, and what they said.

What each said is kept with the job, and with the backup that it was run for; its last words go into the history, all of
it into the journal, which not everybody may read.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from slotd.core.artifact import place_name
from slotd.core.template import expand_command
from slotd.core.words import last_words
from slotd.errors import Failed
from slotd.host.offloop import off_loop
from slotd.host.process import Completed
from slotd.recipes.context import Said, Work

KEPT_CHARS = 32 * 1024  # of what one command said, from its end


def expand(work: Work, template: tuple[str, ...]) -> list[str]:
    """A command that runs in the new slot, with its placeholders filled in."""
    path, artifacts = work.engine.path(work.new_slot), work.plan.artifacts
    values = {
        "slot": str(path),
        "artifact": str(path / place_name(artifacts[0].name, work.app.name, alone=len(artifacts) == 1)),
        "version": work.plan.version,
        "previous": work.plan.old_version,
        "data": next(iter(work.app.data.paths), ""),
    }
    return list(expand_command(template, values))


async def run_around_backup(work: Work, when: str) -> None:
    """The commands of [data] by this name; one that fails fails the backup (promise 5)."""
    data = work.app.data
    current = str(work.engine.root / "current")
    copy = work.host.copy_path("backups", work.app.name, work.plan.backup)
    commands = {"before": data.before, "dump": data.dump, "after": data.after, "restore": data.restore}[when]
    await forget(work, when)
    for number, template in enumerate(commands):
        words = {"version": work.plan.old_version, "data": next(iter(data.paths), ""), "slot": current}
        argv = list(expand_command(template, words))
        done = await work.host.workers.command(
            argv,
            unit=work.unit(f"{when}{number}"),
            user=work.app.service.user or "root",
            cwd=Path("/"),
            writable=await off_loop(lambda: [Path(p) for p in data.paths if os.path.isdir(p)]),
            network=True,
            timeout_s=work.host.settings.limits.prepare_s,
            environment={"SLOTD_APP": work.app.name, "SLOTD_BACKUP": str(copy)},
        )
        await keep(work, when, argv, done)
        if done.status != 0:
            what = "load the database of" if when == "restore" else "back up"
            raise Failed(
                f"cannot {what} {work.app.name}: `{shlex.join(argv)}` ended with status {done.status}."
                f" {last_words(done.output)}"
            )


async def forget(work: Work, when: str) -> None:
    """What was said by commands that are going to be run again."""
    left = tuple(each for each in work.plan.said if each.when != when)
    if left != work.plan.said:
        await work.remember(said=left)


async def keep(work: Work, when: str, argv: Sequence[str], done: Completed) -> None:
    """Keep what a command said, and tell its last words."""
    output = done.output[-KEPT_CHARS:]
    line = shlex.join(argv)
    await work.remember(said=(*work.plan.said, Said(when=when, command=line, status=done.status, output=output)))
    how = f"ended with status {done.status}" if done.status else "is done"
    told = f"{when}: `{line}` {how}. {last_words(output)}".strip()
    await work.tell("command-ended", told, journal={"output": output})
