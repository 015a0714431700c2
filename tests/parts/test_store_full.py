"""A disk that is full to its last byte when slotd starts: with the room that it keeps there, it opens its state."""

from __future__ import annotations

import os
import signal
import subprocess
from functools import partial
from pathlib import Path

import pytest
from tests.parts.test_store_damage import fill, small_disk

from slotd.errors import Failed
from slotd.model import AppRecord
from slotd.recipes import space
from slotd.store import Store, open_store


def leave_state(path: Path, *, orderly: bool) -> None:
    """As another process leaves it: closed, or in the middle of its life."""
    child = os.fork()
    if child == 0:
        try:
            store = Store(path)
            store.save(AppRecord("notes", held=True))
            if orderly:
                store.close()
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert path.with_name(f"{path.name}-wal").exists() is not orderly


@pytest.mark.parametrize("orderly", [True, False], ids=["closed", "killed"])
def test_a_state_on_a_full_disk_is_opened_and_written_with_the_room_that_is_kept(tmp_path: Path, orderly: bool) -> None:
    with small_disk(tmp_path) as (at, loop):
        path = at / "state.db"
        space.take(at / "state.room", space.STATE_BYTES)
        leave_state(path, orderly=orderly)
        fill(at, loop)
        assert not space.has_room_for_state(at)
        assert space.make_room_for_state(at)
        assert space.has_room_for_state(at)
        store, aside = open_store(path, now=1.0)
        assert aside is None
        assert store.app("notes").held
        assert store.change_app("notes", approved="2.0").approved == "2.0"
        assert (at / "state.room").stat().st_size == space.STATE_BYTES - space.PIECE_BYTES
        store.close()


def test_who_opens_it_gives_room_until_it_opens(tmp_path: Path) -> None:
    with small_disk(tmp_path) as (at, loop):
        path = at / "state.db"
        space.take(at / "state.room", space.STATE_BYTES)
        leave_state(path, orderly=True)
        fill(at, loop)
        with pytest.raises(Failed, match=r"cannot open .*is there space"):
            open_store(path, now=1.0)
        store, aside = open_store(path, now=1.0, make_room=partial(space.make_room_for_state, at))
        assert (aside, store.app("notes").held) == (None, True)
        store.close()
        assert not list(at.glob("*.broken*"))


def test_what_an_app_has_for_its_way_back_is_given_last_and_piece_by_piece(tmp_path: Path) -> None:
    (tmp_path / "reserve").mkdir()
    kept = tmp_path / "reserve" / "notes"
    space.take(kept, space.PIECE_BYTES + 1)
    space.keep_for_state(tmp_path)
    own = tmp_path / "state.room"
    left = []
    while space.make_room_for_state(tmp_path):
        left.append(tuple(path.stat().st_size if path.exists() else 0 for path in (own, kept)))
    pieces, whole = space.STATE_BYTES // space.PIECE_BYTES, space.PIECE_BYTES + 1
    assert left == [*((space.PIECE_BYTES * n, whole) for n in reversed(range(pieces))), (0, 1), (0, 0)]
    assert [path.name for path in tmp_path.rglob("*")] == ["reserve"]


def test_a_disk_that_cannot_be_written_at_all_is_no_matter_of_room(tmp_path: Path) -> None:
    with small_disk(tmp_path) as (at, _):
        space.take(at / "state.room", space.STATE_BYTES)
        subprocess.run(["mount", "-o", "remount,ro", at], check=True)
        assert space.has_room_for_state(at)
        assert not space.make_room_for_state(at)
        assert (at / "state.room").stat().st_size == space.STATE_BYTES
