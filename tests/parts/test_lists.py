"""The lists of many apps of one server, wanted at once: who is asked with whom, what a bad one does to the others."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.parts.test_worker import evil
from tests.release_server import ReleaseServer

from slotd.core.schema import App, Limits, Source, Verify
from slotd.errors import SlotdError, SourceFailed
from slotd.host.run import Workers
from slotd.recipes.lists import AT_ONCE, TOGETHER, Lists
from slotd.sources.work import listing_from_json

SIGNED = Verify(require=("sha256", "minisign"), keys=("x",))
USUAL = Limits()
COUNT = 3 * TOGETHER


@pytest.fixture
def server() -> Iterator[ReleaseServer]:
    with ReleaseServer() as running:
        yield running


def app(server: ReleaseServer, number: int, verify: Verify = SIGNED, **more: Any) -> App:
    name = f"app{number}"
    source = {"type": "github", "repository": f"acme/{name}", "url": f"{server.url}/github", "asset": (f"{name}.tar",)}
    return App(name=name, source=Source(**source | more), verify=verify)


def publish(server: ReleaseServer, count: int = COUNT) -> None:
    for number in range(count):
        server.release(f"github/acme/app{number}", f"v1.{number}", {f"app{number}.tar": b"x"})


def honest() -> Workers:
    return Workers(limits=Limits(), sandbox=False)


async def ask(lists: Lists, one: App, state: Mapping[str, Any] = {}) -> Any:
    claim = await lists.ask(USUAL, one, state, unit=f"slotd-worker-{one.name}-1-list")
    return listing_from_json(claim, one.source, USUAL)


def connections(server: ReleaseServer) -> int:
    return len({seen.peer for seen in server.requests})


def versions(listings: list[Any]) -> list[str]:
    return [listing.releases[0].version for listing in listings]


async def test_lists_that_are_wanted_at_once_share_connections_and_are_each_apps_own(server: ReleaseServer) -> None:
    publish(server)
    lists = Lists(honest())
    found = await asyncio.gather(*(ask(lists, app(server, number)) for number in range(COUNT)))
    assert versions(found) == [f"1.{number}" for number in range(COUNT)]
    assert len(server.requests) == COUNT
    assert connections(server) <= 2 + COUNT // TOGETHER
    again = await asyncio.gather(*(ask(lists, app(server, n), state=found[n].state) for n in range(COUNT)))
    assert versions(again) == versions(found)
    assert all("if-none-match" in seen.headers for seen in server.requests[COUNT:])


async def test_what_nobody_signs_is_asked_for_alone(server: ReleaseServer) -> None:
    publish(server)
    lists, only_sums = Lists(honest()), Verify(require=("sha256",))
    found = await asyncio.gather(*(ask(lists, app(server, number, only_sums)) for number in range(AT_ONCE + 2)))
    assert versions(found) == [f"1.{number}" for number in range(AT_ONCE + 2)]
    assert connections(server) == AT_ONCE + 2


async def test_another_credential_or_server_is_asked_for_by_another_worker(server: ReleaseServer) -> None:
    publish(server)
    lists = Lists(honest())
    here, there = server.url, server.url.replace("127.0.0.1", "localhost")
    asked = (app(server, number, url=f"{(here, there)[number % 2]}/github") for number in range(8))
    await asyncio.gather(*(ask(lists, one) for one in asked))
    hosts: dict[int, set[str]] = {}
    for seen in server.requests:
        hosts.setdefault(seen.peer, set()).add(seen.headers["host"])
    assert all(len(each) == 1 for each in hosts.values())
    assert len(set.union(*hosts.values())) == 2


async def test_an_app_that_the_server_does_not_have_fails_alone(server: ReleaseServer) -> None:
    publish(server, 12)
    lists = Lists(honest())
    asked = (ask(lists, app(server, number)) for number in range(14))
    found = await asyncio.gather(*asked, return_exceptions=True)
    assert versions(found[:12]) == [f"1.{number}" for number in range(12)]
    for number in (12, 13):
        assert isinstance(found[number], SourceFailed)
        assert f"app{number}" in str(found[number])


async def test_a_server_that_wants_no_more_is_not_asked_for_the_others_either(server: ReleaseServer) -> None:
    publish(server, 12)
    reset = int(time.time()) + 3600
    server.misbehave("rate-limit", reset=reset)
    lists = Lists(honest())
    found = await asyncio.gather(*(ask(lists, app(server, number)) for number in range(12)), return_exceptions=True)
    for each in found:
        assert isinstance(each, SourceFailed)
        assert each.retry_at == reset
    assert len(server.requests) == 2, "the first, and the first of those who waited for it"
    told = [str(each) for each in found]
    assert sum("its server does not want to be asked again before" in text for text in told) == 10


async def test_a_slow_server_gives_each_its_list_in_the_end(server: ReleaseServer) -> None:
    publish(server, 5)
    server.misbehave("slow-start", seconds=3)
    lists = Lists(honest())
    found = await asyncio.gather(*(ask(lists, app(server, number)) for number in range(5)))
    assert versions(found) == [f"1.{number}" for number in range(5)]
    assert connections(server) >= 3, "one alone, some together, and who would have had to wait for too long"


async def test_a_server_that_falls_silent_is_asked_by_several_at_a_time(server: ReleaseServer) -> None:
    publish(server, 9)
    server.misbehave("slow-start", seconds=60)
    lists = Lists(honest(), patience_s=1.0)
    tasks = [asyncio.create_task(ask(lists, app(server, number))) for number in range(9)]
    await asyncio.sleep(4)
    assert connections(server) == AT_ONCE
    server.behave()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert versions([await asyncio.wait_for(ask(lists, app(server, 4)), 60)]) == ["1.4"]


async def test_one_that_is_cancelled_keeps_no_other_from_its_list(server: ReleaseServer) -> None:
    publish(server, 12)
    for cancelled in (0, 1, 5):
        for after_s in (0, 0.3, 0.6):
            lists = Lists(honest())
            tasks = [asyncio.create_task(ask(lists, app(server, number))) for number in range(12)]
            await asyncio.sleep(after_s)
            tasks[cancelled].cancel()
            found = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 60)
            del found[cancelled]
            assert versions(found) == [f"1.{number}" for number in range(12) if number != cancelled]
            await asyncio.wait_for(ask(lists, app(server, 0)), 60)


async def test_all_that_wait_may_be_cancelled(server: ReleaseServer) -> None:
    publish(server, 12)
    lists = Lists(honest())
    for after_s in (0, 0.1, 0.3, 0.5):
        tasks = [asyncio.create_task(ask(lists, app(server, number))) for number in range(12)]
        await asyncio.sleep(after_s)
        for task in tasks:
            task.cancel()
        await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 60)
    found = await asyncio.wait_for(ask(lists, app(server, 3)), 60)
    assert versions([found]) == ["1.3"]


LIES = {
    "it dies": "os._exit(1)",
    "an answer too few": "sock.sendall(frame({'ok': {'answers': [good] * (len(asks) - 1)}}))",
    "no answers": "sock.sendall(frame({'ok': {}}))",
    "answers of no form": "sock.sendall(frame({'ok': {'answers': 7}}))",
    "always later": "sock.sendall(frame({'ok': {'answers': [{}] * len(asks)}}))",
    "odd answers": "sock.sendall(frame({'ok': {'answers': [[good], None, 'x', 1, {'ok': 5}] * len(asks)}}))",
}


@pytest.mark.attack
@pytest.mark.parametrize("lie", LIES)
async def test_a_worker_that_answers_for_many_and_lies_costs_each_a_worker_of_its_own(
    server: ReleaseServer, tmp_path: Path, lie: str
) -> None:
    good = {"releases": [], "state": {}, "warnings": ["alone"]}
    script = f"""
    good = {{"ok": {good!r}}}
    if "asks" not in request:
        time.sleep(0.2)
        sock.sendall(frame(good))
        return
    asks = request["asks"]
    {LIES[lie]}
    """
    lists = Lists(evil(tmp_path, script))
    found = await asyncio.wait_for(asyncio.gather(*(ask(lists, app(server, n)) for n in range(6))), 60)
    assert [listing.warnings for listing in found] == [("alone",)] * 6


@pytest.mark.attack
async def test_a_list_that_a_shared_worker_gives_is_checked_as_a_strangers(
    server: ReleaseServer, tmp_path: Path
) -> None:
    script = """
    good = {"releases": [], "state": {}, "warnings": []}
    evil = {"releases": [{"tag": "../..", "version": "x", "assets": "many"}], "state": [], "warnings": {}}
    if "asks" in request:
        told = {"error": {"name": "Nonsense", "message": ["x"]}}
        sock.sendall(frame({"ok": {"answers": ([{"ok": good}, {"ok": evil}, told] * 9)[: len(request["asks"])]}}))
    else:
        time.sleep(0.2)
        sock.sendall(frame({"ok": good}))
    """
    lists = Lists(evil(tmp_path, script))
    asked = (ask(lists, app(server, number)) for number in range(7))
    found = await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), 60)
    failed = [each for each in found if isinstance(each, SlotdError)]
    assert len(failed) == 4
    assert all(type(each) is not SlotdError for each in failed)
