"""What slotctl shows: tables, blocks, JSON, and what it decides."""

from __future__ import annotations

import time

from tests.parts.cli.run import (
    slotctl,
)
from tests.parts.cli.service import Slotd

from slotd.model import AppState, Mode


async def test_list_shows_every_app_on_a_line(slotd: Slotd, address: str) -> None:
    slotd.add("wiki", state=AppState.IDLE, version="3", available="3")
    run = await slotctl(address, "list")
    assert run.out.splitlines() == [
        "NAME   VERSION  STATE             AVAILABLE  MODE",
        "notes  1.0      update-available  1.1        approve",
        "wiki   3        idle              -          approve",
    ]
    assert (run.code, run.err) == (0, "")


async def test_list_as_json_has_stable_keys(slotd: Slotd, address: str) -> None:
    run = await slotctl(address, "list", "--json")
    row = {"name": "notes", "version": "1.0", "state": "update-available", "available": "1.1", "mode": "approve"}
    assert run.json == [row]


async def test_status_of_one_app_says_everything(slotd: Slotd, address: str) -> None:
    now = time.time()
    slotd.open_trial("notes", left_s=300.9, attempts=2)
    slotd.change("notes", held=True, hold_reason="migration", last_error="cannot fetch: 500")
    for count in range(1, 9):
        slotd.tell(f"event {count}", now - 100 + count)
    run = await slotctl(address, "status", "notes")
    lines = run.out.splitlines()
    assert lines[0] == "● notes - A notes server"
    fields = dict(line.strip().split(": ", 1) for line in lines[1 : lines.index("")])
    assert fields["State"] == "trial"
    assert fields["Version"] == "1.0 in slot a"
    assert fields["Before"] == "0.9 in slot b"
    assert fields["Trial"].startswith("1.1 is on trial, ")
    assert fields["Trial"].endswith(" left, 2 attempts left")
    assert fields["Available"].startswith("1.1")
    assert (fields["Mode"], fields["Hold"], fields["Units"]) == ("approve", "migration", "notes.service")
    assert fields["Last check"].startswith("3 min ago (")
    assert fields["Last error"] == "cannot fetch: 500"
    assert fields["Backups"] == "2, newest new (of 0.9, 12 MiB, 5 min old); 1 set aside by rollbacks or restores"
    assert [line.split("  ")[-1] for line in lines[-5:]] == [f"event {i}" for i in range(4, 9)]


async def test_status_as_json_is_one_document_with_utc_times(slotd: Slotd, address: str) -> None:
    slotd.tell("done", 1785751384.0, "updated")
    document = (await slotctl(address, "--json", "status", "notes")).json
    assert document["name"] == "notes"
    assert document["trial"] is None
    assert document["job"] is None
    assert [b["id"] for b in document["backups"]] == ["aside", "new", "old"]
    assert document["last_check"].endswith("Z")
    assert document["history"][0]["time"] == "2026-08-03T10:03:04.000Z"


async def test_status_of_all_says_which_app_is_in_trouble(slotd: Slotd, address: str) -> None:
    slotd.add("wiki", state=AppState.MISCONFIGURED, last_error="wiki.toml: unknown key [source] assets")
    run = await slotctl(address, "status")
    assert "wiki   -        misconfigured" in run.out
    assert run.out.splitlines()[-1] == "wiki: wiki.toml: unknown key [source] assets"
    assert (await slotctl(address)).out.splitlines()[0] == run.out.splitlines()[0]


async def test_what_the_bus_says_cannot_write_on_the_terminal(slotd: Slotd, address: str) -> None:
    evil = "x\x1b]0;owned\x07\x1b[2J"
    slotd.change("notes", last_error=evil, description=evil, hold_reason=evil, held=True, version=evil)
    slotd.tell(evil, 1.0, evil)
    for command in (("list",), ("status",), ("status", "notes"), ("history",), ("backups", "notes")):
        run = await slotctl(address, *command)
        assert run.code == 0
        assert "\x1b" not in run.out + run.err
        assert "\x07" not in run.out + run.err


async def test_history_and_backups_are_tables(slotd: Slotd, address: str) -> None:
    for count in (1, 2, 3):
        slotd.tell(f"m{count}", count, "updated")
    lines = (await slotctl(address, "history", "notes", "--limit", "2")).out.splitlines()
    assert lines[0].split() == ["TIME", "JOB", "EVENT", "MESSAGE"]
    assert [line.split()[-1] for line in lines[1:]] == ["m2", "m3"]
    rows = (await slotctl(address, "backups", "notes")).out.splitlines()
    assert [row.split()[0] for row in rows] == ["ID", "aside", "new", "old"]
    assert "25 h ago" in rows[-1]


async def test_no_app_at_all_is_told_with_what_to_do(slotd: Slotd, address: str) -> None:
    slotd.views.clear()
    assert "/etc/slotd/apps.d/" in (await slotctl(address, "list")).out
    assert (await slotctl(address, "list", "--json")).json == []


async def test_decisions_reach_the_daemon_and_are_confirmed(slotd: Slotd, address: str) -> None:
    assert "1.1 is approved" in (await slotctl(address, "approve", "notes", "1.1")).out
    assert slotd.views["notes"].approved == "1.1"
    assert "held (disk is failing)" in (await slotctl(address, "hold", "notes", "disk", "is", "failing")).out
    assert (slotd.views["notes"].held, slotd.views["notes"].hold_reason) == (True, "disk is failing")
    assert (await slotctl(address, "unhold", "notes", "--json")).json["held"] is False
    assert "mode auto" in (await slotctl(address, "mode", "notes", "auto")).out
    assert slotd.views["notes"].mode is Mode.AUTO


async def test_a_reason_in_any_language_arrives_whole(slotd: Slotd, address: str) -> None:
    run = await slotctl(address, "hold", "notes", "Größe prüfen, 日本")
    assert (run.code, slotd.views["notes"].hold_reason) == (0, "Größe prüfen, 日本")
    assert "Hold: Größe prüfen, 日本" in (await slotctl(address, "status", "notes")).out
