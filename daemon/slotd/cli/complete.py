"""What a shell offers at Tab: `slotctl _complete KIND WORD...`, with the words of the command line typed so far.

Prints a value on each line, maybe with a tab and a description. Says nothing when there is nothing to say: no daemon,
no bus, no right to look. Shells ask at every key (fish does), so the daemon is never started by this: names of apps
come from the definitions' file names, and all else is asked of a daemon that runs already, by its unique name, which
the bus starts nobody for.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from slotd.errors import SlotdError
from slotd.host.paths import Paths

DEADLINE_S = 2.0  # a person waits at a prompt

_WORD = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+_~!@:-]*")  # names, versions, ids; whatever else a file may be called

Offer = tuple[str, str]
"""A value and what it is."""


def complete(words: Sequence[str]) -> int:
    """0, whatever is known; 1 if something is in the way, in silence."""
    kind, line = (words[0], words[1:]) if words else ("", ())
    try:
        is_user = "--user" in line
        names = _app_names(Paths.from_environment(is_user, os.environ))
        found: list[Offer] = [(name, "") for name in names if kind in ("apps", "jobs-or-apps")]
        if kind != "apps":
            import asyncio  # late: names of apps are asked for most, and it takes longer than they do

            app = next((word for word in line if word in names), "")
            asked = _asked(kind.removesuffix("-or-apps"), app, user=is_user)
            with suppress(SlotdError, TimeoutError):  # no daemon: what is known without it is offered all the same
                found += asyncio.run(asyncio.wait_for(asked, DEADLINE_S))
    except Exception:  # whatever it is, a prompt is no place to tell of it
        return 1
    for value, text in dict(found).items():
        if _WORD.fullmatch(value):
            sys.stdout.write(f"{value}\t{_plain(text)}\n" if text else f"{value}\n")
    return 0


def _app_names(paths: Paths) -> list[str]:
    """The apps that are defined, well or not: file names are enough, and quick."""
    names: set[str] = set()
    for directory in paths.config:
        try:
            with os.scandir(directory / "apps.d") as entries:
                names |= {entry.name.removesuffix(".toml") for entry in entries if entry.name.endswith(".toml")}
        except OSError:
            continue
    return sorted(names)


async def _asked(kind: str, app: str, *, user: bool) -> list[Offer]:
    from slotd.cli.client import APP, JOB, NAME, OBJECTS, Client

    client = await Client.connect(user=user)
    try:
        bus = "org.freedesktop.DBus"
        owner = await client.call(
            "GetNameOwner", "s", [NAME], interface=bus, path="/org/freedesktop/DBus", destination=bus
        )
        objects = await client.call("GetManagedObjects", interface=OBJECTS, destination=str(owner))
    finally:
        await client.close()
    if kind == "jobs":
        return [_job(each[JOB]) for each in objects.values() if JOB in each]
    (found,) = [each[APP] for each in objects.values() if APP in each and each[APP]["Name"] == app]
    match kind:
        case "versions":
            return [(found["AvailableVersion"], "available"), (found["ApprovedVersion"], "approved")]
        case "kept":
            backups = [each for each in found["Backups"] if each["kind"] == "backup"]
            saved = {each["version"]: "its data are in a backup" for each in backups}
            saved[found["PreviousVersion"]] = f"in slot {found['PreviousSlot']}"
            return [(version, why) for version, why in saved.items() if version != found["Version"]]
        case "backups":
            return [_backup(each) for each in found["Backups"]]
        case _:
            return []


def _job(job: dict[str, Any]) -> Offer:
    return ("" if job["State"] not in ("waiting", "running") else str(job["Id"])), f"{job['Kind']} of {job['App']}"


def _backup(backup: dict[str, Any]) -> Offer:
    from time import time

    from slotd.cli.tables import short_moment
    from slotd.core.words import size

    made = short_moment(backup["created"], time())
    return backup["id"], f"{backup['kind']} of {backup['version']}, {made}, {size(backup['bytes'])}"


def _plain(text: str) -> str:
    return "".join(char for char in text if char.isprintable())
