"""The board of views: none is shown that is older than another, and what has gone does not come back."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slotd.model import AppView, Job
from slotd.service.board import Board

ERROR = OSError(5, "Input/output error")


class Desk:
    """Who puts views together, as slowly as it is told to, and who hears of them."""

    def __init__(self) -> None:
        self.gates: list[threading.Event] = []
        self.begun = 0
        self.builds = threading.Semaphore(0)
        self.fault: Exception | None = None
        self.faults = 0  # how many times still; negative: each time
        self.trouble = ""
        self.told: list[tuple[str, str]] = []
        self.has_told = asyncio.Event()

    async def has_begun(self) -> None:
        """Return when one view more is being put together."""
        assert await asyncio.to_thread(self.builds.acquire, timeout=10)

    def build(self, name: str) -> tuple[AppView, str]:
        self.begun += 1
        self.builds.release()
        version = str(self.begun)
        if self.gates:
            assert self.gates.pop(0).wait(10)
        if name == "broken" and self.faults:
            self.faults -= 1
            if self.fault is not None:
                raise self.fault
            return AppView(name, problems=(self.trouble,)), self.trouble
        return AppView(name, version=version), ""

    def app_added(self, app: AppView) -> None:
        self.told.append(("added", app.version))

    def app_changed(self, app: AppView) -> None:
        self.told.append(("changed", app.version))
        self.has_told.set()

    def app_removed(self, name: str) -> None:
        self.told.append(("removed", name))

    def job_new(self, job: Job) -> None: ...
    def job_changed(self, job: Job) -> None: ...
    def job_removed(self, job: Job, details: Mapping[str, Any]) -> None: ...
    def job_forgotten(self, job_id: int) -> None: ...


def make_board(told: Path = Path("/dev/null/told")) -> tuple[Board, Desk]:
    desk = Desk()
    board = Board(desk.build, told, retry_s=0.01)
    board.listeners.append(desk)
    return board, desk


async def test_a_board_that_has_settled_builds_no_view_any_more() -> None:
    board, desk = make_board()
    await board.refresh("broken")
    desk.fault, desk.faults = ERROR, -1
    await board.refresh("broken")
    board.refresh_soon("broken")
    await board.settled()
    begun = desk.begun
    await asyncio.sleep(0.2)
    assert desk.begun == begun


async def test_a_view_that_took_long_does_not_replace_a_newer_one() -> None:
    board, desk = make_board()
    slow = threading.Event()
    desk.gates.append(slow)
    first = asyncio.create_task(board.refresh("notes"))
    await desk.has_begun()
    second = asyncio.create_task(board.refresh("notes"))
    await asyncio.sleep(0.02)
    slow.set()
    await asyncio.gather(first, second)
    assert board.app("notes").version == "2"
    assert desk.told == [("added", "1"), ("changed", "2")]


async def test_an_app_that_is_removed_while_it_is_looked_at_stays_removed() -> None:
    board, desk = make_board()
    await board.refresh("notes")
    await desk.has_begun()
    slow = threading.Event()
    desk.gates.append(slow)
    board.refresh_soon("notes")
    await desk.has_begun()
    removing = asyncio.create_task(board.keep(set()))
    board.refresh_soon("notes")
    await asyncio.sleep(0.02)
    slow.set()
    await removing
    await asyncio.wait_for(board.settled(), 5)
    assert board.names() == []
    assert desk.told[-1] == ("removed", "notes")


async def test_an_app_whose_view_fails_keeps_no_other_from_being_shown() -> None:
    board, desk = make_board()
    for name in ("broken", "notes", "wiki"):
        await board.refresh(name)
    desk.fault, desk.faults, desk.told = ERROR, -1, []
    for name in ("broken", "notes", "wiki"):
        board.refresh_soon(name)
    await asyncio.wait_for(board.settled(), 5)
    assert [what for what, _ in desk.told] == ["changed", "changed"]


async def test_a_disk_that_fails_once_leaves_no_old_view() -> None:
    board, desk = make_board()
    await board.refresh("broken")
    desk.fault, desk.faults, desk.told = ERROR, 1, []
    await board.refresh("broken")
    assert desk.told == [("changed", "3")]


async def test_a_disk_that_fails_for_a_while_leaves_an_old_view_until_it_answers() -> None:
    board, desk = make_board()
    await board.refresh("broken")
    desk.fault, desk.faults, desk.told = ERROR, 6, []
    await board.refresh("broken")
    assert board.app("broken").version == "1"
    await asyncio.wait_for(desk.has_told.wait(), 10)
    assert desk.told == [("changed", "8")]


async def test_a_part_that_cannot_be_read_is_said_and_read_again() -> None:
    board, desk = make_board()
    await board.refresh("broken")
    desk.trouble, desk.faults, desk.told = "cannot read the link.", 2, []
    await board.refresh("broken")
    assert board.app("broken").problems == ("cannot read the link.",)
    desk.has_told.clear()
    await asyncio.wait_for(desk.has_told.wait(), 10)
    assert board.app("broken").version == "4"
    assert board.app("broken").problems == ()
