"""What the bus is told by the real daemon: enough to know everything without asking again, and nothing twice."""

from __future__ import annotations

import asyncio
import os
import select
import sys
from collections.abc import Mapping
from typing import Any

import pytest
from tests.parts.daemon.desk import APP, JOB, MANAGER, NAME, PROPERTIES, ROOT, Desk
from tests.parts.daemon.notes import Notes
from tests.parts.daemon.world import REPOSITORY, World
from tests.release_server import ReleaseServer

from slotd.errors import SlotdError
from slotd.host.bus import Bus, Variant
from slotd.service import app, job, manager
from slotd.service.interface import Interface

sys.path.insert(0, str(REPOSITORY / "packaging"))

from manual import bus as reference

OBJECTS = "org.freedesktop.DBus.ObjectManager"
INTERFACES: dict[str, Interface] = {each.name: each for each in (manager.INTERFACE, app.INTERFACE, job.INTERFACE)}


class Mirror:
    """All that the daemon shows, kept up to date by its signals alone; `wrong` holds what they should not have said."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self.objects: dict[str, dict[str, dict[str, Any]]] = {}
        self.gone: list[str] = []
        self.wrong: list[str] = []

    @classmethod
    async def open(cls, address: str) -> Mirror:
        mirror = cls(await Bus.connect(address))
        await mirror._bus.on_signal(mirror._hear, sender=NAME)
        mirror.objects = await mirror.asked()
        return mirror

    async def asked(self) -> dict[str, dict[str, dict[str, Any]]]:
        """The same, from the daemon itself."""
        [objects] = await self._bus.call(NAME, ROOT, OBJECTS, "GetManagedObjects")
        [root] = await self._bus.call(NAME, ROOT, PROPERTIES, "GetAll", "s", [MANAGER])
        return dict(objects) | {ROOT: {MANAGER: root}}

    async def close(self) -> None:
        await self._bus.close()

    def _hear(self, path: str, member: str, body: list[Any]) -> None:
        match member:
            case "InterfacesAdded":
                if body[0] in self.objects:
                    self.wrong.append(f"{body[0]} was added twice")
                self.objects[body[0]] = dict(body[1])
            case "InterfacesRemoved":
                if sorted(self.objects.pop(body[0], {})) != sorted(body[1]):
                    self.wrong.append(f"{body[0]} was not there, or had other interfaces than {body[1]}")
                self.gone.append(body[0])
            case "PropertiesChanged":
                self._change(path, *body)

    def _change(self, path: str, interface: str, changed: dict[str, Any], invalidated: list[str]) -> None:
        known = self.objects.get(path, {}).get(interface)
        if known is None or invalidated:
            self.wrong.append(f"{path} changed, and was not there; or {invalidated} was told without a value")
            return
        for name, value in changed.items():
            prop = INTERFACES[interface].property(name)
            assert prop is not None
            if prop.emits == "const":
                self.wrong.append(f"{path} {name} is const, and changed")
            if known[name] == value:
                self.wrong.append(f"{path} {name} was told anew as {value}")
            if name == "Progress" and value < known[name]:
                self.wrong.append(f"{path} fell from {known[name]} to {value}")
        known.update(changed)


def typed(values: Mapping[str, Any]) -> set[str]:
    """What a dictionary holds, as the reference writes it: `version s`."""
    kinds = {str: "s", bool: "b", int: "t", dict: "a{sv}"}
    return {f"{key} {kinds[type(value)]}" for key, value in values.items()}


def documented(interface: str, member: str) -> set[str]:
    """The keys that the reference gives a dictionary."""
    return {key for key, _ in reference.read(REPOSITORY / "dbus")[interface].member(member).doc.keys}


@pytest.fixture(scope="module")
def second(notes: Notes, world: World, server: ReleaseServer) -> Notes:
    """Another app of the same kind; nobody has told the daemon of it."""
    return Notes(world, server, notes.key, name="second")


async def test_the_signals_alone_tell_all_there_is_to_know_of_an_apps_life(
    world: World, notes: Notes, second: Notes, desk: Desk
) -> None:
    mirror = await Mirror.open(world.address)
    notes.publish("1.0")
    assert (await desk.do("Update", "notes"))["result"] == "updated"
    assert await mirror.asked() == mirror.objects

    notes.publish("1.1")
    assert (await desk.do("Check", "notes"))["result"] == "done"
    await desk.call("Approve", "ssa{sv}", "notes", "1.1")
    assert (await desk.do("Update", "notes"))["result"] == "updated"
    assert await mirror.asked() == mirror.objects

    assert (await desk.do("Rollback", "notes", data="restore"))["result"] == "rolled-back"
    await desk.call("Hold", "ssa{sv}", "notes", "holidays")
    await desk.call("SetMode", "ssa{sv}", "notes", "auto")
    await desk.call("Unhold", "sa{sv}", "notes")
    await desk.call("SetMode", "ssa{sv}", "notes", "approve")
    notes.publish("1.2", "crash-at-start")
    assert (await desk.do("Update", "notes"))["result"] == "rolled-back"
    assert await mirror.asked() == mirror.objects

    second.set_up()
    await desk.call("Reload")
    assert mirror.objects["/org/slotd1/app/second"][APP]["State"] == "absent"
    second.definition.unlink()
    await desk.call("Reload")
    assert mirror.gone == ["/org/slotd1/app/second"]
    assert await mirror.asked() == mirror.objects
    assert mirror.wrong == []
    await mirror.close()


async def test_an_app_whose_definition_goes_during_a_job_stays_until_that_has_ended(
    world: World, second: Notes, desk: Desk
) -> None:
    second.set_up()
    second.define(trial="2min")
    second.publish("1.0")
    await desk.call("Reload")
    mirror = await Mirror.open(world.address)
    running = await desk.start("Update", "second")
    await desk.step_of(running, "trial")
    second.definition.unlink()
    await desk.call("Reload")
    assert (await desk.app("second"))["State"] == "trial"
    assert mirror.gone == []
    await desk.call("MarkGood", "sa{sv}", "second")
    assert (await desk.end_of(running))["result"] == "updated"
    with pytest.raises(SlotdError, match="cannot find an app named 'second'"):
        await desk.app("second")
    assert mirror.gone == ["/org/slotd1/app/second"]
    assert await mirror.asked() == mirror.objects
    assert mirror.wrong == []
    await mirror.close()


async def test_a_trial_tells_its_deadline_and_attempts_as_they_change(world: World, notes: Notes, desk: Desk) -> None:
    notes.define(trial="1h")
    await desk.call("Reload")
    notes.publish("1.3")
    running = await desk.start("Update", "notes")
    await desk.step_of(running, "trial")
    path = "/org/slotd1/app/notes"
    await desk.until(lambda: desk.values(path, "Trial"), "a trial")
    before = (await desk.app("notes"))["Trial"]
    assert typed(before) == documented(APP, "Trial")
    world.systemctl("kill", "--signal=KILL", "notes.service")
    await desk.until(
        lambda: desk.values(path, "Trial")[-1]["attempts_left"] < before["attempts_left"], "an attempt fewer"
    )
    after = (await desk.app("notes"))["Trial"]
    assert after["attempts_left"] == before["attempts_left"] - 1
    await desk.call("MarkGood", "sa{sv}", "notes")
    assert (await desk.end_of(running))["result"] == "updated"
    assert desk.values(path, "Trial")[-1] == {}
    notes.define()
    await desk.call("Reload")


async def test_dictionaries_have_the_keys_that_are_documented_and_no_others(notes: Notes, desk: Desk) -> None:
    running = await desk.start("Backup", "notes")
    details = await desk.end_of(running)
    assert typed({key: value for key, value in details.items() if key not in ("app", "result")}) == documented(
        MANAGER, "JobRemoved"
    )
    app = await desk.app("notes")
    assert app["Backups"]
    for saved in app["Backups"]:
        assert typed(saved) == documented(APP, "Backups")
    for event in await desk.call("History", "sua{sv}", "notes", 0):
        assert typed(event) == documented(MANAGER, "History")


async def test_a_bundle_is_refused_in_words_and_its_descriptor_is_closed(
    world: World, notes: Notes, desk: Desk
) -> None:
    bus = await Bus.connect(world.address)
    for options, says in (({}, "it is a pipe"), ({"dry": Variant("b", True)}, 'there is no option "dry"')):
        mine, theirs = os.pipe()
        call = (NAME, ROOT, MANAGER, "Import", "ha{sv}", [0, options])
        if options:
            with pytest.raises(SlotdError, match=says):
                await bus.call(*call, fds=[theirs])
        else:
            [job] = await desk.ask(*call, fds=[theirs])
            assert says in (await desk.end_of(job))["error"]
        os.close(theirs)
        await asyncio.to_thread(select.select, [mine], [], [], 10)  # the answer may come before the descriptor goes
        os.set_blocking(mine, False)
        assert os.read(mine, 1) == b"", "the end of the file: nobody else has the other end open"
        os.close(mine)
    await bus.close()


async def test_a_job_of_an_earlier_daemon_is_read_listed_and_too_late_to_cancel(world: World, desk: Desk) -> None:
    world.systemctl("restart", "slotd.service")
    [first, *_] = await desk.call("ListJobs", "a{sv}", all=True)
    assert first[0] == 1
    assert await desk.call("ListJobs", "a{sv}") == []
    path = await desk.call("GetJob", "t", 1)
    assert path == first[4]
    told = await desk.job(path)
    assert (told["State"], told["Result"], told["Progress"]) == ("done", "updated", 100)
    assert 0 < told["Started"] <= told["Finished"]
    with pytest.raises(SlotdError, match="it has ended as updated") as caught:
        await desk.call("Cancel", path=path, interface=JOB)
    assert str(getattr(caught.value, "remote_name", "")) == "org.slotd1.Error.TooLate"
    with pytest.raises(SlotdError, match="cannot find job 4711"):
        await desk.call("GetJob", "t", 4711)
