"""What makes a unit start its program from another directory, and what is left alone."""

from __future__ import annotations

import pytest

from slotd.core.unitfile import PLAIN_PATH, moved

OLD, NEW = "/opt/notes", "/var/lib/slotd/apps/notes/current"


def unit(*lines: str) -> str:
    return "\n".join(["[Unit]", "Description=runs /opt/notes", "[Service]", *lines, "[Install]", "WantedBy=x"])


def test_what_starts_from_the_directory_is_said_again_and_the_list_begins_anew() -> None:
    text = unit("ExecStart=/opt/notes/bin/notes --config /etc/notes.conf", "Restart=always")
    assert moved(text, OLD, NEW) == f"[Service]\nExecStart=\nExecStart={NEW}/bin/notes --config /etc/notes.conf\n"


def test_all_commands_of_a_list_are_said_again_also_those_that_lie_elsewhere() -> None:
    text = unit(
        "ExecStartPre=-/usr/bin/true", "ExecStartPre=+/opt/notes/bin/prepare \\", "  --quiet", "ExecStart=/bin/x"
    )
    assert moved(text, OLD, NEW).splitlines() == [
        "[Service]",
        "ExecStartPre=",
        "ExecStartPre=-/usr/bin/true",
        f"ExecStartPre=+{NEW}/bin/prepare    --quiet",
    ]


def test_a_drop_in_that_begins_a_list_anew_counts() -> None:
    text = unit("ExecStart=/opt/notes/a") + "\n[Service]\nExecStart=\nExecStart=/usr/bin/other\n"
    assert moved(text, OLD, NEW) == ""


def test_the_working_directory_and_the_environment_follow() -> None:
    text = unit("WorkingDirectory=/opt/notes", 'Environment="HOME=/opt/notes" LANG=C', "Environment=PORT=1")
    assert moved(text, OLD, NEW).splitlines() == [
        "[Service]",
        f"WorkingDirectory={NEW}",
        f'Environment="HOME={NEW}" LANG=C',
    ]


@pytest.mark.parametrize("path", ["/opt/notes-2/bin/x", "/srv/opt/notes/x", "/opt/notes.d/x", "/opt/notesx"])
def test_a_path_that_only_begins_or_ends_alike_stays(path: str) -> None:
    assert moved(unit(f"ExecStart={path}"), OLD, NEW) == ""


def test_data_in_the_directory_stay_where_they_are() -> None:
    text = unit("ExecStart=/opt/notes/bin/notes --data=/opt/notes/data --more /opt/notes/database")
    said = moved(text, OLD, NEW, ["/opt/notes/data"])
    assert said.splitlines()[-1] == f"ExecStart={NEW}/bin/notes --data=/opt/notes/data --more {NEW}/database"


@pytest.mark.parametrize("path", ["/opt/no tes", "/opt/%i", "/opt/$HOME", '/opt/"x', "relative", "/opt/x\n"])
def test_a_path_that_systemd_would_read_otherwise_is_not_plain(path: str) -> None:
    assert PLAIN_PATH.fullmatch(path) is None
